/* SPDX-License-Identifier: Apache-2.0
 *
 * The plan of a run: calibration to a total, noise per hospital, the hospital that spends most, what is refused and
 * what is claimed. */
#include "fed/privacy_plan.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

enum { N = 5000, HOSPITALS = 4, OPTIONS_MAX = 24 };

static const int64_t cases[HOSPITALS] = {18, 77, 3, 18};

#define OPTIONS(...) ((const char *const[]){__VA_ARGS__, NULL})

static fb_status make(const char *const *options, fb_privacy_plan **plan)
{
    char *argv[OPTIONS_MAX] = {"plan"}, text[OPTIONS_MAX][96];
    int argc = 1;
    fb_config config;
    fb_options *used = NULL;
    for (; options[argc - 1]; argc++) {
        assert_true(argc < OPTIONS_MAX);
        snprintf(text[argc], sizeof text[argc], "--%s", options[argc - 1]);
        argv[argc] = text[argc];
    }
    must(fb_config_read_plan(argc, argv, &config, &used));
    fb_options_destroy(&used);
    return fb_privacy_plan_create(&config, N, HOSPITALS, cases, plan);
}

static double total(fb_privacy_plan *plan, int hospital)
{
    fb_spent spent;
    must(fb_privacy_plan_spent(plan, hospital, plan->releases, &spent));
    return spent.epsilon;
}

/* From below, and within 1e-3. */
static void assert_meets(double spent, double target)
{
    if (!(spent <= target && spent >= (1.0 - 1e-3) * target))
        print_error("spent %.9g of %.9g\n", spent, target);
    assert_true(spent <= target && spent >= (1.0 - 1e-3) * target);
}

#define LAPLACE "privacy.mechanism=laplace", "privacy.clip=1e-4"
#define GAUSSIAN "privacy.mechanism=gaussian", "privacy.clip_norm=0.01", "privacy.clip=1e-4"
#define DPSGD "privacy.mechanism=dpsgd", "privacy.clip_norm=1", "train.batch=4"
#define SVT "sharing.select=svt", "sharing.fraction=0.1"

/* --- calibration --- */

static void the_total_is_met_from_below(void **state)
{
    (void)state;
    const char *const *const cases_of_noise[] = {
        OPTIONS(LAPLACE),
        OPTIONS(LAPLACE, SVT),
        OPTIONS(LAPLACE, SVT, "privacy.answer_budget=per-parameter"),
        OPTIONS(LAPLACE, SVT, "privacy.epsilon_query=3"),
        OPTIONS(GAUSSIAN),
        OPTIONS(GAUSSIAN, "privacy.noise_multiplier=7", "sharing.select=random", "sharing.fraction=0.2")};
    const char *const targets[] = {"privacy.epsilon_total=0.5", "privacy.epsilon_total=2", "privacy.epsilon_total=8"};
    for (size_t i = 0; i < sizeof cases_of_noise / sizeof cases_of_noise[0]; i++)
        for (size_t k = 0; k < 3; k++) {
            const char *options[OPTIONS_MAX] = {targets[k], "federation.rounds=20"};
            fb_privacy_plan *plan = NULL;
            for (int o = 0; cases_of_noise[i][o]; o++)
                options[2 + o] = cases_of_noise[i][o];
            must(make(options, &plan));
            assert_meets(total(plan, plan->worst), strtod(strchr(targets[k], '=') + 1, NULL));
            fb_privacy_plan_destroy(&plan);
        }
}

