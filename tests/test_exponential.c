/* SPDX-License-Identifier: Apache-2.0
 *
 * The exponential mechanism of a release against its exact law: four coordinates, two selected, the probabilities of
 * all sets added up over the orders of peeling. The chi-square of what fb_release selects is judged at 1e-6, and the
 * same statistic rejects broken forms, written out here. The claims of the budget hold for all neighbours of small
 * cases.
 */
#include "privacy/exponential.h"
#include "privacy/gumbel.h"
#include "privacy/mechanism.h"
#include "seeded_noise.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

enum { N = 4, C = 2, CLIP = 4, SETS = 1 << N, TRIALS = 30000 };

static const int magnitudes[N] = {4, 3, 1, 0};
static const double Z_LIMIT = 4.7534; /* one-sided 1e-6 */

/* On the grid 2^-40 with a clip of 4 steps; each of the two selections has epsilon 4. */
static const fb_release_spec spec = {.select = FB_SELECT_EXPONENTIAL,
                                     .fraction = (double)C / N,
                                     .mechanism = FB_MECHANISM_LAPLACE,
                                     .clip = CLIP * 0x1p-40,
                                     .epsilon_query = 8.0,
                                     .epsilon_answer = 16.0};

/* --- the law --- */

/* Peels `count` more of the n weights that `taken` leaves, adding up the probabilities of the sets. */
static void peel(int n, const double *weight, int count, int taken, double probability, double *law)
{
    double sum = 0.0;
    if (count == 0) {
        law[taken] += probability;
        return;
    }
    for (int i = 0; i < n; i++)
        sum += taken & 1 << i ? 0.0 : weight[i];
    for (int i = 0; i < n; i++)
        if (!(taken & 1 << i))
            peel(n, weight, count - 1, taken | 1 << i, probability * weight[i] / sum, law);
}

/* exp(score) with the integer scores of the code, whose largest is score_max, times `factor`. */
static void weigh(const fb_budget *budget, double factor, int n, const int *magnitude, double *weight)
{
    const double score_max = floor(fb_exponential_score_max(budget));
    for (int i = 0; i < n; i++)
        weight[i] = exp(factor * ldexp(score_max, -FB_GUMBEL_FRACTION_BITS) * magnitude[i] / (double)budget->clip_grid);
}

static double chi_square_z(const double law[SETS], const int64_t count[SETS])
{
    double statistic = 0.0;
    int bins = -1;
    for (int set = 0; set < SETS; set++) {
        const double expected = TRIALS * law[set], off = (double)count[set] - expected;
        assert_true(expected == 0.0 || expected > 20.0);
        bins += expected > 0.0;
        statistic += expected > 0.0 ? off * off / expected : (double)count[set] * TRIALS;
    }
    const double v = 2.0 / (9.0 * bins);
    return (cbrt(statistic / bins) - (1.0 - v)) / sqrt(v);
}

static fb_budget plan(const fb_release_spec *s, int64_t n)
{
    fb_budget budget;
    must(fb_budget_plan(s, n, &budget));
    return budget;
}

static void test_release_follows_the_law_of_peeling(void **state)
{
    (void)state;
    const float dw[N] = {-4 * 0x1p-40f, 3 * 0x1p-40f, -0x1p-40f, 0.0f};
    const fb_budget budget = plan(&spec, N);
    fb_update update = {0};
    fb_release_report report;
    fb_noise *noise = make_noise(1);
    double weight[N], law[SETS] = {0.0};
    int64_t count[SETS] = {0};
    assert_true(budget.count == C && budget.clip_grid == CLIP);
    for (uint32_t trial = 0; trial < TRIALS; trial++) {
        const fb_release_input in = {.noise = noise, .round = trial, .steps = 1, .dw = dw};
        int set = 0;
        must(fb_release(&spec, &budget, &in, &update, &report));
        assert_int_equal(update.count, C);
        for (int64_t k = 0; k < update.count; k++)
            set |= 1 << update.index[k];
        count[set]++;
    }
    fb_update_free(&update);
    fb_noise_destroy(&noise);
    weigh(&budget, 1.0, N, magnitudes, weight);
    peel(N, weight, C, 0, 1.0, law);
    const double z = chi_square_z(law, count);
    if (z > Z_LIMIT)
        fail_msg("z = %g", z);
}

/* --- broken forms --- */

