/* SPDX-License-Identifier: Apache-2.0
 *
 * Dice on voxel counts. Counts are integers, so sums over windows, cases and ranks are exact in any order.
 */
#pragma once

#include "nn/params.h"

typedef struct fb_counts {
    int64_t both[FB_REGIONS];      /* predicted and true voxels */
    int64_t predicted[FB_REGIONS]; /* predicted voxels */
    int64_t truth[FB_REGIONS];     /* true voxels */
} fb_counts;

/* Counts one case: logits (voxels, FB_REGIONS), predicted where the logit is > 0 (probability > 1/2); target (voxels)
 * as region bits. */
void fb_count_case(int64_t voxels, const float *logits, const uint8_t *target, fb_counts *counts);

/* Dice of one region of one case, 2 both / (predicted + truth); NaN when the truth is empty: such regions are counted
 * apart, never averaged in (the reference implementation's rule; BraTS itself scores them 1 or 0). */
double fb_dice(const fb_counts *counts, int region);

/* Over cases (count): mean Dice of each region over the cases where the region exists -> mean[r], the number of those
 * cases -> valid[r], and the mean over all valid (case, region) pairs, which is returned. NaN where there is none. */
double fb_dice_mean(int64_t count, const fb_counts *cases, double mean[FB_REGIONS], int64_t valid[FB_REGIONS]);
