/* SPDX-License-Identifier: Apache-2.0
 *
 * Budget plan and release: what is kept is exact where there is no noise, noise has the planned scale where there is,
 * and what cannot be guaranteed is refused. Selection by rank is in test_select.c, the law of the SVT in test_svt.c.
 */
#include "blocks.h"
#include "privacy/laplace.h"
#include "privacy/mechanism.h"
#include "seeded_noise.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

enum { N = 50000, STEPS = 36 };

static const double Z_LIMIT = 4.8916; /* two-sided 1e-6 */
static const double CLIP = 1e-4;
static const fb_rng public_rng = {.seed = 3, .purpose = FB_RNG_SELECT, .hospital = 2, .round = 7};

/* A change of about half the clip a step, so that some coordinates are beyond it; owned by the caller. */
static float *make_dw(void)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    float *dw = NULL;
    must(FB_ALLOC(dw, N, "dw"));
    for (uint32_t i = 0; i < N; i++)
        dw[i] = (float)(0.5 * CLIP * STEPS * fb_rng_normal(&rng, i));
    dw[17] = -0.0f;
    return dw;
}

static fb_release_spec make_spec(fb_select select, double fraction, fb_mechanism mechanism)
{
    return (fb_release_spec){.select = select,
                             .fraction = fraction,
                             .mechanism = mechanism,
                             .clip = mechanism == FB_MECHANISM_NONE ? (double)INFINITY : CLIP,
                             .threshold = 0.25 * CLIP,
                             .epsilon_threshold = 1.0,
                             .epsilon_query = select == FB_SELECT_EXPONENTIAL ? 1e5 : 0.0,
                             .epsilon_answer = 1.0,
                             .answer_budget = FB_ANSWER_PER_PARAMETER,
                             .clip_answers = 1};
}

/* What draw k of the address that `noise` was sought to is, k = 0, 1, ... */
static int64_t draw(const fb_laplace *laplace, fb_noise *noise, int64_t k)
{
    before_draw(noise, k);
    return fb_laplace_draw(laplace, noise);
}

static fb_budget release(const fb_release_spec *spec, uint32_t attempt, uint32_t round, const float *dw, fb_update *out,
                         fb_release_report *report)
{
    fb_budget budget;
    uint32_t *mask = NULL;
    fb_noise *noise = spec->mechanism == FB_MECHANISM_NONE ? NULL : make_noise(4);
    must(fb_budget_plan(spec, N, &budget));
    must(FB_ALLOC(mask, budget.count, "public mask"));
    must(fb_select_public(&public_rng, N, NULL, budget.count, mask));
    const fb_release_input in = {.public_rng = &public_rng,
                                 .public_index = spec->select == FB_SELECT_PUBLIC ? mask : NULL,
                                 .noise = noise,
                                 .attempt = attempt,
                                 .round = round,
                                 .steps = STEPS,
                                 .dw = dw};
    must(fb_release(spec, &budget, &in, out, report));
    if (spec->select == FB_SELECT_PUBLIC && out->index)
        assert_memory_equal(out->index, mask, (size_t)out->count * sizeof *mask);
    fb_noise_destroy(&noise);
    FB_FREE(mask);
    assert_int_equal(out->n, N);
    assert_true(out->count <= budget.count);
    for (int64_t k = 1; out->index && k < out->count; k++)
        assert_true(out->index[k] > out->index[k - 1] && out->index[k] < N);
    return budget;
}

static int64_t coordinate(const fb_update *u, int64_t k)
{
    return u->index ? u->index[k] : k;
}

/* --- without a mechanism --- */

