/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/privacy_text.h"

#include "codec/frame.h"
#include "core/mem.h"
#include "privacy/expect.h"

#include <math.h>

const char *fb_privacy_trust_name(fb_trust trust)
{
    static const char *const names[] = {"local", "secagg", "central"};
    return names[trust];
}

/* A noised value is on the grid, within the clip where it is clipped again, and otherwise about as large as the largest
 * noise of a message. */
int fb_privacy_value_bits(const fb_privacy_plan *plan)
{
    const fb_budget *budget = &plan->budget;
    if (plan->release.mechanism == FB_MECHANISM_NONE)
        return 32;
    if (budget->value_bits > 0)
        return budget->value_bits;
    const int gaussian = plan->release.mechanism == FB_MECHANISM_GAUSSIAN;
    const double bound = (double)(gaussian ? budget->clip_norm_grid : budget->clip_grid);
    const double log_count = log((double)budget->count + 1.0);
    const double noise = gaussian ? budget->sigma * sqrt(2.0 * log_count) : budget->scale_answer * log_count;
    return (int)ceil(log2(2.0 * (bound + (plan->release.clip_answers ? 0.0 : noise)) + 1.0));
}

double fb_privacy_message_bytes(const fb_privacy_plan *plan)
{
    const int implied = plan->release.select == FB_SELECT_RANDOM || plan->release.select == FB_SELECT_PUBLIC;
    const int bits = fb_privacy_value_bits(plan);
    return implied ? (double)plan->budget.count * bits / 8.0
                   : fb_frame_bound_bytes(plan->budget.n, plan->budget.count, bits);
}

static void print_sharing(const fb_privacy_plan *plan, FILE *stream)
{
    fprintf(stream,
            "sharing: %lld of %lld parameters a hospital and round (%.4g %%); a message of %d-bit values carries at "
            "least %.0f bytes of information, the dense model %lld bytes\n",
            (long long)plan->budget.count, (long long)plan->budget.n,
            100.0 * (double)plan->budget.count / (double)plan->budget.n, fb_privacy_value_bits(plan),
            fb_privacy_message_bytes(plan), (long long)(plan->budget.n * (int64_t)sizeof(float)));
}

static void print_claim(const fb_privacy_plan *plan, FILE *stream)
{
    const char *const readers[] = {"the server and everybody else sees what a hospital sends",
                                   "the server sees the sum of what the hospitals send, nobody sees one hospital's",
                                   "the server sees every update and is trusted, everybody else sees the noised sum"};
    fprintf(stream, "privacy: unit %s, neighbours %s, trust %s: %s\n", plan->guarantee->unit,
            plan->guarantee->neighbours, fb_privacy_trust_name(plan->release.trust), readers[plan->release.trust]);
    fprintf(stream, "privacy: by %s\n", plan->guarantee->reason);
    if (plan->noise_scale != 1.0)
        fprintf(stream,
                "privacy: the noise of the options, or of their defaults, times %.6g meets "
                "privacy.epsilon_total\n",
                plan->noise_scale);
}

static void print_accountants(const fb_spent *spent, FILE *stream)
{
    fprintf(stream, "privacy: by accountant:");
    for (int i = 0; i < FB_ACCOUNTANTS; i++) {
        if (isnan(spent->by[i]))
            fprintf(stream, "%s %s -", i ? "," : "", fb_accountant_name((fb_accountant)i));
        else
            fprintf(stream, "%s %s %.6g", i ? "," : "", fb_accountant_name((fb_accountant)i), spent->by[i]);
    }
    fprintf(stream, " (-: no theorem, or above what is computed); the least is valid\n");
}

