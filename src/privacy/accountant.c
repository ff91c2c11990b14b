/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/accountant.h"

#include "core/mem.h"
#include "privacy/pld.h"

#include <math.h>

static const double COUNT_MAX = 0x1p53, RATIO_MAX = 1e100;

const char *fb_accountant_name(fb_accountant accountant)
{
    static const char *const names[FB_ACCOUNTANTS] = {"pure", "advanced", "kov", "zcdp", "rdp", "pld"};
    return names[accountant];
}

/* --- the history --- */

static fb_status check_number(int event, const char *what, double value, double least, double most)
{
    if (value >= least && value <= most)
        return FB_OK;
    return FB_USAGE("privacy accounting: event %d: %s is %g, must be from %g to %g", event, what, value, least, most);
}

static fb_status check_event(fb_relation relation, int i, const fb_event *e)
{
    if (e->kind < FB_EVENT_PURE || e->kind > FB_EVENT_GAUSSIAN)
        return FB_USAGE("privacy accounting: event %d: there is no kind %d", i, (int)e->kind);
    if (e->kind == FB_EVENT_LAPLACE || e->kind == FB_EVENT_GAUSSIAN) {
        FB_TRY(check_number(i, "scale", e->scale, 1 / RATIO_MAX, RATIO_MAX));
        FB_TRY(check_number(i, "sensitivity", e->sensitivity, 0, RATIO_MAX));
    } else {
        FB_TRY(check_number(i, "epsilon", e->epsilon, 0, RATIO_MAX));
    }
    FB_TRY(check_number(i, "count", (double)e->count, 0, COUNT_MAX));
    FB_TRY(check_number(i, "rounding", e->rounding, 0, RATIO_MAX));
    FB_TRY(check_number(i, "to_continuous", e->to_continuous, 0, RATIO_MAX));
    FB_TRY(check_number(i, "rate", e->rate, 0x1p-60, 1));
    if (e->rate < 1 && e->kind != FB_EVENT_GAUSSIAN)
        return FB_USAGE("privacy accounting: event %d: rate is %g, must be 1: only the Gaussian of a sample is known",
                        i, e->rate);
    if (e->rate < 1 && relation == FB_REPLACE_ONE)
        return FB_USAGE("privacy accounting: event %d: rate is %g, must be 1 when neighbours differ by replacing one: "
                        "no theorem here covers it; use add/remove",
                        i, e->rate);
    return FB_OK;
}

static fb_cost cost_of(const fb_event *e)
{
    fb_cost cost = {.kind = e->kind, .count = (double)e->count, .epsilon = INFINITY, .rate = e->rate};
    cost.rounding = cost.count * e->rounding;
    cost.to_continuous = cost.count * e->to_continuous;
    if (e->kind == FB_EVENT_GAUSSIAN) {
        cost.mu = e->sensitivity / e->scale;
        return cost;
    }
    cost.scale = e->scale;
    cost.shift = floor(e->sensitivity); /* by how much an integer can change */
    cost.epsilon = cost.shift / cost.scale;
    if (e->kind != FB_EVENT_LAPLACE) {
        cost.epsilon = e->epsilon;
        cost.scale = 1 / cost.epsilon;
        cost.shift = 1;
    }
    return cost;
}

static int same(const fb_cost *a, const fb_cost *b)
{
    return a->kind == b->kind && a->epsilon == b->epsilon && a->scale == b->scale && a->shift == b->shift &&
           a->mu == b->mu && a->rate == b->rate;
}

/* Merges equal events; leaves out those that cost nothing. */
static fb_status costs_make(const fb_history *history, fb_costs *out)
{
    if (history->relation != FB_REPLACE_ONE && history->relation != FB_ADD_REMOVE)
        return FB_USAGE("privacy accounting: there is no relation %d between neighbours", (int)history->relation);
    for (int i = 0; i < history->event_count; i++)
        FB_TRY(check_event(history->relation, i, &history->events[i]));
    FB_TRY(FB_ALLOC(out->cost, history->event_count, "privacy costs"));
    for (int i = 0; i < history->event_count; i++) {
        fb_cost cost = cost_of(&history->events[i]);
        int k = 0;
        if (cost.count == 0 || cost.epsilon == 0 || (fb_cost_is_gaussian(&cost) && cost.mu == 0))
            continue; /* the same whatever the data are, however it is drawn */
        while (k < out->n && !same(&out->cost[k], &cost))
            k++;
        if (k == out->n) {
            out->cost[out->n++] = cost;
            continue;
        }
        out->cost[k].count += cost.count;
        out->cost[k].rounding += cost.rounding;
        out->cost[k].to_continuous += cost.to_continuous;
    }
    return FB_OK;
}

