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
#include "privacy/noise_stream.h"

#include <math.h>

enum {
    DIGITS_MAX = 8,
    DIGIT_BITS = 8,
    DIGIT_VALUES = 256,
    MAGNITUDE_BITS = 62,
    LOW_BITS = FB_ALIAS_BITS - DIGIT_BITS, /* of a cut, after its top byte */
    TIE_BYTES = LOW_BITS / 8,
    DRAW_BYTES_MAX = DIGITS_MAX * (2 + TIE_BYTES) + 4 /* the sign; 8 bytes are read where 5 are taken */
};

/* i t of the last entry of a table at most: e^-24 has 77 bits of the 112; and of the end of the last table at least. */
static const long double TABLE_END = 24.0L, LAST_END = 12.0L;

/* Slot i of 256 holds digit i below its cut and digit other[i] from there on. */
typedef struct digit_table {
    uint8_t cut_high[DIGIT_VALUES]; /* the top byte of the cut */
    uint8_t other[DIGIT_VALUES];
    fb_wide cut_low[DIGIT_VALUES]; /* the other 104 bits */
} digit_table;

struct fb_geometric {
    int digits;
    uint64_t more;                 /* of the last digit: it says "so much and more" */
    uint64_t last_limit;           /* of the last digit, so that the whole is below 2^62 */
    digit_table table[DIGITS_MAX]; /* lowest digit first */
};

struct fb_laplace {
    fb_geometric magnitude;
};

/* The table of a geometric digit of ratio e^-t: of the values 0..values-1, and with `more` of an entry for the rest. */
static void make_table(long double t, int values, int more, digit_table *table)
{
    long double share[DIGIT_VALUES] = {0.0L};
    fb_wide weight[DIGIT_VALUES], cut[DIGIT_VALUES];
    uint16_t other[DIGIT_VALUES];
    for (int i = 0; i < values; i++)
        share[i] = expl(-(long double)i * t) * -expm1l(-t);
    if (more)
        share[values] = expl(-(long double)values * t);
    fb_alias_weigh(DIGIT_VALUES, share, weight);
    fb_alias_build(DIGIT_VALUES, weight, cut, other);
    for (int i = 0; i < DIGIT_VALUES; i++) {
        table->cut_high[i] = (uint8_t)(cut[i] >> LOW_BITS);
        table->cut_low[i] = cut[i] & (((fb_wide)1 << LOW_BITS) - 1);
        table->other[i] = (uint8_t)other[i];
    }
}

static void make_geometric(long double rate, fb_geometric *out)
{
    FB_ASSERT(rate >= 0x1p-54L && rate < TABLE_END);
    long double t = rate;
    int digits = 1;
    for (; t * DIGIT_VALUES < LAST_END; t *= DIGIT_VALUES)
        make_table(t, DIGIT_VALUES, 0, &out->table[digits++ - 1]);
    FB_ASSERT(digits <= DIGITS_MAX);
    out->digits = digits;
    out->more = (uint64_t)fminl(TABLE_END / t, DIGIT_VALUES - 1);
    out->last_limit = UINT64_C(1) << (MAGNITUDE_BITS - DIGIT_BITS * (digits - 1));
    make_table(t, (int)out->more, 1, &out->table[digits - 1]);
}

fb_status fb_geometric_create(long double rate, fb_geometric **out)
{
    FB_TRY(FB_ALLOC(*out, 1, "noise tables"));
    make_geometric(rate, *out);
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
    make_geometric(1.0L / (long double)scale, &(*out)->magnitude);
    return FB_OK;
}

void fb_laplace_destroy(fb_laplace **laplace)
{
    FB_FREE(*laplace);
}

/* The top byte of the random number equals the cut's: 104 more bits decide. */
static int below_cut(fb_noise *noise, fb_wide cut_low)
{
    const fb_wide low = fb_noise_take(noise, 8);
    return (low | (fb_wide)fb_noise_take(noise, TIE_BYTES - 8) << 64) < cut_low;
}

static uint64_t draw_digit(const digit_table *table, fb_noise *noise)
{
    const uint8_t slot = noise->buffer[noise->position], high = noise->buffer[noise->position + 1];
    noise->position += 2;
    const uint8_t cut = table->cut_high[slot];
    if (__builtin_expect(high == cut, 0))
        return below_cut(noise, table->cut_low[slot]) ? slot : table->other[slot];
    return high < cut ? slot : table->other[slot];
}

/* The last digit when its table said "more". */
static __attribute__((noinline)) uint64_t draw_more(const fb_geometric *g, fb_noise *noise)
{
    uint64_t sum = 0, digit = g->more;
    while (digit == g->more) {
        sum += digit;
        fb_noise_reserve(noise, DRAW_BYTES_MAX);
        digit = draw_digit(&g->table[g->digits - 1], noise);
    }
    return sum + digit;
}

static inline uint64_t draw_geometric(const fb_geometric *g, fb_noise *noise)
{
    const int last = g->digits - 1;
    for (;;) {
        uint64_t low = 0;
        fb_noise_reserve(noise, DRAW_BYTES_MAX);
        for (int j = 0; j < last; j++)
            low |= draw_digit(&g->table[j], noise) << (DIGIT_BITS * j);
        uint64_t high = draw_digit(&g->table[last], noise);
        if (__builtin_expect(high == g->more, 0))
            high = draw_more(g, noise);
        if (__builtin_expect(high < g->last_limit, 1))
            return high << (DIGIT_BITS * last) | low;
    }
}

uint64_t fb_geometric_draw(const fb_geometric *geometric, fb_noise *noise)
{
    return draw_geometric(geometric, noise);
}

int64_t fb_laplace_draw(const fb_laplace *laplace, fb_noise *noise)
{
    for (;;) {
        const uint64_t magnitude = draw_geometric(&laplace->magnitude, noise);
        const int64_t sign = -(int64_t)(noise->buffer[noise->position++] & 1); /* 0 or -1 */
        if (sign == 0 || magnitude != 0)
            return ((int64_t)magnitude ^ sign) - sign; /* without a branch on the sign */
    }
}
