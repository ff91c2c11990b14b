/* SPDX-License-Identifier: Apache-2.0
 *
 * A geometric variable G, P(G = x) = (1 - a) a^x, a = e^-t: its base-256 digits are independent, digit j being a
 * geometric variable of ratio e^(-256^j t) truncated to 0..255, the last one not truncated. Each is drawn by Walker's
 * alias method from a table of integers. The table of the last digit ends where its probabilities have become small, at
 * m values; one more entry, of the probability of all the rest, says "m and more": m is added and the digit drawn
 * again, since G has no memory. So every value can occur, each with its probability. Of the 112 bits that an alias cut
 * is compared with, 8 decide but for one draw in 256.
 *
 * Discrete Laplace: a geometric magnitude of rate 1 / s and a random sign; (minus, 0) is drawn again, which leaves 0
 * its probability.
 *
 * Relative error of a probability, in units of u = 2^-64, half an ulp of the long doubles that tables are made of:
 *
 *   - t is off by at most 2u (1 / s by u; the rate of gauss.c by 2u), i t by u more, expl by 2 ulp (glibc states 1),
 *     the factor 1 - e^-t by 6u, their product by u: the share of value i of a digit by (3 i t + 12) u, the sum of
 *     shares by 15u, because E[i t] = t / (e^t - 1) <= 1, and the weight by 6u (alias.h) against its share. No weight
 *     is below e^-24 of a slot, of which a unit of 2^-112 is less than 2^-13 u. Together (3 i t + 33) u a digit.
 *
 *   - A value x needs at most 8 digits and x t / 11 repetitions (m t > 11), and its i t add up to x t: (6 x t + 264) u.
 *     Leaving out (minus, 0) divides all by the same number, which is off by 264u. fb_noise_rounding has room: it is
 *     (8 x t + 8192) u.
 *
 *   - Values from 2^62 on are drawn again; at the largest scale they have the probability e^-1024.
 */
#include "privacy/laplace.h"

#include "core/mem.h"
#include "privacy/alias.h"
#include "privacy/laplace_draw.h"
#include "privacy/noise_stream.h"

#include <math.h>

enum { MAGNITUDE_BITS = 62 };

/* i t of the last entry of a table at most: e^-24 has 77 bits of the 112; and of the end of the last table at least. */
static const long double TABLE_END = 24.0L, LAST_END = 12.0L;

/* The table of a geometric digit of ratio e^-t: of the values 0..values-1, and with `more` of an entry for the rest. */
static void make_table(long double t, int values, int more, fb_digit_table *table)
{
    long double share[FB_DIGIT_VALUES] = {0.0L};
    fb_wide weight[FB_DIGIT_VALUES], cut[FB_DIGIT_VALUES];
    uint16_t other[FB_DIGIT_VALUES];
    for (int i = 0; i < values; i++)
        share[i] = expl(-(long double)i * t) * -expm1l(-t);
    if (more)
        share[values] = expl(-(long double)values * t);
    fb_alias_weigh(FB_DIGIT_VALUES, share, weight);
    fb_alias_build(FB_DIGIT_VALUES, weight, cut, other);
    for (int i = 0; i < FB_DIGIT_VALUES; i++) {
        table->cut_high[i] = (uint8_t)(cut[i] >> FB_DIGIT_LOW_BITS);
        table->cut_low[i] = cut[i] & (((fb_wide)1 << FB_DIGIT_LOW_BITS) - 1);
        table->other[i] = (uint8_t)other[i];
    }
}

void fb_geometric_make(long double rate, fb_geometric *out)
{
    FB_ASSERT(rate >= 0x1p-54L && rate < TABLE_END);
    long double t = rate;
    int digits = 1;
    for (; t * FB_DIGIT_VALUES < LAST_END; t *= FB_DIGIT_VALUES)
        make_table(t, FB_DIGIT_VALUES, 0, &out->table[digits++ - 1]);
    FB_ASSERT(digits <= FB_DIGITS_MAX);
    out->digits = digits;
    out->more = (uint64_t)fminl(TABLE_END / t, FB_DIGIT_VALUES - 1);
    out->last_limit = UINT64_C(1) << (MAGNITUDE_BITS - FB_DIGIT_BITS * (digits - 1));
    make_table(t, (int)out->more, 1, &out->table[digits - 1]);
}

fb_status fb_geometric_create(long double rate, fb_geometric **out)
{
    FB_TRY(FB_ALLOC(*out, 1, "noise tables"));
    fb_geometric_make(rate, *out);
    return FB_OK;
}

void fb_geometric_destroy(fb_geometric **geometric)
{
    FB_FREE(*geometric);
}

fb_status fb_laplace_create(double scale, fb_laplace **out)
{
    if (!(scale >= FB_LAPLACE_SCALE_MIN && scale <= FB_LAPLACE_SCALE_MAX))
        return FB_FAIL("noise scale %g grid steps: must be from 2^-4 to 2^52; change epsilon or the clip", scale);
    FB_TRY(FB_ALLOC(*out, 1, "noise tables"));
    fb_geometric_make(1.0L / (long double)scale, &(*out)->magnitude);
    return FB_OK;
}

void fb_laplace_destroy(fb_laplace **laplace)
{
    FB_FREE(*laplace);
}

uint64_t fb_geometric_draw(const fb_geometric *geometric, fb_noise *noise)
{
    return fb_draw_geometric(geometric, &noise->stream);
}

int64_t fb_laplace_draw(const fb_laplace *laplace, fb_noise *noise)
{
    return fb_draw_laplace(laplace, &noise->stream);
}

void fb_laplace_block(const fb_laplace *laplace, fb_stream *stream, int64_t block, int count, int64_t *x)
{
    const size_t bytes = (size_t)count * (2 * (size_t)laplace->magnitude.digits + 1); /* but for tied cuts */
    fb_stream_seek(stream, (uint64_t)block, bytes + bytes / 16);
    for (int k = 0; k < count; k++)
        x[k] = fb_draw_laplace(laplace, stream);
}
