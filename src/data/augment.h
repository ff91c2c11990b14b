/* SPDX-License-Identifier: Apache-2.0
 *
 * From a case to a training sample, as the reference implementation does it with MONAI: random crop at a uniform
 * offset, flip of each axis with probability 1/2, z-score of each modality over the non-zero voxels of the crop
 * (population standard deviation, 1 where it is 0; zeros stay 0), times 1 + U(-0.1, 0.1), plus U(-0.1, 0.1), one number
 * for all modalities and every voxel, background included.
 */
#pragma once

#include "core/rng.h"
#include "data/volume.h"

/* What was drawn for a sample: the tests' view, and the order of draws. */
typedef struct fb_augmentation {
    int64_t offset[3];   /* of the crop, D, H, W */
    int flip[3];         /* 1: axis reversed */
    double scale, shift; /* factor (about 1) and offset (about 0) of the intensities */
} fb_augmentation;

/* Draws for one sample of a volume of this shape: indices first_index..first_index+7 of `rng`. Errors: patch larger
 * than the volume (subject named). */
fb_status fb_augment_draw(const fb_rng *rng, uint32_t first_index, const char *subject, const int64_t shape[3],
                          const int64_t patch[3], fb_augmentation *out) FB_MUST_USE;

/* Applies it to image (shape, FB_MODALITIES) and label (shape): x (patch, FB_MODALITIES) and target (patch) as region
 * bits are overwritten; target may be NULL. A voxel of the patch beyond the shape is background, 0 in both. */
void fb_augment_apply(const float *image, const uint8_t *label, const int64_t shape[3], const int64_t patch[3],
                      const fb_augmentation *augmentation, float *x, uint8_t *target);

/* The order of `count` cases in an epoch: a permutation, each case exactly once. rng gives round, epoch and hospital.
 */
void fb_sample_order(const fb_rng *rng, int64_t count, uint32_t *order);

/* The whole volume as it is, z-scored: what evaluation looks at. */
static inline fb_augmentation fb_augment_nothing(void)
{
    const fb_augmentation nothing = {{0, 0, 0}, {0, 0, 0}, 1.0, 0.0};
    return nothing;
}
