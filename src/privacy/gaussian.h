/* SPDX-License-Identifier: Apache-2.0
 *
 * The values of a release with Gaussian noise: integers on a fine grid whose L2 norm is at most clip_norm_grid,
 * whatever dw is, so that replacing a hospital's data changes them by at most 2 clip_norm_grid in L2 norm.
 *
 * Grid: clip_norm / 2^g in [2^29, 2^30), but g is at least FB_GRID_LOG2_MIN: the noise is wide enough in grid steps to
 * be close to a continuous Gaussian (accountant.h, to_continuous). A vector beyond the norm is scaled by the integer
 * factor floor(2^62 C / r) / 2^62 <= C / r, r the least integer not below its norm, and every coordinate rounded toward
 * zero: neither can raise the norm above C. It is checked again.
 */
#pragma once

#include "privacy/fixed.h"
#include "privacy/mechanism.h"
#include "privacy/quantise.h"

#define FB_GAUSSIAN_CLIP_MIN 0x1p-20

int fb_gaussian_grid_log2(double clip_norm);

/* The largest |value| before the clip of the norm: privacy.clip on the grid, at most 2^46, where 2^32 squares still fit
 * in 128 bits. */
int64_t fb_gaussian_bound(const fb_release_spec *spec);

/* What takes a change onto the grid, bounded. */
fb_quantiser fb_gaussian_quantiser(const fb_release_spec *spec, const fb_budget *budget, int64_t steps);

enum { FB_GAUSSIAN_FACTOR_BITS = 62 };
#define FB_GAUSSIAN_WITHIN UINT64_MAX

/* The factor, in units of 2^-62, by which a vector of this sum of squares is scaled; FB_GAUSSIAN_WITHIN: by none. */
uint64_t fb_gaussian_factor(int64_t limit, fb_wide square);

/* value (count) becomes a vector of L2 norm at most `limit`, 0 < limit <= 2^30. |value| <= 2^46. Returns the factor; 1:
 * it was within. */
double fb_gaussian_clip_norm(int64_t limit, int64_t count, int64_t *value);

/* Fills out->grid for the chosen coordinates. Returns how many the bound has clipped. */
int64_t fb_gaussian_values(const fb_release_spec *spec, const fb_budget *budget, const fb_release_input *in,
                           fb_update *out, double *norm_scale);
