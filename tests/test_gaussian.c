/* SPDX-License-Identifier: Apache-2.0
 *
 * Gaussian answers: an L2 norm that is never above the clip, the planned noise wherever it is added, nothing else
 * changed.
 */
#include "blocks.h"
#include "privacy/gauss.h"
#include "privacy/gaussian.h"
#include "privacy/mechanism.h"
#include "seeded_noise.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

__extension__ typedef unsigned __int128 wide;

enum { N = 40000, STEPS = 36, HOSPITALS = 5 };

static const double Z_LIMIT = 4.8916; /* two-sided 1e-6 */
static const double CLIP_NORM = 0.01;
static const fb_rng public_rng = {.seed = 3, .purpose = FB_RNG_SELECT, .hospital = 2, .round = 7};

/* What draw k of the address that `noise` was sought to is, k = 0, 1, ... */
static int64_t draw(const fb_gauss *gauss, fb_noise *noise, int64_t k)
{
    before_draw(noise, k);
    return fb_gauss_draw(gauss, noise);
}

/* dW / STEPS of L2 norm about 0.02 over all N coordinates; owned by the caller. */
static float *make_dw(void)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    float *dw = NULL;
    must(FB_ALLOC(dw, N, "dw"));
    for (uint32_t i = 0; i < N; i++)
        dw[i] = (float)(1e-4 * STEPS * fb_rng_normal(&rng, i));
    return dw;
}

/* The least noise there is, a quarter of a grid step: `release` takes it away again, so that what it was added to
 * shows. */
static const double LEAST = 0x1p-31;

/* At the address of a release, less the same draws. */
static void take_away_noise(const fb_budget *budget, fb_noise *noise, fb_update *out)
{
    fb_gauss *gauss = NULL;
    must(fb_gauss_create(budget->sigma, &gauss));
    fb_noise_seek(noise, &(fb_noise_address){.round = 3, .purpose = FB_NOISE_ANSWER});
    for (int64_t k = 0; k < out->count; k++)
        out->grid[k] -= draw(gauss, noise, k);
    fb_gauss_destroy(&gauss);
}

static fb_release_spec make_spec(fb_select select, double multiplier)
{
    return (fb_release_spec){.select = select,
                             .fraction = select == FB_SELECT_ALL ? 1.0 : 0.4,
                             .mechanism = FB_MECHANISM_GAUSSIAN,
                             .clip =
                                 select == FB_SELECT_SVT || select == FB_SELECT_EXPONENTIAL ? 2e-4 : (double)INFINITY,
                             .threshold = 0.5e-4,
                             .epsilon_threshold = 1.0,
                             .epsilon_query = 100.0,
                             .clip_norm = CLIP_NORM,
                             .noise_multiplier = multiplier,
                             .participants = HOSPITALS};
}

static fb_budget release(const fb_release_spec *spec, uint64_t seed, const float *dw, fb_update *out,
                         fb_release_report *report)
{
    fb_budget budget;
    uint32_t *mask = NULL;
    fb_noise *noise = make_noise(seed);
    must(fb_budget_plan(spec, N, &budget));
    must(FB_ALLOC(mask, budget.count, "mask"));
    for (int64_t k = 0; k < budget.count; k++)
        mask[k] = (uint32_t)(2 * k);
    const fb_release_input in = {.public_rng = &public_rng,
                                 .public_index = spec->select == FB_SELECT_PUBLIC ? mask : NULL,
                                 .noise = noise,
                                 .round = 3,
                                 .steps = STEPS,
                                 .dw = dw};
    must(fb_release(spec, &budget, &in, out, report));
    assert_true(out->kind == FB_VALUES_GRID && out->grid_log2 == budget.grid_log2 && out->count == budget.count);
    if (spec->noise_multiplier == LEAST)
        take_away_noise(&budget, noise, out);
    fb_noise_destroy(&noise);
    FB_FREE(mask);
    return budget;
}

