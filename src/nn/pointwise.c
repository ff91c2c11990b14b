/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/pointwise.h"

#include "nn/chunk.h"
#include "nn/params.h"

void fb_scale_channels(int64_t voxels, int64_t channels, const fb_real *scale, fb_real *x)
{
#pragma omp parallel for
    for (int64_t v = 0; v < voxels; v++)
        for (int64_t c = 0; c < channels; c++)
            x[v * channels + c] *= scale[c];
}

void fb_bias_add(int64_t voxels, const fb_real *bias, fb_real *y)
{
#pragma omp parallel for
    for (int64_t v = 0; v < voxels; v++)
        for (int r = 0; r < FB_REGIONS; r++)
            y[v * FB_REGIONS + r] += bias[r];
}

void fb_bias_bwd(int64_t voxels, const fb_real *dy, fb_real *dbias)
{
    double part[FB_CHUNKS][FB_REGIONS] = {{0.0}};
#pragma omp parallel for
    for (int chunk = 0; chunk < FB_CHUNKS; chunk++) {
        double sum[FB_REGIONS] = {0.0};
        for (int64_t v = fb_chunk_begin(voxels, chunk); v < fb_chunk_begin(voxels, chunk + 1); v++)
            for (int r = 0; r < FB_REGIONS; r++)
                sum[r] += (double)dy[v * FB_REGIONS + r];
        for (int r = 0; r < FB_REGIONS; r++)
            part[chunk][r] = sum[r];
    }
    for (int r = 0; r < FB_REGIONS; r++) {
        double sum = 0.0;
        for (int chunk = 0; chunk < FB_CHUNKS; chunk++)
            sum += part[chunk][r];
        dbias[r] = (fb_real)sum;
    }
}
