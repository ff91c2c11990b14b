/* SPDX-License-Identifier: Apache-2.0
 *
 * Expected cosines against releases of simulated updates that follow the stated model, and what published settings
 * spend. */
#include "core/rng.h"
#include "privacy/expect.h"
#include "privacy/published.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

enum { N = 40000, HOSPITALS = 5 };
static const double CLIP = 1e-4;

/* --- simulation --- */

typedef struct simulation {
    fb_release_spec spec;
    fb_budget budget;
    float dw[N];
    double truth[N], sum[N];
    double factor[HOSPITALS]; /* a_h */
} simulation;

/* The model's update: Gaussian with a third of the clip, or with the norm clip_norm of its shared part. */
static void make_update(simulation *s)
{
    const fb_rng rng = {3, FB_RNG_TEST, 0, 0, 0};
    const double rms =
        s->spec.mechanism == FB_MECHANISM_GAUSSIAN ? s->spec.clip_norm / sqrt((double)s->budget.count) : CLIP / 3.0;
    for (uint32_t i = 0; i < N; i++)
        s->dw[i] = (float)(rms * fb_rng_normal(&rng, i));
}

static void add_hospital(simulation *s, uint32_t h, int noisy)
{
    const uint8_t key[FB_KEY_BYTES] = {(uint8_t)h, 1};
    const fb_rng rng = {5, FB_RNG_SELECT, noisy ? h : 0, 0, 0};
    fb_release_spec spec = s->spec;
    fb_noise *noise = NULL;
    fb_update update = {0};
    fb_release_report report = {0};
    must(fb_noise_create(key, &noise));
    spec.trust = noisy ? FB_TRUST_LOCAL : FB_TRUST_CENTRAL;
    const fb_release_input in = {.public_rng = &rng, .noise = noise, .steps = 1, .dw = s->dw};
    must(fb_budget_plan(&spec, N, &s->budget));
    must(fb_release(&spec, &s->budget, &in, &update, &report));
    for (int64_t i = 0; i < update.count; i++) {
        const uint32_t at = update.index ? update.index[i] : (uint32_t)i;
        s->sum[at] +=
            s->factor[h] * (update.f32 ? (double)update.f32[i] : ldexp((double)update.grid[i], update.grid_log2));
    }
    fb_update_free(&update);
    fb_noise_destroy(&noise);
}

/* trust other than local: the same coordinates, noise once on the sum. */
static void add_noise_once(simulation *s)
{
    const fb_rng rng = {7, FB_RNG_TEST, 0, 0, 0};
    const double sigma = ldexp(s->budget.sigma, s->budget.grid_log2);
    for (uint32_t i = 0; i < N; i++)
        if (s->sum[i] != 0.0)
            s->sum[i] += s->factor[0] * sigma * fb_rng_normal(&rng, i);
}

static fb_expectation simulate(simulation *s, int local)
{
    double product = 0.0, truth = 0.0, released = 0.0;
    memset(s->sum, 0, sizeof s->sum);
    for (uint32_t h = 0; h < HOSPITALS; h++)
        add_hospital(s, h, local);
    if (!local)
        add_noise_once(s);
    for (int i = 0; i < N; i++) {
        double whole = 0.0;
        for (int h = 0; h < HOSPITALS; h++)
            whole += s->factor[h] * (double)s->dw[i];
        product += whole * s->sum[i];
        truth += whole * whole;
        released += s->sum[i] * s->sum[i];
    }
    return (fb_expectation){product / sqrt(truth * released), sqrt(released / truth), 0.0};
}

/* Expected and simulated cosine and length agree within 3 %. The simulated cosine has a standard deviation of about
 * 1 / sqrt(N) = 0.005, so the cases have cosines above 0.3; the seeds are fixed. */
static void compare(const fb_release_spec *spec, int local, double at_least)
{
    simulation *s = NULL;
    fb_expectation expected;
    fb_expect_hospitals hospitals = {HOSPITALS, 0.0, 0.0};
    must(FB_ALLOC(s, 1, "simulation"));
    s->spec = *spec;
    must(fb_budget_plan(spec, N, &s->budget));
    make_update(s);
    for (int h = 0; h < HOSPITALS; h++) {
        s->factor[h] = local ? 1.0 + h : 2.0;
        hospitals.sum += s->factor[h];
        hospitals.sum_square += s->factor[h] * s->factor[h];
    }
    must(fb_expect_release(spec, &s->budget, local ? FB_TRUST_LOCAL : FB_TRUST_CENTRAL, &hospitals, &expected));
    const fb_expectation seen = simulate(s, local);
    if (!(fabs(seen.cosine / expected.cosine - 1.0) < 0.03 && fabs(seen.stretch / expected.stretch - 1.0) < 0.03))
        print_error("cosine %.4f, expected %.4f; length %.4f, expected %.4f\n", seen.cosine, expected.cosine,
                    seen.stretch, expected.stretch);
    assert_true(expected.cosine > at_least);
    assert_true(fabs(seen.cosine / expected.cosine - 1.0) < 0.03);
    assert_true(fabs(seen.stretch / expected.stretch - 1.0) < 0.03);
    FB_FREE(s);
}

