/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels of a release share: grids, sums over a block, and the key stream of a warp.
 */
#pragma once

#define FB_STREAM_OF_THREAD

#include "nn/gpu.cuh"
#include "nn/launch.cuh"
#include "privacy/kernels_privacy.h"
#include "privacy/stream.h"

enum { FB_THREADS = 256, FB_WARP = 32, FB_GRID_MAX = 2112, FB_ALL_LANES = -1 };

/* Blocks whose threads stride over `count` elements. */
static inline int64_t fb_grid_for(int64_t count)
{
    const int64_t blocks = (count + FB_THREADS - 1) / FB_THREADS, most = FB_GRID_MAX;
    return blocks < most ? blocks : most;
}

static __device__ __forceinline__ int64_t fb_first(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ int64_t fb_stride(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* *sum += `part` of all threads; all lanes of a warp call it. */
static __device__ __forceinline__ void fb_add_up(unsigned long long *sum, unsigned long long part)
{
    for (int distance = FB_WARP / 2; distance > 0; distance /= 2)
        part += __shfl_xor_sync((unsigned)FB_ALL_LANES, part, distance);
    if (threadIdx.x % FB_WARP == 0 && part != 0)
        atomicAdd(sum, part);
}

/* Sum of `part` over the threads before this one; *total that of all. All threads of the block call it. */
static __device__ __forceinline__ unsigned long long fb_scan_block(unsigned long long part, unsigned long long *total)
{
    FB_SHARED(unsigned long long, warp_sum, [FB_WARP]);
    const int lane = (int)threadIdx.x % FB_WARP, warp = (int)threadIdx.x / FB_WARP;
    const int warps = (int)(blockDim.x / FB_WARP);
    unsigned long long sum = part, before = 0, all = 0;
    for (int distance = 1; distance < FB_WARP; distance *= 2) {
        const unsigned long long other = __shfl_up_sync((unsigned)FB_ALL_LANES, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    if (lane == FB_WARP - 1)
        warp_sum[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warps; w++) {
        before += w < warp ? warp_sum[w] : 0;
        all += warp_sum[w];
    }
    __syncthreads(); /* before the array is used again */
    *total = all;
    return before + sum - part;
}

/* A draw needs at most `bytes`. Where a lane has fewer left, every lane with room makes a piece, so that the warp goes
 * on together. All lanes call it. */
static __device__ __forceinline__ void fb_stream_keep_in_step(fb_stream *stream, int bytes)
{
    while (__ballot_sync((unsigned)FB_ALL_LANES, fb_stream_left(stream) < (unsigned)bytes))
        if (fb_stream_left(stream) <= FB_STREAM_RING_BYTES - FB_STREAM_PIECE_BYTES)
            fb_stream_make_piece(stream);
}
