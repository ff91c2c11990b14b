/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact probabilities of what is selected, for few coordinates, and from them the exact privacy loss of selection and
 * answers together. No sampling: what the audit only bounds from below, for the inputs given.
 */
#pragma once

#include "privacy/mechanism.h"

enum { FB_ORACLE_N_MAX = 5, FB_ORACLE_SETS = 1 << FB_ORACLE_N_MAX };

typedef enum fb_oracle_order {
    FB_ORDER_RANDOM = 0, /* each pass in a uniformly random order: averaged over */
    FB_ORDER_ASCENDING   /* each pass by ascending index: what whoever knows the public order sees */
} fb_oracle_order;

/* law[s]: probability that the coordinates of the bits of s are selected by the sparse vector technique of `budget`,
 * given magnitude (budget->n) on the grid; the sum over the threshold's noise leaves out e^-40. */
void fb_oracle_svt(const fb_budget *budget, fb_oracle_order order, const int64_t *magnitude,
                   double law[FB_ORACLE_SETS]);

/* The same for the exponential mechanism peeled `count` times with weights exp(magnitude / scale). */
void fb_oracle_exponential(int64_t n, int64_t count, double scale, const int64_t *magnitude,
                           double law[FB_ORACLE_SETS]);

/* The largest log ratio over all outcomes of two laws, with what the answers of the selected add: |a - b| / scale each;
 * a, b (n) are the signed values. Both directions. */
double fb_oracle_loss(int64_t n, const double law_a[FB_ORACLE_SETS], const double law_b[FB_ORACLE_SETS],
                      const int64_t *a, const int64_t *b, double scale_answer);
