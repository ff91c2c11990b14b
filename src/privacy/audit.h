/* SPDX-License-Identifier: Apache-2.0
 *
 * The two-stage audit of a mechanism (Ding et al. 2018; Bichsel et al. 2021): on a pair of neighbouring inputs, stage 1
 * learns from samples a statistic of the outcome and picks an event, a half line of it; stage 2 counts that event in
 * fresh samples, each of an input that a coin chooses, and bounds epsilon from below (audit_bound.h). The confidence
 * holds for all pairs and both directions of one audit together (Bonferroni). An audit is a lower bound: it can refute
 * a claim, and proves nothing about the pairs, events and faults that it does not try.
 *
 * Statistics of an outcome, of which stage 1 takes the better one: the log likelihood ratio as if the values were
 * independent, each of them unselected, below -C, at -C, between, at 0, between, at C or above C, with the number of
 * selected ones; and the projection onto the difference of the means.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

enum {
    FB_AUDIT_COORDINATES_MAX = 32,
    FB_AUDIT_WIDTH_MAX = 2 * FB_AUDIT_COORDINATES_MAX,
    FB_AUDIT_PAIRS_MAX = 8,
    FB_AUDIT_POINTS = 201,
    FB_AUDIT_FIRST_MAX = 250000,
    FB_AUDIT_UNSELECTED = INT32_MIN,
    FB_AUDIT_VALUE_MAX = 1 << 30 /* what is beyond is shown as this: post-processing */
};

/* What is audited. */
typedef struct fb_audit_subject {
    const char *name;
    int64_t n, width;      /* coordinates of an input; values of an outcome */
    int64_t clip_grid;     /* C */
    double epsilon, delta; /* claimed for one outcome; epsilon INFINITY: nothing is claimed */
    /* One outcome (width) for dw (n); (attempt, sample) addresses the noise: no two calls share it. */
    fb_status (*run)(void *state, const float *dw, uint32_t attempt, uint32_t sample, int32_t *outcome);
    void *state; /* borrowed */
} fb_audit_subject;

/* Two neighbouring inputs: any two, when the unit is a hospital's whole data set. */
typedef struct fb_audit_pair {
    const char *name;
    float dw[2][FB_AUDIT_COORDINATES_MAX];
} fb_audit_pair;

typedef struct fb_audit_settings {
    int64_t samples; /* of stage 2, of each input of a pair on average: a coin chooses the input of each. Stage 1 takes
                      * a quarter as many, at most FB_AUDIT_FIRST_MAX */
    double confidence; /* that no bound of the audit is above the true epsilon */
    uint64_t seed;     /* of the coin */
} fb_audit_settings;

/* Of one pair. [0]: the event is likely under dw[0], rare under dw[1]; [1]: the other way round. */
typedef struct fb_audit_finding {
    const char *pair;
    double epsilon[2]; /* lower bounds */
    double rate[2][2]; /* of the event in stage 2: under the input that favours it, under the other */
    double false_positive[FB_AUDIT_POINTS], true_positive[FB_AUDIT_POINTS]; /* telling dw[0] from dw[1], direction 0 */
} fb_audit_finding;

typedef struct fb_audit_result {
    int pair_count;
    fb_audit_finding finding[FB_AUDIT_PAIRS_MAX];
    double bound; /* the largest */
    int best;     /* the pair that gave it */
    double ceiling;
    int64_t samples; /* drawn in all */
    int refuted;     /* bound > claimed epsilon */
} fb_audit_result;

/* Pairs that are hard for the mechanisms of this project, in units of `clip`; last[0..count-1] are the coordinates that
 * a sparse vector technique tests last, (n) in all. Returns how many. */
int fb_audit_make_pairs(int64_t n, int64_t count, double clip, const uint32_t *last,
                        fb_audit_pair pairs[FB_AUDIT_PAIRS_MAX]);

fb_status fb_audit_run(const fb_audit_subject *subject, const fb_audit_pair *pairs, int pair_count,
                       const fb_audit_settings *settings, fb_audit_result *out) FB_MUST_USE;
