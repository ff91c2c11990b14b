/* SPDX-License-Identifier: Apache-2.0
 *
 * The budget of a round: sensitivities, scales, sums and refusals, against the formulas written out.
 */
#include "privacy/gauss.h"
#include "privacy/gumbel.h"
#include "privacy/mechanism.h"
#include "privacy/tail.h"
#include "testing.h"

#include <math.h>

enum { PAPER_N = 1176843 };

static const double ROUNDING = 1e-14; /* a few roundings of doubles */

static fb_release_spec svt_spec(void)
{
    return (fb_release_spec){.select = FB_SELECT_SVT,
                             .fraction = 0.1,
                             .mechanism = FB_MECHANISM_LAPLACE,
                             .clip = 1e-4,
                             .threshold = 1e-6,
                             .epsilon_threshold = 0.5,
                             .epsilon_query = 2.0,
                             .epsilon_answer = 4.0};
}

static fb_budget plan(const fb_release_spec *spec, int64_t n)
{
    fb_budget budget;
    must(fb_budget_plan(spec, n, &budget));
    return budget;
}

static void assert_close(double value, double expected)
{
    if (!(fabs(value - expected) <= ROUNDING * fabs(expected)))
        fail_msg("%.17g, expected is %.17g", value, expected);
}

/* ceil(Q n) of the decimal fraction that is meant, whatever its double does. */
static void test_count_is_the_ceiling(void **state)
{
    (void)state;
    static const struct {
        double fraction;
        int64_t n, count;
    } cases[] = {{0.1, 10, 1},           {0.3, 10, 3},
                 {0.7, 10, 7},           {0.1, 11, 2},
                 {0.07, 100, 7},         {0.29, 100, 29},
                 {0.58, 100, 58},        {1e-9, 10, 1},
                 {1e-300, 10, 1},        {1.0, 7, 7},
                 {0.1, PAPER_N, 117685}, {0.4, PAPER_N, 470738},
                 {0.999, 1000, 999},     {1.0, PAPER_N, PAPER_N},
                 {0.9, 4702227, 4232005}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fb_release_spec spec = {.select = FB_SELECT_TOPK, .fraction = cases[i].fraction, .clip = INFINITY};
        assert_int_equal(plan(&spec, cases[i].n).count, cases[i].count);
    }
    for (int64_t n = 1; n <= 1000; n++) {
        for (int64_t k = 1; k <= n; k += 7) {
            fb_release_spec spec = {.select = FB_SELECT_TOPK, .fraction = (double)k / (double)n, .clip = INFINITY};
            assert_int_equal(plan(&spec, n).count, k);
        }
    }
}

static void test_grid(void **state)
{
    (void)state;
    for (int e = -40; e <= 20; e++) {
        fb_release_spec spec = svt_spec();
        spec.clip = ldexp(1.0, e);
        spec.threshold = ldexp(0.75, e);
        const fb_budget b = plan(&spec, PAPER_N);
        assert_true(b.grid_log2 == (e - 19 > -40 ? e - 19 : -40));
        assert_true(ldexp((double)b.clip_grid, b.grid_log2) == spec.clip); /* a power of two lies on the grid */
        assert_int_equal(b.threshold_grid, b.clip_grid * 3 / 4);
    }
    fb_release_spec spec = svt_spec();
    const fb_budget b = plan(&spec, PAPER_N);
    assert_int_equal(b.grid_log2, -33);
    assert_int_equal(b.clip_grid, 858993);    /* floor(1e-4 * 2^33) */
    assert_int_equal(b.threshold_grid, 8589); /* floor(1e-6 * 2^33) */
}

/* Of the SVT's tests, which lose at most `loss`. */
static double tests_rounding(double c, double loss)
{
    return 2.0 * fb_tail_rounding(700.0 + loss) * (c + 64.0 * PAPER_N + 62.0);
}

