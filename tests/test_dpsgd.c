/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of patient-level privacy: the norm of a patient's term never exceeds the clip, the sum moves by that term
 * and no more, the sample is a Poisson sample, the noise is what the plan says. Significance 1e-6, fixed seeds. Faults
 * that the checks have to see are kept beside them.
 */
#include "core/rng.h"
#include "privacy/dpsgd.h"
#include "seeded_noise.h"
#include "testing.h"

#include <float.h>
#include <math.h>
#include <omp.h>

__extension__ typedef unsigned __int128 wide;

enum { N = 4001 };

static const double Z_LIMIT = 4.8916; /* two-sided 1e-6 */

static fb_dpsgd_plan make_plan(double clip_norm, double noise_multiplier, double batch, int64_t cases, int64_t n)
{
    const fb_dpsgd_spec spec = {clip_norm, noise_multiplier, batch, cases, 1, n};
    fb_dpsgd_plan plan;
    must(fb_dpsgd_plan_make(&spec, &plan));
    return plan;
}

/* Normal elements of standard deviation `size`, some of them much smaller. */
static void draw_gradient(uint32_t patient, int64_t n, double size, float *gradient)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST, .hospital = patient};
    for (int64_t i = 0; i < n; i++)
        gradient[i] = (float)(size * fb_rng_normal(&rng, (uint32_t)i) * (i % 7 == 0 ? 1e-5 : 1.0));
}

static wide square_norm(int64_t n, const int64_t *x)
{
    wide sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const wide magnitude = (wide)(x[i] < 0 ? -x[i] : x[i]);
        sum += magnitude * magnitude;
    }
    return sum;
}

static int within_clip(const fb_dpsgd_plan *plan, int64_t n, const int64_t *x)
{
    return square_norm(n, x) <= (wide)plan->clip_grid * (wide)plan->clip_grid;
}

/* One patient's term on an empty sum. */
static fb_dpsgd_report term(const fb_dpsgd_plan *plan, const float *gradient, int64_t *sum)
{
    static int32_t scratch[N];
    fb_dpsgd_report report = {0};
    assert_true(plan->spec.n <= N);
    memset(sum, 0, (size_t)plan->spec.n * sizeof *sum);
    fb_dpsgd_add(plan, gradient, scratch, sum, &report);
    return report;
}

/* --- the plan --- */

static void plans(void **state)
{
    (void)state;
    const double clips[] = {0x1p-64, 1e-3, 0.999, 1.0, 1.5, 7.0, 0x1p64};
    for (size_t i = 0; i < sizeof clips / sizeof clips[0]; i++) {
        const fb_dpsgd_plan plan = make_plan(clips[i], 1.1, 0.0, 5, 10);
        assert_true(plan.clip_grid >= INT64_C(1) << 29 && plan.clip_grid < INT64_C(1) << 30);
        assert_true(ldexp((double)plan.clip_grid, plan.grid_log2) <= clips[i]);
        assert_true(ldexp((double)plan.clip_grid + 1.0, plan.grid_log2) > clips[i]);
        assert_true(plan.sigma >= 1.1 * (double)plan.clip_grid && plan.sigma <= 1.1 * (double)plan.clip_grid * 1.001);
    }
    fb_dpsgd_plan plan = make_plan(1.0, 2.0, 4.0, 20, 1000);
    assert_true(plan.rate == 0.2 && fabs(plan.batch - 4.0) < 1e-12 && plan.steps == 5);
    assert_true(plan.event.kind == FB_EVENT_GAUSSIAN && plan.event.rate == plan.rate && plan.event.count == 5);
    assert_true(plan.event.scale == plan.sigma && plan.event.sensitivity == (double)plan.clip_grid);
    assert_true(plan.event.rounding > 1000.0 * 0x1p-51 && plan.event.rounding < 1000.0 * 0x1p-50);
    assert_true(plan.event.to_continuous ==
                1000.0 * fb_gauss_to_continuous(plan.sigma, fb_gauss_reach((double)plan.clip_grid / plan.sigma)));
    plan = make_plan(1.0, 2.0, 30.0, 20, 1000);
    assert_true(plan.rate == 1.0 && plan.batch == 20.0 && plan.steps == 1);
    plan = make_plan(1.0, 2.0, 3.0, 20, 1000);
    assert_int_equal(plan.steps, 7); /* 6.67 */
    plan = make_plan(1.0, 2.0, 0.3, 40000, 1000);
    assert_true(plan.rate >= 0.3 / 40000.0 && plan.rate < 0.3 / 40000.0 * (1.0 + 1e-12));
    assert_true(ldexp(plan.rate, 64) == floor(ldexp(plan.rate, 64)));
}

