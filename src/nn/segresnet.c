/* SPDX-License-Identifier: Apache-2.0
 *
 * The network is a list of layers, made once: forward walks it, backward walks it in reverse. What keeps training small
 * is where gradients live:
 *   - the gradient of a convolution's input takes that input's place, as the weight gradient was its last reader;
 *   - one buffer a level holds the gradient of the residual stream, which every block updates in place; below the first
 *     level it is the place of the stream's last activation, the input of the 1x1x1 convolution up;
 *   - the gradient between the two convolutions of a block lives in the input of the last convolution, free by then.
 * So training holds the activations and one buffer more. Without training each level holds its stream, and two
 * buffers of the first level's size serve everything else.
 */
#include "nn/segresnet.h"

#include "core/mem.h"
#include "nn/pointwise.h"

#include <stdio.h>
#include <string.h>

enum { EXTENT_MAX = 4096 };

typedef enum layer_kind {
    LAYER_CONV,     /* y = conv(x) */
    LAYER_NORM,     /* y = relu(norm(x)) */
    LAYER_RESIDUAL, /* y += x; dy is the gradient of both already */
    LAYER_UPSAMPLE, /* y = upsample(x) + skip; dy is the gradient of skip already */
    LAYER_DROPOUT,  /* y *= dropout_scale */
    LAYER_BIAS      /* y += bias */
} layer_kind;

/* Buffers are borrowed from the network's list. NULL stands for the caller's: the image (x), logits (y), dlogits (dy).
 */
typedef struct layer {
    layer_kind kind;
    int level;            /* of y, which has its extent */
    int64_t channels;     /* of y */
    fb_real *x, *y;       /* input and output, (voxels, channels) of their level */
    const fb_real *skip;  /* (voxels, channels) */
    fb_real *dx, *dy;     /* gradients of x and y; dx NULL: not wanted */
    fb_real *dx_sum;      /* dx is added to it where x has another reader, else NULL */
    int dx_is_fresh;      /* norm: dx holds nothing yet */
    int64_t weight, bias; /* offsets into the arena: weight or gamma, bias or beta */
    fb_conv *conv;        /* owned */
    fb_real stats[2 * FB_NORM_GROUPS];
} layer;

struct fb_segresnet {
    const fb_ops *ops;
    int training, has_activations; /* has_activations: forward has run and backward has not used them up */
    int64_t filters, extent[FB_LEVELS_MAX][3];
    int layer_count, buffer_count;
    layer *layers;     /* (layer_count), owned */
    fb_real **buffers; /* (buffer_count), owned */
    int64_t buffer_bytes;
    fb_real *dropout_scale; /* (filters) of the last forward, owned */
    int has_dropout;
    const fb_real *w, *x; /* of the last forward, borrowed */
};

static int64_t voxels_of(const fb_segresnet *net, int level)
{
    return net->extent[level][0] * net->extent[level][1] * net->extent[level][2];
}

/* --- building: buffers
 * ------------------------------------------------------------------------------------------------------- */

typedef struct builder {
    const fb_net_spec *spec;
    const fb_params *params;
    fb_segresnet *net;
    fb_real *stream[FB_LEVELS_MAX];  /* newest activation of each level's residual stream */
    fb_real *dstream[FB_LEVELS_MAX]; /* its gradient; training only */
    fb_real *inner;                  /* first level's size: gradient inside a block; input of the last convolution */
    fb_real *outer;                  /* first level's size, without training only: outputs of norms */
} builder;

static int64_t channels_at(const builder *b, int level)
{
    return b->spec->filters << level;
}

static fb_status new_buffer(builder *b, int64_t count, fb_real **out)
{
    fb_real **slot = &b->net->buffers[b->net->buffer_count];
    FB_TRY(FB_ALLOC(*slot, count, "activations of the network"));
    b->net->buffer_count++;
    b->net->buffer_bytes += count * (int64_t)sizeof **slot;
    *out = *slot;
    return FB_OK;
}

static fb_status new_buffer_at(builder *b, int level, fb_real **out)
{
    return new_buffer(b, voxels_of(b->net, level) * channels_at(b, level), out);
}

/* A buffer of its own when training, `shared` otherwise. */
static fb_status activation(builder *b, int level, fb_real *shared, fb_real **out)
{
    if (b->net->training)
        return new_buffer_at(b, level, out);
    *out = shared;
    return FB_OK;
}

static fb_status make_shared_buffers(builder *b)
{
    FB_TRY(new_buffer_at(b, 0, &b->inner));
    if (!b->net->training)
        return new_buffer_at(b, 0, &b->outer);
    for (int level = 0; level < b->spec->levels; level++)
        FB_TRY(new_buffer_at(b, level, &b->dstream[level]));
    return FB_OK;
}