static void test_scales_and_sums(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    fb_budget b = plan(&spec, PAPER_N);
    const double c = 117685.0, clip = 858993.0;
    assert_close(b.scale_threshold, clip / 0.5);
    assert_close(b.scale_query, 2.0 * c * clip / 2.0);
    assert_close(b.scale_answer, 2.0 * clip * c / 4.0);
    assert_close(b.epsilon_answer_per_parameter, 4.0 / c);
    assert_close(b.epsilon_rounding, tests_rounding(c, 0.5) + 2.0 * c * fb_noise_rounding(700.0 + 4.0 / c));
    assert_true(b.epsilon_rounding < 4e-8); /* the price of tables, far below the last printed digit */
    assert_close(b.epsilon_round, 0.5 + 2.0 + 4.0 + b.epsilon_rounding);
    /* never more noise than needed by a rounding, never less */
    assert_true(clip / b.scale_threshold <= 0.5 && 2.0 * c * clip / b.scale_query <= 2.0);
    spec.answer_budget = FB_ANSWER_PER_PARAMETER;
    spec.epsilon_query = 0.0;
    b = plan(&spec, PAPER_N);
    assert_close(b.scale_answer, 2.0 * clip / 4.0);
    assert_close(b.epsilon_answer, 4.0 * c);
    assert_close(b.epsilon_answer_per_parameter, 4.0);
    assert_close(b.epsilon_query, 0.5 * pow(2.0 * c, 2.0 / 3.0)); /* the optimal split of Lyu, Su & Li */
    assert_close(b.epsilon_round, 0.5 + b.epsilon_query + 4.0 * c + b.epsilon_rounding);
    /* facts: epsilon 1, q 4 split 1 : (2 q)^(2/3) = 4 */
    spec.epsilon_threshold = 0.2;
    spec.fraction = 0.4;
    assert_close(plan(&spec, 10).epsilon_query, 0.8);
}

/* Doubling what noise depends on doubles or halves exactly that noise. */
static void test_metamorphic(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    const fb_budget one = plan(&spec, PAPER_N);
    spec.epsilon_threshold *= 2.0;
    spec.epsilon_query *= 2.0;
    spec.epsilon_answer *= 2.0;
    const fb_budget rich = plan(&spec, PAPER_N);
    assert_close(rich.scale_threshold, one.scale_threshold / 2.0);
    assert_close(rich.scale_query, one.scale_query / 2.0);
    assert_close(rich.scale_answer, one.scale_answer / 2.0);
    spec = svt_spec();
    const fb_budget few = plan(&spec, 100);
    spec.fraction = 0.2;
    const fb_budget more = plan(&spec, 100);
    assert_int_equal(more.count, 2 * few.count);
    assert_close(more.scale_threshold, few.scale_threshold);
    assert_close(more.scale_query, 2.0 * few.scale_query);
    assert_close(more.scale_answer, 2.0 * few.scale_answer);
    spec = svt_spec();
    spec.clip *= 2.0;
    const fb_budget wide = plan(&spec, PAPER_N); /* the grid grows with the clip */
    assert_int_equal(wide.grid_log2, one.grid_log2 + 1);
    assert_int_equal(wide.clip_grid, one.clip_grid);
    assert_true(wide.scale_answer == one.scale_answer && wide.scale_query == one.scale_query);
    assert_int_equal(wide.threshold_grid, one.threshold_grid / 2);
}

/* What is not used is not charged. */
static void test_other_selections(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    spec.select = FB_SELECT_RANDOM;
    fb_budget b = plan(&spec, 100);
    assert_true(b.scale_threshold == 0.0 && b.scale_query == 0.0 && b.epsilon_query == 0.0);
    assert_true(b.epsilon_rounding > 0.0 && b.epsilon_round == 4.0 + b.epsilon_rounding);
    spec.select = FB_SELECT_ALL;
    spec.fraction = 1.0;
    b = plan(&spec, 100);
    assert_true(b.count == 100 && b.epsilon_round == 4.0 + 200.0 * fb_noise_rounding(700.0 + 0.04));
    spec.select = FB_SELECT_TOPK;
    b = plan(&spec, 100); /* noise, but no guarantee */
    assert_true(b.scale_answer > 0.0 && isinf(b.epsilon_round));
    spec.mechanism = FB_MECHANISM_NONE;
    b = plan(&spec, 100);
    assert_true(b.scale_answer == 0.0 && b.clip_grid == 0 && isinf(b.epsilon_round));
}

