/* SPDX-License-Identifier: Apache-2.0
 *
 * What the convolution kernels share: geometry, packed weights, launches. Private to kernels_conv*.cu.
 *
 *   kernels_conv.cu        the API: which kernel for which shape, packing, sum of partial gradients
 *   kernels_conv_f32.cu    float: all three operations
 *   kernels_conv_mma.cu    bfloat16, kernel 3: forward, backward data
 *   kernels_conv_wgrad.cu  bfloat16: backward weights
 *   kernels_conv_point.cu  bfloat16, kernel 1: forward, backward data; all of the 3 logits
 */
#pragma once

#include "nn/gpu.cuh"
#include "nn/kernels_conv_cuda.h"
#include "nn/launch.cuh"

/* What one launch reads and writes. For backward data `in` and c_in are those of dy. */
struct conv_geometry {
    int in[3], out[3]; /* D, H, W */
    int c_in, c_out;
};

enum conv_direction { CONV_FWD, CONV_BWD_DATA };

/* How weights are packed for the tensor cores: 32-bit words of two input channels, in the order in which the lanes of a
 * warp want them, (block of output channels, chunk of input channels, step, lane, n-tile, 2). An n-tile is 8 output
 * channels, a chunk 8 * words input channels; a step is one instruction, and its two words are the lower and the upper
 * half of its K: two taps of a chunk (words 1), or two words of the only tap. So a lane loads the operands of a step
 * for all n-tiles as one vector, whose neighbours the instruction wants in neighbouring registers.
 *
 * Which channels a lane's word holds is chosen so that, of a voxel, a lane reads 2 * words input channels side by side
 * when it reads from global memory (words > 1) and owns 2 * n_tiles output channels side by side in the result: one
 * access of up to 16 bytes each. */
struct conv_packing {
    int c_in, c_out; /* of the product: exchanged for backward data */
    int taps;        /* 1 or 27 */
    int words;       /* a lane's words of a chunk: 1, 2 or 4 */
    int steps;       /* of a chunk */
    int n_tiles;     /* in a block: 1, 2 or 4 */
    int chunks, blocks;
    bool transposed; /* backward data */
    bool mirrored;   /* ... of stride 1: the taps run backwards */
    bool scattered;  /* ... of stride 2 */
};

static inline __host__ __device__ int conv_ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static inline int conv_voxels(const int extent[3])
{
    return extent[0] * extent[1] * extent[2];
}

static inline int conv_taps(const fb_conv_shape *s)
{
    return s->kernel * s->kernel * s->kernel;
}

/* Where the share of block `block` begins when `count` pieces are dealt to the grid's columns as evenly as they can be.
 */
static __device__ __forceinline__ int conv_share(int count, unsigned block)
{
    return (int)((int64_t)count * block / gridDim.x);
}

/* Output channel that column `column` of n-tile `tile` of a block stands for, relative to the block's first. */
static __device__ __forceinline__ int conv_column_channel(int column, int tile, int n_tiles)
{
    return (column >> 1) * 2 * n_tiles + 2 * tile + (column & 1);
}

/* Blocks of output channels are neighbours in blockIdx.x, so that they read the same voxels at about the same time.
 * This block's number among them, and the place that they share: */
static __device__ __forceinline__ int conv_channel_block(int blocks)
{
    return blocks > 1 ? (int)blockIdx.x % blocks : 0;
}

static __device__ __forceinline__ int conv_place(int blocks)
{
    return blocks > 1 ? (int)blockIdx.x / blocks : (int)blockIdx.x;
}

/* First element of voxel (z, y, x) */
static __device__ __forceinline__ int64_t conv_at(const int extent[3], int channels, int z, int y, int x)
{
    return (int64_t)((z * extent[1] + y) * extent[2] + x) * channels;
}

/* N neighbouring words, in as few accesses as there can be */
template <int N> static __device__ __forceinline__ void conv_load_words(unsigned out[N], const unsigned *from)
{
    if constexpr (N == 2) {
        const uint2 v = __ldg((const uint2 *)from);
        out[0] = v.x, out[1] = v.y;
    } else {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const uint4 v = __ldg((const uint4 *)(from + k));
            out[k] = v.x, out[k + 1] = v.y, out[k + 2] = v.z, out[k + 3] = v.w;
        }
    }
}

/* A lane's weights of one step, b[n-tile]; `w` is those of lane 0. */
template <int NT> static __device__ __forceinline__ void conv_load_step(unsigned b[NT][2], const unsigned *w, int lane)
{
    conv_load_words<2 * NT>(&b[0][0], w + lane * 2 * NT);
}

