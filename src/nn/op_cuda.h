/* SPDX-License-Identifier: Apache-2.0
 *
 * The backend that computes on an NVIDIA GPU (op_cuda.c), or, in a build without CUDA, says so (op_cuda_none.c).
 */
#pragma once

#include "nn/op.h"

enum { FB_CUDA_NAME_CHARS = 128, FB_CUDA_BUS_CHARS = 32 };

typedef struct fb_cuda_device {
    char name[FB_CUDA_NAME_CHARS]; /* e.g. "NVIDIA H200" */
    char bus_id[FB_CUDA_BUS_CHARS];
    int major, minor; /* compute capability */
    int64_t free_bytes, total_bytes;
} fb_cuda_device;

/* Devices that this process sees. 0 comes with the reason in `why` (at most `chars` characters with '\0'): no CUDA in
 * the build, no driver, no device. */
int fb_cuda_count(size_t chars, char *why);

/* Makes `device` this process' own and describes it. Errors: no such device, CUDA's. */
fb_status fb_cuda_use(int device, fb_cuda_device *out) FB_MUST_USE;

/* Versions of the libraries that were built against, e.g. "CUDA 13.0", or "not built". */
void fb_cuda_versions(size_t chars, char *text);

/* A backend on the device that fb_cuda_use chose, with activations of this type. Its operations are queued on a stream
 * of its own; one at a time serves a process. Errors: memory, CUDA's. */
fb_status fb_ops_cuda_create(fb_act_type act, fb_ops **out) FB_MUST_USE;
void fb_ops_cuda_destroy(fb_ops **ops); /* after all of its memory was released */

/* --- by what convolutions are computed ---
 *
 * Our own kernels, or, for each shape and direction, a plan of cuDNN. At first by our own alone. One rank measures,
 * prints its table, and all ranks, that one too, choose what the text says; then they make their networks. A
 * convolution that is not in the table, such as those of an evaluation's windows, whose size is known only when the
 * first case comes, is computed by our own kernels on every rank: nothing is ever measured in the midst of a run. */

typedef struct fb_conv_tuning {
    int64_t workspace_bytes; /* plans of cuDNN that want more are left out */
    int repeats;             /* timings, after one run to warm up; the median counts */
    int prefer_cudnn;        /* the fastest plan of cuDNN even where our own kernels are faster */
    int bf16_gradient; /* a plan may round the weight gradient to bfloat16, where none writes float32. Without it our
                          own kernels then compute that direction */
} fb_conv_tuning;

/* Loads and starts cuDNN unless it runs. Errors: there is none, as of fb_cudnn_create. */
fb_status fb_ops_cuda_start_cudnn(const fb_ops *ops) FB_MUST_USE;

/* 256 MiB, 5 repeats. */
extern const fb_conv_tuning fb_conv_tuning_default;

/* From here to fb_ops_cuda_tune_end, conv_create measures each shape that is not in the table, and adds it. A plan is
 * left out, with a line in the log, where it does not run, gives other bits when run again, or gives another result
 * than our own float32 kernels do from the same bfloat16 numbers: each element may differ by 2^-8 of its value where
 * the result is in bfloat16, and by as much of the largest result as n sums in float32 explain:
 * min(2^-7, 2^-23 (16 + n / 16)). Of equally fast ones the first counts, and our own kernels before all. Needs memory
 * for the data of one convolution, twice in the activations' type and three times in float32. `how` is borrowed until
 * the end. Errors: no cuDNN. */
fb_status fb_ops_cuda_tune_begin(const fb_ops *ops, const fb_conv_tuning *how) FB_MUST_USE;
void fb_ops_cuda_tune_end(const fb_ops *ops);

/* The table as text (nn/conv_choice.h), with or without what was measured. *text is owned by the caller. */
fb_status fb_ops_cuda_choices_print(const fb_ops *ops, int with_times, char **text) FB_MUST_USE;

/* Replaces the table. No convolution may be alive. Errors: text, named line; cuDNN's version, or no cuDNN; a plan that
 * cannot be had here is an error of conv_create. */
fb_status fb_ops_cuda_choices_set(const fb_ops *ops, const char *text) FB_MUST_USE;

/* Convolutions of the table, and those of them that are cuDNN's. */
void fb_ops_cuda_choices_count(const fb_ops *ops, int *all, int *cudnn);
