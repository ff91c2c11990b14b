/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels share: vectors of eight elements, launches, and sums in two stages.
 */
#pragma once

#include "nn/gpu.cuh"
#include "nn/launch.cuh"

#include <math.h>

enum { FB_BLOCK = 256, FB_BLOCKS_MAX = 1056, FB_VECTOR = 8 };

/* --- elements -------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void fb_load8(const float *from, float v[8])
{
    const float4 low = ((const float4 *)from)[0], high = ((const float4 *)from)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

static __device__ __forceinline__ void fb_store8(float *to, const float v[8])
{
    ((float4 *)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

static __device__ __forceinline__ void fb_unpack_bf16(unsigned pair, float v[2])
{
    v[0] = fb_low_bf16(pair);
    v[1] = fb_high_bf16(pair);
}

static __device__ __forceinline__ void fb_load8(const __nv_bfloat16 *from, float v[8])
{
    const uint4 words = *(const uint4 *)from;
    fb_unpack_bf16(words.x, v + 0);
    fb_unpack_bf16(words.y, v + 2);
    fb_unpack_bf16(words.z, v + 4);
    fb_unpack_bf16(words.w, v + 6);
}

static __device__ __forceinline__ void fb_store8(__nv_bfloat16 *to, const float v[8])
{
    *(uint4 *)to = make_uint4(fb_pack_bf16(v[0], v[1]), fb_pack_bf16(v[2], v[3]), fb_pack_bf16(v[4], v[5]),
                              fb_pack_bf16(v[6], v[7]));
}

static __device__ __forceinline__ float fb_load(const float *from)
{
    return *from;
}

static __device__ __forceinline__ float fb_load(const __nv_bfloat16 *from)
{
    return __bfloat162float(*from);
}

static __device__ __forceinline__ void fb_store4(float *to, const float v[4])
{
    *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
}

static __device__ __forceinline__ void fb_store4(__nv_bfloat16 *to, const float v[4])
{
    *(uint2 *)to = {fb_pack_bf16(v[0], v[1]), fb_pack_bf16(v[2], v[3])};
}

/* --- launches --------------------------------------------------------------------------------------- */

/* Blocks for `work` pieces, each thread doing at least `each`: a number that the problem alone decides. */
static inline unsigned fb_blocks_for(int64_t work, int64_t each)
{
    const int64_t blocks = (work + FB_BLOCK * each - 1) / (FB_BLOCK * each);
    const int64_t most = FB_BLOCKS_MAX;
    return (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

template <typename... Expected, typename... Actual>
static void fb_launch(fb_cuda_queue *queue, const char *name, unsigned blocks, void (*kernel)(Expected...),
                      Actual... arguments)
{
    fb_launch_threads(queue, name, blocks, FB_BLOCK, kernel, arguments...);
}

/* --- sums in two stages ------------------------------------------------------------------------------ */

/* The scratch of a queue: what the last block finds for the kernel that follows, and the partial sums of the blocks. */
typedef struct fb_scratch {
    unsigned finished; /* blocks; 0 again after each kernel */
    unsigned unused[63];
    double total[2 * FB_CUDA_MAX_CHANNELS];
    float partial[1]; /* (blocks, sums of a block) */
} fb_scratch;

/* True in all threads of the block that finishes last; what the others wrote before is visible to it. */
static __device__ __forceinline__ bool fb_is_last_block(fb_scratch *scratch)
{
    FB_SHARED(unsigned, before, [1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        before[0] = atomicAdd(&scratch->finished, 1u);
    __syncthreads();
    if (before[0] != gridDim.x - 1)
        return false;
    __threadfence();
    if (threadIdx.x == 0)
        scratch->finished = 0;
    return true;
}

/* Adds value[] of all threads whose numbers agree modulo `lanes`; threads from lanes * rows on take no part. The sums
 * are left with the threads below `lanes`. */
template <int COUNT> static __device__ __forceinline__ void fb_sum_rows(int lanes, int rows, float value[COUNT])
{
    FB_SHARED(float, part, [COUNT][FB_BLOCK]);
    const int t = threadIdx.x;
    for (int k = 0; k < COUNT; k++)
        part[k][t] = value[k];
    for (int half = FB_BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t / lanes < half && t / lanes + half < rows)
            for (int k = 0; k < COUNT; k++)
                part[k][t] += part[k][t + half * lanes];
        rows = rows < half ? rows : half;
    }
    __syncthreads();
    for (int k = 0; k < COUNT; k++)
        value[k] = part[k][t];
}

/* By the last block: scratch->total[i] = sum over blocks of partial[block][i], i < sums. Each sum is made of `segments`
 * runs of blocks, added in their order. */
static __device__ __forceinline__ void fb_add_blocks(fb_scratch *scratch, int sums)
{
    FB_SHARED(double, run, [FB_BLOCK]);
    const int segments = sums < FB_BLOCK ? FB_BLOCK / sums : 1, blocks = (int)gridDim.x;
    const int each = (blocks + segments - 1) / segments;
    for (int first = 0; first < sums; first += FB_BLOCK) {
        const int column = first + (segments > 1 ? (int)threadIdx.x % sums : (int)threadIdx.x);
        const int segment = segments > 1 ? (int)threadIdx.x / sums : 0, begin = segment * each;
        double sum = 0.0;
        if (column < sums && segment < segments)
            for (int b = begin; b < begin + each && b < blocks; b++)
                sum += (double)__ldcg(&scratch->partial[(int64_t)b * sums + column]);
        run[threadIdx.x] = sum;
        __syncthreads();
        if (column < sums && segment == 0) {
            for (int s = 1; s < segments; s++)
                sum += run[s * sums + column];
            scratch->total[column] = sum;
        }
        __syncthreads();
    }
}
