/* SPDX-License-Identifier: Apache-2.0
 *
 * The half line x >= 0 is cut into 1024 strips of W = 2^k integers, the least k >= 0 with 1024 W >= 9.9 sigma. A strip
 * is drawn by the alias method with the weight w(lo) of its first integer, w(x) = exp(-x^2 / (2 sigma^2)), then one of
 * its W integers uniformly, which is accepted with probability w(x) / w(lo); otherwise all is drawn again. The ratio is
 * at least 0.68 and on average above 0.99: 11 random bits are below its least value in the strip nearly always and end
 * the comparison; if not, it is computed in fixed point and compared with 63. With W = 1 (sigma up to 103) there is
 * nothing to compare. A random sign follows; (minus, 0) is drawn again, which leaves 0 its probability.
 *
 * Error of a draw in total variation, in units of u = 2^-64, half an ulp of the long double of the weights:
 *
 *   - e = (lo / sigma)^2 / 2 is off by 3u, relatively, and expl by 2 ulp (glibc states 1): a weight by (3e + 4) u, on
 *     average 5.5u, because the mean of e is 1/2 (at most: strips are taken at their near end). Their sum, added
 *     exactly, by 5.5u, its conversion by u, the quotient by u, rounding 1024 of them down to multiples of 2^-74 by u:
 *     14u in L1 norm. Putting what the sum lacks on weight 0 at most doubles this; total variation is half of it: 14u.
 *
 *   - The exponent of a ratio is v times the curvature c < 2^-12. v is truncated to 2^-53, the product to 2^-65 and
 *     2^-64, c to 2^-76 (times v < 2^11) after a rounding by 3u, relatively: in all at most 4u where weights count.
 *     The exponential adds 4u: 8u for every integer, divided by the part that is accepted 9u.
 *
 *   - Integers left out: P(X >= 9.9 sigma) < 2^-70 = u / 64.
 *
 *   - Leaving out (minus, 0) divides the distance by the probability of the rest: at least 1/2 where W = 1, 0.99 where
 *     ratios are compared. The maximum, 28u + u / 32 (23.3u with ratios), is below 2^-57 = 128u.
 *
 * Rounding the continuous Gaussian (density f, F(k) its mass within 1/2 of the integer k). Taylor's remainder is
 * F(k) - f(k) = integral of K(s) f''(k + s) over |s| <= 1/2 with K(s) = (1/2 - |s|)^2 / 2. Summed over k in absolute
 * values, that is at most the integral of |f''| times the periodic K, whose mean is 1/24. The integral of |f''| is
 * 4 max|f'| = 4 e^(-1/2) / (sqrt(2 pi) sigma^2); K - 1/24 has a periodic integral M, |M| <= 1 / (72 sqrt 3), so that,
 * by parts, the rest is at most max|M| times the integral of |f'''|, 2 (1 + 4 e^(-3/2)) / (sqrt(2 pi) sigma^3). The
 * discrete Gaussian is f(k) / S, and by Poisson's summation S = 1 + 2 sum over m >= 1 of exp(-2 pi^2 sigma^2 m^2).
 * Together, total variation being half the sum of the distances,
 *
 *     e^(-1/2) / (12 sqrt(2 pi) sigma^2) + (1 + 4 e^(-3/2)) / (72 sqrt(6 pi) sigma^3) + (S - 1) / 2.
 */
#include "privacy/gauss.h"

#include "core/mem.h"
#include "privacy/fixed.h"
#include "privacy/noise_stream.h"

#include <math.h>

enum {
    STRIPS = 1024,
    STRIP_BITS = 10,
    COARSE_BITS = 10, /* of the cut, and of the number compared with it */
    SQUEEZE_BITS = 11,
    HEADER_BYTES = 4,
    DRAW_BYTES_MAX = HEADER_BYTES + 8 + 7 + 8
};

static const double SIGMA_MIN = 0x1p-6, SIGMA_MAX = 0x1p56;

