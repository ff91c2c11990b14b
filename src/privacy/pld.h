/* SPDX-License-Identifier: Apache-2.0
 *
 * Privacy loss distributions on a grid: (epsilon, delta) = sum over losses l > epsilon of P(l) (1 - exp(epsilon - l)),
 * plus the mass without a finite loss.
 */
#pragma once

#include "privacy/accountant_impl.h"

/* The upper part of a distribution of losses top, top - step, ... */
typedef struct fb_tail_sum {
    int64_t n;
    double top, step;
    double *above;  /* (n) owned: P of entries 0..j */
    double *scaled; /* (n) owned: sum over entries i <= j of P(i) exp(loss(j) - loss(i)) */
    double extra;   /* mass above the top */
    double slack;   /* relative rounding error of the sums, taken on the safe side */
} fb_tail_sum;

/* From mass (n), highest loss first. out: start from a zeroed struct. */
fb_status fb_tail_sum_make(int64_t n, const double *mass, double top, double step, fb_tail_sum *out) FB_MUST_USE;
void fb_tail_sum_free(fb_tail_sum *tail);
double fb_tail_sum_epsilon(const void *tail, double delta); /* INFINITY: the mass above the top is more than delta */

/* count-fold composition of randomised responses of one epsilon, exactly (Kairouz, Oh & Viswanath 2015). */
fb_status fb_tail_sum_of_responses(double epsilon, double count, fb_tail_sum *out) FB_MUST_USE;

/* The composed distribution of a history, once for every direction (adding and removing differ under sampling). */
typedef struct fb_pld {
    int computed;
    double gaussian; /* above 0: all events are Gaussian without sampling, one Gaussian of this shift over deviation */
    int directions;
    fb_tail_sum tail[2];
} fb_pld;

/* delta > 0 is where it will be accurate. computed is 0 when a first bound of epsilon is above FB_PLD_EPSILON_MAX. */
enum { FB_PLD_EPSILON_MAX = 600 };
fb_status fb_pld_compose(const fb_costs *costs, double delta, fb_pld *out) FB_MUST_USE;
void fb_pld_free(fb_pld *pld);
double fb_pld_epsilon(const void *pld, double delta);
