/* SPDX-License-Identifier: Apache-2.0
 *
 * The sparse vector technique against its exact law: three coordinates, two to be selected, all probabilities added up
 * by enumeration. The chi-square of what fb_release selects is judged at 1e-6, and the same statistic rejects broken
 * forms of the algorithm, written out here.
 */
#include "privacy/laplace.h"
#include "privacy/mechanism.h"
#include "seeded_noise.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

enum { N = 3, C = 2, CLIP = 4, THRESHOLD = 2, SETS = 1 << N, TRIALS = 12000, TAIL = 120 };

static const int64_t magnitudes[N] = {4, 2, 0};
static const double Z_LIMIT = 4.7534; /* one-sided 1e-6 */

/* On the grid 2^-40 with a clip of 4 steps: noise scales 4 / 2 = 2 and 2 * 2 * 4 / 8 = 2. */
static const fb_release_spec spec = {.select = FB_SELECT_SVT,
                                     .fraction = (double)C / N,
                                     .mechanism = FB_MECHANISM_LAPLACE,
                                     .clip = CLIP * 0x1p-40,
                                     .threshold = THRESHOLD * 0x1p-40,
                                     .epsilon_threshold = 2.0,
                                     .epsilon_query = 8.0,
                                     .epsilon_answer = 16.0};

/* --- the law --- */

static double mass(double scale, int64_t x)
{
    const double a = exp(-1.0 / scale);
    return (1.0 - a) / (1.0 + a) * exp(-fabs((double)x) / scale);
}

/* P(X >= x) */
static double at_least(double scale, int64_t x)
{
    const double a = exp(-1.0 / scale);
    return x > 0 ? exp(-(double)x / scale) / (1.0 + a) : 1.0 - exp((double)(x - 1) / scale) / (1.0 + a);
}

/* One pass over the set `untested`, each time a random one of it; p[i]: probability that i passes its test. */
static void walk(const double p[N], int selected, int untested, double probability, double next[SETS])
{
    if (untested == 0 || __builtin_popcount((unsigned)selected) == C) {
        next[selected] += probability;
        return;
    }
    const double each = probability / __builtin_popcount((unsigned)untested);
    for (int i = 0; i < N; i++) {
        const int bit = 1 << i;
        if (untested & bit) {
            walk(p, selected | bit, untested & ~bit, each * p[i], next);
            walk(p, selected, untested & ~bit, each * (1.0 - p[i]), next);
        }
    }
}

static void find_law(const fb_budget *budget, double law[SETS])
{
    for (int set = 0; set < SETS; set++)
        law[set] = 0.0;
    for (int64_t t = THRESHOLD - TAIL; t <= THRESHOLD + TAIL; t++) {
        double p[N], now[SETS] = {mass(budget->scale_threshold, t - THRESHOLD)};
        for (int i = 0; i < N; i++)
            p[i] = at_least(budget->scale_query, t - magnitudes[i]);
        for (int pass = 0; pass < FB_SVT_PASSES; pass++) {
            double next[SETS] = {0.0};
            for (int set = 0; set < SETS; set++)
                walk(p, set, (SETS - 1) & ~set, now[set], next);
            for (int set = 0; set < SETS; set++)
                now[set] = next[set];
        }
        for (int set = 0; set < SETS; set++)
            law[set] += now[set];
    }
}

/* Chi-square of counts against the law as a standard normal; sets expected fewer than 5 times are put together. */
static double chi_square_z(const double law[SETS], const int64_t count[SETS])
{
    double statistic = 0.0, rare = 0.0, rare_count = 0.0;
    int bins = 0;
    for (int set = 0; set < SETS; set++) {
        const double expected = TRIALS * law[set], off = (double)count[set] - expected;
        if (expected < 5.0) {
            rare += expected;
            rare_count += (double)count[set];
        } else {
            statistic += off * off / expected;
            bins++;
        }
    }
    statistic += (rare_count - rare) * (rare_count - rare) / fmax(rare, 5.0);
    const double v = 2.0 / (9.0 * bins); /* bins and the rare one, less one */
    return (cbrt(statistic / bins) - (1.0 - v)) / sqrt(v);
}

/* --- the code --- */

