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

fb_quantiser fb_grid_quantiser(const fb_budget *budget, double clip, int64_t steps)
{
    const int grid_log2 = fb_grid_log2(clip);
    return (fb_quantiser){(double)steps, ldexp(1.0, -grid_log2), ldexp(clip, -grid_log2), budget->clip_grid};
}

static void quantise(const fb_quantiser *quantiser, int64_t from, int64_t to, const float *dw, int32_t *grid,
                     int64_t *clipped, int64_t *non_finite)
{
    int64_t beyond = 0, lost = 0;
    for (int64_t i = from; i < to; i++)
        grid[i] = (int32_t)fb_quantise(quantiser, dw[i], &beyond, &lost);
    *clipped += beyond;
    *non_finite += lost;
}

/* The few of an audit's update are done without OpenMP, whose regions cost system calls even with a single thread. */
void fb_grid_quantise(const fb_budget *budget, double clip, int64_t steps, const float *dw, int32_t *grid,
                      fb_release_report *report)
{
    const fb_quantiser quantiser = fb_grid_quantiser(budget, clip, steps);
    const int64_t n = budget->n;
    int64_t clipped = 0, non_finite = 0;
    if (n <= FB_GRID_ALONE) {
        quantise(&quantiser, 0, n, dw, grid, &clipped, &non_finite);
    } else {
#pragma omp parallel for reduction(+ : clipped, non_finite)
        for (int64_t from = 0; from < n; from += FB_GRID_ALONE)
            quantise(&quantiser, from, from + FB_GRID_ALONE < n ? from + FB_GRID_ALONE : n, dw, grid, &clipped,
                     &non_finite);
    }
    report->clipped = clipped;
    report->non_finite = non_finite;
}
