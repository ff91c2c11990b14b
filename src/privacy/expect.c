/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/expect.h"

#include "core/mem.h"

#include <math.h>

/* The half-line |u| = 3 s z, z in [0, Z_MAX], in units of the clip; every integrand is even. */
enum { POINTS = 2001, THRESHOLDS = 32, HALVINGS = 60 };
static const double Z_MAX = 6.0, RMS = 1.0 / 3.0, GOOD = 0.5, SLOWER = 0.1;

/* A typical coordinate: values with their weights, what becomes of each. In units of the clip. */
typedef struct typical {
    double *u, *weight;   /* (POINTS) owned */
    double *select;       /* (POINTS) owned: p(u) */
    double *passed;       /* (POINTS) owned: scratch */
    double *mean, *power; /* (POINTS) owned: m1, m2 */
} typical;

static fb_status make_typical(typical *t)
{
    double **const arrays[] = {&t->u, &t->weight, &t->select, &t->passed, &t->mean, &t->power};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        FB_TRY(FB_ALLOC(*arrays[i], POINTS, "typical update"));
    double sum = 0.0;
    for (int i = 0; i < POINTS; i++) {
        const double z = Z_MAX * i / (POINTS - 1);
        t->u[i] = RMS * z;
        t->weight[i] = exp(-0.5 * z * z) * (i == 0 || i == POINTS - 1 ? 0.5 : 1.0);
        sum += t->weight[i];
    }
    for (int i = 0; i < POINTS; i++)
        t->weight[i] /= sum;
    return FB_OK;
}

static void free_typical(typical *t)
{
    FB_FREE(t->u);
    FB_FREE(t->weight);
    FB_FREE(t->select);
    FB_FREE(t->passed);
    FB_FREE(t->mean);
    FB_FREE(t->power);
}

static double average(const typical *t, const double *values)
{
    double sum = 0.0;
    for (int i = 0; i < POINTS; i++)
        sum += t->weight[i] * values[i];
    return sum;
}

/* --- which coordinates --- */

static void select_alike(typical *t, double fraction)
{
    for (int i = 0; i < POINTS; i++)
        t->select[i] = fraction;
}

/* The largest: from the top down until the fraction is used up. */
static void select_largest(typical *t, double fraction)
{
    double left = fraction;
    for (int i = POINTS - 1; i >= 0; i--) {
        t->select[i] = left >= t->weight[i] ? 1.0 : left / t->weight[i];
        left -= t->select[i] * t->weight[i];
    }
}

/* P(Lap(scale) >= x) */
static double laplace_tail(double x, double scale)
{
    return x > 0.0 ? 0.5 * exp(-x / scale) : 1.0 - 0.5 * exp(x / scale);
}

/* Walks over the coordinates until a fraction is selected: whole passes, then part of one. accept (POINTS): chance of a
 * positive test; adds share * p(u) to t->select. */
static void walk(typical *t, const double *accept, double fraction, double share)
{
    double selected = 0.0, next = 0.0, part = 1.0;
    for (int i = 0; i < POINTS; i++)
        t->passed[i] = 1.0; /* not yet selected */
    for (int pass = 0; pass < FB_SVT_PASSES && selected < fraction; pass++) {
        next = 0.0;
        for (int i = 0; i < POINTS; i++)
            next += t->weight[i] * t->passed[i] * accept[i];
        part = next > fraction - selected ? (fraction - selected) / next : 1.0;
        for (int i = 0; i < POINTS; i++)
            t->passed[i] *= 1.0 - part * accept[i];
        selected += part * next;
    }
    for (int i = 0; i < POINTS; i++)
        t->select[i] += share * (1.0 - t->passed[i]);
}

/* The threshold is drawn once: the average over its quantiles. t->mean serves as scratch. */
static void select_svt(typical *t, const fb_budget *budget, double fraction)
{
    const double clip = (double)budget->clip_grid, threshold = (double)budget->threshold_grid / clip;
    select_alike(t, 0.0);
    for (int k = 0; k < THRESHOLDS; k++) {
        const double quantile = (k + 0.5) / THRESHOLDS - 0.5;
        const double drawn = -copysign(log1p(-2.0 * fabs(quantile)), quantile) * budget->scale_threshold / clip;
        for (int i = 0; i < POINTS; i++)
            t->mean[i] = laplace_tail(threshold + drawn - fmin(t->u[i], 1.0), budget->scale_query / clip);
        walk(t, t->mean, fraction, 1.0 / THRESHOLDS);
    }
}

