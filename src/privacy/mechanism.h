/* SPDX-License-Identifier: Apache-2.0
 *
 * From a hospital's change of the model to what it shares: selection, clip, noise, in the order that the proofs need.
 *
 * Without a mechanism the values are float32 changes dW, exactly; `topk` with a finite clip is the paper's percentile
 * rule (Li et al. 2019): the ceil(Q n) largest |dW| (ties: lowest index), each clipped to +-clip * steps.
 *
 * dpsgd has put its noise into the training: its dW is released in the same way, which is post-processing.
 *
 * With laplace or gaussian everything after the first line is integer arithmetic, so that the same dW gives the same
 * bytes everywhere:
 *   u = dW / steps, non-finite -> 0, clipped to +-clip; grid q = trunc(u / 2^g); |q| <= C, the clip on the grid
 *   svt:  threshold T' = T + Lap(C / e_threshold), once; walk the coordinates in a public random order, again and
 * again, at most FB_SVT_PASSES times over those not yet selected: select i when |q_i| + Lap(2 c C / e_query) >= T';
 *         stop at c selections (Lyu, Su & Li 2017, algorithm 7; c is charged whether reached or not)
 *   exponential: the c largest of |q_i| + Gumbel noise, exponential.h
 *   random: c coordinates by a public seed;  public: by the previous global model;  all: every coordinate, c = n
 *   laplace answers: q_i + Lap(2 C c / e_answer), fresh; then a second clip to +-C, which is post-processing
 *   gaussian answers: the chosen part of u on a finer grid, its L2 norm clipped in integers to C2, plus a discrete
 *         Gaussian of noise_multiplier * C2, gaussian.h; then a second clip of every coordinate to +-C2
 * Sensitivities, replacing one hospital's whole data set: |q_i| changes by at most C, q_i by at most 2 C, the clipped
 * vector by at most 2 C2 in L2 norm. After svt or exponential the chosen set is the first mechanism's output and the
 * answers are a second one, given that set: adaptive composition.
 *
 * svt-as-published is Li et al.'s algorithm 2 with the sensitivities it prints (s = 2 C), for comparison: threshold
 * Lap(2 C / e_threshold), tests |q_i| + Lap(4 c C / e_query), and answers clip(u + Lap(2 C / e_answer)) of the
 * unclipped u, without the factor c, whatever answer_budget says. It gets no epsilon.
 *
 * trust: with local every hospital adds the noise that protects it. With central the server, which sees the updates,
 * adds it once to their sum (fb_release_server_noise). With secagg a hospital adds sigma / sqrt(participants) and the
 * server sees the sum alone; the guarantee assumes that all of them do, and that none tells the server its part. The
 * sum is of grid values with equal weights on the same coordinates, so that its sensitivity is that of one hospital.
 * Hospitals' answers are then not clipped a second time: their noise must reach the sum as it is.
 */
#pragma once

#include "core/rng.h"
#include "privacy/accountant.h"
#include "privacy/noise.h"
#include "privacy/update.h"

enum { FB_SVT_PASSES = 64, FB_BUDGET_EVENTS_MAX = 4 };

typedef enum fb_select {
    FB_SELECT_ALL = 0,
    FB_SELECT_TOPK,
    FB_SELECT_RANDOM,
    FB_SELECT_SVT,
    FB_SELECT_EXPONENTIAL,
    FB_SELECT_PUBLIC,
    FB_SELECT_SVT_AS_PUBLISHED
} fb_select;
typedef enum fb_mechanism {
    FB_MECHANISM_NONE = 0,
    FB_MECHANISM_LAPLACE,
    FB_MECHANISM_GAUSSIAN,
    FB_MECHANISM_DPSGD
} fb_mechanism;
typedef enum fb_trust { FB_TRUST_LOCAL = 0, FB_TRUST_SECAGG, FB_TRUST_CENTRAL } fb_trust;
typedef enum fb_answer_budget { FB_ANSWER_TOTAL = 0, FB_ANSWER_PER_PARAMETER } fb_answer_budget;