static void test_without_noise_dw_bit_for_bit(void **state)
{
    (void)state;
    static const double fractions[] = {1e-9, 0.1, 0.4, 1.0};
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    for (int select = FB_SELECT_ALL; select <= FB_SELECT_PUBLIC; select++) {
        for (int f = select == FB_SELECT_ALL ? 3 : 0; f < 4; f++) {
            fb_release_spec spec = make_spec((fb_select)select, fractions[f], FB_MECHANISM_NONE);
            spec.threshold = 0.0;
            const fb_budget budget = release(&spec, 0, 0, dw, &u, &report);
            assert_true(u.kind == FB_VALUES_F32 && u.count == budget.count && report.clipped == 0);
            assert_true(isinf(budget.epsilon_round) && (u.index == NULL) == (u.count == N));
            for (int64_t k = 0; k < u.count; k++)
                assert_memory_equal(&u.f32[k], &dw[coordinate(&u, k)], sizeof *dw);
            if (u.count == N)
                assert_memory_equal(u.f32, dw, N * sizeof *dw);
        }
    }
    fb_update_free(&u);
    FB_FREE(dw);
}

static void test_percentile_rule_clips(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    fb_release_spec spec = make_spec(FB_SELECT_TOPK, 0.1, FB_MECHANISM_NONE);
    spec.clip = CLIP;
    release(&spec, 0, 0, dw, &u, &report);
    const float limit = (float)(CLIP * STEPS);
    int64_t clipped = 0;
    for (int64_t k = 0; k < u.count; k++) {
        const float x = dw[u.index[k]];
        assert_true(u.f32[k] == (x > limit ? limit : x < -limit ? -limit : x));
        clipped += fabsf(x) > limit;
    }
    assert_true(clipped > 1000 && clipped == report.clipped);
    fb_update_free(&u);
    FB_FREE(dw);
}

/* Without noise the SVT shares what reaches the threshold, no more. */
static void test_svt_without_noise(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    for (int i = 0; i < 2; i++) {
        const fb_release_spec spec = make_spec(FB_SELECT_SVT, i == 0 ? 0.1 : 0.9, FB_MECHANISM_NONE);
        int64_t reaching = 0;
        release(&spec, 0, 0, dw, &u, &report);
        for (int64_t k = 0; k < N; k++)
            reaching += fabs((double)dw[k]) / STEPS >= spec.threshold;
        assert_int_equal(u.count, i == 0 ? N / 10 : reaching);
        for (int64_t k = 0; k < u.count; k++)
            assert_true(fabs((double)dw[u.index[k]]) / STEPS >= spec.threshold);
    }
    fb_update_free(&u);
    FB_FREE(dw);
}

static void test_random_is_public_and_fair(void **state)
{
    (void)state;
    enum { SMALL = 20, COUNT = 6, TRIALS = 20000 };
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    uint32_t *server = NULL;
    const fb_release_spec spec = make_spec(FB_SELECT_RANDOM, 0.1, FB_MECHANISM_LAPLACE);
    const fb_budget budget = release(&spec, 0, 7, dw, &u, &report);
    must(FB_ALLOC(server, budget.count, "the server's"));
    must(fb_select_random(&public_rng, N, budget.count, server));
    assert_memory_equal(u.index, server, (size_t)budget.count * sizeof *server);
    int64_t times[SMALL] = {0};
    for (uint32_t t = 0; t < TRIALS; t++) {
        fb_rng rng = public_rng;
        rng.round = t;
        must(fb_select_random(&rng, SMALL, COUNT, server));
        for (int k = 0; k < COUNT; k++)
            times[server[k]]++;
    }
    const double p = (double)COUNT / SMALL;
    for (int i = 0; i < SMALL; i++)
        assert_true(fabs((double)times[i] - TRIALS * p) < Z_LIMIT * sqrt(TRIALS * p * (1.0 - p)));
    fb_update_free(&u);
    FB_FREE(server);
    FB_FREE(dw);
}

