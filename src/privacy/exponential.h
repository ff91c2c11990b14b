/* SPDX-License-Identifier: Apache-2.0
 *
 * Top-c by the exponential mechanism (McSherry & Talwar 2007), peeled: c times draw a coordinate, of those not drawn
 * yet, with probability proportional to exp(e' |q_i| / (2 C)), e' = epsilon_query / c. |q_i| in [0, C] changes by at
 * most C between neighbours, so that one draw is e'-DP and its privacy loss has a range of e' (Dong, Durfee & Rogers
 * 2020), and c draws are epsilon_query-DP and c e'^2 / 8 zCDP. The c largest of e' |q_i| / (2 C) + Gumbel are the same
 * set in law (Durfee & Rogers 2019). Only the set is released: its order is that of the indices.
 *
 * Rounding. Scores are integers s_i in 0..S in steps of the Gumbel noise's grid, a monotone function of |q_i|, and S is
 * at most half of e' in these steps: whatever rounding does to a score, it changes by at most S. The noise is off by at
 * most h = FB_GUMBEL_ERROR, which multiplies the probability of a set by a factor within e^+-(2 c h) (gumbel.h): a
 * rounding of 2 h in each of the c events that the accountants compose.
 */
#pragma once

#include "privacy/mechanism.h"

#define FB_EXPONENTIAL_SCORE_LIMIT 0x1p60

/* S of a budget whose count and epsilon_query are set, not yet rounded down to an integer. */
double fb_exponential_score_max(const fb_budget *budget);

/* Selects budget->count coordinates of grid (n), |grid| <= clip_grid, into index (count), ascending. */
fb_status fb_exponential_select(const fb_budget *budget, fb_noise *noise, uint32_t attempt, uint32_t round,
                                const int32_t *grid, uint32_t *index) FB_MUST_USE;
