/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/gaussian.h"

#include "privacy/grid.h"

#include <math.h>
#include <stdlib.h>

__extension__ typedef unsigned __int128 wide;

enum { FACTOR_BITS = 62, ROOT_BITS = 63 };

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

static wide sum_of_squares(int64_t count, const int64_t *value)
{
    wide sum = 0;
    for (int64_t k = 0; k < count; k++)
        sum += (wide)((__extension__(__int128) value[k]) * value[k]);
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

double fb_gaussian_clip_norm(int64_t limit, int64_t count, int64_t *value)
{
    const wide allowed = (wide)limit * (wide)limit, square = sum_of_squares(count, value);
    FB_ASSERT(0 < limit && limit <= INT64_C(1) << 30);
    if (square <= allowed)
        return 1.0;
    const uint64_t factor = (uint64_t)(((wide)limit << FACTOR_BITS) / root_up(square));
    for (int64_t k = 0; k < count; k++) {
        const int64_t magnitude = (int64_t)((wide)llabs(value[k]) * factor >> FACTOR_BITS);
        value[k] = value[k] < 0 ? -magnitude : magnitude;
    }
    FB_ASSERT(sum_of_squares(count, value) <= allowed);
    return ldexp((double)factor, -FACTOR_BITS);
}

int64_t fb_gaussian_values(const fb_release_spec *spec, const fb_budget *budget, const fb_release_input *in,
                           fb_update *out, double *norm_scale)
{
    const double per_grid_step = ldexp(1.0, -budget->grid_log2); /* a power of two: exact */
    const int64_t bound = fb_gaussian_bound(spec);
    const double outside = fmin(ldexp(spec->clip, -budget->grid_log2), (double)bound + 1.0);
    int64_t clipped = 0;
    for (int64_t k = 0; k < out->count; k++) {
        const float dw = in->dw[out->index ? out->index[k] : k];
        const double u = isfinite(dw) ? (double)dw / (double)in->steps * per_grid_step : 0.0;
        const int beyond = fabs(u) > outside;
        out->grid[k] = beyond ? (u > 0.0 ? bound : -bound) : (int64_t)u;
        clipped += beyond;
    }
    *norm_scale = fb_gaussian_clip_norm(budget->clip_norm_grid, out->count, out->grid);
    return clipped;
}