static int64_t coordinate(const fb_update *u, int64_t k)
{
    return u->index ? u->index[k] : k;
}

static wide square(int64_t count, const int64_t *value)
{
    wide sum = 0;
    for (int64_t k = 0; k < count; k++)
        sum += (wide)llabs(value[k]) * (wide)llabs(value[k]);
    return sum;
}

/* --- the clip of the norm --- */

/* Vectors of all sizes and shapes that the code can meet. */
static int64_t fill(const fb_rng *rng, uint32_t trial, int64_t *value)
{
    static const int bits[] = {1, 4, 29, 30, 31, 40, 46};
    const int64_t count = 1 + fb_rng_below(rng, 4 * trial, 40);
    const int64_t top = INT64_C(1) << bits[trial % 7];
    const int form = (int)fb_rng_below(rng, 4 * trial + 1, 3);
    for (int64_t k = 0; k < count; k++) {
        const double u = fb_rng_range(rng, 1000000 + 64 * trial + (uint32_t)k, -1.0, 1.0);
        value[k] = form == 0 ? (int64_t)(u * (double)top) : form == 1 ? top : k == 0 ? -top : (int64_t)(u * 3.0);
    }
    return count;
}

/* Rounding to nearest instead of toward zero: the fault that the test has to see. */
static void scale_to_nearest(int64_t limit, int64_t count, int64_t *value)
{
    const long double factor = (long double)limit / sqrtl((long double)square(count, value));
    for (int64_t k = 0; k < count; k++)
        value[k] = llrintl(factor * (long double)value[k]);
}

static void test_norm_never_exceeds_the_clip(void **state)
{
    (void)state;
    enum { TRIALS = 20000 };
    static const int64_t limits[] = {1, 2, 7, 1000, 536870912, 1073741823};
    const fb_rng rng = {.seed = 4, .purpose = FB_RNG_TEST};
    int64_t value[64], before[64], nearest[64], faults = 0, scaled = 0;
    for (uint32_t trial = 0; trial < TRIALS; trial++) {
        const int64_t limit = limits[trial % 6], count = fill(&rng, trial, value);
        const wide allowed = (wide)limit * (wide)limit;
        memcpy(before, value, sizeof before);
        memcpy(nearest, value, sizeof nearest);
        const int within = square(count, value) <= allowed;
        const double factor = fb_gaussian_clip_norm(limit, count, value);
        assert_true(square(count, value) <= allowed && (factor == 1.0) == within);
        if (within) {
            assert_memory_equal(value, before, (size_t)count * sizeof *value);
            continue;
        }
        const long double exact = (long double)limit / sqrtl((long double)square(count, before));
        for (int64_t k = 0; k < count; k++) { /* toward zero, by less than 1 and the rounded norm */
            const long double lost = exact * fabsl((long double)before[k]) - (long double)llabs(value[k]);
            assert_true(lost > -1e-6L && lost < 1.001L + exact * (long double)limit);
            assert_true(value[k] == 0 || (value[k] > 0) == (before[k] > 0));
        }
        scale_to_nearest(limit, count, nearest);
        faults += square(count, nearest) > allowed;
        scaled++;
    }
    assert_true(scaled > TRIALS / 4 && faults > 100);
}

/* 2^32 coordinates of the bound have to fit in 128 bits; here the largest single ones. */
static void test_largest_values(void **state)
{
    (void)state;
    int64_t value[3] = {INT64_C(1) << 46, -(INT64_C(1) << 46), 1};
    assert_true(fb_gaussian_clip_norm(1 << 29, 3, value) < 1e-5);
    assert_int_equal(value[0], 379625062); /* floor(2^29 / sqrt 2) */
    assert_true(value[1] == -379625062 && value[2] == 0);
}

/* --- the release --- */

/* What the values are before the norm, written out. */
static int64_t on_grid(const fb_budget *budget, double clip, float dw)
{
    const double u = fmax(-clip, fmin(clip, (double)dw / STEPS));
    return (int64_t)trunc(ldexp(u, -budget->grid_log2));
}

