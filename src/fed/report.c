/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/report.h"

#include "core/log.h"
#include "core/mem.h"
#include "fed/privacy_check.h"
#include "fed/privacy_text.h"
#include "nn/loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fb_report {
    const fb_federation *federation; /* borrowed */
    fb_round_record record;
    /* (hospital_count) each, owned; what record points to */
    int64_t *steps, *participated, *bytes_sent, *svt_tests, *releases;
    double *shared_fraction, *epsilon_round, *epsilon_total, *cosine, *snr, *clip_rate, *loss, *train_s, *privacy_s;
    double *epsilon_per_parameter, *overlap, *norm_scale;
    fb_report_totals sums;
};

static fb_status allocate(fb_report *report)
{
    const int64_t h = report->federation->hospital_count;
    int64_t **const integers[] = {&report->steps, &report->participated, &report->bytes_sent, &report->svt_tests,
                                  &report->releases};
    double **const reals[] = {&report->shared_fraction,
                              &report->epsilon_round,
                              &report->epsilon_total,
                              &report->cosine,
                              &report->snr,
                              &report->clip_rate,
                              &report->loss,
                              &report->train_s,
                              &report->privacy_s,
                              &report->epsilon_per_parameter,
                              &report->overlap,
                              &report->norm_scale};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        FB_TRY(FB_ALLOC(*integers[i], h, "report"));
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        FB_TRY(FB_ALLOC(*reals[i], h, "report"));
    return FB_OK;
}

static void point_record(fb_report *report)
{
    fb_round_record *record = &report->record;
    record->steps = report->steps;
    record->participated = report->participated;
    record->bytes_sent = report->bytes_sent;
    record->svt_tests = report->svt_tests;
    record->shared_fraction_achieved = report->shared_fraction;
    record->epsilon_round = report->epsilon_round;
    record->epsilon_total = report->epsilon_total;
    record->update_cosine = report->cosine;
    record->update_snr = report->snr;
    record->clip_rate = report->clip_rate;
    record->train_loss = report->loss;
    record->train_seconds = report->train_s;
    record->privacy_seconds = report->privacy_s;
    record->epsilon_per_parameter = report->epsilon_per_parameter;
    record->selection_overlap = report->overlap;
    record->norm_scale = report->norm_scale;
}

fb_status fb_report_create(const fb_federation *federation, fb_report **out)
{
    fb_report *report = NULL;
    FB_TRY(FB_ALLOC(report, 1, "report"));
    report->federation = federation;
    const fb_status status = allocate(report);
    if (status != FB_OK) {
        fb_report_destroy(&report);
        return status;
    }
    point_record(report);
    fb_score_clear(&report->sums.test);
    fb_score_clear(&report->sums.validation);
    *out = report;
    return FB_OK;
}

void fb_report_destroy(fb_report **report)
{
    fb_report *r = *report;
    if (r) {
        FB_FREE(r->steps);
        FB_FREE(r->participated);
        FB_FREE(r->bytes_sent);
        FB_FREE(r->svt_tests);
        FB_FREE(r->releases);
        FB_FREE(r->shared_fraction);
        FB_FREE(r->epsilon_round);
        FB_FREE(r->epsilon_total);
        FB_FREE(r->cosine);
        FB_FREE(r->snr);
        FB_FREE(r->clip_rate);
        FB_FREE(r->loss);
        FB_FREE(r->train_s);
        FB_FREE(r->privacy_s);
        FB_FREE(r->epsilon_per_parameter);
        FB_FREE(r->overlap);
        FB_FREE(r->norm_scale);
    }
    FB_FREE(*report);
}

fb_report_totals *fb_report_sums(fb_report *report)
{
    return &report->sums;
}

/* --- the plan --- */

