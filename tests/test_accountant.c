/* SPDX-License-Identifier: Apache-2.0
 *
 * The accountants against dp-accounting (tests/golden/accountant.txt) and published formulas written out; the price of
 * the samplers' tables, calibration, refusals.
 */
#include "accounting.h"
#include "privacy/fft.h"

#include <stdio.h>
#include <stdlib.h>

#define GOLDEN "tests/golden/accountant.txt"

enum { EVENTS_MAX = 4 };

/* --- dp-accounting ---------------------------------------------------------------------------------------------------
 */

/* The events of a golden line; how many. */
static int parse(const char *text, fb_event events[EVENTS_MAX])
{
    char kind[16];
    int n = 0;
    for (int used; sscanf(text, " %15s%n", kind, &used) == 1; n++) {
        char *end = (char *)text + used;
        double a = strtod(end, &end), b = kind[0] == 'g' || kind[0] == 'd' ? strtod(end, &end) : 0;
        int64_t count = strtoll(end, &end, 10);
        assert_true(n < EVENTS_MAX && count > 0);
        events[n] = kind[0] == 'g'   ? gaussian(a, b, count)
                    : kind[0] == 'l' ? laplace(a, count)
                    : kind[0] == 'd' ? discrete(a, b, count)
                                     : pure(a, count);
        text = end;
    }
    return n;
}

/* Every golden history lies in the band; claimed with half the sensitivity it lies below, so the band has teeth. */
static void agrees_with_dp_accounting(void **state)
{
    (void)state;
    char line[256];
    int lines = 0;
    FILE *file = fopen(GOLDEN, "r");
    assert_non_null(file);
    for (; fgets(line, sizeof line, file); lines++) {
        fb_event events[EVENTS_MAX];
        char *end;
        double delta = strtod(line, &end), low = strtod(end, &end), high = strtod(end, &end);
        int n = parse(end, events);
        double epsilon = spend(events, n, delta).epsilon;
        if (!(epsilon >= low * (1 - ROUNDING) && epsilon <= 1.001 * high + 1e-4))
            fail_msg("%.12g for %s", epsilon, line);
        for (int i = 0; i < n; i++) {
            events[i].epsilon /= 2;
            events[i].scale *= 2;
        }
        if (!(spend(events, n, delta).epsilon < low))
            fail_msg("half the sensitivity is not noticed: %s", line);
    }
    assert_int_equal(fclose(file), 0);
    assert_true(lines >= 200);
}

/* --- published formulas ---------------------------------------------------------------------------------------------
 */

/* Kairouz, Oh & Viswanath, theorem 3.3: ((T - 2i) e, delta_i). */
static void kov_is_optimal_composition(void **state)
{
    (void)state;
    const int count = 300;
    static const double epsilons[] = {0.01, 0.1, 0.3, 1, 10};
    for (size_t k = 0; k < sizeof epsilons / sizeof epsilons[0]; k++) {
        for (int i = 1; i <= 150; i += 7) {
            double e = epsilons[k], delta = 0, log_choose = 0;
            for (int l = 0; l < i; l++) {
                double share = log_choose + (count - l) * e - count * log1p(exp(e));
                delta += exp(share) * -expm1(2 * (l - i) * e);
                log_choose += log((double)(count - l) / (l + 1));
            }
            if (delta < 0.999 && delta > 1e-300)
                assert_near(by(pure(e, count), delta, FB_ACCOUNTANT_KOV), (count - 2 * i) * e, 1e-6);
        }
    }
    /* the table of the theorem's grid values at delta 1e-5: the optimum is within 2 e below */
    assert_within(by(pure(0.1, 300), 1e-5, FB_ACCOUNTANT_KOV), 8.2, 8.4);
    assert_within(by(pure(0.3, 300), 1e-5, FB_ACCOUNTANT_KOV), 33.6, 34.2);
    assert_within(by(pure(1, 300), 1e-5, FB_ACCOUNTANT_KOV), 198, 200);
    assert_within(by(pure(0.01, 600), 1e-5, FB_ACCOUNTANT_KOV), 0.9, 0.92);
    assert_within(by(pure(0.1, 600), 1e-5, FB_ACCOUNTANT_KOV), 12.6, 12.8);
}

