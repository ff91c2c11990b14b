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
