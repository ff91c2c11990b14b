/* SPDX-License-Identifier: Apache-2.0
 *
 * The number of threads shows in no bit of a release: every selection with every mechanism, the server's noise, a step
 * of dpsgd, selection by rank. And the SVT, whose tests are made in batches, against its plain form, one test after the
 * other.
 */
#include "blocks.h"
#include "privacy/dpsgd.h"
#include "privacy/exponential.h"
#include "privacy/gauss.h"
#include "privacy/grid.h"
#include "privacy/mechanism.h"
#include "privacy/select.h"
#include "privacy/svt.h"
#include "seeded_noise.h"
#include "testing.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

enum { N = 170021, STEPS = 3, THREADS_MAX = 3 };

static const double CLIP = 1e-4;
static const fb_rng public_rng = {.seed = 3, .purpose = FB_RNG_SELECT, .hospital = 2, .round = 7};

/* Rounded, so that there are ties; some beyond the clip. Owned by the caller. */
static float *make_dw(void)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    float *dw = NULL;
    must(FB_ALLOC(dw, N, "dw"));
    for (uint32_t i = 0; i < N; i++)
        dw[i] = (float)(0.5 * CLIP * STEPS * nearbyint(100.0 * fb_rng_normal(&rng, i)) / 100.0);
    return dw;
}

static uint64_t hash(uint64_t h, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001B3); /* FNV-1a */
    return h;
}

/* --- releases --- */

static fb_release_spec make_spec(fb_select select, fb_mechanism mechanism)
{
    return (fb_release_spec){.select = select,
                             .fraction = select == FB_SELECT_ALL ? 1.0 : 0.3,
                             .mechanism = mechanism,
                             .clip = mechanism == FB_MECHANISM_NONE ? 1.5 * CLIP : CLIP,
                             .threshold = 0.25 * CLIP,
                             .epsilon_threshold = 1.0,
                             .epsilon_query = 1e5,
                             .epsilon_answer = 1.0,
                             .answer_budget = FB_ANSWER_PER_PARAMETER,
                             .clip_norm = 0.005,
                             .noise_multiplier = 1.0,
                             .clip_answers = 1};
}

static uint64_t release_hash(const fb_release_spec *spec, const fb_budget *budget, const uint32_t *mask,
                             const float *dw)
{
    fb_update out = {0};
    fb_release_report report;
    fb_noise *noise = make_noise(4);
    const fb_release_input in = {.public_rng = &public_rng,
                                 .public_index = spec->select == FB_SELECT_PUBLIC ? mask : NULL,
                                 .noise = noise,
                                 .attempt = 1,
                                 .round = 2,
                                 .steps = STEPS,
                                 .dw = dw};
    double overlap = 0.0;
    must(fb_release(spec, budget, &in, &out, &report));
    must(fb_release_overlap(&out, dw, &overlap));
    const size_t count = (size_t)out.count;
    uint64_t h = hash(0, &out.count, sizeof out.count);
    h = hash(h, &overlap, sizeof overlap);
    h = hash(h, &report.norm_scale, sizeof report.norm_scale);
    const int64_t counts[4] = {report.tests, report.passes, report.clipped, report.non_finite};
    h = hash(h, counts, sizeof counts);
    h = out.index ? hash(h, out.index, count * sizeof *out.index) : h;
    h = out.f32 ? hash(h, out.f32, count * sizeof *out.f32) : hash(h, out.grid, count * sizeof *out.grid);
    fb_update_free(&out);
    fb_noise_destroy(&noise);
    return h;
}

static void test_releases(void **state)
{
    (void)state;
    float *dw = make_dw();
    int combinations = 0;
    for (int select = FB_SELECT_ALL; select <= FB_SELECT_PUBLIC; select++) {
        for (int mechanism = FB_MECHANISM_NONE; mechanism <= FB_MECHANISM_GAUSSIAN; mechanism++) {
            const fb_release_spec spec = make_spec((fb_select)select, (fb_mechanism)mechanism);
            fb_budget budget;
            uint32_t *mask = NULL;
            uint64_t h[THREADS_MAX];
            if (!fb_guarantee_find(spec.select, spec.mechanism))
                continue;
            must(fb_budget_plan(&spec, N, &budget));
            must(FB_ALLOC(mask, budget.count, "public mask"));
            dw[N - 5] = mechanism == FB_MECHANISM_NONE ? 0.0f : (float)NAN;
            for (int threads = 1; threads <= THREADS_MAX; threads++) {
                omp_set_num_threads(threads);
                must(fb_select_public(&public_rng, N, NULL, budget.count, mask));
                h[threads - 1] = release_hash(&spec, &budget, mask, dw);
                if (h[threads - 1] != h[0])
                    fail_msg("select %d, mechanism %d: %d threads differ from one", select, mechanism, threads);
            }
            FB_FREE(mask);
            combinations++;
        }
    }
    assert_true(combinations >= 15);
    FB_FREE(dw);
}

