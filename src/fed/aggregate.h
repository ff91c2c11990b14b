/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's average, exact: updates are added as integers in fixed point and divided once, so that the order of
 * arrival and the assignment of hospitals to ranks cannot change a bit, and H identical hospitals equal one.
 *
 *   w <- w + sum_k weight_k x_k / sum_k weight_k
 *
 * x_k is a float32 change (rounded to 2^-fraction_bits) or steps_k * grid * 2^g; what a hospital does not share counts
 * as no change. Sums are 128-bit: noise of small budgets times N_k^2 exceeds 64 bits.
 */
#pragma once

#include "privacy/update.h"

enum { FB_WEIGHT_BITS = 40, FB_MOMENT_BITS = 80 }; /* of weights; of Adam's moments, which are much smaller */

typedef struct fb_aggregate fb_aggregate;

fb_status fb_aggregate_create(int64_t n, int fraction_bits, fb_aggregate **out) FB_MUST_USE;
int64_t fb_aggregate_bytes(int64_t n); /* what it holds */
void fb_aggregate_destroy(fb_aggregate **aggregate);
void fb_aggregate_reset(fb_aggregate *aggregate);

/* Adds one hospital's update (n must match). weight >= 1, steps >= 1, both below 2^24. Errors: a value outside the
 * range of the fixed point (index and value named). */
fb_status fb_aggregate_add(fb_aggregate *aggregate, const fb_update *update, int64_t weight, int64_t steps) FB_MUST_USE;

/* Adds the sum of the grid values of so many hospitals that weigh 1 each. steps: by which each of them was divided. */
fb_status fb_aggregate_add_sum(fb_aggregate *aggregate, const fb_update *sum, int64_t hospitals,
                               int64_t steps) FB_MUST_USE;

/* Adds the average to w (n). Errors: nothing was added. */
fb_status fb_aggregate_apply(const fb_aggregate *aggregate, float *w) FB_MUST_USE;
