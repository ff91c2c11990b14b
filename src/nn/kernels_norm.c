/* SPDX-License-Identifier: Apache-2.0
 *
 * GroupNorm with ReLU, forward and backward. See nn/kernels.h.
 */
#include "nn/kernels.h"

#include <math.h>
#include <string.h>

enum {
    LANES = 32,                /* elements that the innermost loop works on: a few vectors of any width */
    MAX_ROW = 4096,            /* lcm(LANES, channels) for every multiple of 8 up to FB_KERNELS_MAX_CHANNELS */
    BLOCK = 8192,              /* elements that are summed in fb_real before they are added in double */
    MAX_CHUNKS = 256,          /* partial sums of one reduction ... */
    MAX_PARTIAL_SUMS = 1 << 14 /* ... and their number over both sums and all channels: bounds the stack */
};

/* A (voxels, channels) array cut into rows of lcm(LANES, channels) elements, so that lane j of every row belongs to
 * channel j % channels and one vector loop serves 8 and 256 channels alike; rows make blocks, blocks make chunks. */
typedef struct grid {
    int64_t channels, count; /* count: elements */
    int64_t row, block;      /* elements; block is a multiple of row */
    int64_t blocks, chunks;
} grid;

/* Constants of each lane of a row. With d = x - centre: y = relu(scale d + offset), and going backward
 * dx += h scale - (mean_slope d + mean_shift), h = dy where relu passes. */
typedef struct lanes {
    fb_real centre[MAX_ROW], scale[MAX_ROW], offset[MAX_ROW], mean_slope[MAX_ROW], mean_shift[MAX_ROW];
} lanes;

typedef void block_sums(const grid *g, const lanes *k, int64_t count, const fb_real *x, const fb_real *dy,
                        double *first, double *second);

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static grid make_grid(int64_t voxels, int64_t channels)
{
    FB_ASSERT(voxels > 0 && channels > 0 && channels % FB_NORM_GROUPS == 0 && channels <= FB_KERNELS_MAX_CHANNELS);
    grid g = {.channels = channels, .count = voxels * channels, .row = channels};
    while (g.row % LANES != 0)
        g.row *= 2;
    g.block = BLOCK / g.row * g.row;
    g.blocks = (g.count + g.block - 1) / g.block;
    g.chunks = least(g.blocks, least(MAX_CHUNKS, MAX_PARTIAL_SUMS / (2 * channels)));
    return g;
}

/* The ReLU passes where this is positive; forward and backward share it so that they agree on where. */
static inline fb_real affine(const lanes *k, int64_t lane, fb_real d)
{
    return k->scale[lane] * d + k->offset[lane];
}

/* Sums of d and d^2 per lane. */
static void sum_moments(const grid *g, const lanes *k, int64_t count, const fb_real *x, const fb_real *dy,
                        double *first, double *second)
{
    (void)dy;
    const int64_t rows = count / g->row, whole = rows * g->row;
    for (int64_t j = 0; j < g->row; j += LANES) {
        fb_real s[LANES] = {0}, q[LANES] = {0};
        for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
            for (int64_t l = 0; l < LANES; l++) {
                const fb_real d = x[r * g->row + j + l] - k->centre[j + l];
                s[l] += d;
                q[l] += d * d;
            }
        }
        for (int64_t l = 0; l < LANES; l++) {
            first[j + l] += (double)s[l];
            second[j + l] += (double)q[l];
        }
    }
    for (int64_t j = 0; j < count - whole; j++) {
        const double d = (double)(x[whole + j] - k->centre[j]);
        first[j] += d;
        second[j] += d * d;
    }
}

/* Sums of h and h d per lane. */
static void sum_gradients(const grid *g, const lanes *k, int64_t count, const fb_real *x, const fb_real *dy,
                          double *first, double *second)
{
    const int64_t rows = count / g->row, whole = rows * g->row;
    for (int64_t j = 0; j < g->row; j += LANES) {
        fb_real s[LANES] = {0}, q[LANES] = {0};
        for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
            for (int64_t l = 0; l < LANES; l++) {
                const int64_t e = r * g->row + j + l;
                const fb_real d = x[e] - k->centre[j + l];
                const fb_real h = affine(k, j + l, d) > 0 ? dy[e] : 0;
                s[l] += h;
                q[l] += h * d;
            }
        }
        for (int64_t l = 0; l < LANES; l++) {
            first[j + l] += (double)s[l];
            second[j + l] += (double)q[l];
        }
    }
    for (int64_t j = 0; j < count - whole; j++) {
        const fb_real d = x[whole + j] - k->centre[j];
        const double h = affine(k, j, d) > 0 ? (double)dy[whole + j] : 0.0;
        first[j] += h;
        second[j] += h * (double)d;
    }
}