/* --- building: layers
 * -------------------------------------------------------------------------------------------------------- */

static layer *append(builder *b, layer_kind kind, int level, int64_t channels, layer wiring)
{
    layer *l = &b->net->layers[b->net->layer_count++];
    *l = wiring;
    l->kind = kind;
    l->level = level;
    l->channels = channels;
    return l;
}

static fb_status find_offset(const builder *b, const char *prefix, const char *suffix, int64_t count, int64_t *offset)
{
    char name[FB_TENSOR_NAME_CHARS];
    snprintf(name, sizeof name, "%s.%s", prefix, suffix);
    const fb_tensor_info *tensor = fb_params_find(b->params, name);
    if (!tensor || tensor->count != count)
        return FB_FAIL("parameter table: '%s' has %lld elements, the network needs %lld; make both from one spec", name,
                       tensor ? (long long)tensor->count : 0LL, (long long)count);
    *offset = tensor->offset;
    return FB_OK;
}

/* A convolution that reads `level` with c_in channels. */
static fb_status add_conv(builder *b, const char *prefix, const char *suffix, int level, int64_t c_in, int64_t c_out,
                          int kernel, int stride, layer wiring)
{
    const int64_t *in = b->net->extent[level];
    const fb_conv_shape shape = {{in[0], in[1], in[2]}, c_in, c_out, kernel, stride};
    layer *l = append(b, LAYER_CONV, stride == 2 ? level + 1 : level, c_out, wiring);
    FB_TRY(find_offset(b, prefix, suffix, c_out * c_in * kernel * kernel * kernel, &l->weight));
    return fb_error_context(b->net->ops->conv_create(&shape, &l->conv), "%s", prefix);
}

static fb_status add_norm(builder *b, const char *prefix, const char *weight, const char *bias, int level, layer wiring)
{
    const int64_t channels = channels_at(b, level);
    layer *l = append(b, LAYER_NORM, level, channels, wiring);
    FB_TRY(find_offset(b, prefix, weight, channels, &l->weight));
    return find_offset(b, prefix, bias, channels, &l->bias);
}

/* x + conv2(relu(norm2(conv1(relu(norm1(x)))))); ends_stream: nothing but a 1x1x1 convolution reads its output. */
static fb_status add_block(builder *b, const char *prefix, int level, int ends_stream)
{
    const int64_t channels = channels_at(b, level);
    fb_real *x = b->stream[level], *dx = b->dstream[level], *a1 = NULL, *c1 = NULL, *a2 = NULL, *y = dx;
    FB_TRY(activation(b, level, b->outer, &a1));
    FB_TRY(activation(b, level, b->inner, &c1));
    FB_TRY(activation(b, level, b->outer, &a2));
    if (!b->net->training || !ends_stream)
        FB_TRY(activation(b, level, b->inner, &y));

    FB_TRY(add_norm(b, prefix, "norm1.weight", "norm1.bias", level, (layer){.x = x, .y = a1, .dx = dx, .dy = a1}));
    FB_TRY(add_conv(b, prefix, "conv1.conv.weight", level, channels, channels, 3, 1,
                    (layer){.x = a1, .y = c1, .dx = a1, .dy = b->inner}));
    FB_TRY(add_norm(b, prefix, "norm2.weight", "norm2.bias", level,
                    (layer){.x = c1, .y = a2, .dx = b->inner, .dx_is_fresh = 1, .dy = a2}));
    FB_TRY(add_conv(b, prefix, "conv2.conv.weight", level, channels, channels, 3, 1,
                    (layer){.x = a2, .y = y, .dx = a2, .dy = dx}));
    if (b->net->training)
        b->stream[level] = append(b, LAYER_RESIDUAL, level, channels, (layer){.x = x, .y = y})->y;
    else
        append(b, LAYER_RESIDUAL, level, channels, (layer){.x = y, .y = x}); /* the stream stays in its one buffer */
    return FB_OK;
}