static void print_ranks(const fb_federation *federation)
{
    for (int rank = 0; rank < federation->ranks; rank++) {
        char line[2048] = "";
        int64_t cases = 0, steps = 0;
        for (int h = 0; h < federation->hospital_count; h++) {
            if (federation->rank_of[h] != rank)
                continue;
            const size_t used = strlen(line);
            snprintf(line + used, sizeof line - used, " %s", fb_hospital_name(federation, h));
            cases += federation->cohort->hospitals[h].train_cases;
            steps += federation->steps[h];
        }
        fb_log_info("rank %d: %lld train cases, %lld steps a round:%s", rank, (long long)cases, (long long)steps, line);
    }
}

static void print_levels(const fb_federation *federation, const fb_trainer_size *size)
{
    const int64_t *patch = federation->config->data_patch;
    for (int level = 0; level < federation->net.levels; level++)
        fb_log_verbose("  level %d: %lldx%lldx%lld, %lld channels, %.1f MiB of activations", level,
                       (long long)patch[0] >> level, (long long)patch[1] >> level, (long long)patch[2] >> level,
                       (long long)federation->net.filters << level, (double)size->level_bytes[level] / 1048576.0);
}

/* Each line of the plan's text is a message of the log. Mode local sends nothing: there only the guarantee counts. */
static fb_status print_privacy(const fb_federation *federation)
{
    char *text = NULL;
    size_t size_bytes = 0;
    FILE *stream = open_memstream(&text, &size_bytes);
    if (!stream)
        return FB_FAIL("no memory for the plan's text");
    const int federated = federation->config->run_mode == FB_MODE_FEDERATED;
    fb_status status = FB_OK;
    fb_privacy_check_unused(federation->config, stream);
    if (federated || federation->privacy->dpsgd)
        status = fb_privacy_text(federation->privacy, stream);
    status = fb_error_first(status, fb_text_close(stream, &text, "the plan's text"));
    for (char *line = text, *end; status == FB_OK && (end = strchr(line, '\n')) != NULL; line = end + 1)
        if (federated || strncmp(line, "privacy:", 8) == 0 || strncmp(line, "noise:", 6) == 0)
            fb_log_info("%.*s", (int)(end - line), line);
    free(text);
    return status;
}

/* Every message of the run stays on disk, the server's sums too. */
static void print_outbox(const fb_federation *federation)
{
    const fb_privacy_plan *plan = federation->privacy;
    const double messages = (double)plan->rounds * (plan->participants + (plan->release.trust == FB_TRUST_CENTRAL));
    if (plan->guarantee->mechanism != FB_MECHANISM_NONE)
        fb_log_info("outbox: keeps the %.0f messages of the run, at least %.1f MiB, in %s/outbox", messages,
                    messages * fb_privacy_message_bytes(plan) / 1048576.0, federation->config->run_output);
}

fb_status fb_report_plan(const fb_federation *federation)
{
    const fb_config *config = federation->config;
    const double mib = 1048576.0;
    int64_t cases = 0, steps = 0;
    fb_trainer_size size;
    FB_TRY(fb_trainer_count(config, &federation->net, federation->params, federation->subset, federation->ops, &size));
    for (int h = 0; h < federation->hospital_count; h++) {
        cases += federation->cohort->hospitals[h].train_cases;
        steps += federation->steps[h];
    }
    print_ranks(federation);
    fb_log_info("data: %d hospitals, %lld train cases, %lld test cases; a round is %lld steps",
                federation->hospital_count, (long long)cases, (long long)federation->cohort->test_cases,
                (long long)steps);
    fb_log_info("model: %lld parameters (%.1f MiB), %.0f MiB of activations, patch %lldx%lldx%lld, %s",
                (long long)federation->params->count, (double)federation->params->count * sizeof(float) / mib,
                (double)size.activation_bytes / mib, (long long)config->data_patch[0], (long long)config->data_patch[1],
                (long long)config->data_patch[2], federation->ops->name);
    print_levels(federation, &size);
    fb_log_info("training: %lld of %lld parameters (train.trainable = %s) by %s", (long long)federation->subset->count,
                (long long)federation->params->count, config->train_trainable[0] ? config->train_trainable : "all",
                config->train_optimizer == FB_OPTIMIZER_SGD ? "plain gradient descent" : "Adam");
    if (config->run_mode == FB_MODE_FEDERATED)
        print_outbox(federation);
    return print_privacy(federation);
}

