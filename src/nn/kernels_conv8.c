/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/kernels_conv8.h"

#include <string.h>

/* Vectors are returned only by functions that are inlined here, so no calling convention is involved. */
#pragma GCC diagnostic ignored "-Wpsabi"

enum { OUT = 8, TAPS = 3, ROWS = 9, LONG_TILE = 2 * FB_CONV8_TILE };

typedef float vector
    __attribute__((vector_size(64), may_alias));     /* lane 2 o + q: output o, even (q = 0) or odd input channel */
typedef float half __attribute__((vector_size(32))); /* one voxel of 8 channels */

/* Input rows that one output row reads: those of the 3 x 3 around it that lie inside the volume. */
typedef struct window {
    int count;
    int row[ROWS];            /* 3 a + b of the kernel's row */
    const float *input[ROWS]; /* (W, c_in) */
} window;

int fb_conv8_can(const int64_t in[3], int64_t c_in)
{
    return (c_in == 4 || c_in == 8) && in[2] % FB_CONV8_TILE == 0;
}

/* --- weights: packed (3 a + b, input pair, tap c, lane)
 * ----------------------------------------------------------------- */

static int64_t packed_at(int64_t c_in, int64_t o, int64_t i, int64_t tap)
{
    return (((tap / TAPS * (c_in / 2)) + i / 2) * TAPS + tap % TAPS) * 2 * OUT + 2 * o + i % 2;
}

void fb_conv8_pack(int64_t c_in, const float *w, float *packed)
{
    for (int64_t o = 0; o < OUT; o++)
        for (int64_t i = 0; i < c_in; i++)
            for (int64_t tap = 0; tap < 27; tap++)
                packed[packed_at(c_in, o, i, tap)] = w[(o * c_in + i) * 27 + tap];
}

void fb_conv8_pack_transposed(const float *w, float *packed)
{
    for (int64_t o = 0; o < OUT; o++)
        for (int64_t i = 0; i < OUT; i++)
            for (int64_t tap = 0; tap < 27; tap++)
                packed[packed_at(OUT, i, o, 26 - tap)] = w[(o * OUT + i) * 27 + tap];
}

/* --- convolution
 * -------------------------------------------------------------------------------------------------------- */

static window window_of(const int64_t in[3], int64_t c_in, const float *x, int64_t z, int64_t y)
{
    window result = {.count = 0};
    for (int a = 0; a < TAPS; a++)
        for (int b = 0; b < TAPS; b++) {
            const int64_t pz = z + a - 1, py = y + b - 1;
            if (pz < 0 || pz >= in[0] || py < 0 || py >= in[1])
                continue;
            result.row[result.count] = TAPS * a + b;
            result.input[result.count++] = x + (pz * in[1] + py) * in[2] * c_in;
        }
    return result;
}

/* Channels 2p and 2p+1 of a voxel, eight times. */
static inline __attribute__((always_inline)) vector broadcast_pair(const float *voxel, int64_t p)
{
    double both;
    memcpy(&both, voxel + 2 * p, sizeof both);
    typedef double doubles __attribute__((vector_size(64)));
    return (vector)(doubles){both, both, both, both, both, both, both, both};
}

/* acc[v] += the products of one kernel row and one input pair; input points at the tile's first voxel. left, right: the
 * voxels beside the tile lie inside the row. */
static inline __attribute__((always_inline)) void add_row(int64_t tile, int64_t c_in, const float *input, int64_t p,
                                                          int left, int right, const vector w[TAPS], vector *acc)
{
    const vector w0 = w[0], w1 = w[1], w2 = w[2];
    if (left)
        acc[0] += w0 * broadcast_pair(input - c_in, p);
#pragma GCC unroll 16
    for (int64_t v = 0; v < tile; v++) {
        const vector x = broadcast_pair(input + v * c_in, p);
        if (v > 0)
            acc[v - 1] += w2 * x;
        acc[v] += w1 * x;
        if (v < tile - 1)
            acc[v + 1] += w0 * x;
    }
    if (right)
        acc[tile - 1] += w2 * broadcast_pair(input + tile * c_in, p);
}

/* Outputs start..start+tile-1 of a row. tile and c_in are constants where this is inlined, so that acc stays in
 * registers. */