static void advanced_composition(void **state)
{
    (void)state;
    assert_near(by(pure(0.1, 10), 1e-5, FB_ACCOUNTANT_ADVANCED), 1.623, 1e-3);
    assert_near(by(pure(1, 100), 1e-5, FB_ACCOUNTANT_ADVANCED), 219.8, 1e-3);
    assert_near(by(pure(0.1, 600), 1e-5, FB_ACCOUNTANT_ADVANCED), 18.064, 1e-4);
    assert_near(spend_one(pure(0.5, 10), 0), 5, ROUNDING);
    fb_event unequal[] = {pure(0.25, 4), laplace(0.5, 6)};
    assert_near(spend(unequal, 2, 0).by[FB_ACCOUNTANT_PURE], 4, ROUNDING);
    double expected = sqrt(2 * log(1e5) * (4 * 0.0625 + 6 * 0.25)) + expm1(0.25) + 3 * expm1(0.5);
    assert_near(spend(unequal, 2, 1e-5).by[FB_ACCOUNTANT_ADVANCED], expected, ROUNDING);
}

/* Canonne, Kamath & Steinke, proposition 7, over a fine grid of orders. */
static double zcdp_delta(double rho, double epsilon)
{
    double best = 1;
    for (double x = -20; x < 20; x += 1e-3) {
        double a = 1 + exp(x);
        best = fmin(best, exp((a - 1) * (a * rho - epsilon) + a * log1p(-1 / a)) / (a - 1));
    }
    return best;
}

static void zcdp_is_the_tight_conversion(void **state)
{
    (void)state;
    const struct {
        fb_event event;
        double rho; /* of one */
    } cases[] = {
        {pure(0.1, 300), 0.1 * tanh(0.05)},
        {pure(3, 20), 3 * tanh(1.5)},
        {laplace(1, 10), 1 + exp(-1) - 1}, /* Harrison & Manurangsi */
        {discrete(2, 1, 30), 0.5 * tanh(0.25)},
        {{.kind = FB_EVENT_BOUNDED_RANGE, .epsilon = 0.5, .rate = 1, .count = 40}, 0.03125},
        {gaussian(5, 1, 50), 0.02},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double epsilon = by(cases[i].event, 1e-5, FB_ACCOUNTANT_ZCDP);
        assert_near(zcdp_delta((double)cases[i].event.count * cases[i].rho, epsilon), 1e-5, 1e-5);
    }
    assert_true(isnan(by(gaussian(1, 0.5, 1), 1e-5, FB_ACCOUNTANT_ZCDP)));
}

/* The least over a fine grid of orders of the improved conversion of `count` times a curve. */
static double convert(double (*curve)(double order, const double *x), const double *x, int integers, double count)
{
    double best = INFINITY;
    for (double order = integers ? 2 : 1.001; order < 300; order = integers ? order + 1 : 1 + (order - 1) * 1.003) {
        double rest = log1p(-1 / order) - (log(1e-5) + log(order)) / (order - 1);
        best = fmin(best, count * curve(order, x) + rest);
    }
    return best;
}

/* Mironov 2017, proposition 6. */
static double mironov_laplace(double a, const double *e)
{
    return *e + log1p((a - 1) * expm1((1 - 2 * a) * *e) / (2 * a - 1)) / (a - 1);
}

/* D_a between the two two-point distributions with losses t, t - e, over a grid of t. */
static double bounded_range(double a, const double *e)
{
    double best = 0;
    for (int i = 1; i < 100; i++) {
        double t = *e * i / 100, p = (exp(*e) - exp(t)) / expm1(*e);
        best = fmax(best, log(p * exp((a - 1) * t) + (1 - p) * exp((a - 1) * (t - *e))) / (a - 1));
    }
    return best;
}

/* Mironov, Talwar & Zhang 2019, equation 6, as it stands, x = (q, sigma). */
static double sampled(double a, const double *x)
{
    long double sum = 0, choose = 1;
    for (int k = 0; k <= (int)a; k++) {
        sum += choose * powl(1 - x[0], a - k) * powl(x[0], k) * expl((long double)k * (k - 1) / (2 * x[1] * x[1]));
        choose *= (long double)(a - k) / (k + 1);
    }
    return isfinite((double)logl(sum)) ? (double)logl(sum) / (a - 1) : INFINITY;
}