/* Row group, or group + 8 (`upper`), of a lane's results of N n-tiles, rounded, as 2 N neighbouring channels */
template <int N> static __device__ __forceinline__ void conv_store_row(void *to, const float acc[N][4], int upper)
{
    unsigned v[N];
#pragma unroll
    for (int j = 0; j < N; j++)
        v[j] = fb_pack_bf16(acc[j][2 * upper], acc[j][2 * upper + 1]);
    if constexpr (N == 4)
        *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
    else if constexpr (N == 2)
        *(uint2 *)to = uint2{v[0], v[1]};
    else
        *(unsigned *)to = v[0];
}

/* --- the order of the taps --------------------------------------------------------------------------------- */

enum { CONV_PLANE_STEPS = 5, CONV_GATHER_STEPS = 3 * CONV_PLANE_STEPS, CONV_SCATTER_STEPS = 14 };

/* Forward (and backward data of stride 1): for each dz the pairs (dx 0, dx 1) of dy = 0, 1, 2; then of dx = 2 the pairs
 * (dy 0, dy 1) and (dy 1, dy 2): which of them a row of the output uses depends on its parity, see multiply_plane. */
static constexpr __host__ __device__ int conv_gather_tap(int step, int upper)
{
    const int dz = step / CONV_PLANE_STEPS, s = step % CONV_PLANE_STEPS;
    return dz * 9 + (s < 3 ? 3 * s + upper : 3 * (s - 3 + upper) + 2);
}

/* Backward data of stride 2: dx at 2 q + (cz, cy, cx) is a sum over the taps k that are 1 where c is 0 (from dy[q]) and
 * even where c is 1 (k = 2 from dy[q], k = 0 from dy[q + 1]). So every tap belongs to one of 8 classes c = 4 cz + 2 cy
 * + cx, a class with n bits has 2^n taps, and the i-th of them reads dy at the offset that spreads the bits of i over
 * those of c. A step is two taps of a class, side by side along the lowest bit of c; class 0 has one. */
static constexpr __host__ __device__ int conv_class_taps(int c)
{
    return 1 << ((c & 1) + (c >> 1 & 1) + (c >> 2));
}

static constexpr __host__ __device__ int conv_class_offset(int c, int i)
{
    const int x = c & 1 ? i & 1 : 0, rest = c & 1 ? i >> 1 : i;
    const int y = c & 2 ? rest & 1 : 0, last = c & 2 ? rest >> 1 : rest;
    return x + 2 * y + 4 * (c & 4 ? last & 1 : 0);
}

/* The first step of a class */
static constexpr __host__ __device__ int conv_class_step(int c)
{
    int step = 0;
    for (int before = 0; before < c; before++)
        step += before == 0 ? 1 : conv_class_taps(before) / 2;
    return step;
}

/* -1: none */
static __host__ __device__ inline int conv_scatter_tap(int step, int upper)
{
    int c = 7;
    while (conv_class_step(c) > step)
        c--;
    if (c == 0 && upper == 1)
        return -1;
    const int at = conv_class_offset(c, 2 * (step - conv_class_step(c)) + upper);
    int tap = 0;
    for (int bit = 4; bit > 0; bit /= 2)
        tap = 3 * tap + (!(c & bit) ? 1 : at & bit ? 0 : 2);
    return tap;
}

/* --- tiles of activations in shared memory, for kernel 3 --------------------------------------------------- */

/* A tile of Z x Y rows of 16 voxels as a convolution of stride S and kernel 3 reads it, and as it lies in shared
 * memory: planes of 8 channels, 16 bytes a voxel, so that any 8 neighbours of a row fill the 32 banks once. With stride
 * 2 a row holds its even voxels first, then its odd ones: voxels two apart become neighbours. Planes are 4 voxels apart
 * modulo 8, so that copies into two planes at once do not share banks either. */
template <int S, int Z, int Y> struct conv_tile {
    static constexpr int ROWS_Z = (Z - 1) * S + 3, ROWS_Y = (Y - 1) * S + 3, WIDTH = 15 * S + 3;
    static constexpr int VOXELS = ROWS_Z * ROWS_Y * WIDTH, PLANE = (VOXELS + 3) / 8 * 8 + 4;

    /* Place of voxel x of a row. The voxel that tap dx reads for output voxel v is v places behind column(dx). */
    static constexpr __host__ __device__ int column(int x)
    {
        return S == 1 ? x : (x >> 1) + (x & 1) * 17;
    }
};

