/* SPDX-License-Identifier: Apache-2.0
 *
 * What is guaranteed, and the budget of a round. The release itself is in release.c.
 */
#include "privacy/mechanism.h"

#include "privacy/exponential.h"
#include "privacy/gauss.h"
#include "privacy/gaussian.h"
#include "privacy/grid.h"
#include "privacy/gumbel.h"
#include "privacy/laplace.h"
#include "privacy/tail.h"

#include <math.h>
#include <stddef.h>

static const double CLIP_MAX = 0x1p20;
static const double SHARE_MIN = 16.0; /* mechanism.h, on secagg */

static const char *const select_names[] = {"all", "topk", "random", "svt", "exponential", "public", "svt-as-published"};
static const char *const mechanism_names[] = {"none", "laplace", "gaussian", "dpsgd"};

static const char no_noise[] = "no noise is added (privacy.mechanism = none)";
static const char open_selection[] =
    "the selection itself is not private: which coordinates are largest is sent without noise";
static const char as_published[] =
    "noise is added to a value that no clip has bounded, so that its sensitivity is unbounded and the clip after it "
    "repairs nothing; and the noise of an answer has no factor c, so that c answers would cost c times the budget";
static const char patient[] =
    "discrete Gaussian on clipped gradients over Poisson samples (Abadi et al. 2016); whatever is "
    "done to the update afterwards is post-processing";

#define NO_NOISE(select)                                                                                               \
    {                                                                                                                  \
        select, FB_MECHANISM_NONE, 0, "none", "none", no_noise                                                         \
    }
#define HOSPITAL(select, mechanism, theorem)                                                                           \
    {                                                                                                                  \
        select, mechanism, 1, "hospital", "replace-one", theorem                                                       \
    }
#define PATIENT(select)                                                                                                \
    {                                                                                                                  \
        select, FB_MECHANISM_DPSGD, 1, "patient", "add/remove one", patient                                            \
    }
#define GAUSSIAN(select, where)                                                                                        \
    HOSPITAL(select, FB_MECHANISM_GAUSSIAN,                                                                            \
             "discrete Gaussian (Canonne, Kamath & Steinke 2020) on an integer L2 clip, " where)

