/* SPDX-License-Identifier: Apache-2.0
 *
 * Composition of privacy loss distributions by Fourier transform. Losses add up, so the distribution of a history is
 * the convolution of its events', the product of their transforms' powers.
 *
 * Tilting. A transform's rounding errors are absolute, about 1e-16 times the number of events, which would drown a
 * small delta. So every distribution is first weighted by exp(t loss) / E exp(t loss), with the t at which Chernoff's
 * bound on delta gives the least epsilon: then the composed one has its bulk where the answer lies, the weight is taken
 * back, and the errors are relative to delta. They are bounded (fft.h, times the events' number, times the share of
 * frequencies that matter) and added.
 *
 * Window. The transform is cyclic. Its length covers all but exp(-LEVEL) of the tilted distribution (Chernoff again);
 * what wraps around from below is counted at a higher loss, which is pessimistic, and the mass above the window has a
 * bound, which is added to delta.
 */
#include "privacy/pld.h"

#include "core/mem.h"
#include "privacy/fft.h"
#include "privacy/pld_event.h"

#include <float.h>
#include <math.h>

static const double LEVEL = 30;                   /* exp(-LEVEL): of the tilted mass may lie outside the window */
static const double TAIL_SHARE = 1e-8;            /* of delta, for tails of single events */
static const double INFLATION = 2e-4;             /* of the variance, by the grid; about what epsilon grows by */
static const double INFLATION_ABSOLUTE = 2e-11;   /* what more is allowed, for very small epsilons */
static const int64_t N_MAX = INT64_C(1) << 19;    /* of the transform */
static const double POINTS_MAX = 300000;          /* of one event */
static const double DEAD = 1e-60;                 /* |transform|^2 below which it counts as 0 */
static const double ANALYTIC_EPSILON_MAX = 700;   /* exp() of it is a double */
static const double GOLDEN = 0.61803398874989485; /* golden section */

typedef struct factor {
    double count;
    int directions;
    fb_event_loss loss[2];
} factor;

typedef struct plan {
    double step, delta, hint; /* hint: an upper bound of epsilon */
    double aligned;           /* a loss that is a grid point, 0: none */
    double points;            /* steps in it */
    int n, directions;
    factor *factor; /* (n) owned */
} plan;

/* One direction of the composition. */
typedef struct view {
    const plan *plan;
    int direction;
    double tilt, log_mgf; /* t, log E exp(t loss) of the whole */
    double low, high;     /* window, in losses */
    double centre;        /* in steps: the sum of the events' rounded tilted means */
} view;

static const fb_event_loss *loss_of(const view *v, int i)
{
    const factor *f = &v->plan->factor[i];
    return &f->loss[f->directions == 2 ? v->direction : 0];
}

/* log E exp(t loss), from the side where the weights are largest, until they no longer count. */
static double log_mgf_of(const fb_event_loss *loss, double step, double t)
{
    double ratio = exp(-fabs(t) * step), weight = 1, sum = 0;
    double edge = (double)(t >= 0 ? loss->low + loss->n - 1 : loss->low);
    for (int64_t i = 0; i < loss->n && weight > 1e-250; i++) {
        sum += weight * loss->p[t >= 0 ? loss->n - 1 - i : i];
        weight *= ratio;
    }
    return t * step * edge + log(sum);
}

static double log_mgf(const view *v, double t)
{
    double total = 0;
    for (int i = 0; i < v->plan->n; i++)
        total += v->plan->factor[i].count * log_mgf_of(loss_of(v, i), v->plan->step, t);
    return total;
}

typedef double objective(const view *v, double x);

static double least(const view *v, objective *f, double low, double high, int steps, double *at)
{
    double x1 = high - GOLDEN * (high - low), x2 = low + GOLDEN * (high - low), f1 = f(v, x1), f2 = f(v, x2);
    for (int i = 0; i < steps; i++) {
        if (f1 <= f2) {
            high = x2;
            x2 = x1;
            f2 = f1;
            f1 = f(v, x1 = high - GOLDEN * (high - low));
        } else {
            low = x1;
            x1 = x2;
            f1 = f2;
            f2 = f(v, x2 = low + GOLDEN * (high - low));
        }
    }
    *at = f1 <= f2 ? x1 : x2;
    return fmin(f1, f2);
}

