/* SPDX-License-Identifier: Apache-2.0
 *
 * Sensitivity. A patient's term is a function of this patient's gradient alone: a vector q of integers, of 31 bits at a
 * scale that the largest element decides, then trunc(q m / 2^s) with m / 2^s <= clip / ceil(|q|). So its norm is at
 * most |q| clip / ceil(|q|) <= clip, and it is computed again to be sure. Sums of integers do not depend on their
 * order, so that one patient more or less adds or takes away exactly that term (Casacuberta et al. 2022 on sums of
 * floating-point numbers, for which this does not hold).
 *
 * Noise of standard deviation sigma on every element of the sum makes a step a (Poisson-subsampled) discrete Gaussian
 * mechanism of L2 sensitivity clip (Abadi et al. 2016; Canonne, Kamath & Steinke 2020).
 */
#include "privacy/dpsgd.h"

#include "privacy/noise_stream.h"

#include <math.h>
#include <string.h>

__extension__ typedef unsigned __int128 wide;

enum { CLIP_BITS = 30, CLIP_LOG2_MAX = 64 }; /* of the clip on the grid; of clip_norm, either way */
static const uint32_t INFINITY_BITS = 0x7f800000;
static const double STEPS_MAX = 0x1p24 - 1.0; /* of the server's weights */

/* --- the plan --- */

static fb_status check(const fb_dpsgd_spec *spec)
{
    FB_ASSERT(spec->cases >= 1 && spec->cases <= UINT32_MAX && spec->epochs >= 1 && spec->n >= 1);
    if (!(spec->clip_norm >= ldexp(1.0, -CLIP_LOG2_MAX) && spec->clip_norm <= ldexp(1.0, CLIP_LOG2_MAX)))
        return FB_USAGE(
            "privacy.clip_norm = %g: with privacy.mechanism = dpsgd it must be a number from 2^-%d to 2^%d, "
            "the L2 norm to which the gradient of a patient is clipped; try 1",
            spec->clip_norm, CLIP_LOG2_MAX, CLIP_LOG2_MAX);
    if (!(spec->batch >= 0.0 && isfinite(spec->batch)))
        return FB_USAGE("train.batch = %g: must be a number of patients, at least 0 (0: all of them)", spec->batch);
    if (!(spec->noise_multiplier > 0.0 && isfinite(spec->noise_multiplier)))
        return FB_USAGE("privacy.noise_multiplier = %g: with privacy.mechanism = dpsgd it must be above 0; set it, or "
                        "privacy.epsilon_total",
                        spec->noise_multiplier);
    return FB_OK;
}

/* A multiple of 2^-64, so that a comparison of 64 random bits has exactly this probability. Doubles from 2^-12 are such
 * multiples; smaller ones are rounded up. */
static double find_rate(const fb_dpsgd_spec *spec)
{
    const double cases = (double)spec->cases;
    if (spec->batch == 0.0 || spec->batch >= cases)
        return 1.0;
    return ldexp(ceil(ldexp(spec->batch / cases, 64)), -64);
}

static fb_status plan_steps(fb_dpsgd_plan *plan)
{
    plan->rate = find_rate(&plan->spec);
    plan->batch = plan->rate * (double)plan->spec.cases;
    const double steps = round((double)plan->spec.epochs / plan->rate);
    if (steps > STEPS_MAX)
        return FB_USAGE("train.batch = %g: %lld epochs over %lld patients would be %.0f steps a round, the limit is "
                        "%.0f; raise it",
                        plan->spec.batch, (long long)plan->spec.epochs, (long long)plan->spec.cases, steps, STEPS_MAX);
    plan->steps = steps < 1.0 ? 1 : (int64_t)steps;
    return FB_OK;
}

static fb_status plan_noise(fb_dpsgd_plan *plan)
{
    int exponent;
    const double fraction = frexp(plan->spec.clip_norm, &exponent); /* [1/2, 1) */
    plan->grid_log2 = exponent - CLIP_BITS;
    plan->clip_grid = (int64_t)ldexp(fraction, CLIP_BITS);
    plan->sigma = nextafter(plan->spec.noise_multiplier * (double)plan->clip_grid, INFINITY);
    if (!(plan->sigma >= FB_GAUSS_SIGMA_MIN && plan->sigma <= FB_GAUSS_SIGMA_MAX))
        return FB_USAGE("privacy.noise_multiplier = %g: must lie from %.3g to %.3g", plan->spec.noise_multiplier,
                        ldexp(FB_GAUSS_SIGMA_MIN, 1 - CLIP_BITS), ldexp(FB_GAUSS_SIGMA_MAX, -CLIP_BITS));
    return FB_OK;
}

fb_status fb_dpsgd_plan_make(const fb_dpsgd_spec *spec, fb_dpsgd_plan *out)
{
    const double n = (double)spec->n;
    fb_dpsgd_plan plan = {.spec = *spec};
    FB_TRY(check(spec));
    FB_TRY(plan_steps(&plan));
    FB_TRY(plan_noise(&plan));
    const double shift = (double)plan.clip_grid / plan.sigma;
    plan.event = (fb_event){.kind = FB_EVENT_GAUSSIAN,
                            .scale = plan.sigma,
                            .sensitivity = (double)plan.clip_grid,
                            .rate = plan.rate,
                            .rounding = n * fb_noise_rounding(fb_gauss_exponent(shift)),
                            .to_continuous = n * fb_gauss_to_continuous(plan.sigma, fb_gauss_reach(shift)),
                            .count = plan.steps};
    *out = plan;
    return FB_OK;
}

/* --- a step --- */