/* --- the accountants --- */

/* An accountant's epsilon of the ideal history, and what the samplers' tables add. */
static double least_epsilon(const fb_costs *costs, fb_accountant accountant, fb_epsilon_at *at, const void *state,
                            double delta)
{
    double r = 0;
    for (int i = 0; i < costs->n; i++)
        r += costs->cost[i].rounding + (accountant == FB_ACCOUNTANT_PLD ? costs->cost[i].to_continuous : 0);
    return at(state, delta * exp(-r)) + 2 * r;
}

static fb_status account_pld(const fb_costs *costs, double delta, double *epsilon)
{
    fb_pld pld = {0};
    fb_status status = fb_pld_compose(costs, delta, &pld);
    if (status == FB_OK && pld.computed)
        *epsilon = least_epsilon(costs, FB_ACCOUNTANT_PLD, fb_pld_epsilon, &pld, delta);
    fb_pld_free(&pld);
    return status;
}

typedef struct responses {
    int n;
    fb_tail_sum *tail; /* (n) owned: events of equal epsilon */
} responses;

static double responses_epsilon(const void *state, double delta)
{
    const responses *r = state;
    double sum = 0;
    for (int i = 0; i < r->n; i++)
        sum += fb_tail_sum_epsilon(&r->tail[i], delta / r->n);
    return sum;
}

/* Exactly optimal for equal epsilons; unequal ones add up, each with an equal share of delta. */
static fb_status account_kov(const fb_costs *costs, double delta, double *epsilon)
{
    fb_status status;
    responses r = {.n = costs->n};
    FB_TRY_GOTO(status, FB_ALLOC(r.tail, r.n, "randomised responses"), done);
    for (int i = 0; i < r.n; i++) {
        const fb_cost *cost = &costs->cost[i];
        FB_TRY_GOTO(status, fb_tail_sum_of_responses(cost->epsilon, cost->count, &r.tail[i]), done);
    }
    *epsilon = least_epsilon(costs, FB_ACCOUNTANT_KOV, responses_epsilon, &r, delta);
done:
    for (int i = 0; r.tail && i < r.n; i++)
        fb_tail_sum_free(&r.tail[i]);
    FB_FREE(r.tail);
    return status;
}

/* by[] is NAN throughout at first. */
static fb_status account_each(const fb_costs *costs, double delta, double by[FB_ACCOUNTANTS])
{
    const int pure = FB_ACCOUNTANT_PURE, advanced = FB_ACCOUNTANT_ADVANCED, kov = FB_ACCOUNTANT_KOV;
    if (fb_costs_are_pure(costs)) {
        by[pure] = least_epsilon(costs, FB_ACCOUNTANT_PURE, fb_pure_epsilon, costs, delta);
        by[advanced] = least_epsilon(costs, FB_ACCOUNTANT_ADVANCED, fb_advanced_epsilon, costs, delta);
        FB_TRY(account_kov(costs, delta, &by[kov]));
        if (by[kov] > by[pure])
            by[kov] = by[pure]; /* the top of the distribution was cut, or rounding */
    }
    if (!fb_costs_are_sampled(costs))
        by[FB_ACCOUNTANT_ZCDP] = least_epsilon(costs, FB_ACCOUNTANT_ZCDP, fb_zcdp_epsilon, costs, delta);
    by[FB_ACCOUNTANT_RDP] = least_epsilon(costs, FB_ACCOUNTANT_RDP, fb_rdp_epsilon, costs, delta);
    if (delta > 0)
        FB_TRY(account_pld(costs, delta, &by[FB_ACCOUNTANT_PLD]));
    return FB_OK;
}