static fb_status add_down(builder *b)
{
    char prefix[FB_TENSOR_NAME_CHARS];
    const int deepest = b->spec->levels - 1;
    for (int level = 0; level <= deepest; level++) {
        const int64_t channels = channels_at(b, level), blocks = b->spec->blocks_down[level];
        FB_TRY(new_buffer_at(b, level, &b->stream[level]));
        if (level == 0) {
            FB_TRY(add_conv(b, "convInit", "conv.weight", 0, FB_IMAGE_CHANNELS, channels, 3, 1,
                            (layer){.y = b->stream[0], .dy = b->dstream[0]}));
            append(b, LAYER_DROPOUT, 0, channels, (layer){.y = b->stream[0], .dy = b->dstream[0]});
        } else {
            fb_real *above = b->stream[level - 1];
            snprintf(prefix, sizeof prefix, "down_layers.%d.0", level);
            FB_TRY(add_conv(b, prefix, "conv.weight", level - 1, channels / 2, channels, 3, 2,
                            (layer){.x = above,
                                    .y = b->stream[level],
                                    .dx = above,
                                    .dx_sum = b->dstream[level - 1],
                                    .dy = b->dstream[level]}));
        }
        for (int64_t block = 1; block <= blocks; block++) {
            snprintf(prefix, sizeof prefix, "down_layers.%d.%lld", level, (long long)block);
            FB_TRY(add_block(b, prefix, level, level > 0 && level == deepest && block == blocks));
        }
    }
    return FB_OK;
}

/* 1x1x1 convolution from the level below, trilinear x2, + skip */
static fb_status add_rise(builder *b, const char *prefix, int level)
{
    const int64_t channels = channels_at(b, level);
    fb_real *below = b->stream[level + 1], *narrow = b->outer, *y = NULL;
    if (b->net->training)
        FB_TRY(new_buffer(b, voxels_of(b->net, level + 1) * channels, &narrow));
    FB_TRY(activation(b, level, b->stream[level], &y));
    FB_TRY(add_conv(b, prefix, "0.conv.weight", level + 1, 2 * channels, channels, 1, 1,
                    (layer){.x = below, .y = narrow, .dx = below, .dy = narrow}));
    append(b, LAYER_UPSAMPLE, level, channels,
           (layer){.x = narrow, .skip = b->stream[level], .y = y, .dx = narrow, .dy = b->dstream[level]});
    b->stream[level] = y;
    return FB_OK;
}

static fb_status add_up(builder *b)
{
    char prefix[FB_TENSOR_NAME_CHARS];
    const int ups = b->spec->levels - 1;
    for (int up = 0; up < ups; up++) {
        const int level = ups - 1 - up;
        snprintf(prefix, sizeof prefix, "up_samples.%d", up);
        FB_TRY(add_rise(b, prefix, level));
        for (int64_t block = 0; block < b->spec->blocks_up[up]; block++) {
            snprintf(prefix, sizeof prefix, "up_layers.%d.%lld", up, (long long)block);
            FB_TRY(add_block(b, prefix, level, level > 0 && block == b->spec->blocks_up[up] - 1));
        }
    }
    return FB_OK;
}

static fb_status add_final(builder *b)
{
    fb_real *a = b->inner;
    FB_TRY(add_norm(b, "conv_final", "0.weight", "0.bias", 0,
                    (layer){.x = b->stream[0], .y = a, .dx = b->dstream[0], .dx_is_fresh = 1, .dy = a}));
    FB_TRY(add_conv(b, "conv_final", "2.conv.weight", 0, b->spec->filters, FB_REGIONS, 1, 1, (layer){.x = a, .dx = a}));
    layer *bias = append(b, LAYER_BIAS, 0, FB_REGIONS, (layer){0});
    return find_offset(b, "conv_final", "2.conv.bias", FB_REGIONS, &bias->bias);
}

/* --- creation
 * ------------------------------------------------------------------------------------------------------------------ */

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

static int64_t count_layers(const fb_net_spec *spec)
{
    int64_t blocks = 0;
    for (int i = 0; i < spec->levels; i++)
        blocks += spec->blocks_down[i] + (i < spec->levels - 1 ? spec->blocks_up[i] : 0);
    const int64_t init = 2, per_block = 5, per_step = 3, final = 3;
    return init + per_block * blocks + per_step * (spec->levels - 1) + final;
}

static fb_status build(builder *b)
{
    fb_segresnet *net = b->net;
    const int64_t layers = count_layers(b->spec), buffers = layers + FB_LEVELS_MAX;
    FB_TRY(FB_ALLOC(net->layers, layers, "layers of the network"));
    FB_TRY(FB_ALLOC(net->buffers, buffers, "buffer list of the network"));
    FB_TRY(FB_ALLOC(net->dropout_scale, net->filters, "dropout scale"));
    FB_TRY(make_shared_buffers(b));
    FB_TRY(add_down(b));
    FB_TRY(add_up(b));
    FB_TRY(add_final(b));
    FB_ASSERT(net->layer_count == layers && net->buffer_count <= buffers);
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
    net->filters = spec->filters;
    for (int level = 0; level < spec->levels; level++)
        for (int axis = 0; axis < 3; axis++)
            net->extent[level][axis] = shape[axis] >> level;
    builder b = {.spec = spec, .params = params, .net = net};
    fb_status status = build(&b);
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
        FB_FREE(n->buffers[i]);
    FB_FREE(n->buffers);
    FB_FREE(n->layers);
    FB_FREE(n->dropout_scale);
    FB_FREE(*net);
}

