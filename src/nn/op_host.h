/* SPDX-License-Identifier: Apache-2.0
 *
 * What the CPU backends have in common: ordinary memory, and the operations that are no bottleneck.
 */
#pragma once

#include "nn/op.h"

fb_status fb_host_alloc(const fb_ops *ops, int64_t bytes, const char *subject, void **out);
void fb_host_release(const fb_ops *ops, void **memory);
void fb_host_zero(const fb_ops *ops, void *memory, int64_t bytes);
void fb_host_copy(const fb_ops *ops, void *to, const void *from, int64_t bytes);
void fb_host_turn(const fb_ops *ops);
fb_status fb_host_download(const fb_ops *ops, void *to, const void *from, int64_t bytes);
void fb_host_sample(const fb_ops *ops, const fb_sample *from, const int64_t patch[3], fb_act *x, uint8_t *target);
void fb_host_scale_channels(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_real *scale, fb_act *x);
void fb_host_bias_add(const fb_ops *ops, int64_t voxels, const fb_real *bias, fb_real *y);
void fb_host_bias_bwd(const fb_ops *ops, int64_t voxels, const fb_real *dy, fb_real *dbias);
void fb_host_dice_loss(const fb_ops *ops, int64_t voxels, const fb_real *logits, const uint8_t *target,
                       fb_real *dlogits, double *loss_sum);
void fb_host_count_step(const fb_ops *ops, int64_t *step);
void fb_host_adam_step(const fb_ops *ops, const fb_adam_spec *spec, int64_t count, const int64_t *step, fb_real *w,
                       const fb_real *g, fb_real *m, fb_real *v);
void fb_host_sgd_step(const fb_ops *ops, double learning_rate, double weight_decay, int64_t count, fb_real *w,
                      const fb_real *g);
void fb_host_take_window(const fb_ops *ops, const fb_act *image, const int64_t extent[3], const int64_t start[3],
                         const int64_t window[3], fb_act *x);
void fb_host_add_window(const fb_ops *ops, const fb_real *logits, const int64_t extent[3], const int64_t start[3],
                        const int64_t window[3], fb_real *sum);

/* The part of a CPU backend's table that is the same for all. */
#define FB_OPS_HOST                                                                                                    \
    .act_bytes = sizeof(fb_real), .on_host = 1, .alloc = fb_host_alloc, .release = fb_host_release,                    \
    .zero = fb_host_zero, .copy = fb_host_copy, .upload = fb_host_copy, .upload_beside = fb_host_copy,                 \
    .turn = fb_host_turn, .download = fb_host_download, .sample = fb_host_sample,                                      \
    .scale_channels = fb_host_scale_channels, .bias_add = fb_host_bias_add, .bias_bwd = fb_host_bias_bwd,              \
    .dice_loss = fb_host_dice_loss, .count_step = fb_host_count_step, .adam_step = fb_host_adam_step,                  \
    .sgd_step = fb_host_sgd_step, .take_window = fb_host_take_window, .add_window = fb_host_add_window
