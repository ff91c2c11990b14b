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
 * most h = FB_GUMBEL_ERROR, which multiplies the probability of a set by a factor within e^+-r, r = 2 c h (gumbel.h).
 *
 *   - Pure: 4 c h more.
 *
 *   - zCDP: two such factors beside the exact mechanism, each r^2 / 2 zCDP (Bun & Steinke 2016, proposition 3.3); by
 * the triangle inequality of zCDP, under which its square roots add, the release is c e"^2 / 8 zCDP with e" = e' + 8
 * sqrt(c) h, and c e"-DP too.
 *
 * S is therefore made for e' = epsilon_query / c - 8 sqrt(c) h, and what is spent is epsilon_query: in all, or as zCDP
 * of c bounded ranges of epsilon_query / c. An accountant that composes the c draws by another curve (KOV, Renyi, PLD)
 * does so for the exact mechanism: whatever (epsilon, delta) that has, the release has (epsilon + 4 c h, delta e^(2 c
 * h)), 4e-7 a round at c = 1e5.
 */
#pragma once

#include "privacy/mechanism.h"

#define FB_EXPONENTIAL_SCORE_LIMIT 0x1p60

/* S of a budget whose count and epsilon_query are set, not yet rounded down to an integer; may be negative. */
double fb_exponential_score_max(const fb_budget *budget);

/* Selects budget->count coordinates of grid (n), |grid| <= clip_grid, into index (count), ascending. */
fb_status fb_exponential_select(const fb_budget *budget, fb_noise *noise, uint32_t attempt, uint32_t round,
                                const int32_t *grid, uint32_t *index) FB_MUST_USE;
