/* SPDX-License-Identifier: Apache-2.0
 *
 * What cuDNN's plans need beside them: weights and their gradient in another order, and, to measure and check a plan,
 * random numbers and a comparison. Each call queues one kernel, as in nn/kernels_cuda.h.
 */
#pragma once

#include "nn/kernels_cuda.h"

enum { FB_CUDA_COMPARE_BLOCKS = 256 };

/* Of the elements that one block compared. */
typedef struct fb_cuda_difference {
    float excess;  /* the largest |got - want| - slack |want|; infinite where one is not finite */
    float largest; /* |want| */
} fb_cuda_difference;

#ifdef __cplusplus
extern "C" {
#endif

/* w (C_out, C_in, K, K, K) float -> image (C_out, K, K, K, C_in) of `type`, rounded to nearest even. */
void fb_cuda_pack_weights(fb_cuda_queue *queue, const fb_conv_shape *shape, fb_act_type type, const float *w,
                          void *image);

/* image (C_out, K, K, K, C_in) of `type` -> dw (C_out, C_in, K, K, K) float. */
void fb_cuda_unpack_gradient(fb_cuda_queue *queue, const fb_conv_shape *shape, fb_act_type type, const void *image,
                             float *dw);

/* out (count): multiples of 1/128 in [-1, 1), which bfloat16 holds exactly: the same ones in both types. */
void fb_cuda_random(fb_cuda_queue *queue, fb_act_type type, int64_t count, unsigned seed, void *out);

/* got, want (count); out (FB_CUDA_COMPARE_BLOCKS), device memory: as many as the call returns are written. */
int fb_cuda_compare(fb_cuda_queue *queue, int64_t count, fb_act_type got_type, const void *got, fb_act_type want_type,
                    const void *want, float slack, fb_cuda_difference *out);

#ifdef __cplusplus
}
#endif