/* Both sums of one chunk, per channel, into sums (2, channels). */
static void sum_chunk(const grid *g, const lanes *k, int64_t chunk, block_sums *add_block, const fb_real *x,
                      const fb_real *dy, double *sums)
{
    double row[2][MAX_ROW];
    memset(row[0], 0, (size_t)g->row * sizeof(double));
    memset(row[1], 0, (size_t)g->row * sizeof(double));
    for (int64_t b = chunk * g->blocks / g->chunks; b < (chunk + 1) * g->blocks / g->chunks; b++) {
        const int64_t start = b * g->block;
        add_block(g, k, least(g->block, g->count - start), x + start, dy ? dy + start : NULL, row[0], row[1]);
    }
    memset(sums, 0, (size_t)(2 * g->channels) * sizeof(double));
    for (int s = 0; s < 2; s++)
        for (int64_t j = 0; j < g->row; j++)
            sums[s * g->channels + j % g->channels] += row[s][j];
}

/* Both sums over the whole array, per channel, into total (2, channels): chunks in parallel, then added in their order.
 */
static void sum_all(const grid *g, const lanes *k, block_sums *add_block, const fb_real *x, const fb_real *dy,
                    double *total)
{
    double partial[MAX_PARTIAL_SUMS]; /* (chunks, 2, channels) */
    const int64_t width = 2 * g->channels;
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < g->chunks; chunk++)
        sum_chunk(g, k, chunk, add_block, x, dy, partial + chunk * width);
    memset(total, 0, (size_t)width * sizeof(double));
    for (int64_t chunk = 0; chunk < g->chunks; chunk++)
        for (int64_t s = 0; s < width; s++)
            total[s] += partial[chunk * width + s];
}

/* Rough mean of each group, from up to 64 voxels. The variance is taken about it, in one pass without cancellation. */
static void sample_means(const grid *g, const fb_real *x, double mean[FB_NORM_GROUPS])
{
    const int64_t voxels = g->count / g->channels, width = g->channels / FB_NORM_GROUPS, samples = least(voxels, 64);
    for (int64_t group = 0; group < FB_NORM_GROUPS; group++) {
        double sum = 0.0;
        for (int64_t i = 0; i < samples; i++)
            for (int64_t c = 0; c < width; c++)
                sum += (double)x[i * voxels / samples * g->channels + group * width + c];
        mean[group] = (double)(fb_real)(sum / (double)(samples * width));
    }
}

static void compute_stats(const grid *g, const fb_real *x, fb_real *stats)
{
    lanes k;
    double centre[FB_NORM_GROUPS], total[2 * FB_KERNELS_MAX_CHANNELS];
    const int64_t width = g->channels / FB_NORM_GROUPS;
    sample_means(g, x, centre);
    for (int64_t j = 0; j < g->row; j++)
        k.centre[j] = (fb_real)centre[j % g->channels / width];
    sum_all(g, &k, sum_moments, x, NULL, total);
    const double n = (double)(g->count / FB_NORM_GROUPS);
    for (int64_t group = 0; group < FB_NORM_GROUPS; group++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t c = group * width; c < (group + 1) * width; c++) {
            sum += total[c];
            squares += total[g->channels + c];
        }
        const double shift = sum / n, variance = fmax(0.0, squares / n - shift * shift);
        stats[group] = (fb_real)(centre[group] + shift);
        stats[FB_NORM_GROUPS + group] = (fb_real)(1.0 / sqrt(variance + 1e-5));
    }
}

static void set_affine(const grid *g, const fb_real *gamma, const fb_real *beta, const fb_real *stats, lanes *k)
{
    for (int64_t j = 0; j < g->row; j++) {
        const int64_t c = j % g->channels, group = c / (g->channels / FB_NORM_GROUPS);
        k->centre[j] = stats[group];
        k->scale[j] = gamma[c] * stats[FB_NORM_GROUPS + group];
        k->offset[j] = beta[c];
    }
}

static inline fb_real relu(fb_real value)
{
    return value > 0 ? value : 0;
}

