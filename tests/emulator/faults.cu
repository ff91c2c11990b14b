/* SPDX-License-Identifier: Apache-2.0 */
#include "faults.h"

#include "nn/gpu.cuh"

static __global__ void reverse_and_add(fault which, const float *in, float *out)
{
    FB_SHARED(float, part, [FAULT_THREADS]);
    const int t = (int)threadIdx.x, last = FAULT_THREADS - 1;
    if (which != FAULT_UNINITIALISED || t < FAULT_THREADS / 2)
        part[last - t] = in[t];
    if (which == FAULT_WARP_BARRIER)
        __syncwarp();
    else if (which != FAULT_NO_BARRIER)
        __syncthreads();
    const float sum = part[t] + (t < last ? part[t + 1] : 0.0f);
    if (which != FAULT_EARLY_WRITE)
        __syncthreads();
    part[t] = sum;
    __syncthreads();
    out[which == FAULT_BEYOND ? t + 1 : t] = part[t];
}

static __global__ void wait_apart(float *out)
{
    if (threadIdx.x % 2 == 0)
        __syncthreads();
    else
        __syncwarp();
    out[threadIdx.x] = 1.0f;
}

/* Copies through shared memory, four floats at a time, and reads the neighbour's. */
static __global__ void copy_apart(fault which, const float *in, float *out)
{
    FB_SHARED(float4, part, [FAULT_THREADS / 4]);
    const int t = (int)threadIdx.x;
    if (t < FAULT_THREADS / 4)
        fb_copy_16(&part[t], in + 4 * t, true);
    if (which != FAULT_STILL_COPYING)
        fb_copy_wait();
    if (which != FAULT_NO_BARRIER_AFTER_COPY)
        __syncthreads();
    out[t] = ((const float *)part)[FAULT_THREADS - 1 - t];
}

extern "C" cudaError_t fault_launch(fault which, const float *in, float *out, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(FAULT_THREADS);
    config.stream = stream;
    if (which == FAULT_DIVERGENT)
        return cudaLaunchKernelEx(&config, wait_apart, out);
    if (which == FAULT_STILL_COPYING || which == FAULT_NO_BARRIER_AFTER_COPY)
        return cudaLaunchKernelEx(&config, copy_apart, which, in, out);
    return cudaLaunchKernelEx(&config, reverse_and_add, which, in, out);
}
