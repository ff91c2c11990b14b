/* SPDX-License-Identifier: Apache-2.0
 *
 * Trilinear upsampling, forward and backward, and addition. See nn/kernels.h.
 */
#include "nn/kernels.h"

#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Along an axis output 2i is x[i-1]/4 + 3 x[i]/4 and output 2i+1 is 3 x[i]/4 + x[i+1]/4, where x[-1] = x[0] and
 * x[n] = x[n-1]. Transposed, dx[i] is dy[2i-1]/4 + 3 dy[2i]/4 + 3 dy[2i+1]/4 + dy[2i+2]/4, where again dy[-1] = dy[0]
 * and dy[2n] = dy[2n-1]. Both blend rows over the first two axes into a tile, then voxels of the tile along the third.
 */

enum { TILE = 4096 }; /* elements of a tile: with what is read and written it stays in the L1 cache */

static int64_t clamp(int64_t value, int64_t end)
{
    return value < 0 ? 0 : value < end ? value : end - 1;
}

/* tile += weighted sum of 4 rows */
static void blend(int64_t count, const fb_real *const rows[4], const fb_real weights[4], fb_real *restrict tile)
{
    const fb_real *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
    const fb_real w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3];
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        tile[i] += (w0 * r0[i] + w1 * r1[i]) + (w2 * r2[i] + w3 * r3[i]);
}

/* A stretch of a row that is held in a tile: voxels first..end-1 of a row of `extent`, of which those outside the row
 * repeat its ends. */
typedef struct stretch {
    int64_t first, end, extent, channels;
} stretch;

static int64_t stretch_start(const stretch *s) /* element of the row where blending starts */
{
    return clamp(s->first, s->extent) * s->channels;
}

static void zero_tile(const stretch *s, fb_real *tile)
{
    memset(tile, 0, (size_t)((s->end - s->first) * s->channels) * sizeof *tile);
}

/* Blends `rows` (pointers to voxel 0) into the voxels of the tile that lie inside the row. */
static void blend_stretch(const stretch *s, const fb_real *const rows[4], const fb_real weights[4], fb_real *tile)
{
    const int64_t start = stretch_start(s), stop = least(s->end, s->extent) * s->channels;
    const fb_real *const shifted[4] = {rows[0] + start, rows[1] + start, rows[2] + start, rows[3] + start};
    blend(stop - start, shifted, weights, tile + start - s->first * s->channels);
}

static void repeat_ends(const stretch *s, fb_real *tile)
{
    const size_t voxel_bytes = (size_t)s->channels * sizeof *tile;
    fb_real *last = tile + (s->end - 1 - s->first) * s->channels;
    if (s->first < 0)
        memcpy(tile, tile + s->channels, voxel_bytes);
    if (s->end > s->extent)
        memcpy(last, last - s->channels, voxel_bytes);
}

/* Two outputs from each of `count` inputs; tile starts one voxel before. skip may be y. */
static inline void interpolate(int64_t count, int64_t channels, const fb_real *restrict tile, const fb_real *skip,
                               fb_real *y)
{
    const fb_real near = (fb_real)0.75, far = (fb_real)0.25;
    for (int64_t v = 0; v < count; v++) {
        const fb_real *t = tile + (v + 1) * channels;
        const int64_t even = 2 * v * channels, odd = even + channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            y[even + c] = far * t[c - channels] + near * t[c] + skip[even + c];
            y[odd + c] = near * t[c] + far * t[c + channels] + skip[odd + c];
        }
    }
}

static void interpolate_any(int64_t count, int64_t channels, const fb_real *tile, const fb_real *skip, fb_real *y)
{
    if (channels == 8)
        interpolate(count, 8, tile, skip, y);
    else if (channels == 16)
        interpolate(count, 16, tile, skip, y);
    else
        interpolate(count, channels, tile, skip, y);
}

/* One output from every two of the tile's voxels, which start at output voxel 2 * 0 - 1. */
static inline void gather(int64_t count, int64_t channels, const fb_real *restrict tile, fb_real *restrict dx)
{
    const fb_real near = (fb_real)0.75, far = (fb_real)0.25;
    for (int64_t v = 0; v < count; v++) {
        const fb_real *t = tile + 2 * v * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; c++)
            dx[v * channels + c] = far * (t[c] + t[c + 3 * channels]) + near * (t[c + channels] + t[c + 2 * channels]);
    }
}