/* |u| / scale + Gumbel above a cut that leaves the fraction. */
static void select_exponential(typical *t, const fb_budget *budget, double fraction)
{
    const double scale = 2.0 * (double)budget->count / budget->epsilon_query; /* the sensitivity is the clip */
    double low = -50.0, high = 50.0 + 1.0 / scale;
    for (int k = 0; k < HALVINGS; k++) {
        const double cut = 0.5 * (low + high);
        for (int i = 0; i < POINTS; i++)
            t->select[i] = -expm1(-exp(fmin(t->u[i], 1.0) / scale - cut));
        *(average(t, t->select) > fraction ? &low : &high) = cut;
    }
}

static void select_coordinates(typical *t, const fb_release_spec *spec, const fb_budget *budget)
{
    const double fraction = (double)budget->count / (double)budget->n;
    if (spec->select == FB_SELECT_TOPK)
        select_largest(t, fraction);
    else if (spec->select == FB_SELECT_EXPONENTIAL && budget->epsilon_query > 0.0)
        select_exponential(t, budget, fraction);
    else if (budget->scale_query > 0.0)
        select_svt(t, budget, fraction);
    else
        select_alike(t, fraction);
}

static double choice(const typical *t)
{
    const int clip = (int)(1.0 / (RMS * Z_MAX) * (POINTS - 1));
    return t->select[clip] / t->select[0];
}

/* --- what becomes of a selected value --- */

/* w + Lap(b), clipped to +-1: mean and mean square (integrals of the distribution function); for large b their series,
 * where the closed forms cancel. */
static void clipped_answer(double w, double b, double *mean, double *power)
{
    if (b > 1e3) {
        *mean = -w * expm1(-1.0 / b) - exp(-1.0 / b) * w * w * w / (6.0 * b * b);
        *power = 1.0 - 2.0 / (3.0 * b);
        return;
    }
    const double above = exp(-(1.0 - w) / b), below = exp(-(1.0 + w) / b);
    *mean = w + 0.5 * b * (below - above);
    *power = w * w + 2.0 * b * b - b * (1.0 + b) * (above + below);
}

/* w + N(0, sigma^2), clipped to +-bound: moments of the censored normal; for large sigma their series. */
static void clipped_gaussian(double w, double sigma, double bound, double *mean, double *power)
{
    const double density = 1.0 / sqrt(2.0 * M_PI);
    if (sigma > 1e4 * bound) {
        *mean = w * erf(bound / sigma / sqrt(2.0));
        *power = bound * bound * (1.0 - 4.0 / 3.0 * density * bound / sigma);
        return;
    }
    const double a = (-bound - w) / sigma, b = (bound - w) / sigma;
    const double at_a = density * exp(-0.5 * a * a), at_b = density * exp(-0.5 * b * b);
    const double under = 0.5 * erfc(-a / sqrt(2.0)), over = 0.5 * erfc(b / sqrt(2.0)), inside = 1.0 - under - over;
    *mean = w * inside + sigma * (at_a - at_b) + bound * (over - under);
    *power = w * w * inside + 2.0 * w * sigma * (at_a - at_b) + sigma * sigma * (inside + a * at_a - b * at_b) +
             bound * bound * (under + over);
}

/* Variance of the noise on an answer, in units of the clip. */
static double answer_variance(const fb_release_spec *spec, const fb_budget *budget)
{
    if (spec->mechanism == FB_MECHANISM_GAUSSIAN) {
        const double of_norm = budget->sigma / (double)budget->clip_norm_grid;
        return of_norm * of_norm * (double)budget->count * RMS * RMS;
    }
    if (spec->mechanism != FB_MECHANISM_LAPLACE)
        return 0.0;
    const double scale = budget->scale_answer / (double)budget->clip_grid;
    return 2.0 * scale * scale;
}