typedef struct fb_release_spec {
    fb_select select;
    double fraction; /* Q in (0, 1]; c = ceil(Q n) */
    fb_mechanism mechanism;
    double clip;              /* L-infinity bound of dW / steps; INFINITY: none (not with laplace, svt, exponential) */
    double threshold;         /* SVT's T, in units of dW / steps, in [0, clip]; public */
    double epsilon_threshold; /* budgets of one round, by role */
    double epsilon_query;     /* svt: 0 stands for epsilon_threshold * (2c)^(2/3), Lyu's optimal split; exponential: of
                               * the whole selection, above 0 */
    double epsilon_answer;    /* total or per parameter, see answer_budget */
    fb_answer_budget answer_budget;
    int clip_answers;        /* the second clip; trust = local only */
    double clip_norm;        /* gaussian: L2 bound of the selected part of dW / steps */
    double noise_multiplier; /* gaussian: standard deviation of the (summed) noise over clip_norm */
    fb_trust trust;          /* who adds the noise; other than local: all hospitals share the same coordinates */
    int participants;        /* hospitals of a round, among which secagg divides the noise */
} fb_release_spec;

/* What select + mechanism guarantees: one row of the only table of that kind. */
typedef struct fb_guarantee {
    fb_select select;
    fb_mechanism mechanism;
    int formal;             /* 1: an epsilon may be printed */
    const char *unit;       /* "hospital", "patient" or "none" */
    const char *neighbours; /* "replace-one", "add/remove one" or "none" */
    const char *reason;     /* why there is none, or the theorem */
} fb_guarantee;

/* The row; NULL for a combination that does not exist (topk + laplace has a row: no guarantee). */
const fb_guarantee *fb_guarantee_find(fb_select select, fb_mechanism mechanism);

/* The budget of one hospital in one round, all figures public constants of the configuration. */
typedef struct fb_budget {
    int64_t n, count;                                  /* parameters; c, the most that are shared */
    int grid_log2;                                     /* g, of the answers; a selection's is fb_grid_log2(clip) */
    int64_t clip_grid;                                 /* C of selection and laplace answers; 0: not used */
    int64_t threshold_grid;                            /* T on the grid of the selection */
    double scale_threshold, scale_query, scale_answer; /* of the discrete Laplace, in grid steps; 0: not used */
    double epsilon_threshold, epsilon_query;           /* spent per round */
    double epsilon_answer, epsilon_answer_per_parameter;
    double epsilon_rounding; /* what rounded probabilities add: see below; NAN where epsilon_round is */
    double epsilon_round;    /* sum of the parts; INFINITY without a guarantee; NAN with gaussian and dpsgd, which have
                              * no pure epsilon: fb_account says what they spend at a delta */
    int64_t clip_norm_grid;  /* gaussian: the L2 clip in grid steps */
    double sigma;            /* gaussian: of the noise that protects, in grid steps */
    double sigma_share;      /* of what one hospital adds: sigma, sigma / sqrt(participants) or 0, by trust */
    int value_bits; /* least width of an answer in a message: public where values have no noise yet, or a share of it,
                     * and their size must not show in the length; 0: as wide as the largest noised one */
    fb_relation relation;
    int event_count; /* of one round, for the accountants; 0 without a guarantee, and with dpsgd (fb_dpsgd_plan) */
    fb_event events[FB_BUDGET_EVENTS_MAX];
} fb_budget;

/* Rounding. The SVT's probabilities are relatively exact (tail.h): in its proof a positive test costs the ratio of two
 * probabilities, a negative one compares two that only their rounding can put in the wrong order, and the threshold is
 * one value of 62 bits, so with r = fb_tail_rounding of what it can lose selection costs at most 2 r (c + FB_SVT_PASSES
 * n + 62) more epsilon. c answers cost 2 c fb_noise_rounding more, c selections by the exponential mechanism 4 c
 * FB_GUMBEL_ERROR (exponential.h): the `rounding` of their events, twice (accountant.h).
 *
 * secagg: the sum of discrete Gaussians is not quite one. By Kairouz, Liu & Steinke 2021 (the distributed discrete
 * Gaussian mechanism) its law and that of the discrete Gaussian of the summed variance differ in a coordinate by a
 * factor within e^+-tau, tau = 10 sum_{k=1}^{K-1} exp(-2 pi^2 s^2 k / (k + 1)) < 10 K exp(-pi^2 s^2) for K shares of
 * standard deviation s. With s >= 16, which is checked, c tau is below 2^-3000: the event's rounding is rounded
 * up by one ulp for it. */

