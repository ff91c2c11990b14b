/* SPDX-License-Identifier: Apache-2.0
 *
 * A discrete Fourier transform of a power of two, in place, without reordering: forward leaves frequency f at position
 * bitreverse(f), where inverse expects it. By induction over the stages the error of an output is below
 * 4 * 2^-53 * log2(n) * sum |input|.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef struct fb_complex {
    double re, im;
} fb_complex;

/* root (n / 2): exp(-2 pi i j / n) */
void fb_fft_roots(int64_t n, fb_complex *root);
void fb_fft_forward(int64_t n, const fb_complex *root, fb_complex *x);
void fb_fft_inverse(int64_t n, const fb_complex *root, fb_complex *x); /* divides by n */

/* Position of frequency -f when that of f is `position`. */
int64_t fb_fft_mirror(int64_t position);