/* Over log t: the epsilon of Renyi order 1 + t (accountant_rdp.c), and Chernoff's bounds of the tilted distribution's
 * ends. */
static double epsilon_bound(const view *v, double log_t)
{
    double t = exp(log_t);
    return (log_mgf(v, t) - log(v->plan->delta) - log1p(t)) / t - log1p(1 / t);
}

static double upper_end(const view *v, double log_s)
{
    double s = exp(log_s);
    return (log_mgf(v, v->tilt + s) - v->log_mgf + LEVEL) / s;
}

static double minus_lower_end(const view *v, double log_s)
{
    double s = exp(log_s);
    return (log_mgf(v, v->tilt - s) - v->log_mgf + LEVEL) / s;
}

/* Of the tilted distribution. The deviation sets where the ends are looked for. */
static void choose_window(view *v)
{
    double scale = -log(v->plan->delta) / v->plan->hint, log_t, log_s, variance = 0;
    least(v, epsilon_bound, log(scale / 4), log(scale * 400), 24, &log_t);
    v->tilt = exp(log_t);
    v->log_mgf = log_mgf(v, v->tilt);
    v->centre = 0;
    for (int i = 0; i < v->plan->n; i++) {
        const fb_event_loss *loss = loss_of(v, i);
        double mass = 0, mean = 0, square = 0, top = (double)(loss->low + loss->n - 1);
        for (int64_t k = 0; k < loss->n; k++) {
            double x = (double)(loss->low + k), w = loss->p[k] * exp(v->tilt * v->plan->step * (x - top));
            mass += w;
            mean += w * x;
            square += w * x * x;
        }
        mean /= mass;
        v->centre += v->plan->factor[i].count * rint(mean);
        variance += v->plan->factor[i].count * fmax(square / mass - mean * mean, 0);
    }
    double s = log(sqrt(2 * LEVEL / (variance + 1e-3)) / v->plan->step);
    v->high = least(v, upper_end, s - 3, s + 2, 12, &log_s);
    v->low = -least(v, minus_lower_end, s - 3, s + 2, 12, &log_s);
}

/* Adds the tilted distribution of an event to one part (0 real, 1 imaginary) of x (n), around its mean. */
static void put(const view *v, int i, int64_t n, int part, fb_complex *x)
{
    const fb_event_loss *loss = loss_of(v, i);
    double mass = 0, mean = 0, top = (double)(loss->low + loss->n - 1);
    for (int pass = 0; pass < 2; pass++) {
        int64_t centre = pass ? (int64_t)rint(mean / mass) : 0;
        for (int64_t k = 0; k < loss->n; k++) {
            double index = (double)(loss->low + k), w = loss->p[k] * exp(v->tilt * v->plan->step * (index - top));
            if (!pass) {
                mass += w;
                mean += w * index;
                continue;
            }
            fb_complex *to = &x[(loss->low + k - centre) & (n - 1)];
            *(part ? &to->im : &to->re) += w / mass;
        }
    }
}

/* product *= f^count; 0 once that is too small to matter: |f|^2 below `dead` */
static void multiply_power(fb_complex *product, fb_complex f, double count, double dead)
{
    double square = f.re * f.re + f.im * f.im;
    if (square < dead || (product->re == 0 && product->im == 0)) {
        *product = (fb_complex){0, 0};
        return;
    }
    double size = exp(count / 2 * log(square)), angle = count * atan2(f.im, f.re);
    fb_complex power = {size * cos(angle), size * sin(angle)}, old = *product;
    *product = (fb_complex){old.re * power.re - old.im * power.im, old.re * power.im + old.im * power.re};
}

typedef struct workspace {
    int64_t n;
    fb_complex *root, *x, *product[2]; /* (n / 2), (n), (n) each; owned */
} workspace;