/* --- a round --- */

/* What the hospital has spent, and how much of it in this round. */
static fb_status take_spending(fb_report *report, int h, const fb_hospital_report *hospital)
{
    fb_privacy_plan *plan = report->federation->privacy;
    fb_spent before, after;
    const int64_t releases = hospital->releases;
    FB_TRY(fb_privacy_plan_spent(plan, h, releases, &after));
    report->releases[h] = hospital->releases_all > releases ? hospital->releases_all : releases;
    report->epsilon_total[h] = after.epsilon;
    report->epsilon_round[h] = report->epsilon_per_parameter[h] = plan->guarantee->formal ? 0.0 : INFINITY;
    if (!plan->guarantee->formal || !hospital->participated)
        return FB_OK;
    FB_TRY(fb_privacy_plan_spent(plan, h, releases - hospital->releases_round, &before));
    report->epsilon_round[h] = after.epsilon - before.epsilon;
    const double nominal =
        plan->release.mechanism == FB_MECHANISM_LAPLACE ? plan->budget.epsilon_round : report->epsilon_round[h];
    if (hospital->shared > 0)
        report->epsilon_per_parameter[h] = nominal / (double)hospital->shared;
    return FB_OK;
}

fb_status fb_report_restore(fb_report *report, const fb_hospital_report *hospitals)
{
    for (int h = 0; h < report->federation->hospital_count; h++)
        FB_TRY(take_spending(report, h, &hospitals[h]));
    return FB_OK;
}

static fb_status take_hospital(fb_report *report, int h, const fb_hospital_report *hospital)
{
    const fb_federation *federation = report->federation;
    report->steps[h] = hospital->steps;
    report->participated[h] = hospital->participated;
    report->bytes_sent[h] = hospital->bytes_sent;
    report->svt_tests[h] = hospital->svt_tests;
    report->shared_fraction[h] = (double)hospital->shared / (double)federation->subset->count;
    report->cosine[h] = hospital->update_cosine;
    report->snr[h] = hospital->update_snr;
    report->clip_rate[h] = hospital->clip_rate;
    report->loss[h] = hospital->train_loss;
    report->train_s[h] = hospital->train_seconds;
    report->privacy_s[h] = hospital->privacy_seconds;
    report->overlap[h] = hospital->selection_overlap;
    report->norm_scale[h] = hospital->norm_scale;
    return take_spending(report, h, hospital);
}

static void add_totals(fb_report *report, const fb_hospital_report *hospitals, const fb_round_figures *figures)
{
    double loss = 0.0, steps = 0.0;
    for (int h = 0; h < report->federation->hospital_count; h++) {
        if (!hospitals[h].participated)
            continue;
        report->sums.bytes_total += hospitals[h].bytes_sent;
        report->sums.shared += hospitals[h].shared;
        report->sums.sharers++;
        if (isnan(hospitals[h].train_loss)) /* dpsgd, and every sample was empty */
            continue;
        loss += (double)hospitals[h].steps * hospitals[h].train_loss;
        steps += (double)hospitals[h].steps;
    }
    report->sums.loss_mean = loss / steps;
    report->sums.rounds++;
    report->sums.round_s += figures->round_s;
    report->sums.overhead_s += figures->round_s - figures->times.train_s - figures->eval_s;
    if (!isnan(figures->test.mean))
        report->sums.test = figures->test;
    if (!isnan(figures->validation.mean))
        report->sums.validation = figures->validation;
}

