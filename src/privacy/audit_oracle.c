/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/audit_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCALES = 40 };

/* One value of the noised threshold. */
typedef struct pass {
    int n, count;
    fb_oracle_order order;
    double p[FB_ORACLE_N_MAX]; /* that a coordinate passes its test */
} pass;

static double mass(double scale, int64_t x)
{
    const double a = exp(-1.0 / scale);
    return (1.0 - a) / (1.0 + a) * exp(-fabs((double)x) / scale);
}

/* P(noise >= x) */
static double at_least(double scale, int64_t x)
{
    const double a = exp(-1.0 / scale);
    return x > 0 ? exp(-(double)x / scale) / (1.0 + a) : 1.0 - exp((double)(x - 1) / scale) / (1.0 + a);
}

/* The rest of a pass, with the bits of `untested` still to come. */
static void walk(const pass *w, int selected, int untested, double probability, double next[FB_ORACLE_SETS])
{
    if (untested == 0 || __builtin_popcount((unsigned)selected) == w->count) {
        next[selected] += probability;
        return;
    }
    const int first_only = w->order == FB_ORDER_ASCENDING;
    const double each = first_only ? probability : probability / __builtin_popcount((unsigned)untested);
    for (int i = 0; i < w->n; i++) {
        const int bit = 1 << i;
        if (!(untested & bit))
            continue;
        walk(w, selected | bit, untested & ~bit, each * w->p[i], next);
        walk(w, selected, untested & ~bit, each * (1.0 - w->p[i]), next);
        if (first_only)
            break;
    }
}

/* step[s][r]: probability that a pass that begins with s ends with r. */
static void make_steps(const pass *w, double step[FB_ORACLE_SETS][FB_ORACLE_SETS])
{
    const int sets = 1 << w->n;
    memset(step, 0, FB_ORACLE_SETS * sizeof *step);
    for (int s = 0; s < sets; s++)
        if (__builtin_popcount((unsigned)s) <= w->count)
            walk(w, s, (sets - 1) & ~s, 1.0, step[s]);
}

/* Adds to law what starts with `probability` and nothing selected. */
static void run_passes(const pass *w, double probability, double law[FB_ORACLE_SETS])
{
    const int sets = 1 << w->n;
    double step[FB_ORACLE_SETS][FB_ORACLE_SETS], now[FB_ORACLE_SETS] = {probability};
    make_steps(w, step);
    for (int k = 0; k < FB_SVT_PASSES; k++) {
        double next[FB_ORACLE_SETS] = {0.0};
        for (int s = 0; s < sets; s++)
            for (int r = s; r < sets && now[s] > 0.0; r = (r + 1) | s)
                next[r] += now[s] * step[s][r];
        memcpy(now, next, sizeof now);
    }
    for (int s = 0; s < sets; s++)
        law[s] += now[s];
}

void fb_oracle_svt(const fb_budget *budget, fb_oracle_order order, const int64_t *magnitude, double law[FB_ORACLE_SETS])
{
    FB_ASSERT(budget->n <= FB_ORACLE_N_MAX);
    pass w = {.n = (int)budget->n, .count = (int)budget->count, .order = order};
    const int64_t reach = (int64_t)ceil(SCALES * budget->scale_threshold);
    memset(law, 0, FB_ORACLE_SETS * sizeof *law);
    for (int64_t rho = -reach; rho <= reach; rho++) {
        for (int i = 0; i < w.n; i++)
            w.p[i] = at_least(budget->scale_query, budget->threshold_grid + rho - magnitude[i]);
        run_passes(&w, mass(budget->scale_threshold, rho), law);
    }
}

void fb_oracle_exponential(int64_t n, int64_t count, double scale, const int64_t *magnitude, double law[FB_ORACLE_SETS])
{
    double reached[FB_ORACLE_SETS] = {1.0};
    FB_ASSERT(n <= FB_ORACLE_N_MAX && count <= n);
    memset(law, 0, FB_ORACLE_SETS * sizeof *law);
    for (int s = 0; s < 1 << n; s++) { /* a set comes after its subsets */
        double sum = 0.0;
        for (int i = 0; i < n; i++)
            sum += s >> i & 1 ? 0.0 : exp((double)magnitude[i] / scale);
        if (__builtin_popcount((unsigned)s) == count) {
            law[s] = reached[s];
            continue;
        }
        for (int i = 0; i < n; i++)
            if (!(s >> i & 1))
                reached[s | 1 << i] += reached[s] * exp((double)magnitude[i] / scale) / sum;
    }
}

double fb_oracle_loss(int64_t n, const double law_a[FB_ORACLE_SETS], const double law_b[FB_ORACLE_SETS],
                      const int64_t *a, const int64_t *b, double scale_answer)
{
    double largest = 0.0;
    for (int s = 0; s < 1 << n; s++) {
        double answers = 0.0;
        if (law_a[s] == 0.0 && law_b[s] == 0.0)
            continue;
        for (int i = 0; i < n; i++)
            answers += s >> i & 1 ? (double)llabs(a[i] - b[i]) / scale_answer : 0.0;
        largest = fmax(largest, fabs(log(law_a[s] / law_b[s])) + answers);
    }
    return largest;
}