struct fb_gauss {
    int width_log2, offset_bytes;
    uint64_t curvature; /* W^2 / (2 sigma^2) in Q76 */
    uint16_t cut_high[STRIPS], other[STRIPS];
    uint16_t sure[STRIPS]; /* the least ratio of the strip in Q11 */
    uint64_t cut[STRIPS];
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
    long double share[STRIPS];
    fb_wide weight[STRIPS];
    const uint64_t width = UINT64_C(1) << gauss->width_log2;
    const long double step = (long double)width / (long double)sigma;
    gauss->curvature = (uint64_t)(step * step * 0x1p75L);
    for (int i = 0; i < STRIPS; i++) {
        const long double z = (long double)width * (long double)i / (long double)sigma;
        share[i] = expl(-z * z / 2.0L);
        gauss->sure[i] = (uint16_t)(find_ratio(gauss, (uint64_t)i, width - 1) >> (63 - SQUEEZE_BITS));
    }
    fb_alias_weigh(STRIPS, share, weight);
    fb_alias_build(STRIPS, weight, gauss->cut, gauss->other);
    for (int i = 0; i < STRIPS; i++)
        gauss->cut_high[i] = (uint16_t)(gauss->cut[i] >> (64 - COARSE_BITS));
}

fb_status fb_gauss_create(double sigma, fb_gauss **out)
{
    if (!(sigma >= SIGMA_MIN && sigma <= SIGMA_MAX))
        return FB_FAIL("noise sigma %g grid steps: must be at least 2^-6 and at most 2^56; change the noise multiplier "
                       "or the clip",
                       sigma);
    fb_gauss *gauss = NULL;
    FB_TRY(FB_ALLOC(gauss, 1, "noise tables"));
    while (ldexp(STRIPS, gauss->width_log2) < 9.9 * sigma)
        gauss->width_log2++;
    gauss->offset_bytes = (gauss->width_log2 + 7) / 8;
    fill_tables(sigma, gauss);
    *out = gauss;
    return FB_OK;
}

void fb_gauss_destroy(fb_gauss **gauss)
{
    FB_FREE(*gauss);
}

/* The first bits of the random number equal the cut's: the others decide. */
static int below_cut(fb_noise *noise, uint64_t cut)
{
    return fb_noise_take(noise, 8) >> COARSE_BITS < (cut & UINT64_MAX >> COARSE_BITS);
}

static int below_ratio(const fb_gauss *gauss, uint64_t strip, uint64_t offset, uint64_t squeeze, fb_noise *noise)
{
    const uint64_t random = squeeze << (63 - SQUEEZE_BITS) | fb_noise_take(noise, 8) >> (SQUEEZE_BITS + 1);
    return random < find_ratio(gauss, strip, offset);
}

int64_t fb_gauss_draw(const fb_gauss *gauss, fb_noise *noise)
{
    const uint64_t offset_mask = (UINT64_C(1) << gauss->width_log2) - 1;
    for (;;) {
        fb_noise_reserve(noise, DRAW_BYTES_MAX);
        const uint64_t header = fb_noise_take(noise, HEADER_BYTES);
        const uint64_t slot = header & (STRIPS - 1), coarse = header >> STRIP_BITS & ((1 << COARSE_BITS) - 1);
        const uint64_t squeeze = header >> (STRIP_BITS + COARSE_BITS) & ((1 << SQUEEZE_BITS) - 1);
        const int64_t sign = -(int64_t)(header >> 31); /* 0 or -1 */
        const uint64_t cut_high = gauss->cut_high[slot];
        uint64_t strip = coarse < cut_high ? slot : gauss->other[slot];
        if (__builtin_expect(coarse == cut_high, 0) && below_cut(noise, gauss->cut[slot]))
            strip = slot;
        const uint64_t offset = fb_noise_take(noise, gauss->offset_bytes) & offset_mask;
        if (__builtin_expect(squeeze >= gauss->sure[strip], 0) && !below_ratio(gauss, strip, offset, squeeze, noise))
            continue;
        const int64_t magnitude = (int64_t)((strip << gauss->width_log2) + offset);
        if (sign == 0 || magnitude != 0)
            return (magnitude ^ sign) - sign;
    }
}

double fb_gauss_tv_continuous(double sigma)
{
    const double pi = acos(-1.0), q = exp(-2.0 * pi * pi * sigma * sigma);
    const double second = exp(-0.5) / (12.0 * sqrt(2.0 * pi) * sigma * sigma);
    const double third = (1.0 + 4.0 * exp(-1.5)) / (72.0 * sqrt(6.0 * pi) * sigma * sigma * sigma);
    const double normaliser = q / (1.0 - q);                           /* sum of q^(m^2) <= sum of q^m */
    return fmin(1.0, (second + third + normaliser) * (1.0 + 0x1p-40)); /* rounding */
}