fb_status fb_report_record(fb_report *report, const fb_hospital_report *hospitals, const fb_round_figures *figures,
                           const fb_round_record **out)
{
    fb_round_record *record = &report->record;
    double slowest = 0.0;
    for (int h = 0; h < report->federation->hospital_count; h++) {
        FB_TRY(take_hospital(report, h, &hospitals[h]));
        slowest = fmax(slowest, hospitals[h].train_seconds + hospitals[h].privacy_seconds);
    }
    for (int r = 0; r < FB_REGIONS; r++) {
        record->dice[r] = figures->test.dice[r];
        record->dice_cases[r] = figures->test.cases[r];
        record->dice_validation[r] = figures->validation.dice[r];
    }
    record->dice_mean = figures->test.mean;
    record->dice_validation_mean = figures->validation.mean;
    record->comm_seconds = figures->times.comm_s;
    record->eval_seconds = figures->eval_s;
    record->train_seconds_max = figures->times.train_s;
    record->round_seconds = figures->round_s;
    record->simulated_seconds = slowest + figures->times.comm_s;
    record->sum_cosine = report->federation->sum_cosine;
    record->bytes_dense = report->federation->subset->count * (int64_t)sizeof(float);
    add_totals(report, hospitals, figures);
    *out = record;
    return FB_OK;
}

static void hospital_lines(const fb_report *report)
{
    for (int h = 0; h < report->federation->hospital_count; h++)
        if (report->participated[h])
            fb_log_verbose(
                "  %s: %lld steps, loss %.4f, %.2f s; shared %.4g of the model, %lld bytes, cosine %.3f, %.3f s",
                fb_hospital_name(report->federation, h), (long long)report->steps[h], report->loss[h],
                report->train_s[h], report->shared_fraction[h], (long long)report->bytes_sent[h], report->cosine[h],
                report->privacy_s[h]);
}

/* The hospital that spent most. */
static int most_spent(const fb_report *report)
{
    int most = 0;
    for (int h = 1; h < report->federation->hospital_count; h++)
        if (report->epsilon_total[h] > report->epsilon_total[most])
            most = h;
    return most;
}

void fb_report_line(const fb_report *report, int64_t round, const fb_round_figures *figures, double round_s)
{
    const fb_federation *federation = report->federation;
    const int64_t rounds = federation->config->federation_rounds;
    char score[160] = "not evaluated", spent[64] = "";
    if (!isnan(figures->test.mean))
        snprintf(score, sizeof score, "dice %.4f (tc %.3f wt %.3f et %.3f)", figures->test.mean,
                 figures->test.dice[FB_REGION_TC], figures->test.dice[FB_REGION_WT], figures->test.dice[FB_REGION_ET]);
    else if (!isnan(figures->validation.mean))
        snprintf(score, sizeof score, "validation dice %.4f", figures->validation.mean);
    if (federation->privacy->guarantee->formal)
        snprintf(spent, sizeof spent, ", epsilon %.4g", report->epsilon_total[most_spent(report)]);
    fb_log_info("round %lld/%lld: loss %.4f, %s%s, %.2f s (%.2f evaluation), %.0f s left", (long long)round + 1,
                (long long)rounds, report->sums.loss_mean, score, spent, figures->round_s, figures->eval_s,
                round_s * (double)(rounds - round - 1));
    hospital_lines(report);
}

/* --- the end --- */

/* What the run has spent, as text: "none" without a guarantee. */
typedef struct spending {
    char epsilon[64], delta[32], per_parameter[32];
    const char *accountant;
} spending;