static void rdp_is_the_published_curves(void **state)
{
    (void)state;
    static const double epsilons[] = {0.1, 1, 4}, poisson[][2] = {{0.01, 1}, {0.1, 2}, {0.5, 3}};
    for (int i = 0; i < 3; i++) {
        const double *e = &epsilons[i];
        assert_near(by(laplace(*e, 50), 1e-5, FB_ACCOUNTANT_RDP), convert(mironov_laplace, e, 0, 50), 1e-6);
        fb_event range = {.kind = FB_EVENT_BOUNDED_RANGE, .epsilon = *e, .rate = 1, .count = 50};
        assert_near(by(range, 1e-5, FB_ACCOUNTANT_RDP), convert(bounded_range, e, 0, 50), 1e-4);
        double expected = convert(sampled, poisson[i], 1, 100);
        assert_near(by(gaussian(poisson[i][1], poisson[i][0], 100), 1e-5, FB_ACCOUNTANT_RDP), expected, 1e-8);
    }
    assert_near(by(laplace(1, 100), 1e-5, FB_ACCOUNTANT_RDP), 70.8, 0.02);
}

/* Balle & Wang: the delta of the answer is the asked one. */
static void gaussian_is_exact(void **state)
{
    (void)state;
    for (double noise = 0.5; noise < 30; noise *= 1.7) {
        for (double delta = 1e-8; delta < 0.01; delta *= 20) {
            double mu = sqrt(7) / noise, epsilon = spend_one(gaussian(noise, 1, 7), delta);
            double found = normal(mu / 2 - epsilon / mu) - exp(epsilon) * normal(-mu / 2 - epsilon / mu);
            if (epsilon > 0)
                assert_near(found, delta, 1e-6);
        }
    }
    static const double small[][3] = {{1e-8, 1e-9, 9.0234634996959563e-9}, /* mu, delta, epsilon; mpmath, 60 digits */
                                      {3e-7, 1e-10, 9.1155286424229916e-7},
                                      {1e-6, 1e-12, 4.4248927590894820e-6},
                                      {1e-4, 1e-9, 3.9236063697490108e-4},
                                      {1e-2, 1e-5, 2.7219419814577136e-2}};
    for (int i = 0; i < 5; i++) {
        const double epsilon = by(gaussian(1 / small[i][0], 1, 1), small[i][1], FB_ACCOUNTANT_PLD);
        assert_within(epsilon, small[i][2] * (1 - 1e-15), small[i][2] * (1 + 1e-15) + 1e-6 * small[i][0]);
    }
    /* where an erfc is subnormal; the true ones are 294.381 and 685.137 */
    assert_true(by(gaussian(1 / 8.55, 1, 1), 1e-200, FB_ACCOUNTANT_PLD) >= 294.38);
    assert_true(by(gaussian(1 / 27.9, 1, 1), 1e-26, FB_ACCOUNTANT_PLD) >= 685.13);
    assert_near(spend_one(gaussian(10, 1, 100), 1e-5), 4.377, 1e-3); /* add/remove; replace-one has twice the shift */
    assert_near(spend_one(gaussian(5, 1, 100), 1e-5), 9.997, 1e-3);
    assert_near(spend_one(gaussian(25, 1, 300), 1e-5), 2.88, 2e-3);
}

/* --- the price of tables --- */

static void tables_cost_what_the_header_says(void **state)
{
    (void)state;
    fb_event ideal = gaussian(10, 1, 100), real = ideal;
    real.rounding = 1e-5; /* of one event: 1e-3 of all */
    const double expected = spend_one(ideal, 1e-5 * exp(-1e-3)) + 2e-3;
    assert_near(spend_one(real, 1e-5), expected, ROUNDING);
    assert_true(expected > spend_one(ideal, 1e-5) + 2e-3);
    real.rounding = 0;
    real.to_continuous = 1e-5;
    assert_near(by(real, 1e-5, FB_ACCOUNTANT_PLD), expected, ROUNDING);
    assert_near(by(real, 1e-5, FB_ACCOUNTANT_ZCDP), by(ideal, 1e-5, FB_ACCOUNTANT_ZCDP), 0);
    assert_near(by(real, 1e-5, FB_ACCOUNTANT_RDP), by(ideal, 1e-5, FB_ACCOUNTANT_RDP), 0);
    real.to_continuous = 1e6; /* the others are left */
    assert_near(spend_one(real, 1e-5), by(ideal, 1e-5, FB_ACCOUNTANT_RDP), 1e-3);
    fb_event many = laplace(1, 117685); /* no more than that where epsilon is large */
    many.rounding = 0x1p-40;
    assert_near(by(many, 0, FB_ACCOUNTANT_PURE) - 117685, 2 * 117685 * 0x1p-40, 1e-3);
    fb_event far = gaussian(0.01, 1, 1000); /* epsilon of millions */
    const double sum = spend_one(far, 1e-5);
    far.rounding = 1e-6;
    assert_within(spend_one(far, 1e-5) - sum, 2e-3, 1);
}

/* --- the rest --- */