static void refused(fb_dpsgd_spec spec, const char *key)
{
    fb_dpsgd_plan plan;
    fb_status status = fb_dpsgd_plan_make(&spec, &plan);
    assert_int_equal(fb_error_exit_code(status), FB_EXIT_USAGE);
    must_fail(status, key);
}

static void plans_that_are_refused(void **state)
{
    (void)state;
    refused((fb_dpsgd_spec){INFINITY, 1.0, 0.0, 5, 1, 10}, "privacy.clip_norm = inf");
    refused((fb_dpsgd_spec){0.0, 1.0, 0.0, 5, 1, 10}, "privacy.clip_norm = 0");
    refused((fb_dpsgd_spec){1.0, 0.0, 0.0, 5, 1, 10}, "privacy.noise_multiplier = 0");
    refused((fb_dpsgd_spec){1.0, 1e9, 0.0, 5, 1, 10}, "privacy.noise_multiplier = 1e+09");
    refused((fb_dpsgd_spec){1.0, 1e-12, 0.0, 5, 1, 10}, "privacy.noise_multiplier = 1e-12");
    refused((fb_dpsgd_spec){1.0, 1.0, -1.0, 5, 1, 10}, "train.batch = -1");
    refused((fb_dpsgd_spec){1.0, 1.0, NAN, 5, 1, 10}, "train.batch = nan");
    refused((fb_dpsgd_spec){1.0, 1.0, 1e-7, 5, 1, 10}, "train.batch = 1e-07");
}

/* --- the clip --- */

/* What the usual way does: clip in floating point, then round to the grid. Its norm exceeds the clip now and then. */
static void float_term(const fb_dpsgd_plan *plan, const float *gradient, int64_t *sum)
{
    float square = 0.0f;
    for (int64_t i = 0; i < plan->spec.n; i++)
        square += gradient[i] * gradient[i];
    const float factor = fminf(1.0f, (float)plan->spec.clip_norm / sqrtf(square));
    for (int64_t i = 0; i < plan->spec.n; i++)
        sum[i] = llrint(ldexp(gradient[i] * factor, -plan->grid_log2));
}

/* Against the clipped vector in long double. A truncation is less than one step, before and after the rescaling by at
 * most 2, the norm of the truncated vector is off by less than sqrt(n) + 1 of at least 2^29 steps, the factor by 2^-30.
 */
static void check_term(const fb_dpsgd_plan *plan, const float *gradient, const int64_t *sum)
{
    long double square = 0.0L;
    for (int64_t i = 0; i < plan->spec.n; i++)
        square += (long double)gradient[i] * gradient[i];
    const long double norm = sqrtl(square), clip = ldexpl((long double)plan->clip_grid, plan->grid_log2);
    const long double factor = norm > clip ? clip / norm : 1.0L;
    const long double relative = (sqrtl((long double)plan->spec.n) + 3.0L) * 0x1p-29L;
    for (int64_t i = 0; i < plan->spec.n; i++) {
        const long double exact = ldexpl(gradient[i] * factor, -plan->grid_log2);
        assert_true(fabsl((long double)sum[i] - exact) <= 3.0L + relative * fabsl(exact));
        assert_true(factor < 1.0L || sum[i] == (int64_t)exact);
    }
}

static void norms_stay_within_the_clip(void **state)
{
    (void)state;
    static float gradient[N];
    static int64_t sum[N];
    int64_t clipped = 0;
    int broken = 0;
    const double clips[] = {1e-3, 1.0, 3.7};
    for (uint32_t trial = 0; trial < 300; trial++) {
        const fb_dpsgd_plan plan = make_plan(clips[trial % 3], 1.0, 0.0, 5, trial % 2 == 0 ? N : 1 + trial % 90);
        const double size = pow(10.0, -3.0 + 0.05 * trial) / sqrt((double)plan.spec.n);
        draw_gradient(trial, plan.spec.n, size, gradient);
        const fb_dpsgd_report report = term(&plan, gradient, sum);
        clipped += report.clipped;
        assert_true(report.gradients == 1 && report.non_finite == 0);
        assert_true(within_clip(&plan, plan.spec.n, sum));
        check_term(&plan, gradient, sum);
        float_term(&plan, gradient, sum);
        broken += !within_clip(&plan, plan.spec.n, sum);
    }
    assert_true(clipped > 200 && clipped < 300);
    assert_true(broken > 20); /* the fault is seen */
}

