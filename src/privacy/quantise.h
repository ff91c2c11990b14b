/* SPDX-License-Identifier: Apache-2.0
 *
 * One coordinate to the integer grid of a release, on processor and graphics processor: a division of doubles, a
 * product by a power of two and a truncation, each of which IEEE 754 gives one result.
 */
#pragma once

#include "core/hd.h"

typedef struct fb_quantiser {
    double steps;         /* of training, by which the change is divided */
    double per_grid_step; /* 2^-grid_log2 */
    double outside;       /* in grid steps: beyond it a value is clipped */
    int64_t limit;        /* what a clipped value becomes */
} fb_quantiser;

/* trunc(dw / steps / 2^grid_log2) clipped to +-limit; what is not finite becomes 0. Adds 1 to what applies. */
FB_HD static inline int64_t fb_quantise(const fb_quantiser *q, float dw, int64_t *clipped, int64_t *non_finite)
{
    const double change = (double)dw;
    const int finite = change - change == 0.0;
    const double u = finite ? change / q->steps * q->per_grid_step : 0.0;
    const int beyond = u > q->outside || u < -q->outside;
    *clipped += beyond;
    *non_finite += !finite;
    return beyond ? (u > 0.0 ? q->limit : -q->limit) : (int64_t)u;
}
