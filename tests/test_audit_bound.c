/* SPDX-License-Identifier: Apache-2.0
 *
 * The statistics of an audit against closed forms and sums over all outcomes.
 */
#include "privacy/audit_bound.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

static void assert_near(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.10g instead of %.10g", value, expected);
}

/* P(Binomial(trials, p) >= hits), added up. */
static double binomial_tail(int64_t hits, int64_t trials, double p)
{
    double sum = 0.0;
    for (int64_t k = hits; k <= trials; k++)
        sum += exp(lgamma((double)trials + 1.0) - lgamma((double)k + 1.0) - lgamma((double)(trials - k) + 1.0) +
                   (double)k * log(p) + (double)(trials - k) * log1p(-p));
    return sum;
}

static void test_bounds(void **state)
{
    (void)state;
    assert_near(fb_audit_lower(5, 10, 0.025), 0.187086, 1e-6); /* the textbook's 95 % interval of 5 in 10 */
    assert_near(fb_audit_upper(5, 10, 0.025), 0.812914, 1e-6);
    assert_near(fb_audit_upper(0, 1000, 1e-3), 1.0 - pow(1e-3, 1e-3), 1e-12);
    assert_near(fb_audit_lower(1000, 1000, 1e-3), pow(1e-3, 1e-3), 1e-12);
    assert_true(fb_audit_lower(0, 9, 0.1) == 0.0 && fb_audit_upper(9, 9, 0.1) == 1.0);
    for (int64_t hits = 1; hits < 400; hits += 57) {
        const double p = fb_audit_lower(hits, 400, 1e-4);
        assert_near(binomial_tail(hits, 400, p) / 1e-4, 1.0, 1e-6);
    }
    assert_near(fb_audit_lower(5000000, 10000000, 2.5e-4), 0.5 - 3.4808 * 0.5 / sqrt(1e7), 1e-6);
    /* All of N there and none here, one-sided 1 %: ln N - ln ln 100. */
    assert_near(fb_audit_ceiling(2000000, 0.01, 0.0), log(1e6 / log(100.0)), 1e-4);
    assert_true(fb_audit_epsilon(10, 20, 100, 0.01, 0.0) == 0.0);
    assert_true(fb_audit_epsilon(5000, 0, 10000, 0.01, 0.0) > fb_audit_epsilon(5000, 0, 10000, 0.01, 0.1));
}

/* The probability that the bound is above what is true, added up over all counts: P = e^0.7 Q + delta, a coin for each
 * of 100 trials. */
static double miss_rate(double alpha, double q, double delta)
{
    enum { TRIALS_FEW = 100 };
    const double p = exp(0.7) * q + delta, rest = 1.0 - 0.5 * (p + q);
    double missed = 0.0;
    for (int a = 0; a <= TRIALS_FEW; a++)
        for (int b = 0; a + b <= TRIALS_FEW; b++)
            if (fb_audit_epsilon(a, b, TRIALS_FEW, alpha, delta) > 0.7)
                missed += exp(lgamma(TRIALS_FEW + 1.0) - lgamma(a + 1.0) - lgamma(b + 1.0) -
                              lgamma(TRIALS_FEW - a - b + 1.0) + a * log(0.5 * p) + b * log(0.5 * q) +
                              (TRIALS_FEW - a - b) * log(rest));
    return missed;
}

static void test_bounds_keep_their_confidence(void **state)
{
    (void)state;
    const double delta[3] = {0.0, 1e-9, 0.05};
    for (int d = 0; d < 3; d++) {
        for (double q = 0.02; q < 0.45; q += 0.1) {
            const double missed = miss_rate(0.05, q, delta[d]), bold = miss_rate(0.1, q, delta[d]);
            if (getenv("FB_VERBOSE"))
                print_message("delta %g, q %g: above the truth with probability %.4f\n", delta[d], q, missed);
            assert_true(missed <= 0.05);
            assert_true(delta[d] > 1e-3 || q < 0.1 || missed > 0.02); /* and not by being dull */
            assert_true(bold > missed);
        }
    }
}

static void test_one_run(void **state)
{
    (void)state;
    const double p = fb_audit_one_run_p(100, 20, 18, 1.0, 0.0);
    assert_near(p, binomial_tail(18, 20, exp(1.0) / (1.0 + exp(1.0))), 1e-12);
    assert_near(fb_audit_one_run_epsilon(1000, 1000, 1000, 1e-3, 0.0), -log(pow(1e-3, -1e-3) - 1.0), 1e-6);
    assert_true(fb_audit_one_run_epsilon(1000, 1000, 500, 1e-3, 0.0) == 0.0);
    assert_true(fb_audit_one_run_p(100, 20, 18, 1.0, 1e-3) > p);
    assert_true(fb_audit_one_run_epsilon(1000, 500, 480, 1e-3, 1e-5) <
                fb_audit_one_run_epsilon(1000, 500, 480, 1e-3, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_bounds_keep_their_confidence),
        cmocka_unit_test(test_one_run),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("audit bound", tests, NULL, NULL);
}