typedef enum fault {
    SOUND,
    TWICE_THE_SCORE, /* epsilon not divided by c = 2, or the score over C as if it were monotone */
    NO_NOISE,        /* the largest */
    LAPLACE_NOISE,   /* of the same scale */
    NOISE_NOT_FRESH, /* one Gumbel for all */
    DRAWN_WITH_REPLACEMENT /* fewer than c */,
    FAULTS
} fault;

static double uniform(fb_noise *noise)
{
    return ((double)(fb_noise_word(noise) >> 11) + 0.5) * 0x1p-53;
}

static double draw(fault f, fb_noise *noise)
{
    const double u = uniform(noise);
    if (f == LAPLACE_NOISE)
        return u < 0.5 ? log(2.0 * u) : -log(2.0 * (1.0 - u));
    return f == NO_NOISE ? 0.0 : -log(-log(u));
}

/* Top-c of score + noise, in plain doubles, with one fault. */
static int select_once(fault f, const double weight[N], fb_noise *noise)
{
    double key[N] = {0.0};
    int set = 0;
    const double same = draw(f, noise);
    for (int pass = 0; pass < C; pass++) {
        int best = -1;
        for (int i = 0; i < N; i++) {
            if (pass == 0 || f == DRAWN_WITH_REPLACEMENT)
                key[i] = log(weight[i]) + (f == NOISE_NOT_FRESH ? same : draw(f, noise));
            if ((!(set & 1 << i) || f == DRAWN_WITH_REPLACEMENT) && (best < 0 || key[i] > key[best]))
                best = i;
        }
        set |= 1 << best;
    }
    return set;
}

static void test_faults_are_found(void **state)
{
    (void)state;
    const fb_budget budget = plan(&spec, N);
    double weight[N], law[SETS] = {0.0};
    weigh(&budget, 1.0, N, magnitudes, weight);
    peel(N, weight, C, 0, 1.0, law);
    for (int f = SOUND; f < FAULTS; f++) {
        int64_t count[SETS] = {0};
        fb_noise *noise = make_noise(100 + (uint64_t)f);
        fb_noise_seek(noise, &(fb_noise_address){.purpose = FB_NOISE_GUMBEL});
        weigh(&budget, f == TWICE_THE_SCORE ? 2.0 : 1.0, N, magnitudes, weight);
        for (int trial = 0; trial < TRIALS; trial++)
            count[select_once((fault)f, weight, noise)]++;
        fb_noise_destroy(&noise);
        const double z = chi_square_z(law, count);
        if (getenv("FB_VERBOSE"))
            print_message("fault %d: z = %.1f\n", f, z);
        if ((z > Z_LIMIT) != (f != SOUND))
            fail_msg("fault %d: z = %g", f, z);
    }
}

/* --- the claims, by enumeration --- */

enum { SMALL = 4, STEPS = 3, SMALL_SETS = 1 << SMALL, CASES = STEPS * STEPS * STEPS * STEPS };

static const double orders[] = {1.25, 2.0, 8.0, 64.0};
enum { ORDERS = sizeof orders / sizeof orders[0] };

/* The largest privacy loss, and of Renyi divergence over its order, between any two cases. */
static void find_worst(const fb_budget *budget, double factor, double *epsilon, double *rho)
{
    static double law[CASES][SMALL_SETS];
    for (int c = 0; c < CASES; c++) {
        double weight[SMALL];
        int magnitude[SMALL];
        for (int i = 0, rest = c; i < SMALL; i++, rest /= STEPS)
            magnitude[i] = rest % STEPS * (CLIP / (STEPS - 1));
        weigh(budget, factor, SMALL, magnitude, weight);
        memset(law[c], 0, sizeof law[c]);
        peel(SMALL, weight, (int)budget->count, 0, 1.0, law[c]);
    }
    *epsilon = *rho = 0.0;
    for (int pair = 0; pair < CASES * CASES; pair++) {
        const double *p = law[pair / CASES], *q = law[pair % CASES];
        double sum[ORDERS] = {0.0};
        for (int set = 0; set < SMALL_SETS; set++) {
            const double loss = p[set] > 0.0 ? log(p[set] / q[set]) : 0.0;
            *epsilon = fmax(*epsilon, loss);
            for (int o = 0; o < ORDERS; o++)
                sum[o] += p[set] * exp((orders[o] - 1.0) * loss);
        }
        for (int o = 0; o < ORDERS; o++)
            *rho = fmax(*rho, log(sum[o]) / (orders[o] - 1.0) / orders[o]);
    }
}

