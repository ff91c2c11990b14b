/* SPDX-License-Identifier: Apache-2.0
 *
 * What rank 0 tells: the plan before the first round, a line and a record per round, the totals at the end. Not
 * collective; rank 0 only.
 */
#pragma once

#include "fed/federation.h"
#include "fed/provenance.h"
#include "io/results.h"

typedef struct fb_report fb_report;

/* Everything measured in one round, beside the hospitals' reports. */
typedef struct fb_round_figures {
    fb_round_times times;
    fb_score validation, test; /* all NaN when the round was not evaluated */
    double eval_s, round_s;
} fb_round_figures;

/* The sums over the rounds so far: what a checkpoint keeps of a report. Plain data. */
typedef struct fb_report_totals {
    int64_t rounds, bytes_total, shared, sharers;
    double overhead_s, round_s, loss_mean;
    fb_score test, validation; /* the last that was evaluated */
} fb_report_totals;

fb_status fb_report_create(const fb_federation *federation, fb_report **out) FB_MUST_USE; /* federation is borrowed */
void fb_report_destroy(fb_report **report);

fb_report_totals *fb_report_sums(fb_report *report); /* to keep, and to go on from; borrowed */

/* What was spent before the first round of a run that goes on. hospitals (hospital_count). */
fb_status fb_report_restore(fb_report *report, const fb_hospital_report *hospitals) FB_MUST_USE;

/* Prints hospitals per rank, size of the model, memory, bytes and budgets: nominal, per parameter, per round and in
 * total, with unit and neighbours. */
fb_status fb_report_plan(const fb_report *report) FB_MUST_USE;

/* The record of a round for the results file, and adds it to the totals. *out is borrowed until the next call. */
fb_status fb_report_record(fb_report *report, const fb_hospital_report *hospitals, const fb_round_figures *figures,
                           const fb_round_record **out) FB_MUST_USE;

/* One line per round; round_s, what a round of this process has taken on average, gives the time left. */
void fb_report_line(const fb_report *report, int64_t round, const fb_round_figures *figures, double round_s);

/* The line RESULT key=value ..., with its line feed; to be freed by free(). */
fb_status fb_report_result(const fb_report *report, const char *model_sha256, const char *results_path,
                           char **line) FB_MUST_USE;

/* The same figures, and the privacy statement, as attributes of the results file. complete: 0 after a failure, when one
 * more round than was recorded may have been charged. */
fb_status fb_report_summary_records(const fb_report *report, int complete, const char *model_sha256,
                                    fb_records *records) FB_MUST_USE;
fb_status fb_report_privacy_records(const fb_federation *federation, fb_records *records) FB_MUST_USE;