/* With dpsgd the noise is in dW already: it is shared as without a mechanism, bit for bit. */
static void test_dpsgd_is_shared_exactly(void **state)
{
    (void)state;
    static const fb_select selects[] = {FB_SELECT_ALL, FB_SELECT_TOPK, FB_SELECT_RANDOM, FB_SELECT_PUBLIC};
    float *dw = make_dw();
    fb_update plain = {0}, private = {0};
    fb_release_report report;
    for (int i = 0; i < 4; i++) {
        fb_release_spec spec = make_spec(selects[i], selects[i] == FB_SELECT_ALL ? 1.0 : 0.3, FB_MECHANISM_NONE);
        release(&spec, 0, 0, dw, &plain, &report);
        spec.mechanism = FB_MECHANISM_DPSGD;
        release(&spec, 0, 0, dw, &private, &report);
        assert_true(private.kind == FB_VALUES_F32 && private.count == plain.count);
        assert_memory_equal(private.f32, plain.f32, (size_t)plain.count * sizeof *plain.f32);
        if (plain.index)
            assert_memory_equal(private.index, plain.index, (size_t)plain.count * sizeof *plain.index);
    }
    fb_update_free(&plain);
    fb_update_free(&private);
    FB_FREE(dw);
}

/* --- with noise --- */

/* The clipped change on the grid, written out. */
static int64_t on_grid(const fb_budget *budget, float dw)
{
    const double u = fmax(-CLIP, fmin(CLIP, (double)dw / STEPS));
    return (int64_t)trunc(ldexp(u, -budget->grid_log2));
}

/* A budget so large that the noise is 0 but once in four million: what remains is selection, clip and grid. */
static void test_noise_off_is_the_identity(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    for (int select = FB_SELECT_ALL; select <= FB_SELECT_PUBLIC; select++) {
        fb_release_spec spec = make_spec((fb_select)select, select == FB_SELECT_ALL ? 1.0 : 0.4, FB_MECHANISM_LAPLACE);
        spec.epsilon_answer = 2.74e7;
        spec.clip_answers = 0; /* which would hide what the first clip let through */
        const fb_budget budget = release(&spec, 0, 0, dw, &u, &report);
        int64_t clipped = 0;
        assert_true(u.kind == FB_VALUES_GRID && u.grid_log2 == budget.grid_log2 && u.count == budget.count);
        for (int64_t k = 0; k < u.count; k++)
            assert_int_equal(u.grid[k], on_grid(&budget, dw[coordinate(&u, k)]));
        for (int64_t i = 0; i < N; i++)
            clipped += fabs((double)dw[i] / STEPS) > CLIP;
        assert_true(clipped > 1000 && report.clipped == clipped && report.non_finite == 0);
    }
    fb_update_free(&u);
    FB_FREE(dw);
}

/* Mean of |answer - grid value| as a standard normal under the planned scale; large: mean and deviation are the scale.
 */
static double answer_z(const fb_release_spec *spec, const float *dw, double factor)
{
    fb_update u = {0};
    fb_release_report report;
    const fb_budget budget = release(spec, 0, 0, dw, &u, &report);
    double sum = 0.0;
    for (int64_t k = 0; k < u.count; k++)
        sum += fabs((double)(u.grid[k] - on_grid(&budget, dw[coordinate(&u, k)])));
    const double z = (sum / (double)u.count / (budget.scale_answer * factor) - 1.0) * sqrt((double)u.count);
    fb_update_free(&u);
    return z;
}

static void test_answers_have_the_planned_noise(void **state)
{
    (void)state;
    float *dw = make_dw();
    for (int select = FB_SELECT_ALL; select <= FB_SELECT_PUBLIC; select++) {
        for (int budget = FB_ANSWER_TOTAL; budget <= FB_ANSWER_PER_PARAMETER; budget++) {
            fb_release_spec spec =
                make_spec((fb_select)select, select == FB_SELECT_ALL ? 1.0 : 0.4, FB_MECHANISM_LAPLACE);
            spec.answer_budget = (fb_answer_budget)budget;
            spec.clip_answers = 0;
            assert_true(fabs(answer_z(&spec, dw, 1.0)) < Z_LIMIT);
            assert_true(fabs(answer_z(&spec, dw, 1.1)) > Z_LIMIT); /* and would show 10 % */
        }
    }
    FB_FREE(dw);
}

