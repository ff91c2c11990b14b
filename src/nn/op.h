/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of training, as one table per backend. op_ref.c is plain C that reads like the mathematics and is the
 * oracle for the others; op_dnnl.c is the fast CPU backend; op_cuda.c computes on a GPU.
 *
 * Batch 1 throughout. Activations are dense (D, H, W, C), C fastest ("NDHWC"); V = D*H*W voxels. Weights of a
 * convolution are MONAI's and PyTorch's (C_out, C_in, K, K, K). Buffers never overlap unless said. No function here is
 * collective. All are deterministic for a fixed number of threads.
 *
 * Memory. Every buffer that an operation reads or writes is the backend's: made by its alloc, filled and read by its
 * upload and download. On the CPU it is ordinary memory, and ordinary memory will do. On a device operations are only
 * queued, in the order of the calls; what goes wrong there is reported by the next download.
 *
 * fb_real is float; compiled with -DFB_REAL=double the same sources give the double-precision oracle of the tests.
 */
#pragma once

#include "core/status.h"
#include "data/augment.h"

#include <stdint.h>

#ifndef FB_REAL
#define FB_REAL float
#endif
typedef FB_REAL fb_real;

/* Elements of activations: fb_real on the CPU, bfloat16 or float on a GPU; fb_ops.act_bytes each. */
typedef void fb_act;
typedef enum fb_act_type { FB_ACT_F32, FB_ACT_BF16 } fb_act_type;

/* A 3-D convolution without bias, zero padding kernel/2 on each side; output extent = ceil(input extent / stride). The
 * one to FB_REGIONS channels makes the logits: its output and that output's gradient are fb_real, not fb_act. */
typedef struct fb_conv_shape {
    int64_t in[3]; /* D, H, W of the input */
    int64_t c_in, c_out;
    int kernel; /* 1 or 3, the same in all directions */
    int stride; /* 1 or 2 */
} fb_conv_shape;

typedef struct fb_conv fb_conv; /* made by a backend for one shape: primitives, reordered weights, scratch */

enum { FB_NORM_GROUPS = 8, FB_IMAGE_CHANNELS = 4, FB_REGIONS = 3 };

typedef struct fb_adam_spec {
    double learning_rate, beta1, beta2, epsilon; /* PyTorch's defaults: 1e-3, 0.9, 0.999, 1e-8 */
    double weight_decay;                         /* L2: added to the gradient, as torch.optim.Adam does */
} fb_adam_spec;

/* What a training sample is made of. */
typedef struct fb_sample {
    const float *image;   /* (shape, FB_IMAGE_CHANNELS) the backend's memory */
    const uint8_t *label; /* (shape) the backend's memory */
    int64_t shape[3];     /* D, H, W */
    fb_augmentation how;
} fb_sample;

typedef struct fb_ops fb_ops;
struct fb_ops {
    const char *name;  /* "ref", "dnnl", "cuda" */
    void *state;       /* the backend's own; NULL on the CPU */
    int64_t act_bytes; /* of an element of an activation */
    int on_host;       /* the backend's memory is ordinary memory, and operations are done when their call returns */

    /* Library, version and instruction set or device that compute, e.g. "oneDNN 2.6.3, AVX-512": part of a run's
     * identity, since other ones give other bits. Writes at most `chars` characters with '\0'. */
    void (*describe)(const fb_ops *ops, size_t chars, char *text);

    /* --- memory of the backend --- */

    /* `bytes` of it, all zero, owned by the caller. Errors: no memory, with `subject` and what is used and free. */
    fb_status (*alloc)(const fb_ops *ops, int64_t bytes, const char *subject, void **out);
    void (*release)(const fb_ops *ops, void **memory); /* NULL does nothing; sets NULL */
    void (*zero)(const fb_ops *ops, void *memory, int64_t bytes);
    void (*copy)(const fb_ops *ops, void *to, const void *from, int64_t bytes); /* both the backend's */
    /* `from` is the caller's; it may be changed at once. */
    void (*upload)(const fb_ops *ops, void *to, const void *from, int64_t bytes);
    /* The same for large blocks, beside the work that is queued: only what was queued before the last call of `turn` is
     * waited for, so that no later work may use `to`. Operations queued afterwards find it filled. */
    void (*upload_beside)(const fb_ops *ops, void *to, const void *from, int64_t bytes);
    void (*turn)(const fb_ops *ops);
    /* Waits for all that was queued. Errors: whatever went wrong since the last download. */
    fb_status (*download)(const fb_ops *ops, void *to, const void *from, int64_t bytes);

    /* Memory that is free now and all there is. NULL on the CPU. */
    void (*room)(const fb_ops *ops, int64_t *free_bytes, int64_t *total_bytes);

    /* --- repeated work: NULL on the CPU, which does it anew --- */

    /* Between begin and end operations are not done but recorded, with their buffers; replay does what was recorded.
     * free: NULL does nothing; sets NULL. */
    fb_status (*record_begin)(const fb_ops *ops);
    fb_status (*record_end)(const fb_ops *ops, void **recording);
    void (*record_replay)(const fb_ops *ops, void *recording);
    void (*record_free)(const fb_ops *ops, void **recording);

    /* --- samples --- */

    /* x (patch, FB_IMAGE_CHANNELS), target (patch) region bits, or NULL: fb_augment_apply of what *from says, which is
     * the backend's memory. */
    void (*sample)(const fb_ops *ops, const fb_sample *from, const int64_t patch[3], fb_act *x, uint8_t *target);

    /* --- the network --- */