enum { SELECTS = FB_SELECT_SVT_AS_PUBLISHED + 1, MECHANISMS = FB_MECHANISM_DPSGD + 1 };

/* The table of mechanism.h in one letter each: - no such combination, n no guarantee, h hospital, p patient. */
static const char expected_table[SELECTS][MECHANISMS + 1] = {[FB_SELECT_ALL] = "nhhp",
                                                             [FB_SELECT_TOPK] = "nnnp",
                                                             [FB_SELECT_RANDOM] = "nhhp",
                                                             [FB_SELECT_SVT] = "nhh-",
                                                             [FB_SELECT_PUBLIC] = "nhhp",
                                                             [FB_SELECT_EXPONENTIAL] = "nhh-",
                                                             [FB_SELECT_SVT_AS_PUBLISHED] = "-n--"};

static void test_guarantees(void **state)
{
    (void)state;
    for (int select = 0; select < SELECTS; select++) {
        for (int mechanism = 0; mechanism < MECHANISMS; mechanism++) {
            const char letter = expected_table[select][mechanism];
            const fb_guarantee *g = fb_guarantee_find((fb_select)select, (fb_mechanism)mechanism);
            assert_true((g == NULL) == (letter == '-'));
            if (!g)
                continue;
            assert_int_equal(g->formal, letter != 'n');
            assert_string_equal(g->unit, letter == 'n' ? "none" : letter == 'h' ? "hospital" : "patient");
            assert_string_equal(g->neighbours, letter == 'n'   ? "none"
                                               : letter == 'h' ? "replace-one"
                                                               : "add/remove one");
            assert_true(strlen(g->reason) > 10);
        }
    }
    assert_null(fb_guarantee_find((fb_select)SELECTS, FB_MECHANISM_NONE));
    assert_null(fb_guarantee_find(FB_SELECT_ALL, (fb_mechanism)MECHANISMS));
    assert_non_null(strstr(fb_guarantee_find(FB_SELECT_PUBLIC, FB_MECHANISM_LAPLACE)->reason, "previous global model"));
    assert_non_null(strstr(fb_guarantee_find(FB_SELECT_SVT_AS_PUBLISHED, FB_MECHANISM_LAPLACE)->reason, "factor c"));
}

/* --- what the accountants are told --- */

static const fb_event *event_of(const fb_budget *budget, fb_event_kind kind)
{
    const fb_event *found = NULL;
    for (int i = 0; i < budget->event_count; i++)
        if (budget->events[i].kind == kind)
            found = &budget->events[i];
    assert_non_null(found);
    assert_true(found->rate == 1.0);
    return found;
}

/* The answers of Laplace: scale, sensitivity 2 C, once for each of c. A missing c, or sensitivity C, would show. */
static void test_events_of_laplace(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    const double c = 117685.0, clip = 858993.0;
    const fb_select selects[] = {FB_SELECT_RANDOM, FB_SELECT_PUBLIC, FB_SELECT_SVT, FB_SELECT_EXPONENTIAL};
    for (int i = 0; i < 4; i++) {
        spec.select = selects[i];
        const fb_budget b = plan(&spec, PAPER_N);
        const fb_event *answers = event_of(&b, FB_EVENT_LAPLACE);
        assert_true(b.event_count == (i < 2 ? 1 : 2) && b.relation == FB_REPLACE_ONE);
        assert_true(answers->count == b.count && answers->scale == b.scale_answer && answers->rounding > 0x1p-51 &&
                    answers->rounding < 0x1p-50);
        assert_close(answers->sensitivity, 2.0 * clip);
        assert_close(c * answers->sensitivity / answers->scale, 4.0);
    }
    spec.select = FB_SELECT_SVT;
    fb_budget b = plan(&spec, PAPER_N);
    const double of_tests = tests_rounding(c, 0.5);
    assert_true(fabs(event_of(&b, FB_EVENT_PURE)->epsilon - 2.5 - of_tests) < 1e-15);
    assert_int_equal(event_of(&b, FB_EVENT_PURE)->count, 1);
    spec.select = FB_SELECT_TOPK;
    assert_int_equal(plan(&spec, PAPER_N).event_count, 0);
    spec.select = FB_SELECT_SVT_AS_PUBLISHED;
    assert_int_equal(plan(&spec, PAPER_N).event_count, 0);
}

