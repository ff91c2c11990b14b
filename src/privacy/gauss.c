/* SPDX-License-Identifier: Apache-2.0
 *
 * The half line x >= 0 is cut into m <= 1023 strips of W = 2^k integers, the least k >= 0 with 1023 W >= 5 sigma, up to
 * L = m W near 5 sigma, and a tail. A strip is drawn by the alias method with the weight w(lo) of its first integer,
 * w(x) = exp(-x^2 / (2 sigma^2)), then one of its W integers uniformly, which is accepted with probability w(x) /
 * w(lo); otherwise all is drawn again. The ratio is at least 0.9 and on average above 0.99: 11 random bits are below
 * its least value in the strip nearly always and end the comparison; if not, it is computed in fixed point and compared
 * with 63. With W = 1 (sigma up to 204) there is nothing to compare. A random sign follows; (minus, 0) is drawn again,
 * which leaves 0 its probability.
 *
 * The tail, once in 1.7 million draws (where sigma is not small): L + y, y geometric of ratio a = exp(-L / sigma^2), is
 * accepted with probability exp(-y^2 / (2 sigma^2)), since w(L + y) = w(L) a^y exp(-y^2 / (2 sigma^2)); otherwise all
 * is drawn again. Its weight beside the strips is w(L) / (1 - a) / W.
 *
 * Relative error of a probability, in units of u = 2^-64, half an ulp of the long double of the weights:
 *
 *   - e = (lo / sigma)^2 / 2 is off by 3u, relatively, and expl by 2 ulp (glibc states 1): the weight of a strip by
 *     (3 e + 4) u, e <= 12.5, of the tail by 10u more; their sum by 6u, because the mean of e is below 1/2; 6u more by
 *     alias.h, and no weight that counts is below 2^-36 of a slot: less than 65u.
 *
 *   - The exponent of a ratio is v times the curvature c < 2^-14. v is truncated to 2^-53, the product to 2^-65 and
 *     2^-64, c to 2^-76 (times v < 2^11) after a rounding by 3u, relatively: in all at most 4u. The exponential adds 4u
 *     of 0.9 or more: 9u for a ratio.
 *
 *   - In the tail, y t (t = L / sigma^2) of the geometric variable costs (6 y t + 264) u (laplace.c). The exponent of
 *     the last ratio is off by 4u, relatively, and 16u: with x = z sigma and e = z^2 / 2, both exponents add up to less
 *     than e, so that it is below (6 e + 280) u.
 *
 *   - Leaving out (minus, 0) divides all by the same number. In all below fb_noise_rounding(e), (8 e + 8192) u.
 *
 *   - Values from 2^62 on are drawn again: 64 sigma or more.
 *
 * Rounding the continuous Gaussian, of density f: the integer k gets F(k), the integral of f(k + s) over |s| <= 1/2, so
 * F(k) / f(k) is the mean of exp(-k s / sigma^2 - s^2 / (2 sigma^2)) over these s. At least that is exp(-1 / (24
 * sigma^2)), by Jensen's inequality, since s has mean 0 and s^2 mean 1/12; at most it is the mean of cosh(k s /
 * sigma^2), sinh(h) / h <= exp(h^2 / 6) with h = k / (2 sigma^2). The discrete Gaussian is f(k) / S, S the sum of
 * f over the integers, which by Poisson's summation is 1 + 2 sum over j >= 1 of exp(-2 pi^2 sigma^2 j^2). So up to
 * |k| = z sigma the factor is at most exp(z^2 / (24 sigma^2)) S.
 */
#include "privacy/gauss.h"

#include "core/mem.h"
#include "privacy/fixed.h"
#include "privacy/laplace.h"
#include "privacy/noise_stream.h"
#include "privacy/tail.h"

#include <math.h>

enum {
    SLOTS = 1024,
    SLOT_BITS = 10,
    COARSE_BITS = 10, /* of the cut, and of the number compared with it */
    SQUEEZE_BITS = 11,
    HEADER_BYTES = 4,
    LOW_BITS = FB_ALIAS_BITS - COARSE_BITS, /* of the cut */
    TIE_BYTES = 13,                         /* 104 bits */
    DRAW_BYTES_MAX = HEADER_BYTES + TIE_BYTES + 7 + 8
};