static void release_values(typical *t, const fb_release_spec *spec, const fb_budget *budget, int noise_here)
{
    const int laplace = spec->mechanism == FB_MECHANISM_LAPLACE, gaussian = spec->mechanism == FB_MECHANISM_GAUSSIAN;
    const double norm = sqrt((double)budget->count) * RMS; /* of the shared part: clip_norm */
    const double variance = noise_here ? answer_variance(spec, budget) : 0.0;
    const int clips = laplace || (spec->mechanism == FB_MECHANISM_NONE && isfinite(spec->clip));
    for (int i = 0; i < POINTS; i++) {
        const double w = clips ? fmin(t->u[i], 1.0) : t->u[i];
        t->mean[i] = w;
        t->power[i] = w * w + variance;
        if (laplace && spec->clip_answers && noise_here)
            clipped_answer(w, budget->scale_answer / (double)budget->clip_grid, &t->mean[i], &t->power[i]);
        if (gaussian && spec->clip_answers && noise_here)
            clipped_gaussian(w, sqrt(variance), norm, &t->mean[i], &t->power[i]);
    }
}

/* --- the cosine --- */

fb_status fb_expect_release(const fb_release_spec *spec, const fb_budget *budget, fb_trust trust,
                            const fb_expect_hospitals *hospitals, fb_expectation *out)
{
    typical t = {0};
    fb_status status = FB_OK;
    const int local = trust == FB_TRUST_LOCAL;
    const int common = !local || spec->select == FB_SELECT_PUBLIC || spec->select == FB_SELECT_ALL;
    const double a = hospitals->sum, b = hospitals->sum_square, p = hospitals->participants;
    double product = 0.0, power = 0.0, square = 0.0, shared = 0.0;
    FB_TRY_GOTO(status, make_typical(&t), done);
    select_coordinates(&t, spec, budget);
    release_values(&t, spec, budget, local);
    for (int i = 0; i < POINTS; i++) {
        const double selected = t.weight[i] * t.select[i];
        shared += selected;
        product += selected * t.u[i] * t.mean[i];
        power += selected * t.power[i];
        square += selected * t.mean[i] * t.mean[i] * (common ? 1.0 : t.select[i]);
    }
    const double released = local ? b * power + (a * a - b) * square
                                  : a * a * square + a * a / (p * p) * shared * answer_variance(spec, budget);
    out->cosine = a * product / (RMS * sqrt(released));
    out->stretch = sqrt(released) / (a * RMS);
    out->choice = choice(&t);
done:
    free_typical(&t);
    return status;
}

double fb_expect_step_ratio(const fb_dpsgd_plan *plan)
{
    return plan->batch / (plan->spec.noise_multiplier * sqrt((double)plan->spec.n));
}

void fb_expect_dpsgd(const fb_dpsgd_plan *plans, int hospital_count, const double *factor, fb_expectation *out)
{
    double sum = 0.0, noise = 0.0;
    for (int h = 0; h < hospital_count; h++) {
        const double ratio = fb_expect_step_ratio(&plans[h]);
        sum += factor[h];
        noise += factor[h] * factor[h] / (ratio * ratio * (double)plans[h].steps);
    }
    noise /= sum * sum;
    *out = (fb_expectation){.cosine = 1.0 / sqrt(1.0 + noise), .stretch = sqrt(1.0 + noise), .choice = 1.0};
}

double fb_expect_rounds(double cosine, double rounds)
{
    return 1.0 / sqrt(1.0 + (1.0 / (cosine * cosine) - 1.0) / rounds);
}

fb_outlook fb_expect_outlook(double cosine, double cosine_of_run)
{
    if (cosine >= GOOD)
        return FB_OUTLOOK_GOOD;
    if (cosine >= SLOWER)
        return FB_OUTLOOK_SLOWER;
    return cosine_of_run >= GOOD ? FB_OUTLOOK_DRIFT : FB_OUTLOOK_NONE;
}

const char *fb_expect_sentence(fb_outlook outlook)
{
    static const char *const sentences[] = {
        "learning is to be expected, much as without noise",
        "learning is to be expected, but slower than without noise; a smaller train.learning_rate may help",
        "a round's release is almost all noise and only the sum over the rounds points the right way: little learning "
        "is to be expected",
        "little or no learning is to be expected: the noise hides the updates even over all rounds",
    };
    return sentences[outlook];
}
