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

#include "privacy/fixed.h"
#include "privacy/noise_stream.h"

#include <math.h>

enum { MAGNITUDE_BITS = 62, INTEGER_BITS = 40, CHUNK_BITS = 16, CHUNK_BYTES = 2, REST_BYTES = 8 };

static const uint64_t LN_2 = UINT64_C(0xB17217F7D1CF79AB);                                      /* Q64 */
static const uint64_t LOG2_E[2] = {UINT64_C(0x5C551D94AE0BF85D), UINT64_C(0xDF43FF68348E9F44)}; /* Q126 */

/* 2^-y */
typedef struct power {
    int64_t integer;   /* of y; -1: 2^40 or more */
    uint64_t fraction; /* of y, in Q64 */
} power;

static power find_power(const fb_tail *tail, uint64_t m)
{
    const fb_wide product = (fb_wide)m * tail->rate; /* y * 2^(64 + rate_shift), below 2^127 */
    const int shift = tail->rate_shift;
    if (shift >= 128 || product == 0)
        return (power){0, 0};
    if (shift >= 0 ? product >> shift >> INTEGER_BITS >> 64 != 0
                   : -shift >= 64 + INTEGER_BITS || product >> (64 + INTEGER_BITS + shift) != 0)
        return (power){-1, 0};
    const fb_wide y = shift >= 0 ? product >> shift : product << -shift;
    return (power){(int64_t)(y >> 64), (uint64_t)y};
}

/* 2^-f in Q63 for f in Q64 */
static uint64_t exp2_minus(uint64_t f)
{
    return fb_fixed_exp_minus(fb_fixed_mul_high(f, LN_2));
}

/* a / (1 + a) = 2^-integer * result / 2^64 for a = 2^-y, and with `complement` 1 / (1 + a) = result / 2^64. */
static uint64_t divide_by_one_more(power y, int complement)
{
    const uint64_t one = UINT64_C(1) << 63, mantissa = exp2_minus(y.fraction);
    const fb_wide sum = (fb_wide)one + (y.integer >= 64 || y.integer < 0 ? 0 : mantissa >> y.integer);
    const fb_wide quotient = ((fb_wide)(complement ? one : mantissa) << 64) / sum;
    return quotient >> 64 ? UINT64_MAX : (uint64_t)quotient;
}

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
    tail.normaliser = divide_by_one_more(find_power(&tail, 1), 1);
    for (uint64_t i = 0; i <= FB_TAIL_CELLS; i++) {
        const uint64_t g = i == FB_TAIL_CELLS ? UINT64_C(1) << 62 : exp2_minus(i << 56);
        tail.coarse[i] = (uint16_t)(fb_fixed_mul_high(g, tail.normaliser) >> 47);
    }
    return tail;
}

/* 1 when a random binary fraction, whose next 16 bits are `chunk`, is below 2^-integer p, p in Q63 and integer < 16. */
static int below_fraction(uint64_t chunk, int64_t integer, uint64_t p, fb_noise *noise)
{
    const fb_wide random = (fb_wide)chunk << 64 | fb_noise_take(noise, REST_BYTES);
    return random < (fb_wide)p << (CHUNK_BITS + 1 - integer);
}

/* Takes 16 bits. While `integer` says that all of them must be 0 it takes more, or says that they were not. */
static int take_chunk(int64_t *integer, uint64_t *chunk, fb_noise *noise)
{
    for (;;) {
        fb_noise_reserve(noise, CHUNK_BYTES + REST_BYTES);
        *chunk = fb_noise_take(noise, CHUNK_BYTES);
        if (*integer < CHUNK_BITS)
            return 1;
        if (*chunk != 0)
            return 0;
        *integer -= CHUNK_BITS;
    }
}

/* 1 with probability exp(-m / scale) / (1 + exp(-1 / scale)) */
static int is_reached(const fb_tail *tail, uint64_t m, fb_noise *noise)
{
    power y = find_power(tail, m);
    uint64_t chunk;
    if (y.integer < 0 || !take_chunk(&y.integer, &chunk, noise))
        return 0;
    const uint64_t cell = y.fraction >> 56;
    const int below = chunk < (uint64_t)tail->coarse[cell + 1] >> y.integer;
    const int above = chunk > (uint64_t)tail->coarse[cell] >> y.integer;
    if (__builtin_expect(below | above, 1)) /* one branch that is foreseen, where two would be tossed */
        return below;
    return below_fraction(chunk, y.integer, fb_fixed_mul_high(exp2_minus(y.fraction), tail->normaliser), noise);
}

int fb_tail_below_power(int64_t integer, uint64_t fraction, fb_noise *noise)
{
    uint64_t chunk;
    return take_chunk(&integer, &chunk, noise) && below_fraction(chunk, integer, exp2_minus(fraction), noise);
}

int fb_tail_reaches(const fb_tail *tail, int64_t distance, fb_noise *noise)
{
    const int lower = distance < 1;
    return lower ^ is_reached(tail, (uint64_t)(lower ? 1 - distance : distance), noise);
}

static uint64_t draw_magnitude(const fb_tail *tail, fb_noise *noise)
{
    uint64_t magnitude = 0;
    for (int bit = 0; bit < MAGNITUDE_BITS; bit++) {
        power y = find_power(tail, UINT64_C(1) << bit);
        const uint64_t p = divide_by_one_more(y, 0) >> 1;
        uint64_t chunk;
        if (y.integer >= 0 && take_chunk(&y.integer, &chunk, noise))
            magnitude |= (uint64_t)below_fraction(chunk, y.integer, p, noise) << bit;
    }
    return magnitude;
}

int64_t fb_tail_draw(const fb_tail *tail, fb_noise *noise)
{
    for (;;) {
        const int64_t magnitude = (int64_t)draw_magnitude(tail, noise);
        const int minus = fb_noise_byte(noise) & 1;
        if (!minus || magnitude != 0) /* (minus, 0) is drawn again, which leaves 0 its probability */
            return minus ? -magnitude : magnitude;
    }
}
