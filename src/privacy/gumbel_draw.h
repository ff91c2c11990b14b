/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of gumbel.h and a draw by them, on processor and graphics processor. gumbel.c says why it is exact.
 */
#pragma once

#include "privacy/fixed.h"
#include "privacy/stream.h"

#define FB_GUMBEL_LN_2_Q56 INT64_C(0xB17217F7D1CF79)
#define FB_GUMBEL_LN_2_Q57 UINT64_C(0x162E42FEFA39EF3)

enum {
    FB_GUMBEL_FRACTION_BITS = 40,
    FB_GUMBEL_CELL_BITS = 7,
    FB_GUMBEL_Y_BITS = 57,
    FB_GUMBEL_WORD_BYTES = 8,
    FB_GUMBEL_ZERO_BYTES_MAX = 127,
    FB_GUMBEL_ZEROS_SMALL = 120,  /* E is below 128 */
    FB_GUMBEL_EXPONENT_MIN = -960 /* of y, below which no more bits are read */
};

/* Cell i holds the mantissas from (128 + i) / 256 on. */
typedef struct fb_gumbel_cell {
    uint16_t inverse; /* of the cell's middle, in Q15 */
    int64_t log;      /* of that, in Q63 */
} fb_gumbel_cell;

typedef struct fb_gumbel {
    fb_gumbel_cell cell[1 << FB_GUMBEL_CELL_BITS];
} fb_gumbel;

FB_HD static inline int64_t fb_gumbel_mul_high(int64_t a, int64_t b)
{
    return (int64_t)((fb_signed_wide)a * b >> 64);
}

/* -ln(m / 2^64) in Q63, m at least 2^63. With c the inverse of the cell's middle, ln(c) - ln(1 + r), r = c m - 1: in
 * Q70 the 1 is 2^70, which leaves the lower 64 bits of the product, and |r| < 2^-7.9 has room in them. */
FB_HD static inline int64_t fb_gumbel_log(const fb_gumbel *gumbel, uint64_t m)
{
    const fb_gumbel_cell *cell = &gumbel->cell[m >> (63 - FB_GUMBEL_CELL_BITS) & ((1 << FB_GUMBEL_CELL_BITS) - 1)];
    const int64_t r = (int64_t)((m >> 9) * cell->inverse), one = (int64_t)(~UINT64_C(0) >> 1); /* 2^63 - 1 */
    int64_t sum = one / 6;
    for (int n = 5; n >= 2; n--)
        sum = one / n - (fb_gumbel_mul_high(r, sum) >> 6); /* Q70 * Q63 -> Q69 -> Q63 */
    return cell->log - (r >> 7) + (fb_gumbel_mul_high(r, fb_gumbel_mul_high(r, sum)) >> 12);
}

/* G = -ln(2^exponent * m / 2^64) */
FB_HD static inline int64_t fb_gumbel_finish(const fb_gumbel *gumbel, uint64_t m, int exponent)
{
    const fb_signed_wide g = (fb_gumbel_log(gumbel, m) >> 7) - (fb_signed_wide)exponent * FB_GUMBEL_LN_2_Q56;
    const int drop = 56 - FB_GUMBEL_FRACTION_BITS;
    return (int64_t)((g + (INT64_C(1) << (drop - 1))) >> drop);
}

/* K = 0 and y < 2^-8, whose first 56 bits after a 0 are given. */
FB_HD_COLD static int64_t fb_draw_gumbel_small(const fb_gumbel *gumbel, uint64_t top, fb_stream *stream)
{
    int exponent = 64 - FB_GUMBEL_Y_BITS;
    for (; top == 0 && exponent > FB_GUMBEL_EXPONENT_MIN; exponent -= 64) {
        fb_stream_reserve(stream, FB_GUMBEL_WORD_BYTES);
        top = fb_stream_take(stream, FB_GUMBEL_WORD_BYTES);
    }
    fb_stream_reserve(stream, FB_GUMBEL_WORD_BYTES);
    fb_wide y = (fb_wide)top << 64 | fb_stream_take(stream, FB_GUMBEL_WORD_BYTES);
    y += y == 0;
    for (; y >> 127 == 0; y <<= 1)
        exponent--;
    const uint64_t mantissa = (uint64_t)(y >> 64), fraction = -exponent < 64 ? mantissa >> -exponent : 0; /* y in Q64 */
    uint64_t sum = ~UINT64_C(0) / 7;
    for (unsigned n = 6; n >= 2; n--)
        sum = ~UINT64_C(0) / n + fb_fixed_mul_high(fraction, sum);
    fb_wide product = (fb_wide)mantissa + fb_fixed_mul_high(mantissa, fb_fixed_mul_high(fraction, sum));
    for (; product >> 64 != 0; product >>= 1)
        exponent++;
    return fb_gumbel_finish(gumbel, (uint64_t)product, exponent);
}

/* The zeros before the first 1 of a random string that begins with a byte of them. */
FB_HD_COLD static uint64_t fb_draw_zeros(fb_stream *stream)
{
    uint64_t zeros = 8;
    for (int i = 1; i < FB_GUMBEL_ZERO_BYTES_MAX; i++, zeros += 8) {
        fb_stream_reserve(stream, 1);
        const uint64_t byte = fb_stream_take(stream, 1);
        if (byte != 0)
            return zeros + (uint64_t)fb_hd_ctz64(byte);
    }
    return zeros;
}

FB_HD static inline int64_t fb_draw_gumbel(const fb_gumbel *gumbel, fb_stream *stream)
{
    fb_stream_reserve(stream, FB_GUMBEL_WORD_BYTES);
    const uint64_t word = fb_stream_take(stream, FB_GUMBEL_WORD_BYTES), top = word >> 8;
    const uint64_t zeros = (word & 0xFF) != 0 ? (uint64_t)fb_hd_ctz64(word) : fb_draw_zeros(stream);
    if (__builtin_expect(zeros == 0 && top < UINT64_C(1) << (FB_GUMBEL_Y_BITS - 8), 0))
        return fb_draw_gumbel_small(gumbel, top, stream);
    const uint64_t rest = -((top << 7) + (1 << 6));          /* 1 - y, y in the middle of its cell */
    const int drop = zeros < FB_GUMBEL_ZEROS_SMALL ? 0 : 10; /* E in Q57 or Q47 */
    const uint64_t e = zeros * (FB_GUMBEL_LN_2_Q57 >> drop) + (uint64_t)(fb_gumbel_log(gumbel, rest) >> (6 + drop));
    const int shift = fb_hd_clz64(e);
    return fb_gumbel_finish(gumbel, e << shift, 7 + drop - shift);
}
