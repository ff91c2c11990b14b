/* SPDX-License-Identifier: Apache-2.0
 *
 * exp(-m / scale) = 2^-y with y = m log2(e) / scale = k + f, k an integer and f in [0, 1) in Q64; 2^-f in fixed point.
 * A random binary fraction is compared with 2^-k g, g in [1/4, 1]: k leading zeros first, 16 bits at a time, then 16
 * bits with bounds of g from a table of 256 cells, and only when these do not decide (once in 200 times) with all 64
 * bits of g.
 *
 * Relative error of a probability:
 *   - the rate is a quotient of integers rounded down, of a constant rounded down: off by 2^-63 + 2^-126, relatively;
 *     y by as much, and by 2^-64 where a shift drops bits: 2^-y by y ln 2 (2^-63 + 2^-126) + 2^-64, y ln 2 = x;
 *   - 2^-f, at least 1/2: by 2^-62 + 2^-64 (f ln 2 rounded), relatively 2^-60; the normaliser, which rests on such a
 *     power and one division, and the product by less than 2^-60 each: together below 2^-58.
 * The complement of p <= 1/2 is off by no more than p. In all less than x 2^-63 + 2^-57.
 */
#include "privacy/tail.h"

#include "privacy/noise_stream.h"
#include "privacy/tail_draw.h"

#include <math.h>

static const uint64_t LOG2_E[2] = {UINT64_C(0x5C551D94AE0BF85D), UINT64_C(0xDF43FF68348E9F44)}; /* Q126 */

fb_tail fb_tail_of(double scale)
{
    fb_tail tail = {0};
    int exponent;
    FB_ASSERT(scale > 0.0 && scale <= 0x1p56);
    const uint64_t mantissa = (uint64_t)ldexp(frexp(scale, &exponent), 53); /* scale = mantissa * 2^(exponent - 53) */
    const fb_wide log2_e = (fb_wide)LOG2_E[0] << 64 | LOG2_E[1];
    fb_wide rate = log2_e / mantissa; /* * 2^-126 * 2^(53 - exponent) */
    int shift = 126 - 53 + exponent - 64;
    for (; rate >> 64 != 0; rate >>= 1)
        shift--;
    tail.rate = (uint64_t)rate;
    tail.rate_shift = shift;
    tail.normaliser = fb_power_over_one_more(fb_tail_power(&tail, 1), 1);
    for (uint64_t i = 0; i <= FB_TAIL_CELLS; i++) {
        const uint64_t g = i == FB_TAIL_CELLS ? UINT64_C(1) << 62 : fb_power_exp2(i << 56);
        tail.coarse[i] = (uint16_t)(fb_fixed_mul_high(g, tail.normaliser) >> 47);
    }
    return tail;
}

int fb_tail_below_power(int64_t integer, uint64_t fraction, fb_noise *noise)
{
    return fb_draw_below_power(integer, fraction, &noise->stream);
}

int fb_tail_reaches(const fb_tail *tail, int64_t distance, fb_noise *noise)
{
    return fb_draw_reaches(tail, distance, &noise->stream);
}

int64_t fb_tail_draw(const fb_tail *tail, fb_noise *noise)
{
    return fb_draw_tail(tail, &noise->stream);
}
