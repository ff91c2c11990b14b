/* SPDX-License-Identifier: Apache-2.0
 *
 * Gumbel noise for the one-shot exponential mechanism: the c largest of score + G, G fresh for every candidate, are the
 * outcome of peeling c times by the exponential mechanism (Gumbel 1954; Durfee & Rogers 2019). G = -ln(E), E standard
 * exponential. Integer arithmetic on the key stream of noise.h only.
 *
 * Error: outside an event of probability FB_GUMBEL_TV_PER_DRAW a draw lies within FB_GUMBEL_ERROR of an exact Gumbel
 * variable that is a function of the same bits (derivation in gumbel.c). What that does to the c selected, with
 * eta = FB_GUMBEL_ERROR and scores in units of the noise: whenever the set S is selected, it is also selected by the
 * exact variables after its scores are raised by 2 eta. Peeling selects i1, ..., ic with the product of
 * exp(q_i) / (sum of exp(q) over those not yet taken); the raise multiplies each of the c numerators by e^(2 eta) and
 * makes no denominator smaller. So P(S) is at most e^(2 c eta) times that of exact noise, likewise at least
 * e^(-2 c eta) times: 4 c eta is added to epsilon. The event is added to delta, n draws at FB_GUMBEL_TV_PER_DRAW in the
 * way of noise.h.
 */
#pragma once

#include "privacy/noise.h"

#define FB_GUMBEL_ERROR 0x1p-40
#define FB_GUMBEL_TV_PER_DRAW 0x1p-78

enum { FB_GUMBEL_FRACTION_BITS = 40 };

/* One draw in units of 2^-FB_GUMBEL_FRACTION_BITS; -2^43 < result < 2^47. */
int64_t fb_gumbel_draw(fb_noise *noise);
