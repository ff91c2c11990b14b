/* SPDX-License-Identifier: Apache-2.0
 *
 * What is guaranteed, and the budget of a round. The release itself is in release.c.
 */
#include "privacy/mechanism.h"

#include "privacy/grid.h"
#include "privacy/tail.h"

#include <math.h>
#include <stddef.h>

static const double CLIP_MAX = 0x1p20, SCALE_MAX = 0x1p56;

static const char no_noise[] = "no noise is added (privacy.mechanism = none)";

static const fb_guarantee guarantees[] = {
    {FB_SELECT_ALL, FB_MECHANISM_NONE, 0, "none", "none", no_noise},
    {FB_SELECT_TOPK, FB_MECHANISM_NONE, 0, "none", "none", no_noise},
    {FB_SELECT_RANDOM, FB_MECHANISM_NONE, 0, "none", "none", no_noise},
    {FB_SELECT_SVT, FB_MECHANISM_NONE, 0, "none", "none", no_noise},
    {FB_SELECT_ALL, FB_MECHANISM_LAPLACE, 1, "hospital", "replace-one",
     "discrete Laplace (Ghosh, Roughgarden & Sundararajan 2009) on every coordinate, basic composition"},
    {FB_SELECT_TOPK, FB_MECHANISM_LAPLACE, 0, "none", "none",
     "the selection itself is not private: which coordinates are largest is sent without noise"},
    {FB_SELECT_RANDOM, FB_MECHANISM_LAPLACE, 1, "hospital", "replace-one",
     "discrete Laplace (Ghosh, Roughgarden & Sundararajan 2009) on coordinates chosen without data, basic composition"},
    {FB_SELECT_SVT, FB_MECHANISM_LAPLACE, 1, "hospital", "replace-one",
     "sparse vector technique with fresh answers (Lyu, Su & Li 2017, algorithm 7), discrete Laplace"},
};

const fb_guarantee *fb_guarantee_find(fb_select select, fb_mechanism mechanism)
{
    for (size_t i = 0; i < sizeof guarantees / sizeof guarantees[0]; i++) {
        if (guarantees[i].select == select && guarantees[i].mechanism == mechanism)
            return &guarantees[i];
    }
    return NULL;
}

/* c = ceil(Q n) as it is meant: the least c with c / n >= Q, both as doubles. Q = 0.1 stands a little above 1/10 and
 * 0.1 n may round either way, but the quotient of two integers rounds to the very double that the decimal fraction
 * does. */
static int64_t ceil_share(double fraction, int64_t n)
{
    const double total = (double)n;
    int64_t count = (int64_t)ceil(fraction * total);
    count = count < 1 ? 1 : count > n ? n : count;
    while (count > 1 && (double)(count - 1) / total >= fraction)
        count--;
    while (count < n && (double)count / total < fraction)
        count++;
    return count;
}

static fb_status check_sharing(const fb_release_spec *spec, int64_t n)
{
    if (!fb_guarantee_find(spec->select, spec->mechanism))
        return FB_USAGE("sharing.select (%d) with privacy.mechanism (%d): there is no such combination",
                        (int)spec->select, (int)spec->mechanism);
    if (n < 1 || n > UINT32_MAX)
        return FB_USAGE("%lld parameters: a message has room for 1 to %u", (long long)n, UINT32_MAX);
    if (!(spec->fraction > 0.0 && spec->fraction <= 1.0))
        return FB_USAGE("sharing.fraction = %g: must be above 0 and at most 1", spec->fraction);
    if (spec->select == FB_SELECT_ALL && spec->fraction != 1.0)
        return FB_USAGE("sharing.fraction = %g with sharing.select = all, which shares every coordinate: set it to 1, "
                        "or choose topk, random or svt",
                        spec->fraction);
    return FB_OK;
}

static fb_status check_clip(const fb_release_spec *spec)
{
    if (!(spec->clip > 0.0))
        return FB_USAGE("privacy.clip = %g: must be above 0", spec->clip);
    if (spec->mechanism == FB_MECHANISM_LAPLACE &&
        !(spec->clip >= ldexp(1.0, FB_GRID_LOG2_MIN) && spec->clip <= CLIP_MAX))
        return FB_USAGE("privacy.clip = %g: with privacy.mechanism = laplace it must lie in [2^%d, 2^20], because the "
                        "noise is proportional to it and the grid is no finer",
                        spec->clip, FB_GRID_LOG2_MIN);
    if (spec->select == FB_SELECT_SVT &&
        !(spec->threshold >= 0.0 && spec->threshold <= spec->clip && isfinite(spec->threshold)))
        return FB_USAGE("privacy.threshold = %g: must be finite, at least 0 and at most privacy.clip = %g",
                        spec->threshold, spec->clip);
    return FB_OK;
}

