/* SPDX-License-Identifier: Apache-2.0
 *
 * The integer grid of a release: value = grid * 2^grid_log2, with a public exponent that depends on the clip alone, so
 * that what can be sent does not depend on data.
 */
#pragma once

#include "privacy/mechanism.h"
#include "privacy/quantise.h"

enum {
    FB_GRID_LOG2_MIN = -40,
    FB_GRID_ALONE = 4096 /* coordinates for which one thread is enough */
};

/* g with clip / 2^g in [2^19, 2^20), but at least FB_GRID_LOG2_MIN. clip is finite and above 0. */
int fb_grid_log2(double clip);

/* floor(x / 2^grid_log2) for x >= 0; the clip on the grid is that of the clip. x / 2^grid_log2 must be below 2^62. */
int64_t fb_grid_floor(double x, int grid_log2);

/* What takes a change onto the grid: see below. */
fb_quantiser fb_grid_quantiser(const fb_budget *budget, double clip, int64_t steps);

/* q = trunc(u / 2^g), g = fb_grid_log2(clip), u = dw / steps clipped to +-clip, non-finite dw -> 0; |q| <=
 * budget->clip_grid < 2^20. dw (n), grid (n). Counts into report->clipped and non_finite. */
void fb_grid_quantise(const fb_budget *budget, double clip, int64_t steps, const float *dw, int32_t *grid,
                      fb_release_report *report);
