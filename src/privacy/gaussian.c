/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/gaussian.h"

#include "privacy/grid.h"
#include "privacy/quantise.h"

#include <math.h>
#include <stdlib.h>

typedef fb_wide wide;

enum { FACTOR_BITS = FB_GAUSSIAN_FACTOR_BITS, ROOT_BITS = 63 };

static const int64_t VALUE_MAX = INT64_C(1) << 46;

int fb_gaussian_grid_log2(double clip_norm)
{
    int exponent = 0;
    (void)frexp(clip_norm, &exponent); /* clip_norm = [0.5, 1) * 2^exponent */
    return exponent - 30 > FB_GRID_LOG2_MIN ? exponent - 30 : FB_GRID_LOG2_MIN;
}

int64_t fb_gaussian_bound(const fb_release_spec *spec)
{
    const double clip = ldexp(spec->clip, -fb_gaussian_grid_log2(spec->clip_norm));
    return clip < (double)VALUE_MAX ? (int64_t)clip : VALUE_MAX;
}

/* The functions with "omp for" are shared by the threads of the region that calls them, or done by the only one: a few
 * coordinates, an audit's, are done without OpenMP, whose regions cost system calls even with a single thread. */
static void add_squares(int64_t count, const int64_t *value, wide *sum)
{
    wide part = 0;
#pragma omp for nowait
    for (int64_t k = 0; k < count; k++)
        part += (wide)((__extension__(__int128) value[k]) * value[k]);
#pragma omp critical(fb_gaussian_sum)
    *sum += part; /* of integers: in any order */
}

static wide sum_of_squares(int64_t count, const int64_t *value)
{
    wide sum = 0;
    if (count <= FB_GRID_ALONE) {
        add_squares(count, value, &sum);
    } else {
#pragma omp parallel
        add_squares(count, value, &sum);
    }
    return sum;
}

/* The least integer whose square is at least x < 2^126. */
static uint64_t root_up(wide x)
{
    uint64_t root = 0;
    for (int bit = ROOT_BITS - 1; bit >= 0; bit--) {
        const uint64_t more = root | UINT64_C(1) << bit;
        root = (wide)more * more <= x ? more : root;
    }
    return root + ((wide)root * root < x);
}

/* Toward zero, by a factor in units of 2^-FACTOR_BITS. */
static void scale(uint64_t factor, int64_t count, int64_t *value)
{
#pragma omp for nowait
    for (int64_t k = 0; k < count; k++) {
        const int64_t magnitude = (int64_t)((wide)llabs(value[k]) * factor >> FACTOR_BITS);
        value[k] = value[k] < 0 ? -magnitude : magnitude;
    }
}

uint64_t fb_gaussian_factor(int64_t limit, fb_wide square)
{
    FB_ASSERT(0 < limit && limit <= INT64_C(1) << 30);
    if (square <= (wide)limit * (wide)limit)
        return FB_GAUSSIAN_WITHIN;
    return (uint64_t)(((wide)limit << FACTOR_BITS) / root_up(square));
}

double fb_gaussian_clip_norm(int64_t limit, int64_t count, int64_t *value)
{
    const uint64_t factor = fb_gaussian_factor(limit, sum_of_squares(count, value));
    if (factor == FB_GAUSSIAN_WITHIN)
        return 1.0;
    if (count <= FB_GRID_ALONE) {
        scale(factor, count, value);
    } else {
#pragma omp parallel
        scale(factor, count, value);
    }
    FB_ASSERT(fb_gaussian_factor(limit, sum_of_squares(count, value)) == FB_GAUSSIAN_WITHIN);
    return ldexp((double)factor, -FACTOR_BITS);
}

static void quantise(const fb_quantiser *quantiser, const float *dw, const fb_update *out, int64_t *clipped)
{
    int64_t beyond = 0, non_finite = 0;
#pragma omp for nowait
    for (int64_t k = 0; k < out->count; k++)
        out->grid[k] = fb_quantise(quantiser, dw[out->index ? out->index[k] : k], &beyond, &non_finite);
#pragma omp atomic
    *clipped += beyond;
}

fb_quantiser fb_gaussian_quantiser(const fb_release_spec *spec, const fb_budget *budget, int64_t steps)
{
    const int64_t bound = fb_gaussian_bound(spec);
    const double outside = fmin(ldexp(spec->clip, -budget->grid_log2), (double)bound + 1.0);
    return (fb_quantiser){(double)steps, ldexp(1.0, -budget->grid_log2), outside, bound};
}

int64_t fb_gaussian_values(const fb_release_spec *spec, const fb_budget *budget, const fb_release_input *in,
                           fb_update *out, double *norm_scale)
{
    const fb_quantiser quantiser = fb_gaussian_quantiser(spec, budget, in->steps);
    int64_t clipped = 0;
    if (out->count <= FB_GRID_ALONE) {
        quantise(&quantiser, in->dw, out, &clipped);
    } else {
#pragma omp parallel
        quantise(&quantiser, in->dw, out, &clipped);
    }
    *norm_scale = fb_gaussian_clip_norm(budget->clip_norm_grid, out->count, out->grid);
    return clipped;
}
