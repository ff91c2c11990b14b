/* SPDX-License-Identifier: Apache-2.0
 *
 * Training-level audits with canaries. An audit is a lower bound and proves nothing about what it does not try.
 *
 * Patient level (dpsgd), in one run (Steinke, Nasr & Jagielski 2023): m canaries are patients whose gradients are
 * orthogonal and as long as the clip (one coordinate each); a fair coin puts each in or out; T steps of
 * fb_dpsgd_sample, add and finish run over those that are in. A canary's score is the sum of the released gradients
 * along its own. The highest scores are guessed to be in, the lowest out, a tenth of the canaries each, and the others
 * are abstained from; how many guesses are right bounds epsilon (audit_bound.h, add/remove). At most
 * fb_audit_one_run_epsilon(m, m, m), the ceiling.
 *
 * Hospital level (gaussian), in one shot per sample (after Andrew et al. 2024): the hospital's update is a random
 * direction whose shared part is as long as the L2 clip, or its opposite, by a fair coin: replace-one neighbours. The
 * score is the cosine of released update and direction, and the event of the audit is fixed before, on other samples.
 */
#pragma once

#include "privacy/audit.h"
#include "privacy/dpsgd.h"
#include "privacy/mechanism.h"

typedef enum fb_canary_fault {
    FB_CANARY_SOUND = 0,
    FB_CANARY_NO_NOISE,  /* the sum is released as it is */
    FB_CANARY_NO_CLIP,   /* gradients ten times the clip are added unclipped */
    FB_CANARY_WRONG_RATE /* every patient in every step, noise and claim for the sampling rate */
} fb_canary_fault;

typedef struct fb_canary_spec {
    int64_t canaries; /* m: cases of the hospital and parameters */
    double rate;      /* probability of a patient to be in a step */
    double noise_multiplier;
    int64_t epochs; /* round(epochs / rate) steps */
    fb_canary_fault fault;
    uint64_t seed;
    double confidence;
    double delta; /* at which epsilon is claimed */
} fb_canary_spec;

typedef struct fb_canary_result {
    int64_t canaries, guesses, right; /* gaussian: all samples of stage 2 are canaries and guessed */
    double epsilon, delta;            /* claimed */
    double bound, ceiling;
    double false_positive[FB_AUDIT_POINTS], true_positive[FB_AUDIT_POINTS]; /* telling in from out */
    int refuted;
} fb_canary_result;

/* Claims what the accountant says of the steps, whatever the fault. */
fb_status fb_canary_dpsgd(const fb_canary_spec *spec, fb_canary_result *out) FB_MUST_USE;

/* spec: all or random + gaussian, on n parameters; `samples` as in fb_audit_settings. */
fb_status fb_canary_gaussian(const fb_release_spec *spec, int64_t n, int64_t samples, uint64_t seed, double confidence,
                             double delta, fb_canary_result *out) FB_MUST_USE;
