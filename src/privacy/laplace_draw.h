/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of laplace.h and a draw by them, on processor and graphics processor. laplace.c says why it is exact.
 */
#pragma once

#include "privacy/fixed.h"
#include "privacy/stream.h"

enum {
    FB_DIGITS_MAX = 8,
    FB_DIGIT_BITS = 8,
    FB_DIGIT_VALUES = 256,
    FB_DIGIT_LOW_BITS = 104, /* of a cut of FB_ALIAS_BITS, after its top byte */
    FB_DIGIT_TIE_BYTES = FB_DIGIT_LOW_BITS / 8,
    FB_GEOMETRIC_BYTES_MAX = FB_DIGITS_MAX * (2 + FB_DIGIT_TIE_BYTES) + 1 /* of a draw, and a sign */
};

/* Slot i of 256 holds digit i below its cut and digit other[i] from there on. */
typedef struct fb_digit_table {
    uint8_t cut_high[FB_DIGIT_VALUES]; /* the top byte of the cut */
    uint8_t other[FB_DIGIT_VALUES];
    fb_wide cut_low[FB_DIGIT_VALUES]; /* the other 104 bits */
} fb_digit_table;

typedef struct fb_geometric {
    int digits;
    uint64_t more;                       /* of the last digit: it says "so much and more" */
    uint64_t last_limit;                 /* of the last digit, so that the whole is below 2^62 */
    fb_digit_table table[FB_DIGITS_MAX]; /* lowest digit first */
} fb_geometric;

typedef struct fb_laplace {
    fb_geometric magnitude;
} fb_laplace;

/* The top byte of the random number equals the cut's: 104 more bits decide. */
FB_HD static inline int fb_draw_below_cut(fb_stream *stream, fb_wide cut_low)
{
    const fb_wide low = fb_stream_take(stream, 8);
    return (low | (fb_wide)fb_stream_take(stream, FB_DIGIT_TIE_BYTES - 8) << 64) < cut_low;
}

FB_HD static inline uint64_t fb_draw_digit(const fb_digit_table *table, fb_stream *stream)
{
    const uint64_t pair = fb_stream_take(stream, 2);
    const uint8_t slot = (uint8_t)pair, high = (uint8_t)(pair >> 8);
    const uint8_t cut = table->cut_high[slot];
    if (__builtin_expect(high == cut, 0))
        return fb_draw_below_cut(stream, table->cut_low[slot]) ? slot : table->other[slot];
    return high < cut ? slot : table->other[slot];
}

/* The last digit when its table said "more". */
FB_HD_COLD static uint64_t fb_draw_more(const fb_geometric *g, fb_stream *stream)
{
    uint64_t sum = 0, digit = g->more;
    while (digit == g->more) {
        sum += digit;
        fb_stream_reserve(stream, FB_GEOMETRIC_BYTES_MAX);
        digit = fb_draw_digit(&g->table[g->digits - 1], stream);
    }
    return sum + digit;
}

/* Below 2^62; FB_GEOMETRIC_BYTES_MAX holds a sign byte beyond it. */
FB_HD static inline uint64_t fb_draw_geometric(const fb_geometric *g, fb_stream *stream)
{
    const int last = g->digits - 1;
    for (;;) {
        uint64_t low = 0;
        fb_stream_reserve(stream, FB_GEOMETRIC_BYTES_MAX);
        for (int j = 0; j < last; j++)
            low |= fb_draw_digit(&g->table[j], stream) << (FB_DIGIT_BITS * j);
        uint64_t high = fb_draw_digit(&g->table[last], stream);
        if (__builtin_expect(high == g->more, 0))
            high = fb_draw_more(g, stream);
        if (__builtin_expect(high < g->last_limit, 1))
            return high << (FB_DIGIT_BITS * last) | low;
    }
}

FB_HD static inline int64_t fb_draw_laplace(const fb_laplace *laplace, fb_stream *stream)
{
    for (;;) {
        const uint64_t magnitude = fb_draw_geometric(&laplace->magnitude, stream);
        const int64_t sign = -(int64_t)(fb_stream_take(stream, 1) & 1); /* 0 or -1 */
        if (sign == 0 || magnitude != 0)
            return ((int64_t)magnitude ^ sign) - sign; /* without a branch on the sign */
    }
}
