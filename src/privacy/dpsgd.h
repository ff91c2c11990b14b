/* SPDX-License-Identifier: Apache-2.0
 *
 * Patient-level differential privacy inside local training (Abadi et al. 2016), on integers. A step takes a Poisson
 * sample of the hospital's patients; each sampled patient's gradient goes to a grid and is clipped to an L2 norm in
 * integers; the sum gets discrete Gaussian noise and is divided by the public expected batch. Adding or removing one
 * patient changes the sum by at most the clip in L2 norm. An empty sample still takes its noised step. Everything after
 * the noise (optimiser, sharing of the largest, averaging of Adam's moments) is post-processing.
 *
 * Grid: clip_norm / 2^g in [2^29, 2^30), so that the noise (sigma = noise_multiplier * clip) is close enough to a
 * continuous Gaussian for its accountants (accountant.h, to_continuous).
 */
#pragma once

#include "privacy/accountant.h"
#include "privacy/gauss.h"

typedef struct fb_dpsgd_spec {
    double clip_norm;        /* L2 norm of one patient's gradient; finite, above 0 */
    double noise_multiplier; /* standard deviation of the noise over clip_norm */
    double batch;            /* expected patients in a step; 0 or at least `cases`: all of them in every step */
    int64_t cases;           /* train cases of the hospital: a public constant */
    int64_t epochs;          /* of a round: round(epochs / rate) steps, at least one */
    int64_t n;               /* trained parameters */
} fb_dpsgd_spec;

typedef struct fb_dpsgd_plan {
    fb_dpsgd_spec spec;
    double rate;   /* probability of a patient to be in a step, exactly; a multiple of 2^-64 */
    double batch;  /* expected sample, rate * cases: what the sum is divided by */
    int64_t steps; /* of a round */
    int grid_log2;
    int64_t clip_grid; /* the clip in grid steps */
    double sigma;      /* of the noise, in grid steps */
    fb_event event;    /* of a round: Gaussian, add/remove, count = steps */
} fb_dpsgd_plan;

/* Errors (usage): out of range, with key (privacy.clip_norm, privacy.noise_multiplier, train.batch), value, limit. */
fb_status fb_dpsgd_plan_make(const fb_dpsgd_spec *spec, fb_dpsgd_plan *out) FB_MUST_USE;

/* What happened inside a round: the simulator's own view, not for release. */
typedef struct fb_dpsgd_report {
    int64_t gradients, clipped, non_finite, empty_steps;
} fb_dpsgd_report;

/* Poisson sample of a step: every patient with probability `rate`, independently, from the noise stream (purpose
 * FB_NOISE_SAMPLE). member (cases) is overwritten, ascending; *count of them. */
void fb_dpsgd_sample(const fb_dpsgd_plan *plan, fb_noise *noise, uint32_t attempt, uint32_t round, uint32_t step,
                     uint32_t *member, int64_t *count);

/* sum (n) += clip(grid(gradient)): rescaled toward zero when its integer L2 norm exceeds the clip; a gradient with a
 * non-finite element counts as zero. gradient (n), scratch (n). The same bits for any number of threads. */
void fb_dpsgd_add(const fb_dpsgd_plan *plan, const float *gradient, int32_t *scratch, int64_t *sum,
                  fb_dpsgd_report *report);

/* gradient (n) = (sum + noise) * 2^g / batch, noise from purpose FB_NOISE_GRADIENT. `gauss` is of plan->sigma. */
void fb_dpsgd_finish(const fb_dpsgd_plan *plan, const fb_gauss *gauss, fb_noise *noise, uint32_t attempt,
                     uint32_t round, uint32_t step, const int64_t *sum, float *gradient);