static void is_monotone(void **state)
{
    (void)state;
    const fb_event events[] = {pure(0.2, 20), laplace(0.1, 30), gaussian(4, 1, 10), gaussian(2, 0.1, 50)};
    for (int n = 1; n <= 4; n++) {
        fb_event more[4], less[4];
        for (int i = 0; i < n; i++) {
            more[i] = less[i] = events[i];
            more[i].count += 5;
            less[i].scale *= 1.1;
            less[i].epsilon /= 1.1;
        }
        double epsilon = spend(events, n, 1e-5).epsilon;
        assert_true(spend(more, n, 1e-5).epsilon > epsilon * 1.01);
        assert_true(spend(less, n, 1e-5).epsilon < epsilon * 0.99);
        assert_true(spend(events, n, 1e-6).epsilon > epsilon * 1.01);
        if (n > 1)
            assert_true(spend(events, n - 1, 1e-5).epsilon < epsilon);
    }
}

/* Two events are one with twice the count; what cannot change costs nothing. */
static void merges_and_leaves_out(void **state)
{
    (void)state;
    fb_event events[] = {gaussian(2, 0.1, 20), gaussian(2, 0.1, 30), gaussian(1, 1, 0), discrete(1, 0.5, 9),
                         pure(0, 3)};
    assert_near(spend(events, 5, 1e-5).epsilon, spend_one(gaussian(2, 0.1, 50), 1e-5), 0);
    fb_spent nothing = spend(events + 2, 3, 1e-5);
    assert_true(nothing.epsilon == 0 && nothing.delta == 1e-5);
    assert_true(spend(NULL, 0, 0).epsilon == 0);
    assert_true(spend_one(pure(1, 5), 0.999) < 1e-9);
}

static void extremes_stay_finite(void **state)
{
    (void)state;
    const fb_event events[] = {pure(1e9, 1),
                               pure(1e-9, 1000000000),
                               laplace(10, 1000000000),
                               laplace(1e-4, 10000000),
                               gaussian(1e-6, 1, 1000),
                               gaussian(1e-3, 0.5, 10),
                               gaussian(1e6, 0.01, 3),
                               pure(1e-9, 3)};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        for (double delta = 1e-15; delta < 1; delta *= 1e7) {
            fb_spent spent = spend(&events[i], 1, delta);
            assert_true(isfinite(spent.epsilon) && spent.epsilon >= 0);
            assert_near(spent.by[spent.accountant], spent.epsilon, 0);
            if (events[i].kind != FB_EVENT_GAUSSIAN)
                assert_true(spent.epsilon <= spent.by[FB_ACCOUNTANT_PURE]);
        }
    }
    /* 117,685 answers in 300 rounds */
    assert_within(spend_one(laplace(1e-3, 35305500), 1e-5), 42, 42.25);
}

static void calibrates(void **state)
{
    (void)state;
    double factor;
    const fb_event cases[][2] = {
        {gaussian(1, 1, 100)}, {gaussian(1, 0.1, 200)}, {pure(10, 30)}, {pure(0.01, 300), laplace(0.02, 1000)}};
    for (int i = 0; i < 4; i++) {
        fb_event events[2] = {cases[i][0], cases[i][1]};
        int n = i == 3 ? 2 : 1;
        must(fb_account_calibrate(&(fb_history){FB_ADD_REMOVE, n, events}, 8, 1e-5, &factor));
        for (int k = 0; k < n; k++) {
            events[k].scale *= factor;
            events[k].epsilon /= factor;
        }
        assert_within(spend(events, n, 1e-5).epsilon, 8 * (1 - 1e-4), 8);
        if (i == 0) /* the noise multiplier of full batches */
            assert_within(factor, 5.99, 6.02);
    }
    fb_event hopeless = gaussian(1, 1, 100); /* rounding alone spends 10 */
    hopeless.rounding = 0.05;
    must_fail(fb_account_calibrate(&(fb_history){FB_ADD_REMOVE, 1, &hopeless}, 8, 1e-5, &factor), "2^40", "epsilon 8");
    must_fail(fb_account_calibrate(&(fb_history){FB_ADD_REMOVE, 1, cases[0]}, 0, 1e-5, &factor), "epsilon is 0");
    must(fb_account_calibrate(&(fb_history){FB_ADD_REMOVE, 0, NULL}, 8, 1e-5, &factor));
    assert_near(factor, 0x1p-40, 0);
}

static void refuse(fb_relation relation, fb_event event, const char *text)
{
    fb_spent spent;
    must_fail(fb_account(&(fb_history){relation, 1, &event}, 1e-5, &spent), "event 0", text);
}

