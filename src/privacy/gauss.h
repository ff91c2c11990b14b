/* SPDX-License-Identifier: Apache-2.0
 *
 * Discrete Gaussian noise on the integers, P(x) proportional to exp(-x^2 / (2 sigma^2)) (Canonne, Kamath & Steinke
 * 2020), by Walker's alias method instead of their rejection from a discrete Laplace. Integer arithmetic on the key
 * stream of noise.h: no floating-point number touches the output. Probabilities are right to fb_noise_rounding
 * (derivation in gauss.c).
 */
#pragma once

#include "privacy/noise.h"

#define FB_GAUSS_SIGMA_MIN 0.25 /* grid steps */
#define FB_GAUSS_SIGMA_MAX 0x1p56

typedef struct fb_gauss fb_gauss; /* the tables of one sigma */

/* sigma in grid steps, from FB_GAUSS_SIGMA_MIN to FB_GAUSS_SIGMA_MAX. Errors: out of range (value and limits named). */
fb_status fb_gauss_create(double sigma, fb_gauss **out) FB_MUST_USE;
void fb_gauss_destroy(fb_gauss **gauss);

/* One draw; |result| < 2^62. */
int64_t fb_gauss_draw(const fb_gauss *gauss, fb_noise *noise);

/* The first `count` draws of a block into x (count); moves the stream there. */
void fb_gauss_block(const fb_gauss *gauss, fb_stream *stream, int64_t block, int count, int64_t *x);

/* The continuous Gaussian rounded to the nearest integer gives every integer of magnitude up to `reach` sigma the
 * probability of the discrete one, up to a factor within e^+-(this) (derivation in gauss.c). */
double fb_gauss_to_continuous(double sigma, double reach);

/* In deviations: how far a neighbour, `shift` away, sees a value that one input reaches (noise.h); -log of its
 * probability, for fb_noise_rounding. */
double fb_gauss_reach(double shift);
double fb_gauss_exponent(double shift);