static const fb_guarantee guarantees[] = {
    NO_NOISE(FB_SELECT_ALL),
    NO_NOISE(FB_SELECT_TOPK),
    NO_NOISE(FB_SELECT_RANDOM),
    NO_NOISE(FB_SELECT_SVT),
    NO_NOISE(FB_SELECT_EXPONENTIAL),
    NO_NOISE(FB_SELECT_PUBLIC),
    HOSPITAL(FB_SELECT_ALL, FB_MECHANISM_LAPLACE,
             "discrete Laplace (Ghosh, Roughgarden & Sundararajan 2009) on every coordinate, basic composition"),
    {FB_SELECT_TOPK, FB_MECHANISM_LAPLACE, 0, "none", "none", open_selection},
    HOSPITAL(FB_SELECT_RANDOM, FB_MECHANISM_LAPLACE,
             "discrete Laplace (Ghosh, Roughgarden & Sundararajan 2009) on coordinates chosen without data, basic "
             "composition"),
    HOSPITAL(FB_SELECT_SVT, FB_MECHANISM_LAPLACE,
             "sparse vector technique with fresh answers (Lyu, Su & Li 2017, algorithm 7), discrete Laplace"),
    HOSPITAL(
        FB_SELECT_EXPONENTIAL, FB_MECHANISM_LAPLACE,
        "exponential mechanism (McSherry & Talwar 2007) peeled c times, in one shot of Gumbel noise (Durfee & Rogers "
        "2019), with fresh answers, discrete Laplace"),
    HOSPITAL(
        FB_SELECT_PUBLIC, FB_MECHANISM_LAPLACE,
        "discrete Laplace (Ghosh, Roughgarden & Sundararajan 2009) on coordinates that are a function of the previous "
        "global model, which everybody has, basic composition"),
    {FB_SELECT_SVT_AS_PUBLISHED, FB_MECHANISM_LAPLACE, 0, "none", "none", as_published},
    GAUSSIAN(FB_SELECT_ALL, "every coordinate"),
    {FB_SELECT_TOPK, FB_MECHANISM_GAUSSIAN, 0, "none", "none", open_selection},
    GAUSSIAN(FB_SELECT_RANDOM, "coordinates chosen without data"),
    GAUSSIAN(FB_SELECT_SVT, "after the sparse vector technique (Lyu, Su & Li 2017, algorithm 7): adaptive composition"),
    GAUSSIAN(FB_SELECT_EXPONENTIAL,
             "after the exponential mechanism peeled c times (Durfee & Rogers 2019): adaptive composition"),
    GAUSSIAN(FB_SELECT_PUBLIC, "coordinates that are a function of the previous global model, which everybody has"),
    PATIENT(FB_SELECT_ALL),
    PATIENT(FB_SELECT_TOPK),
    PATIENT(FB_SELECT_RANDOM),
    PATIENT(FB_SELECT_PUBLIC),
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

static const char *name_of(const char *const *names, size_t count, int value)
{
    return value >= 0 && (size_t)value < count ? names[value] : "?";
}

static const char *select_name(fb_select select)
{
    return name_of(select_names, sizeof select_names / sizeof select_names[0], (int)select);
}

static const char *mechanism_name(fb_mechanism mechanism)
{
    return name_of(mechanism_names, sizeof mechanism_names / sizeof mechanism_names[0], (int)mechanism);
}

static int selects_by_noise(fb_select select)
{
    return select == FB_SELECT_SVT || select == FB_SELECT_EXPONENTIAL || select == FB_SELECT_SVT_AS_PUBLISHED;
}

static fb_status refuse_combination(const fb_release_spec *spec)
{
    const char *advice = "see fedbrats plan --help";
    if (spec->select == FB_SELECT_SVT_AS_PUBLISHED)
        advice = "its published form has Laplace noise only; set privacy.mechanism = laplace, or choose svt";
    else if (spec->mechanism == FB_MECHANISM_DPSGD)
        advice =
            "the update is private already and a noised selection would only lose; choose all, topk, random or public";
    return FB_USAGE("sharing.select = %s (%d) with privacy.mechanism = %s (%d): there is no such combination; %s",
                    select_name(spec->select), (int)spec->select, mechanism_name(spec->mechanism), (int)spec->mechanism,
                    advice);
}

static fb_status check_sharing(const fb_release_spec *spec, int64_t n)
{
    if (!fb_guarantee_find(spec->select, spec->mechanism))
        return refuse_combination(spec);
    if (n < 1 || n > UINT32_MAX)
        return FB_USAGE("%lld parameters: a message has room for 1 to %u", (long long)n, UINT32_MAX);
    if (!(spec->fraction > 0.0 && spec->fraction <= 1.0))
        return FB_USAGE("sharing.fraction = %g: must be above 0 and at most 1", spec->fraction);
    if (spec->select == FB_SELECT_ALL && spec->fraction != 1.0)
        return FB_USAGE("sharing.fraction = %g with sharing.select = all, which shares every coordinate: set it to 1, "
                        "or choose another sharing.select",
                        spec->fraction);
    return FB_OK;
}

/* Does a clip of single coordinates have to be given? */
static int needs_clip(const fb_release_spec *spec)
{
    return spec->mechanism == FB_MECHANISM_LAPLACE ||
           (spec->mechanism == FB_MECHANISM_GAUSSIAN && selects_by_noise(spec->select));
}

static fb_status check_clip(const fb_release_spec *spec)
{
    if (!(spec->clip > 0.0))
        return FB_USAGE("privacy.clip = %g: must be above 0", spec->clip);
    if (needs_clip(spec) && !(spec->clip >= ldexp(1.0, FB_GRID_LOG2_MIN) && spec->clip <= CLIP_MAX))
        return FB_USAGE("privacy.clip = %g: with privacy.mechanism = %s and sharing.select = %s it must lie in "
                        "[2^%d, 2^20], because the noise is proportional to it and the grid is no finer",
                        spec->clip, mechanism_name(spec->mechanism), select_name(spec->select), FB_GRID_LOG2_MIN);
    if ((spec->select == FB_SELECT_SVT || spec->select == FB_SELECT_SVT_AS_PUBLISHED) &&
        !(spec->threshold >= 0.0 && spec->threshold <= spec->clip && isfinite(spec->threshold)))
        return FB_USAGE("privacy.threshold = %g: must be finite, at least 0 and at most privacy.clip = %g",
                        spec->threshold, spec->clip);
    return FB_OK;
}

static fb_status check_trust(const fb_release_spec *spec)
{
    const char *const name = spec->trust == FB_TRUST_SECAGG ? "secagg" : "central";
    if (spec->trust == FB_TRUST_LOCAL)
        return FB_OK;
    if (spec->select != FB_SELECT_ALL && spec->select != FB_SELECT_RANDOM && spec->select != FB_SELECT_PUBLIC)
        return FB_USAGE("privacy.trust = %s with sharing.select = %s: a sum needs the same coordinates from every "
                        "hospital; choose all, random or public, or privacy.trust = local",
                        name, select_name(spec->select));
    if (spec->mechanism == FB_MECHANISM_NONE || spec->mechanism == FB_MECHANISM_DPSGD)
        return FB_USAGE("privacy.trust = %s with privacy.mechanism = %s: the update gets no noise, so nobody else can "
                        "add it; set privacy.trust = local, or choose gaussian",
                        name, mechanism_name(spec->mechanism));
    if (spec->trust == FB_TRUST_SECAGG && spec->mechanism == FB_MECHANISM_LAPLACE)
        return FB_USAGE(
            "privacy.trust = secagg with privacy.mechanism = laplace: a sum of discrete Laplace variables is "
            "not one, so no epsilon is known for it; choose gaussian, or privacy.trust = central");
    if (spec->trust == FB_TRUST_SECAGG && spec->participants < 1)
        return FB_USAGE("privacy.trust = secagg with %d hospitals in a round: at least one has to add noise",
                        spec->participants);
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
    if (!(*scale >= FB_LAPLACE_SCALE_MIN && *scale <= FB_LAPLACE_SCALE_MAX))
        return FB_USAGE("%s = %g: its noise scale would be %g grid steps, the limits are 2^-4 and 2^52; %s it", key,
                        epsilon, *scale, *scale > 1.0 ? "raise" : "lower");
    return FB_OK;
}

/* The published form has the answer noise of a budget for every parameter. */
static fb_status plan_laplace(const fb_release_spec *spec, fb_budget *budget)
{
    const char *key = "privacy.epsilon_answer";
    const double count = (double)budget->count, sensitivity = 2.0 * (double)budget->clip_grid;
    budget->grid_log2 = fb_grid_log2(spec->clip);
    FB_TRY(check_epsilon(key, spec->epsilon_answer, 0));
    if (spec->answer_budget == FB_ANSWER_PER_PARAMETER || spec->select == FB_SELECT_SVT_AS_PUBLISHED) {
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
    const int published = spec->select == FB_SELECT_SVT_AS_PUBLISHED;
    const double count = (double)budget->count, sensitivity = (published ? 2.0 : 1.0) * (double)budget->clip_grid;
    FB_TRY(check_epsilon("privacy.epsilon_threshold", spec->epsilon_threshold, 0));
    FB_TRY(check_epsilon("privacy.epsilon_query", spec->epsilon_query, 1));
    budget->threshold_grid = fb_grid_floor(spec->threshold, fb_grid_log2(spec->clip));
    budget->epsilon_threshold = spec->epsilon_threshold;
    budget->epsilon_query =
        spec->epsilon_query > 0.0 ? spec->epsilon_query : spec->epsilon_threshold * pow(2.0 * count, 2.0 / 3.0);
    FB_TRY(find_scale("privacy.epsilon_threshold", sensitivity, budget->epsilon_threshold, &budget->scale_threshold));
    return find_scale("privacy.epsilon_query", 2.0 * count * sensitivity, budget->epsilon_query, &budget->scale_query);
}

static fb_status plan_exponential(const fb_release_spec *spec, fb_budget *budget)
{
    FB_TRY(check_epsilon("privacy.epsilon_query", spec->epsilon_query, 0));
    budget->epsilon_query = spec->epsilon_query;
    const double score = fb_exponential_score_max(budget);
    if (!(score >= 1.0 && score <= FB_EXPONENTIAL_SCORE_LIMIT))
        return FB_USAGE(
            "privacy.epsilon_query = %g for %lld selections: the largest score would be %g steps of the Gumbel "
            "noise's grid, it must lie in [1, 2^60]; %s",
            spec->epsilon_query, (long long)budget->count, score,
            score < 1.0 ? "raise it, or choose sharing.select = random, which costs nothing" : "lower it");
    return FB_OK;
}

static fb_status plan_selection(const fb_release_spec *spec, fb_budget *budget)
{
    if (needs_clip(spec))
        budget->clip_grid = fb_grid_floor(spec->clip, fb_grid_log2(spec->clip));
    if (spec->select == FB_SELECT_EXPONENTIAL)
        return plan_exponential(spec, budget);
    return selects_by_noise(spec->select) ? plan_svt(spec, budget) : FB_OK;
}

static fb_status check_gaussian(const fb_release_spec *spec)
{
    if (!(spec->clip_norm >= FB_GAUSSIAN_CLIP_MIN && spec->clip_norm <= CLIP_MAX))
        return FB_USAGE("privacy.clip_norm = %g: privacy.mechanism = gaussian needs a bound of the L2 norm of what is "
                        "shared of dW / steps, in [2^-20, 2^20]; set it near the norm of a typical update",
                        spec->clip_norm);
    if (!(spec->noise_multiplier > 0.0 && isfinite(spec->noise_multiplier)))
        return FB_USAGE(
            "privacy.noise_multiplier = %g: must be finite and above 0; privacy.mechanism = none is the way to "
            "no noise",
            spec->noise_multiplier);
    if (fb_gaussian_bound(spec) < 1)
        return FB_USAGE("privacy.clip = %g is less than a step of the grid that privacy.clip_norm = %g makes (2^%d): "
                        "nothing would be left; raise it, or leave it at inf",
                        spec->clip, spec->clip_norm, fb_gaussian_grid_log2(spec->clip_norm));
    return FB_OK;
}

static fb_status plan_gaussian(const fb_release_spec *spec, fb_budget *budget)
{
    FB_TRY(check_gaussian(spec));
    const int secagg = spec->trust == FB_TRUST_SECAGG;
    budget->grid_log2 = fb_gaussian_grid_log2(spec->clip_norm);
    budget->clip_norm_grid = fb_grid_floor(spec->clip_norm, budget->grid_log2);
    budget->sigma = nextafter(spec->noise_multiplier * (double)budget->clip_norm_grid, INFINITY);
    budget->sigma_share = secagg ? nextafter(budget->sigma / sqrt((double)spec->participants), INFINITY)
                          : spec->trust == FB_TRUST_CENTRAL ? 0.0
                                                            : budget->sigma;
    const double least = secagg ? budget->sigma_share : budget->sigma, limit = secagg ? SHARE_MIN : FB_GAUSS_SIGMA_MIN;
    if (!(least >= limit && budget->sigma <= FB_GAUSS_SIGMA_MAX))
        return FB_USAGE(
            "privacy.noise_multiplier = %g: the noise of a hospital would have a standard deviation of %g grid "
            "steps, it must lie in [%g, 2^56]; %s it",
            spec->noise_multiplier, least, limit, least < limit ? "raise" : "lower");
    return FB_OK;
}

static void add_event(fb_budget *budget, fb_event event)
{
    FB_ASSERT(budget->event_count < FB_BUDGET_EVENTS_MAX);
    event.rate = 1.0;
    budget->events[budget->event_count++] = event;
}

/* mechanism.h, on rounding */
static double svt_rounding(const fb_budget *budget)
{
    const double loss = fmax(budget->epsilon_threshold, budget->epsilon_query / (double)budget->count);
    return 2.0 * fb_tail_rounding(FB_NOISE_REACHED + loss) *
           ((double)budget->count + (double)FB_SVT_PASSES * (double)budget->n + 62.0);
}

static void add_selection_events(const fb_release_spec *spec, fb_budget *budget)
{
    if (spec->select == FB_SELECT_SVT)
        add_event(budget,
                  (fb_event){.kind = FB_EVENT_PURE,
                             .epsilon = budget->epsilon_threshold + budget->epsilon_query + svt_rounding(budget),
                             .count = 1});
    if (spec->select == FB_SELECT_EXPONENTIAL)
        add_event(budget, (fb_event){.kind = FB_EVENT_BOUNDED_RANGE,
                                     .epsilon = budget->epsilon_query / (double)budget->count,
                                     .rounding = 2.0 * FB_GUMBEL_ERROR,
                                     .count = budget->count});
}

static void add_answer_events(const fb_release_spec *spec, fb_budget *budget)
{
    const double count = (double)budget->count;
    const double sensitivity = 2.0 * (double)budget->clip_grid, norm = 2.0 * (double)budget->clip_norm_grid;
    if (spec->mechanism == FB_MECHANISM_LAPLACE)
        add_event(budget,
                  (fb_event){.kind = FB_EVENT_LAPLACE,
                             .scale = budget->scale_answer,
                             .sensitivity = sensitivity,
                             .rounding = fb_noise_rounding(FB_NOISE_REACHED + sensitivity / budget->scale_answer),
                             .count = budget->count});
    if (spec->mechanism == FB_MECHANISM_GAUSSIAN) {
        const int secagg = spec->trust == FB_TRUST_SECAGG, shares = secagg ? spec->participants : 1;
        const double share = norm / (secagg ? budget->sigma_share : budget->sigma); /* of one draw's deviation */
        const double reach = fb_gauss_reach(norm / budget->sigma);
        const double rounding = count * (double)shares * fb_noise_rounding(fb_gauss_exponent(share));
        add_event(budget, (fb_event){.kind = FB_EVENT_GAUSSIAN,
                                     .scale = budget->sigma,
                                     .sensitivity = norm,
                                     .rounding = nextafter(rounding, INFINITY),
                                     .to_continuous = count * fb_gauss_to_continuous(budget->sigma, reach),
                                     .count = 1});
    }
}

/* Holds every clipped value with 38 deviations of a share of noise: less than 2^-1000 is beyond. */
static int public_bits(const fb_release_spec *spec, const fb_budget *budget)
{
    const int64_t bound = spec->mechanism == FB_MECHANISM_LAPLACE ? budget->clip_grid : budget->clip_norm_grid;
    if (spec->trust == FB_TRUST_LOCAL)
        return 0;
    return 1 + (int)ceil(log2((double)bound + 38.0 * budget->sigma_share + 1.0));
}

/* Basic composition of the parts, where all of them have a pure epsilon. */
static void sum_parts(const fb_release_spec *spec, fb_budget *budget)
{
    if (spec->mechanism != FB_MECHANISM_LAPLACE) {
        budget->epsilon_round = budget->epsilon_rounding = NAN;
        return;
    }
    budget->epsilon_rounding = spec->select == FB_SELECT_SVT ? svt_rounding(budget) : 0.0;
    for (int i = 0; i < budget->event_count; i++)
        budget->epsilon_rounding += 2.0 * budget->events[i].rounding * (double)budget->events[i].count;
    budget->epsilon_round =
        budget->epsilon_threshold + budget->epsilon_query + budget->epsilon_answer + budget->epsilon_rounding;
}

fb_status fb_budget_plan(const fb_release_spec *spec, int64_t n, fb_budget *out)
{
    FB_TRY(check_sharing(spec, n));
    FB_TRY(check_clip(spec));
    FB_TRY(check_trust(spec));
    fb_budget budget = {.n = n, .count = ceil_share(spec->fraction, n), .epsilon_round = INFINITY};
    budget.relation = spec->mechanism == FB_MECHANISM_DPSGD ? FB_ADD_REMOVE : FB_REPLACE_ONE;
    if (spec->mechanism == FB_MECHANISM_LAPLACE || spec->mechanism == FB_MECHANISM_GAUSSIAN)
        FB_TRY(plan_selection(spec, &budget));
    if (spec->mechanism == FB_MECHANISM_LAPLACE)
        FB_TRY(plan_laplace(spec, &budget));
    if (spec->mechanism == FB_MECHANISM_GAUSSIAN)
        FB_TRY(plan_gaussian(spec, &budget));
    if (fb_guarantee_find(spec->select, spec->mechanism)->formal) {
        budget.value_bits = public_bits(spec, &budget);
        add_selection_events(spec, &budget);
        add_answer_events(spec, &budget);
        sum_parts(spec, &budget);
    }
    *out = budget;
    return FB_OK;
}

double fb_budget_selection_signal(const fb_budget *budget)
{
    if (budget->scale_query > 0.0)
        return (double)budget->clip_grid / budget->scale_query;
    return budget->epsilon_query > 0.0 ? budget->epsilon_query / (2.0 * (double)budget->count) : (double)NAN;
}