/* epsilon_query in all, and zCDP of count bounded ranges; half the noise would break both. */
static void test_claims_hold_for_all_neighbours(void **state)
{
    (void)state;
    for (int c = 1; c <= 3; c++) {
        for (int e = -2; e <= 2; e += 2) {
            fb_release_spec s = spec;
            double epsilon = 0.0, rho = 0.0;
            s.fraction = (double)c / SMALL;
            s.epsilon_query = ldexp(c, e);
            const fb_budget budget = plan(&s, SMALL);
            const fb_event *event = &budget.events[0];
            assert_true(event->kind == FB_EVENT_BOUNDED_RANGE && event->count == c);
            const double claim = (double)event->count * event->epsilon * event->epsilon / 8.0;
            find_worst(&budget, 1.0, &epsilon, &rho);
            assert_true(epsilon <= (double)event->count * event->epsilon && rho <= claim);
            find_worst(&budget, 2.0, &epsilon, &rho);
            if (c == 1)
                assert_true(epsilon > (double)event->count * event->epsilon && rho > claim);
        }
    }
}

/* One of many: the coordinate whose score falls while all others' rise loses nearly all that is claimed. */
static void test_claim_is_reached(void **state)
{
    (void)state;
    enum { MANY = 1000 };
    fb_release_spec s = spec;
    double weight[2];
    s.fraction = 1.0 / MANY;
    s.epsilon_query = 1.0;
    const fb_budget budget = plan(&s, MANY);
    weigh(&budget, 1.0, 2, (const int[]){CLIP, 0}, weight);
    const double here = weight[0] / (weight[0] + (MANY - 1) * weight[1]);
    const double there = weight[1] / (weight[1] + (MANY - 1) * weight[0]);
    assert_true(log(here / there) > 0.998 && log(here / there) <= 1.0);
}

/* --- the code beyond small cases --- */

/* Scores so far apart that no noise reaches from one to the next: the largest, whatever their sign. */
static void test_large_budget_takes_the_largest(void **state)
{
    (void)state;
    enum { MANY = 900, COUNT = 300 };
    const fb_release_spec s = {.select = FB_SELECT_EXPONENTIAL,
                               .fraction = (double)COUNT / MANY,
                               .mechanism = FB_MECHANISM_LAPLACE,
                               .clip = 1000 * 0x1p-40,
                               .epsilon_query = COUNT * 0x1p20, /* 2^20 / 2000 for a step of the grid */
                               .epsilon_answer = 1.0};
    const fb_budget budget = plan(&s, MANY);
    fb_noise *noise = make_noise(3);
    int32_t grid[MANY];
    uint32_t index[COUNT];
    for (int32_t i = 0; i < MANY; i++)
        grid[i] = i * 7 % MANY * (i % 2 ? 1 : -1);
    must(fb_exponential_select(&budget, noise, 1, 2, grid, index));
    for (int k = 0, i = 0; k < COUNT; k++, i++) {
        while (abs(grid[i]) < MANY - COUNT)
            i++;
        assert_int_equal(index[k], i);
    }
    fb_noise_destroy(&noise);
}

/* What is drawn depends on key, attempt and round alone. */
static void test_address(void **state)
{
    (void)state;
    enum { MANY = 500 };
    static const uint32_t rounds[][2] = {{1, 2}, {1, 2}, {2, 2}, {1, 3}};
    fb_release_spec s = spec;
    s.fraction = 0.5;
    const fb_budget budget = plan(&s, MANY);
    fb_noise *noise = make_noise(4);
    int32_t grid[MANY] = {0};
    uint32_t index[4][MANY / 2];
    for (int i = 0; i < 4; i++)
        must(fb_exponential_select(&budget, noise, rounds[i][0], rounds[i][1], grid, index[i]));
    for (int i = 1; i < 4; i++)
        assert_int_equal(memcmp(index[0], index[i], sizeof index[0]) != 0, i > 1);
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_release_follows_the_law_of_peeling),
        cmocka_unit_test(test_faults_are_found),
        cmocka_unit_test(test_claims_hold_for_all_neighbours),
        cmocka_unit_test(test_claim_is_reached),
        cmocka_unit_test(test_large_budget_takes_the_largest),
        cmocka_unit_test(test_address),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("exponential", tests, NULL, NULL);
}