/* The factor applies to every part of the noise alike: the configured proportions stay. */
static void the_factor_scales_all_noise(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    must(make(OPTIONS(LAPLACE, SVT, "privacy.epsilon_threshold=3", "privacy.epsilon_query=12",
                      "privacy.epsilon_answer=6", "privacy.epsilon_total=8", "federation.rounds=20"),
              &plan));
    assert_true(plan->noise_scale > 1.0);
    assert_true(fabs(plan->release.epsilon_threshold * plan->noise_scale - 3.0) < 1e-9);
    assert_true(fabs(plan->release.epsilon_query * plan->noise_scale - 12.0) < 1e-9);
    assert_true(fabs(plan->release.epsilon_answer * plan->noise_scale - 6.0) < 1e-9);
    assert_true(plan->budget.epsilon_threshold == plan->release.epsilon_threshold);
    fb_privacy_plan_destroy(&plan);
    must(make(OPTIONS(GAUSSIAN, "privacy.noise_multiplier=7", "privacy.epsilon_total=8"), &plan));
    assert_true(fabs(plan->release.noise_multiplier / plan->noise_scale - 7.0) < 1e-9);
    fb_privacy_plan_destroy(&plan);
}

static void each_hospital_its_own_noise(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    must(make(OPTIONS(DPSGD, "privacy.epsilon_total=8", "federation.rounds=10", "privacy.noise=per-hospital"), &plan));
    for (int h = 0; h < HOSPITALS; h++)
        assert_meets(total(plan, h), 8.0);
    /* 3 patients: all of them in every step, so less is hidden and more noise is needed */
    assert_true(plan->dpsgd[2].spec.noise_multiplier > 1.1 * plan->dpsgd[1].spec.noise_multiplier);
    assert_true(plan->dpsgd[0].spec.noise_multiplier == plan->dpsgd[3].spec.noise_multiplier);
    fb_privacy_plan_destroy(&plan);
}

static void common_noise_is_the_worst_hospitals(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    must(make(OPTIONS(DPSGD, "privacy.epsilon_total=8", "federation.rounds=10"), &plan));
    double most = 0.0;
    for (int h = 0; h < HOSPITALS; h++) {
        assert_true(plan->dpsgd[h].spec.noise_multiplier == plan->dpsgd[0].spec.noise_multiplier);
        most = fmax(most, total(plan, h));
    }
    assert_int_equal(plan->worst, 2);
    assert_true(total(plan, plan->worst) == most && total(plan, 1) < 0.9 * most);
    assert_meets(most, 8.0);
    fb_privacy_plan_destroy(&plan);
}

/* --- what is spent --- */

static void spending_grows_with_the_releases(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    fb_spent spent, again;
    must(make(OPTIONS(LAPLACE, "privacy.epsilon_answer=2"), &plan));
    double before = -1.0;
    for (int64_t releases = 0; releases <= 12; releases++) {
        must(fb_privacy_plan_spent(plan, 1, releases, &spent));
        must(fb_privacy_plan_spent(plan, 1, releases, &again)); /* out of the cache */
        assert_true(spent.epsilon == again.epsilon && spent.accountant == again.accountant);
        assert_true(spent.epsilon > before && spent.epsilon <= 2.0 * (double)releases);
        before = spent.epsilon;
    }
    must(fb_privacy_plan_spent(plan, 1, 0, &spent));
    assert_true(spent.epsilon == 0.0);
    fb_privacy_plan_destroy(&plan);
    must(make(OPTIONS("sharing.select=topk", "sharing.fraction=0.1"), &plan));
    assert_true(isinf(total(plan, 0)) && plan->formal_failure != NULL);
    fb_privacy_plan_destroy(&plan);
}

/* A public schedule: 100 rounds with half of the hospitals cost the busiest one about 50, never more than 100. */
static void participation_counts_the_busiest(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    must(make(OPTIONS(LAPLACE, "federation.participation=0.5", "federation.rounds=100"), &plan));
    assert_int_equal(plan->participants, 2);
    assert_in_range(plan->releases, 50, 75);
    fb_privacy_plan_destroy(&plan);
    must(make(OPTIONS(LAPLACE, "federation.rounds=100"), &plan));
    assert_int_equal(plan->releases, 100);
    fb_privacy_plan_destroy(&plan);
}