static void test_exponential_budget(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    spec.select = FB_SELECT_EXPONENTIAL;
    const double c = 117685.0;
    const fb_budget b = plan(&spec, PAPER_N);
    const fb_event *peeling = event_of(&b, FB_EVENT_BOUNDED_RANGE);
    assert_int_equal(peeling->count, b.count);
    assert_close(peeling->epsilon, 2.0 / c);
    assert_true(peeling->rounding == 2.0 * FB_GUMBEL_ERROR);
    assert_close(b.epsilon_rounding,
                 c * (4.0 * FB_GUMBEL_ERROR + 2.0 * fb_noise_rounding(700.0 + 4.0 / c))); /* 4.3e-7 */
    assert_close(b.epsilon_round, 2.0 + 4.0 + b.epsilon_rounding);
    assert_true(b.epsilon_threshold == 0.0 && b.scale_query == 0.0);
    assert_close(fb_budget_selection_signal(&b), 1.0 / c);
    spec.mechanism = FB_MECHANISM_GAUSSIAN;
    spec.clip_norm = 0.01;
    spec.noise_multiplier = 1.0;
    const fb_budget mixed = plan(&spec, PAPER_N);
    assert_true(mixed.event_count == 2 && mixed.clip_grid == 858993 && mixed.grid_log2 == -36);
    assert_true(event_of(&mixed, FB_EVENT_BOUNDED_RANGE)->epsilon == peeling->epsilon);
    assert_true(isnan(mixed.epsilon_round) && isnan(mixed.epsilon_rounding));
}

static void test_selection_signal(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    fb_budget b = plan(&spec, PAPER_N);
    assert_close(fb_budget_selection_signal(&b), 2.0 / (2.0 * 117685.0)); /* e_query / 2 c */
    spec.select = FB_SELECT_RANDOM;
    b = plan(&spec, PAPER_N);
    assert_true(isnan(fb_budget_selection_signal(&b)));
}

static fb_release_spec gaussian_spec(void)
{
    return (fb_release_spec){.select = FB_SELECT_RANDOM,
                             .fraction = 0.5,
                             .mechanism = FB_MECHANISM_GAUSSIAN,
                             .clip = INFINITY,
                             .clip_norm = 0.75,
                             .noise_multiplier = 3.0,
                             .participants = 10};
}

