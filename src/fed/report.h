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

fb_status fb_report_create(const fb_federation *federation, fb_report **out) FB_MUST_USE; /* federation is borrowed */
void fb_report_destroy(fb_report **report);

/* Prints hospitals per rank, size of the model, memory, bytes and budgets: nominal, per parameter, per round and in
 * total, with unit and neighbours. The federation may be a described one. */
fb_status fb_report_plan(const fb_federation *federation) FB_MUST_USE;

/* The record of a round for the results file, and adds it to the totals. *out is borrowed until the next call. */
fb_status fb_report_record(fb_report *report, const fb_hospital_report *hospitals, const fb_round_figures *figures,
                           const fb_round_record **out) FB_MUST_USE;

/* One line per round; elapsed_s since the start of the run gives the time left. */
void fb_report_line(const fb_report *report, int64_t round, const fb_round_figures *figures, double elapsed_s);

/* The line RESULT key=value ... on standard output. */
fb_status fb_report_result(const fb_report *report, const char *model_sha256, const char *results_path) FB_MUST_USE;

/* The same figures, and the privacy statement, as attributes of the results file. complete: 0 after a failure, when one
 * more round than was recorded may have been charged. */
fb_status fb_report_summary_records(const fb_report *report, int complete, const char *model_sha256,
                                    fb_records *records) FB_MUST_USE;
fb_status fb_report_privacy_records(const fb_federation *federation, fb_records *records) FB_MUST_USE;