static void divisors_are_public(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    must(make(OPTIONS(LAPLACE, "train.epochs=2"), &plan));
    for (int h = 0; h < HOSPITALS; h++)
        assert_int_equal(plan->divisor[h], 2 * cases[h]);
    fb_privacy_plan_destroy(&plan);
    /* noise on the sum: one number for all, the mean of 36, 154, 6, 36 */
    must(make(OPTIONS(GAUSSIAN, "privacy.noise_multiplier=1", "train.epochs=2", "privacy.trust=secagg",
                      "federation.weighting=uniform"),
              &plan));
    for (int h = 0; h < HOSPITALS; h++)
        assert_int_equal(plan->divisor[h], 58);
    fb_privacy_plan_destroy(&plan);
    must(make(OPTIONS(DPSGD, "privacy.noise_multiplier=1"), &plan));
    for (int h = 0; h < HOSPITALS; h++)
        assert_int_equal(plan->divisor[h], plan->dpsgd[h].steps);
    fb_privacy_plan_destroy(&plan);
}

/* --- what is claimed --- */

static void assert_failure(const char *const *options, const char *text)
{
    fb_privacy_plan *plan = NULL;
    must(make(options, &plan));
    if (!text)
        assert_null(plan->formal_failure);
    else
        assert_non_null(strstr(plan->formal_failure, text));
    fb_privacy_plan_destroy(&plan);
}

static int assumes(const char *const *options, const char *text)
{
    fb_privacy_plan *plan = NULL;
    int found = 0;
    must(make(options, &plan));
    for (int i = 0; fb_privacy_plan_assumption(plan, i); i++)
        found += strstr(fb_privacy_plan_assumption(plan, i), text) != NULL;
    fb_privacy_plan_destroy(&plan);
    return found;
}

static void the_first_failing_condition_is_named(void **state)
{
    (void)state;
    assert_failure(OPTIONS(LAPLACE), NULL);
    assert_failure(OPTIONS(DPSGD, "privacy.noise_multiplier=2", "federation.rounds=10"), NULL);
    assert_failure(OPTIONS(DPSGD, "privacy.noise_multiplier=2", "federation.rounds=10", "train.momentum=average"),
                   NULL);
    assert_failure(OPTIONS("sharing.select=topk", "sharing.fraction=0.1", LAPLACE), "selection itself");
    assert_failure(OPTIONS("sharing.select=topk", "sharing.fraction=0.1", LAPLACE, "privacy.key=seed"),
                   "selection itself");
    assert_failure(OPTIONS("run.preset=percentile"), "no noise");
    assert_failure(OPTIONS("run.preset=svt-as-published"), "clip");
    assert_failure(OPTIONS(LAPLACE, "privacy.key=seed"), "from the seed");
    assert_failure(OPTIONS(GAUSSIAN, "privacy.noise_multiplier=1", "privacy.delta=0"), "no finite epsilon");
}

static void assumptions_are_stated(void **state)
{
    (void)state;
    assert_int_equal(assumes(OPTIONS(LAPLACE), "test patients"), 1);
    assert_int_equal(assumes(OPTIONS(LAPLACE), "public constants"), 1);
    assert_int_equal(assumes(OPTIONS(LAPLACE), "init_from"), 0);
    assert_int_equal(assumes(OPTIONS(LAPLACE, "train.init_from=x"), "init_from"), 1);
    assert_int_equal(assumes(OPTIONS(LAPLACE), "amplification"), 0);
    assert_int_equal(assumes(OPTIONS(LAPLACE, "federation.participation=0.5"), "no amplification"), 1);
    assert_int_equal(assumes(OPTIONS(DPSGD, "privacy.noise_multiplier=2"), "in two hospitals"), 1);
    assert_int_equal(assumes(OPTIONS("sharing.select=all"), "test patients"), 1);
}

