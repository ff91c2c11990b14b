/* SPDX-License-Identifier: Apache-2.0 */
#include "data/augment.h"

#include <math.h>
#include <string.h>

static const char *const axis_name[3] = {"depth", "height", "width"};

fb_status fb_augment_draw(const fb_rng *rng, uint32_t first_index, const char *subject, const int64_t shape[3],
                          const int64_t patch[3], fb_augmentation *out)
{
    for (int axis = 0; axis < 3; axis++) {
        const int64_t extent = shape[axis];
        if (patch[axis] < 1 || patch[axis] > extent)
            return FB_FAIL("%s: a patch of %lld voxels does not fit the volume's %s of %lld; change data.patch",
                           subject, (long long)patch[axis], axis_name[axis], (long long)extent);
    }
    for (uint32_t axis = 0; axis < 3; axis++) {
        const int64_t positions = shape[axis] - patch[axis] + 1;
        FB_ASSERT(positions <= UINT32_MAX);
        out->offset[axis] = fb_rng_below(rng, first_index + axis, (uint32_t)positions);
        out->flip[axis] = (int)fb_rng_below(rng, first_index + 3 + axis, 2);
    }
    out->scale = 1.0 + fb_rng_range(rng, first_index + 6, -0.1, 0.1);
    out->shift = fb_rng_range(rng, first_index + 7, -0.1, 0.1);
    return FB_OK;
}

/* Coordinate `at` of the patch along an axis, in the volume. */
static int64_t source(const fb_augmentation *a, const int64_t patch[3], int axis, int64_t at)
{
    return a->offset[axis] + (a->flip[axis] ? patch[axis] - 1 - at : at);
}

/* A row of the patch, whose voxels begin at `from` and follow each other by `step`: x gets raw intensities, target
 * region bits. */
static void crop_row(const float *image, const uint8_t *label, int64_t from, int64_t step, int64_t count, float *x,
                     uint8_t *target)
{
    for (int64_t w = 0; w < count; w++) {
        memcpy(x + w * FB_MODALITIES, image + (from + step * w) * FB_MODALITIES, FB_MODALITIES * sizeof *x);
        if (target)
            target[w] = fb_region_bits(label[from + step * w]);
    }
}

/* How many voxels of a row, from its beginning, are inside the volume; a flipped one must be whole. */
static int64_t inside(const fb_augmentation *a, const int64_t shape[3], const int64_t patch[3])
{
    const int64_t room = shape[2] - a->offset[2];
    FB_ASSERT(!a->flip[2] || patch[2] <= room);
    return patch[2] < room ? patch[2] : room;
}

static void crop(const float *image, const uint8_t *label, const int64_t shape[3], const int64_t patch[3],
                 const fb_augmentation *a, float *x, uint8_t *target)
{
    const int64_t step = a->flip[2] ? -1 : 1, count = inside(a, shape, patch);
    for (int64_t row = 0; row < patch[0] * patch[1]; row++, x += patch[2] * FB_MODALITIES) {
        const int64_t d = source(a, patch, 0, row / patch[1]), h = source(a, patch, 1, row % patch[1]);
        uint8_t *labels = target ? target + row * patch[2] : NULL;
        memset(x, 0, (size_t)(patch[2] * FB_MODALITIES) * sizeof *x);
        if (labels)
            memset(labels, 0, (size_t)patch[2]);
        if (d < shape[0] && h < shape[1])
            crop_row(image, label, (d * shape[1] + h) * shape[2] + source(a, patch, 2, 0), step, count, x, labels);
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

void fb_augment_apply(const float *image, const uint8_t *label, const int64_t shape[3], const int64_t patch[3],
                      const fb_augmentation *augmentation, float *x, uint8_t *target)
{
    const int64_t voxels = fb_volume_voxels(patch);
    crop(image, label, shape, patch, augmentation, x, target);
    const intensity stats = measure(voxels, x);
    standardise(voxels, x, &stats, augmentation->scale, augmentation->shift);
}

void fb_sample_order(const fb_rng *rng, int64_t count, uint32_t *order)
{
    FB_ASSERT(count >= 0 && count <= UINT32_MAX);
    fb_rng_permutation(rng, (uint32_t)count, order);
}
