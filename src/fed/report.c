/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/report.h"

#include "codec/frame.h"
#include "core/log.h"
#include "core/mem.h"
#include "nn/loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct fb_report {
    const fb_federation *federation; /* borrowed */
    fb_round_record record;
    /* (hospital_count) each, owned; what record points to */
    int64_t *steps, *participated, *bytes_sent, *svt_tests;
    double *shared_fraction, *epsilon_round, *epsilon_total, *cosine, *snr, *clip_rate, *loss, *train_s, *privacy_s;
    double *epsilon_per_parameter, *overlap, *norm_scale;
    /* totals */
    int64_t rounds, bytes_total, shared, sharers;
    double overhead_s, round_s, loss_mean;
    fb_score test, validation; /* the last that was evaluated */
};

static fb_status allocate(fb_report *report)
{
    const int64_t h = report->federation->hospital_count;
    int64_t **const integers[] = {&report->steps, &report->participated, &report->bytes_sent, &report->svt_tests};
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
    fb_score_clear(&report->test);
    fb_score_clear(&report->validation);
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

/* --- the plan --- */

static void print_ranks(const fb_federation *federation)
{
    for (int rank = 0; rank < fb_comm_size(federation->comm); rank++) {
        char line[2048] = "";
        int64_t cases = 0;
        for (int h = 0; h < federation->hospital_count; h++) {
            if (federation->rank_of[h] != rank)
                continue;
            const size_t used = strlen(line);
            snprintf(line + used, sizeof line - used, " %s", fb_hospital_name(federation, h));
            cases += federation->cohort->hospitals[h].train_cases;
        }
        fb_log_info("rank %d: %lld train cases:%s", rank, (long long)cases, line);
    }
}

static void print_sharing(const fb_federation *federation)
{
    const fb_budget *budget = &federation->budget;
    const int noised = federation->release.mechanism != FB_MECHANISM_NONE;
    const int value_bits = noised ? (int)ceil(log2(2.0 * (double)budget->clip_grid + 1.0)) : 32;
    const int implied = federation->release.select == FB_SELECT_RANDOM;
    const double bound_bytes =
        implied ? (double)budget->count * value_bits / 8.0 : fb_frame_bound_bytes(budget->n, budget->count, value_bits);
    fb_log_info("sharing: %lld of %lld parameters (nominal fraction %g); a message of %d-bit values carries at least "
                "%.0f bytes of information, the dense model %lld bytes",
                (long long)budget->count, (long long)budget->n, federation->config->sharing_fraction, value_bits,
                bound_bytes, (long long)(budget->n * (int64_t)sizeof(float)));
}

static void print_privacy(const fb_federation *federation)
{
    const fb_budget *budget = &federation->budget;
    if (!federation->guarantee->formal) {
        fb_log_info("privacy: no guarantee: %s", federation->guarantee->reason);
        return;
    }
    const double rounds = (double)federation->config->federation_rounds;
    fb_log_info("privacy: epsilon per hospital and round %.6g = threshold %.6g + tests %.6g + answers %.6g "
                "(%.6g per released parameter)",
                budget->epsilon_round, budget->epsilon_threshold, budget->epsilon_query, budget->epsilon_answer,
                budget->epsilon_answer_per_parameter);
    fb_log_info("privacy: epsilon per hospital over %.0f rounds %.6g (basic composition), delta %.2g; unit: %s, %s",
                rounds, budget->epsilon_round * rounds, fmin(1.0, budget->delta_round * rounds),
                federation->guarantee->unit, federation->guarantee->neighbours);
    fb_log_info("privacy: noise scale of a test %.3g, of an answer %.3g, in units of the clip %.3g",
                budget->scale_query / (double)budget->clip_grid, budget->scale_answer / (double)budget->clip_grid,
                federation->release.clip);
    if (!federation->formal_privacy)
        fb_log_info("privacy: the noise comes from the seed: this run simulates the mechanism, formal_privacy = false");
}

void fb_report_plan(const fb_report *report)
{
    const fb_federation *federation = report->federation;
    const fb_config *config = federation->config;
    const double mib = 1048576.0;
    int64_t cases = 0, steps = 0;
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
                (double)fb_trainer_activation_bytes(federation->trainer) / mib, (long long)config->data_patch[0],
                (long long)config->data_patch[1], (long long)config->data_patch[2], federation->ops->name);
    fb_log_info("training: %lld of %lld parameters (train.trainable = %s) by %s", (long long)federation->subset->count,
                (long long)federation->params->count, config->train_trainable[0] ? config->train_trainable : "all",
                config->train_optimizer == FB_OPTIMIZER_SGD ? "plain gradient descent" : "Adam");
    if (config->run_mode != FB_MODE_FEDERATED)
        return;
    print_sharing(federation);
    print_privacy(federation);
}

