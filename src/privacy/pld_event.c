/* SPDX-License-Identifier: Apache-2.0
 *
 * Gaussian in units of its standard deviation, sampled with probability q: (1 - q) N(0, 1) + q N(mu, 1) against N(0, 1)
 * when the unit is removed, the loss log(1 - q + q exp(mu x - mu^2 / 2)) growing with x; the other way round, with the
 * negative loss, when it is added. Masses between losses are differences of normal distribution functions.
 */
#include "privacy/pld_event.h"

#include "core/mem.h"

#include <math.h>

/* Losses above are counted as infinite: their exponentials would leave the range of doubles. */
static const double LOSS_MAX = 600;

/* Smaller masses at the ends are not kept: they would make the tilting of pld.c lose its precision. */
static const double MASS_MIN = 1e-200;

static fb_status reserve(double low, double high, fb_event_loss *out)
{
    out->low = (int64_t)low;
    out->n = (int64_t)(high - low) + 2;
    return FB_ALLOC(out->p, out->n, "privacy losses of an event");
}

void fb_event_loss_free(fb_event_loss *loss)
{
    FB_FREE(loss->p);
    *loss = (fb_event_loss){0};
}

/* p, q: masses under the two neighbours of the losses from grid point `cell` to the next. */
static void split(fb_event_loss *out, int64_t cell, double step, double p, double q)
{
    double upper = (p - q * exp((double)cell * step)) / -expm1(-step);
    upper = fmin(fmax(upper, 0), p);
    out->p[cell - out->low] += p - upper;
    out->p[cell - out->low + 1] += upper;
}

/* Drops empty ends, and makes the masses add up to 1, from which only roundings keep them. */
static void finish(fb_event_loss *loss)
{
    double sum = 0;
    int64_t first = 0;
    while (loss->n > 1 && loss->p[loss->n - 1] < MASS_MIN)
        loss->infinite += loss->p[--loss->n];
    while (first + 1 < loss->n && loss->p[first] < MASS_MIN) {
        loss->p[first + 1] += loss->p[first];
        first++;
    }
    loss->n -= first;
    loss->low += first;
    for (int64_t i = 0; i < loss->n; i++)
        sum += loss->p[i] = loss->p[i + first];
    for (int64_t i = 0; i < loss->n; i++)
        loss->p[i] *= (1 - loss->infinite) / sum;
}

/* index of a loss, to the grid point when it is one up to rounding */
static double grid_floor(double loss, double step)
{
    double x = loss / step, nearest = rint(x);
    return fabs(x - nearest) <= 1e-12 * fabs(nearest) ? nearest : floor(x);
}

/* Mass of a single loss. */
static void add_atom(fb_event_loss *out, double loss, double step, double p)
{
    double cell = grid_floor(loss, step), rest = fmax(loss - cell * step, 0);
    double upper = cell == rint(loss / step) && rest <= 1e-11 * fabs(loss) ? 0 : expm1(-rest) / expm1(-step);
    out->p[(int64_t)cell - out->low] += p * (1 - upper);
    out->p[(int64_t)cell - out->low + 1] += p * upper;
}

fb_status fb_event_loss_laplace(const fb_cost *cost, double step, fb_event_loss *out)
{
    double s = cost->scale, shift = cost->shift, whole = 1 + exp(-1 / s);
    double low = grid_floor(-cost->epsilon, step), high = grid_floor(cost->epsilon, step);
    FB_TRY(reserve(low, high, out));
    add_atom(out, cost->epsilon, step, 1 / whole);
    add_atom(out, -cost->epsilon, step, exp(-cost->epsilon) / whole);
    double after = shift - 1; /* the last of x in (0, shift) not yet counted; its loss is (shift - 2 x) / s */
    for (double cell = low; cell <= high && after >= 1; cell++) {
        double before = fmax(floor((shift - (cell + 1) * step * s) / 2), 0), count = after - before;
        if (cell == high)
            before = 0, count = after;
        if (count < 1)
            continue;
        double share = -expm1(-count / s) / whole;
        split(out, (int64_t)cell, step, share * exp(-(before + 1) / s), share * exp(-(shift - after) / s));
        after = before;
    }
    finish(out);
    return FB_OK;
}