static inline __attribute__((always_inline)) void convolve_tile(int64_t tile, int64_t c_in, const window *win,
                                                                int64_t width, int64_t start, const vector *weights,
                                                                float *y)
{
    vector acc[LONG_TILE] = {{0}};
    const int left = start > 0, right = start + tile < width;
    for (int r = 0; r < win->count; r++)
        for (int64_t p = 0; p < c_in / 2; p++)
            add_row(tile, c_in, win->input[r] + start * c_in, p, left, right,
                    weights + (win->row[r] * (c_in / 2) + p) * TAPS, acc);
#pragma GCC unroll 8
    for (int64_t v = 0; v < tile; v += 2) {
        const vector even =
            __builtin_shufflevector(acc[v], acc[v + 1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const vector odd =
            __builtin_shufflevector(acc[v], acc[v + 1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        const vector sum = even + odd;
        memcpy(y + (start + v) * OUT, &sum, sizeof sum);
    }
}

static inline __attribute__((always_inline)) void convolve_row(int64_t c_in, const window *win, int64_t width,
                                                               const vector *weights, float *y)
{
    int64_t start = 0;
    for (; start + LONG_TILE <= width; start += LONG_TILE)
        convolve_tile(LONG_TILE, c_in, win, width, start, weights, y);
    for (; start < width; start += FB_CONV8_TILE)
        convolve_tile(FB_CONV8_TILE, c_in, win, width, start, weights, y);
}

void fb_conv8_apply(const int64_t in[3], int64_t c_in, const float *packed, const float *x, float *y)
{
    const vector *weights = (const vector *)(const void *)packed;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < in[0] * in[1]; row++) {
        const window win = window_of(in, c_in, x, row / in[1], row % in[1]);
        if (c_in == 8)
            convolve_row(8, &win, in[2], weights, y + row * in[2] * OUT);
        else
            convolve_row(4, &win, in[2], weights, y + row * in[2] * OUT);
    }
}

/* --- weight gradient
 * ---------------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) vector duplicate(const float *voxel)
{
    half h;
    memcpy(&h, voxel, sizeof h);
    return __builtin_shufflevector(h, h, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
}

/* acc (input pair, tap) += dy[v + 1 - tap] x[v], given x[v] and the dy of each tap */
static inline __attribute__((always_inline)) void add_products(int64_t pairs, const float *x, const vector dy[TAPS],
                                                               vector *acc)
{
#pragma GCC unroll 4
    for (int64_t p = 0; p < pairs; p++) {
        const vector pair = broadcast_pair(x, p);
        acc[TAPS * p] += dy[0] * pair;
        acc[TAPS * p + 1] += dy[1] * pair;
        acc[TAPS * p + 2] += dy[2] * pair;
    }
}

/* sums (input pair, tap) += over the voxels v of a row of dy[v + 1 - tap] x[v], where dy outside the row is 0 */
static inline __attribute__((always_inline)) void correlate_row(int64_t pairs, int64_t width, const float *x,
                                                                const float *dy, vector *sums)
{
    vector acc[TAPS * FB_CONV8_MAX_IN / 2], near[TAPS] = {{0}, duplicate(dy), {0}};
#pragma GCC unroll 12
    for (int64_t i = 0; i < TAPS * pairs; i++)
        acc[i] = sums[i];
    for (int64_t v = 0; v < width - 1; v++) {
        near[0] = duplicate(dy + (v + 1) * OUT);
        add_products(pairs, x + 2 * v * pairs, near, acc);
        near[2] = near[1];
        near[1] = near[0];
    }
    near[0] = (vector){0};
    add_products(pairs, x + 2 * (width - 1) * pairs, near, acc);
#pragma GCC unroll 12
    for (int64_t i = 0; i < TAPS * pairs; i++)
        sums[i] = acc[i];
}

/* sums, laid out like packed weights, += over the output rows first..last-1 */
static void correlate_rows(const int64_t in[3], int64_t c_in, const float *x, const float *dy, int64_t first,
                           int64_t last, vector *sums)
{
    for (int64_t row = first; row < last; row++) {
        const window win = window_of(in, c_in, x, row / in[1], row % in[1]);
        const float *dy_row = dy + row * in[2] * OUT;
        for (int r = 0; r < win.count; r++) {
            vector *target = sums + win.row[r] * (c_in / 2) * TAPS;
            if (c_in == 8)
                correlate_row(4, in[2], win.input[r], dy_row, target);
            else
                correlate_row(2, in[2], win.input[r], dy_row, target);
        }
    }
}

void fb_conv8_bwd_weights(const int64_t in[3], int64_t c_in, const float *x, const float *dy, float *scratch, float *dw)
{
    const int64_t rows = in[0] * in[1], chunks = rows < FB_CONV8_MAX_CHUNKS ? rows : FB_CONV8_MAX_CHUNKS;
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        float *sums = scratch + chunk * FB_CONV8_PACKED;
        memset(sums, 0, FB_CONV8_PACKED * sizeof *sums);
        correlate_rows(in, c_in, x, dy, chunk * rows / chunks, (chunk + 1) * rows / chunks, (vector *)(void *)sums);
    }
    for (int64_t o = 0; o < OUT; o++)
        for (int64_t i = 0; i < c_in; i++)
            for (int64_t tap = 0; tap < 27; tap++) {
                double sum = 0.0;
                for (int64_t chunk = 0; chunk < chunks; chunk++)
                    sum += (double)scratch[chunk * FB_CONV8_PACKED + packed_at(c_in, o, i, tap)];
                dw[(o * c_in + i) * 27 + tap] = (float)sum;
            }
}
