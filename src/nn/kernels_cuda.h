/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of nn/op.h on a GPU, but for the convolutions (nn/kernels_conv_cuda.h): each call queues one or two
 * kernels. All memory is the device's. Activations are of the type that the queue says. channels: a multiple of
 * FB_NORM_GROUPS up to FB_CUDA_MAX_CHANNELS, activations aligned to 32 bytes.
 *
 * Sums over voxels have two stages: every block leaves partial sums in the queue's scratch, and the block that finishes
 * last adds them up in their order, in double. How many blocks there are, the problem's size alone decides. So the bits
 * depend neither on the device nor on the order in which blocks run.
 */
#pragma once

#include "nn/op.h"

#include <cuda_runtime.h>

enum { FB_CUDA_MAX_CHANNELS = 1024, FB_CUDA_SCRATCH_BYTES = 4 << 20 };

/* Where work is queued. */
typedef struct fb_cuda_queue {
    cudaStream_t stream;
    fb_act_type act;
    void *scratch; /* FB_CUDA_SCRATCH_BYTES of the device's memory, all zero at first: serves one kernel after the other
                    */
    cudaError_t error;  /* of the first launch that failed; further work is not queued then */
    const char *failed; /* its name */
} fb_cuda_queue;

#ifdef __cplusplus
extern "C" {
#endif

/* bytes of the host's memory, which are read before the call returns, without a wait: they travel as arguments. */
enum { FB_CUDA_STORE_BYTES_MAX = 2048 };
void fb_cuda_store(fb_cuda_queue *queue, void *to, const void *from, int64_t bytes); /* a multiple of 4 */

void fb_cuda_sample(fb_cuda_queue *queue, const fb_sample *from, const int64_t patch[3], void *x, uint8_t *target);
void fb_cuda_norm_relu_fwd(fb_cuda_queue *queue, int64_t voxels, int64_t channels, const void *x, const float *gamma,
                           const float *beta, void *y, float *stats);
void fb_cuda_norm_relu_bwd(fb_cuda_queue *queue, int64_t voxels, int64_t channels, const void *x, const float *gamma,
                           const float *beta, const float *stats, const void *dy, void *dx, float *dgamma,
                           float *dbeta);
void fb_cuda_upsample_add_fwd(fb_cuda_queue *queue, const int64_t in[3], int64_t channels, const void *x,
                              const void *skip, void *y);
void fb_cuda_upsample_bwd(fb_cuda_queue *queue, const int64_t in[3], int64_t channels, const void *dy, void *dx);
void fb_cuda_add(fb_cuda_queue *queue, int64_t count, const void *a, const void *b,
                 void *y); /* count: a multiple of 8 */
void fb_cuda_scale_channels(fb_cuda_queue *queue, int64_t voxels, int64_t channels, const float *scale, void *x);
void fb_cuda_bias_add(fb_cuda_queue *queue, int64_t voxels, const float *bias, float *y);
void fb_cuda_bias_bwd(fb_cuda_queue *queue, int64_t voxels, const float *dy, float *dbias);
void fb_cuda_dice_loss(fb_cuda_queue *queue, int64_t voxels, const float *logits, const uint8_t *target, float *dlogits,
                       double *loss_sum);
void fb_cuda_count_step(fb_cuda_queue *queue, int64_t *step);
void fb_cuda_adam_step(fb_cuda_queue *queue, const fb_adam_spec *spec, int64_t count, const int64_t *step, float *w,
                       const float *g, float *m, float *v);
void fb_cuda_sgd_step(fb_cuda_queue *queue, double learning_rate, double weight_decay, int64_t count, float *w,
                      const float *g);
void fb_cuda_take_window(fb_cuda_queue *queue, const void *image, const int64_t extent[3], const int64_t start[3],
                         const int64_t window[3], void *x);
void fb_cuda_add_window(fb_cuda_queue *queue, const float *logits, const int64_t extent[3], const int64_t start[3],
                        const int64_t window[3], float *sum);

#ifdef __cplusplus
}
#endif
