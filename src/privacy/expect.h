/* SPDX-License-Identifier: Apache-2.0
 *
 * What noise and selection leave of a typical update: the expected cosine between the released and the true sum over
 * hospitals. A rule of thumb from a stated model, for the planning of a run; what a run really reaches is measured.
 *
 * Model. All hospitals of a round have the same update u, the best case against noise: n independent coordinates
 * N(0, s^2), with s = clip / 3 where each coordinate is clipped (0.3 % of them are), and the norm of the shared part
 * equal to clip_norm where that is clipped, so s = clip_norm / sqrt(c). Hospital h counts with the public factor a_h,
 * A = sum a_h, B = sum a_h^2. A coordinate of value u is selected with probability p(u) and then released as X, with
 * m1(u) = E X, m2(u) = E X^2. Per coordinate, with T = A u the true sum and R the released one,
 *
 *   E[R T] = A^2 E[p u m1],  E[T^2] = A^2 s^2
 *   E[R^2] = B E[p m2] + (A^2 - B) E[p^2 m1^2]    each hospital draws its own coordinates
 *          = B E[p m2] + (A^2 - B) E[p m1^2]      all share the same ones
 *          = A^2 E[p m1^2] + (A / P)^2 E[p] v     noise of variance v once, on the sum of P hospitals (secagg, central)
 *   cosine = E[R T] / sqrt(E[R^2] E[T^2])
 *
 * Coordinates of select = public count as random ones. For fraction Q of random coordinates, P equal hospitals, noise
 * variance v s^2 and no second clip this is sqrt(Q) / sqrt(1/P + (1 - 1/P) Q + v / P). A second clip
 * (privacy.clip_answers) enters m1 and m2.
 */
#pragma once

#include "privacy/dpsgd.h"
#include "privacy/mechanism.h"

typedef struct fb_expect_hospitals {
    int participants;       /* P */
    double sum, sum_square; /* A and B, of the participants */
} fb_expect_hospitals;

typedef struct fb_expectation {
    double cosine;  /* of released and true sum, one round */
    double stretch; /* length of the released sum over that of the true one */
    double choice;  /* selection: chance of a coordinate at the clip over that of one at 0; 1: effectively random */
} fb_expectation;

/* One round of the given release under `trust`. Errors: memory. */
fb_status fb_expect_release(const fb_release_spec *spec, const fb_budget *budget, fb_trust trust,
                            const fb_expect_hospitals *hospitals, fb_expectation *out) FB_MUST_USE;

/* A step of dpsgd: signal over noise, batch clip / (sigma clip sqrt(n)), when every gradient has the norm of the clip
 * and all point the same way. */
double fb_expect_step_ratio(const fb_dpsgd_plan *plan);

/* A round of dpsgd: steps and hospitals average the noise. factor (hospital_count): a_h as above. */
void fb_expect_dpsgd(const fb_dpsgd_plan *plans, int hospital_count, const double *factor, fb_expectation *out);

/* The cosine of the sums over `rounds` rounds, if the true direction stayed the same: the signal grows with the rounds,
 * the noise with their root. 1 / sqrt(1 + (1 / cosine^2 - 1) / rounds). */
double fb_expect_rounds(double cosine, double rounds);

/* Whether learning is to be expected. Thresholds, a rule of thumb: cosine of a round >= 0.5 like without noise, >= 0.1
 * slower; below, >= 0.5 over all rounds only a slow drift; else none. */
typedef enum fb_outlook { FB_OUTLOOK_GOOD = 0, FB_OUTLOOK_SLOWER, FB_OUTLOOK_DRIFT, FB_OUTLOOK_NONE } fb_outlook;
fb_outlook fb_expect_outlook(double cosine, double cosine_of_run);
const char *fb_expect_sentence(fb_outlook outlook);