static void test_server_noise(void **state)
{
    (void)state;
    for (int mechanism = FB_MECHANISM_LAPLACE; mechanism <= FB_MECHANISM_GAUSSIAN; mechanism++) {
        fb_release_spec spec = make_spec(FB_SELECT_ALL, (fb_mechanism)mechanism);
        fb_budget budget;
        int64_t *sum[2] = {NULL, NULL}; /* of one thread, and of more */
        fb_noise *noise = make_noise(4);
        spec.trust = FB_TRUST_CENTRAL;
        must(fb_budget_plan(&spec, N, &budget));
        for (int threads = 1; threads <= THREADS_MAX; threads++) {
            int64_t **to = &sum[threads > 1];
            FB_FREE(*to);
            must(FB_ALLOC(*to, N, "sum"));
            omp_set_num_threads(threads);
            must(fb_release_server_noise(&spec, &budget, noise, 1, 2, N, *to));
            if (threads > 1)
                assert_memory_equal(sum[0], sum[1], N * sizeof *sum[0]);
        }
        fb_noise_destroy(&noise);
        FB_FREE(sum[0]);
        FB_FREE(sum[1]);
    }
}

/* --- dpsgd --- */

static void test_dpsgd(void **state)
{
    (void)state;
    const fb_dpsgd_spec spec = {.clip_norm = 1e-3, .noise_multiplier = 1.0, .cases = 7, .epochs = 1, .n = N};
    fb_dpsgd_plan plan;
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(4);
    float *dw = make_dw(), *gradient = NULL;
    int32_t *scratch = NULL;
    int64_t *sum = NULL;
    uint64_t h[THREADS_MAX];
    must(fb_dpsgd_plan_make(&spec, &plan));
    must(fb_gauss_create(plan.sigma, &gauss));
    must(FB_ALLOC(gradient, N, "gradient"));
    must(FB_ALLOC(scratch, N, "scratch"));
    must(FB_ALLOC(sum, N, "sum"));
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        fb_dpsgd_report report = {0};
        omp_set_num_threads(threads);
        memset(sum, 0, N * sizeof *sum);
        fb_dpsgd_add(&plan, dw, scratch, sum, &report);
        assert_int_equal(report.clipped, 1);
        fb_dpsgd_finish(&plan, gauss, noise, 0, 1, 2, sum, gradient);
        h[threads - 1] = hash(0, gradient, N * sizeof *gradient);
        assert_true(h[threads - 1] == h[0]);
    }
    for (int64_t k = 0; k < N; k++) {
        before_draw(noise, k);
        const double exact = (double)(sum[k] + fb_gauss_draw(gauss, noise));
        assert_true(gradient[k] == (float)(exact * (ldexp(1.0, plan.grid_log2) / plan.batch)));
    }
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
    FB_FREE(dw);
    FB_FREE(gradient);
    FB_FREE(scratch);
    FB_FREE(sum);
}

/* --- selection by rank --- */

/* With few values, so that ties lie on both sides of every chunk, and all counts near the ends. */
static void test_selection_by_rank(void **state)
{
    (void)state;
    static const int64_t counts[] = {1, 2, 1000, N / 3, N / 2, N - 1, N};
    const fb_rng rng = {.seed = 5, .purpose = FB_RNG_TEST};
    float *x = NULL;
    int64_t *key = NULL;
    uint32_t *one = NULL, *more = NULL;
    must(FB_ALLOC(x, N, "values"));
    must(FB_ALLOC(key, N, "keys"));
    must(FB_ALLOC(one, N, "indices"));
    must(FB_ALLOC(more, N, "indices"));
    for (int form = 0; form < 3; form++) {
        for (uint32_t i = 0; i < N; i++) {
            const uint32_t few = fb_rng_below(&rng, i, 5);
            key[i] = form == 0 ? (int64_t)few - 2 : form == 1 ? 7 : (int64_t)(fb_rng_uniform(&rng, i) * 0x1p62);
            x[i] = form == 2 ? (float)fb_rng_normal(&rng, i) : (float)key[i];
        }
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            for (int keys = 0; keys <= 1; keys++) {
                for (int threads = 1; threads <= THREADS_MAX; threads++) {
                    uint32_t *index = threads == 1 ? one : more;
                    omp_set_num_threads(threads);
                    if (keys)
                        must(fb_select_largest(N, key, counts[c], index));
                    else
                        must(fb_select_topk(N, x, counts[c], index));
                    if (threads > 1)
                        assert_memory_equal(one, more, (size_t)counts[c] * sizeof *one);
                }
            }
        }
    }
    FB_FREE(x);
    FB_FREE(key);
    FB_FREE(one);
    FB_FREE(more);
}

/* --- the SVT, one test after the other --- */

typedef struct plain {
    int64_t tests, passes, selected;
    uint8_t chosen[N];
} plain;

