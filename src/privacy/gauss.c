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
#include "privacy/alias.h"
#include "privacy/gauss_draw.h"
#include "privacy/laplace.h"
#include "privacy/noise_stream.h"

#include <math.h>

enum { SLOTS = FB_GAUSS_SLOTS };

static const double TAIL_BEGINS = 5.0; /* sigma */

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
        gauss->sure[i] = (uint16_t)(fb_gauss_ratio(gauss, i, width - 1) >> (63 - FB_GAUSS_SQUEEZE_BITS));
    }
    const long double beyond = -expm1l(-(long double)tail * step / (long double)sigma); /* 1 - a */
    share[tail] = share[tail] / beyond / (long double)width;
    fb_alias_weigh(SLOTS, share, weight);
    fb_alias_build(SLOTS, weight, gauss->cut, gauss->other);
    for (int i = 0; i < SLOTS; i++)
        gauss->cut_high[i] = (uint16_t)(gauss->cut[i] >> FB_GAUSS_LOW_BITS);
}

static void make_tail(double sigma, fb_gauss *gauss)
{
    static const long double log2_e = 1.44269504088896340735992468100189214L;
    const long double square = (long double)sigma * (long double)sigma;
    const long double begin = (long double)(gauss->strips << gauss->width_log2);
    gauss->tail_rate = (uint64_t)(frexpl(log2_e / 2.0L / square, &gauss->tail_exponent) * 0x1p64L);
    fb_geometric_make(begin / square, &gauss->tail);
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
    make_tail(sigma, gauss);
    *out = gauss;
    return FB_OK;
}

void fb_gauss_destroy(fb_gauss **gauss)
{
    FB_FREE(*gauss);
}

int64_t fb_gauss_draw(const fb_gauss *gauss, fb_noise *noise)
{
    return fb_draw_gauss(gauss, &noise->stream);
}

void fb_gauss_block(const fb_gauss *gauss, fb_stream *stream, int64_t block, int count, int64_t *x)
{
    const size_t bytes = (size_t)count * (FB_GAUSS_HEADER_BYTES + (size_t)gauss->offset_bytes); /* but for ties */
    fb_stream_seek(stream, (uint64_t)block, bytes + bytes / 16);
    for (int k = 0; k < count; k++)
        x[k] = fb_draw_gauss(gauss, stream);
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
