/* SPDX-License-Identifier: Apache-2.0
 *
 * Our own 3-D convolutions on the GPU: batch 1, dense (D, H, W, C) activations, made for few channels, where cuDNN's
 * tiles are mostly padding. What they compute is what fb_ops says in op.h. Not collective.
 *
 * Two types of activations:
 *   FB_ACT_F32   float throughout, plain multiply-adds: the comparison path. Any number of channels.
 *   FB_ACT_BF16  activations and their gradients in bfloat16, weights rounded to bfloat16, products summed in float by
 *                the tensor cores, results rounded once. c_in 4 or a multiple of 8; c_out a multiple of 8, or 3 where
 *                kernel and stride are 1. With c_out 3 (the logits) y and dy are float and so are the weights: the
 *                kernels have no use for rounded ones there.
 * Gradients of weights are float, always. At most 1024 channels, 65536 voxels along an axis and about 2^31 in all.
 *
 * The same arguments give the same bits, always: nothing is added in an order that could change, and launches depend on
 * the shape alone. Every call only queues work on `stream`, so all can be captured. Pointers are device memory, aligned
 * to 16 bytes but for w and dw (4 bytes). `packed` weights belong to one shape and type; the memory for partial sums
 * may serve one convolution after the other. Both are the caller's.
 *
 * Errors: cudaErrorInvalidValue for a shape that the type cannot do; what a launch returns.
 */
#pragma once

#include "nn/op.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of packed weights, and of the partial sums of bwd_weights; 0 for a shape that the type cannot do. The partial
 * sums take at most 64 MiB, or one copy of the weights where that is more. */
size_t fb_cuda_conv_packed_bytes(const fb_conv_shape *shape, fb_act_type type);
size_t fb_cuda_conv_partial_bytes(const fb_conv_shape *shape, fb_act_type type);

/* Takes new weights w (C_out, C_in, K, K, K), float, for fwd and bwd_data; w is read by the queued work only. */
cudaError_t fb_cuda_conv_pack(const fb_conv_shape *shape, fb_act_type type, const float *w, void *packed,
                              cudaStream_t stream);

/* x (in, C_in) -> y (out, C_out), overwritten. */
cudaError_t fb_cuda_conv_fwd(const fb_conv_shape *shape, fb_act_type type, const void *packed, const void *x, void *y,
                             cudaStream_t stream);

/* dy (out, C_out) -> dx (in, C_in), overwritten. */
cudaError_t fb_cuda_conv_bwd_data(const fb_conv_shape *shape, fb_act_type type, const void *packed, const void *dy,
                                  void *dx, cudaStream_t stream);

/* x (in, C_in), dy (out, C_out) -> dw (C_out, C_in, K, K, K), float, overwritten. Needs no packed weights. */
cudaError_t fb_cuda_conv_bwd_weights(const fb_conv_shape *shape, fb_act_type type, void *partial, const void *x,
                                     const void *dy, float *dw, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