static void test_gaussian_budget(void **state)
{
    (void)state;
    fb_release_spec spec = gaussian_spec();
    const double clip = 0.75 * 0x1p30;
    for (int trust = FB_TRUST_LOCAL; trust <= FB_TRUST_CENTRAL; trust++) {
        spec.trust = (fb_trust)trust;
        const fb_budget b = plan(&spec, 1000);
        const fb_event *event = event_of(&b, FB_EVENT_GAUSSIAN);
        const double shares = trust == FB_TRUST_SECAGG ? 10.0 : 1.0;
        assert_true(b.grid_log2 == -30 && b.clip_norm_grid == (int64_t)clip && b.clip_grid == 0);
        assert_true(b.sigma >= 3.0 * clip && event->scale == b.sigma && event->count == 1 && b.event_count == 1);
        assert_close(b.sigma, 3.0 * clip);
        assert_close(event->sensitivity, 2.0 * clip); /* replacing a hospital, not adding one */
        /* a shift of 2 / 3 deviations, or of a share's */
        assert_close(event->rounding,
                     500.0 * shares * fb_noise_rounding(0.5 * pow(sqrt(1400.0) + 2.0 / 3.0 * sqrt(shares), 2.0)));
        assert_close(event->to_continuous, 500.0 * fb_gauss_to_continuous(b.sigma, sqrt(1400.0) + 2.0 / 3.0));
        assert_true(isnan(b.epsilon_round) && isnan(b.epsilon_rounding) && b.relation == FB_REPLACE_ONE);
        assert_int_equal(b.value_bits, trust == FB_TRUST_LOCAL ? 0 : trust == FB_TRUST_SECAGG ? 36 : 31);
        if (trust == FB_TRUST_SECAGG) /* never less together than sigma */
            assert_true(b.sigma_share * b.sigma_share * 10.0 >= b.sigma * b.sigma);
        assert_close(b.sigma_share + 1.0, 1.0 + (trust == FB_TRUST_LOCAL    ? b.sigma
                                                 : trust == FB_TRUST_SECAGG ? b.sigma / sqrt(10.0)
                                                                            : 0.0));
    }
    for (int e = -20; e <= 20; e++) {
        spec.clip_norm = ldexp(1.0, e);
        const fb_budget b = plan(&spec, 1000);
        assert_int_equal(b.grid_log2, e - 29 > -40 ? e - 29 : -40);
        assert_true(ldexp((double)b.clip_norm_grid, b.grid_log2) == spec.clip_norm);
    }
}

/* The noise of dpsgd is in the training: nothing to charge here. */
static void test_dpsgd_budget(void **state)
{
    (void)state;
    const fb_release_spec spec = {
        .select = FB_SELECT_TOPK, .fraction = 0.1, .mechanism = FB_MECHANISM_DPSGD, .clip = INFINITY};
    const fb_budget b = plan(&spec, 100);
    assert_true(b.relation == FB_ADD_REMOVE && b.event_count == 0 && b.count == 10 && b.clip_grid == 0);
    assert_true(isnan(b.epsilon_round) && isnan(b.epsilon_rounding));
}

/* The printed sensitivity 2 C, and an answer noise that does not know c. */
static void test_budget_as_published(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    const double c = 117685.0, clip = 858993.0;
    spec.select = FB_SELECT_SVT_AS_PUBLISHED;
    const fb_budget b = plan(&spec, PAPER_N);
    assert_close(b.scale_threshold, 2.0 * clip / 0.5);
    assert_close(b.scale_query, 4.0 * c * clip / 2.0);
    assert_close(b.scale_answer, 2.0 * clip / 4.0);
    assert_true(isinf(b.epsilon_round));
}

/* Laplace noise of the server on the sum: that of one hospital. */
static void test_central_laplace(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    spec.select = FB_SELECT_RANDOM;
    const fb_budget local = plan(&spec, 100);
    spec.trust = FB_TRUST_CENTRAL;
    fb_budget central = plan(&spec, 100);
    assert_true(local.value_bits == 0 && central.value_bits == 21); /* +-858993, without noise: the width is public */
    central.value_bits = 0;
    assert_memory_equal(&local, &central, sizeof local);
}

/* --- refusals --- */

typedef struct refusal {
    size_t field; /* of a double in the specification */
    double value;
    const char *message;
} refusal;

#define FIELD(name) offsetof(fb_release_spec, name)

static void assert_refused(const fb_release_spec *spec, int64_t n, const char *part)
{
    fb_budget budget = {.n = -1};
    fb_status status = fb_budget_plan(spec, n, &budget);
    assert_int_equal(fb_error_exit_code(status), FB_EXIT_USAGE);
    must_fail(status, part);
    assert_int_equal(budget.n, -1);
}