static void extreme_gradients(void **state)
{
    (void)state;
    static float gradient[N];
    static int64_t sum[N];
    const fb_dpsgd_plan plan = make_plan(1.0, 1.0, 0.0, 5, N);
    assert_int_equal(plan.clip_grid, INT64_C(1) << 29);
    fb_dpsgd_report report = term(&plan, gradient, sum); /* all zero */
    assert_true(report.clipped == 0 && square_norm(N, sum) == 0);
    gradient[5] = -1.0f; /* at the clip */
    report = term(&plan, gradient, sum);
    assert_true(report.clipped == 0 && sum[5] == -plan.clip_grid);
    gradient[6] = 0x1p-29f; /* one step beyond */
    report = term(&plan, gradient, sum);
    assert_true(report.clipped == 1 && sum[5] >= 1 - plan.clip_grid && sum[5] < 3 - plan.clip_grid);
    gradient[5] = FLT_MAX;
    gradient[6] = -FLT_MAX;
    gradient[7] = FLT_TRUE_MIN;
    report = term(&plan, gradient, sum);
    assert_true(report.clipped == 1 && sum[5] == -sum[6] && sum[7] == 0);
    assert_true(fabs((double)sum[5] / (double)plan.clip_grid - sqrt(0.5)) < 1e-8);
    const fb_dpsgd_plan fine = make_plan(0x1p-64, 1.0, 0.0, 5, N);
    memset(gradient, 0, sizeof gradient);
    report = term(&fine, gradient, sum);
    assert_true(report.clipped == 0 && square_norm(N, sum) == 0);
    for (int i = 0; i < N; i++)
        gradient[i] = FLT_MAX;
    report = term(&fine, gradient, sum);
    assert_true(report.clipped == 1 && within_clip(&fine, N, sum) && sum[0] > 0);
}

/* Of one bad element the whole gradient becomes zero: which of them it was depends on data. */
static void non_finite_gradients_count_as_zero(void **state)
{
    (void)state;
    static float gradient[N];
    static int64_t sum[N];
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    const fb_dpsgd_plan plan = make_plan(1.0, 1.0, 0.0, 5, N);
    for (int i = 0; i < 4; i++) {
        draw_gradient(3, N, 1.0, gradient);
        gradient[N - 1 - i] = bad[i];
        const fb_dpsgd_report report = term(&plan, gradient, sum);
        assert_true(report.gradients == 1 && report.non_finite == 1 && report.clipped == 0);
        assert_true(square_norm(N, sum) == 0);
    }
}

/* Neighbours: a patient more changes the sum by that patient's term and nothing else, in any order of the others. */
static void one_patient_moves_the_sum_by_at_most_the_clip(void **state)
{
    (void)state;
    enum { PATIENTS = 6 };
    static float gradient[N];
    static int32_t scratch[N];
    static int64_t with[N], without[N], own[N];
    fb_dpsgd_report report = {0};
    for (uint32_t trial = 0; trial < 60; trial++) {
        const fb_dpsgd_plan plan = make_plan(0.7, 1.0, 0.0, PATIENTS, N);
        memset(with, 0, sizeof with);
        memset(without, 0, sizeof without);
        for (uint32_t p = 0; p < PATIENTS; p++) {
            draw_gradient(100 * trial + p, N, pow(10.0, -4.0 + (trial + p) % 9), gradient);
            fb_dpsgd_add(&plan, gradient, scratch, with, &report);
        }
        for (uint32_t p = PATIENTS - 1; p > 0; p--) { /* not patient 0, and backwards */
            draw_gradient(100 * trial + p, N, pow(10.0, -4.0 + (trial + p) % 9), gradient);
            fb_dpsgd_add(&plan, gradient, scratch, without, &report);
        }
        draw_gradient(100 * trial, N, pow(10.0, -4.0 + trial % 9), gradient);
        term(&plan, gradient, own);
        for (int i = 0; i < N; i++)
            with[i] -= without[i];
        assert_memory_equal(with, own, sizeof own);
        assert_true(within_clip(&plan, N, with));
    }
}