static const double TAIL_BEGINS = 5.0;                    /* sigma */
static const uint64_t EXPONENT_LIMIT = UINT64_C(1) << 40; /* of 2: what is less probable is never drawn */
static const int64_t MAGNITUDE_LIMIT = INT64_C(1) << 62;

struct fb_gauss {
    int width_log2, offset_bytes;
    uint64_t strips;    /* m; slot m is the tail */
    uint64_t curvature; /* W^2 / (2 sigma^2) in Q76 */
    uint16_t cut_high[SLOTS], other[SLOTS];
    uint16_t sure[SLOTS]; /* the least ratio of the strip in Q11 */
    fb_wide cut[SLOTS];
    fb_geometric *tail;
    uint64_t tail_rate; /* log2(e) / (2 sigma^2) = tail_rate * 2^(tail_exponent - 64), tail_rate in [2^63, 2^64) */
    int tail_exponent;
};

/* w(x) / w(lo) in Q63 of the integer `offset` above the first of a strip. The exponent is curvature times
 * v = offset (2 lo + offset) / W^2, v < 2^11 in Q53. */
static uint64_t find_ratio(const fb_gauss *gauss, uint64_t strip, uint64_t offset)
{
    const int k = gauss->width_log2, shift = 2 * k - 53;
    const fb_wide product = (fb_wide)offset * ((strip << (k + 1)) + offset);
    const uint64_t v = (uint64_t)(shift >= 0 ? product >> shift : product << -shift);
    return fb_fixed_exp_minus(fb_fixed_mul_high(v, gauss->curvature) >> 1); /* Q129 -> Q65 -> Q64 */
}

static void fill_tables(double sigma, fb_gauss *gauss)
{
    long double share[SLOTS] = {0.0L};
    fb_wide weight[SLOTS];
    const uint64_t width = UINT64_C(1) << gauss->width_log2, tail = gauss->strips;
    const long double step = (long double)width / (long double)sigma;
    if (width > 1) /* otherwise there are no ratios */
        gauss->curvature = (uint64_t)(step * step * 0x1p75L);
    for (uint64_t i = 0; i <= tail; i++) {
        const long double z = (long double)width * (long double)i / (long double)sigma;
        share[i] = expl(-z * z / 2.0L);
        gauss->sure[i] = (uint16_t)(find_ratio(gauss, i, width - 1) >> (63 - SQUEEZE_BITS));
    }
    const long double beyond = -expm1l(-(long double)tail * step / (long double)sigma); /* 1 - a */
    share[tail] = share[tail] / beyond / (long double)width;
    fb_alias_weigh(SLOTS, share, weight);
    fb_alias_build(SLOTS, weight, gauss->cut, gauss->other);
    for (int i = 0; i < SLOTS; i++)
        gauss->cut_high[i] = (uint16_t)(gauss->cut[i] >> LOW_BITS);
}

static fb_status make_tail(double sigma, fb_gauss *gauss)
{
    static const long double log2_e = 1.44269504088896340735992468100189214L;
    const long double square = (long double)sigma * (long double)sigma;
    const long double begin = (long double)(gauss->strips << gauss->width_log2);
    gauss->tail_rate = (uint64_t)(frexpl(log2_e / 2.0L / square, &gauss->tail_exponent) * 0x1p64L);
    return fb_geometric_create(begin / square, &gauss->tail);
}

fb_status fb_gauss_create(double sigma, fb_gauss **out)
{
    if (!(sigma >= FB_GAUSS_SIGMA_MIN && sigma <= FB_GAUSS_SIGMA_MAX))
        return FB_FAIL("noise sigma %g grid steps: must be from 1/4 to 2^56; change the noise multiplier or the clip",
                       sigma);
    fb_gauss *gauss = NULL;
    FB_TRY(FB_ALLOC(gauss, 1, "noise tables"));
    while (ldexp(SLOTS - 1, gauss->width_log2) < TAIL_BEGINS * sigma)
        gauss->width_log2++;
    gauss->offset_bytes = (gauss->width_log2 + 7) / 8;
    gauss->strips = (uint64_t)fmax(1.0, ldexp(TAIL_BEGINS * sigma, -gauss->width_log2));
    fill_tables(sigma, gauss);
    const fb_status status = make_tail(sigma, gauss);
    *out = gauss;
    if (status != FB_OK)
        fb_gauss_destroy(out);
    return status;
}