static void refuses_what_no_theorem_covers(void **state)
{
    (void)state;
    fb_spent spent;
    fb_event bad = pure(1, 1);
    refuse(FB_REPLACE_ONE, gaussian(1, 0.5, 1), "add/remove");
    refuse(FB_ADD_REMOVE, gaussian(1, 0, 1), "rate is 0");
    refuse(FB_ADD_REMOVE, gaussian(1, 1.5, 1), "rate is 1.5");
    refuse(FB_ADD_REMOVE, gaussian(NAN, 1, 1), "scale is nan");
    refuse(FB_ADD_REMOVE, gaussian(0, 1, 1), "scale is 0");
    refuse(FB_ADD_REMOVE, discrete(1, -1, 1), "sensitivity is -1");
    refuse(FB_ADD_REMOVE, pure(-1, 1), "epsilon is -1");
    refuse(FB_ADD_REMOVE, pure(INFINITY, 1), "epsilon is inf");
    refuse(FB_ADD_REMOVE, pure(1, -1), "count is -1");
    bad.rounding = -1;
    refuse(FB_ADD_REMOVE, bad, "rounding is -1");
    bad = pure(1, 1);
    bad.to_continuous = -1;
    refuse(FB_ADD_REMOVE, bad, "to_continuous is -1");
    bad = pure(1, 1);
    bad.rate = 0.5;
    refuse(FB_ADD_REMOVE, bad, "only the Gaussian");
    bad.kind = (fb_event_kind)7;
    refuse(FB_ADD_REMOVE, bad, "no kind 7");
    bad = pure(1, 1);
    must_fail(fb_account(&(fb_history){FB_ADD_REMOVE, 1, &bad}, 1, &spent), "delta is 1");
    must_fail(fb_account(&(fb_history){FB_ADD_REMOVE, 1, &bad}, -1, &spent), "delta is -1");
    must_fail(fb_account(&(fb_history){FB_ADD_REMOVE, 1, &bad}, NAN, &spent), "delta is nan");
    must_fail(fb_account(&(fb_history){(fb_relation)3, 1, &bad}, 0, &spent), "relation 3");
    assert_string_equal(fb_accountant_name(FB_ACCOUNTANT_KOV), "kov");
}

/* Against the sum written out; forward leaves the frequencies bit-reversed. */
static void transform_is_the_sum(void **state)
{
    (void)state;
    enum { N = 16 };
    fb_complex root[N / 2], x[N], y[N];
    fb_fft_roots(N, root);
    for (int i = 0; i < N; i++)
        x[i] = y[i] = (fb_complex){sin(i * i), cos(3 * i)};
    fb_fft_forward(N, root, y);
    for (int position = 0; position < N; position++) {
        int f = (position & 1) << 3 | (position & 2) << 1 | (position & 4) >> 1 | position >> 3;
        int mirror = (int)fb_fft_mirror(position);
        int g = (mirror & 1) << 3 | (mirror & 2) << 1 | (mirror & 4) >> 1 | mirror >> 3;
        fb_complex sum = {0, 0};
        for (int i = 0; i < N; i++) {
            double c = cos(-M_PI / 8 * f * i), s = sin(-M_PI / 8 * f * i);
            sum = (fb_complex){sum.re + x[i].re * c - x[i].im * s, sum.im + x[i].re * s + x[i].im * c};
        }
        assert_true(fabs(sum.re - y[position].re) < 1e-13 && fabs(sum.im - y[position].im) < 1e-13);
        assert_int_equal((f + g) % N, 0);
    }
    fb_fft_inverse(N, root, y);
    for (int i = 0; i < N; i++)
        assert_true(fabs(x[i].re - y[i].re) < 1e-15 && fabs(x[i].im - y[i].im) < 1e-15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_dp_accounting),
        cmocka_unit_test(kov_is_optimal_composition),
        cmocka_unit_test(advanced_composition),
        cmocka_unit_test(zcdp_is_the_tight_conversion),
        cmocka_unit_test(rdp_is_the_published_curves),
        cmocka_unit_test(gaussian_is_exact),
        cmocka_unit_test(tables_cost_what_the_header_says),
        cmocka_unit_test(is_monotone),
        cmocka_unit_test(merges_and_leaves_out),
        cmocka_unit_test(extremes_stay_finite),
        cmocka_unit_test(calibrates),
        cmocka_unit_test(refuses_what_no_theorem_covers),
        cmocka_unit_test(transform_is_the_sum),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("accountant", tests, NULL, NULL);
}