/* complete: 0 after a failure, when one more release than was recorded may have been charged. */
static fb_status describe_spending(const fb_report *report, int complete, spending *out)
{
    fb_privacy_plan *plan = report->federation->privacy;
    fb_spent spent = {.epsilon = -1.0}, one;
    *out = (spending){"none", "0", "none", "none"};
    if (!plan->guarantee->formal)
        return FB_OK;
    for (int h = 0; h < report->federation->hospital_count; h++) { /* by all that was ever charged */
        FB_TRY(fb_privacy_plan_spent(plan, h, report->releases[h] + !complete, &one));
        if (one.epsilon > spent.epsilon)
            spent = one;
    }
    snprintf(out->epsilon, sizeof out->epsilon, "%s%.9g", complete ? "" : "at most ", spent.epsilon);
    snprintf(out->delta, sizeof out->delta, "%.3g", plan->delta);
    if (plan->release.mechanism == FB_MECHANISM_LAPLACE)
        snprintf(out->per_parameter, sizeof out->per_parameter, "%.9g", plan->budget.epsilon_answer_per_parameter);
    out->accountant = isfinite(spent.epsilon) ? fb_accountant_name(spent.accountant) : "none";
    return FB_OK;
}

static double mean_share(const fb_report *report)
{
    return (double)report->sums.shared / (double)report->sums.sharers / (double)report->federation->subset->count;
}

/* One word, for the RESULT line. */
static const char *neighbours(const fb_privacy_plan *plan)
{
    const char *const names[] = {"replace-one", "add-remove"};
    return plan->guarantee->formal ? names[plan->relation] : "none";
}

fb_status fb_report_result(const fb_report *report, const char *model_sha256, const char *results_path, char **line)
{
    const fb_privacy_plan *plan = report->federation->privacy;
    spending spent;
    size_t size_bytes = 0;
    FB_TRY(describe_spending(report, 1, &spent));
    FILE *stream = open_memstream(line, &size_bytes);
    if (!stream)
        return FB_FAIL("no memory for the line RESULT");
    fprintf(stream,
            "RESULT rounds=%lld dice_mean=%.6f dice_tc=%.6f dice_wt=%.6f dice_et=%.6f dice_validation_mean=%.6f "
            "shared_fraction=%.6f epsilon_total=%s epsilon_per_parameter=%s delta=%s unit=%s neighbours=%s trust=%s "
            "accountant=%s formal_privacy=%s bytes_sent=%lld overhead_fraction=%.4f model_sha256=%s results=%s\n",
            (long long)report->sums.rounds, report->sums.test.mean, report->sums.test.dice[FB_REGION_TC],
            report->sums.test.dice[FB_REGION_WT], report->sums.test.dice[FB_REGION_ET], report->sums.validation.mean,
            mean_share(report), spent.epsilon, spent.per_parameter, spent.delta, plan->guarantee->unit,
            neighbours(plan), fb_privacy_trust_name(plan->release.trust), spent.accountant,
            plan->formal_failure ? "false" : "true", (long long)report->sums.bytes_total,
            report->sums.overhead_s / report->sums.round_s, model_sha256, results_path);
    return fb_text_close(stream, line, "line RESULT");
}

fb_status fb_report_summary_records(const fb_report *report, int complete, const char *model_sha256,
                                    fb_records *records)
{
    spending spent;
    FB_TRY(describe_spending(report, complete, &spent));
    FB_TRY(fb_records_add(records, "model_sha256", "%s", complete ? model_sha256 : "none"));
    FB_TRY(fb_records_add(records, "epsilon_spent", "%s", spent.epsilon));
    FB_TRY(fb_records_add(records, "delta_spent", "%s", spent.delta));
    FB_TRY(fb_records_add(records, "epsilon_accountant", "%s", spent.accountant));
    FB_TRY(fb_records_add(records, "bytes_sent_total", "%lld", (long long)report->sums.bytes_total));
    return fb_records_add(records, "overhead_fraction", "%.6f", report->sums.overhead_s / report->sums.round_s);
}

static fb_status add_laplace(const fb_budget *budget, fb_records *records)
{
    FB_TRY(fb_records_add(records, "epsilon_round_threshold", "%.9g", budget->epsilon_threshold));
    FB_TRY(fb_records_add(records, "epsilon_round_query", "%.9g", budget->epsilon_query));
    FB_TRY(fb_records_add(records, "epsilon_round_answer", "%.9g", budget->epsilon_answer));
    return fb_records_add(records, "epsilon_answer_per_parameter", "%.9g", budget->epsilon_answer_per_parameter);
}

