/* SPDX-License-Identifier: Apache-2.0
 *
 * Renyi divergences of one event, and what they say about (epsilon, delta).
 *
 * Conversion (Canonne, Kamath & Steinke 2020, proposition 12; Balle et al. 2020): order a with divergence R gives
 *   epsilon = R + log((a - 1) / a) - (log delta + log a) / (a - 1)
 * which for R = rho a is the tight one of zCDP. Every order is valid, so a search that misses the best one is safe.
 *
 * Discrete Laplace, loss range e = D / s, r = exp(-1/s): the losses are +e on x <= 0, -e on x >= D and (D - 2x) / s in
 * between, three geometric sums in closed form; D = 1 is randomised response. Its zCDP constant is its
 * Kullback-Leibler divergence, R(1): with u = a - 1/2 and B proportional to sqrt(PQ), (a - 1) R(a) = log F(u) - log
 * F(1/2), F(u) = E_B cosh(u loss). In z = exp(2 u / s), F is z^(-D/2) (w + z + ... + z^(D-1) + w z^D) times a constant,
 * w = 1 / (1 - r) > 1. Times 1 - z the polynomial is h(z) - z^D h*(z) with h(z) = w - (w - 1) z, h*(z) = w z - (w - 1).
 * h has its zero outside the unit circle, so |h*| < |h| inside and there is no zero inside, nor, by symmetry, outside:
 * all zeros of F lie on the imaginary axis, F is a product of factors 1 + u^2 / c, log F is concave in u^2, and lies
 * below its tangent at u = 1/2: (a - 1) R(a) <= R(1) (u^2 - 1/4) = R(1) a (a - 1). For D = 1 it is e tanh(e / 2), and
 * for s -> infinity e + exp(-e) - 1 (Harrison & Manurangsi 2025).
 *
 * Bounded range: the worst pair has the losses t and t - e (Dong, Durfee & Rogers 2020); the best t in closed form.
 *
 * Poisson-sampled Gaussian, integer a (Mironov, Talwar & Zhang 2019): sum_k C(a,k) (1-q)^(a-k) q^k exp((k^2-k) mu^2/2).
 * This holds verbatim for the discrete Gaussian on Z^d and an integer shift D: it rests on sum_x exp(-|x - kD|^2 / 2
 * sigma^2) not depending on the integer k, and the proof that the other direction costs no more (their theorem 5) on
 * the reflection x -> D - x, which keeps the lattice.
 */
#include "privacy/accountant_impl.h"

#include <math.h>

enum { ORDER_MAX = 4096 };

/* Of a logarithm of a sum of a few terms computed in doubles; added on the safe side. */
static const double ROUNDING = 4e-15;

int fb_costs_are_sampled(const fb_costs *costs)
{
    for (int i = 0; i < costs->n; i++) {
        if (costs->cost[i].rate < 1)
            return 1;
    }
    return 0;
}

/* e - 1 + exp(-e), e >= 0, without cancellation. */
static double exp_second_order(double e)
{
    if (e > 0.1)
        return e + expm1(-e);
    double term = e * e / 2, sum = term;
    for (int k = 3; k < 16; k++) {
        term *= -e / k;
        sum += term;
    }
    return sum;
}

/* 1 - x / sinh x, x >= 0, without cancellation. */
static double sinh_excess(double x)
{
    if (x > 0.1)
        return x > 700 ? 1 : 1 - x / sinh(x);
    double square = x * x, term = square / 6, sum = term;
    for (int k = 4; k < 16; k += 2) {
        term *= square / (k * (k + 1));
        sum += term;
    }
    return sum / (1 + sum);
}

double fb_cost_rho(const fb_cost *cost)
{
    double e = cost->epsilon;
    if (fb_cost_is_gaussian(cost))
        return cost->rate < 1 ? INFINITY : cost->mu * cost->mu / 2;
    if (cost->kind == FB_EVENT_BOUNDED_RANGE)
        return fmin(e * e / 8, e);
    return exp_second_order(e) - expm1(-e) * sinh_excess(1 / cost->scale);
}

static double laplace_renyi(const fb_cost *cost, double excess)
{
    double e = cost->epsilon, twice = 1 + 2 * excess, y = twice / cost->scale, between = 0;
    if (cost->shift > 1)
        between = tanh(0.5 / cost->scale) * exp(-y) * expm1(-y * (cost->shift - 1)) / expm1(-y);
    double sum = (1 + exp(-twice * e)) / (1 + exp(-1 / cost->scale)) + between;
    return e + (log(sum) + ROUNDING) / excess;
}

static double bounded_range_renyi(double e, double excess)
{
    double order = 1 + excess;
    double here = -expm1(-order * e), below = -expm1(-excess * e), one = -expm1(-e);
    double log_y = log(excess / order) + e + log(here / below);
    return log_y + (log(here / one) - log(order) + ROUNDING) / excess;
}

