/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/loss.h"

#include "nn/chunk.h"

#include <string.h>

enum { BATCH = 256 }; /* voxels whose probabilities stay in the first-level cache */

static const double smooth = 1e-5;

typedef struct sums {
    double both[FB_REGIONS];    /* sum of p g */
    double squares[FB_REGIONS]; /* sum of p^2 */
    double truth[FB_REGIONS];   /* sum of g (= g^2) */
} sums;

/* exp(x) for x in [-708, 708] to about 2 ulp, without a branch so that loops over it become vector code:
 * x = k ln 2 + r with |r| <= ln 2 / 2, Taylor's series of e^r, and k put into the exponent bits. */
static inline double exp_fast(double x)
{
    static const double taylor[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
    const double to_integer = 0x1.8p52; /* adding it leaves round(x / ln 2) in the low bits */
    const double shifted = x * 1.4426950408889634 + to_integer, k = shifted - to_integer;
    const double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33; /* ln 2 in two parts, the first short */
    double series = taylor[0];
    for (int i = 1; i < (int)(sizeof taylor / sizeof taylor[0]); i++)
        series = series * r + taylor[i];
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

static inline double sigmoid(double x)
{
    const double lowest = -700.0, highest = 700.0;
    x = x < lowest ? lowest : x > highest ? highest : x;
    return 1.0 / (1.0 + exp_fast(-x));
}

static inline double is_in(uint8_t regions, int r)
{
    return (double)(regions >> r & 1);
}

static void add_batch(int64_t count, const double *p, const uint8_t *target, sums *s)
{
    for (int r = 0; r < FB_REGIONS; r++) {
        double both = 0.0, squares = 0.0, truth = 0.0;
#pragma omp simd reduction(+ : both, squares, truth)
        for (int64_t v = 0; v < count; v++) {
            const double g = is_in(target[v], r), q = p[v * FB_REGIONS + r];
            both += q * g;
            squares += q * q;
            truth += g;
        }
        s->both[r] += both;
        s->squares[r] += squares;
        s->truth[r] += truth;
    }
}

/* Sums over voxels [begin, end); leaves the probabilities in `kept` when it is not NULL. */
static void sum_range(int64_t begin, int64_t end, const fb_real *logits, const uint8_t *target, fb_real *kept, sums *s)
{
    double p[BATCH * FB_REGIONS];
    for (int64_t v = begin; v < end; v += BATCH) {
        const int64_t count = end - v < BATCH ? end - v : BATCH;
#pragma omp simd
        for (int64_t i = 0; i < count * FB_REGIONS; i++)
            p[i] = sigmoid((double)logits[v * FB_REGIONS + i]);
        add_batch(count, p, target + v, s);
        for (int64_t i = 0; kept && i < count * FB_REGIONS; i++)
            kept[v * FB_REGIONS + i] = (fb_real)p[i];
    }
}

static sums sum_all(int64_t voxels, const fb_real *logits, const uint8_t *target, fb_real *kept)
{
    sums part[FB_CHUNKS] = {0}, all = {0};
#pragma omp parallel for
    for (int chunk = 0; chunk < FB_CHUNKS; chunk++)
        sum_range(fb_chunk_begin(voxels, chunk), fb_chunk_begin(voxels, chunk + 1), logits, target, kept, &part[chunk]);
    for (int chunk = 0; chunk < FB_CHUNKS; chunk++)
        for (int r = 0; r < FB_REGIONS; r++) {
            all.both[r] += part[chunk].both[r];
            all.squares[r] += part[chunk].squares[r];
            all.truth[r] += part[chunk].truth[r];
        }
    return all;
}

double fb_dice_loss(int64_t voxels, const fb_real *logits, const uint8_t *target, fb_real *dlogits)
{
    const sums s = sum_all(voxels, logits, target, dlogits);
    double loss = 0.0, per_truth[FB_REGIONS], per_p[FB_REGIONS]; /* dL/dp = per_truth * g + per_p * p */
    for (int r = 0; r < FB_REGIONS; r++) {
        const double denominator = s.squares[r] + s.truth[r] + smooth;
        loss += (1.0 - 2.0 * s.both[r] / denominator) / FB_REGIONS;
        per_truth[r] = -2.0 / denominator / FB_REGIONS;
        per_p[r] = 4.0 * s.both[r] / (denominator * denominator) / FB_REGIONS;
    }
    if (!dlogits)
        return loss;
#pragma omp parallel for
    for (int64_t v = 0; v < voxels; v++)
        for (int r = 0; r < FB_REGIONS; r++) {
            const double p = (double)dlogits[v * FB_REGIONS + r];
            const double dp = per_truth[r] * is_in(target[v], r) + per_p[r] * p;
            dlogits[v * FB_REGIONS + r] = (fb_real)(dp * p * (1.0 - p));
        }
    return loss;
}