static fb_status check_epsilon(const char *key, double epsilon, int zero_is_fine)
{
    if (!isfinite(epsilon) || epsilon < 0.0 || (epsilon == 0.0 && !zero_is_fine))
        return FB_USAGE("%s = %g: must be finite and %s; privacy.mechanism = none is the way to no noise", key, epsilon,
                        zero_is_fine ? "at least 0 (0: the optimal split)" : "above 0");
    return FB_OK;
}

/* sensitivity / epsilon, rounded up so that the configured epsilon holds */
static fb_status find_scale(const char *key, double sensitivity, double epsilon, double *scale)
{
    *scale = nextafter(sensitivity / epsilon, INFINITY);
    if (!(*scale <= SCALE_MAX))
        return FB_USAGE("%s = %g: its noise scale would be %g grid steps, the limit is 2^56; raise it", key, epsilon,
                        *scale);
    return FB_OK;
}

static fb_status plan_answers(const fb_release_spec *spec, fb_budget *budget)
{
    const char *key = "privacy.epsilon_answer";
    const double count = (double)budget->count, sensitivity = 2.0 * (double)budget->clip_grid;
    FB_TRY(check_epsilon(key, spec->epsilon_answer, 0));
    if (spec->answer_budget == FB_ANSWER_PER_PARAMETER) {
        budget->epsilon_answer_per_parameter = spec->epsilon_answer;
        budget->epsilon_answer = spec->epsilon_answer * count;
        return find_scale(key, sensitivity, spec->epsilon_answer, &budget->scale_answer);
    }
    budget->epsilon_answer = spec->epsilon_answer;
    budget->epsilon_answer_per_parameter = spec->epsilon_answer / count;
    return find_scale(key, sensitivity * count, spec->epsilon_answer, &budget->scale_answer);
}

static fb_status plan_svt(const fb_release_spec *spec, fb_budget *budget)
{
    const double count = (double)budget->count, sensitivity = (double)budget->clip_grid;
    FB_TRY(check_epsilon("privacy.epsilon_threshold", spec->epsilon_threshold, 0));
    FB_TRY(check_epsilon("privacy.epsilon_query", spec->epsilon_query, 1));
    budget->threshold_grid = fb_grid_floor(spec->threshold, budget->grid_log2);
    budget->epsilon_threshold = spec->epsilon_threshold;
    budget->epsilon_query =
        spec->epsilon_query > 0.0 ? spec->epsilon_query : spec->epsilon_threshold * pow(2.0 * count, 2.0 / 3.0);
    budget->epsilon_rounding =
        2.0 * FB_TAIL_RELATIVE_ERROR * (count + (double)FB_SVT_PASSES * (double)budget->n + 62.0);
    FB_TRY(find_scale("privacy.epsilon_threshold", sensitivity, budget->epsilon_threshold, &budget->scale_threshold));
    return find_scale("privacy.epsilon_query", 2.0 * count * sensitivity, budget->epsilon_query, &budget->scale_query);
}

fb_status fb_budget_plan(const fb_release_spec *spec, int64_t n, fb_budget *out)
{
    FB_TRY(check_sharing(spec, n));
    FB_TRY(check_clip(spec));
    fb_budget budget = {.n = n, .count = ceil_share(spec->fraction, n), .epsilon_round = INFINITY};
    if (spec->mechanism == FB_MECHANISM_LAPLACE) {
        budget.grid_log2 = fb_grid_log2(spec->clip);
        budget.clip_grid = fb_grid_floor(spec->clip, budget.grid_log2);
        FB_TRY(plan_answers(spec, &budget));
        if (spec->select == FB_SELECT_SVT)
            FB_TRY(plan_svt(spec, &budget));
    }
    if (fb_guarantee_find(spec->select, spec->mechanism)->formal) {
        budget.epsilon_round =
            budget.epsilon_threshold + budget.epsilon_query + budget.epsilon_answer + budget.epsilon_rounding;
        budget.delta_round =
            fmin(1.0, (double)budget.count * FB_NOISE_TV_PER_DRAW * (1.0 + exp(budget.epsilon_answer_per_parameter)));
    }
    *out = budget;
    return FB_OK;
}