static void refusals(void **state)
{
    (void)state;
    fb_privacy_plan *plan = NULL;
    must_fail(make(OPTIONS(DPSGD, "privacy.noise_multiplier=1", "privacy.trust=secagg"), &plan), "privacy.trust",
              "dpsgd");
    must_fail(make(OPTIONS("privacy.trust=central"), &plan), "privacy.trust", "none");
    must_fail(make(OPTIONS(GAUSSIAN, "privacy.noise_multiplier=1", "privacy.trust=central"), &plan),
              "federation.weighting = uniform");
    must_fail(make(OPTIONS(LAPLACE, "train.momentum=average"), &plan), "train.momentum");
    must_fail(make(OPTIONS(GAUSSIAN), &plan), "privacy.noise_multiplier = 0", "epsilon_total");
    must_fail(make(OPTIONS("privacy.mechanism=dpsgd", "privacy.clip_norm=1"), &plan), "privacy.noise_multiplier = 0");
    must_fail(make(OPTIONS("privacy.mechanism=dpsgd", "privacy.noise_multiplier=1"), &plan), "privacy.clip_norm = inf");
    must_fail(make(OPTIONS("privacy.mechanism=gaussian", "privacy.noise_multiplier=1"), &plan),
              "privacy.clip_norm = inf");
    must_fail(make(OPTIONS("privacy.stop_at_epsilon=3"), &plan), "privacy.stop_at_epsilon = 3", "no noise");
    must_fail(make(OPTIONS("run.preset=percentile", "privacy.epsilon_total=3"), &plan), "privacy.epsilon_total = 3");
    must_fail(make(OPTIONS(LAPLACE, "run.mode=local"), &plan), "run.mode");
    must_fail(make(OPTIONS(LAPLACE, "privacy.noise_multiplier=2"), &plan), "privacy.noise_multiplier = 2");
    must_fail(make(OPTIONS(LAPLACE, "train.batch=2"), &plan), "train.batch = 2");
    must_fail(make(OPTIONS(LAPLACE, "privacy.noise=per-hospital", "privacy.epsilon_total=1"), &plan), "privacy.noise");
    must_fail(make(OPTIONS("privacy.mechanism=laplace"), &plan), "privacy.clip");
    assert_null(plan);
}

/* What a resumed run must not change does change the identity; what it may, does not. */
static void identity(void **state)
{
    (void)state;
    const char *const *const others[] = {OPTIONS(LAPLACE, "sharing.select=random", "sharing.fraction=0.5"),
                                         OPTIONS(LAPLACE, "privacy.epsilon_answer=2"),
                                         OPTIONS("privacy.mechanism=laplace", "privacy.clip=2e-4"),
                                         OPTIONS(LAPLACE, "privacy.delta=1e-6"),
                                         OPTIONS(LAPLACE, "privacy.clip_answers=false"),
                                         OPTIONS(GAUSSIAN, "privacy.noise_multiplier=1"),
                                         OPTIONS(LAPLACE, "train.epochs=3")};
    fb_privacy_plan *plan = NULL;
    char text[FB_TEXT_CHARS], other[FB_TEXT_CHARS];
    must(make(OPTIONS(LAPLACE), &plan));
    must(fb_privacy_plan_identity(plan, 1, text));
    assert_null(strchr(text, '\n'));
    fb_privacy_plan_destroy(&plan);
    must(make(OPTIONS(LAPLACE, "federation.rounds=7", "run.seed=9", "run.threads=2"), &plan));
    must(fb_privacy_plan_identity(plan, 1, other));
    assert_string_equal(text, other);
    fb_privacy_plan_destroy(&plan);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        must(make(others[i], &plan));
        must(fb_privacy_plan_identity(plan, 1, other));
        assert_string_not_equal(text, other);
        fb_privacy_plan_destroy(&plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_total_is_met_from_below),
        cmocka_unit_test(the_factor_scales_all_noise),
        cmocka_unit_test(each_hospital_its_own_noise),
        cmocka_unit_test(common_noise_is_the_worst_hospitals),
        cmocka_unit_test(spending_grows_with_the_releases),
        cmocka_unit_test(participation_counts_the_busiest),
        cmocka_unit_test(divisors_are_public),
        cmocka_unit_test(the_first_failing_condition_is_named),
        cmocka_unit_test(assumptions_are_stated),
        cmocka_unit_test(refusals),
        cmocka_unit_test(identity),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("privacy_plan", tests, NULL, NULL);
}