static fb_status print_spending(fb_privacy_plan *plan, FILE *stream)
{
    fb_spent one, all;
    FB_TRY(fb_privacy_plan_spent(plan, plan->worst, 1, &one));
    FB_TRY(fb_privacy_plan_spent(plan, plan->worst, plan->releases, &all));
    fprintf(stream,
            "privacy: epsilon %.6g in one round, %.6g in total after %lld rounds, at delta %g (accountant %s)\n",
            one.epsilon, all.epsilon, (long long)plan->releases, plan->delta,
            isfinite(all.epsilon) ? fb_accountant_name(all.accountant) : "none");
    print_accountants(&all, stream);
    if (all.epsilon < 0.99 * plan->asked)
        fprintf(stream, "privacy: WARNING: of the asked total %g only %.6g is used: there is no less noise than this\n",
                plan->asked, all.epsilon);
    return FB_OK;
}

/* The parts of one round's budget, and the axis of the paper's figures: epsilon of one released value. */
static void print_parts(const fb_privacy_plan *plan, FILE *stream)
{
    const fb_budget *budget = &plan->budget;
    if (plan->release.mechanism != FB_MECHANISM_LAPLACE)
        return;
    fprintf(stream,
            "privacy: a round's parts: threshold %.6g + tests %.6g + answers %.6g = %.6g per released parameter "
            "(the axis of the paper's figures)\n",
            budget->epsilon_threshold, budget->epsilon_query, budget->epsilon_answer,
            budget->epsilon_answer_per_parameter);
}

static void print_noise(const fb_privacy_plan *plan, FILE *stream)
{
    const fb_budget *budget = &plan->budget;
    const double clip = (double)budget->clip_grid;
    if (plan->dpsgd)
        fprintf(stream,
                "noise: noise_multiplier %.6g of the hospital that spends most, clip_norm %g of a patient's "
                "gradient\n",
                plan->dpsgd[plan->worst].spec.noise_multiplier, plan->dpsgd[plan->worst].spec.clip_norm);
    else if (plan->release.mechanism == FB_MECHANISM_GAUSSIAN)
        fprintf(stream, "noise: standard deviation %.6g times clip_norm %g on the %s\n",
                budget->sigma / (double)budget->clip_norm_grid, plan->release.clip_norm,
                plan->release.trust == FB_TRUST_LOCAL ? "update" : "sum of the updates");
    else if (budget->scale_query > 0.0)
        fprintf(stream, "noise: scale of a test %.4g, of an answer %.4g, in units of the clip %g\n",
                budget->scale_query / clip, budget->scale_answer / clip, plan->release.clip);
    else if (plan->release.mechanism == FB_MECHANISM_LAPLACE)
        fprintf(stream, "noise: scale of an answer %.4g, in units of the clip %g\n", budget->scale_answer / clip,
                plan->release.clip);
}

static void print_formal(const fb_privacy_plan *plan, FILE *stream)
{
    const char *assumed = NULL;
    if (plan->formal_failure)
        fprintf(stream, "privacy: formal_privacy = false: %s\n", plan->formal_failure);
    else
        fprintf(stream, "privacy: formal_privacy = true, if\n");
    for (int i = 0; (assumed = fb_privacy_plan_assumption(plan, i)) != NULL; i++)
        fprintf(stream, "privacy: - %s\n", assumed);
}

/* --- what is left of an update --- */

/* By what a hospital's noised values are multiplied in the mean: its weight and its divisor. */
static double factor_of(const fb_privacy_plan *plan, int hospital)
{
    const double steps = (double)plan->divisor[hospital];
    return plan->uniform ? steps : steps * steps;
}

static fb_expect_hospitals participants_of(const fb_privacy_plan *plan)
{
    const double part = (double)plan->participants / (double)plan->hospital_count;
    fb_expect_hospitals hospitals = {plan->participants, 0.0, 0.0};
    for (int h = 0; h < plan->hospital_count; h++) {
        hospitals.sum += part * factor_of(plan, h);
        hospitals.sum_square += part * factor_of(plan, h) * factor_of(plan, h);
    }
    return hospitals;
}

