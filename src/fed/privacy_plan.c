/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/privacy_plan.h"

#include "core/mem.h"
#include "fed/privacy_check.h"
#include "fed/schedule.h"

#include <math.h>
#include <string.h>

/* The calibrated total lies between this part of privacy.epsilon_total and all of it. */
static const double MET = 0.9995;

enum { SLOTS = 4 }; /* answers kept per hospital: a round asks for its own, the last and the planned number */

struct fb_spent_slot {
    int64_t asked; /* releases + 1; 0: empty */
    fb_spent spent;
};

/* --- what a history is --- */

static int is_dpsgd(const fb_privacy_plan *plan)
{
    return plan->dpsgd != NULL;
}

/* Accounts `releases` rounds of the given events, each of which is of one round. */
static fb_status account(const fb_privacy_plan *plan, const fb_event *of_round, int count, int64_t releases,
                         fb_spent *out)
{
    fb_event events[FB_BUDGET_EVENTS_MAX];
    for (int i = 0; i < count; i++) {
        events[i] = of_round[i];
        events[i].count *= releases;
    }
    const fb_history history = {plan->relation, releases > 0 ? count : 0, events};
    return fb_account(&history, plan->delta, out);
}

/* The factor on the noise of the given events at which they spend `target` over all planned releases. */
static fb_status calibrate(const fb_privacy_plan *plan, const fb_event *of_round, int count, double target,
                           double *factor)
{
    fb_event events[FB_BUDGET_EVENTS_MAX];
    for (int i = 0; i < count; i++) {
        events[i] = of_round[i];
        events[i].count *= plan->releases;
    }
    const fb_history history = {plan->relation, count, events};
    return fb_account_calibrate(&history, target, plan->delta, factor);
}

/* The first hospital whose events are the same: they spend alike. */
static int class_of(const fb_privacy_plan *plan, int hospital)
{
    if (!is_dpsgd(plan))
        return 0;
    for (int h = 0; h < hospital; h++)
        if (plan->dpsgd[h].rate == plan->dpsgd[hospital].rate && plan->dpsgd[h].steps == plan->dpsgd[hospital].steps &&
            plan->dpsgd[h].sigma == plan->dpsgd[hospital].sigma)
            return h;
    return hospital;
}

fb_status fb_privacy_plan_spent(fb_privacy_plan *plan, int hospital, int64_t releases, fb_spent *out)
{
    FB_ASSERT(hospital >= 0 && hospital < plan->hospital_count && releases >= 0);
    const int class = class_of(plan, hospital);
    struct fb_spent_slot *slot = &plan->spent[(int64_t) class * SLOTS + releases % SLOTS];
    if (!plan->guarantee->formal) {
        *out = (fb_spent){.epsilon = INFINITY, .delta = plan->delta};
        for (int i = 0; i < FB_ACCOUNTANTS; i++)
            out->by[i] = NAN;
        return FB_OK;
    }
    if (slot->asked != releases + 1) {
        if (is_dpsgd(plan))
            FB_TRY(account(plan, &plan->dpsgd[class].event, 1, releases, &slot->spent));
        else
            FB_TRY(account(plan, plan->budget.events, plan->budget.event_count, releases, &slot->spent));
        slot->asked = releases + 1;
    }
    *out = slot->spent;
    return FB_OK;
}

/* --- from options to what is released --- */

static fb_release_spec spec_of(const fb_config *config, int participants)
{
    const int dpsgd = config->privacy_mechanism == FB_MECHANISM_DPSGD;
    return (fb_release_spec){.select = (fb_select)config->sharing_select,
                             .fraction = config->sharing_fraction,
                             .mechanism = dpsgd ? FB_MECHANISM_NONE : (fb_mechanism)config->privacy_mechanism,
                             .clip = config->privacy_clip,
                             .threshold = config->privacy_threshold,
                             .epsilon_threshold = config->privacy_epsilon_threshold,
                             .epsilon_query = config->privacy_epsilon_query,
                             .epsilon_answer = config->privacy_epsilon_answer,
                             .answer_budget = (fb_answer_budget)config->privacy_answer_budget,
                             .clip_answers = config->privacy_clip_answers,
                             .clip_norm = config->privacy_clip_norm,
                             .noise_multiplier =
                                 config->privacy_noise_multiplier > 0.0 ? config->privacy_noise_multiplier : 1.0,
                             .trust = (fb_trust)config->privacy_trust,
                             .participants = participants};
}

