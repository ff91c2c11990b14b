/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of random draws share: Kolmogorov-Smirnov, Anderson-Darling and chi-square of numbers that should be
 * uniform, with limits at a significance of 1e-6 each, and scripts in place of a key stream. A discrete variable X of
 * distribution F becomes uniform as F(X - 1) + V P(X), V uniform; no approximation is made for it.
 */
#pragma once

#include "blocks.h"
#include "core/mem.h"
#include "privacy/noise_stream.h"
#include "testing.h"

#include <math.h>

static const double Z_TWO_SIDED = 4.8916, Z_ONE_SIDED = 4.7534; /* of 1e-6 */

/* sqrt(n) D: 2 exp(-2 x^2) = 1e-6. A^2 is the sum of chi-squares over j (j + 1), whose tail is sqrt(3) erfc(sqrt(x)).
 */
static const double KS_LIMIT = 2.6935, AD_LIMIT = 12.50;

enum { UNIFORM_BINS = 1 << 16, UNIFORM_GROUP = 1 << 8 };

typedef struct uniform_sample {
    int64_t n, *count;   /* count (UNIFORM_BINS) */
    uint64_t randomiser; /* state behind V */
} uniform_sample;

/* Of the empirical distribution at the 2^16 - 1 edges; what lies between edges adds 1/2^16 at most. */
typedef struct verdict {
    double ks, ad, chi; /* chi: as a standard normal */
} verdict;

static inline uniform_sample make_sample(void)
{
    uniform_sample sample = {.randomiser = 1};
    must(FB_ALLOC(sample.count, UNIFORM_BINS, "bins"));
    return sample;
}

/* V, uniform in (0, 1) (Vigna's splitmix64) */
static inline double randomise(uniform_sample *sample)
{
    uint64_t z = sample->randomiser += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return ((double)((z ^ z >> 31) >> 12) + 0.5) * 0x1p-52;
}

static inline void add_uniform(uniform_sample *sample, double u)
{
    const int bin = (int)(u * UNIFORM_BINS);
    sample->count[bin < 0 ? 0 : bin < UNIFORM_BINS ? bin : UNIFORM_BINS - 1]++;
    sample->n++;
}

/* Chi-square over groups of bins that halve towards both ends, as a standard normal (Wilson & Hilferty). */
static inline double chi_square_z(const uniform_sample *sample)
{
    double statistic = 0.0, groups = 0.0;
    int width;
    for (int from = 0; from < UNIFORM_BINS; from += width) {
        const int left = UNIFORM_BINS - from;
        width = from < UNIFORM_GROUP ? (from > 0 ? from : 1) : left > UNIFORM_GROUP ? UNIFORM_GROUP : (left + 1) / 2;
        double seen = 0.0;
        for (int bin = from; bin < from + width; bin++)
            seen += (double)sample->count[bin];
        const double expected = (double)sample->n * width / UNIFORM_BINS;
        statistic += (seen - expected) * (seen - expected) / expected;
        groups += 1.0;
    }
    const double freedom = groups - 1.0, v = 2.0 / (9.0 * freedom);
    return (cbrt(statistic / freedom) - (1.0 - v)) / sqrt(v);
}

/* Judges the sample and frees it. */
static inline verdict judge(uniform_sample *sample)
{
    verdict v = {.chi = chi_square_z(sample)};
    const double n = (double)sample->n;
    double below = 0.0;
    for (int edge = 1; edge < UNIFORM_BINS; edge++) {
        below += (double)sample->count[edge - 1];
        const double u = (double)edge / UNIFORM_BINS, off = below / n - u;
        v.ks = fmax(v.ks, fabs(off));
        v.ad += off * off / (u * (1.0 - u));
    }
    v.ks *= sqrt(n);
    v.ad *= n / UNIFORM_BINS;
    FB_FREE(sample->count);
    return v;
}

#define must_pass(v, what, parameter) must_pass_at(v, what, parameter, __LINE__)
#define must_be_rejected(v, what, parameter) must_be_rejected_at(v, what, parameter, __LINE__)

static inline void must_pass_at(verdict v, const char *what, double parameter, int line)
{
    if (v.ks > KS_LIMIT || v.ad > AD_LIMIT || v.chi > Z_ONE_SIDED)
        fail_msg("line %d, %s, %g: KS %g, AD %g, z of chi-square %g", line, what, parameter, v.ks, v.ad, v.chi);
}

/* By each of the three. */
static inline void must_be_rejected_at(verdict v, const char *what, double parameter, int line)
{
    if (!(v.ks > KS_LIMIT && v.ad > AD_LIMIT && v.chi > Z_ONE_SIDED))
        fail_msg("line %d, %s, %g: KS %g, AD %g, z of chi-square %g", line, what, parameter, v.ks, v.ad, v.chi);
}

static inline fb_noise *make_noise(uint64_t seed)
{
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    must(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    fb_noise_seek(noise, &(fb_noise_address){.purpose = FB_NOISE_ANSWER});
    return noise;
}

/* --- scripts --- */

/* The stream goes on with these bytes, and after them with bytes of 0. noise->stream.position is how many have been
 * used. */
static inline void script(fb_noise *noise, const uint8_t *bytes, size_t count)
{
    memset(noise->stream.buffer, 0, sizeof noise->stream.buffer);
    if (count > 0)
        memcpy(noise->stream.buffer, bytes, count);
    noise->stream.position = 0;
}

/* Overwrites `count` bytes of the script from `at` on with a little-endian number, and begins it anew. */
static inline void rescript(fb_noise *noise, size_t at, int count, uint64_t value)
{
    for (int i = 0; i < count; i++)
        noise->stream.buffer[at + (size_t)i] = (uint8_t)(value >> (8 * i));
    noise->stream.position = 0;
}
