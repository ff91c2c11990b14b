/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of the GPU backend: each direction by our own kernels (nn/kernels_conv_cuda) or by a plan of cuDNN
 * (nn/conv_cudnn), whose weights and weight gradient are in another order than fb_ops has them.
 */
#include "core/mem.h"
#include "nn/kernels_conv_cuda.h"
#include "nn/kernels_pack_cuda.h"
#include "nn/op_cuda_impl.h"

struct fb_conv {
    const fb_ops *ops; /* borrowed */
    fb_conv_shape shape;
    fb_cuda_pass pass[FB_CONV_DIRECTIONS];
    fb_cuda_room room; /* weights: owned */
    fb_cuda_shared *sums, *workspace;
};

int64_t fb_cuda_image_bytes(const fb_conv_shape *s)
{
    return s->c_out * s->c_in * s->kernel * s->kernel * s->kernel * (int64_t)sizeof(float);
}

/* --- a pass ---------------------------------------------------------------------------------------------------- */

static cudaError_t run_own(const fb_cuda_backend *b, const fb_conv_shape *shape, fb_cudnn_direction direction,
                           const fb_cuda_room *room, void *x, void *y, float *dw)
{
    const fb_cuda_queue *q = &b->queue;
    if (direction == FB_CUDNN_FORWARD)
        return fb_cuda_conv_fwd(shape, q->act, room->packed, x, y, q->stream);
    if (direction == FB_CUDNN_BACKWARD_DATA)
        return fb_cuda_conv_bwd_data(shape, q->act, room->packed, y, x, q->stream);
    return fb_cuda_conv_bwd_weights(shape, q->act, room->sums, x, y, dw, q->stream);
}

static fb_status run_plan(fb_cuda_backend *b, const fb_conv_shape *shape, fb_cudnn_direction direction,
                          const fb_cuda_pass *pass, const fb_cuda_room *room, void *x, void *y, float *dw)
{
    const int64_t workspace_bytes = fb_cudnn_conv_choice(pass->plan, pass->candidate)->workspace_bytes;
    void *workspace = workspace_bytes > 0 ? room->workspace : NULL;
    void *image = direction == FB_CUDNN_BACKWARD_WEIGHTS ? room->sums : room->image;
    FB_TRY(fb_cudnn_conv_run(pass->plan, pass->candidate, x, image, y, workspace));
    if (direction == FB_CUDNN_BACKWARD_WEIGHTS)
        fb_cuda_unpack_gradient(&b->queue, shape, pass->precision == FB_CUDNN_BF16 ? FB_ACT_BF16 : FB_ACT_F32, image,
                                dw);
    return FB_OK;
}

fb_status fb_cuda_run_pass(const fb_ops *ops, const fb_conv_shape *shape, fb_cudnn_direction direction,
                           const fb_cuda_pass *pass, const fb_cuda_room *room, void *x, void *y, float *dw)
{
    static const char *const names[FB_CONV_DIRECTIONS] = {"convolution", "input gradient", "weight gradient"};
    fb_cuda_backend *b = fb_cuda_state(ops);
    if (b->queue.error != cudaSuccess)
        return FB_OK; /* the next download tells */
    if (pass->plan)
        return run_plan(b, shape, direction, pass, room, x, y, dw);
    fb_cuda_note(ops, names[direction], run_own(b, shape, direction, room, x, y, dw));
    return FB_OK;
}

/* --- fb_ops ---------------------------------------------------------------------------------------------------- */

static int needs(const fb_conv *conv, int cudnn)
{
    return !conv->pass[FB_CUDNN_FORWARD].plan == !cudnn || !conv->pass[FB_CUDNN_BACKWARD_DATA].plan == !cudnn;
}

static fb_status make_conv(fb_conv *conv)
{
    const fb_ops *ops = conv->ops;
    fb_cuda_backend *b = fb_cuda_state(ops);
    const size_t own_bytes = fb_cuda_conv_partial_bytes(&conv->shape, b->queue.act);
    const size_t image_bytes = (size_t)fb_cuda_image_bytes(&conv->shape);
    for (fb_cudnn_direction d = FB_CUDNN_FORWARD; d <= FB_CUDNN_BACKWARD_WEIGHTS; d++)
        FB_TRY(fb_cuda_find_pass(ops, &conv->shape, d, &conv->pass[d]));
    const int gradient = conv->pass[FB_CUDNN_BACKWARD_WEIGHTS].plan != NULL;
    FB_TRY(fb_cuda_share(ops, &b->sums, gradient ? image_bytes : own_bytes, "sums of weight gradients", &conv->sums));
    conv->room.sums = conv->sums->memory;
    const size_t workspace_bytes = (size_t)fb_cuda_workspace_bytes(ops);
    if (workspace_bytes > 0 && (gradient || needs(conv, 1))) {
        FB_TRY(fb_cuda_share(ops, &b->workspace, workspace_bytes, "workspace of cuDNN", &conv->workspace));
        conv->room.workspace = conv->workspace->memory;
    }
    if (needs(conv, 0))
        FB_TRY(ops->alloc(ops, (int64_t)fb_cuda_conv_packed_bytes(&conv->shape, b->queue.act),
                          "weights of a convolution", &conv->room.packed));
    if (needs(conv, 1))
        FB_TRY(ops->alloc(ops, (int64_t)image_bytes, "weights of a convolution", &conv->room.image));
    return FB_OK;
}

