/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/fft.h"

#include <math.h>

void fb_fft_roots(int64_t n, fb_complex *root)
{
    double angle = -2 * 3.14159265358979323846 / (double)n;
    for (int64_t j = 0; j < n / 2; j++)
        root[j] = (fb_complex){cos(angle * (double)j), sin(angle * (double)j)};
}

/* Halves one after the other, so that small ones stay in the cache. */
static void forward(int64_t n, int64_t stride, const fb_complex *root, fb_complex *x)
{
    int64_t half = n / 2;
    fb_complex *a = x, *b = x + half;
    if (half == 0)
        return;
    for (int64_t j = 0; j < half; j++) {
        fb_complex w = root[j * stride], d = {a[j].re - b[j].re, a[j].im - b[j].im};
        a[j] = (fb_complex){a[j].re + b[j].re, a[j].im + b[j].im};
        b[j] = (fb_complex){d.re * w.re - d.im * w.im, d.re * w.im + d.im * w.re};
    }
    forward(half, 2 * stride, root, a);
    forward(half, 2 * stride, root, b);
}

static void inverse(int64_t n, int64_t stride, const fb_complex *root, fb_complex *x)
{
    int64_t half = n / 2;
    fb_complex *a = x, *b = x + half;
    if (half == 0)
        return;
    inverse(half, 2 * stride, root, a);
    inverse(half, 2 * stride, root, b);
    for (int64_t j = 0; j < half; j++) {
        fb_complex w = root[j * stride];
        fb_complex c = {b[j].re * w.re + b[j].im * w.im, b[j].im * w.re - b[j].re * w.im};
        b[j] = (fb_complex){a[j].re - c.re, a[j].im - c.im};
        a[j] = (fb_complex){a[j].re + c.re, a[j].im + c.im};
    }
}

void fb_fft_forward(int64_t n, const fb_complex *root, fb_complex *x)
{
    forward(n, 1, root, x);
}

void fb_fft_inverse(int64_t n, const fb_complex *root, fb_complex *x)
{
    inverse(n, 1, root, x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (fb_complex){x[i].re / (double)n, x[i].im / (double)n};
}

/* Positions of a block [2^m, 2^(m+1)) hold the odd multiples of n / 2^(m+1), and -f stands where f does from the end.
 */
int64_t fb_fft_mirror(int64_t position)
{
    if (position == 0)
        return 0;
    int64_t block = INT64_C(1) << (63 - __builtin_clzll((unsigned long long)position));
    return 3 * block - 1 - position;
}