/* How often the hospital that takes part most often does: the schedule comes from the public seed. */
static fb_status count_releases(const fb_config *config, fb_privacy_plan *plan)
{
    int64_t *participates = NULL, *times = NULL;
    fb_status status = FB_OK;
    plan->releases = plan->rounds;
    if (plan->participants == plan->hospital_count)
        return FB_OK;
    plan->releases = 0;
    FB_TRY_GOTO(status, FB_ALLOC(participates, plan->hospital_count, "schedule"), done);
    FB_TRY_GOTO(status, FB_ALLOC(times, plan->hospital_count, "schedule"), done);
    for (int64_t round = 0; round < plan->rounds; round++) {
        FB_TRY_GOTO(status,
                    fb_schedule_participants((uint64_t)config->run_seed, (uint32_t)round, plan->hospital_count,
                                             config->federation_participation, participates),
                    done);
        for (int h = 0; h < plan->hospital_count; h++)
            times[h] += participates[h];
    }
    for (int h = 0; h < plan->hospital_count; h++)
        plan->releases = times[h] > plan->releases ? times[h] : plan->releases;
done:
    FB_FREE(participates);
    FB_FREE(times);
    return status;
}

/* By what each hospital divides its change. When all share one noisy sum, it is one number for all, so that their
 * clips are alike; else each hospital's own steps. */
static fb_status plan_divisor(const fb_config *config, const int64_t *train_cases, fb_privacy_plan *plan)
{
    const int hospitals = plan->hospital_count;
    int64_t *everyone = NULL;
    FB_TRY(FB_ALLOC(plan->divisor, hospitals, "public steps"));
    for (int h = 0; h < hospitals; h++)
        plan->divisor[h] = is_dpsgd(plan) ? plan->dpsgd[h].steps : train_cases[h] * config->train_epochs;
    if (config->privacy_trust == FB_TRUST_LOCAL)
        return FB_OK;
    FB_TRY(FB_ALLOC(everyone, hospitals, "public steps"));
    for (int h = 0; h < hospitals; h++)
        everyone[h] = 1;
    const int64_t mean = fb_schedule_mean_steps(hospitals, everyone, plan->divisor, 1);
    for (int h = 0; h < hospitals; h++)
        plan->divisor[h] = mean;
    FB_FREE(everyone);
    return FB_OK;
}

/* --- calibration: the noise on the update --- */

/* A configured release, whose noise is scaled by a factor until the total fits. */
typedef struct fitting {
    fb_privacy_plan *plan;
    fb_release_spec configured;
    double target, total;
} fitting;

static fb_status try_factor(fitting *fit, double factor)
{
    fb_privacy_plan *plan = fit->plan;
    fb_spent spent;
    plan->release = fit->configured;
    plan->release.epsilon_threshold /= factor;
    plan->release.epsilon_query /= factor;
    plan->release.epsilon_answer /= factor;
    plan->release.noise_multiplier *= factor;
    FB_TRY(fb_budget_plan(&plan->release, plan->budget.n, &plan->budget));
    FB_TRY(account(plan, plan->budget.events, plan->budget.event_count, plan->releases, &spent));
    plan->noise_scale = factor;
    fit->total = spent.epsilon;
    return FB_OK;
}

static fb_status unreachable(const fitting *fit)
{
    return FB_USAGE("privacy.epsilon_total = %g: even with far more noise %lld rounds spend %g at privacy.delta = %g, "
                    "because rounding and selection have a part that noise does not reduce; allow more, or fewer "
                    "federation.rounds",
                    fit->target, (long long)fit->plan->releases, fit->total, fit->plan->delta);
}

/* fb_account_calibrate scales every event, but what rounding costs does not scale: its factor is only where to begin.
 * Brackets the target, then halves the bracket. */