static fb_release_spec laplace(fb_select select, double fraction, double answer, int clip_answers)
{
    return (fb_release_spec){.select = select,
                             .fraction = fraction,
                             .mechanism = FB_MECHANISM_LAPLACE,
                             .clip = CLIP,
                             .epsilon_threshold = 1.0,
                             .epsilon_answer = answer,
                             .answer_budget = FB_ANSWER_PER_PARAMETER,
                             .clip_answers = clip_answers};
}

static void laplace_noise(void **state)
{
    (void)state;
    fb_release_spec spec = laplace(FB_SELECT_ALL, 1.0, 4.0, 0);
    compare(&spec, 1, 0.5);
    spec.clip_answers = 1;
    compare(&spec, 1, 0.5);
    spec = laplace(FB_SELECT_RANDOM, 0.3, 6.0, 1);
    compare(&spec, 1, 0.3);
    spec.clip_answers = 0;
    compare(&spec, 1, 0.3);
}

static void noisy_selection(void **state)
{
    (void)state;
    fb_release_spec spec = laplace(FB_SELECT_SVT, 0.3, 6.0, 1);
    compare(&spec, 1, 0.3); /* effectively random */
    spec.epsilon_threshold = 200.0;
    spec.threshold = 0.2 * CLIP;
    compare(&spec, 1, 0.5); /* finds the larger ones */
    spec = laplace(FB_SELECT_EXPONENTIAL, 0.3, 6.0, 1);
    spec.epsilon_query = 12.0 * 0.3 * N;
    compare(&spec, 1, 0.5);
}

static void gaussian_noise(void **state)
{
    (void)state;
    fb_release_spec spec = {.select = FB_SELECT_ALL,
                            .fraction = 1.0,
                            .mechanism = FB_MECHANISM_GAUSSIAN,
                            .clip_norm = 0.01,
                            .clip = INFINITY,
                            .noise_multiplier = 0.01,
                            .participants = HOSPITALS};
    compare(&spec, 1, 0.5);
    compare(&spec, 0, 0.5);
    spec.select = FB_SELECT_RANDOM;
    spec.fraction = 0.4;
    compare(&spec, 1, 0.5);
    compare(&spec, 0, 0.5);
}

static void without_noise(void **state)
{
    (void)state;
    fb_release_spec spec = {
        .select = FB_SELECT_TOPK, .fraction = 0.1, .mechanism = FB_MECHANISM_NONE, .clip = INFINITY};
    compare(&spec, 1, 0.5);
    spec.clip = CLIP;
    compare(&spec, 1, 0.5);
    spec.select = FB_SELECT_RANDOM;
    compare(&spec, 1, 0.3);
}

/* --- closed forms --- */

/* The formula of the header for random coordinates, and large noise, where integrals become series. */
static void closed_forms(void **state)
{
    (void)state;
    const fb_expect_hospitals equal = {HOSPITALS, HOSPITALS, HOSPITALS}, one = {1, 1.0, 1.0};
    fb_release_spec spec = laplace(FB_SELECT_RANDOM, 0.2, 1.0, 0);
    fb_budget budget;
    fb_expectation e;
    must(fb_budget_plan(&spec, N, &budget));
    must(fb_expect_release(&spec, &budget, FB_TRUST_LOCAL, &equal, &e));
    const double p = HOSPITALS, v = 2.0 * 4.0 * 9.0; /* scale 2 clips = 6 s */
    const double wanted = sqrt(0.2 / (1.0 / p + (1.0 - 1.0 / p) * 0.2 + v / p));
    assert_true(fabs(e.cosine / wanted - 1.0) < 3e-3); /* clipping costs P(|z| > 3) = 2.7e-3 */
    /* clipped answers of huge noise are random signs with mean w / b: cosine s / b, length 1 / s */
    const double before_series = 999.0, after_series = 1001.0;
    double cosine[2];
    for (int i = 0; i < 2; i++) {
        spec = laplace(FB_SELECT_ALL, 1.0, 2.0 / (i ? after_series : before_series), 1);
        must(fb_budget_plan(&spec, N, &budget));
        must(fb_expect_release(&spec, &budget, FB_TRUST_LOCAL, &one, &e));
        cosine[i] = e.cosine * (i ? after_series : before_series);
        assert_true(fabs(e.stretch * (1.0 / 3.0) - 1.0) < 1e-3);
    }
    assert_true(fabs(cosine[0] / cosine[1] - 1.0) < 1e-4 && fabs(cosine[0] * 3.0 - 1.0) < 5e-3);
}

