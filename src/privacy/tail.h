/* SPDX-License-Identifier: Apache-2.0
 *
 * Draws whose probabilities are right to a small relative error, however small they are. The sparse vector technique
 * needs that: its proof multiplies ratios of probabilities over all positive tests, and an absolute error (noise.h)
 * would be multiplied by e^epsilon. A test needs one Bernoulli draw only, because the noise of a test is used for
 * nothing else. Integer arithmetic throughout.
 *
 * Error: every probability e^-x is off by less than fb_tail_rounding(x), relatively, and its complement by no more
 * (derivation in tail.c). Probabilities below 2^-(2^40) count as 0.
 */
#pragma once

#include "privacy/noise.h"
#include "privacy/tail_draw.h"

/* The error of a probability e^-x, x = `exponent`. */
static inline double fb_tail_rounding(double exponent)
{
    return 0x1p-53 * (1.0 + exponent / 1000.0);
}

fb_tail fb_tail_of(double scale); /* of the noise in grid steps, in (0, 2^56] */

/* 1 when a fresh discrete Laplace variable is at least `distance`: for distance >= 1 with probability
 * exp(-distance/scale) / (1 + exp(-1/scale)), otherwise 1 - exp(-(1 - distance)/scale) / (1 + exp(-1/scale)).
 * |distance| <= 2^62. */
int fb_tail_reaches(const fb_tail *tail, int64_t distance, fb_noise *noise);

/* A discrete Laplace variable, bit by bit: bit i of a geometric magnitude is 1 with probability
 * 1 / (1 + exp(2^i / scale)), independently. |result| < 2^62; the rest has probability exp(-2^62 / scale), below
 * 2^-1000 up to a scale of 2^52. */
int64_t fb_tail_draw(const fb_tail *tail, fb_noise *noise);

/* 1 with probability 2^-(integer + fraction / 2^64), off by less than 2^-60, relatively. integer >= 0. */
int fb_tail_below_power(int64_t integer, uint64_t fraction, fb_noise *noise);