/* Per round and in total by every accountant, for the hospital that will have spent most. */
static fb_status add_budget(const fb_federation *federation, fb_records *records)
{
    fb_privacy_plan *plan = federation->privacy;
    fb_spent one, all;
    char name[64];
    FB_TRY(fb_privacy_plan_spent(plan, plan->worst, 1, &one));
    FB_TRY(fb_privacy_plan_spent(plan, plan->worst, plan->releases, &all));
    FB_TRY(fb_records_add(records, "privacy_accountant", "%s", fb_accountant_name(all.accountant)));
    FB_TRY(fb_records_add(records, "epsilon_round", "%.9g", one.epsilon));
    FB_TRY(fb_records_add(records, "epsilon_planned", "%.9g", all.epsilon));
    for (int i = 0; i < FB_ACCOUNTANTS; i++) {
        snprintf(name, sizeof name, "epsilon_planned_%s", fb_accountant_name((fb_accountant)i));
        if (!isnan(all.by[i]))
            FB_TRY(fb_records_add(records, name, "%.9g", all.by[i]));
    }
    FB_TRY(fb_records_add(records, "delta", "%.9g", plan->delta));
    return plan->release.mechanism == FB_MECHANISM_LAPLACE ? add_laplace(&plan->budget, records) : FB_OK;
}

static fb_status add_noise(const fb_privacy_plan *plan, fb_records *records)
{
    const int dpsgd = plan->dpsgd != NULL;
    char name[64];
    FB_TRY(fb_records_add(records, "noise_scale_factor", "%.9g", plan->noise_scale));
    for (int h = 0; dpsgd && h < plan->hospital_count; h++) {
        snprintf(name, sizeof name, "noise_multiplier_hospital_%02d", h);
        FB_TRY(fb_records_add(records, name, "%.9g", plan->dpsgd[h].spec.noise_multiplier));
    }
    if (plan->release.mechanism == FB_MECHANISM_GAUSSIAN)
        FB_TRY(fb_records_add(records, "noise_multiplier", "%.9g", plan->release.noise_multiplier));
    return fb_records_add(records, "grid_log2", "%d", dpsgd ? plan->dpsgd[0].grid_log2 : plan->budget.grid_log2);
}

static fb_status add_assumptions(const fb_privacy_plan *plan, fb_records *records)
{
    char name[64];
    const char *assumed = NULL;
    for (int i = 0; (assumed = fb_privacy_plan_assumption(plan, i)) != NULL; i++) {
        snprintf(name, sizeof name, "privacy_assumption_%d", i + 1);
        FB_TRY(fb_records_add(records, name, "%s", assumed));
    }
    return FB_OK;
}

fb_status fb_report_privacy_records(const fb_federation *federation, fb_records *records)
{
    const fb_privacy_plan *plan = federation->privacy;
    FB_TRY(fb_records_add(records, "formal_privacy", "%s", plan->formal_failure ? "false" : "true"));
    if (plan->formal_failure)
        FB_TRY(fb_records_add(records, "formal_failure", "%s", plan->formal_failure));
    FB_TRY(fb_records_add(records, "privacy_unit", "%s", plan->guarantee->unit));
    FB_TRY(fb_records_add(records, "privacy_neighbours", "%s", plan->guarantee->neighbours));
    FB_TRY(fb_records_add(records, "privacy_trust", "%s", fb_privacy_trust_name(plan->release.trust)));
    FB_TRY(fb_records_add(records, "privacy_reason", "%s", plan->guarantee->reason));
    FB_TRY(add_assumptions(plan, records));
    if (!plan->guarantee->formal)
        return fb_records_add(records, "privacy_accountant", "none");
    FB_TRY(fb_records_add(records, "noise_run_nonce", "%016llx", (unsigned long long)federation->run_nonce));
    FB_TRY(add_budget(federation, records));
    return add_noise(plan, records);
}