static fb_status expect_dpsgd(const fb_privacy_plan *plan, fb_expectation *out)
{
    double *factor = NULL;
    FB_TRY(FB_ALLOC(factor, plan->hospital_count, "factors"));
    for (int h = 0; h < plan->hospital_count; h++)
        factor[h] = factor_of(plan, h);
    fb_expect_dpsgd(plan->dpsgd, plan->hospital_count, factor, out);
    FB_FREE(factor);
    return FB_OK;
}

fb_status fb_privacy_expect(const fb_privacy_plan *plan, fb_trust trust, fb_expectation *out)
{
    const fb_expect_hospitals hospitals = participants_of(plan);
    return plan->dpsgd ? expect_dpsgd(plan, out)
                       : fb_expect_release(&plan->release, &plan->budget, trust, &hospitals, out);
}

/* Which trusts the mechanism could have, and what each would leave. */
static fb_status print_trusts(const fb_privacy_plan *plan, FILE *stream)
{
    const int summable = plan->release.select == FB_SELECT_ALL || plan->release.select == FB_SELECT_RANDOM ||
                         plan->release.select == FB_SELECT_PUBLIC;
    if (plan->release.mechanism != FB_MECHANISM_GAUSSIAN || !summable)
        return FB_OK;
    fprintf(stream, "expect: cosine by privacy.trust:");
    for (int trust = FB_TRUST_LOCAL; trust <= FB_TRUST_CENTRAL; trust++) {
        fb_expectation expected;
        FB_TRY(fb_privacy_expect(plan, (fb_trust)trust, &expected));
        fprintf(stream, "%s %s %.3g", trust ? "," : "", fb_privacy_trust_name((fb_trust)trust), expected.cosine);
    }
    fprintf(stream, "\n");
    return FB_OK;
}

static void print_choice(const fb_privacy_plan *plan, const fb_expectation *expected, FILE *stream)
{
    if (plan->budget.epsilon_query <= 0.0)
        return;
    fprintf(stream, "expect: selection: a coordinate at the clip is %.4g times as likely to be shared as one at 0%s\n",
            expected->choice, expected->choice < 1.1 ? ": effectively random" : "");
}

static fb_status print_expectation(const fb_privacy_plan *plan, FILE *stream)
{
    fb_expectation expected;
    FB_TRY(fb_privacy_expect(plan, plan->release.trust, &expected));
    const double rounds = (double)plan->rounds, of_run = fb_expect_rounds(expected.cosine, rounds);
    const fb_outlook outlook = fb_expect_outlook(expected.cosine, of_run);
    print_choice(plan, &expected, stream);
    fprintf(stream,
            "expect: cosine of released and true sum %.3g in a round (%.3g over %.0f rounds if the direction stayed), "
            "length %.3g times the true one; model: %s\n",
            expected.cosine, of_run, rounds, expected.stretch,
            plan->dpsgd ? "every gradient has the norm of the clip and all point the same way"
                        : "all hospitals have the same Gaussian-like update that just fits the clip");
    FB_TRY(print_trusts(plan, stream));
    fprintf(stream, "expect: %s%s (rule of thumb)\n", outlook >= FB_OUTLOOK_DRIFT ? "WARNING: " : "",
            fb_expect_sentence(outlook));
    return FB_OK;
}

fb_status fb_privacy_text(fb_privacy_plan *plan, FILE *stream)
{
    print_sharing(plan, stream);
    if (!plan->guarantee->formal) {
        fprintf(stream, "privacy: no guarantee: %s\n", plan->guarantee->reason);
        print_noise(plan, stream);
        return print_expectation(plan, stream);
    }
    print_claim(plan, stream);
    FB_TRY(print_spending(plan, stream));
    print_parts(plan, stream);
    print_noise(plan, stream);
    FB_TRY(print_expectation(plan, stream));
    print_formal(plan, stream);
    return FB_OK;
}
