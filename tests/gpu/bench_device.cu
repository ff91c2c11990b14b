/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's side of bench_gpu: a plain copy, which is the yardstick of kernels that move data, and random data.
 */
#include "nn/gpu.cuh"

#include <stdint.h>

enum { THREADS = 256, EACH = 4 };

/* 16 bytes a thread and load, four loads in flight. */
static __global__ void copy_vectors(const uint4 *from, uint4 *to, int64_t count)
{
    const int64_t first = (int64_t)blockIdx.x * THREADS * EACH + threadIdx.x;
    uint4 v[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (first + i * THREADS < count)
            v[i] = from[first + i * THREADS];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (first + i * THREADS < count)
            to[first + i * THREADS] = v[i];
}

/* A hash of 32 bits (Wellons' lowbias32). */
static __device__ __forceinline__ unsigned hash_of(unsigned x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static __device__ __forceinline__ float uniform_of(unsigned bits, int lo)
{
    const float u = (float)(bits & 0xffffu) * 0x1p-16f;
    return lo < 0 ? 2.0f * u - 1.0f : u;
}

static __global__ void fill_pairs(unsigned *to, int64_t count, int lo, unsigned seed)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step) {
        const unsigned h = hash_of((unsigned)i ^ seed);
        to[i] = fb_pack_bf16(uniform_of(h, lo), uniform_of(h >> 16, lo));
    }
}

static __global__ void fill_words(unsigned *to, int64_t count, unsigned mask)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step)
        to[i] = hash_of((unsigned)i) & mask;
}

template <typename... Expected, typename... Actual>
static cudaError_t launch(cudaStream_t stream, int64_t blocks, void (*kernel)(Expected...), Actual... arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3(THREADS);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Expected>(arguments)...);
}

static int64_t blocks_for(int64_t count, int64_t most)
{
    const int64_t blocks = (count + THREADS * EACH - 1) / (THREADS * EACH);
    return blocks < most ? blocks : most;
}

extern "C" cudaError_t bench_copy(const void *from, void *to, int64_t bytes, cudaStream_t stream)
{
    const int64_t vectors = bytes / 16;
    return launch(stream, blocks_for(vectors, INT32_MAX), copy_vectors, (const uint4 *)from, (uint4 *)to, vectors);
}

extern "C" cudaError_t bench_fill(void *to, int64_t bytes, int lo, unsigned seed, cudaStream_t stream)
{
    return launch(stream, blocks_for(bytes / 4, 2048), fill_pairs, (unsigned *)to, bytes / 4, lo, seed);
}

extern "C" cudaError_t bench_fill_bytes(void *to, int64_t bytes, unsigned mask, cudaStream_t stream)
{
    return launch(stream, blocks_for(bytes / 4, 2048), fill_words, (unsigned *)to, bytes / 4, mask * 0x01010101u);
}
