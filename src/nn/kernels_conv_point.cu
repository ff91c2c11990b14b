/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of kernel 1 with bfloat16 activations: a GEMM over voxels on the tensor cores for many channels, and
 * plain kernels for the 3 logits. All of them read and write each activation once.
 */
#include "nn/kernels_conv.cuh"

/* --- GEMM over voxels -------------------------------------------------------------------------------------- */

enum { WARPS = 4, M_TILES = 2, BLOCK_VOXELS = 16 * M_TILES * WARPS };

/* First element of the input voxel that output voxel v reads */
template <int S> static __device__ __forceinline__ int64_t input_of(const conv_geometry *g, int v)
{
    if (S == 1)
        return (int64_t)v * g->c_in;
    const int x = v % g->out[2], row = v / g->out[2], y = row % g->out[1], z = row / g->out[1];
    return conv_at(g->in, g->c_in, S * z, S * y, S * x);
}

/* One block: 128 output voxels, 8 NT output channels; a warp 2 m-tiles of 16 voxels. A lane reads its 2 * WORDS
 * channels of a voxel straight from global memory: which channels count as which column of the operand is
 * conv_packing's choice. x (in, c_in), y (out, c_out) */
template <int S, int WORDS, int NT>
static __global__ void __launch_bounds__(32 * WARPS)
    point(conv_geometry g, int blocks, const __nv_bfloat16 *x, const unsigned *w, __nv_bfloat16 *y)
{
    const int lane = (int)threadIdx.x % 32, pair = lane & 3, voxels = g.out[0] * g.out[1] * g.out[2];
    const int block = conv_channel_block(blocks);
    const int first = conv_place(blocks) * BLOCK_VOXELS + (int)threadIdx.x / 32 * 16 * M_TILES + lane / 4;
    const int chunks = conv_ceil_div(g.c_in, 8 * WORDS);
    const unsigned *words = w + (int64_t)block * chunks * WORDS * 32 * NT;
    const __nv_bfloat16 *from[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            const int v = first + 16 * m + 8 * upper;
            from[m][upper] = x + input_of<S>(&g, v < voxels ? v : 0) + pair * 2 * WORDS;
        }
    float acc[M_TILES][NT][4] = {};
    for (int chunk = 0; chunk < chunks; chunk++) {
        const int channel = chunk * 8 * WORDS;
        const bool inside = channel + pair * 2 * WORDS < g.c_in;
        unsigned a[M_TILES][2][WORDS], b[WORDS / 2][NT][2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int upper = 0; upper < 2; upper++) {
#pragma unroll
                for (int k = 0; k < WORDS; k++)
                    a[m][upper][k] = 0;
                if (inside && first + 16 * m + 8 * upper < voxels)
                    conv_load_words<WORDS>(a[m][upper], (const unsigned *)(from[m][upper] + channel));
            }
#pragma unroll
        for (int step = 0; step < WORDS / 2; step++)
            conv_load_step<NT>(b[step], words + (chunk * WORDS / 2 + step) * 64 * NT, lane);
#pragma unroll
        for (int k = 0; k < WORDS; k += 2)
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                const unsigned both[4] = {a[m][0][k], a[m][1][k], a[m][0][k + 1], a[m][1][k + 1]};
#pragma unroll
                for (int j = 0; j < NT; j++)
                    fb_mma_bf16(acc[m][j], both, b[k / 2][j]);
            }
    }
    const int channel = block * 8 * NT + pair * 2 * NT;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            const int v = first + 16 * m + 8 * upper;
            if (v < voxels && channel < g.c_out)
                conv_store_row<NT>(y + (int64_t)v * g.c_out + channel, acc[m], upper);
        }
}

