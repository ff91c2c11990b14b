/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/op_host.h"

#include "core/mem.h"
#include "nn/loss.h"
#include "nn/optim.h"
#include "nn/pointwise.h"

#include <string.h>

fb_status fb_host_alloc(const fb_ops *ops, int64_t bytes, const char *subject, void **out)
{
    (void)ops;
    return fb_mem_alloc(out, bytes, 1, subject);
}

void fb_host_release(const fb_ops *ops, void **memory)
{
    (void)ops;
    FB_FREE(*memory);
}

void fb_host_zero(const fb_ops *ops, void *memory, int64_t bytes)
{
    (void)ops;
    memset(memory, 0, (size_t)bytes);
}

void fb_host_copy(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    (void)ops;
    memcpy(to, from, (size_t)bytes);
}

void fb_host_turn(const fb_ops *ops)
{
    (void)ops;
}

fb_status fb_host_download(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    fb_host_copy(ops, to, from, bytes);
    return FB_OK;
}

void fb_host_sample(const fb_ops *ops, const fb_sample *from, const int64_t patch[3], fb_act *x, uint8_t *target)
{
    (void)ops;
    FB_ASSERT(sizeof(fb_real) == sizeof(float));
    fb_augment_apply(from->image, from->label, from->shape, patch, &from->how, x, target);
}

void fb_host_scale_channels(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_real *scale, fb_act *x)
{
    (void)ops;
    fb_scale_channels(voxels, channels, scale, x);
}

void fb_host_bias_add(const fb_ops *ops, int64_t voxels, const fb_real *bias, fb_real *y)
{
    (void)ops;
    fb_bias_add(voxels, bias, y);
}

void fb_host_bias_bwd(const fb_ops *ops, int64_t voxels, const fb_real *dy, fb_real *dbias)
{
    (void)ops;
    fb_bias_bwd(voxels, dy, dbias);
}

void fb_host_dice_loss(const fb_ops *ops, int64_t voxels, const fb_real *logits, const uint8_t *target,
                       fb_real *dlogits, double *loss_sum)
{
    (void)ops;
    *loss_sum += fb_dice_loss(voxels, logits, target, dlogits);
}

void fb_host_count_step(const fb_ops *ops, int64_t *step)
{
    (void)ops;
    ++*step;
}

void fb_host_adam_step(const fb_ops *ops, const fb_adam_spec *spec, int64_t count, const int64_t *step, fb_real *w,
                       const fb_real *g, fb_real *m, fb_real *v)
{
    (void)ops;
    fb_adam_step(spec, count, *step, w, g, m, v);
}

void fb_host_sgd_step(const fb_ops *ops, double learning_rate, double weight_decay, int64_t count, fb_real *w,
                      const fb_real *g)
{
    (void)ops;
    fb_sgd_step(learning_rate, weight_decay, count, w, g);
}

void fb_host_take_window(const fb_ops *ops, const fb_act *image, const int64_t extent[3], const int64_t start[3],
                         const int64_t window[3], fb_act *x)
{
    (void)ops;
    const int64_t row = window[2] * FB_IMAGE_CHANNELS;
    const fb_real *from = image;
    fb_real *to = x;
    for (int64_t d = 0; d < window[0]; d++)
        for (int64_t h = 0; h < window[1]; h++, to += row) {
            const int64_t voxel = ((start[0] + d) * extent[1] + start[1] + h) * extent[2] + start[2];
            memcpy(to, from + voxel * FB_IMAGE_CHANNELS, (size_t)row * sizeof *to);
        }
}

void fb_host_add_window(const fb_ops *ops, const fb_real *logits, const int64_t extent[3], const int64_t start[3],
                        const int64_t window[3], fb_real *sum)
{
    (void)ops;
    const int64_t row = window[2] * FB_REGIONS;
    for (int64_t d = 0; d < window[0]; d++)
        for (int64_t h = 0; h < window[1]; h++, logits += row) {
            const int64_t voxel = ((start[0] + d) * extent[1] + start[1] + h) * extent[2] + start[2];
            for (int64_t i = 0; i < row; i++)
                sum[voxel * FB_REGIONS + i] += logits[i];
        }
}
