/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the GPU backend: what op_cuda.c (memory and the small operations), conv_cuda.c (convolutions),
 * conv_choice_cuda.c (by what they are computed) and conv_tune_cuda.c (how that is found out) share.
 */
#pragma once

#include "nn/conv_choice.h"
#include "nn/kernels_cuda.h"
#include "nn/op_cuda.h"

#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        const cudaError_t cuda_try_error_ = (call);                                                                    \
        if (cuda_try_error_ != cudaSuccess)                                                                            \
            return fb_cuda_failed(#call, cuda_try_error_);                                                             \
    } while (0)

typedef struct fb_cuda_allocation {
    const void *memory;
    int64_t bytes;
    char subject[48];
} fb_cuda_allocation;

/* Large uploads go through page-locked memory in two halves, one of which the device reads while the other is filled.
 */
enum { FB_CUDA_STAGE_BYTES = 8 << 20, FB_CUDA_STAGES = 2 };

typedef struct fb_cuda_stage {
    void *memory;     /* owned, page-locked; NULL before the first use */
    cudaEvent_t sent; /* owned: the device has read it */
} fb_cuda_stage;

/* Memory that serves one convolution after the other. */
typedef struct fb_cuda_shared {
    void *memory; /* owned */
    size_t bytes;
    int convolutions; /* that use it: the last one frees it */
} fb_cuda_shared;

/* By what convolutions are computed. */
typedef struct fb_cuda_engines {
    fb_conv_choices choices;
    fb_cudnn_conv **plans; /* (plan_capacity) of the choices, owned; NULL: own kernels, or not built yet */
    int plan_capacity;
    fb_cudnn *cudnn;              /* owned; NULL until something needs it */
    const fb_conv_tuning *tuning; /* borrowed; NULL: unknown convolutions get own kernels */
} fb_cuda_engines;

typedef struct fb_cuda_backend {
    fb_cuda_queue queue;
    cudaStream_t side; /* owned: uploads beside the queued work */
    fb_cuda_stage stages[FB_CUDA_STAGES];
    cudaEvent_t turned, arrived; /* owned: the last turn of the queue; the last upload beside it */
    char description[256];
    fb_cuda_shared *sums, *workspace; /* the largest ones; NULL without convolutions */
    fb_cuda_engines engines;
    int convolutions; /* alive */
    int count, capacity;
    fb_cuda_allocation *allocations; /* (count) owned: for the table that an error shows */
} fb_cuda_backend;

/* One direction of a convolution: by what. */
typedef struct fb_cuda_pass {
    fb_cudnn_conv *plan; /* borrowed; NULL: our own kernels */
    int64_t candidate;   /* of the plan */
    fb_cudnn_precision precision;
} fb_cuda_pass;

/* Memory of the device that passes work with; NULL where the engine does not need it. */
typedef struct fb_cuda_room {
    void *packed;    /* weights as our kernels want them */
    void *image;     /* weights as cuDNN wants them: (C_out, K, K, K, C_in) of the activations' type */
    void *sums;      /* our weight gradients' partial sums, or cuDNN's weight gradient in its own order */
    void *workspace; /* cuDNN's */
} fb_cuda_room;

/* --- op_cuda.c --- */

fb_cuda_backend *fb_cuda_state(const fb_ops *ops);

fb_status fb_cuda_failed(const char *call, cudaError_t error) FB_MUST_USE;

/* Keeps the first failure of a queued call for the next download. */
void fb_cuda_note(const fb_ops *ops, const char *what, cudaError_t error);

/* So many bytes: *largest, where that is large enough, or a new one, which then is the largest. Smaller ones stay with
 * the convolutions that have them, as a recording may hold their address. */
fb_status fb_cuda_share(const fb_ops *ops, fb_cuda_shared **largest, size_t bytes, const char *subject,
                        fb_cuda_shared **out) FB_MUST_USE;
void fb_cuda_leave(const fb_ops *ops, fb_cuda_shared **largest, fb_cuda_shared **shared);

/* --- conv_cuda.c --- */

fb_status fb_conv_create_cuda(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out) FB_MUST_USE;
void fb_conv_destroy_cuda(fb_conv **conv);
fb_status fb_conv_bytes_cuda(const fb_ops *ops, const fb_conv_shape *shape, int64_t *own_bytes,
                             int64_t *scratch_bytes) FB_MUST_USE;
fb_status fb_conv_load_cuda(fb_conv *conv, const float *w) FB_MUST_USE;
fb_status fb_conv_fwd_cuda(fb_conv *conv, const fb_act *x, fb_act *y) FB_MUST_USE;
fb_status fb_conv_bwd_data_cuda(fb_conv *conv, const fb_act *dy, fb_act *dx) FB_MUST_USE;
fb_status fb_conv_bwd_weights_cuda(fb_conv *conv, const fb_act *x, const fb_act *dy, float *dw) FB_MUST_USE;

/* Bytes of one of the convolution's weights in cuDNN's order, as float. */
int64_t fb_cuda_image_bytes(const fb_conv_shape *shape);

/* Queues one pass: x (in, C_in), y (out, C_out), dw; which of them is written is the direction's, and dw is NULL but
 * for weight gradients. Errors: cuDNN does not launch it. */
fb_status fb_cuda_run_pass(const fb_ops *ops, const fb_conv_shape *shape, fb_cudnn_direction direction,
                           const fb_cuda_pass *pass, const fb_cuda_room *room, void *x, void *y, float *dw) FB_MUST_USE;

/* --- conv_choice_cuda.c --- */

/* Appends a choice; takes over its plan, which may be NULL, also on error. */
fb_status fb_cuda_add_choice(const fb_ops *ops, const fb_conv_choice *choice, fb_cudnn_conv **plan) FB_MUST_USE;

/* Elements of the input and of the output. */
void fb_cuda_conv_elements(const fb_conv_shape *shape, int64_t *in, int64_t *out);

/* Bytes that the plans of the table need at most. */
int64_t fb_cuda_workspace_bytes(const fb_ops *ops);

/* What is chosen for a direction, its plan built. */
fb_status fb_cuda_find_pass(const fb_ops *ops, const fb_conv_shape *shape, fb_cudnn_direction direction,
                            fb_cuda_pass *pass) FB_MUST_USE;

void fb_cuda_engines_free(fb_cuda_engines *engines);

/* --- conv_tune_cuda.c --- */

/* Adds a choice for each direction of a convolution that is not in the table. */
fb_status fb_cuda_tune(const fb_ops *ops, const fb_conv_shape *shape) FB_MUST_USE;