template <int S, int WORDS, int NT>
static cudaError_t launch_point(const conv_geometry *g, int blocks, const unsigned *w, const void *x, void *y,
                                cudaStream_t stream)
{
    const unsigned shares = (unsigned)conv_ceil_div(conv_voxels(g->out), BLOCK_VOXELS);
    return fb_launch_kernel(stream, dim3(shares * (unsigned)blocks), 32 * WARPS, point<S, WORDS, NT>, *g, blocks,
                            (const __nv_bfloat16 *)x, w, (__nv_bfloat16 *)y);
}

typedef cudaError_t launcher(const conv_geometry *g, int blocks, const unsigned *w, const void *x, void *y,
                             cudaStream_t stream);

/* By stride, words of a chunk (2, 4), n-tiles (1, 2, 4) */
static launcher *const points[2][2][3] = {
    {{launch_point<1, 2, 1>, launch_point<1, 2, 2>, launch_point<1, 2, 4>},
     {launch_point<1, 4, 1>, launch_point<1, 4, 2>, launch_point<1, 4, 4>}},
    {{launch_point<2, 2, 1>, launch_point<2, 2, 2>, launch_point<2, 2, 4>},
     {launch_point<2, 4, 1>, launch_point<2, 4, 2>, launch_point<2, 4, 4>}},
};

cudaError_t conv_point_apply(const fb_conv_shape *s, conv_direction direction, const unsigned *packed, const void *x,
                             void *y, cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, direction);
    const conv_packing p = conv_packing_of(s, direction);
    return points[s->stride - 1][p.words / 2 - 1][p.n_tiles / 2](&g, p.blocks, packed, x, y, stream);
}

/* --- the 3 logits ------------------------------------------------------------------------------------------ */

enum { LOGITS = 3, THREADS = 256, SLICES = THREADS / 32 };

static __device__ __forceinline__ void unpack_eight(float out[8], const __nv_bfloat16 *from)
{
    const uint4 v = __ldg((const uint4 *)from);
    const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        out[2 * k] = fb_low_bf16(words[k]);
        out[2 * k + 1] = fb_high_bf16(words[k]);
    }
}

/* One thread computes a voxel; the block's logits go through shared memory, so that they leave it side by side.
 * x (voxels, c_in), w (3, c_in), y (voxels, 3) */
static __global__ void __launch_bounds__(THREADS)
    logits_fwd(int voxels, int c_in, const __nv_bfloat16 *x, const float *w, float *y)
{
    FB_SHARED(float, out, [LOGITS * THREADS]);
    const int thread = (int)threadIdx.x, first = (int)blockIdx.x * THREADS, v = first + thread;
    float acc[LOGITS] = {};
    for (int c = 0; v < voxels && c < c_in; c += 8) {
        float value[8];
        unpack_eight(value, x + (int64_t)v * c_in + c);
#pragma unroll
        for (int k = 0; k < 8; k++)
#pragma unroll
            for (int o = 0; o < LOGITS; o++)
                acc[o] += value[k] * __ldg(w + o * c_in + c + k);
    }
#pragma unroll
    for (int o = 0; o < LOGITS; o++)
        out[LOGITS * thread + o] = acc[o];
    __syncthreads();
    const int count = LOGITS * (voxels - first < THREADS ? voxels - first : THREADS);
#pragma unroll
    for (int o = 0; o < LOGITS; o++)
        if (o * THREADS + thread < count)
            y[(int64_t)LOGITS * first + o * THREADS + thread] = out[o * THREADS + thread];
}

/* One thread writes 8 channels of a voxel. dy (voxels, 3), dx (voxels, c_in) */
static __global__ void __launch_bounds__(THREADS)
    logits_bwd_data(int voxels, int c_in, const float *dy, const float *w, uint4 *dx)
{
    const int e = (int)(blockIdx.x * THREADS + threadIdx.x), v = e / (c_in / 8), c = e % (c_in / 8) * 8;
    if (v >= voxels)
        return;
    float acc[8] = {};
#pragma unroll
    for (int o = 0; o < LOGITS; o++) {
        const float gradient = __ldg(dy + (int64_t)LOGITS * v + o);
#pragma unroll
        for (int k = 0; k < 8; k++)
            acc[k] += gradient * __ldg(w + o * c_in + c + k);
    }
    dx[e] = make_uint4(fb_pack_bf16(acc[0], acc[1]), fb_pack_bf16(acc[2], acc[3]), fb_pack_bf16(acc[4], acc[5]),
                       fb_pack_bf16(acc[6], acc[7]));
}

