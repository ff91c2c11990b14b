/* SPDX-License-Identifier: Apache-2.0
 *
 * How kernels are started: by cudaLaunchKernelEx, which the emulated GPU has too, unlike <<<>>>.
 */
#pragma once

#include "nn/kernels_cuda.h"

template <typename... Expected, typename... Actual>
static cudaError_t fb_launch_kernel(cudaStream_t stream, dim3 grid, unsigned threads, void (*kernel)(Expected...),
                                    Actual... arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Expected>(arguments)...);
}

/* On the queue, which keeps the first failure and `name`. No blocks: nothing to do. */
template <typename... Expected, typename... Actual>
static void fb_launch_threads(fb_cuda_queue *queue, const char *name, int64_t blocks, unsigned threads,
                              void (*kernel)(Expected...), Actual... arguments)
{
    if (queue->error != cudaSuccess || blocks == 0)
        return;
    queue->error = fb_launch_kernel(queue->stream, dim3((unsigned)blocks), threads, kernel, arguments...);
    if (queue->error != cudaSuccess)
        queue->failed = name;
}