/* --- the sample --- */

enum { CASES = 40, DRAWS = 20000 };

typedef void (*sampler)(const fb_dpsgd_plan *plan, fb_noise *noise, uint32_t attempt, uint32_t round, uint32_t step,
                        uint32_t *member, int64_t *count);

/* Fault: a batch of fixed size, as loaders make it. */
static void sample_fixed(const fb_dpsgd_plan *plan, fb_noise *noise, uint32_t attempt, uint32_t round, uint32_t step,
                         uint32_t *member, int64_t *count)
{
    const fb_rng rng = {.seed = attempt, .purpose = FB_RNG_TEST, .round = round, .epoch = step};
    uint32_t order[CASES], in[CASES] = {0};
    (void)noise;
    fb_rng_permutation(&rng, CASES, order);
    *count = 0;
    for (int64_t i = 0; i < llrint(plan->batch); i++)
        in[order[i]] = 1;
    for (uint32_t i = 0; i < CASES; i++)
        if (in[i])
            member[(*count)++] = i;
}

/* Fault: as many draws with replacement; those drawn twice count once. */
static void sample_with_replacement(const fb_dpsgd_plan *plan, fb_noise *noise, uint32_t attempt, uint32_t round,
                                    uint32_t step, uint32_t *member, int64_t *count)
{
    const fb_rng rng = {.seed = attempt, .purpose = FB_RNG_TEST, .round = round, .epoch = step};
    uint32_t in[CASES] = {0};
    (void)noise;
    for (uint32_t i = 0; i < llrint(plan->batch); i++)
        in[fb_rng_below(&rng, i, CASES)] = 1;
    *count = 0;
    for (uint32_t i = 0; i < CASES; i++)
        if (in[i])
            member[(*count)++] = i;
}

typedef struct sample_test {
    double chi_square; /* of the sizes against Binomial(CASES, rate), bins of at least 5 expected */
    int bins;
    double largest_z;      /* how often a patient is in */
    double largest_pair_z; /* how often a patient and the next one are in together */
} sample_test;

static double binomial(int count, double rate)
{
    return exp(lgamma(CASES + 1.0) - lgamma(count + 1.0) - lgamma(CASES - count + 1.0) + count * log(rate) +
               (CASES - count) * log1p(-rate));
}

static double z_of(double seen, double probability)
{
    return fabs(seen - DRAWS * probability) / sqrt(DRAWS * probability * (1.0 - probability));
}

static sample_test test_sampler(const fb_dpsgd_plan *plan, sampler sample)
{
    sample_test test = {0};
    double sizes[CASES + 1] = {0}, patients[CASES] = {0}, pairs[CASES] = {0}, seen = 0.0, expected = 0.0;
    fb_noise *noise = make_noise(8);
    for (uint32_t step = 0; step < DRAWS; step++) {
        uint32_t member[CASES];
        int64_t count = -1;
        sample(plan, noise, 0, 3, step, member, &count);
        sizes[count]++;
        for (int64_t i = 0; i < count; i++) {
            assert_true(member[i] < CASES && (i == 0 || member[i] > member[i - 1]));
            patients[member[i]]++;
            pairs[member[i]] += i > 0 && member[i - 1] + 1 == member[i];
        }
    }
    fb_noise_destroy(&noise);
    for (int size = 0; size <= CASES; size++) {
        seen += sizes[size];
        expected += DRAWS * binomial(size, plan->rate);
        if (expected < 5.0 && size < CASES)
            continue;
        test.chi_square += (seen - expected) * (seen - expected) / fmax(expected, 1.0);
        test.bins++;
        seen = expected = 0.0;
    }
    for (int i = 0; i < CASES; i++) {
        test.largest_z = fmax(test.largest_z, z_of(patients[i], plan->rate));
        if (i > 0)
            test.largest_pair_z = fmax(test.largest_pair_z, z_of(pairs[i], plan->rate * plan->rate));
    }
    return test;
}

/* Wilson and Hilferty's approximation of the 1 - 1e-6 quantile. */
static double chi_square_limit(int degrees)
{
    const double k = degrees, z = 4.7534;
    return k * pow(1.0 - 2.0 / (9.0 * k) + z * sqrt(2.0 / (9.0 * k)), 3.0);
}

