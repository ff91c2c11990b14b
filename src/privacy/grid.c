/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/grid.h"

#include <math.h>

int fb_grid_log2(double clip)
{
    int exponent = 0;
    (void)frexp(clip, &exponent); /* clip = [0.5, 1) * 2^exponent */
    return exponent - 20 > FB_GRID_LOG2_MIN ? exponent - 20 : FB_GRID_LOG2_MIN;
}

int64_t fb_grid_floor(double x, int grid_log2)
{
    const double scaled = floor(ldexp(x, -grid_log2));
    FB_ASSERT(scaled >= 0.0 && scaled < 0x1p62);
    return (int64_t)scaled;
}

void fb_grid_quantise(const fb_budget *budget, double clip, int64_t steps, const float *dw, int32_t *grid,
                      fb_release_report *report)
{
    const int grid_log2 = fb_grid_log2(clip);
    const double per_grid_step = ldexp(1.0, -grid_log2); /* a power of two: exact */
    const double clip_steps = ldexp(clip, -grid_log2);
    const int32_t limit = (int32_t)budget->clip_grid;
    int64_t clipped = 0, non_finite = 0;
    for (int64_t i = 0; i < budget->n; i++) {
        const int finite = isfinite(dw[i]);
        const double u = finite ? (double)dw[i] / (double)steps * per_grid_step : 0.0;
        const int outside = fabs(u) > clip_steps;
        grid[i] = outside ? (u > 0.0 ? limit : -limit) : (int32_t)u;
        clipped += outside;
        non_finite += !finite;
    }
    report->clipped = clipped;
    report->non_finite = non_finite;
}