static fb_status workspace_make(int64_t n, int directions, workspace *out)
{
    out->n = n;
    FB_TRY(FB_ALLOC_RAW(out->root, n / 2, "transform"));
    FB_TRY(FB_ALLOC_RAW(out->x, n, "transform"));
    for (int d = 0; d < directions; d++) {
        FB_TRY(FB_ALLOC_RAW(out->product[d], n, "transform"));
        for (int64_t i = 0; i < n; i++)
            out->product[d][i] = (fb_complex){1, 0};
    }
    fb_fft_roots(n, out->root);
    return FB_OK;
}

static void workspace_free(workspace *w)
{
    FB_FREE(w->root);
    FB_FREE(w->x);
    FB_FREE(w->product[0]);
    FB_FREE(w->product[1]);
}

/* Both directions go through one complex transform, as its real and its imaginary part. */
static void multiply_event(const view *v, int directions, int i, workspace *w)
{
    for (int64_t k = 0; k < w->n; k++)
        w->x[k] = (fb_complex){0, 0};
    for (int d = 0; d < directions; d++)
        put(&v[d], i, w->n, d, w->x);
    fb_fft_forward(w->n, w->root, w->x);
    double count = v->plan->factor[i].count, dead = exp(log(DEAD) / count);
    for (int64_t k = 0; k < w->n; k++) {
        fb_complex a = w->x[k], b = w->x[fb_fft_mirror(k)];
        multiply_power(&w->product[0][k], (fb_complex){(a.re + b.re) / 2, (a.im - b.im) / 2}, count, dead);
        if (directions == 2)
            multiply_power(&w->product[1][k], (fb_complex){(a.im + b.im) / 2, (b.re - a.re) / 2}, count, dead);
    }
}

/* Of one bin of the composed distribution: errors of the factors' transforms grow with the number of factors, at the
 * frequencies that were kept; then the inverse's own, and what was left out. */
static double rounding_of(const plan *p, const workspace *w, int direction)
{
    double alive = 0, events = 0, stages = log2((double)w->n);
    for (int64_t k = 0; k < w->n; k++)
        alive += w->product[direction][k].re != 0 || w->product[direction][k].im != 0;
    for (int i = 0; i < p->n; i++)
        events += p->factor[i].count;
    return 4 * 0x1p-53 * (stages + 1) * (1 + events) * alive / (double)w->n + sqrt(DEAD);
}

/* Losses from the top of the window down to the first that is not positive, or until all mass is counted. */
static fb_status untilt(const view *v, const workspace *w, double rounding, fb_tail_sum *out)
{
    const plan *p = v->plan;
    double top = floor(v->high / p->step), sum = 0, *mass = NULL, extra = 0;
    int64_t n = 0;
    FB_TRY(FB_ALLOC_RAW(mass, w->n, "privacy losses"));
    while (n < w->n && sum < 2 && (n == 0 || (top - (double)n + 1) * p->step > 0)) {
        double index = top - (double)n;
        const fb_complex *c = &w->x[(int64_t)(index - v->centre) & (w->n - 1)];
        double weight = exp(v->log_mgf - v->tilt * index * p->step);
        mass[n] = (fmax(v->direction ? c->im : c->re, 0) + rounding) * weight;
        sum += mass[n++];
    }
    for (int i = 0; i < p->n; i++)
        extra += p->factor[i].count * loss_of(v, i)->infinite;
    fb_status status = fb_tail_sum_make(n, mass, top * p->step, p->step, out);
    out->extra = extra + exp(v->log_mgf - v->tilt * v->high - LEVEL);
    out->slack = (double)w->n * 0x1p-52;
    FB_FREE(mass);
    return status;
}

static fb_status convolve(const plan *p, const view *v, int64_t n, fb_pld *out)
{
    fb_status status;
    workspace w = {0};
    FB_TRY_GOTO(status, workspace_make(n, p->directions, &w), done);
    for (int i = 0; i < p->n; i++)
        multiply_event(v, p->directions, i, &w);
    double rounding[2] = {0, 0};
    for (int d = 0; d < p->directions; d++)
        rounding[d] = rounding_of(p, &w, d);
    for (int64_t k = 0; k < n; k++) {
        fb_complex a = w.product[0][k], b = {0, 0};
        if (p->directions == 2)
            b = w.product[1][k];
        w.x[k] = (fb_complex){a.re - b.im, a.im + b.re};
    }
    fb_fft_inverse(n, w.root, w.x);
    for (int d = 0; d < p->directions; d++)
        FB_TRY_GOTO(status, untilt(&v[d], &w, rounding[d], &out->tail[d]), done);
    out->directions = p->directions;
    out->computed = 1;
done:
    workspace_free(&w);
    return status;
}

