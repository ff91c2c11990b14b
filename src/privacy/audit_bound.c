/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/audit_bound.h"

#include "core/status.h"

#include <math.h>

enum { BISECTIONS = 60, FRACTION_TERMS = 1000000 };

static const double DELTA_SHARE = 1.0 / 16.0; /* of alpha: delta is small, so that P need not be known well */

/* Continued fraction of the incomplete beta function (Lentz); converges within O(sqrt(max(a, b))) terms for
 * x < (a + 1) / (a + b + 2). */
static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);
    d = 1.0 / (fabs(d) < tiny ? tiny : d);
    double value = d;
    for (int m = 1; m <= FRACTION_TERMS; m++) {
        const double k = m, even = k * (b - k) * x / ((a + 2.0 * k - 1.0) * (a + 2.0 * k));
        const double odd = -(a + k) * (a + b + k) * x / ((a + 2.0 * k) * (a + 2.0 * k + 1.0));
        double step = 1.0;
        for (int part = 0; part < 2; part++) {
            const double term = part ? odd : even;
            d = 1.0 + term * d;
            c = 1.0 + term / c;
            d = 1.0 / (fabs(d) < tiny ? tiny : d);
            c = fabs(c) < tiny ? tiny : c;
            step = c * d;
            value *= step;
        }
        if (fabs(step - 1.0) < 1e-15)
            break;
    }
    return value;
}

/* I_x(a, b), a and b above 0 */
static double beta_cdf(double a, double b, double x)
{
    if (x <= 0.0 || x >= 1.0)
        return x >= 1.0;
    const double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1.0) / (a + b + 2.0))
        return front * beta_fraction(a, b, x) / a;
    return 1.0 - front * beta_fraction(b, a, 1.0 - x) / b;
}

/* P(Binomial(trials, p) >= hits) */
static double tail(int64_t hits, int64_t trials, double p)
{
    return hits <= 0 ? 1.0 : beta_cdf((double)hits, (double)(trials - hits) + 1.0, p);
}

double fb_audit_lower(int64_t hits, int64_t trials, double alpha)
{
    double low = 0.0, high = (double)hits / (double)trials;
    FB_ASSERT(0 <= hits && hits <= trials && trials > 0);
    for (int i = 0; i < BISECTIONS && hits > 0; i++) {
        const double p = 0.5 * (low + high);
        *(tail(hits, trials, p) <= alpha ? &low : &high) = p;
    }
    return low;
}

double fb_audit_upper(int64_t hits, int64_t trials, double alpha)
{
    return 1.0 - fb_audit_lower(trials - hits, trials, alpha);
}

double fb_audit_epsilon(int64_t hits_p, int64_t hits_q, int64_t trials, double alpha, double delta)
{
    if (hits_p == 0)
        return 0.0;
    const double rest = delta > 0.0 ? DELTA_SHARE * alpha : 0.0;
    const double first = fb_audit_lower(hits_p, hits_p + hits_q, alpha - rest); /* P / (P + Q) */
    const double p = delta > 0.0 ? 2.0 * fb_audit_lower(hits_p, trials, rest) : 1.0;
    const double ratio = p > delta ? (1.0 - delta / p) * first / (1.0 - first) : 0.0;
    return ratio > 1.0 ? log(ratio) : 0.0;
}

double fb_audit_ceiling(int64_t trials, double alpha, double delta)
{
    return fb_audit_epsilon(trials / 2, 0, trials, alpha, delta);
}

/* The theorem's alpha is the largest average of the i probabilities below `right`, over i. */
double fb_audit_one_run_p(int64_t m, int64_t guesses, int64_t right, double epsilon, double delta)
{
    FB_ASSERT(0 <= right && right <= guesses && guesses <= m);
    const double q = 1.0 / (1.0 + exp(-epsilon)), n = (double)guesses;
    double largest = 0.0, sum = 0.0;
    for (int64_t i = 1; delta > 0.0 && i <= right; i++) {
        const double k = (double)(right - i);
        sum +=
            exp(lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0) + k * log(q) - (n - k) * log1p(exp(epsilon)));
        largest = fmax(largest, sum / (double)i);
    }
    return fmin(1.0, tail(right, guesses, q) + 2.0 * (double)m * delta * largest);
}

double fb_audit_one_run_epsilon(int64_t m, int64_t guesses, int64_t right, double alpha, double delta)
{
    double low = 0.0, high = 64.0;
    if (guesses == 0 || fb_audit_one_run_p(m, guesses, right, 0.0, delta) > alpha)
        return 0.0;
    for (int i = 0; i < BISECTIONS; i++) {
        const double epsilon = 0.5 * (low + high);
        *(fb_audit_one_run_p(m, guesses, right, epsilon, delta) <= alpha ? &low : &high) = epsilon;
    }
    return low;
}