/* Z x Y rows of 16 voxels without neighbours, for gradients */
template <int Z, int Y> struct conv_rows {
    static constexpr int ROWS_Z = Z, ROWS_Y = Y, WIDTH = 16, PLANE = Z * Y * 16 + 4;
    static constexpr __host__ __device__ int column(int x)
    {
        return x;
    }
};

/* Starts the copy of planes of 8 channels from channel `first` on of the tile whose corner is (z0, y0, x0), which may
 * lie outside; outside is zero. All THREADS of the block take part. x (extent, channels) */
template <typename TILE, int PLANES, int THREADS, bool MAY_BE_FOUR = false>
static __device__ __forceinline__ void conv_fill(uint4 *tile, const int extent[3], int channels, int first, int z0,
                                                 int y0, int x0, const uint4 *x)
{
    constexpr int LINE = TILE::WIDTH * PLANES, LINES = THREADS / LINE; /* rows that the block copies at once */
    const int thread = (int)threadIdx.x, plane = thread % LINE % PLANES, v = thread % LINE / PLANES;
    const int px = x0 + v, c = first + 8 * plane;
    const bool line_inside = (unsigned)px < (unsigned)extent[2] && c < channels;
    if (thread >= LINES * LINE)
        return;
#pragma unroll 1
    for (int row = thread / LINE; row < TILE::ROWS_Z * TILE::ROWS_Y; row += LINES) {
        const int pz = z0 + row / TILE::ROWS_Y, py = y0 + row % TILE::ROWS_Y;
        const bool inside = line_inside && (unsigned)pz < (unsigned)extent[0] && (unsigned)py < (unsigned)extent[1];
        const char *from = (const char *)x + (inside ? 2 * (conv_at(extent, channels, pz, py, px) + c) : 0);
        uint4 *to = tile + plane * TILE::PLANE + row * TILE::WIDTH + TILE::column(v);
        if (MAY_BE_FOUR && channels == 4) { /* the first layer's input: four channels of zeros behind them */
            fb_copy_8(to, from, inside);
            ((uint2 *)to)[1] = uint2{0, 0};
        } else {
            fb_copy_16(to, from, inside);
        }
    }
}

/* --- host -------------------------------------------------------------------------------------------------- */

/* kernels_conv.cu */
conv_geometry conv_geometry_of(const fb_conv_shape *s, conv_direction direction);
conv_packing conv_packing_of(const fb_conv_shape *s, conv_direction direction);

/* How many partial gradients of the weights; partials is (count, taps, C_in, C_out). */
int conv_f32_partials(const fb_conv_shape *s, int limit);
int conv_wgrad_partials(const fb_conv_shape *s, int limit);
int conv_logits_partials(const fb_conv_shape *s, int limit);

cudaError_t conv_f32_pack(const fb_conv_shape *s, conv_direction direction, const float *w, float *packed,
                          cudaStream_t stream);
cudaError_t conv_f32_apply(const fb_conv_shape *s, conv_direction direction, const float *packed, const float *x,
                           float *y, cudaStream_t stream);
cudaError_t conv_f32_weights(const fb_conv_shape *s, int count, const float *x, const float *dy, float *partials,
                             cudaStream_t stream);

/* kernel 3 with any stride, and backward data of stride 2 with any kernel */
cudaError_t conv_mma_apply(const fb_conv_shape *s, conv_direction direction, const unsigned *packed, const void *x,
                           void *y, cudaStream_t stream);
/* kernel 1 but for backward data of stride 2 */
cudaError_t conv_point_apply(const fb_conv_shape *s, conv_direction direction, const unsigned *packed, const void *x,
                             void *y, cudaStream_t stream);
cudaError_t conv_wgrad(const fb_conv_shape *s, int count, const void *x, const void *dy, float *partials,
                       cudaStream_t stream);

/* The 3 logits: w (3, C_in), as the caller gave it. */
cudaError_t conv_logits_fwd(const fb_conv_shape *s, const float *w, const void *x, float *y, cudaStream_t stream);
cudaError_t conv_logits_bwd_data(const fb_conv_shape *s, const float *w, const float *dy, void *dx,
                                 cudaStream_t stream);
cudaError_t conv_logits_weights(const fb_conv_shape *s, int count, const void *x, const float *dy, float *partials,
                                cudaStream_t stream);