static void apply_block(const grid *g, const lanes *k, int64_t count, const fb_real *restrict x, fb_real *restrict y)
{
    const int64_t rows = count / g->row, whole = rows * g->row;
    for (int64_t j = 0; j < g->row; j += LANES)
        for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
            for (int64_t l = 0; l < LANES; l++) {
                const int64_t e = r * g->row + j + l;
                y[e] = relu(affine(k, j + l, x[e] - k->centre[j + l]));
            }
        }
    for (int64_t j = 0; j < count - whole; j++)
        y[whole + j] = relu(affine(k, j, x[whole + j] - k->centre[j]));
}

void fb_kernels_norm_relu_fwd(int64_t voxels, int64_t channels, const fb_real *x, const fb_real *gamma,
                              const fb_real *beta, fb_real *y, fb_real *stats)
{
    const grid g = make_grid(voxels, channels);
    lanes k;
    compute_stats(&g, x, stats);
    set_affine(&g, gamma, beta, stats, &k);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < g.blocks; b++) {
        const int64_t start = b * g.block;
        apply_block(&g, &k, least(g.block, g.count - start), x + start, y + start);
    }
}

static inline fb_real input_gradient(const lanes *k, int64_t lane, fb_real x, fb_real dy)
{
    const fb_real d = x - k->centre[lane], h = affine(k, lane, d) > 0 ? dy : 0;
    return h * k->scale[lane] - (k->mean_slope[lane] * d + k->mean_shift[lane]);
}

static void add_input_gradient(const grid *g, const lanes *k, int64_t count, const fb_real *restrict x,
                               const fb_real *restrict dy, fb_real *restrict dx)
{
    const int64_t rows = count / g->row, whole = rows * g->row;
    for (int64_t j = 0; j < g->row; j += LANES)
        for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
            for (int64_t l = 0; l < LANES; l++) {
                const int64_t e = r * g->row + j + l;
                dx[e] += input_gradient(k, j + l, x[e], dy[e]);
            }
        }
    for (int64_t j = 0; j < count - whole; j++)
        dx[whole + j] += input_gradient(k, j, x[whole + j], dy[whole + j]);
}

/* From the sums per channel of h and h d: the gradients of gamma and beta, and the means over the group that
 * dx = rstd (gamma h - mean(gamma h) - xhat mean(gamma h xhat)) subtracts, xhat = d rstd. */
static void finish_sums(const grid *g, const double *total, const fb_real *gamma, const fb_real *stats, lanes *k,
                        fb_real *dgamma, fb_real *dbeta)
{
    const int64_t width = g->channels / FB_NORM_GROUPS;
    const double n = (double)(g->count / FB_NORM_GROUPS);
    double shift[FB_NORM_GROUPS] = {0.0}, slope[FB_NORM_GROUPS] = {0.0};
    for (int64_t c = 0; c < g->channels; c++) {
        const double rstd = (double)stats[FB_NORM_GROUPS + c / width];
        const double sum_h = total[c], sum_h_xhat = total[g->channels + c] * rstd;
        dbeta[c] = (fb_real)sum_h;
        dgamma[c] = (fb_real)sum_h_xhat;
        shift[c / width] += (double)gamma[c] * sum_h * rstd / n;
        slope[c / width] += (double)gamma[c] * sum_h_xhat * rstd * rstd / n;
    }
    for (int64_t j = 0; j < g->row; j++) {
        k->mean_shift[j] = (fb_real)shift[j % g->channels / width];
        k->mean_slope[j] = (fb_real)slope[j % g->channels / width];
    }
}

void fb_kernels_norm_relu_bwd(int64_t voxels, int64_t channels, const fb_real *x, const fb_real *gamma,
                              const fb_real *beta, const fb_real *stats, const fb_real *dy, fb_real *dx,
                              fb_real *dgamma, fb_real *dbeta)
{
    const grid g = make_grid(voxels, channels);
    double total[2 * FB_KERNELS_MAX_CHANNELS];
    lanes k;
    set_affine(&g, gamma, beta, stats, &k);
    sum_all(&g, &k, sum_gradients, x, dy, total);
    finish_sums(&g, total, gamma, stats, &k, dgamma, dbeta);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < g.blocks; b++) {
        const int64_t start = b * g.block;
        add_input_gradient(&g, &k, least(g.block, g.count - start), x + start, dy + start, dx + start);
    }
}