fb_status fb_account(const fb_history *history, double delta, fb_spent *out)
{
    fb_costs costs = {0};
    if (!(delta >= 0 && delta < 1))
        return FB_USAGE("privacy accounting: delta is %g, must be from 0 to below 1", delta);
    *out = (fb_spent){.epsilon = INFINITY, .delta = delta};
    fb_status status = costs_make(history, &costs);
    for (int i = 0; i < FB_ACCOUNTANTS; i++)
        out->by[i] = costs.n > 0 ? NAN : 0;
    if (status == FB_OK && costs.n > 0)
        status = account_each(&costs, delta, out->by);
    for (int i = 0; i < FB_ACCOUNTANTS; i++) {
        if (out->by[i] < out->epsilon) {
            out->epsilon = out->by[i];
            out->accountant = (fb_accountant)i;
        }
    }
    FB_FREE(costs.cost);
    return status;
}

/* --- calibration --- */

typedef struct search {
    fb_history history;
    const fb_event *original;
    fb_event *scaled; /* owned */
    double epsilon, delta;
} search;

/* log(spent / asked) with the noise 2^x fold, kept finite */
static fb_status excess_at(search *s, double x, double *excess)
{
    fb_spent spent;
    for (int i = 0; i < s->history.event_count; i++) {
        s->scaled[i] = s->original[i];
        s->scaled[i].scale *= exp2(x);
        s->scaled[i].epsilon /= exp2(x);
    }
    FB_TRY(fb_account(&s->history, s->delta, &spent));
    *excess = fmax(fmin(log(spent.epsilon / s->epsilon), 100), -100);
    return FB_OK;
}

/* Regula falsi over log noise, where log epsilon is nearly straight; a bisection whenever that does not halve. `high`
 * always meets the budget, `low` never does. */
static fb_status narrow(search *s, double low, double f_low, double high, double f_high, double *x)
{
    const double tolerance = 1.2e-6; /* 1e-6 of the factor */
    for (int bisect = 0; high - low > tolerance;) {
        double width = high - low, middle = low + width / 2, f;
        if (!bisect) {
            middle = low + width * f_low / (f_low - f_high);
            middle += middle - low < high - middle ? tolerance / 3 : -tolerance / 3; /* to catch the root between */
            middle = fmin(fmax(middle, low + tolerance / 3), high - tolerance / 3);
        }
        FB_TRY(excess_at(s, middle, &f));
        if (f <= 0) {
            high = middle;
            f_high = f;
        } else {
            low = middle;
            f_low = f;
        }
        bisect = high - low > width / 2;
    }
    *x = high;
    return FB_OK;
}

/* A bracket around noise as it is, by doubling its width. */
static fb_status bracket(search *s, double *x)
{
    const double limit = 40;
    double here = 0, f, next_f;
    FB_TRY(excess_at(s, here, &f));
    double direction = f > 0 ? 1 : -1;
    for (double step = 1;; step *= 2) {
        double next = fmax(fmin(here + direction * step, limit), -limit);
        if (next == here && direction > 0)
            return FB_USAGE("privacy accounting: no noise up to 2^40 times the given reaches epsilon %g at delta %g; "
                            "raise delta or epsilon",
                            s->epsilon, s->delta);
        if (next == here) {
            *x = here;
            return FB_OK;
        }
        FB_TRY(excess_at(s, next, &next_f));
        if ((next_f > 0) != (f > 0))
            return direction > 0 ? narrow(s, here, f, next, next_f, x) : narrow(s, next, next_f, here, f, x);
        here = next;
        f = next_f;
    }
}

fb_status fb_account_calibrate(const fb_history *history, double epsilon, double delta, double *factor)
{
    search s = {.history = *history, .original = history->events, .epsilon = epsilon, .delta = delta};
    double x = 0;
    if (!(epsilon > 0 && epsilon < INFINITY))
        return FB_USAGE("privacy accounting: epsilon is %g, must be above 0 and finite", epsilon);
    FB_TRY(FB_ALLOC(s.scaled, history->event_count, "events"));
    s.history.events = s.scaled;
    fb_status status = bracket(&s, &x);
    *factor = exp2(x);
    FB_FREE(s.scaled);
    return status;
}