static void free_losses(plan *p)
{
    for (int i = 0; i < p->n; i++) {
        fb_event_loss_free(&p->factor[i].loss[0]);
        fb_event_loss_free(&p->factor[i].loss[1]);
    }
}

static double tail_of(const plan *p, const fb_cost *cost)
{
    return TAIL_SHARE * p->delta / cost->count;
}

static fb_status discretise(plan *p, const fb_costs *costs)
{
    p->directions = 1;
    for (int i = 0; i < p->n; i++) {
        const fb_cost *cost = &costs->cost[i];
        factor *f = &p->factor[i];
        f->count = cost->count;
        f->directions = cost->rate < 1 ? 2 : 1;
        if (f->directions == 2)
            p->directions = 2;
        if (fb_cost_is_gaussian(cost))
            FB_TRY(fb_event_loss_gaussian(cost, p->step, tail_of(p, cost), f->loss));
        else
            FB_TRY(fb_event_loss_laplace(cost, p->step, &f->loss[0]));
    }
    return FB_OK;
}

/* The step with the pure losses +-`aligned` on the grid (0: none), or, with the rest of a Laplace event, between. */
static double step_of(const plan *p, const fb_costs *costs, double aligned, double *points)
{
    double variance = 0, split = 0, step = p->hint / 4096;
    for (int i = 0; i < costs->n; i++) {
        const fb_cost *c = &costs->cost[i];
        double e = c->epsilon, square = c->mu * c->mu, between = 1.5;
        if (fb_cost_is_gaussian(c)) {
            variance += c->count * c->rate * c->rate * fmin(expm1(square), 3 * square);
        } else {
            variance += c->count * e * e;
            if (e == aligned)
                between = c->shift > 1 ? e / (2 + e) : 0;
        }
        split += c->count * between;
    }
    if (split > 0)
        step = fmin(step, sqrt(6 * (INFLATION * variance + INFLATION_ABSOLUTE) / split));
    *points = aligned > 0 ? ceil(aligned / step) : 0;
    return aligned > 0 ? aligned / *points : step;
}

/* Splitting a loss among grid points adds up to step^2 / 4 to its variance, a sixth of step^2 on average: the step at
 * which that is the share INFLATION of the variance of the whole, and fine enough for a few events. Of the pure events
 * those are on the grid with which the step is longest. */
static void choose_step(plan *p, const fb_costs *costs)
{
    p->step = step_of(p, costs, 0, &p->points);
    for (int i = 0; i < costs->n; i++) {
        double points,
            step = fb_cost_is_gaussian(&costs->cost[i]) ? 0 : step_of(p, costs, costs->cost[i].epsilon, &points);
        if (step > p->step / 2 && (step > p->step || p->aligned == 0)) {
            p->step = step;
            p->points = points;
            p->aligned = costs->cost[i].epsilon;
        }
    }
}

static void coarsen(plan *p)
{
    if (p->aligned > 0 && p->points > 1) {
        p->points = ceil(p->points / 2);
        p->step = p->aligned / p->points;
        return;
    }
    p->step *= 2;
}

/* From the step wished for to one with which events and window are not too long. */
static fb_status compose_on_grid(plan *p, const fb_costs *costs, fb_pld *out)
{
    for (;;) {
        double points = 0;
        for (int i = 0; i < costs->n; i++)
            points = fmax(points, fb_event_loss_points(&costs->cost[i], p->step, tail_of(p, &costs->cost[i])));
        if (points > POINTS_MAX) {
            coarsen(p);
            continue;
        }
        FB_TRY(discretise(p, costs));
        view v[2];
        double length = 0;
        for (int d = 0; d < p->directions; d++) {
            v[d] = (view){.plan = p, .direction = d};
            choose_window(&v[d]);
            length = fmax(length, (v[d].high - v[d].low) / p->step + 2);
        }
        if (!(length < INFINITY))
            return FB_OK;
        if (length <= (double)N_MAX) {
            int64_t n = 1024;
            while ((double)n < length)
                n *= 2;
            return convolve(p, v, n, out);
        }
        free_losses(p);
        coarsen(p);
    }
}