static void test_release_follows_the_law(void **state)
{
    (void)state;
    const float dw[N] = {4 * 0x1p-40f, -2 * 0x1p-40f, 0.0f};
    fb_budget budget;
    fb_update update = {0};
    fb_release_report report;
    fb_noise *noise = make_noise(1);
    double law[SETS], sum = 0.0;
    int64_t count[SETS] = {0};
    must(fb_budget_plan(&spec, N, &budget));
    assert_int_equal(budget.count, C);
    assert_int_equal(budget.clip_grid, CLIP);
    assert_int_equal(budget.threshold_grid, THRESHOLD);
    for (uint32_t trial = 0; trial < TRIALS; trial++) {
        const fb_rng order = {.seed = 5, .purpose = FB_RNG_SELECT, .round = trial};
        int set = 0;
        const fb_release_input in = {.public_rng = &order, .noise = noise, .round = trial, .steps = 1, .dw = dw};
        must(fb_release(&spec, &budget, &in, &update, &report));
        for (int64_t k = 0; k < update.count; k++)
            set |= 1 << update.index[k];
        count[set]++;
    }
    fb_update_free(&update);
    fb_noise_destroy(&noise);
    find_law(&budget, law);
    for (int set = 0; set < SETS; set++)
        sum += law[set];
    assert_true(fabs(sum - 1.0) < 1e-9);
    const double z = chi_square_z(law, count);
    if (z > Z_LIMIT)
        fail_msg("z = %g", z);
}

/* --- broken forms --- */

typedef enum fault {
    SOUND,
    QUERY_NOISE_WITHOUT_C,
    NO_QUERY_NOISE,
    THRESHOLD_REDRAWN,
    THRESHOLD_WITHOUT_NOISE,
    ONE_PASS_ONLY,
    FIXED_ORDER,
    FAULTS
} fault;

typedef struct oracle {
    fault fault;
    fb_laplace *threshold, *query;
    fb_noise *noise;
    fb_rng order;
    uint32_t drawn; /* of the order */
} oracle;

static int64_t noised_threshold(const oracle *o)
{
    return THRESHOLD + (o->fault == THRESHOLD_WITHOUT_NOISE ? 0 : fb_laplace_draw(o->threshold, o->noise));
}

/* A random element of the set; with FIXED_ORDER the lowest. */
static int pick(oracle *o, int set)
{
    const uint32_t count = (uint32_t)__builtin_popcount((unsigned)set);
    uint32_t skip = o->fault == FIXED_ORDER ? 0 : fb_rng_below(&o->order, o->drawn++, count);
    int i = 0;
    while (!(set & 1 << i) || skip-- > 0)
        i++;
    return i;
}

/* Algorithm 7 of Lyu, Su & Li in its plainest form, with one fault. */
static int select_once(oracle *o)
{
    int selected = 0;
    int64_t threshold = noised_threshold(o);
    for (int pass = 0; pass < (o->fault == ONE_PASS_ONLY ? 1 : FB_SVT_PASSES); pass++) {
        int untested = (SETS - 1) & ~selected;
        while (untested != 0 && __builtin_popcount((unsigned)selected) < C) {
            const int i = pick(o, untested);
            if (o->fault == THRESHOLD_REDRAWN)
                threshold = noised_threshold(o);
            const int64_t noise = o->fault == NO_QUERY_NOISE ? 0 : fb_laplace_draw(o->query, o->noise);
            untested &= ~(1 << i);
            if (magnitudes[i] + noise >= threshold)
                selected |= 1 << i;
        }
    }
    return selected;
}

static double judge(fault f, const fb_budget *budget, const double law[SETS])
{
    oracle o = {.fault = f, .order = {.seed = 9, .purpose = FB_RNG_TEST}};
    int64_t count[SETS] = {0};
    o.noise = make_noise(100 + (uint64_t)f);
    must(fb_laplace_create(budget->scale_threshold, &o.threshold));
    must(fb_laplace_create(f == QUERY_NOISE_WITHOUT_C ? budget->scale_query / C : budget->scale_query, &o.query));
    fb_noise_seek(o.noise, &(fb_noise_address){.purpose = FB_NOISE_QUERY});
    for (int trial = 0; trial < TRIALS; trial++)
        count[select_once(&o)]++;
    fb_laplace_destroy(&o.threshold);
    fb_laplace_destroy(&o.query);
    fb_noise_destroy(&o.noise);
    return chi_square_z(law, count);
}

static void test_faults_are_found(void **state)
{
    (void)state;
    fb_budget budget;
    double law[SETS];
    must(fb_budget_plan(&spec, N, &budget));
    find_law(&budget, law);
    for (int f = SOUND; f < FAULTS; f++) {
        const double z = judge((fault)f, &budget, law);
        if (getenv("FB_VERBOSE"))
            print_message("fault %d: z = %.1f\n", f, z);
        if ((z > Z_LIMIT) != (f != SOUND))
            fail_msg("fault %d: z = %g", f, z);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_release_follows_the_law),
        cmocka_unit_test(test_faults_are_found),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("svt", tests, NULL, NULL);
}