/* --- a round --- */

static void take_hospital(fb_report *report, int h, const fb_hospital_report *hospital)
{
    const fb_federation *federation = report->federation;
    report->steps[h] = hospital->steps;
    report->participated[h] = hospital->participated;
    report->bytes_sent[h] = hospital->bytes_sent;
    report->svt_tests[h] = hospital->svt_tests;
    report->shared_fraction[h] = (double)hospital->shared / (double)federation->subset->count;
    report->epsilon_round[h] = !federation->guarantee->formal ? INFINITY
                               : hospital->participated       ? federation->budget.epsilon_round
                                                              : 0.0;
    report->epsilon_total[h] = hospital->epsilon_total;
    report->cosine[h] = hospital->update_cosine;
    report->snr[h] = hospital->update_snr;
    report->clip_rate[h] = hospital->clip_rate;
    report->loss[h] = hospital->train_loss;
    report->train_s[h] = hospital->train_seconds;
    report->privacy_s[h] = hospital->privacy_seconds;
    report->overlap[h] = hospital->selection_overlap;
    report->norm_scale[h] = hospital->norm_scale;
    report->epsilon_per_parameter[h] =
        hospital->shared > 0 ? report->epsilon_round[h] / (double)hospital->shared : report->epsilon_round[h];
}

static void add_totals(fb_report *report, const fb_hospital_report *hospitals, const fb_round_figures *figures)
{
    double loss = 0.0, steps = 0.0;
    for (int h = 0; h < report->federation->hospital_count; h++) {
        if (!hospitals[h].participated)
            continue;
        report->bytes_total += hospitals[h].bytes_sent;
        report->shared += hospitals[h].shared;
        report->sharers++;
        loss += (double)hospitals[h].steps * hospitals[h].train_loss;
        steps += (double)hospitals[h].steps;
    }
    report->loss_mean = loss / steps;
    report->rounds++;
    report->round_s += figures->round_s;
    report->overhead_s += figures->round_s - figures->times.train_s - figures->eval_s;
    if (!isnan(figures->test.mean))
        report->test = figures->test;
    if (!isnan(figures->validation.mean))
        report->validation = figures->validation;
}

