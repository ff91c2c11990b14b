/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/segresnet_layers.h"

#include "core/mem.h"

enum { EXTENT_MAX = 4096 };

/* --- creation ------------------------------------------------------------------------------------ */

static fb_status check_shape(const int64_t shape[3], int levels)
{
    static const char axis_name[] = "DHW";
    const int64_t multiple = (int64_t)1 << (levels - 1);
    for (int axis = 0; axis < 3; axis++)
        if (shape[axis] < 1 || shape[axis] > EXTENT_MAX || shape[axis] % multiple != 0)
            return FB_FAIL("network input %lld x %lld x %lld: %c is %lld; with %d levels it must be a multiple of %lld "
                           "from %lld to %d: crop or pad",
                           (long long)shape[0], (long long)shape[1], (long long)shape[2], axis_name[axis],
                           (long long)shape[axis], levels, (long long)multiple, (long long)multiple, EXTENT_MAX);
    return FB_OK;
}

fb_status fb_segresnet_create(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                              const int64_t shape[3], int training, fb_segresnet **out)
{
    FB_TRY(check_shape(shape, spec->levels));
    fb_segresnet *net = NULL;
    FB_TRY(FB_ALLOC(net, 1, "network"));
    net->ops = ops;
    net->training = training;
    for (int level = 0; level < spec->levels; level++)
        for (int axis = 0; axis < 3; axis++)
            net->extent[level][axis] = shape[axis] >> level;
    fb_status status = fb_segresnet_build(spec, params, net);
    if (status != FB_OK)
        fb_segresnet_destroy(&net);
    *out = net;
    return status;
}

void fb_segresnet_destroy(fb_segresnet **net)
{
    fb_segresnet *n = *net;
    if (!n)
        return;
    for (int i = 0; i < n->layer_count; i++)
        if (n->layers[i].conv)
            n->ops->conv_destroy(&n->layers[i].conv);
    for (int i = 0; i < n->buffer_count; i++)
        n->ops->release(n->ops, &n->buffers[i]);
    FB_FREE(n->buffers);
    FB_FREE(n->layers);
    FB_FREE(*net);
}

int64_t fb_segresnet_level_bytes(const fb_segresnet *net, int level)
{
    FB_ASSERT(level >= 0 && level < FB_LEVELS_MAX);
    return net->level_bytes[level];
}

int64_t fb_segresnet_activation_bytes(const fb_segresnet *net)
{
    int64_t bytes = 0;
    for (int level = 0; level < FB_LEVELS_MAX; level++)
        bytes += net->level_bytes[level];
    return bytes;
}

/* --- forward and backward ------------------------------------------------------------------------ */

static fb_status forward_layer(fb_segresnet *net, fb_layer *l, fb_real *logits)
{
    const fb_ops *ops = net->ops;
    const fb_real *w = net->w;
    const fb_act *x = l->x ? l->x : net->x;
    fb_act *y = l->y ? l->y : logits;
    const int64_t voxels = fb_level_voxels(net, l->level);
    switch (l->kind) {
    case FB_LAYER_CONV:
        return ops->conv_fwd(l->conv, x, y);
    case FB_LAYER_NORM:
        ops->norm_relu_fwd(ops, voxels, l->channels, x, w + l->weight, w + l->bias, y, l->stats);
        break;
    case FB_LAYER_RESIDUAL:
        ops->add(ops, voxels * l->channels, y, x, y);
        break;
    case FB_LAYER_UPSAMPLE:
        ops->upsample_add_fwd(ops, net->extent[l->level + 1], l->channels, x, l->skip, y);
        break;
    case FB_LAYER_DROPOUT:
        if (net->dropout_scale)
            ops->scale_channels(ops, voxels, l->channels, net->dropout_scale, y);
        break;
    case FB_LAYER_BIAS:
        ops->bias_add(ops, voxels, w + l->bias, logits);
        break;
    }
    return FB_OK;
}

fb_status fb_segresnet_forward(fb_segresnet *net, const fb_real *w, const fb_act *x, const fb_real *dropout_scale,
                               fb_real *logits)
{
    net->w = w;
    for (int i = 0; i < net->layer_count; i++)
        if (net->layers[i].kind == FB_LAYER_CONV)
            FB_TRY(net->ops->conv_load(net->layers[i].conv, w + net->layers[i].weight));
    return fb_segresnet_forward_again(net, x, dropout_scale, logits);
}

fb_status fb_segresnet_forward_again(fb_segresnet *net, const fb_act *x, const fb_real *dropout_scale, fb_real *logits)
{
    FB_ASSERT(net->w != NULL);
    net->x = x;
    net->dropout_scale = dropout_scale;
    net->has_activations = 0;
    for (int i = 0; i < net->layer_count; i++)
        FB_TRY(forward_layer(net, &net->layers[i], logits));
    net->has_activations = net->training;
    return FB_OK;
}

static fb_status conv_backward(const fb_segresnet *net, fb_layer *l, const fb_act *dy, fb_real *gradient)
{
    const fb_ops *ops = net->ops;
    FB_TRY(ops->conv_bwd_weights(l->conv, l->x ? l->x : net->x, dy, gradient + l->weight));
    if (!l->dx)
        return FB_OK;
    FB_TRY(ops->conv_bwd_data(l->conv, dy, l->dx)); /* takes the place of x, so only now */
    if (l->dx_sum)                                  /* only the stride-2 convolution: x is twice y in every extent */
        ops->add(ops, fb_level_voxels(net, l->level - 1) * l->channels / 2, l->dx_sum, l->dx, l->dx_sum);
    return FB_OK;
}

static void norm_backward(const fb_segresnet *net, fb_layer *l, fb_real *gradient)
{
    const fb_ops *ops = net->ops;
    const int64_t voxels = fb_level_voxels(net, l->level);
    if (l->dx_is_fresh)
        ops->zero(ops, l->dx, voxels * l->channels * ops->act_bytes);
    ops->norm_relu_bwd(ops, voxels, l->channels, l->x, net->w + l->weight, net->w + l->bias, l->stats, l->dy, l->dx,
                       gradient + l->weight, gradient + l->bias);
}

static fb_status backward_layer(fb_segresnet *net, fb_layer *l, const fb_real *dlogits, fb_real *gradient)
{
    const fb_ops *ops = net->ops;
    const fb_act *dy = l->dy ? l->dy : dlogits;
    const int64_t voxels = fb_level_voxels(net, l->level);
    switch (l->kind) {
    case FB_LAYER_CONV:
        return conv_backward(net, l, dy, gradient);
    case FB_LAYER_NORM:
        norm_backward(net, l, gradient);
        break;
    case FB_LAYER_RESIDUAL:
        break;
    case FB_LAYER_UPSAMPLE:
        ops->upsample_bwd(ops, net->extent[l->level + 1], l->channels, dy, l->dx);
        break;
    case FB_LAYER_DROPOUT:
        if (net->dropout_scale)
            ops->scale_channels(ops, voxels, l->channels, net->dropout_scale, l->dy);
        break;
    case FB_LAYER_BIAS:
        ops->bias_bwd(ops, voxels, dlogits, gradient + l->bias);
        break;
    }
    return FB_OK;
}

fb_status fb_segresnet_backward(fb_segresnet *net, const fb_real *dlogits, fb_real *gradient)
{
    if (!net->has_activations)
        return FB_FAIL("network: backward has no activations; make the network for training and run forward before "
                       "each backward");
    net->has_activations = 0; /* gradients take their place */
    for (int i = net->layer_count; i-- > 0;)
        FB_TRY(backward_layer(net, &net->layers[i], dlogits, gradient));
    return FB_OK;
}
