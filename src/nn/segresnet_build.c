/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/segresnet_layers.h"

#include "core/mem.h"

#include <stdio.h>

/* --- buffers ------------------------------------------------------------------------------------- */

typedef struct builder {
    const fb_net_spec *spec;
    const fb_params *params;
    fb_segresnet *net;
    fb_act *stream[FB_LEVELS_MAX];  /* newest activation of each level's residual stream */
    fb_act *dstream[FB_LEVELS_MAX]; /* its gradient; training only */
    fb_act *inner;                  /* first level's size: gradient inside a block; input of the last convolution */
    fb_act *outer;                  /* first level's size, without training only: outputs of norms */
} builder;

static int64_t channels_at(const builder *b, int level)
{
    return b->spec->filters << level;
}

static fb_status new_buffer(builder *b, int64_t bytes, void **out)
{
    const fb_ops *ops = b->net->ops;
    FB_TRY(ops->alloc(ops, bytes, "activations of the network", out));
    b->net->buffers[b->net->buffer_count++] = *out;
    return FB_OK;
}

static fb_status new_activation(builder *b, int level, int64_t channels, fb_act **out)
{
    const int64_t bytes = fb_level_voxels(b->net, level) * channels * b->net->ops->act_bytes;
    b->net->level_bytes[level] += bytes;
    return new_buffer(b, bytes, out);
}

static fb_status new_buffer_at(builder *b, int level, fb_act **out)
{
    return new_activation(b, level, channels_at(b, level), out);
}

/* A buffer of its own when training, `shared` otherwise. */
static fb_status activation(builder *b, int level, fb_act *shared, fb_act **out)
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

/* --- layers -------------------------------------------------------------------------------------- */

static fb_layer *append(builder *b, fb_layer_kind kind, int level, int64_t channels, fb_layer wiring)
{
    fb_layer *l = &b->net->layers[b->net->layer_count++];
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
                          int kernel, int stride, fb_layer wiring)
{
    const int64_t *in = b->net->extent[level];
    const fb_conv_shape shape = {{in[0], in[1], in[2]}, c_in, c_out, kernel, stride};
    fb_layer *l = append(b, FB_LAYER_CONV, stride == 2 ? level + 1 : level, c_out, wiring);
    FB_TRY(find_offset(b, prefix, suffix, c_out * c_in * kernel * kernel * kernel, &l->weight));
    return fb_error_context(b->net->ops->conv_create(b->net->ops, &shape, &l->conv), "%s", prefix);
}

static fb_status add_norm(builder *b, const char *prefix, const char *weight, const char *bias, int level,
                          fb_layer wiring)
{
    const int64_t channels = channels_at(b, level);
    void *stats = NULL;
    FB_TRY(new_buffer(b, 2 * FB_NORM_GROUPS * (int64_t)sizeof(fb_real), &stats));
    fb_layer *l = append(b, FB_LAYER_NORM, level, channels, wiring);
    l->stats = stats;
    FB_TRY(find_offset(b, prefix, weight, channels, &l->weight));
    return find_offset(b, prefix, bias, channels, &l->bias);
}