static void rounds_and_outlook(void **state)
{
    (void)state;
    assert_true(fb_expect_rounds(0.3, 1.0) == 1.0 / sqrt(1.0 + (1.0 / (0.3 * 0.3) - 1.0)));
    assert_true(fabs(fb_expect_rounds(0.01, 10000.0) - sqrt(0.5)) < 1e-4);
    assert_int_equal(fb_expect_outlook(0.6, 0.9), FB_OUTLOOK_GOOD);
    assert_int_equal(fb_expect_outlook(0.2, 0.9), FB_OUTLOOK_SLOWER);
    assert_int_equal(fb_expect_outlook(0.05, 0.6), FB_OUTLOOK_DRIFT);
    assert_int_equal(fb_expect_outlook(0.001, 0.02), FB_OUTLOOK_NONE);
    assert_non_null(strstr(fb_expect_sentence(FB_OUTLOOK_NONE), "no learning"));
}

/* Two hospitals, equal weights: batch 30, z = 2, n = 10^4 gives 0.15 a step; 4 steps and 2 hospitals leave noise
 * 1 / (0.15^2 * 8). */
static void patient_level(void **state)
{
    (void)state;
    const double factor[2] = {3.0, 3.0};
    const fb_dpsgd_plan plan = {.spec = {.noise_multiplier = 2.0, .n = 10000}, .batch = 30.0, .steps = 4};
    const fb_dpsgd_plan plans[2] = {plan, plan};
    fb_expectation e;
    assert_true(fabs(fb_expect_step_ratio(&plan) - 0.15) < 1e-12);
    fb_expect_dpsgd(plans, 2, factor, &e);
    assert_true(fabs(e.cosine - 1.0 / sqrt(1.0 + 1.0 / (0.15 * 0.15 * 8.0))) < 1e-12);
}

/* --- published settings: figures found independently, facts of the issue --- */

static void published_settings(void **state)
{
    (void)state;
    const fb_published head = {"head", 4702227, 0.9, 21.0, 2.0, 1, 1, 600, NULL};
    const fb_published paper = {"paper", 1176843, 0.1, 1.0, 1.0, 0, 0, 300, NULL};
    const fb_published tiny = {"split of epsilon 1 for q = 4", 4, 1.0, 1.0, 0.5, 1, 1, 1, NULL};
    fb_published_cost cost;
    fb_published_spend(&head, &cost);
    assert_int_equal(cost.count, 4232005);
    assert_true(fabs(cost.total - (2.0 * 4232005 + 21.0)) < 1e-6);
    assert_true(fabs(cost.share - 0.9375 * (1.0 - exp(-0.96))) < 1e-12 && fabs(cost.share - 0.5785) < 5e-5);
    assert_true(fabs(cost.scale_query_clips - 403050.0) < 50.0);
    fb_published_spend(&paper, &cost);
    assert_true(cost.count == 117685 && fabs(cost.scale_query_clips - 123.5) < 0.05);
    fb_published_spend(&tiny, &cost);
    assert_true(fabs(cost.threshold - 0.2) < 1e-12 && fabs(cost.query - 0.8) < 1e-12 && cost.answer == 2.0);
    /* what a user measured with fraction 0.1, 0.4, 0.6: 9 %, 27.5 %, 41 %; with 1: 63 % */
    const double nominal[] = {0.1, 0.4, 0.6, 1.0}, shared[] = {0.0906, 0.2753, 0.4130, 0.6321};
    for (int i = 0; i < 4; i++)
        assert_true(fabs(fb_published_share(nominal[i], fb_published_accepted(nominal[i])) - shared[i]) < 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(laplace_noise),
        cmocka_unit_test(noisy_selection),
        cmocka_unit_test(gaussian_noise),
        cmocka_unit_test(without_noise),
        cmocka_unit_test(closed_forms),
        cmocka_unit_test(rounds_and_outlook),
        cmocka_unit_test(patient_level),
        cmocka_unit_test(published_settings),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("expect", tests, NULL, NULL);
}