static void samples_are_poisson(void **state)
{
    (void)state;
    const double z_limit = 5.6; /* two-sided 1e-6 for each of CASES */
    const fb_dpsgd_plan plan = make_plan(1.0, 1.0, 7.0, CASES, 10);
    const sample_test good = test_sampler(&plan, fb_dpsgd_sample);
    assert_true(good.bins > 10 && good.chi_square < chi_square_limit(good.bins - 1));
    assert_true(good.largest_z < z_limit && good.largest_pair_z < z_limit);
    const sample_test fixed = test_sampler(&plan, sample_fixed);
    assert_true(fixed.chi_square > chi_square_limit(fixed.bins - 1) && fixed.largest_z < z_limit);
    const sample_test replaced = test_sampler(&plan, sample_with_replacement);
    assert_true(replaced.chi_square > chi_square_limit(replaced.bins - 1) && replaced.largest_z > z_limit);
}

static void samples_have_addresses(void **state)
{
    (void)state;
    const fb_dpsgd_plan plan = make_plan(1.0, 1.0, 20.0, CASES, 10), all = make_plan(1.0, 1.0, 0.0, CASES, 10);
    fb_noise *noise = make_noise(8);
    uint32_t first[CASES] = {0}, again[CASES] = {0}, other[CASES] = {0};
    int64_t count, again_count;
    fb_dpsgd_sample(&plan, noise, 1, 2, 3, first, &count);
    for (int i = 0; i < 777; i++)
        (void)fb_noise_byte(noise);
    fb_dpsgd_sample(&plan, noise, 1, 2, 3, again, &again_count);
    assert_true(count == again_count && memcmp(first, again, (size_t)count * sizeof *first) == 0);
    const uint32_t addresses[3][3] = {{0, 2, 3}, {1, 3, 3}, {1, 2, 4}};
    for (int i = 0; i < 3; i++) {
        fb_dpsgd_sample(&plan, noise, addresses[i][0], addresses[i][1], addresses[i][2], other, &again_count);
        assert_true(count != again_count || memcmp(first, other, (size_t)count * sizeof *first) != 0);
    }
    fb_dpsgd_sample(&all, noise, 1, 2, 3, other, &count);
    assert_int_equal(count, CASES);
    for (uint32_t i = 0; i < CASES; i++)
        assert_int_equal(other[i], i);
    fb_noise_destroy(&noise);
}

/* --- the noise --- */

enum { NOISY = 200000 };

/* Standard deviation over that of the plan, of a step without patients; *mean_z of its mean. */
static double noise_ratio(const fb_dpsgd_plan *plan, double sigma, uint32_t step, float *gradient, double *mean_z)
{
    int64_t *sum = NULL;
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(9);
    double total = 0.0, square = 0.0;
    must(FB_ALLOC(sum, NOISY, "sum"));
    must(fb_gauss_create(sigma, &gauss));
    fb_dpsgd_finish(plan, gauss, noise, 0, 1, step, sum, gradient);
    for (int i = 0; i < NOISY; i++) {
        total += gradient[i];
        square += (double)gradient[i] * gradient[i];
    }
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
    FB_FREE(sum);
    const double planned = plan->spec.noise_multiplier * plan->spec.clip_norm / plan->batch;
    *mean_z = fabs(total) / sqrt((double)NOISY) / planned;
    return sqrt(square / NOISY) / planned;
}

/* A variance of n normal values is off by less than Z sqrt(2 / n) of itself. */
static void an_empty_step_is_planned_noise(void **state)
{
    (void)state;
    const double tolerance = 0.5 * Z_LIMIT * sqrt(2.0 / NOISY); /* of the standard deviation: 0.8 % */
    const fb_dpsgd_plan plan = make_plan(0.5, 3.0, 5.0, CASES, NOISY);
    float *gradient = NULL, *other = NULL;
    double mean_z;
    must(FB_ALLOC(gradient, NOISY, "gradient"));
    must(FB_ALLOC(other, NOISY, "gradient"));
    assert_true(fabs(noise_ratio(&plan, plan.sigma, 7, gradient, &mean_z) - 1.0) < tolerance && mean_z < Z_LIMIT);
    assert_true(fabs(noise_ratio(&plan, 1.02 * plan.sigma, 7, other, &mean_z) - 1.0) > tolerance);
    assert_true(fabs(noise_ratio(&plan, 2.0 * plan.sigma, 7, other, &mean_z) - 2.0) < 2.0 * tolerance);
    noise_ratio(&plan, plan.sigma, 7, other, &mean_z);
    assert_memory_equal(gradient, other, NOISY * sizeof *gradient);
    noise_ratio(&plan, plan.sigma, 8, other, &mean_z);
    int64_t equal = 0;
    for (int i = 0; i < NOISY; i++)
        equal += gradient[i] == other[i];
    assert_true(equal < NOISY / 1000);
    FB_FREE(gradient);
    FB_FREE(other);
}