static void test_refused_values(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {FIELD(fraction), 0.0, "sharing.fraction = 0: must be above 0 and at most 1"},
        {FIELD(fraction), -0.1, "sharing.fraction = -0.1"},
        {FIELD(fraction), 1.0000001, "sharing.fraction = 1"},
        {FIELD(fraction), NAN, "sharing.fraction = nan"},
        {FIELD(clip), 0.0, "privacy.clip = 0: must be above 0"},
        {FIELD(clip), -1e-4, "privacy.clip = -0.0001"},
        {FIELD(clip), NAN, "privacy.clip = nan"},
        {FIELD(clip), INFINITY, "privacy.clip = inf: with privacy.mechanism = laplace"},
        {FIELD(clip), 0x1p-41, "[2^-40, 2^20]"},
        {FIELD(clip), 0x1p21, "[2^-40, 2^20]"},
        {FIELD(threshold), -1e-9, "privacy.threshold = -1e-09"},
        {FIELD(threshold), 1.1e-4, "privacy.threshold = 0.00011: must be finite, at least 0 and at most privacy.clip"},
        {FIELD(threshold), NAN, "privacy.threshold = nan"},
        {FIELD(epsilon_threshold), 0.0, "privacy.epsilon_threshold = 0: must be finite and above 0"},
        {FIELD(epsilon_threshold), -1.0, "privacy.epsilon_threshold = -1"},
        {FIELD(epsilon_threshold), INFINITY, "privacy.epsilon_threshold = inf"},
        {FIELD(epsilon_threshold), NAN, "privacy.epsilon_threshold = nan"},
        {FIELD(epsilon_query), -1.0, "privacy.epsilon_query = -1: must be finite and at least 0"},
        {FIELD(epsilon_query), INFINITY, "privacy.epsilon_query = inf"},
        {FIELD(epsilon_query), 1e-9, "privacy.epsilon_query = 1e-09: its noise scale"},
        {FIELD(epsilon_answer), 0.0, "privacy.epsilon_answer = 0: must be finite and above 0"},
        {FIELD(epsilon_answer), NAN, "privacy.epsilon_answer = nan"},
        {FIELD(epsilon_answer), 1e13, "the limits are 2^-4 and 2^52; lower it"},
        {FIELD(epsilon_answer), 1e-8, "the limits are 2^-4 and 2^52; raise it"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        fb_release_spec spec = svt_spec();
        memcpy((char *)&spec + refusals[i].field, &refusals[i].value, sizeof refusals[i].value);
        assert_refused(&spec, PAPER_N, refusals[i].message);
    }
}

static void test_refused_gaussian(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {FIELD(clip_norm), 0.0, "privacy.clip_norm = 0: privacy.mechanism = gaussian needs"},
        {FIELD(clip_norm), NAN, "privacy.clip_norm = nan"},
        {FIELD(clip_norm), 0x1p-21, "[2^-20, 2^20]"},
        {FIELD(clip_norm), INFINITY, "privacy.clip_norm = inf"},
        {FIELD(noise_multiplier), 0.0, "privacy.noise_multiplier = 0: must be finite and above 0"},
        {FIELD(noise_multiplier), NAN, "privacy.noise_multiplier = nan"},
        {FIELD(noise_multiplier), INFINITY, "privacy.noise_multiplier = inf"},
        {FIELD(noise_multiplier), 0x1p30, "2^56]; lower it"},
        {FIELD(noise_multiplier), 0x1p-40, "2^56]; raise it"},
        {FIELD(clip), 1e-10, "is less than a step of the grid"},
        {FIELD(clip), 0.0, "privacy.clip = 0: must be above 0"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        fb_release_spec spec = gaussian_spec();
        memcpy((char *)&spec + refusals[i].field, &refusals[i].value, sizeof refusals[i].value);
        assert_refused(&spec, PAPER_N, refusals[i].message);
    }
    fb_release_spec spec = gaussian_spec();
    spec.select = FB_SELECT_EXPONENTIAL;
    spec.epsilon_query = 1.0;
    assert_refused(&spec, 100,
                   "privacy.clip = inf: with privacy.mechanism = gaussian and sharing.select = exponential");
    spec.clip = 1.0;
    spec.epsilon_query = 0.0;
    assert_refused(&spec, 100, "privacy.epsilon_query = 0: must be finite and above 0");
    spec.epsilon_query = 1e-11;
    assert_refused(&spec, 100, "choose sharing.select = random, which costs nothing");
    spec.epsilon_query = 1e9;
    assert_refused(&spec, 100, "it must lie in [1, 2^60]; lower it");
}

