/* SPDX-License-Identifier: Apache-2.0
 *
 * The audits of training: canaries in one run of dpsgd, random directions through gaussian. Sound ones stay at or
 * below what the accountant says, planted faults (no noise, no clip, every patient in every step) are refuted. FB_LONG
 * takes more canaries and samples. An audit is a lower bound: what holds here is not proved by it.
 */
#include "privacy/audit_canary.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

static const double CONFIDENCE = 0.999, DELTA = 1e-5;

static int is_long(void)
{
    const char *text = getenv("FB_LONG");
    return text && *text;
}

static void run(fb_canary_fault fault, double rate, double noise_multiplier, int64_t epochs, uint64_t seed,
                fb_canary_result *result)
{
    const fb_canary_spec spec = {.canaries = is_long() ? 10000 : 1000,
                                 .rate = rate,
                                 .noise_multiplier = noise_multiplier,
                                 .epochs = epochs,
                                 .fault = fault,
                                 .seed = seed,
                                 .confidence = CONFIDENCE,
                                 .delta = DELTA};
    must(fb_canary_dpsgd(&spec, result));
    if (getenv("FB_VERBOSE"))
        print_message("fault %d, rate %g: %d of %d right, %.3f of %.3f, ceiling %.3f\n", (int)fault, rate,
                      (int)result->right, (int)result->guesses, result->bound, result->epsilon, result->ceiling);
    assert_int_equal(result->guesses, result->canaries / 10 * 2);
    assert_true(result->right <= result->guesses && result->bound <= result->ceiling);
    assert_int_equal(result->refuted, result->bound > result->epsilon);
    assert_true(result->true_positive[FB_AUDIT_POINTS - 1] == 1.0 && result->false_positive[0] == 0.0);
}

static void test_sound_training_holds(void **state)
{
    (void)state;
    fb_canary_result result;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        run(FB_CANARY_SOUND, 0.1, 4.0, 10, seed, &result); /* 100 steps of a tenth */
        assert_false(result.refuted);
        run(FB_CANARY_SOUND, 1.0, 2.0, 10, seed, &result); /* 10 steps of all */
        assert_false(result.refuted);
        assert_true(result.bound > 0.2 * result.epsilon); /* one run sees a good part of it */
    }
}

static void test_faults_in_training_are_refuted(void **state)
{
    (void)state;
    fb_canary_result result;
    for (int fault = FB_CANARY_NO_NOISE; fault <= FB_CANARY_WRONG_RATE; fault++) {
        run((fb_canary_fault)fault, 0.1, 4.0, 10, 5, &result);
        if (!result.refuted)
            fail_msg("fault %d: bound %g of %g", fault, result.bound, result.epsilon);
    }
}

static void test_random_directions(void **state)
{
    (void)state;
    static const fb_select selects[] = {FB_SELECT_ALL, FB_SELECT_RANDOM};
    const int64_t n = 16, samples = is_long() ? 100000 : 4000;
    for (int k = 0; k < 2; k++) {
        const fb_release_spec spec = {.select = selects[k],
                                      .fraction = k == 0 ? 1.0 : 0.5,
                                      .mechanism = FB_MECHANISM_GAUSSIAN,
                                      .clip = INFINITY,
                                      .clip_norm = 1.0,
                                      .noise_multiplier = 1.0,
                                      .participants = 1};
        fb_canary_result result;
        must(fb_canary_gaussian(&spec, n, samples, 11, CONFIDENCE, DELTA, &result));
        if (getenv("FB_VERBOSE"))
            print_message("gaussian %d: %.3f of %.3f, ceiling %.3f\n", k, result.bound, result.epsilon, result.ceiling);
        assert_false(result.refuted);
        assert_true(result.bound > (k == 0 ? 0.3 : 0.1) * result.epsilon);
    }
}

/* A release that claims twice the noise it adds. */
static void test_wrong_sigma_shows(void **state)
{
    (void)state;
    fb_release_spec spec = {.select = FB_SELECT_ALL,
                            .fraction = 1.0,
                            .mechanism = FB_MECHANISM_GAUSSIAN,
                            .clip = INFINITY,
                            .clip_norm = 1.0,
                            .noise_multiplier = 4.0,
                            .participants = 1};
    fb_canary_result claimed, added;
    must(fb_canary_gaussian(&spec, 4, 400, 12, CONFIDENCE, DELTA, &claimed));
    spec.noise_multiplier = 0.8;
    must(fb_canary_gaussian(&spec, 4, 4000, 12, CONFIDENCE, DELTA, &added));
    if (getenv("FB_VERBOSE"))
        print_message("sigma 0.8 instead of 4: %.3f, claimed %.3f\n", added.bound, claimed.epsilon);
    assert_true(claimed.bound <= claimed.epsilon && added.bound > claimed.epsilon);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_training_holds), cmocka_unit_test(test_faults_in_training_are_refuted),
        cmocka_unit_test(test_random_directions),    cmocka_unit_test(test_wrong_sigma_shows),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("audit_canary", tests, NULL, NULL);
}
