/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of gauss.h and a draw by them, on processor and graphics processor. gauss.c says why it is exact.
 */
#pragma once

#include "privacy/laplace_draw.h"
#include "privacy/tail_draw.h"

enum {
    FB_GAUSS_SLOTS = 1024,
    FB_GAUSS_SLOT_BITS = 10,
    FB_GAUSS_COARSE_BITS = 10, /* of the cut, and of the number compared with it */
    FB_GAUSS_SQUEEZE_BITS = 11,
    FB_GAUSS_HEADER_BYTES = 4,
    FB_GAUSS_LOW_BITS = 102, /* of a cut of FB_ALIAS_BITS, after its first 10 */
    FB_GAUSS_TIE_BYTES = 13, /* 104 bits */
    FB_GAUSS_BYTES_MAX = FB_GAUSS_HEADER_BYTES + FB_GAUSS_TIE_BYTES + 7 + 8, /* but for the tail */
    FB_GAUSS_EXPONENT_BITS = 40, /* of 2: what is less probable is never drawn */
    FB_GAUSS_MAGNITUDE_BITS = 62
};

typedef struct fb_gauss {
    int width_log2, offset_bytes;
    uint64_t strips;    /* m; slot m is the tail */
    uint64_t curvature; /* W^2 / (2 sigma^2) in Q76 */
    uint16_t cut_high[FB_GAUSS_SLOTS], other[FB_GAUSS_SLOTS];
    uint16_t sure[FB_GAUSS_SLOTS]; /* the least ratio of the strip in Q11 */
    fb_wide cut[FB_GAUSS_SLOTS];
    uint64_t tail_rate; /* log2(e) / (2 sigma^2) = tail_rate * 2^(tail_exponent - 64), tail_rate in [2^63, 2^64) */
    int tail_exponent;
    fb_geometric tail;
} fb_gauss;

/* w(x) / w(lo) in Q63 of the integer `offset` above the first of a strip. The exponent is curvature times
 * v = offset (2 lo + offset) / W^2, v < 2^11 in Q53. */
FB_HD static inline uint64_t fb_gauss_ratio(const fb_gauss *gauss, uint64_t strip, uint64_t offset)
{
    const int k = gauss->width_log2, shift = 2 * k - 53;
    const fb_wide product = (fb_wide)offset * ((strip << (k + 1)) + offset);
    const uint64_t v = (uint64_t)(shift >= 0 ? product >> shift : product << -shift);
    return fb_fixed_exp_minus(fb_fixed_mul_high(v, gauss->curvature) >> 1); /* Q129 -> Q65 -> Q64 */
}

/* The first bits of the random number equal the cut's: the others decide. */
FB_HD static inline int fb_draw_below_long_cut(fb_stream *stream, fb_wide cut)
{
    const fb_wide low = fb_stream_take(stream, 8);
    const fb_wide random = low | (fb_wide)fb_stream_take(stream, FB_GAUSS_TIE_BYTES - 8) << 64;
    return random >> (8 * FB_GAUSS_TIE_BYTES - FB_GAUSS_LOW_BITS) < (cut & (((fb_wide)1 << FB_GAUSS_LOW_BITS) - 1));
}

FB_HD static inline int fb_draw_below_ratio(const fb_gauss *gauss, uint64_t strip, uint64_t offset, uint64_t squeeze,
                                            fb_stream *stream)
{
    const uint64_t low = fb_stream_take(stream, 8) >> (FB_GAUSS_SQUEEZE_BITS + 1);
    return (squeeze << (63 - FB_GAUSS_SQUEEZE_BITS) | low) < fb_gauss_ratio(gauss, strip, offset);
}

/* 1 with probability exp(-y^2 / (2 sigma^2)) = 2^-x: y^2 at full width, x = product * 2^-shift in Q64. */
FB_HD static inline int fb_draw_below_square(const fb_gauss *gauss, uint64_t y, fb_stream *stream)
{
    fb_wide square = (fb_wide)y * y;
    int shift = -gauss->tail_exponent - 64;
    if (y == 0)
        return 1;
    for (; square >> 127 == 0; square <<= 1)
        shift++;
    const fb_wide product = (square >> 64) * gauss->tail_rate + fb_fixed_mul_high((uint64_t)square, gauss->tail_rate);
    const fb_wide x = shift < 0 ? ~(fb_wide)0 : shift < 128 ? product >> shift : 0;
    const uint64_t integer = (uint64_t)(x >> 64);
    return integer >> FB_GAUSS_EXPONENT_BITS == 0 && fb_draw_below_power((int64_t)integer, (uint64_t)x, stream);
}

/* A magnitude of the tail; -1: all is to be drawn again. */
FB_HD_COLD static int64_t fb_draw_gauss_tail(const fb_gauss *gauss, fb_stream *stream)
{
    const uint64_t y = fb_draw_geometric(&gauss->tail, stream);
    const int64_t magnitude = (int64_t)((gauss->strips << gauss->width_log2) + y);
    return fb_draw_below_square(gauss, y, stream) && magnitude >> FB_GAUSS_MAGNITUDE_BITS == 0 ? magnitude : -1;
}

FB_HD static inline int64_t fb_draw_gauss(const fb_gauss *gauss, fb_stream *stream)
{
    const uint64_t offset_mask = (UINT64_C(1) << gauss->width_log2) - 1;
    for (;;) {
        fb_stream_reserve(stream, FB_GAUSS_BYTES_MAX);
        const uint64_t header = fb_stream_take(stream, FB_GAUSS_HEADER_BYTES);
        const uint64_t slot = header & (FB_GAUSS_SLOTS - 1);
        const uint64_t coarse = header >> FB_GAUSS_SLOT_BITS & ((1 << FB_GAUSS_COARSE_BITS) - 1);
        const uint64_t squeeze =
            header >> (FB_GAUSS_SLOT_BITS + FB_GAUSS_COARSE_BITS) & ((1 << FB_GAUSS_SQUEEZE_BITS) - 1);
        const int64_t sign = -(int64_t)(header >> 31); /* 0 or -1 */
        const uint64_t cut_high = gauss->cut_high[slot];
        uint64_t strip = coarse < cut_high ? slot : gauss->other[slot];
        if (__builtin_expect(coarse == cut_high, 0) && fb_draw_below_long_cut(stream, gauss->cut[slot]))
            strip = slot;
        if (__builtin_expect(strip == gauss->strips, 0)) {
            const int64_t magnitude = fb_draw_gauss_tail(gauss, stream);
            if (magnitude >= 0)
                return (magnitude ^ sign) - sign;
            continue;
        }
        const uint64_t offset = fb_stream_take(stream, gauss->offset_bytes) & offset_mask;
        if (__builtin_expect(squeeze >= gauss->sure[strip], 0) &&
            !fb_draw_below_ratio(gauss, strip, offset, squeeze, stream))
            continue;
        const int64_t magnitude = (int64_t)((strip << gauss->width_log2) + offset);
        if (sign == 0 || magnitude != 0)
            return (magnitude ^ sign) - sign;
    }
}