static fb_status fit_release(fitting *fit)
{
    const double target = fit->target;
    double start = 1.0, low, high;
    FB_TRY(calibrate(fit->plan, fit->plan->budget.events, fit->plan->budget.event_count, target, &start));
    low = high = start;
    FB_TRY(try_factor(fit, high));
    for (double step = 1e-6; fit->total > target; step *= 4.0) {
        if (step > 1e6)
            return unreachable(fit);
        low = high;
        high = start * (1.0 + step);
        FB_TRY(try_factor(fit, high));
    }
    if (fit->total >= MET * target)
        return FB_OK;
    for (double step = 1e-3; low == high; step *= 4.0) {
        low = start / (1.0 + step);
        FB_TRY(try_factor(fit, low));
        if (fit->total <= target)
            high = low;
    }
    while (!(fit->total <= target && fit->total >= MET * target) && high > low * (1.0 + 1e-12)) {
        const double middle = sqrt(low * high);
        FB_TRY(try_factor(fit, middle));
        *(fit->total > target ? &low : &high) = middle;
    }
    return try_factor(fit, high);
}

static fb_status plan_release(const fb_config *config, int64_t n, fb_privacy_plan *plan)
{
    FB_TRY(fb_budget_plan(&plan->release, n, &plan->budget));
    plan->relation = is_dpsgd(plan) ? FB_ADD_REMOVE : plan->budget.relation;
    if (is_dpsgd(plan) || config->privacy_epsilon_total == 0.0)
        return FB_OK;
    fitting fit = {plan, plan->release, config->privacy_epsilon_total, 0.0};
    return fb_error_context(fit_release(&fit), "privacy.epsilon_total = %g", config->privacy_epsilon_total);
}

/* --- calibration: the noise in training --- */

/* The noise_multiplier at which hospital h spends the target; hospitals with as many patients need the same. */
static fb_status find_multiplier(fb_privacy_plan *plan, int h, double target)
{
    double factor = 0.0;
    for (int g = 0; g < h; g++)
        if (plan->dpsgd[g].spec.cases == plan->dpsgd[h].spec.cases) {
            plan->dpsgd[h] = plan->dpsgd[g];
            return FB_OK;
        }
    FB_TRY(calibrate(plan, &plan->dpsgd[h].event, 1, target, &factor));
    fb_dpsgd_spec spec = plan->dpsgd[h].spec;
    const double multiplier = spec.noise_multiplier;
    fb_spent spent = {.epsilon = INFINITY};
    for (double more = 0.0; more < 1e-2 && !(spent.epsilon <= target); more = more > 0.0 ? 4.0 * more : 1e-9) {
        spec.noise_multiplier = multiplier * factor * (1.0 + more);
        FB_TRY(fb_dpsgd_plan_make(&spec, &plan->dpsgd[h]));
        FB_TRY(account(plan, &plan->dpsgd[h].event, 1, plan->releases, &spent));
    }
    if (!(spent.epsilon <= target))
        return FB_USAGE("privacy.epsilon_total = %g: no noise_multiplier found that meets it; the nearest, %g, spends "
                        "%g",
                        target, spec.noise_multiplier, spent.epsilon);
    return FB_OK;
}

/* One multiplier for all: the largest that any hospital needs. */
static fb_status make_common(fb_privacy_plan *plan)
{
    double most = 0.0;
    for (int h = 0; h < plan->hospital_count; h++)
        most = fmax(most, plan->dpsgd[h].spec.noise_multiplier);
    for (int h = 0; h < plan->hospital_count; h++) {
        fb_dpsgd_spec spec = plan->dpsgd[h].spec;
        spec.noise_multiplier = most;
        FB_TRY(fb_dpsgd_plan_make(&spec, &plan->dpsgd[h]));
    }
    return FB_OK;
}