static fb_status unsupported(const fb_conv_shape *shape)
{
    return FB_FAIL("convolution on the GPU: %lld x %lld x %lld voxels, channels %lld to %lld, kernel %d, stride %d is "
                   "not supported",
                   (long long)shape->in[0], (long long)shape->in[1], (long long)shape->in[2], (long long)shape->c_in,
                   (long long)shape->c_out, shape->kernel, shape->stride);
}

fb_status fb_conv_create_cuda(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out)
{
    fb_conv *conv = NULL;
    if (fb_cuda_conv_packed_bytes(shape, fb_cuda_state(ops)->queue.act) == 0)
        return unsupported(shape);
    if (fb_cuda_state(ops)->engines.tuning)
        FB_TRY(fb_cuda_tune(ops, shape));
    FB_TRY(FB_ALLOC(conv, 1, "convolution"));
    conv->ops = ops;
    conv->shape = *shape;
    fb_cuda_state(ops)->convolutions++;
    const fb_status status = make_conv(conv);
    if (status != FB_OK)
        fb_conv_destroy_cuda(&conv);
    *out = conv;
    return status;
}

void fb_conv_destroy_cuda(fb_conv **conv)
{
    fb_conv *c = *conv;
    if (!c)
        return;
    c->ops->release(c->ops, &c->room.packed);
    c->ops->release(c->ops, &c->room.image);
    fb_cuda_leave(c->ops, &fb_cuda_state(c->ops)->sums, &c->sums);
    fb_cuda_leave(c->ops, &fb_cuda_state(c->ops)->workspace, &c->workspace);
    fb_cuda_state(c->ops)->convolutions--;
    FB_FREE(*conv);
}

/* Of our own kernels: what cuDNN's plans need is known once they were chosen. */
fb_status fb_conv_bytes_cuda(const fb_ops *ops, const fb_conv_shape *shape, int64_t *own_bytes, int64_t *scratch_bytes)
{
    const fb_act_type act = fb_cuda_state(ops)->queue.act;
    const size_t packed_bytes = fb_cuda_conv_packed_bytes(shape, act);
    if (packed_bytes == 0)
        return unsupported(shape);
    *own_bytes = (int64_t)packed_bytes;
    *scratch_bytes = (int64_t)fb_cuda_conv_partial_bytes(shape, act);
    return FB_OK;
}

fb_status fb_conv_load_cuda(fb_conv *conv, const float *w)
{
    fb_cuda_queue *q = &fb_cuda_state(conv->ops)->queue;
    if (conv->room.packed && q->error == cudaSuccess)
        fb_cuda_note(conv->ops, "packing of weights",
                     fb_cuda_conv_pack(&conv->shape, q->act, w, conv->room.packed, q->stream));
    if (conv->room.image)
        fb_cuda_pack_weights(q, &conv->shape, q->act, w, conv->room.image);
    return FB_OK;
}

static fb_status run(fb_conv *conv, fb_cudnn_direction direction, void *x, void *y, float *dw)
{
    return fb_cuda_run_pass(conv->ops, &conv->shape, direction, &conv->pass[direction], &conv->room, x, y, dw);
}

fb_status fb_conv_fwd_cuda(fb_conv *conv, const fb_act *x, fb_act *y)
{
    return run(conv, FB_CUDNN_FORWARD, (void *)(uintptr_t)x, y, NULL);
}

fb_status fb_conv_bwd_data_cuda(fb_conv *conv, const fb_act *dy, fb_act *dx)
{
    return run(conv, FB_CUDNN_BACKWARD_DATA, dx, (void *)(uintptr_t)dy, NULL);
}

fb_status fb_conv_bwd_weights_cuda(fb_conv *conv, const fb_act *x, const fb_act *dy, float *dw)
{
    return run(conv, FB_CUDNN_BACKWARD_WEIGHTS, (void *)(uintptr_t)x, (void *)(uintptr_t)dy, dw);
}