const fb_round_record *fb_report_record(fb_report *report, const fb_hospital_report *hospitals,
                                        const fb_round_figures *figures)
{
    fb_round_record *record = &report->record;
    double slowest = 0.0;
    for (int h = 0; h < report->federation->hospital_count; h++) {
        take_hospital(report, h, &hospitals[h]);
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
    record->bytes_dense = report->federation->subset->count * (int64_t)sizeof(float);
    add_totals(report, hospitals, figures);
    return record;
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

/* The largest spent by a hospital. */
static double most_spent(const fb_report *report)
{
    double most = 0.0;
    for (int h = 0; h < report->federation->hospital_count; h++)
        most = fmax(most, report->epsilon_total[h]);
    return most;
}

void fb_report_line(const fb_report *report, int64_t round, const fb_round_figures *figures, double elapsed_s)
{
    const fb_federation *federation = report->federation;
    const int64_t rounds = federation->config->federation_rounds;
    char score[160] = "not evaluated", spent[64] = "";
    if (!isnan(figures->test.mean))
        snprintf(score, sizeof score, "dice %.4f (tc %.3f wt %.3f et %.3f)", figures->test.mean,
                 figures->test.dice[FB_REGION_TC], figures->test.dice[FB_REGION_WT], figures->test.dice[FB_REGION_ET]);
    else if (!isnan(figures->validation.mean))
        snprintf(score, sizeof score, "validation dice %.4f", figures->validation.mean);
    if (federation->guarantee->formal)
        snprintf(spent, sizeof spent, ", epsilon %.4g", most_spent(report));
    fb_log_info("round %lld/%lld: loss %.4f, %s%s, %.2f s (%.2f evaluation), %.0f s left", (long long)round + 1,
                (long long)rounds, report->loss_mean, score, spent, figures->round_s, figures->eval_s,
                elapsed_s / (double)(round + 1) * (double)(rounds - round - 1));
    hospital_lines(report);
}

/* --- the end --- */

/* "none" without a guarantee. */
static void spent_text(const fb_report *report, int complete, char text[64])
{
    const fb_federation *federation = report->federation;
    if (!federation->guarantee->formal)
        snprintf(text, 64, "none");
    else if (complete)
        snprintf(text, 64, "%.9g", most_spent(report));
    else
        snprintf(text, 64, "at most %.9g", most_spent(report) + federation->budget.epsilon_round);
}

static const char *accountant(const fb_report *report)
{
    return report->federation->guarantee->formal ? "basic" : "none";
}

static double delta_total(const fb_report *report, int64_t rounds)
{
    return fmin(1.0, report->federation->budget.delta_round * (double)rounds);
}

static double mean_share(const fb_report *report)
{
    return (double)report->shared / (double)report->sharers / (double)report->federation->subset->count;
}

void fb_report_result(const fb_report *report, const char *model_sha256, const char *results_path)
{
    char spent[64];
    spent_text(report, 1, spent);
    printf("RESULT rounds=%lld dice_mean=%.6f dice_tc=%.6f dice_wt=%.6f dice_et=%.6f dice_validation_mean=%.6f "
           "shared_fraction=%.6f epsilon_total=%s delta=%.3g unit=%s neighbours=%s accountant=%s formal_privacy=%s "
           "bytes_sent=%lld overhead_fraction=%.4f model_sha256=%s results=%s\n",
           (long long)report->rounds, report->test.mean, report->test.dice[FB_REGION_TC],
           report->test.dice[FB_REGION_WT], report->test.dice[FB_REGION_ET], report->validation.mean,
           mean_share(report), spent, delta_total(report, report->rounds), report->federation->guarantee->unit,
           report->federation->guarantee->neighbours, accountant(report),
           report->federation->formal_privacy ? "true" : "false", (long long)report->bytes_total,
           report->overhead_s / report->round_s, model_sha256, results_path);
    fflush(stdout);
}

fb_status fb_report_summary_records(const fb_report *report, int complete, const char *model_sha256,
                                    fb_records *records)
{
    char spent[64];
    spent_text(report, complete, spent);
    FB_TRY(fb_records_add(records, "model_sha256", "%s", complete ? model_sha256 : "none"));
    FB_TRY(fb_records_add(records, "epsilon_spent", "%s", spent));
    FB_TRY(fb_records_add(records, "delta_spent", "%.3g", delta_total(report, report->rounds + !complete)));
    FB_TRY(fb_records_add(records, "bytes_sent_total", "%lld", (long long)report->bytes_total));
    return fb_records_add(records, "overhead_fraction", "%.6f", report->overhead_s / report->round_s);
}

fb_status fb_report_privacy_records(const fb_federation *federation, fb_records *records)
{
    const fb_budget *budget = &federation->budget;
    FB_TRY(fb_records_add(records, "formal_privacy", "%s", federation->formal_privacy ? "true" : "false"));
    FB_TRY(fb_records_add(records, "privacy_unit", "%s", federation->guarantee->unit));
    FB_TRY(fb_records_add(records, "privacy_neighbours", "%s", federation->guarantee->neighbours));
    FB_TRY(fb_records_add(records, "privacy_reason", "%s", federation->guarantee->reason));
    FB_TRY(fb_records_add(records, "privacy_accountant", "%s", federation->guarantee->formal ? "basic" : "none"));
    if (!federation->guarantee->formal)
        return FB_OK;
    FB_TRY(fb_records_add(records, "noise_run_nonce", "%016llx", (unsigned long long)federation->run_nonce));
    FB_TRY(fb_records_add(records, "epsilon_round", "%.9g", budget->epsilon_round));
    FB_TRY(fb_records_add(records, "epsilon_round_threshold", "%.9g", budget->epsilon_threshold));
    FB_TRY(fb_records_add(records, "epsilon_round_query", "%.9g", budget->epsilon_query));
    FB_TRY(fb_records_add(records, "epsilon_round_answer", "%.9g", budget->epsilon_answer));
    FB_TRY(fb_records_add(records, "epsilon_answer_per_parameter", "%.9g", budget->epsilon_answer_per_parameter));
    FB_TRY(fb_records_add(records, "delta_round", "%.3g", budget->delta_round));
    FB_TRY(fb_records_add(records, "public_constants", "steps, hospital weights, sharing fraction, clip, threshold"));
    return fb_records_add(records, "grid_log2", "%d", budget->grid_log2);
}