/* Answers are fresh: their noise comes from its own address, which no test of the selection used. */
static void test_answers_have_their_own_address(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(4);
    fb_release_spec spec = make_spec(FB_SELECT_SVT, 0.1, FB_MECHANISM_LAPLACE);
    spec.clip_answers = 0;
    const fb_budget budget = release(&spec, 5, 6, dw, &u, &report);
    must(fb_laplace_create(budget.scale_answer, &laplace));
    fb_noise_seek(noise, &(fb_noise_address){.attempt = 5, .round = 6, .purpose = FB_NOISE_ANSWER});
    for (int64_t k = 0; k < u.count; k++)
        assert_int_equal(u.grid[k], on_grid(&budget, dw[u.index[k]]) + draw(laplace, noise, k));
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    fb_update_free(&u);
    FB_FREE(dw);
}

/* The published order: noise on the value before any clip, then the clip. Of a coordinate a hundred times the clip the
 * noise can hide nothing, which is why there is no epsilon. */
static void test_as_published_noises_before_the_clip(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(4);
    fb_release_spec spec = make_spec(FB_SELECT_SVT_AS_PUBLISHED, 0.3, FB_MECHANISM_LAPLACE);
    int64_t differing = 0;
    spec.clip_answers = 0; /* it clips all the same */
    spec.answer_budget = FB_ANSWER_TOTAL;
    for (int i = 0; i < N; i += 10)
        dw[i] *= 200.0f;
    const fb_budget budget = release(&spec, 5, 6, dw, &u, &report);
    must(fb_laplace_create(2.0 * (double)budget.clip_grid, &laplace));
    fb_noise_seek(noise, &(fb_noise_address){.attempt = 5, .round = 6, .purpose = FB_NOISE_ANSWER});
    for (int64_t k = 0; k < u.count; k++) {
        const int64_t limit = budget.clip_grid, drawn = draw(laplace, noise, k);
        const int64_t before = (int64_t)trunc(ldexp((double)dw[u.index[k]] / STEPS, -budget.grid_log2)) + drawn;
        const int64_t after = on_grid(&budget, dw[u.index[k]]) + drawn; /* clip first: the sound order */
        assert_int_equal(u.grid[k], before > limit ? limit : before < -limit ? -limit : before);
        differing += u.grid[k] != (after > limit ? limit : after < -limit ? -limit : after);
    }
    assert_true(differing > 100 && report.clipped > 1000);
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    fb_update_free(&u);
    FB_FREE(dw);
}

/* The server sees values on the grid and adds the noise of one hospital to their sum. */
static void test_central_laplace(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    int64_t *sum = NULL;
    fb_noise *noise = make_noise(9);
    fb_laplace *laplace = NULL;
    fb_release_spec spec = make_spec(FB_SELECT_RANDOM, 0.4, FB_MECHANISM_LAPLACE);
    spec.trust = FB_TRUST_CENTRAL;
    const fb_budget budget = release(&spec, 0, 0, dw, &u, &report);
    must(FB_ALLOC(sum, u.count, "sum"));
    for (int64_t k = 0; k < u.count; k++) {
        assert_int_equal(u.grid[k], on_grid(&budget, dw[u.index[k]]));
        sum[k] = 13 * u.grid[k];
    }
    must(fb_release_server_noise(&spec, &budget, noise, 1, 2, u.count, sum));
    must(fb_laplace_create(budget.scale_answer, &laplace));
    fb_noise_seek(noise, &(fb_noise_address){.attempt = 1, .round = 2, .purpose = FB_NOISE_SERVER});
    for (int64_t k = 0; k < u.count; k++)
        assert_int_equal(sum[k], 13 * u.grid[k] + draw(laplace, noise, k));
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    fb_update_free(&u);
    FB_FREE(sum);
    FB_FREE(dw);
}