/* --- a whole step --- */

static void run_step(const fb_dpsgd_plan *plan, double size, float *out)
{
    static float gradient[N];
    static int32_t scratch[N];
    static int64_t sum[N];
    fb_dpsgd_report report = {0};
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(10);
    memset(sum, 0, sizeof sum);
    must(fb_gauss_create(plan->sigma, &gauss));
    for (uint32_t p = 0; p < plan->spec.cases; p++) {
        draw_gradient(p, N, size, gradient);
        fb_dpsgd_add(plan, gradient, scratch, sum, &report);
    }
    fb_dpsgd_finish(plan, gauss, noise, 0, 0, 0, sum, out);
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
}

/* Clip and noise are proportional to clip_norm: a tenth of it gives a tenth of everything ("finding private bugs"). */
static void outputs_scale_with_the_clip(void **state)
{
    (void)state;
    static float whole[N], tenth[N], eighth[N];
    const fb_dpsgd_plan plan = make_plan(1.0, 0x1p-30, 0.0, 6, N);
    const fb_dpsgd_plan small = make_plan(0.1, 0x1p-30, 0.0, 6, N), power = make_plan(0.125, 1.5, 0.0, 6, N);
    const fb_dpsgd_plan noisy = make_plan(1.0, 1.5, 0.0, 6, N);
    run_step(&plan, 10.0, whole);
    run_step(&small, 10.0, tenth);
    for (int i = 0; i < N; i++)
        assert_true(fabs(10.0 * (double)tenth[i] - (double)whole[i]) < 1e-7);
    run_step(&noisy, 10.0, whole);
    run_step(&power, 10.0, eighth); /* the same integers: bit for bit */
    for (int i = 0; i < N; i++)
        assert_true(8.0f * eighth[i] == whole[i]);
}

/* With next to no noise and a clip that nothing reaches a step is the mean of the gradients, to a few grid steps. */
static void without_clip_and_noise_it_is_the_mean(void **state)
{
    (void)state;
    static float gradient[N], out[N];
    static double mean[N];
    const fb_dpsgd_plan plan = make_plan(100.0, 0x1p-31, 0.0, 6, N);
    run_step(&plan, 1.0, out);
    for (uint32_t p = 0; p < 6; p++) {
        draw_gradient(p, N, 1.0, gradient);
        for (int i = 0; i < N; i++)
            mean[i] += gradient[i] / 6.0;
    }
    for (int i = 0; i < N; i++)
        assert_true(fabs((double)out[i] - mean[i]) <= ldexp(4.0, plan.grid_log2) + 0x1p-24 * fabs(mean[i]));
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    static float gradient[N];
    static int64_t one[N], two[N];
    const int threads = omp_get_max_threads();
    for (uint32_t trial = 0; trial < 20; trial++) {
        const fb_dpsgd_plan plan = make_plan(1.0, 1.0, 0.0, 6, N);
        draw_gradient(trial, N, pow(10.0, -3.0 + 0.3 * trial), gradient);
        omp_set_num_threads(1);
        term(&plan, gradient, one);
        omp_set_num_threads(2);
        term(&plan, gradient, two);
        assert_memory_equal(one, two, sizeof one);
    }
    omp_set_num_threads(threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans),
        cmocka_unit_test(plans_that_are_refused),
        cmocka_unit_test(norms_stay_within_the_clip),
        cmocka_unit_test(extreme_gradients),
        cmocka_unit_test(non_finite_gradients_count_as_zero),
        cmocka_unit_test(one_patient_moves_the_sum_by_at_most_the_clip),
        cmocka_unit_test(samples_are_poisson),
        cmocka_unit_test(samples_have_addresses),
        cmocka_unit_test(an_empty_step_is_planned_noise),
        cmocka_unit_test(outputs_scale_with_the_clip),
        cmocka_unit_test(without_clip_and_noise_it_is_the_mean),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    omp_set_num_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