void fb_gauss_destroy(fb_gauss **gauss)
{
    if (*gauss)
        fb_geometric_destroy(&(*gauss)->tail);
    FB_FREE(*gauss);
}

/* The first bits of the random number equal the cut's: the others decide. */
static int below_cut(fb_noise *noise, fb_wide cut)
{
    const fb_wide low = fb_noise_take(noise, 8), random = low | (fb_wide)fb_noise_take(noise, TIE_BYTES - 8) << 64;
    return random >> (8 * TIE_BYTES - LOW_BITS) < (cut & (((fb_wide)1 << LOW_BITS) - 1));
}

static int below_ratio(const fb_gauss *gauss, uint64_t strip, uint64_t offset, uint64_t squeeze, fb_noise *noise)
{
    const uint64_t random = squeeze << (63 - SQUEEZE_BITS) | fb_noise_take(noise, 8) >> (SQUEEZE_BITS + 1);
    return random < find_ratio(gauss, strip, offset);
}

/* 1 with probability exp(-y^2 / (2 sigma^2)) = 2^-x: y^2 at full width, x = product * 2^-shift in Q64. */
static int below_square(const fb_gauss *gauss, uint64_t y, fb_noise *noise)
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
    return integer < EXPONENT_LIMIT && fb_tail_below_power((int64_t)integer, (uint64_t)x, noise);
}

/* A magnitude of the tail; -1: all is to be drawn again. */
static __attribute__((noinline)) int64_t draw_tail(const fb_gauss *gauss, fb_noise *noise)
{
    const uint64_t y = fb_geometric_draw(gauss->tail, noise);
    const int64_t magnitude = (int64_t)((gauss->strips << gauss->width_log2) + y);
    return below_square(gauss, y, noise) && magnitude < MAGNITUDE_LIMIT ? magnitude : -1;
}

int64_t fb_gauss_draw(const fb_gauss *gauss, fb_noise *noise)
{
    const uint64_t offset_mask = (UINT64_C(1) << gauss->width_log2) - 1;
    for (;;) {
        fb_noise_reserve(noise, DRAW_BYTES_MAX);
        const uint64_t header = fb_noise_take(noise, HEADER_BYTES);
        const uint64_t slot = header & (SLOTS - 1), coarse = header >> SLOT_BITS & ((1 << COARSE_BITS) - 1);
        const uint64_t squeeze = header >> (SLOT_BITS + COARSE_BITS) & ((1 << SQUEEZE_BITS) - 1);
        const int64_t sign = -(int64_t)(header >> 31); /* 0 or -1 */
        const uint64_t cut_high = gauss->cut_high[slot];
        uint64_t strip = coarse < cut_high ? slot : gauss->other[slot];
        if (__builtin_expect(coarse == cut_high, 0) && below_cut(noise, gauss->cut[slot]))
            strip = slot;
        if (__builtin_expect(strip == gauss->strips, 0)) {
            const int64_t magnitude = draw_tail(gauss, noise);
            if (magnitude >= 0)
                return (magnitude ^ sign) - sign;
            continue;
        }
        const uint64_t offset = fb_noise_take(noise, gauss->offset_bytes) & offset_mask;
        if (__builtin_expect(squeeze >= gauss->sure[strip], 0) && !below_ratio(gauss, strip, offset, squeeze, noise))
            continue;
        const int64_t magnitude = (int64_t)((strip << gauss->width_log2) + offset);
        if (sign == 0 || magnitude != 0)
            return (magnitude ^ sign) - sign;
    }
}

double fb_gauss_to_continuous(double sigma, double reach)
{
    const double pi = acos(-1.0), q = exp(-2.0 * pi * pi * sigma * sigma);
    const double summed = log1p(2.0 * q / (1.0 - q)); /* log S: the sum of q^(j^2) is at most that of q^j */
    return (fmax(1.0, reach * reach) / (24.0 * sigma * sigma) + summed) * (1.0 + 0x1p-40); /* rounding */
}

double fb_gauss_reach(double shift)
{
    return sqrt(2.0 * FB_NOISE_REACHED) + shift;
}

double fb_gauss_exponent(double shift)
{
    const double reach = fb_gauss_reach(shift);
    return 0.5 * reach * reach;
}
