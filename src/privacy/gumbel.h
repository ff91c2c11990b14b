/* SPDX-License-Identifier: Apache-2.0
 *
 * Gumbel noise for the one-shot exponential mechanism: the c largest of score + G, G fresh for every candidate, are the
 * outcome of peeling c times by the exponential mechanism (Gumbel 1954; Durfee & Rogers 2019). G = -ln(E), E standard
 * exponential. Integer arithmetic on the key stream of noise.h only.
 *
 * Error: a draw lies within FB_GUMBEL_ERROR of an exact Gumbel variable that is a function of the same bits, outside an
 * event of probability 2^-1000, which is not charged (noise.h; derivation in gumbel.c). What that does to the c
 * selected, with h = FB_GUMBEL_ERROR and scores in units of the noise: whenever the set S is selected, it is also
 * selected by the exact variables after its scores are raised by 2 h. Peeling selects i1, ..., ic with the product of
 * exp(q_i) / (sum of exp(q) over those not yet taken); the raise multiplies each of the c numerators by e^(2 h) and
 * makes no denominator smaller. So P(S) is that of exact noise up to a factor within e^+-(2 c h).
 */
#pragma once

#include "privacy/gumbel_draw.h"
#include "privacy/noise.h"

#define FB_GUMBEL_ERROR 0x1p-40

/* One draw in units of 2^-FB_GUMBEL_FRACTION_BITS; -2^43 < result < 2^50. */
int64_t fb_gumbel_draw(fb_noise *noise);

/* The first `count` draws of a block into x (count); moves the stream there. */
void fb_gumbel_block(fb_stream *stream, int64_t block, int count, int64_t *x);

/* Constants: what fb_draw_gumbel reads. */
const fb_gumbel *fb_gumbel_tables(void);
