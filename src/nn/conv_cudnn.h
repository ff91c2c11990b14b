/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions on an NVIDIA GPU: execution plans of the cuDNN graph API, one per shape and direction, picked among all
 * that cuDNN's heuristics list. Written for training that repeats bit for bit: an engine that cuDNN marks as not
 * deterministic is never used, and the plan in use is a line of text that goes into a checkpoint and to the other
 * ranks, which then build exactly that one.
 *
 * Batch 1. Activations are dense (D, H, W, C), C fastest. Weights and their gradient are (C_out, K, K, K, C_in), C_in
 * fastest, which is not the (C_out, C_in, K, K, K) of fb_ops. No bias, zero padding kernel/2 on each side. All pointers
 * to data are device pointers of the current device, aligned to FB_CUDNN_ALIGNMENT_BYTES.
 *
 * No function here is collective. A fb_cudnn and what was made from it belong to one thread at a time. Errors name the
 * call, cuDNN's own text and the convolution.
 */
#pragma once

#include "nn/op.h"

enum { FB_CUDNN_ALIGNMENT_BYTES = 16, FB_CUDNN_KNOBS_MAX = 64, FB_CUDNN_CHOICE_CHARS = 2048 };

typedef struct fb_cudnn fb_cudnn;           /* a handle bound to one stream of one device */
typedef struct fb_cudnn_conv fb_cudnn_conv; /* one direction of one convolution: its candidate plans */

typedef enum fb_cudnn_direction {
    FB_CUDNN_FORWARD,         /* y = convolution of x with w */
    FB_CUDNN_BACKWARD_DATA,   /* dx (in place of x) = transposed convolution of dy (in place of y) with w */
    FB_CUDNN_BACKWARD_WEIGHTS /* dw (in place of w) = correlation of x with dy (in place of y) */
} fb_cudnn_direction;

/* Sums are in float32 throughout: engines that reduce in less, or narrow their inputs, are never used. */
typedef enum fb_cudnn_precision {
    FB_CUDNN_BF16,              /* x, w, y and their gradients in bfloat16 */
    FB_CUDNN_BF16_GRADIENT_F32, /* the same, but the weight gradient in float32; see fb_cudnn_conv_create */
    FB_CUDNN_TF32,              /* all in float32; products may take TF32 factors (10 bits of mantissa) */
    FB_CUDNN_F32                /* all in float32, no tensor cores, no transform (FFT, Winograd) */
} fb_cudnn_precision;

typedef struct fb_cudnn_knob {
    int64_t type, value; /* cudnnBackendKnobType_t and its setting */
} fb_cudnn_knob;

/* One plan. Engine numbers and knobs mean something in one version of cuDNN only. */
typedef struct fb_cudnn_choice {
    int64_t version; /* cudnnGetVersion(), e.g. 91900 */
    int64_t engine;  /* global index within the operation graph */
    int64_t knob_count;
    fb_cudnn_knob knobs[FB_CUDNN_KNOBS_MAX];
    int64_t workspace_bytes; /* what the plan asks for; not part of its identity */
} fb_cudnn_choice;

/* What became of the configurations that cuDNN listed; the candidates are the rest. */
typedef struct fb_cudnn_listing {
    int64_t listed;
    int64_t repeated;         /* listed a second time by the fallback heuristics */
    int64_t nondeterministic; /* dropped: bits may differ from run to run */
    int64_t imprecise;        /* dropped: less than the precision asked for */
    int64_t unsupported;      /* dropped: cuDNN says that it does not support them here */
    int64_t failed;           /* dropped: building or running them failed in another way */
} fb_cudnn_listing;

typedef struct fb_cudnn_tuning {
    int64_t timed, too_large, failed; /* candidates: timed; not tried for want of workspace; that did not run */
    double best_ms, first_ms;         /* medians of the fastest and of the heuristics' first (NaN if not timed) */
} fb_cudnn_tuning;

/* Makes a handle on the current device, bound to `stream` (a cudaStream_t, borrowed; NULL is the default stream).
 * Errors: no cuDNN in the build, or no libcudnn.so.9 here, which is loaded only now; cuDNN older than 9.15 (bfloat16
 * 3-D convolutions were slow, memory-hungry and, with large shapes, wrong); no usable device. */
fb_status fb_cudnn_create(void *stream, fb_cudnn **out) FB_MUST_USE;