/* Checks the spec and derives the budget. Errors (usage): combination that does not exist, fraction, clip, threshold or
 * budgets out of range for it, each with key, value and limit. */
fb_status fb_budget_plan(const fb_release_spec *spec, int64_t n, fb_budget *out) FB_MUST_USE;

/* What a selection can go by: the largest possible difference of two scores over its noise, C / scale_query with svt,
 * epsilon_query / (2c) with exponential. Effectively random below about 1. NAN: the selection has no noise. */
double fb_budget_selection_signal(const fb_budget *budget);

/* What happened inside: the simulator's own view, not for release. */
typedef struct fb_release_report {
    int64_t tests, passes, clipped, non_finite; /* SVT tests and passes; coordinates clipped; NaN or inf set to 0 */
    double norm_scale;                          /* gaussian: factor of the L2 clip, 1 when the norm was within it */
    double overlap; /* fb_release_overlap, where it came with a release on the GPU; else NAN */
} fb_release_report;

/* What one release is made from, beside spec and budget. All borrowed. */
typedef struct fb_release_input {
    const fb_rng *public_rng; /* stream (seed, FB_RNG_SELECT, hospital, round); trust other than local: hospital 0 */
    const uint32_t *public_index; /* (budget->count) ascending, select = public; else NULL */
    fb_noise *noise;              /* this hospital's; may be NULL without a mechanism */
    uint32_t attempt, round;
    int64_t steps;                    /* by which dw is divided */
    const float *dw;                  /* (budget->n) the change over the round */
    struct fb_privacy_device *device; /* device.h, of this spec and budget; NULL: the processor */
} fb_release_input;

/* The indices of select = random, ascending, count of them, from the public stream `rng`: hospital and server derive
 * the same ones, so they do not travel. index (count) is overwritten. */
fb_status fb_select_random(const fb_rng *rng, int64_t n, int64_t count, uint32_t *index) FB_MUST_USE;

/* The coordinates of select = public, ascending: ceil(count / 2) with the largest |change| (n) of the last global
 * update and the rest a public random subset of the others, so that no coordinate is left out for good. change NULL
 * (first round): all random. index (count) is overwritten. */
fb_status fb_select_public(const fb_rng *rng, int64_t n, const float *change, int64_t count,
                           uint32_t *index) FB_MUST_USE;

/* Releases in->dw. out: start from a zeroed struct; owned by the caller. Errors: without a mechanism, a non-finite dw
 * (index named). */
fb_status fb_release(const fb_release_spec *spec, const fb_budget *budget, const fb_release_input *in, fb_update *out,
                     fb_release_report *report) FB_MUST_USE;

/* The memory that it takes meanwhile, out included, on the processor. */
int64_t fb_release_bytes(const fb_release_spec *spec, const fb_budget *budget);

/* trust = central: adds the budget's noise to the sum (count) of the hospitals' grid values, |sum| < 2^62. noise: the
 * server's, purpose FB_NOISE_SERVER. */
fb_status fb_release_server_noise(const fb_release_spec *spec, const fb_budget *budget, fb_noise *noise,
                                  uint32_t attempt, uint32_t round, int64_t count, int64_t *sum) FB_MUST_USE;

/* Selection noise: how many of the update's coordinates are among as many of the largest |dw| (ties: lowest index), as
 * a share, 0 to 1; NAN for an empty update. A diagnostic. */
fb_status fb_release_overlap(const fb_update *update, const float *dw, double *overlap) FB_MUST_USE;