static void test_refused_trust(void **state)
{
    (void)state;
    fb_release_spec spec = gaussian_spec();
    spec.trust = FB_TRUST_SECAGG;
    spec.participants = 0;
    assert_refused(&spec, 100, "privacy.trust = secagg with 0 hospitals");
    spec.participants = 1 << 30;
    spec.noise_multiplier = 0x1p-20;
    assert_refused(&spec, 100, "it must lie in [16, 2^56]; raise it");
    spec = gaussian_spec();
    spec.trust = FB_TRUST_CENTRAL;
    spec.select = FB_SELECT_TOPK;
    assert_refused(&spec, 100, "privacy.trust = central with sharing.select = topk: a sum needs the same coordinates");
    spec = svt_spec();
    spec.trust = FB_TRUST_CENTRAL;
    assert_refused(&spec, 100, "privacy.trust = central with sharing.select = svt");
    spec.select = FB_SELECT_RANDOM;
    spec.trust = FB_TRUST_SECAGG;
    spec.participants = 3;
    assert_refused(&spec, 100, "a sum of discrete Laplace variables is not one");
    spec.mechanism = FB_MECHANISM_NONE;
    assert_refused(&spec, 100, "privacy.trust = secagg with privacy.mechanism = none");
}

static void test_refused_combinations(void **state)
{
    (void)state;
    fb_release_spec spec = svt_spec();
    assert_refused(&spec, 0, "0 parameters");
    assert_refused(&spec, INT64_C(1) << 32, "4294967296 parameters");
    spec.select = FB_SELECT_ALL;
    assert_refused(&spec, PAPER_N, "sharing.select = all, which shares every coordinate");
    spec.select = (fb_select)99;
    assert_refused(&spec, PAPER_N, "no such combination");
    spec.select = FB_SELECT_SVT_AS_PUBLISHED;
    spec.mechanism = FB_MECHANISM_GAUSSIAN;
    assert_refused(&spec, PAPER_N,
                   "sharing.select = svt-as-published (6) with privacy.mechanism = gaussian (2): there is");
    spec = svt_spec();
    spec.mechanism = FB_MECHANISM_DPSGD;
    assert_refused(&spec, PAPER_N, "the update is private already");
    spec.mechanism = FB_MECHANISM_NONE;
    spec.clip = INFINITY;
    spec.threshold = INFINITY;
    assert_refused(&spec, PAPER_N, "privacy.threshold = inf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_count_is_the_ceiling), cmocka_unit_test(test_grid),
        cmocka_unit_test(test_scales_and_sums),      cmocka_unit_test(test_metamorphic),
        cmocka_unit_test(test_other_selections),     cmocka_unit_test(test_guarantees),
        cmocka_unit_test(test_events_of_laplace),    cmocka_unit_test(test_exponential_budget),
        cmocka_unit_test(test_selection_signal),     cmocka_unit_test(test_gaussian_budget),
        cmocka_unit_test(test_dpsgd_budget),         cmocka_unit_test(test_budget_as_published),
        cmocka_unit_test(test_central_laplace),      cmocka_unit_test(test_refused_values),
        cmocka_unit_test(test_refused_gaussian),     cmocka_unit_test(test_refused_trust),
        cmocka_unit_test(test_refused_combinations), cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
