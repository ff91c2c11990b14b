/* SPDX-License-Identifier: Apache-2.0
 *
 * Accountants that know of an event no more than its epsilon.
 */
#include "core/mem.h"
#include "privacy/pld.h"

#include <math.h>

int fb_costs_are_pure(const fb_costs *costs)
{
    for (int i = 0; i < costs->n; i++) {
        if (fb_cost_is_gaussian(&costs->cost[i]))
            return 0;
    }
    return 1;
}

double fb_pure_epsilon(const void *state, double delta)
{
    const fb_costs *costs = state;
    (void)delta;
    double total = 0;
    for (int i = 0; i < costs->n; i++)
        total += costs->cost[i].count * costs->cost[i].epsilon;
    return total;
}

/* Theorem III.3 of Dwork, Rothblum & Vadhan for unequal epsilons: a loss of at most e with mean at most e (exp(e) - 1),
 * whatever came before; Azuma's inequality. */
double fb_advanced_epsilon(const void *state, double delta)
{
    const fb_costs *costs = state;
    double mean = 0, square = 0;
    for (int i = 0; i < costs->n; i++) {
        double e = costs->cost[i].epsilon;
        mean += costs->cost[i].count * e * expm1(e);
        square += costs->cost[i].count * e * e;
    }
    return delta > 0 ? sqrt(-2 * log(delta) * square) + mean : INFINITY;
}

fb_status fb_tail_sum_make(int64_t n, const double *mass, double top, double step, fb_tail_sum *out)
{
    FB_TRY(FB_ALLOC_RAW(out->above, n, "privacy losses"));
    FB_TRY(FB_ALLOC_RAW(out->scaled, n, "privacy losses"));
    double decay = exp(-step), above = 0, scaled = 0;
    for (int64_t j = 0; j < n; j++) {
        above += mass[j];
        scaled = mass[j] + decay * scaled;
        out->above[j] = above;
        out->scaled[j] = scaled;
    }
    out->n = n;
    out->top = top;
    out->step = step;
    return FB_OK;
}

void fb_tail_sum_free(fb_tail_sum *tail)
{
    FB_FREE(tail->above);
    FB_FREE(tail->scaled);
    *tail = (fb_tail_sum){0};
}

/* delta at epsilon = loss of entry j */
static double delta_at(const fb_tail_sum *tail, int64_t j)
{
    return tail->above[j] * (1 + tail->slack) - tail->scaled[j] * (1 - tail->slack) + tail->extra;
}

double fb_tail_sum_epsilon(const void *state, double delta)
{
    const fb_tail_sum *tail = state;
    if (tail->n == 0 || !(delta_at(tail, 0) <= delta))
        return tail->extra > 0 || tail->n == 0 ? INFINITY : fmax(tail->top, 0);
    int64_t low = 0, high = tail->n; /* delta_at(low) <= delta < delta_at(high) */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (delta_at(tail, middle) <= delta)
            low = middle;
        else
            high = middle;
    }
    double loss = tail->top - (double)low * tail->step;
    double rest = tail->above[low] * (1 + tail->slack) + tail->extra - delta;
    double epsilon = loss - tail->step;
    if (rest > 0) /* a mass of 0 has rest <= 0, as its delta is within the asked one */
        epsilon = fmax(epsilon, loss + log(rest / (tail->scaled[low] * (1 - tail->slack))));
    return fmax(fmin(epsilon, loss), 0);
}

/* The loss is (count - 2 k) epsilon, k binomial with 1 / (1 + exp(epsilon)). Of k only those within Bernstein's bound
 * around the mode can matter: what lies outside has less than exp(-LEVEL). Upwards from the mode and downwards by
 * ratios of neighbours, then divided by the sum. */
fb_status fb_tail_sum_of_responses(double epsilon, double count, fb_tail_sum *out)
{
    static const double level = 120;
    double p = 1 / (1 + exp(epsilon)), odds = exp(-epsilon), mode = floor((count + 1) * p);
    double width = sqrt(2 * level * count * p * (1 - p)) + 2 * level / 3 + 2;
    double first = fmax(0, floor(mode - width)), last = fmin(count, ceil(mode + width));
    int64_t n = (int64_t)(last - first) + 1, at = (int64_t)(mode - first);
    double *mass = NULL;
    FB_TRY(FB_ALLOC(mass, n, "binomial probabilities"));
    mass[at] = 1;
    double sum = 1;
    for (int64_t i = at; i + 1 < n; i++) {
        double k = first + (double)i;
        mass[i + 1] = mass[i] * (count - k) / (k + 1) * odds;
        sum += mass[i + 1];
    }
    for (int64_t i = at; i > 0; i--) {
        double k = first + (double)i;
        mass[i - 1] = mass[i] * k / ((count - k + 1) * odds);
        sum += mass[i - 1];
    }
    for (int64_t i = 0; i < n; i++)
        mass[i] /= sum;
    fb_status status = fb_tail_sum_make(n, mass, (count - 2 * first) * epsilon, 2 * epsilon, out);
    out->extra = first > 0 ? exp(-level) : 0;
    out->slack = (double)n * 0x1p-50;
    FB_FREE(mass);
    return status;
}
