/* SPDX-License-Identifier: Apache-2.0
 *
 * Draws whose probabilities are right to a small relative error, however small they are. The sparse vector technique
 * needs that: its proof multiplies ratios of probabilities over all positive tests, and an absolute error (noise.h)
 * would be multiplied by e^epsilon. Slower than fb_laplace_draw, but a test needs one Bernoulli draw only, because the
 * noise of a test is used for nothing else.
 *
 * Error: exp() is right to 1 ulp and its argument y to y * 2^-53; y <= 745, beyond which the probability is below
 * 2^-1074 and counts as 0. So every probability, and its complement, is off by less than FB_TAIL_RELATIVE_ERROR,
 * relatively.
 */
#pragma once

#include "privacy/noise.h"

#define FB_TAIL_RELATIVE_ERROR 0x1p-43

typedef struct fb_tail {
    double scale, normaliser; /* of the noise, in grid steps; 1 / (1 + exp(-1/scale)) */
} fb_tail;

fb_tail fb_tail_of(double scale); /* scale in (0, 2^56] */

/* 1 when a fresh discrete Laplace variable is at least `distance`: for distance >= 1 with probability
 * exp(-distance/scale) / (1 + exp(-1/scale)), otherwise 1 - exp(-(1 - distance)/scale) / (1 + exp(-1/scale)). */
int fb_tail_reaches(const fb_tail *tail, int64_t distance, fb_noise *noise);

/* A discrete Laplace variable, bit by bit: bit i of a geometric magnitude is 1 with probability
 * 1 / (1 + exp(2^i / scale)), independently. |result| < 2^62; the rest has probability exp(-2^62 / scale). */
int64_t fb_tail_draw(double scale, fb_noise *noise);