/* One block: 8 channels, one share of the voxels. Neighbouring blocks read neighbouring channels of the same voxels.
 * partials (shares, c_in, 3) */
static __global__ void __launch_bounds__(THREADS)
    logits_weights(int voxels, int c_in, int shares, const __nv_bfloat16 *x, const float *dy, float *partials)
{
    FB_SHARED(float, sums, [SLICES][8 * LOGITS]);
    const int lane = (int)threadIdx.x % 32, slice = (int)threadIdx.x / 32;
    const int c = (int)blockIdx.x % (c_in / 8) * 8, share = (int)blockIdx.x / (c_in / 8);
    float acc[8 * LOGITS] = {};
#pragma unroll 2
    for (int64_t v = (int64_t)share * THREADS + threadIdx.x; v < voxels; v += (int64_t)shares * THREADS) {
        float value[8];
        unpack_eight(value, x + v * c_in + c);
#pragma unroll
        for (int o = 0; o < LOGITS; o++) {
            const float gradient = __ldg(dy + LOGITS * v + o);
#pragma unroll
            for (int k = 0; k < 8; k++)
                acc[k * LOGITS + o] += gradient * value[k];
        }
    }
#pragma unroll
    for (int e = 0; e < 8 * LOGITS; e++) {
#pragma unroll
        for (int bits = 16; bits > 0; bits /= 2)
            acc[e] += __shfl_xor_sync(0xffffffffu, acc[e], bits);
        if (lane == 0)
            sums[slice][e] = acc[e];
    }
    __syncthreads();
    if (threadIdx.x >= 8 * LOGITS)
        return;
    float total = 0.0F;
    for (int s = 0; s < SLICES; s++)
        total += sums[s][threadIdx.x];
    partials[((int64_t)share * c_in + c) * LOGITS + threadIdx.x] = total;
}

cudaError_t conv_logits_fwd(const fb_conv_shape *s, const float *w, const void *x, float *y, cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    const int voxels = conv_voxels(g.out);
    return fb_launch_kernel(stream, dim3((unsigned)conv_ceil_div(voxels, THREADS)), THREADS, logits_fwd, voxels, g.c_in,
                            (const __nv_bfloat16 *)x, w, y);
}

cudaError_t conv_logits_bwd_data(const fb_conv_shape *s, const float *w, const float *dy, void *dx, cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    const int voxels = conv_voxels(g.out);
    const int blocks = conv_ceil_div(voxels * (g.c_in / 8), THREADS);
    return fb_launch_kernel(stream, dim3((unsigned)blocks), THREADS, logits_bwd_data, voxels, g.c_in, dy, w,
                            (uint4 *)dx);
}

/* A share of at least 4 voxels a thread; about two blocks of 256 threads for each multiprocessor of a large device. */
int conv_logits_partials(const fb_conv_shape *s, int limit)
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    const int shares = conv_ceil_div(conv_voxels(g.out), 4 * THREADS), most = limit < 512 ? limit : 512;
    return shares < most ? shares : most;
}

cudaError_t conv_logits_weights(const fb_conv_shape *s, int count, const void *x, const float *dy, float *partials,
                                cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    return fb_launch_kernel(stream, dim3((unsigned)(count * (g.c_in / 8))), THREADS, logits_weights, conv_voxels(g.out),
                            g.c_in, count, (const __nv_bfloat16 *)x, dy, partials);
}
