/* SPDX-License-Identifier: Apache-2.0
 *
 * Discrete Gaussian noise on the integers, P(x) proportional to exp(-x^2 / (2 sigma^2)) (Canonne, Kamath & Steinke
 * 2020), by Walker's alias method instead of their rejection from a discrete Laplace. Integer arithmetic on the key
 * stream of noise.h: no floating-point number touches the output. The total-variation error of a draw is at most
 * FB_GAUSS_TV_PER_DRAW (derivation in gauss.c) and is added to delta.
 */
#pragma once

#include "privacy/noise.h"

#define FB_GAUSS_TV_PER_DRAW 0x1p-57

typedef struct fb_gauss fb_gauss; /* the tables of one sigma */

/* sigma in grid steps, in [2^-6, 2^56]. Errors: out of range (value and limit named). */
fb_status fb_gauss_create(double sigma, fb_gauss **out) FB_MUST_USE;
void fb_gauss_destroy(fb_gauss **gauss);

/* One draw; |result| < 2^62. */
int64_t fb_gauss_draw(const fb_gauss *gauss, fb_noise *noise);

/* Total-variation distance of the discrete Gaussian from the continuous one rounded to the nearest integer, one
 * coordinate: at most this (derivation in gauss.c). At most 1. */
double fb_gauss_tv_continuous(double sigma);
