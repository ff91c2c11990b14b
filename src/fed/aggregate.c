/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/aggregate.h"

#include "core/mem.h"

#include <math.h>
#include <string.h>

__extension__ typedef __int128 wide;

struct fb_aggregate {
    int64_t n;
    int fraction_bits;
    int64_t total_weight;
    wide *sum; /* (n) of weight * value, in units of 2^-fraction_bits; owned */
};

enum { MAX_SHIFT = 60 }; /* of a grid value to the fixed point: a grid step of 2^20 */
static const int64_t factor_limit = (int64_t)1 << 24;
/* |change| in fixed point; with weight < 2^24 and fewer than 2^16 hospitals a sum stays below 2^126. */
static const double value_limit = 0x1p62;
static const double wide_value_limit = 0x1p86;

fb_status fb_aggregate_create(int64_t n, int fraction_bits, fb_aggregate **out)
{
    fb_aggregate *aggregate = NULL;
    FB_TRY(FB_ALLOC(aggregate, 1, "aggregate"));
    aggregate->n = n;
    aggregate->fraction_bits = fraction_bits;
    fb_status status = FB_ALLOC(aggregate->sum, n, "aggregate");
    if (status != FB_OK) {
        fb_aggregate_destroy(&aggregate);
        return status;
    }
    *out = aggregate;
    return FB_OK;
}

int64_t fb_aggregate_bytes(int64_t n)
{
    return n * (int64_t)sizeof(wide);
}

void fb_aggregate_destroy(fb_aggregate **aggregate)
{
    if (*aggregate)
        FB_FREE((*aggregate)->sum);
    FB_FREE(*aggregate);
}

void fb_aggregate_reset(fb_aggregate *aggregate)
{
    memset(aggregate->sum, 0, (size_t)aggregate->n * sizeof *aggregate->sum);
    aggregate->total_weight = 0;
}

static fb_status out_of_range(int64_t index, double value)
{
    return FB_FAIL("aggregate: parameter %lld: %g is outside the range of the server's fixed-point sum: training has "
                   "diverged (lower train.learning_rate) or the noise is too large (raise the epsilons or set "
                   "privacy.clip_answers = true)",
                   (long long)index, value);
}

static fb_status add_f32(fb_aggregate *aggregate, const fb_update *update, int64_t weight)
{
    const double scale = ldexp(1.0, aggregate->fraction_bits);
    for (int64_t i = 0; i < update->count; i++) {
        const int64_t at = update->index ? update->index[i] : i;
        const double value = (double)update->f32[i] * scale;
        if (fabs(value) < value_limit)
            aggregate->sum[at] += (wide)llrint(value) * weight;
        else if (fabs(value) < wide_value_limit)
            aggregate->sum[at] += (wide)value * weight; /* an integer already: no bits below 2^10 */
        else
            return out_of_range(at, update->f32[i]);
    }
    return FB_OK;
}

static fb_status add_grid(fb_aggregate *aggregate, const fb_update *update, int64_t weight, int64_t steps)
{
    const int shift = update->grid_log2 + aggregate->fraction_bits;
    if (shift < 0 || shift > MAX_SHIFT)
        return FB_FAIL("aggregate: grid exponent %d is outside %d to %d", update->grid_log2, -aggregate->fraction_bits,
                       MAX_SHIFT - aggregate->fraction_bits);
    const double limit = ldexp(wide_value_limit, -shift) / (double)steps;
    for (int64_t i = 0; i < update->count; i++) {
        const int64_t at = update->index ? update->index[i] : i;
        if (fabs((double)update->grid[i]) >= limit)
            return out_of_range(at, ldexp((double)update->grid[i], update->grid_log2));
        aggregate->sum[at] += (wide)update->grid[i] * ((wide)1 << shift) * (weight * steps);
    }
    return FB_OK;
}

static fb_status check_factors(int64_t weight, int64_t steps)
{
    if (weight < 1 || weight >= factor_limit || steps < 1 || steps >= factor_limit)
        return FB_FAIL("aggregate: weight %lld and steps %lld must be 1 to %lld", (long long)weight, (long long)steps,
                       (long long)factor_limit - 1);
    return FB_OK;
}

fb_status fb_aggregate_add(fb_aggregate *aggregate, const fb_update *update, int64_t weight, int64_t steps)
{
    FB_ASSERT(update->n == aggregate->n);
    FB_TRY(check_factors(weight, steps));
    aggregate->total_weight += weight;
    if (update->kind == FB_VALUES_F32)
        return add_f32(aggregate, update, weight);
    return add_grid(aggregate, update, weight, steps);
}

fb_status fb_aggregate_add_sum(fb_aggregate *aggregate, const fb_update *sum, int64_t hospitals, int64_t steps)
{
    FB_ASSERT(sum->n == aggregate->n && sum->kind == FB_VALUES_GRID);
    FB_TRY(check_factors(hospitals, steps));
    aggregate->total_weight += hospitals;
    return add_grid(aggregate, sum, 1, steps);
}

/* Division rounded to the nearest integer, halves away from zero. */
static wide divide(wide numerator, int64_t denominator)
{
    const wide half = denominator / 2, dividend = numerator >= 0 ? numerator + half : numerator - half;
    if (dividend == (int64_t)dividend) /* nearly always, and several times faster */
        return (int64_t)dividend / denominator;
    return dividend / denominator;
}

fb_status fb_aggregate_apply(const fb_aggregate *aggregate, float *w)
{
    const double unit = ldexp(1.0, -aggregate->fraction_bits);
    if (aggregate->total_weight == 0)
        return FB_FAIL("aggregate: no update arrived");
    for (int64_t i = 0; i < aggregate->n; i++)
        if (aggregate->sum[i] != 0)
            w[i] = (float)((double)w[i] + (double)divide(aggregate->sum[i], aggregate->total_weight) * unit);
    return FB_OK;
}
