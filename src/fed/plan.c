/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/plan.h"

#include "core/mem.h"
#include "data/shard.h"
#include "fed/federation.h"
#include "fed/privacy_check.h"
#include "fed/privacy_text.h"
#include "nn/subset.h"

#include <math.h>
#include <string.h>

static const int64_t ROUNDS_MAX = 1000000; /* the limit of federation.rounds */

/* What the options are applied to. */
typedef struct subject {
    int64_t n, parameters; /* trained; all */
    int hospital_count;
    int64_t *train_cases; /* (hospital_count) owned */
    fb_cohort *cohort;    /* owned; NULL without data.shards */
} subject;

static fb_status count_parameters(const fb_config *config, subject *s)
{
    const fb_net_spec net = fb_federation_net(config);
    fb_params *params = NULL;
    fb_subset *subset = NULL;
    FB_TRY(fb_params_create(&net, &params));
    const fb_status status = fb_subset_create(params, config->train_trainable, &subset);
    if (status == FB_OK) {
        s->parameters = params->count;
        s->n = subset->count;
    }
    fb_subset_destroy(&subset);
    fb_params_destroy(&params);
    return status;
}

static fb_status find_hospitals(const fb_config *config, subject *s)
{
    s->hospital_count = (int)config->plan_cases.count;
    if (config->data_shards[0]) {
        FB_TRY(fb_cohort_open(config->data_shards, &s->cohort));
        s->hospital_count = s->cohort->hospital_count;
    }
    FB_TRY(FB_ALLOC(s->train_cases, s->hospital_count, "hospitals"));
    for (int h = 0; h < s->hospital_count; h++)
        s->train_cases[h] = s->cohort ? s->cohort->hospitals[h].train_cases : config->plan_cases.value[h];
    return FB_OK;
}

static void free_subject(subject *s)
{
    FB_FREE(s->train_cases);
    fb_cohort_close(&s->cohort);
}

/* --- solving --- */

/* What the configured noise spends in total. */
static fb_status total_of(const fb_config *config, const subject *s, double *total)
{
    fb_privacy_plan *plan = NULL;
    fb_spent spent;
    FB_TRY(fb_privacy_plan_create(config, s->n, s->hospital_count, s->train_cases, &plan));
    const fb_status status = fb_privacy_plan_spent(plan, plan->worst, plan->releases, &spent);
    fb_privacy_plan_destroy(&plan);
    *total = spent.epsilon;
    return status;
}

/* Sets the unknown to `value`: rounds, or the number of shared parameters. */
static void set_unknown(fb_config *config, const subject *s, int64_t value)
{
    if (config->plan_solve == FB_SOLVE_ROUNDS)
        config->federation_rounds = value;
    else
        config->sharing_fraction = (double)value / (double)s->n;
}

static fb_status total_at(fb_config *config, const subject *s, int64_t value, double *total)
{
    set_unknown(config, s, value);
    return total_of(config, s, total);
}

static fb_status check_share(const fb_config *config)
{
    if (config->plan_solve == FB_SOLVE_SHARE && config->sharing_select == FB_SELECT_ALL)
        return FB_USAGE("plan.solve = share: sharing.select = all shares every parameter; choose random or another");
    return FB_OK;
}

/* The largest number of rounds, or of shared parameters, with which the configured noise stays within `target`. */
static fb_status largest_within(fb_config *config, const subject *s, double target, int64_t limit, int64_t *out)
{
    const char *what = config->plan_solve == FB_SOLVE_ROUNDS ? "one round" : "a single parameter";
    double total = 0.0, first = 0.0;
    int64_t low = 1, high = limit + 1;
    FB_TRY(total_at(config, s, low, &first));
    if (first > target)
        return FB_USAGE("privacy.epsilon_total = %g: %s already spends %g; more noise is needed (plan.solve = noise)",
                        target, what, first);
    FB_TRY(total_at(config, s, limit, &total));
    if (config->plan_solve == FB_SOLVE_SHARE && total <= first * (1.0 + 1e-3))
        return FB_USAGE("plan.solve = share: the budget does not depend on the share here (%g for one parameter and "
                        "for all); plan.solve = noise or rounds may help",
                        total);
    if (total <= target)
        low = limit;
    while (high - low > 1 && low < limit) {
        const int64_t middle = low + (high - low) / 2;
        FB_TRY(total_at(config, s, middle, &total));
        *(total <= target ? &low : &high) = middle;
    }
    set_unknown(config, s, low);
    *out = low;
    return FB_OK;
}