static fb_status plan_dpsgd(const fb_config *config, int64_t n, const int64_t *train_cases, fb_privacy_plan *plan)
{
    const double configured = plan->release.noise_multiplier, target = config->privacy_epsilon_total;
    if (config->privacy_mechanism != FB_MECHANISM_DPSGD)
        return FB_OK;
    plan->relation = FB_ADD_REMOVE;
    FB_TRY(FB_ALLOC(plan->dpsgd, plan->hospital_count, "dpsgd"));
    for (int h = 0; h < plan->hospital_count; h++) {
        const fb_dpsgd_spec spec = {.clip_norm = config->privacy_clip_norm,
                                    .noise_multiplier = configured,
                                    .batch = config->train_batch,
                                    .cases = train_cases[h],
                                    .epochs = config->train_epochs,
                                    .n = n};
        FB_TRY(fb_dpsgd_plan_make(&spec, &plan->dpsgd[h]));
        if (target > 0.0)
            FB_TRY(fb_error_context(find_multiplier(plan, h, target), "hospital %d", h));
    }
    if (target > 0.0 && config->privacy_noise == FB_PRIVACY_NOISE_COMMON)
        FB_TRY(make_common(plan));
    for (int h = 0; h < plan->hospital_count; h++)
        plan->noise_scale = fmax(h > 0 ? plan->noise_scale : 0.0, plan->dpsgd[h].spec.noise_multiplier / configured);
    return FB_OK;
}

/* --- what is claimed --- */

static fb_status find_worst(fb_privacy_plan *plan)
{
    fb_spent spent;
    double most = -1.0;
    for (int h = 0; h < plan->hospital_count; h++) {
        FB_TRY(fb_privacy_plan_spent(plan, h, plan->releases, &spent));
        if (spent.epsilon > most) {
            most = spent.epsilon;
            plan->worst = h;
        }
    }
    return FB_OK;
}

/* The first condition of formal privacy that fails. */
static fb_status find_failure(const fb_config *config, fb_privacy_plan *plan)
{
    fb_spent spent;
    FB_TRY(fb_privacy_plan_spent(plan, plan->worst, plan->releases, &spent));
    if (!plan->guarantee->formal)
        plan->formal_failure = plan->guarantee->reason;
    else if (strcmp(config->privacy_key, "seed") == 0)
        plan->formal_failure = "the noise comes from the seed: this run simulates the mechanism";
    else if (!isfinite(spent.epsilon))
        plan->formal_failure = "no accountant reaches privacy.delta: the planned rounds have no finite epsilon there";
    else if (config->train_momentum == FB_MOMENTUM_AVERAGE && !is_dpsgd(plan))
        plan->formal_failure = "Adam's moments are sent beside the update without noise";
    return FB_OK;
}

static const char *const no_protection = "validation and test patients get no protection: only training is noised";
static const char *const public_constants =
    "steps, sampling rates, hospital weights, shard sizes and the schedule of the rounds are public constants";
static const char *const selection_costs =
    "choosing settings or a model by private data, as in a sweep, costs extra and is not counted; stopping by a metric "
    "spends the planned rounds";
static const char *const parallel_hospital =
    "hospitals hold different patients, so the total is that of the one that spends most";
static const char *const parallel_patient =
    "every patient is in one hospital only; one in two hospitals spends the sum of both";
static const char *const no_amplification =
    "the hospitals of a round are drawn from the public seed: no amplification by sampling is claimed";
static const char *const secagg =
    "the server sees only the sum of the messages (secure aggregation is simulated), and every hospital adds its share "
    "of the noise and keeps it to itself; for one of K hospitals, which knows its own share, the noise on the others "
    "is sqrt(1 - 1/K) of this";
static const char *const central = "the server is trusted: it sees every update before it adds the noise";
static const char *const initial = "the initial model (train.init_from) was not made from these patients";

const char *fb_privacy_plan_assumption(const fb_privacy_plan *plan, int i)
{
    const char *const all[] = {
        plan->guarantee->formal ? (is_dpsgd(plan) ? parallel_patient : parallel_hospital) : NULL,
        plan->guarantee->formal ? public_constants : NULL,
        plan->guarantee->formal && plan->release.trust == FB_TRUST_SECAGG ? secagg : NULL,
        plan->guarantee->formal && plan->release.trust == FB_TRUST_CENTRAL ? central : NULL,
        plan->guarantee->formal && plan->starts_from_model ? initial : NULL,
        plan->guarantee->formal && plan->participants < plan->hospital_count ? no_amplification : NULL,
        plan->guarantee->formal ? selection_costs : NULL,
        no_protection,
    };
    int seen = 0;
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
        if (all[k] && seen++ == i)
            return all[k];
    return NULL;
}

/* --- the plan --- */