static void test_svt_release(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    fb_release_spec spec = make_spec(FB_SELECT_SVT, 0.9, FB_MECHANISM_LAPLACE);
    fb_budget budget = release(&spec, 0, 0, dw, &u, &report);
    assert_int_equal(u.count, budget.count);
    assert_true(report.passes >= 2 && report.tests > u.count); /* at half accepted a pass */
    int64_t at_limit = 0;
    for (int64_t k = 0; k < u.count; k++) {
        assert_true(llabs(u.grid[k]) <= budget.clip_grid);
        at_limit += llabs(u.grid[k]) == budget.clip_grid;
    }
    assert_true(at_limit > u.count / 10); /* the second clip was at work: noise of twice the clip */
    /* a threshold that few reach and hardly any noise: fewer than c, after all passes */
    spec.threshold = CLIP;
    spec.epsilon_threshold = 1.25e7;
    spec.epsilon_query = 1.2e12;
    budget = release(&spec, 0, 0, dw, &u, &report);
    int64_t reaching = 0;
    for (int64_t i = 0; i < N; i++)
        reaching += llabs(on_grid(&budget, dw[i])) >= budget.threshold_grid;
    assert_true(reaching > 1000 && u.count == reaching && report.passes == FB_SVT_PASSES);
    assert_int_equal(report.tests, N + (FB_SVT_PASSES - 1) * (N - reaching));
    fb_update_free(&u);
    FB_FREE(dw);
}

static int same_update(const fb_update *a, const fb_update *b)
{
    const size_t count = (size_t)a->count;
    return a->count == b->count && memcmp(a->index, b->index, count * sizeof *a->index) == 0 &&
           memcmp(a->grid, b->grid, count * sizeof *a->grid) == 0;
}

static void test_repeatable_by_address(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update first = {0}, again = {0};
    fb_release_report report;
    const fb_release_spec spec = make_spec(FB_SELECT_SVT, 0.1, FB_MECHANISM_LAPLACE);
    release(&spec, 1, 2, dw, &first, &report);
    release(&spec, 1, 2, dw, &again, &report);
    assert_true(same_update(&first, &again));
    release(&spec, 2, 2, dw, &again, &report); /* a replay is a new attempt */
    assert_false(same_update(&first, &again));
    release(&spec, 1, 3, dw, &again, &report);
    assert_false(same_update(&first, &again));
    fb_update_free(&first);
    fb_update_free(&again);
    FB_FREE(dw);
}

static void test_non_finite(void **state)
{
    (void)state;
    float *dw = make_dw();
    fb_update u = {0};
    fb_release_report report;
    fb_budget budget;
    dw[3] = (float)NAN;
    dw[4] = -(float)INFINITY;
    dw[N - 1] = (float)INFINITY;
    fb_release_spec spec = make_spec(FB_SELECT_ALL, 1.0, FB_MECHANISM_LAPLACE);
    spec.epsilon_answer = 2.74e7;
    release(&spec, 0, 0, dw, &u, &report);
    assert_int_equal(report.non_finite, 3);
    assert_true(u.grid[3] == 0 && u.grid[4] == 0 && u.grid[N - 1] == 0);
    fb_update_free(&u);
    for (int select = FB_SELECT_ALL; select <= FB_SELECT_SVT; select++) {
        spec = make_spec((fb_select)select, 1.0, FB_MECHANISM_NONE);
        must(fb_budget_plan(&spec, N, &budget));
        const fb_release_input in = {.public_rng = &public_rng, .steps = STEPS, .dw = dw};
        must_fail(fb_release(&spec, &budget, &in, &u, &report), "coordinate 3 is nan");
        assert_null(u.f32);
    }
    FB_FREE(dw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_noise_dw_bit_for_bit),
        cmocka_unit_test(test_percentile_rule_clips),
        cmocka_unit_test(test_svt_without_noise),
        cmocka_unit_test(test_random_is_public_and_fair),
        cmocka_unit_test(test_dpsgd_is_shared_exactly),
        cmocka_unit_test(test_noise_off_is_the_identity),
        cmocka_unit_test(test_answers_have_the_planned_noise),
        cmocka_unit_test(test_answers_have_their_own_address),
        cmocka_unit_test(test_as_published_noises_before_the_clip),
        cmocka_unit_test(test_central_laplace),
        cmocka_unit_test(test_svt_release),
        cmocka_unit_test(test_repeatable_by_address),
        cmocka_unit_test(test_non_finite),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("mechanism", tests, NULL, NULL);
}
