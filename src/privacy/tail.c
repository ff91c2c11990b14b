/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/tail.h"

#include <math.h>

enum { MAGNITUDE_BITS = 62 };

fb_tail fb_tail_of(double scale)
{
    FB_ASSERT(scale > 0.0 && scale <= 0x1p56);
    return (fb_tail){scale, 1.0 / (1.0 + exp(-1.0 / scale))};
}

/* 1 with probability p in [0, 1/2]: the random binary fraction is compared byte by byte while p has leading zeros, then
 * against 64 bits that hold all 53 of p. */
static int bernoulli(double p, fb_noise *noise)
{
    if (p == 0.0)
        return 0;
    for (; p < 0x1p-8; p *= 256.0)
        if (fb_noise_byte(noise) != 0)
            return 0;
    return fb_noise_word(noise) < (uint64_t)(p * 0x1p64);
}

int fb_tail_reaches(const fb_tail *tail, int64_t distance, fb_noise *noise)
{
    if (distance >= 1)
        return bernoulli(exp(-(double)distance / tail->scale) * tail->normaliser, noise);
    return !bernoulli(exp(((double)distance - 1.0) / tail->scale) * tail->normaliser, noise);
}

static int64_t draw_magnitude(double scale, fb_noise *noise)
{
    int64_t magnitude = 0;
    for (int bit = 0; bit < MAGNITUDE_BITS; bit++) {
        const double odds = exp(-ldexp(1.0, bit) / scale);
        magnitude |= (int64_t)bernoulli(odds / (1.0 + odds), noise) << bit;
    }
    return magnitude;
}

int64_t fb_tail_draw(double scale, fb_noise *noise)
{
    for (;;) {
        const int64_t magnitude = draw_magnitude(scale, noise);
        const int minus = fb_noise_byte(noise) & 1;
        if (!minus || magnitude != 0) /* (minus, 0) is drawn again, which leaves 0 its probability */
            return minus ? -magnitude : magnitude;
    }
}