/* Gaussian events without sampling are one Gaussian. */
static void simplify(const fb_costs *costs, fb_costs *out)
{
    double square = 0;
    out->n = 0;
    for (int i = 0; i < costs->n; i++) {
        fb_cost cost = costs->cost[i];
        if (fb_cost_is_gaussian(&cost) && cost.rate >= 1) {
            square += cost.count * cost.mu * cost.mu;
            continue;
        }
        out->cost[out->n++] = cost;
    }
    if (square > 0)
        out->cost[out->n++] =
            (fb_cost){.kind = FB_EVENT_GAUSSIAN, .count = 1, .epsilon = INFINITY, .mu = sqrt(square), .rate = 1};
}

fb_status fb_pld_compose(const fb_costs *costs, double delta, fb_pld *out)
{
    fb_status status;
    plan p = {.delta = delta};
    fb_costs simple = {0};
    FB_TRY_GOTO(status, FB_ALLOC(simple.cost, costs->n, "events"), done);
    simplify(costs, &simple);
    p.hint = fmin(fb_pure_epsilon(&simple, delta), fb_rdp_epsilon(&simple, delta));
    if (simple.n == 1 && fb_cost_is_gaussian(&simple.cost[0]) && simple.cost[0].rate >= 1) {
        out->computed = p.hint <= ANALYTIC_EPSILON_MAX;
        out->gaussian = simple.cost[0].mu;
    } else if (p.hint > 0 && p.hint <= FB_PLD_EPSILON_MAX) {
        p.n = simple.n;
        FB_TRY_GOTO(status, FB_ALLOC(p.factor, p.n, "events"), done);
        choose_step(&p, &simple);
        status = compose_on_grid(&p, &simple, out);
        free_losses(&p);
    }
done:
    FB_FREE(p.factor);
    FB_FREE(simple.cost);
    return status;
}

void fb_pld_free(fb_pld *pld)
{
    fb_tail_sum_free(&pld->tail[0]);
    fb_tail_sum_free(&pld->tail[1]);
}

/* Balle & Wang 2018, theorem 8: Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu). The terms are
 * near each other where mu is small: what their roundings, and those of their arguments z (of z^2 each), can hide is
 * added. */
static double gaussian_delta(double mu, double epsilon)
{
    double root = sqrt(0.5), z = epsilon / mu - mu / 2, first = erfc(z * root);
    double hidden = 0x1p-50 * (2 + z * z) * first, second = erfc((epsilon / mu + mu / 2) * root);
    if (second < DBL_MIN) /* with few digits, of which exp(epsilon) would make much */
        second = 0;
    return (first - exp(epsilon) * second + hidden) / 2;
}

static double gaussian_epsilon(double mu, double delta)
{
    double low = 0, high = ANALYTIC_EPSILON_MAX;
    if (gaussian_delta(mu, low) <= delta)
        return 0;
    while (high - low > 1e-13 * high) {
        double middle = low + (high - low) / 2;
        if (middle == low || middle == high)
            break;
        if (gaussian_delta(mu, middle) <= delta * (1 - 1e-11))
            high = middle;
        else
            low = middle;
    }
    return high < ANALYTIC_EPSILON_MAX ? high : INFINITY;
}

double fb_pld_epsilon(const void *state, double delta)
{
    const fb_pld *pld = state;
    if (pld->gaussian > 0)
        return delta > 0 ? gaussian_epsilon(pld->gaussian, delta) : INFINITY;
    double epsilon = 0;
    for (int d = 0; d < pld->directions; d++)
        epsilon = fmax(epsilon, fb_tail_sum_epsilon(&pld->tail[d], delta));
    return epsilon;
}