/* P(a < N(0, 1) < b), with a small relative error in the tails and for near a and b (midpoint rule with two
 * corrections; the next is below 1e-13). */
static double normal_between(double a, double b)
{
    double width = b - a, m = a + width / 2, root = sqrt(0.5);
    if (!(width > 0))
        return 0;
    if (width * (1 + fabs(m)) < 0.05) {
        double w = width * width, m2 = m * m;
        double series = 1 + w * ((m2 - 1) / 24 + w * (m2 * m2 - 6 * m2 + 3) / 1920);
        return exp(-m2 / 2) * width * series * 0.3989422804014326779;
    }
    if (a > 0)
        return (erfc(a * root) - erfc(b * root)) / 2;
    if (b < 0)
        return (erfc(-b * root) - erfc(-a * root)) / 2;
    return (erf(b * root) - erf(a * root)) / 2;
}

/* x at which the unit's removal has this loss; -INFINITY below the least. */
static double place_of(const fb_cost *cost, double loss)
{
    double q = cost->rate, mu = cost->mu;
    if (q >= 1)
        return loss / mu + mu / 2;
    double odds = expm1(loss) + q;
    return odds > 0 ? log(odds / q) / mu + mu / 2 : -INFINITY;
}

static double loss_at(const fb_cost *cost, double x)
{
    double gain = cost->mu * (x - cost->mu / 2);
    if (cost->rate >= 1)
        return gain;
    return gain > 30 ? gain + log(cost->rate + (1 - cost->rate) * exp(-gain)) : log1p(cost->rate * expm1(gain));
}

typedef struct range {
    double low, high; /* grid points; the last cell is [high, high + 1) */
} range;

static range range_of(const fb_cost *cost, double step, double tail)
{
    double z = sqrt(-2 * log(tail)), least = cost->rate < 1 ? log1p(-cost->rate) : loss_at(cost, cost->mu - z);
    double most = fmin(loss_at(cost, cost->mu + z), LOSS_MAX);
    return (range){floor(fmax(least, -LOSS_MAX) / step), floor(most / step)};
}

double fb_event_loss_points(const fb_cost *cost, double step, double tail)
{
    if (!fb_cost_is_gaussian(cost))
        return 2 * cost->epsilon / step;
    range r = range_of(cost, step, tail);
    return r.high - r.low;
}

fb_status fb_event_loss_gaussian(const fb_cost *cost, double step, double tail, fb_event_loss out[2])
{
    range r = range_of(cost, step, tail);
    double q = cost->rate, mu = cost->mu, from = -INFINITY, root = sqrt(0.5);
    int sampled = q < 1;
    FB_TRY(reserve(r.low, r.high, &out[0]));
    if (sampled)
        FB_TRY(reserve(-r.high - 1, -r.low - 1, &out[1]));
    for (double cell = r.low; cell <= r.high; cell++) {
        double to = place_of(cost, (cell + 1) * step);
        double without = normal_between(from, to), with = normal_between(from - mu, to - mu);
        double mixed = (1 - q) * without + q * with;
        split(&out[0], (int64_t)cell, step, mixed, without);
        if (sampled)
            split(&out[1], -(int64_t)cell - 1, step, without, mixed);
        from = to;
    }
    double without = erfc(from * root) / 2, with = erfc((from - mu) * root) / 2;
    out[0].infinite = (1 - q) * without + q * with;
    finish(&out[0]);
    if (!sampled)
        return FB_OK;
    out[1].p[0] += without; /* losses below the lowest grid point, moved up to it */
    finish(&out[1]);
    return FB_OK;
}