static void seek(fb_noise *noise, uint32_t attempt, uint32_t round, uint32_t step, fb_noise_purpose purpose)
{
    const fb_noise_address address = {
        .attempt = attempt, .round = round, .step = step, .purpose = (uint16_t)purpose, .pass = 0};
    fb_noise_seek(noise, &address);
}

void fb_dpsgd_sample(const fb_dpsgd_plan *plan, fb_noise *noise, uint32_t attempt, uint32_t round, uint32_t step,
                     uint32_t *member, int64_t *count)
{
    const int all = plan->rate == 1.0;
    const uint64_t threshold = all ? 0 : (uint64_t)ldexp(plan->rate, 64);
    int64_t found = 0;
    seek(noise, attempt, round, step, FB_NOISE_SAMPLE);
    for (int64_t i = 0; i < plan->spec.cases; i++) {
        member[found] = (uint32_t)i;
        found += all || fb_noise_word(noise) < threshold;
    }
    *count = found;
}

/* The largest magnitude, as its bits: these are ordered as the magnitudes are, infinity and NaN above all numbers. */
static uint32_t largest_bits(int64_t n, const float *x)
{
    uint32_t largest = 0;
#pragma omp parallel for simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* The grid's exponent, or the least coarser one on which magnitudes stay below 2^30. The largest then is at least 2^29
 * steps, more than the clip: such a gradient is clipped. */
static int find_grid(const fb_dpsgd_plan *plan, uint32_t largest)
{
    float magnitude;
    int exponent;
    memcpy(&magnitude, &largest, sizeof magnitude);
    (void)frexpf(magnitude, &exponent);
    return exponent - CLIP_BITS > plan->grid_log2 ? exponent - CLIP_BITS : plan->grid_log2;
}

/* q = trunc(x / 2^grid_log2): the product is exact, but for what is below 1. */
static void quantise(int64_t n, const float *x, int grid_log2, int32_t *q)
{
    const float scale = ldexpf(1.0f, -grid_log2);
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++)
        q[i] = (int32_t)(x[i] * scale);
}

/* Exact: a square has at most 62 bits, and its halves are added apart. */
static wide sum_of_squares(int64_t n, const int32_t *q)
{
    uint64_t low = 0, high = 0;
#pragma omp parallel for simd reduction(+ : low, high)
    for (int64_t i = 0; i < n; i++) {
        const uint64_t square = (uint64_t)((int64_t)q[i] * q[i]);
        low += (uint32_t)square;
        high += square >> 32;
    }
    return ((wide)high << 32) + low;
}

static int64_t ceil_sqrt(wide square)
{
    int64_t root = (int64_t)sqrtl((long double)square);
    while ((wide)root * (wide)root < square)
        root++;
    while (root > 0 && (wide)(root - 1) * (wide)(root - 1) >= square)
        root--;
    return root;
}

/* q = trunc(q clip / norm), with the quotient rounded down to 31 bits. clip < 2 norm. */
static void rescale(int64_t n, int64_t clip, int64_t norm, int32_t *q)
{
    int shift = 30;
    uint32_t factor = (uint32_t)(((wide)clip << shift) / (wide)norm);
    while (factor < UINT32_C(1) << 30)
        factor = (uint32_t)(((wide)clip << ++shift) / (wide)norm);
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        const int32_t sign = -(q[i] < 0);
        const uint32_t magnitude = (uint32_t)((q[i] ^ sign) - sign);
        q[i] = ((int32_t)((uint64_t)magnitude * factor >> shift) ^ sign) - sign;
    }
}

void fb_dpsgd_add(const fb_dpsgd_plan *plan, const float *gradient, int32_t *scratch, int64_t *sum,
                  fb_dpsgd_report *report)
{
    const int64_t n = plan->spec.n;
    const wide limit = (wide)plan->clip_grid * (wide)plan->clip_grid;
    const uint32_t largest = largest_bits(n, gradient);
    report->gradients++;
    if (largest >= INFINITY_BITS) {
        report->non_finite++;
        return;
    }
    if (largest == 0)
        return;
    const int grid_log2 = find_grid(plan, largest);
    quantise(n, gradient, grid_log2, scratch);
    const wide square = sum_of_squares(n, scratch);
    if (grid_log2 > plan->grid_log2 || square > limit) {
        rescale(n, plan->clip_grid, ceil_sqrt(square), scratch);
        FB_ASSERT(sum_of_squares(n, scratch) <= limit);
        report->clipped++;
    }
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++)
        sum[i] += scratch[i];
}

typedef struct finishing {
    const fb_gauss *gauss;
    double unit;
    const int64_t *sum; /* (n) |sum| <= cases * clip < 2^62, as is the noise */
    float *gradient;    /* (n) */
} finishing;

static void finish_block(const void *context, fb_stream *stream, int64_t block, int count)
{
    const finishing *f = context;
    const int64_t *const sum = f->sum + block * FB_NOISE_BLOCK;
    float *const gradient = f->gradient + block * FB_NOISE_BLOCK;
    int64_t drawn[FB_NOISE_BLOCK];
    fb_gauss_block(f->gauss, stream, block, count, drawn);
    for (int k = 0; k < count; k++)
        gradient[k] = (float)((double)(sum[k] + drawn[k]) * f->unit);
}

void fb_dpsgd_finish(const fb_dpsgd_plan *plan, const fb_gauss *gauss, fb_noise *noise, uint32_t attempt,
                     uint32_t round, uint32_t step, const int64_t *sum, float *gradient)
{
    const double unit = ldexp(1.0, plan->grid_log2) / plan->batch;
    seek(noise, attempt, round, step, FB_NOISE_GRADIENT);
    fb_noise_for_blocks(noise, plan->spec.n, finish_block, &(finishing){gauss, unit, sum, gradient});
}