static fb_status solve_count(fb_config *config, const subject *s, FILE *stream)
{
    const double target = config->privacy_epsilon_total;
    const int rounds = config->plan_solve == FB_SOLVE_ROUNDS;
    int64_t found = 0;
    config->privacy_epsilon_total = 0.0; /* the noise stays as configured */
    config->privacy_noise = FB_PRIVACY_NOISE_COMMON;
    FB_TRY(check_share(config));
    FB_TRY(largest_within(config, s, target, rounds ? ROUNDS_MAX : s->n, &found));
    fprintf(stream, "solved: the most within epsilon %g\n", target);
    if (rounds)
        fprintf(stream, "  --federation.rounds=%lld\n\n", (long long)found);
    else
        fprintf(stream, "  --sharing.fraction=%.17g\n\n", config->sharing_fraction);
    return FB_OK;
}

/* Rounded to six digits on the side of more noise, so that what is copied meets the target too. */
static double round_safely(double value, int up)
{
    const double unit = pow(10.0, floor(log10(value)) - 5.0);
    return (up ? ceil(value / unit) : floor(value / unit)) * unit;
}

static void print_laplace(const fb_config *config, const fb_privacy_plan *plan, FILE *stream)
{
    const fb_release_spec *release = &plan->release;
    if (release->select == FB_SELECT_SVT)
        fprintf(stream, "  --privacy.epsilon_threshold=%.6g", round_safely(release->epsilon_threshold, 0));
    if (config->privacy_epsilon_query > 0.0 &&
        (release->select == FB_SELECT_SVT || release->select == FB_SELECT_EXPONENTIAL))
        fprintf(stream, "  --privacy.epsilon_query=%.6g", round_safely(release->epsilon_query, 0));
    if (release->mechanism == FB_MECHANISM_LAPLACE)
        fprintf(stream, "  --privacy.epsilon_answer=%.6g", round_safely(release->epsilon_answer, 0));
}

static fb_status solve_noise(const fb_config *config, const subject *s, FILE *stream)
{
    fb_privacy_plan *plan = NULL;
    FB_TRY(fb_privacy_plan_create(config, s->n, s->hospital_count, s->train_cases, &plan));
    fprintf(stream, "solved: the least noise within epsilon %g\n", config->privacy_epsilon_total);
    if (plan->dpsgd && config->privacy_noise == FB_PRIVACY_NOISE_PER_HOSPITAL)
        fprintf(stream, "  --privacy.epsilon_total=%.17g --privacy.noise=per-hospital", config->privacy_epsilon_total);
    else if (plan->dpsgd)
        fprintf(stream, "  --privacy.noise_multiplier=%.6g", round_safely(plan->dpsgd[0].spec.noise_multiplier, 1));
    else if (plan->release.mechanism == FB_MECHANISM_GAUSSIAN)
        fprintf(stream, "  --privacy.noise_multiplier=%.6g", round_safely(plan->release.noise_multiplier, 1));
    print_laplace(config, plan, stream);
    fprintf(stream, "\n\n");
    fb_privacy_plan_destroy(&plan);
    return FB_OK;
}

static fb_status solve(fb_config *config, const subject *s, FILE *stream)
{
    if (config->plan_solve == FB_SOLVE_EPSILON)
        return FB_OK;
    if (config->privacy_epsilon_total == 0.0)
        return FB_USAGE("plan.solve: needs the budget of the whole run; set privacy.epsilon_total");
    return config->plan_solve == FB_SOLVE_NOISE ? solve_noise(config, s, stream) : solve_count(config, s, stream);
}

/* --- the page --- */

static void print_head(const fb_config *config, const subject *s, FILE *stream)
{
    int64_t cases = 0;
    for (int h = 0; h < s->hospital_count; h++)
        cases += s->train_cases[h];
    fprintf(stream, "run: %d hospitals with %lld train cases (%s), %lld rounds of %lld epochs\n", s->hospital_count,
            (long long)cases, s->cohort ? config->data_shards : "plan.cases", (long long)config->federation_rounds,
            (long long)config->train_epochs);
    fprintf(stream, "model: %lld parameters, %lld of them trained and shared\n", (long long)s->parameters,
            (long long)s->n);
}