/* log(1 + sum of k >= 2 terms): all positive, as the terms without the exponential add up to 1. */
static double sampled_renyi(const fb_cost *cost, int64_t order)
{
    double log_q = log(cost->rate), log_p = log1p(-cost->rate), half = cost->mu * cost->mu / 2;
    double log_choose = log((double)order), top = -INFINITY, sum = 0;
    for (int64_t k = 2; k <= order; k++) {
        double x = (double)k, a = (double)order, gain = x * (x - 1) * half;
        log_choose += log((a - x + 1) / x);
        double term =
            log_choose + x * log_q + (a - x) * log_p + (gain < 1 ? log(expm1(gain)) : gain + log1p(-exp(-gain)));
        if (term > top) {
            sum = sum * exp(top - term) + 1;
            top = term;
        } else {
            sum += exp(term - top);
        }
    }
    if (sum == 0 || top == -INFINITY)
        return 0;
    double log_sum = top + log(sum) + 1e-12 * (double)order; /* log_choose: order roundings */
    double log_total = log_sum > 700 ? log_sum : log1p(exp(log_sum));
    return log_total / (double)(order - 1);
}

/* Of order 1 + excess. */
static double renyi(const fb_cost *cost, double excess)
{
    if (fb_cost_is_gaussian(cost) && cost->rate < 1)
        return sampled_renyi(cost, llrint(1 + excess));
    double bound = fmin((1 + excess) * fb_cost_rho(cost), cost->epsilon);
    if (fb_cost_is_gaussian(cost))
        return bound;
    double exact =
        cost->kind == FB_EVENT_BOUNDED_RANGE ? bounded_range_renyi(cost->epsilon, excess) : laplace_renyi(cost, excess);
    return exact < bound ? exact : bound; /* also when the closed form is not a number */
}

typedef struct query {
    const fb_costs *costs;
    double rho; /* zCDP when there are no costs */
    double log_delta;
} query;

static double epsilon_of_order(const query *q, double excess)
{
    double order = 1 + excess, total = q->rho * order;
    for (int i = 0; q->costs && i < q->costs->n; i++)
        total += q->costs->cost[i].count * renyi(&q->costs->cost[i], excess);
    double epsilon = total + log(excess / order) - (q->log_delta + log(order)) / excess;
    return fmax(epsilon, 0);
}

/* The least over real orders: a scan, then golden section between the neighbours of its best. */
static double least_real(const query *q)
{
    static const double golden = 0.61803398874989485, step = 0.7;
    double best = INFINITY, at = 0;
    for (double x = -35; x < 30; x += step) {
        double value = epsilon_of_order(q, exp(x));
        if (value < best) {
            best = value;
            at = x;
        }
    }
    double low = at - step, high = at + step;
    for (int i = 0; i < 40; i++) {
        double x1 = high - golden * (high - low), x2 = low + golden * (high - low);
        double v1 = epsilon_of_order(q, exp(x1)), v2 = epsilon_of_order(q, exp(x2));
        best = fmin(best, fmin(v1, v2));
        if (v1 < v2)
            high = x2;
        else
            low = x1;
    }
    return best;
}

/* The least over integer orders 2 to ORDER_MAX. */
static double least_integer(const query *q)
{
    double best = INFINITY;
    int64_t at = 2;
    for (int64_t order = 2; order <= ORDER_MAX; order += order < 8 ? 1 : order / 8) {
        double value = epsilon_of_order(q, (double)(order - 1));
        if (value < best) {
            best = value;
            at = order;
        } else if (order > 4 * at) {
            break;
        }
    }
    for (int64_t step = at / 16; step >= 1; step /= 2) {
        for (int side = -1; side <= 1; side += 2) {
            double value = at + side * step < 2 ? INFINITY : epsilon_of_order(q, (double)(at + side * step - 1));
            if (value < best) {
                best = value;
                at += side * step;
                break;
            }
        }
    }
    return best;
}

double fb_rdp_epsilon(const void *state, double delta)
{
    const fb_costs *costs = state;
    query q = {.costs = costs, .log_delta = log(delta)};
    if (delta <= 0)
        return INFINITY;
    return fb_costs_are_sampled(costs) ? least_integer(&q) : least_real(&q);
}

double fb_zcdp_epsilon(const void *state, double delta)
{
    const fb_costs *costs = state;
    query q = {.log_delta = log(delta)};
    for (int i = 0; i < costs->n; i++)
        q.rho += costs->cost[i].count * fb_cost_rho(&costs->cost[i]);
    return delta > 0 ? least_real(&q) : INFINITY;
}