static void test_noise_off_is_the_clipped_update(void **state)
{
    (void)state;
    static const fb_select selects[] = {FB_SELECT_ALL, FB_SELECT_TOPK,        FB_SELECT_RANDOM,
                                        FB_SELECT_SVT, FB_SELECT_EXPONENTIAL, FB_SELECT_PUBLIC};
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    int64_t *expected = NULL;
    must(FB_ALLOC(expected, N, "expected"));
    for (int s = 0; s < 6; s++) {
        fb_release_spec spec = make_spec(selects[s], LEAST);
        const fb_budget budget = release(&spec, 4, dw, &u, &report);
        for (int64_t k = 0; k < u.count; k++)
            expected[k] = on_grid(&budget, spec.clip, dw[coordinate(&u, k)]);
        const double factor = fb_gaussian_clip_norm(budget.clip_norm_grid, u.count, expected);
        assert_memory_equal(u.grid, expected, (size_t)u.count * sizeof *expected);
        assert_true(report.norm_scale == factor && factor > 0.3 && factor < 0.9);
        spec.clip_norm = 1.0; /* within: nothing is scaled */
        const fb_budget wide_budget = release(&spec, 4, dw, &u, &report);
        assert_true(report.norm_scale == 1.0);
        for (int64_t k = 0; k < u.count; k++)
            assert_int_equal(u.grid[k], on_grid(&wide_budget, spec.clip, dw[coordinate(&u, k)]));
    }
    fb_update_free(&u);
    FB_FREE(expected);
    FB_FREE(dw);
}

/* privacy.clip bounds every coordinate before the norm is taken; NaN and infinity count as 0. */
static void test_bounds_and_non_finite(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    fb_release_spec spec = make_spec(FB_SELECT_ALL, LEAST);
    spec.clip = 1e-4;
    spec.clip_norm = 1.0;
    dw[3] = (float)NAN;
    dw[4] = (float)INFINITY;
    dw[5] = -3e38f;
    const fb_budget budget = release(&spec, 4, dw, &u, &report);
    int64_t clipped = 0;
    for (int64_t k = 0; k < N; k++) {
        assert_int_equal(u.grid[k], isfinite(dw[k]) ? on_grid(&budget, 1e-4, dw[k]) : 0);
        clipped += isfinite(dw[k]) && fabs((double)dw[k] / STEPS) > 1e-4;
    }
    assert_true(report.non_finite == 2 && report.clipped == clipped && clipped > 10000);
    spec.clip = INFINITY; /* a huge coordinate takes the whole norm and overflows nothing */
    const fb_budget open = release(&spec, 4, dw, &u, &report);
    assert_true(u.grid[5] < 0 && -u.grid[5] > open.clip_norm_grid - 3 && report.clipped == 1);
    assert_true(square(N, u.grid) <= (wide)open.clip_norm_grid * (wide)open.clip_norm_grid);
    fb_update_free(&u);
    FB_FREE(dw);
}

/* Mean square of (answers - values) against the variance, as a standard normal. */
static double variance_z(int64_t count, const int64_t *noised, const int64_t *plain, double sigma)
{
    double sum = 0.0;
    for (int64_t k = 0; k < count; k++) {
        const double x = (double)(noised[k] - plain[k]) / sigma;
        sum += x * x;
    }
    return (sum / (double)count - 1.0) * sqrt((double)count / 2.0);
}

static void assert_sigma(int64_t count, const int64_t *noised, const int64_t *plain, double sigma)
{
    const double z = variance_z(count, noised, plain, sigma);
    if (fabs(z) > Z_LIMIT)
        fail_msg("z = %g", z);
    assert_true(fabs(variance_z(count, noised, plain, 1.05 * sigma)) > Z_LIMIT); /* and would show 5 % */
}