/* What the expected cosine comes from, in its simplest case. */
static void print_formula(const fb_privacy_plan *plan, FILE *stream)
{
    if (plan->dpsgd)
        fprintf(stream, "\ncosine = 1 / sqrt(1 + sum_h a_h^2 / (r_h^2 S_h) / (sum_h a_h)^2): hospital h of weight a_h "
                        "takes S_h steps of signal/noise r_h\n");
    else
        fprintf(stream,
                "\ncosine = sqrt(Q / (1 / P + (1 - 1 / P) Q + v / P)) for a fraction Q of random coordinates, P "
                "equal hospitals and noise of v times the signal's variance;\nselection, unequal weights, clips "
                "and noise on the sum enter as described in src/privacy/expect.h\n");
    fprintf(stream,
            "cosine over R rounds = 1 / sqrt(1 + (1 / cosine^2 - 1) / R)\n"
            "learning is to be expected from a cosine of 0.1 a round, much as without noise from 0.5: a rule of "
            "thumb, held against runs in docs/study-privacy.md\n");
}

static fb_status print_hospitals(fb_privacy_plan *plan, const subject *s, FILE *stream)
{
    fb_spent spent;
    if (!plan->dpsgd)
        return FB_OK;
    fprintf(stream, "\nhospital       patients  batch       rate  steps/round  noise_multiplier    epsilon  "
                    "signal/noise of a step\n");
    for (int h = 0; h < plan->hospital_count; h++) {
        char name[16];
        const fb_dpsgd_plan *d = &plan->dpsgd[h];
        snprintf(name, sizeof name, "%d", h);
        FB_TRY(fb_privacy_plan_spent(plan, h, plan->releases, &spent));
        fprintf(stream, "%-13.13s  %8lld  %5.4g  %9.4g  %11lld  %16.6g  %9.4g  %.3g\n",
                s->cohort ? s->cohort->hospitals[h].name : name, (long long)d->spec.cases, d->batch, d->rate,
                (long long)d->steps, d->spec.noise_multiplier, spent.epsilon, fb_expect_step_ratio(d));
    }
    fprintf(stream,
            "signal/noise = batch x clip / (noise_multiplier x clip x sqrt(%lld)), when all gradients of the "
            "batch agree\n",
            (long long)plan->budget.n);
    return FB_OK;
}

/* What privacy.stop_at_epsilon leaves of the planned rounds, for the hospital that spends most. */
static fb_status print_limit(const fb_config *config, fb_privacy_plan *plan, FILE *stream)
{
    const double limit = config->privacy_stop_at_epsilon;
    fb_spent spent;
    int64_t low = 0, high = plan->releases + 1;
    if (limit == 0.0)
        return FB_OK;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        FB_TRY(fb_privacy_plan_spent(plan, plan->worst, middle, &spent));
        *(spent.epsilon <= limit ? &low : &high) = middle;
    }
    fprintf(stream, "privacy: privacy.stop_at_epsilon = %g allows %lld of the %lld rounds%s\n", limit, (long long)low,
            (long long)plan->releases, low == 0 ? ": the run would be refused" : "");
    return FB_OK;
}

static fb_status print_page(const fb_config *config, const subject *s, FILE *stream)
{
    fb_privacy_plan *plan = NULL;
    FB_TRY(fb_privacy_plan_create(config, s->n, s->hospital_count, s->train_cases, &plan));
    print_head(config, s, stream);
    fb_privacy_check_unused(config, stream);
    fb_status status = fb_privacy_text(plan, stream);
    if (status == FB_OK)
        status = print_limit(config, plan, stream);
    if (status == FB_OK)
        print_formula(plan, stream);
    if (status == FB_OK)
        status = print_hospitals(plan, s, stream);
    fb_privacy_plan_destroy(&plan);
    return status;
}

fb_status fb_plan_print(const fb_config *config, FILE *stream)
{
    fb_config solved = *config;
    subject s = {0};
    if (config->run_mode == FB_MODE_CENTRALISED)
        return FB_USAGE("run.mode = centralised has no privacy to plan: pooled patients are sent as they are; choose "
                        "federated, or local");
    fb_status status = count_parameters(config, &s);
    if (status == FB_OK)
        status = find_hospitals(config, &s);
    if (status == FB_OK)
        status = solve(&solved, &s, stream);
    if (status == FB_OK)
        status = print_page(&solved, &s, stream);
    free_subject(&s);
    return status;
}
