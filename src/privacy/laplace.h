/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact discrete Laplace noise on the integers, and the geometric variable that it is made of.
 *
 * Discrete Laplace with scale s: P(x) = (1 - a) / (1 + a) * a^|x|, a = exp(-1/s). Adding it to an integer-valued
 * function of sensitivity D gives epsilon = D / s (Ghosh, Roughgarden & Sundararajan 2009). No floating-point number
 * touches the output, so the attack of Mironov 2012 on float Laplace does not apply. Probabilities are right to
 * fb_noise_rounding (noise.h; derivation in laplace.c).
 */
#pragma once

#include "privacy/noise.h"

#define FB_LAPLACE_SCALE_MIN 0x1p-4 /* grid steps */
#define FB_LAPLACE_SCALE_MAX 0x1p52

typedef struct fb_laplace fb_laplace; /* the tables of one scale */

/* scale in grid steps, from FB_LAPLACE_SCALE_MIN to FB_LAPLACE_SCALE_MAX. Errors: out of range (value and limits
 * named).
 */
fb_status fb_laplace_create(double scale, fb_laplace **out) FB_MUST_USE;
void fb_laplace_destroy(fb_laplace **laplace);

/* One draw; |result| < 2^62. */
int64_t fb_laplace_draw(const fb_laplace *laplace, fb_noise *noise);

/* The first `count` draws of a block into x (count); moves the stream there. */
void fb_laplace_block(const fb_laplace *laplace, fb_stream *stream, int64_t block, int count, int64_t *x);

typedef struct fb_geometric fb_geometric;

/* P(x) = (1 - a) a^x, x >= 0, a = exp(-rate); 2^-54 <= rate < 24. Errors: memory. */
fb_status fb_geometric_create(long double rate, fb_geometric **out) FB_MUST_USE;
void fb_geometric_make(long double rate, fb_geometric *out); /* the same into tables that are there */
void fb_geometric_destroy(fb_geometric **geometric);
uint64_t fb_geometric_draw(const fb_geometric *geometric, fb_noise *noise); /* below 2^62 */