/* x + conv2(relu(norm2(conv1(relu(norm1(x)))))); ends_stream: nothing but a 1x1x1 convolution reads its output. */
static fb_status add_block(builder *b, const char *prefix, int level, int ends_stream)
{
    const int64_t channels = channels_at(b, level);
    fb_act *x = b->stream[level], *dx = b->dstream[level], *a1 = NULL, *c1 = NULL, *a2 = NULL, *y = dx;
    FB_TRY(activation(b, level, b->outer, &a1));
    FB_TRY(activation(b, level, b->inner, &c1));
    FB_TRY(activation(b, level, b->outer, &a2));
    if (!b->net->training || !ends_stream)
        FB_TRY(activation(b, level, b->inner, &y));

    FB_TRY(add_norm(b, prefix, "norm1.weight", "norm1.bias", level, (fb_layer){.x = x, .y = a1, .dx = dx, .dy = a1}));
    FB_TRY(add_conv(b, prefix, "conv1.conv.weight", level, channels, channels, 3, 1,
                    (fb_layer){.x = a1, .y = c1, .dx = a1, .dy = b->inner}));
    FB_TRY(add_norm(b, prefix, "norm2.weight", "norm2.bias", level,
                    (fb_layer){.x = c1, .y = a2, .dx = b->inner, .dx_is_fresh = 1, .dy = a2}));
    FB_TRY(add_conv(b, prefix, "conv2.conv.weight", level, channels, channels, 3, 1,
                    (fb_layer){.x = a2, .y = y, .dx = a2, .dy = dx}));
    if (b->net->training)
        b->stream[level] = append(b, FB_LAYER_RESIDUAL, level, channels, (fb_layer){.x = x, .y = y})->y;
    else
        append(b, FB_LAYER_RESIDUAL, level, channels,
               (fb_layer){.x = y, .y = x}); /* the stream stays in its one buffer */
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
                            (fb_layer){.y = b->stream[0], .dy = b->dstream[0]}));
            append(b, FB_LAYER_DROPOUT, 0, channels, (fb_layer){.y = b->stream[0], .dy = b->dstream[0]});
        } else {
            fb_act *above = b->stream[level - 1];
            snprintf(prefix, sizeof prefix, "down_layers.%d.0", level);
            FB_TRY(add_conv(b, prefix, "conv.weight", level - 1, channels / 2, channels, 3, 2,
                            (fb_layer){.x = above,
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
    fb_act *below = b->stream[level + 1], *narrow = b->outer, *y = NULL;
    if (b->net->training)
        FB_TRY(new_activation(b, level + 1, channels, &narrow));
    FB_TRY(activation(b, level, b->stream[level], &y));
    FB_TRY(add_conv(b, prefix, "0.conv.weight", level + 1, 2 * channels, channels, 1, 1,
                    (fb_layer){.x = below, .y = narrow, .dx = below, .dy = narrow}));
    append(b, FB_LAYER_UPSAMPLE, level, channels,
           (fb_layer){.x = narrow, .skip = b->stream[level], .y = y, .dx = narrow, .dy = b->dstream[level]});
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
    fb_act *a = b->inner;
    FB_TRY(add_norm(b, "conv_final", "0.weight", "0.bias", 0,
                    (fb_layer){.x = b->stream[0], .y = a, .dx = b->dstream[0], .dx_is_fresh = 1, .dy = a}));
    FB_TRY(
        add_conv(b, "conv_final", "2.conv.weight", 0, b->spec->filters, FB_REGIONS, 1, 1, (fb_layer){.x = a, .dx = a}));
    fb_layer *bias = append(b, FB_LAYER_BIAS, 0, FB_REGIONS, (fb_layer){0});
    return find_offset(b, "conv_final", "2.conv.bias", FB_REGIONS, &bias->bias);
}

/* --- the whole list ------------------------------------------------------------------------------ */

static int64_t count_layers(const fb_net_spec *spec)
{
    int64_t blocks = 0;
    for (int i = 0; i < spec->levels; i++)
        blocks += spec->blocks_down[i] + (i < spec->levels - 1 ? spec->blocks_up[i] : 0);
    const int64_t init = 2, per_block = 5, per_step = 3, final = 3;
    return init + per_block * blocks + per_step * (spec->levels - 1) + final;
}

fb_status fb_segresnet_build(const fb_net_spec *spec, const fb_params *params, fb_segresnet *net)
{
    builder b = {.spec = spec, .params = params, .net = net};
    const int64_t layers = count_layers(spec), buffers = 2 * layers + FB_LEVELS_MAX;
    FB_TRY(FB_ALLOC(net->layers, layers, "layers of the network"));
    FB_TRY(FB_ALLOC(net->buffers, buffers, "buffer list of the network"));
    FB_TRY(make_shared_buffers(&b));
    FB_TRY(add_down(&b));
    FB_TRY(add_up(&b));
    FB_TRY(add_final(&b));
    FB_ASSERT(net->layer_count == layers && net->buffer_count <= buffers);
    return FB_OK;
}