    /* Makes a convolution. Errors: shape the backend cannot do, no memory. Owned by the caller. */
    fb_status (*conv_create)(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out);
    void (*conv_destroy)(fb_conv **conv);

    /* The backend's memory that conv_create would take: its own, and scratch that all convolutions share, of which
     * the largest counts. Errors: as of conv_create. */
    fb_status (*conv_bytes)(const fb_ops *ops, const fb_conv_shape *shape, int64_t *own_bytes, int64_t *scratch_bytes);

    /* Takes new weights w (C_out, C_in, K, K, K); w is copied or borrowed until the next call, so it must stay valid
     * and unchanged while fwd and bwd_data are used. */
    fb_status (*conv_load)(fb_conv *conv, const fb_real *w);

    /* y[o] = sum over i, k of w[o, i, k] * x[stride * position + k - K/2, i]; x (in, C_in), y (out, C_out) */
    fb_status (*conv_fwd)(fb_conv *conv, const fb_act *x, fb_act *y);

    /* dx = transposed convolution of dy; dx is overwritten. dy (out, C_out), dx (in, C_in) */
    fb_status (*conv_bwd_data)(fb_conv *conv, const fb_act *dy, fb_act *dx);

    /* dw = correlation of x with dy; dw (C_out, C_in, K, K, K) is overwritten. */
    fb_status (*conv_bwd_weights)(fb_conv *conv, const fb_act *x, const fb_act *dy, fb_real *dw);

    /* y = relu(gamma[c] * (x - mean[g]) * rstd[g] + beta[c]) with g = c / (channels / FB_NORM_GROUPS), mean and biased
     * variance over the group's voxels and channels, rstd = 1/sqrt(var + 1e-5) (Wu & He 2018; PyTorch GroupNorm).
     * x, y (voxels, channels); gamma, beta (channels); stats receives mean and rstd (2, FB_NORM_GROUPS). */
    void (*norm_relu_fwd)(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const fb_real *gamma,
                          const fb_real *beta, fb_act *y, fb_real *stats);

    /* Gradient of the above: dx += d/dx (accumulates: the residual path's gradient is already there, or zero);
     * dgamma, dbeta (channels) are overwritten. The ReLU mask is recomputed from x. */
    void (*norm_relu_bwd)(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const fb_real *gamma,
                          const fb_real *beta, const fb_real *stats, const fb_act *dy, fb_act *dx, fb_real *dgamma,
                          fb_real *dbeta);

    /* y (2D, 2H, 2W, C) = trilinear interpolation of x (D, H, W, C), align_corners false (PyTorch Upsample), plus
     * skip (2D, 2H, 2W, C), which may be y itself. `in` is (D, H, W). */
    void (*upsample_add_fwd)(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *x,
                             const fb_act *skip, fb_act *y);

    /* dx (D, H, W, C) = transposed interpolation of dy (2D, 2H, 2W, C), in gather form; dx is overwritten. */
    void (*upsample_bwd)(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *dy, fb_act *dx);

    /* y = a + b over `count` elements; y may be a or b. */
    void (*add)(const fb_ops *ops, int64_t count, const fb_act *a, const fb_act *b, fb_act *y);

    /* x[v, c] *= scale[c]; x (voxels, channels) */
    void (*scale_channels)(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_real *scale, fb_act *x);

    /* y[v, r] += bias[r]; y (voxels, FB_REGIONS) */
    void (*bias_add)(const fb_ops *ops, int64_t voxels, const fb_real *bias, fb_real *y);

    /* dbias[r] = sum over v of dy[v, r]; dy (voxels, FB_REGIONS) */
    void (*bias_bwd)(const fb_ops *ops, int64_t voxels, const fb_real *dy, fb_real *dbias);

    /* --- loss and optimiser --- */

    /* nn/loss.h: *loss_sum += the loss; dlogits (voxels, FB_REGIONS) its gradient. */
    void (*dice_loss)(const fb_ops *ops, int64_t voxels, const fb_real *logits, const uint8_t *target, fb_real *dlogits,
                      double *loss_sum);

    /* *step += 1, then nn/optim.h's steps over `count` elements with that number; w, g, m, v (count). */
    void (*count_step)(const fb_ops *ops, int64_t *step);
    void (*adam_step)(const fb_ops *ops, const fb_adam_spec *spec, int64_t count, const int64_t *step, fb_real *w,
                      const fb_real *g, fb_real *m, fb_real *v);
    void (*sgd_step)(const fb_ops *ops, double learning_rate, double weight_decay, int64_t count, fb_real *w,
                     const fb_real *g);

    /* --- evaluation --- */

    /* x (window, FB_IMAGE_CHANNELS) = the part of image (extent, FB_IMAGE_CHANNELS) that begins at start. */
    void (*take_window)(const fb_ops *ops, const fb_act *image, const int64_t extent[3], const int64_t start[3],
                        const int64_t window[3], fb_act *x);

    /* sum (extent, FB_REGIONS), at start, += logits (window, FB_REGIONS) */
    void (*add_window)(const fb_ops *ops, const fb_real *logits, const int64_t extent[3], const int64_t start[3],
                       const int64_t window[3], fb_real *sum);
};

extern const fb_ops fb_ops_ref;
extern const fb_ops fb_ops_dnnl;

/* Number of threads that the dnnl backend and the own kernels use in this process (OpenMP). At least 1. Set it before
 * conv_create: a convolution keeps the number it was made with where that decides the order of its sums. */
void fb_ops_set_threads(int threads);