static void gather_any(int64_t count, int64_t channels, const fb_real *tile, fb_real *dx)
{
    if (channels == 8)
        gather(count, 8, tile, dx);
    else if (channels == 16)
        gather(count, 16, tile, dx);
    else
        gather(count, channels, tile, dx);
}

/* One output row, at (z, y) of (2D, 2H). */
static void upsample_row(const int64_t in[3], int64_t channels, int64_t z, int64_t y, const fb_real *x,
                         const fb_real *skip, fb_real *out)
{
    const int64_t pitch = in[2] * channels, step = TILE / channels - 2;
    const int64_t zs[2] = {z / 2, clamp(z % 2 ? z / 2 + 1 : z / 2 - 1, in[0])};
    const int64_t ys[2] = {y / 2, clamp(y % 2 ? y / 2 + 1 : y / 2 - 1, in[1])};
    const fb_real *const rows[4] = {x + (zs[0] * in[1] + ys[0]) * pitch, x + (zs[0] * in[1] + ys[1]) * pitch,
                                    x + (zs[1] * in[1] + ys[0]) * pitch, x + (zs[1] * in[1] + ys[1]) * pitch};
    const fb_real weights[4] = {(fb_real)0.5625, (fb_real)0.1875, (fb_real)0.1875, (fb_real)0.0625};
    fb_real tile[TILE];
    for (int64_t v = 0; v < in[2]; v += step) {
        const int64_t count = least(step, in[2] - v);
        const stretch s = {v - 1, v + count + 1, in[2], channels};
        zero_tile(&s, tile);
        blend_stretch(&s, rows, weights, tile);
        repeat_ends(&s, tile);
        interpolate_any(count, channels, tile, skip + 2 * v * channels, out + 2 * v * channels);
    }
}

void fb_kernels_upsample_add_fwd(const int64_t in[3], int64_t channels, const fb_real *x, const fb_real *skip,
                                 fb_real *y)
{
    FB_ASSERT(channels > 0 && channels <= FB_KERNELS_MAX_CHANNELS);
    const int64_t out_pitch = 2 * in[2] * channels;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < 4 * in[0] * in[1]; row++)
        upsample_row(in, channels, row / (2 * in[1]), row % (2 * in[1]), x, skip + row * out_pitch,
                     y + row * out_pitch);
}

/* One row of the input's gradient, at (z, y) of (D, H). */
static void upsample_bwd_row(const int64_t in[3], int64_t channels, int64_t z, int64_t y, const fb_real *dy,
                             fb_real *dx)
{
    const int64_t pitch = 2 * in[2] * channels, step = (TILE / channels - 2) / 2;
    const fb_real axis_weights[4] = {(fb_real)0.25, (fb_real)0.75, (fb_real)0.75, (fb_real)0.25};
    fb_real tile[TILE];
    for (int64_t v = 0; v < in[2]; v += step) {
        const int64_t count = least(step, in[2] - v);
        const stretch s = {2 * v - 1, 2 * (v + count) + 1, 2 * in[2], channels};
        zero_tile(&s, tile);
        for (int a = 0; a < 4; a++) {
            const fb_real *plane = dy + clamp(2 * z - 1 + a, 2 * in[0]) * 2 * in[1] * pitch, *rows[4];
            fb_real weights[4];
            for (int b = 0; b < 4; b++) {
                rows[b] = plane + clamp(2 * y - 1 + b, 2 * in[1]) * pitch;
                weights[b] = axis_weights[a] * axis_weights[b];
            }
            blend_stretch(&s, rows, weights, tile);
        }
        repeat_ends(&s, tile);
        gather_any(count, channels, tile, dx + v * channels);
    }
}

void fb_kernels_upsample_bwd(const int64_t in[3], int64_t channels, const fb_real *dy, fb_real *dx)
{
    FB_ASSERT(channels > 0 && channels <= FB_KERNELS_MAX_CHANNELS);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < in[0] * in[1]; row++)
        upsample_bwd_row(in, channels, row / in[1], row % in[1], dy, dx + row * in[2] * channels);
}

void fb_kernels_add(int64_t count, const fb_real *a, const fb_real *b, fb_real *y)
{
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}
