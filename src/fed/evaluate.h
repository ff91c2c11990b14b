/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments whole cases with the network in inference mode: the volume is z-scored (data/augment.h), zero-padded at
 * the end of each axis to a multiple of 2^(levels-1). The window is no larger than that, in any direction. A padded
 * volume that is as large as the window takes one forward; on a larger one the window slides as in MONAI's
 * sliding_window_inference with mode="constant", but MONAI pads a small volume to the window; here the window shrinks:
 * steps of int(window * (1 - overlap)), the last window moved back to the border, and each voxel's
 * logits averaged over the windows that cover it.
 *
 * Not collective. The result is a pure function of weights, volume, window and overlap.
 */
#pragma once

#include "data/volume.h"
#include "nn/metric.h"

typedef struct fb_evaluator fb_evaluator; /* the network for one window, and buffers that grow as cases need */

/* window (D, H, W), each a positive multiple of 2^(levels-1); overlap in [0, 1). spec, params and ops are borrowed.
 * Errors: window or overlap out of range, backend, memory. */
fb_status fb_evaluator_create(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                              const int64_t window[3], double overlap, fb_evaluator **out) FB_MUST_USE;
void fb_evaluator_destroy(fb_evaluator **evaluator);

/* *logits (D, H, W, FB_REGIONS), of the volume's own shape; borrowed until the next call. w (params->count). */
fb_status fb_evaluator_logits(fb_evaluator *evaluator, const float *w, const fb_volume *volume,
                              const float **logits) FB_MUST_USE;

/* Counts the voxels of the segmentation against the volume's labels; *counts is overwritten. */
fb_status fb_evaluator_case(fb_evaluator *evaluator, const float *w, const fb_volume *volume,
                            fb_counts *counts) FB_MUST_USE;

/* Where windows begin along an axis: how many there are and the first voxel of the one at `index`. window <= extent. */
int64_t fb_window_count(int64_t extent, int64_t window, double overlap);
int64_t fb_window_start(int64_t extent, int64_t window, double overlap, int64_t index);

/* What an evaluator holds once it has seen cases of one shape. */
typedef struct fb_evaluator_size {
    int64_t bytes;         /* of the backend's memory, but for: */
    int64_t scratch_bytes; /* what the backend keeps for the largest convolution */
    int64_t host_bytes;    /* of ordinary memory */
    int64_t convolutions;
} fb_evaluator_size;

/* Counts it, arguments as of create, for cases of `shape`, without taking it. */
fb_status fb_evaluator_count(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                             const int64_t window[3], double overlap, const int64_t shape[3],
                             fb_evaluator_size *out) FB_MUST_USE;

/* Voxels that go through the network for a case of `shape`, over all windows. */
int64_t fb_evaluator_voxels(int levels, const int64_t window[3], double overlap, const int64_t shape[3]);
