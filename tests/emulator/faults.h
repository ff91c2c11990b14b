/* SPDX-License-Identifier: Apache-2.0
 *
 * Small kernels, each with a fault that the emulated GPU must show, and the same without. FAULT_THREADS floats are read
 * and written by one block.
 */
#pragma once

#include <cuda_runtime.h>

enum { FAULT_THREADS = 256 };

typedef enum fault {
    FAULT_NONE,          /* reversed through shared memory, then each plus its right neighbour */
    FAULT_NO_BARRIER,    /* the same without the barrier after the first write */
    FAULT_EARLY_WRITE,   /* the same without the barrier before the second write */
    FAULT_UNINITIALISED, /* the same, but a half of the shared memory is never written */
    FAULT_WARP_BARRIER,  /* a barrier of the warp in place of the block's */
    FAULT_BEYOND,        /* writes one element more */
    FAULT_DIVERGENT,     /* some threads of a warp wait for the block, some for the warp */
    FAULT_STILL_COPYING, /* an asynchronous copy into shared memory is not waited for */
    FAULT_NO_BARRIER_AFTER_COPY
} fault;

#ifdef __cplusplus
extern "C"
#endif
cudaError_t fault_launch(fault which, const float *in, float *out, cudaStream_t stream);
