/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of tail.h and draws by them, on processor and graphics processor. tail.c says why they are exact.
 */
#pragma once

#include "privacy/fixed.h"
#include "privacy/stream.h"

#define FB_TAIL_LN_2 UINT64_C(0xB17217F7D1CF79AB) /* Q64 */

enum {
    FB_TAIL_CELLS = 256,
    FB_TAIL_MAGNITUDE_BITS = 62,
    FB_TAIL_INTEGER_BITS = 40,
    FB_TAIL_CHUNK_BITS = 16,
    FB_TAIL_CHUNK_BYTES = 2,
    FB_TAIL_REST_BYTES = 8
};

/* The tables of one scale; initialised by fb_tail_of, nothing to destroy. */
typedef struct fb_tail {
    uint64_t rate; /* log2(e) / scale = rate * 2^-(64 + rate_shift), rate in [2^63, 2^64) */
    int rate_shift;
    uint64_t normaliser;                /* 1 / (1 + exp(-1/scale)) in Q64 */
    uint16_t coarse[FB_TAIL_CELLS + 1]; /* 2^(-i/256) * normaliser in Q16, rounded down */
} fb_tail;

/* 2^-y */
typedef struct fb_power {
    int64_t integer;   /* of y; -1: 2^40 or more */
    uint64_t fraction; /* of y, in Q64 */
} fb_power;

FB_HD static inline fb_power fb_tail_power(const fb_tail *tail, uint64_t m)
{
    const fb_wide product = (fb_wide)m * tail->rate; /* y * 2^(64 + rate_shift), below 2^127 */
    const int shift = tail->rate_shift;
    fb_power power = {0, 0};
    if (shift >= 128 || product == 0)
        return power;
    if (shift >= 0 ? product >> shift >> FB_TAIL_INTEGER_BITS >> 64 != 0
                   : -shift >= 64 + FB_TAIL_INTEGER_BITS || product >> (64 + FB_TAIL_INTEGER_BITS + shift) != 0) {
        power.integer = -1;
        return power;
    }
    const fb_wide y = shift >= 0 ? product >> shift : product << -shift;
    power.integer = (int64_t)(y >> 64);
    power.fraction = (uint64_t)y;
    return power;
}

/* 2^-f in Q63 for f in Q64 */
FB_HD static inline uint64_t fb_power_exp2(uint64_t f)
{
    return fb_fixed_exp_minus(fb_fixed_mul_high(f, FB_TAIL_LN_2));
}

/* a / (1 + a) = 2^-integer * result / 2^64 for a = 2^-y, and with `complement` 1 / (1 + a) = result / 2^64. */
FB_HD static inline uint64_t fb_power_over_one_more(fb_power y, int complement)
{
    const uint64_t one = UINT64_C(1) << 63, mantissa = fb_power_exp2(y.fraction);
    const fb_wide sum = (fb_wide)one + (y.integer >= 64 || y.integer < 0 ? 0 : mantissa >> y.integer);
    const fb_wide quotient = ((fb_wide)(complement ? one : mantissa) << 64) / sum;
    return quotient >> 64 ? UINT64_MAX : (uint64_t)quotient;
}

/* 1 when a random binary fraction, whose next 16 bits are `chunk`, is below 2^-integer p, p in Q63 and integer < 16. */
FB_HD static inline int fb_draw_below_fraction(uint64_t chunk, int64_t integer, uint64_t p, fb_stream *stream)
{
    const fb_wide random = (fb_wide)chunk << 64 | fb_stream_take(stream, FB_TAIL_REST_BYTES);
    return random < (fb_wide)p << (FB_TAIL_CHUNK_BITS + 1 - integer);
}

/* Takes 16 bits. While `integer` says that all of them must be 0 it takes more, or says that they were not. */
FB_HD static inline int fb_draw_chunk(int64_t *integer, uint64_t *chunk, fb_stream *stream)
{
    for (;;) {
        fb_stream_reserve(stream, FB_TAIL_CHUNK_BYTES + FB_TAIL_REST_BYTES);
        *chunk = fb_stream_take(stream, FB_TAIL_CHUNK_BYTES);
        if (*integer < FB_TAIL_CHUNK_BITS)
            return 1;
        if (*chunk != 0)
            return 0;
        *integer -= FB_TAIL_CHUNK_BITS;
    }
}

/* 1 with probability exp(-m / scale) / (1 + exp(-1 / scale)) */
FB_HD static inline int fb_draw_reaches_above(const fb_tail *tail, uint64_t m, fb_stream *stream)
{
    fb_power y = fb_tail_power(tail, m);
    uint64_t chunk;
    if (y.integer < 0 || !fb_draw_chunk(&y.integer, &chunk, stream))
        return 0;
    const uint64_t cell = y.fraction >> 56;
    const int below = chunk < (uint64_t)tail->coarse[cell + 1] >> y.integer;
    const int above = chunk > (uint64_t)tail->coarse[cell] >> y.integer;
    if (__builtin_expect(below | above, 1)) /* one branch that is foreseen, where two would be tossed */
        return below;
    return fb_draw_below_fraction(chunk, y.integer, fb_fixed_mul_high(fb_power_exp2(y.fraction), tail->normaliser),
                                  stream);
}

FB_HD static inline int fb_draw_below_power(int64_t integer, uint64_t fraction, fb_stream *stream)
{
    uint64_t chunk;
    return fb_draw_chunk(&integer, &chunk, stream) &&
           fb_draw_below_fraction(chunk, integer, fb_power_exp2(fraction), stream);
}

FB_HD static inline int fb_draw_reaches(const fb_tail *tail, int64_t distance, fb_stream *stream)
{
    const int lower = distance < 1;
    return lower ^ fb_draw_reaches_above(tail, (uint64_t)(lower ? 1 - distance : distance), stream);
}

FB_HD static inline uint64_t fb_draw_tail_magnitude(const fb_tail *tail, fb_stream *stream)
{
    uint64_t magnitude = 0;
    for (int bit = 0; bit < FB_TAIL_MAGNITUDE_BITS; bit++) {
        fb_power y = fb_tail_power(tail, UINT64_C(1) << bit);
        const uint64_t p = fb_power_over_one_more(y, 0) >> 1;
        uint64_t chunk;
        if (y.integer >= 0 && fb_draw_chunk(&y.integer, &chunk, stream))
            magnitude |= (uint64_t)fb_draw_below_fraction(chunk, y.integer, p, stream) << bit;
    }
    return magnitude;
}

FB_HD static inline int64_t fb_draw_tail(const fb_tail *tail, fb_stream *stream)
{
    for (;;) {
        const int64_t magnitude = (int64_t)fb_draw_tail_magnitude(tail, stream);
        fb_stream_reserve(stream, 1);
        const int minus = (int)(fb_stream_take(stream, 1) & 1);
        if (!minus || magnitude != 0) /* (minus, 0) is drawn again, which leaves 0 its probability */
            return minus ? -magnitude : magnitude;
    }
}
