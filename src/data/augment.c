/* SPDX-License-Identifier: Apache-2.0 */
#include "data/augment.h"

#include <math.h>
#include <string.h>

static const char *const axis_name[3] = {"depth", "height", "width"};

fb_status fb_augment_draw(const fb_rng *rng, uint32_t first_index, const fb_volume *volume, const int64_t patch[3],
                          fb_augmentation *out)
{
    for (int axis = 0; axis < 3; axis++) {
        const int64_t extent = volume->shape[axis];
        if (patch[axis] < 1 || patch[axis] > extent)
            return FB_FAIL("%s: a patch of %lld voxels does not fit the volume's %s of %lld; change data.patch",
                           volume->subject, (long long)patch[axis], axis_name[axis], (long long)extent);
    }
    for (uint32_t axis = 0; axis < 3; axis++) {
        const int64_t positions = volume->shape[axis] - patch[axis] + 1;
        FB_ASSERT(positions <= UINT32_MAX);
        out->offset[axis] = fb_rng_below(rng, first_index + axis, (uint32_t)positions);
        out->flip[axis] = (int)fb_rng_below(rng, first_index + 3 + axis, 2);
    }
    out->scale = 1.0 + fb_rng_range(rng, first_index + 6, -0.1, 0.1);
    out->shift = fb_rng_range(rng, first_index + 7, -0.1, 0.1);
    return FB_OK;
}

/* Copies the cropped and flipped voxels: x gets raw intensities, target region bits. */
static void crop(const fb_volume *volume, const int64_t patch[3], const fb_augmentation *a, float *x, uint8_t *target)
{
    const int64_t step = a->flip[2] ? -1 : 1;
    for (int64_t d = 0; d < patch[0]; d++) {
        const int64_t from_d = a->offset[0] + (a->flip[0] ? patch[0] - 1 - d : d);
        for (int64_t h = 0; h < patch[1]; h++) {
            const int64_t from_h = a->offset[1] + (a->flip[1] ? patch[1] - 1 - h : h);
            const int64_t from_w = a->offset[2] + (a->flip[2] ? patch[2] - 1 : 0);
            const int64_t from = (from_d * volume->shape[1] + from_h) * volume->shape[2] + from_w;
            const int64_t to = (d * patch[1] + h) * patch[2];
            for (int64_t w = 0; w < patch[2]; w++) {
                const float *voxel = volume->image + (from + step * w) * FB_MODALITIES;
                memcpy(x + (to + w) * FB_MODALITIES, voxel, FB_MODALITIES * sizeof *x);
                target[to + w] = fb_region_bits(volume->label[from + step * w]);
            }
        }
    }
}

/* Mean of each modality over its non-zero voxels and the reciprocal of the population standard deviation. */
typedef struct intensity {
    double mean[FB_MODALITIES], inverse_std[FB_MODALITIES];
} intensity;

/* Two passes, in double, in voxel order: the same bits whatever the threads. The modalities are the vector lanes. */
static intensity measure(int64_t voxels, const float *x)
{
    intensity out;
    double sum[FB_MODALITIES] = {0.0}, squares[FB_MODALITIES] = {0.0}, count[FB_MODALITIES] = {0.0};
    for (int64_t v = 0; v < voxels; v++) {
        for (int m = 0; m < FB_MODALITIES; m++) {
            const double value = (double)x[v * FB_MODALITIES + m];
            sum[m] += value;
            count[m] += value != 0.0 ? 1.0 : 0.0;
        }
    }
    for (int m = 0; m < FB_MODALITIES; m++)
        out.mean[m] = count[m] > 0.0 ? sum[m] / count[m] : 0.0;
    for (int64_t v = 0; v < voxels; v++) {
        for (int m = 0; m < FB_MODALITIES; m++) {
            const double value = (double)x[v * FB_MODALITIES + m];
            const double distance = value != 0.0 ? value - out.mean[m] : 0.0;
            squares[m] += distance * distance;
        }
    }
    for (int m = 0; m < FB_MODALITIES; m++) {
        const double std = count[m] > 0.0 ? sqrt(squares[m] / count[m]) : 0.0;
        out.inverse_std[m] = std > 0.0 ? 1.0 / std : 1.0;
    }
    return out;
}

/* x = z * scale + shift, where z is the z-score of x, or 0 where x is 0. */
static void standardise(int64_t voxels, float *x, const intensity *stats, double scale, double shift)
{
    const intensity s = *stats;
    for (int64_t v = 0; v < voxels; v++) {
        for (int m = 0; m < FB_MODALITIES; m++) {
            const double value = (double)x[v * FB_MODALITIES + m];
            const double z = value != 0.0 ? (value - s.mean[m]) * s.inverse_std[m] : 0.0;
            x[v * FB_MODALITIES + m] = (float)(z * scale + shift);
        }
    }
}

void fb_augment_apply(const fb_volume *volume, const int64_t patch[3], const fb_augmentation *augmentation, float *x,
                      uint8_t *target)
{
    const int64_t voxels = fb_volume_voxels(patch);
    crop(volume, patch, augmentation, x, target);
    const intensity stats = measure(voxels, x);
    standardise(voxels, x, &stats, augmentation->scale, augmentation->shift);
}

void fb_sample_order(const fb_rng *rng, int64_t count, uint32_t *order)
{
    FB_ASSERT(count >= 0 && count <= UINT32_MAX);
    fb_rng_permutation(rng, (uint32_t)count, order);
}

void fb_volume_normalise(const fb_volume *volume, const int64_t padded[3], float *x)
{
    const int64_t *shape = volume->shape;
    FB_ASSERT(padded[0] >= shape[0] && padded[1] >= shape[1] && padded[2] >= shape[2]);
    const intensity stats = measure(fb_volume_voxels(shape), volume->image);
    memset(x, 0, (size_t)fb_volume_voxels(padded) * FB_MODALITIES * sizeof *x);
    for (int64_t d = 0; d < shape[0]; d++) {
        for (int64_t h = 0; h < shape[1]; h++) {
            const float *from = volume->image + (d * shape[1] + h) * shape[2] * FB_MODALITIES;
            float *to = x + (d * padded[1] + h) * padded[2] * FB_MODALITIES;
            memcpy(to, from, (size_t)(shape[2] * FB_MODALITIES) * sizeof *to);
            standardise(shape[2], to, &stats, 1.0, 0.0);
        }
    }
}
