/* SPDX-License-Identifier: Apache-2.0
 *
 * Subjects of an audit: the releases of mechanism.h on few coordinates, and broken ones that the audit has to refute
 * (or that a named test of tests/test_audit.c catches: see the table there).
 */
#pragma once

#include "privacy/audit.h"
#include "privacy/mechanism.h"

typedef struct fb_audit_release fb_audit_release;

/* fb_release of spec on n coordinates. The public stream is the same in every sample, as whoever attacks knows it. With
 * `repeat_tables` every sample calls fb_release, which makes the tables of its noise anew; without, laplace mechanisms
 * keep them and give the same values faster (tests compare). Draws are addressed by (attempt, sample) under a key of
 * `seed`. Errors: those of fb_budget_plan. */
fb_status fb_audit_release_create(const fb_release_spec *spec, int64_t n, uint64_t seed, int repeat_tables,
                                  fb_audit_release **out) FB_MUST_USE;
void fb_audit_release_destroy(fb_audit_release **release);

const fb_audit_subject *fb_audit_release_subject(const fb_audit_release *release); /* borrowed */
const fb_budget *fb_audit_release_budget(const fb_audit_release *release);         /* borrowed */

/* The coordinates in the order of the SVT's tests in its first pass, reversed: the last tested first. last (n). */
void fb_audit_release_last(const fb_audit_release *release, uint32_t *last);

typedef enum fb_audit_mutant {
    FB_MUTANT_NONE = 0, /* the sound mechanism in its plainest form: the control */
    FB_MUTANT_QUERY_WITHOUT_C,
    FB_MUTANT_NO_QUERY_NOISE,
    FB_MUTANT_NO_CUT_OFF,
    FB_MUTANT_TESTED_NOISE_RELEASED,
    FB_MUTANT_CLIP_AFTER_NOISE,
    FB_MUTANT_UNSELECTED_UNNOISED,
    FB_MUTANT_ANSWER_WITHOUT_C,
    FB_MUTANT_ANSWER_SENSITIVITY,
    FB_MUTANT_NAN_PASSES,
    FB_MUTANT_REPLAY_UNCHARGED,
    FB_MUTANT_PASS_NOISE_REUSED,
    FB_MUTANT_REPLACEMENT_SAMPLING,
    FB_MUTANT_THRESHOLD_REUSED,
    FB_MUTANTS
} fb_audit_mutant;

const char *fb_audit_mutant_name(fb_audit_mutant mutant); /* "none", "query-without-c", ... */
#define FB_MUTANT_NAMES                                                                                                \
    "none|query-without-c|no-query-noise|no-cut-off|tested-noise-released|clip-after-noise|unselected-unnoised|"       \
    "answer-without-c|answer-sensitivity|nan-passes|replay-uncharged|pass-noise-reused|replacement-sampling|"          \
    "threshold-reused"

/* `svt` with laplace answers and one fault; claims what the sound mechanism would. Outcomes of the last two faults of
 * state (replay-uncharged, threshold-reused) are two releases side by side: the first is charged once, the second
 * twice. */
typedef struct fb_audit_broken fb_audit_broken;
fb_status fb_audit_broken_create(fb_audit_mutant mutant, const fb_release_spec *spec, int64_t n, uint64_t seed,
                                 fb_audit_broken **out) FB_MUST_USE;
void fb_audit_broken_destroy(fb_audit_broken **broken);
const fb_audit_subject *fb_audit_broken_subject(const fb_audit_broken *broken);