/* The same without a device: plans are made for the device that `json` describes in cuDNN's own words
 * (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION) and cannot be run. For tests and for looking at plans. */
fb_status fb_cudnn_create_deviceless(const char *json, fb_cudnn **out) FB_MUST_USE;

/* Destroy what was made from it first. */
void fb_cudnn_destroy(fb_cudnn **cudnn);

int64_t fb_cudnn_version(const fb_cudnn *cudnn); /* cudnnGetVersion(), e.g. 91900 */

/* Lists the plans of one direction of a convolution. With choice NULL, all that the heuristics (mode A, then fallback)
 * know, can be built, are deterministic and keep the precision, cuDNN's favourite first; otherwise exactly that one.
 * For a float32 gradient of a bfloat16 convolution the heuristics of cuDNN 9.19 know none; then every engine is tried,
 * which takes seconds a plan (run-time compilation), and may be slower than a bfloat16 gradient: compare both. Whatever
 * the plan, compare its results with another precision's once per shape: cuDNN has shipped wrong kernels. `cudnn` is
 * borrowed until the convolution is destroyed. Errors: a shape that is none or has a tensor of 2^31 elements or more
 * (kernels that count in 32 bits have given wrong results), no engine for it, a choice of another version, one that
 * this version does not have here, or one that is not deterministic. */
fb_status fb_cudnn_conv_create(fb_cudnn *cudnn, const fb_conv_shape *shape, fb_cudnn_direction direction,
                               fb_cudnn_precision precision, const fb_cudnn_choice *choice,
                               fb_cudnn_conv **out) FB_MUST_USE;

/* A CUDA graph that captured one of the plans must be destroyed first: its kernels' code lives in the plan. */
void fb_cudnn_conv_destroy(fb_cudnn_conv **conv);

int64_t fb_cudnn_conv_count(const fb_cudnn_conv *conv);                            /* candidates, at least 1 */
const fb_cudnn_choice *fb_cudnn_conv_choice(const fb_cudnn_conv *conv, int64_t i); /* borrowed; i < count */
fb_cudnn_listing fb_cudnn_conv_listing(const fb_cudnn_conv *conv);

/* Enqueues candidate i on the stream. x (in, C_in), w (C_out, K, K, K, C_in), y (out, C_out): which of them is written
 * is the direction's. workspace: device memory of choice(i)->workspace_bytes, same alignment; NULL if that is 0.
 * May be captured into a CUDA graph. Errors: alignment, what cuDNN reports at the launch. */
fb_status fb_cudnn_conv_run(fb_cudnn_conv *conv, int64_t i, void *x, void *w, void *y, void *workspace) FB_MUST_USE;

/* Runs every candidate that fits into workspace_bytes once to warm up and `repeats` times (1 to 1000) under CUDA
 * events, keeps the one of the smallest median and frees the others. The output is overwritten, the buffers should
 * hold typical numbers (a GPU is faster on zeros). Waits for the stream, so not while it is captured. `tuning` may be
 * NULL. Which one wins depends on the moment: tune on one rank and send the choice to the others. Errors: no candidate
 * fits or runs; the candidates are then as before. */
fb_status fb_cudnn_conv_tune(fb_cudnn_conv *conv, void *x, void *w, void *y, void *workspace, size_t workspace_bytes,
                             int repeats, fb_cudnn_tuning *tuning) FB_MUST_USE;

/* Keeps candidate i, as candidate 0, and frees the others. */
void fb_cudnn_conv_keep(fb_cudnn_conv *conv, int64_t i);

/* Candidate 0 as stable text, as of fb_cudnn_choice_print. */
void fb_cudnn_conv_describe(const fb_cudnn_conv *conv, size_t chars, char *text);

/* "cudnn 9.19.0 engine 34 knobs 2=1,5=0 workspace 1048576"; without knobs "knobs -". Writes at most `chars`
 * characters with '\0'; FB_CUDNN_CHOICE_CHARS are enough for usual values. */
void fb_cudnn_choice_print(const fb_cudnn_choice *choice, size_t chars, char *text);

/* The reverse; the whole text must be of that form. Errors name the text and the place. */
fb_status fb_cudnn_choice_parse(const char *text, fb_cudnn_choice *out) FB_MUST_USE;

/* Whether both are the same plan, whatever workspace it asks for. */
int fb_cudnn_choice_equal(const fb_cudnn_choice *a, const fb_cudnn_choice *b);
