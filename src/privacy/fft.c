/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/fft.h"

#include <math.h>

void fb_fft_roots(int64_t n, fb_complex *root)
{
    double angle = -2 * 3.14159265358979323846 / (double)n;
    for (int64_t j = 0; j < n / 2; j++)
        root[j] = (fb_complex){cos(angle * (double)j), sin(angle * (double)j)};
}

void fb_fft_forward(int64_t n, const fb_complex *root, fb_complex *x)
{
    for (int64_t half = n / 2, stride = 1; half >= 1; half /= 2, stride *= 2) {
        for (int64_t block = 0; block < n; block += 2 * half) {
            fb_complex *a = x + block, *b = a + half;
            for (int64_t j = 0; j < half; j++) {
                fb_complex w = root[j * stride], d = {a[j].re - b[j].re, a[j].im - b[j].im};
                a[j] = (fb_complex){a[j].re + b[j].re, a[j].im + b[j].im};
                b[j] = (fb_complex){d.re * w.re - d.im * w.im, d.re * w.im + d.im * w.re};
            }
        }
    }
}

void fb_fft_inverse(int64_t n, const fb_complex *root, fb_complex *x)
{
    for (int64_t half = 1, stride = n / 2; half < n; half *= 2, stride /= 2) {
        for (int64_t block = 0; block < n; block += 2 * half) {
            fb_complex *a = x + block, *b = a + half;
            for (int64_t j = 0; j < half; j++) {
                fb_complex w = root[j * stride];
                fb_complex c = {b[j].re * w.re + b[j].im * w.im, b[j].im * w.re - b[j].re * w.im};
                b[j] = (fb_complex){a[j].re - c.re, a[j].im - c.im};
                a[j] = (fb_complex){a[j].re + c.re, a[j].im + c.im};
            }
        }
    }
    for (int64_t i = 0; i < n; i++)
        x[i] = (fb_complex){x[i].re / (double)n, x[i].im / (double)n};
}

int64_t fb_fft_mirror(int64_t position)
{
    int64_t block = 1;
    if (position == 0)
        return 0;
    while (2 * block <= position)
        block *= 2;
    return 3 * block - 1 - position;
}