int64_t fb_segresnet_activation_bytes(const fb_segresnet *net)
{
    return net->buffer_bytes;
}

/* --- forward and backward
 * -------------------------------------------------------------------------------------------------------- */

static fb_status conv_forward(const fb_segresnet *net, layer *l, const fb_real *x, fb_real *y)
{
    FB_TRY(net->ops->conv_load(l->conv, net->w + l->weight));
    return net->ops->conv_fwd(l->conv, x, y);
}

static fb_status forward_layer(fb_segresnet *net, layer *l, fb_real *logits)
{
    const fb_ops *ops = net->ops;
    const fb_real *w = net->w, *x = l->x ? l->x : net->x;
    fb_real *y = l->y ? l->y : logits;
    const int64_t voxels = voxels_of(net, l->level);
    switch (l->kind) {
    case LAYER_CONV:
        return conv_forward(net, l, x, y);
    case LAYER_NORM:
        ops->norm_relu_fwd(voxels, l->channels, x, w + l->weight, w + l->bias, y, l->stats);
        break;
    case LAYER_RESIDUAL:
        ops->add(voxels * l->channels, y, x, y);
        break;
    case LAYER_UPSAMPLE:
        ops->upsample_add_fwd(net->extent[l->level + 1], l->channels, x, l->skip, y);
        break;
    case LAYER_DROPOUT:
        if (net->has_dropout)
            fb_scale_channels(voxels, l->channels, net->dropout_scale, y);
        break;
    case LAYER_BIAS:
        fb_bias_add(voxels, w + l->bias, y);
        break;
    }
    return FB_OK;
}

fb_status fb_segresnet_forward(fb_segresnet *net, const fb_real *w, const fb_real *x, const fb_real *dropout_scale,
                               fb_real *logits)
{
    net->w = w;
    net->x = x;
    net->has_dropout = dropout_scale != NULL;
    net->has_activations = 0;
    if (dropout_scale)
        memcpy(net->dropout_scale, dropout_scale, (size_t)net->filters * sizeof *dropout_scale);
    for (int i = 0; i < net->layer_count; i++)
        FB_TRY(forward_layer(net, &net->layers[i], logits));
    net->has_activations = net->training;
    return FB_OK;
}

static fb_status conv_backward(const fb_segresnet *net, layer *l, const fb_real *dy, fb_real *gradient)
{
    const fb_ops *ops = net->ops;
    FB_TRY(ops->conv_bwd_weights(l->conv, l->x ? l->x : net->x, dy, gradient + l->weight));
    if (!l->dx)
        return FB_OK;
    FB_TRY(ops->conv_bwd_data(l->conv, dy, l->dx)); /* takes the place of x, so only now */
    if (l->dx_sum)                                  /* only the stride-2 convolution: x is twice y in every extent */
        ops->add(voxels_of(net, l->level - 1) * l->channels / 2, l->dx_sum, l->dx, l->dx_sum);
    return FB_OK;
}

static void norm_backward(const fb_segresnet *net, layer *l, fb_real *gradient)
{
    const int64_t voxels = voxels_of(net, l->level);
    if (l->dx_is_fresh)
        memset(l->dx, 0, (size_t)(voxels * l->channels) * sizeof *l->dx);
    net->ops->norm_relu_bwd(voxels, l->channels, l->x, net->w + l->weight, net->w + l->bias, l->stats, l->dy, l->dx,
                            gradient + l->weight, gradient + l->bias);
}

static fb_status backward_layer(fb_segresnet *net, layer *l, const fb_real *dlogits, fb_real *gradient)
{
    const fb_real *dy = l->dy ? l->dy : dlogits;
    const int64_t voxels = voxels_of(net, l->level);
    switch (l->kind) {
    case LAYER_CONV:
        return conv_backward(net, l, dy, gradient);
    case LAYER_NORM:
        norm_backward(net, l, gradient);
        break;
    case LAYER_RESIDUAL:
        break;
    case LAYER_UPSAMPLE:
        net->ops->upsample_bwd(net->extent[l->level + 1], l->channels, dy, l->dx);
        break;
    case LAYER_DROPOUT:
        if (net->has_dropout)
            fb_scale_channels(voxels, l->channels, net->dropout_scale, l->dy);
        break;
    case LAYER_BIAS:
        fb_bias_bwd(voxels, dy, gradient + l->bias);
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