/* Algorithm 7 of Lyu, Su & Li, with the draws as noise.h numbers them and a Fisher-Yates shuffle for each pass. */
static void select_plainly(const fb_budget *budget, fb_noise *noise, const int32_t *grid, plain *out)
{
    const fb_svt_tables tables = fb_svt_tables_of(budget);
    fb_rng order = public_rng;
    uint32_t *rest = NULL;
    int64_t left = budget->n;
    *out = (plain){0};
    must(FB_ALLOC(rest, left, "order"));
    fb_noise_seek(noise, &(fb_noise_address){.attempt = 1, .round = 2, .purpose = FB_NOISE_THRESHOLD});
    const int64_t threshold = budget->threshold_grid + fb_tail_draw(&tables.threshold, noise);
    for (uint32_t i = 0; i < left; i++)
        rest[i] = i;
    for (uint16_t pass = 0; pass < FB_SVT_PASSES && out->selected < budget->count; pass++) {
        int64_t kept = 0;
        order.epoch = pass;
        fb_noise_seek(noise, &(fb_noise_address){1, 2, 0, FB_NOISE_QUERY, pass});
        for (int64_t k = 0; k < left && out->selected < budget->count; k++) {
            const int64_t other = k + fb_rng_below(&order, (uint32_t)k, (uint32_t)(left - k));
            const uint32_t i = rest[other];
            rest[other] = rest[k];
            before_draw(noise, k);
            out->tests++;
            if (fb_tail_reaches(&tables.query, threshold - abs(grid[i]), noise)) {
                out->chosen[i] = 1;
                out->selected++;
            } else {
                rest[kept++] = i;
            }
        }
        left = kept;
        out->passes++;
    }
    FB_FREE(rest);
}

static void compare_svt(const fb_budget *budget, const int32_t *grid, const plain *expected, uint32_t *index)
{
    fb_noise *noise = make_noise(4);
    fb_release_report report = {0};
    int64_t selected = 0, next = 0;
    must(fb_svt_select(budget, &public_rng, noise, 1, 2, grid, index, &selected, &report));
    assert_int_equal(selected, expected->selected);
    assert_int_equal(report.tests, expected->tests);
    assert_int_equal(report.passes, expected->passes);
    for (uint32_t i = 0; i < budget->n; i++)
        if (expected->chosen[i])
            assert_int_equal(index[next++], i);
    assert_int_equal(next, selected);
    fb_noise_destroy(&noise);
}

/* Stops within a block, at its ends, in the first batch and after several passes, and never; of one coordinate and of
 * numbers around a block and a batch. */
static void test_svt_is_the_plain_one(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 3, 255, 256, 257, 1023, 1024, 1025, 1281, 20000, 65536, N};
    fb_noise *noise = make_noise(4);
    float *dw = make_dw();
    int32_t *grid = NULL;
    uint32_t *index = NULL;
    plain *expected = NULL;
    int64_t most_passes = 0, short_of_count = 0;
    must(FB_ALLOC(grid, N, "grid"));
    must(FB_ALLOC(index, N, "indices"));
    must(FB_ALLOC(expected, 1, "expected"));
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        static const double fractions[] = {0.00001, 0.003, 0.1, 0.3, 0.31, 0.8, 1.0};
        for (size_t f = 0; f < sizeof fractions / sizeof fractions[0]; f++) {
            fb_release_spec spec = make_spec(FB_SELECT_SVT, FB_MECHANISM_LAPLACE);
            fb_release_report report;
            fb_budget budget;
            spec.fraction = fractions[f];
            spec.threshold = f == 5 ? CLIP : 0.25 * CLIP; /* which few reach, however often they are tested */
            spec.epsilon_threshold = f == 5 ? 1e3 : 1.0;
            spec.epsilon_query = f % 2 ? 2e6 * (double)sizes[s] / N : 0.0; /* noise that decides little, or much */
            must(fb_budget_plan(&spec, sizes[s], &budget));
            fb_grid_quantise(&budget, CLIP, STEPS, dw, grid, &report);
            select_plainly(&budget, noise, grid, expected);
            most_passes = expected->passes > most_passes ? expected->passes : most_passes;
            short_of_count += expected->selected < budget.count;
            for (int threads = 1; threads <= THREADS_MAX; threads++) {
                omp_set_num_threads(threads);
                compare_svt(&budget, grid, expected, index);
            }
        }
    }
    assert_true(most_passes > 5 && short_of_count > 0);
    fb_noise_destroy(&noise);
    FB_FREE(dw);
    FB_FREE(grid);
    FB_FREE(index);
    FB_FREE(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_releases),
        cmocka_unit_test(test_server_noise),
        cmocka_unit_test(test_dpsgd),
        cmocka_unit_test(test_selection_by_rank),
        cmocka_unit_test(test_svt_is_the_plain_one),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("noise threads", tests, NULL, NULL);
}