static fb_status make(const fb_config *config, int64_t n, const int64_t *train_cases, fb_privacy_plan *plan)
{
    plan->guarantee = fb_guarantee_find((fb_select)config->sharing_select, (fb_mechanism)config->privacy_mechanism);
    plan->release = spec_of(config, plan->participants);
    if (!plan->guarantee) {
        plan->release.mechanism = (fb_mechanism)config->privacy_mechanism;
        const fb_status refusal = fb_budget_plan(&plan->release, n, &plan->budget); /* names the combination */
        FB_ASSERT(refusal != FB_OK);
        return refusal;
    }
    FB_TRY(fb_privacy_check(config, plan->guarantee));
    FB_TRY(FB_ALLOC(plan->spent, (int64_t)plan->hospital_count * SLOTS, "spent budgets"));
    FB_TRY(count_releases(config, plan));
    FB_TRY(plan_dpsgd(config, n, train_cases, plan));
    FB_TRY(plan_release(config, n, plan));
    FB_TRY(plan_divisor(config, train_cases, plan));
    FB_TRY(find_worst(plan));
    return find_failure(config, plan);
}

fb_status fb_privacy_plan_create(const fb_config *config, int64_t n, int hospital_count, const int64_t *train_cases,
                                 fb_privacy_plan **out)
{
    fb_privacy_plan *plan = NULL;
    FB_TRY(FB_ALLOC(plan, 1, "privacy plan"));
    const int wanted = (int)lround(config->federation_participation * hospital_count);
    plan->hospital_count = hospital_count;
    plan->participants = wanted < 1 ? 1 : wanted;
    plan->rounds = config->federation_rounds;
    plan->delta = config->privacy_delta;
    plan->asked = config->privacy_epsilon_total;
    plan->noise_scale = 1.0;
    plan->uniform = config->federation_weighting == FB_WEIGHTING_UNIFORM;
    plan->starts_from_model = config->train_init_from[0] != '\0';
    const fb_status status = make(config, n, train_cases, plan);
    if (status != FB_OK)
        fb_privacy_plan_destroy(&plan);
    *out = plan;
    return status;
}

void fb_privacy_plan_destroy(fb_privacy_plan **plan)
{
    if (*plan) {
        FB_FREE((*plan)->divisor);
        FB_FREE((*plan)->dpsgd);
        FB_FREE((*plan)->spent);
    }
    FB_FREE(*plan);
}

fb_status fb_privacy_plan_identity(const fb_privacy_plan *plan, int hospital, char text[FB_TEXT_CHARS])
{
    char training[256] = "";
    const fb_release_spec *r = &plan->release;
    const fb_budget *b = &plan->budget;
    if (is_dpsgd(plan)) {
        const fb_dpsgd_plan *d = &plan->dpsgd[hospital];
        snprintf(training, sizeof training,
                 " dpsgd-rate=%.17g dpsgd-steps=%lld dpsgd-grid=2^%d dpsgd-clip=%lld "
                 "dpsgd-sigma=%.17g",
                 d->rate, (long long)d->steps, d->grid_log2, (long long)d->clip_grid, d->sigma);
    }
    const int chars = snprintf(
        text, FB_TEXT_CHARS,
        "select=%d mechanism=%d unit=%s neighbours=%s trust=%d participants=%d delta=%.17g n=%lld count=%lld "
        "divisor=%lld grid=2^%d clip=%lld clip-norm=%lld threshold=%lld scale-threshold=%.17g scale-query=%.17g "
        "epsilon-query=%.17g scale-answer=%.17g sigma=%.17g clip-answers=%d%s",
        (int)plan->guarantee->select, (int)plan->guarantee->mechanism, plan->guarantee->unit,
        plan->guarantee->neighbours, (int)r->trust, plan->participants, plan->delta, (long long)b->n,
        (long long)b->count, (long long)plan->divisor[hospital], b->grid_log2, (long long)b->clip_grid,
        (long long)b->clip_norm_grid, (long long)b->threshold_grid, b->scale_threshold, b->scale_query,
        b->epsilon_query, b->scale_answer, b->sigma, r->clip_answers, training);
    return chars < FB_TEXT_CHARS ? FB_OK
                                 : FB_FAIL("identity of the privacy plan: longer than %d characters", FB_TEXT_CHARS);
}