static void test_local_noise(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update plain = {0}, noised = {0};
    fb_release_report report;
    fb_release_spec spec = make_spec(FB_SELECT_RANDOM, LEAST);
    release(&spec, 4, dw, &plain, &report);
    spec.noise_multiplier = 2.0;
    const fb_budget budget = release(&spec, 4, dw, &noised, &report);
    assert_sigma(noised.count, noised.grid, plain.grid, 2.0 * (double)budget.clip_norm_grid);
    spec.clip_answers = 1; /* the second clip of every coordinate */
    release(&spec, 4, dw, &plain, &report);
    for (int64_t k = 0; k < plain.count; k++) {
        const int64_t limit = budget.clip_norm_grid, x = noised.grid[k];
        assert_int_equal(plain.grid[k], x > limit ? limit : x < -limit ? -limit : x);
    }
    fb_update_free(&plain);
    fb_update_free(&noised);
    FB_FREE(dw);
}

/* secagg: each share is small, their sum has sigma; no second clip of a share, whatever clip_answers says. */
static void test_shares_add_up(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update plain = {0}, share = {0};
    fb_release_report report;
    int64_t sum[N] = {0}, exact[N];
    fb_release_spec spec = make_spec(FB_SELECT_ALL, 2.0);
    spec.trust = FB_TRUST_CENTRAL;
    release(&spec, 4, dw, &plain, &report);
    spec.trust = FB_TRUST_SECAGG;
    spec.clip_answers = 1;
    for (uint64_t h = 0; h < HOSPITALS; h++) {
        const fb_budget budget = release(&spec, 10 + h, dw, &share, &report);
        for (int64_t k = 0; k < N; k++) {
            sum[k] += share.grid[k];
            exact[k] = HOSPITALS * plain.grid[k];
        }
        assert_sigma(N, share.grid, plain.grid, 2.0 * (double)budget.clip_norm_grid / sqrt(HOSPITALS));
        if (h == HOSPITALS - 1)
            assert_sigma(N, sum, exact, budget.sigma);
    }
    fb_update_free(&plain);
    fb_update_free(&share);
    FB_FREE(dw);
}

/* central: the hospital adds nothing, the server once, of its own purpose. */
static void test_server_noise(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    int64_t sum[N] = {0}, exact[N], again[N] = {0};
    fb_release_spec spec = make_spec(FB_SELECT_ALL, 2.0);
    spec.trust = FB_TRUST_CENTRAL;
    const fb_budget budget = release(&spec, 4, dw, &u, &report);
    assert_true(square(N, u.grid) <= (wide)budget.clip_norm_grid * (wide)budget.clip_norm_grid);
    for (int64_t k = 0; k < N; k++)
        sum[k] = exact[k] = 3 * u.grid[k];
    fb_noise *noise = make_noise(20);
    must(fb_release_server_noise(&spec, &budget, noise, 1, 2, N, sum));
    assert_sigma(N, sum, exact, budget.sigma);
    must(fb_release_server_noise(&spec, &budget, noise, 1, 2, N, again));
    for (int64_t k = 0; k < N; k++)
        assert_int_equal(again[k], sum[k] - exact[k]); /* by address */
    fb_gauss *gauss = NULL;
    must(fb_gauss_create(budget.sigma, &gauss));
    fb_noise_seek(noise, &(fb_noise_address){.attempt = 1, .round = 2, .purpose = FB_NOISE_SERVER});
    for (int64_t k = 0; k < N; k++)
        assert_int_equal(again[k], draw(gauss, noise, k));
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
    fb_update_free(&u);
    FB_FREE(dw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_never_exceeds_the_clip),
        cmocka_unit_test(test_largest_values),
        cmocka_unit_test(test_noise_off_is_the_clipped_update),
        cmocka_unit_test(test_bounds_and_non_finite),
        cmocka_unit_test(test_local_noise),
        cmocka_unit_test(test_shares_add_up),
        cmocka_unit_test(test_server_noise),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("gaussian", tests, NULL, NULL);
}
