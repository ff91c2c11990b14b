/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the network object: a list of layers that segresnet_build.c makes once and segresnet.c walks, in reverse
 * for backward. What keeps training small is where gradients live:
 *   - the gradient of a convolution's input takes that input's place, as the weight gradient was its last reader;
 *   - one buffer a level holds the gradient of the residual stream, which every block updates in place; below the first
 *     level it is the place of the stream's last activation, the input of the 1x1x1 convolution up;
 *   - the gradient between the two convolutions of a block lives in the input of the last convolution, free by then.
 * So training holds the activations and one buffer more. Without training each level holds its stream, and two
 * buffers of the first level's size serve everything else.
 */
#pragma once

#include "nn/segresnet.h"

typedef enum fb_layer_kind {
    FB_LAYER_CONV,     /* y = conv(x) */
    FB_LAYER_NORM,     /* y = relu(norm(x)) */
    FB_LAYER_RESIDUAL, /* y += x; dy is the gradient of both already */
    FB_LAYER_UPSAMPLE, /* y = upsample(x) + skip; dy is the gradient of skip already */
    FB_LAYER_DROPOUT,  /* y *= dropout_scale */
    FB_LAYER_BIAS      /* y += bias */
} fb_layer_kind;

/* Buffers are the backend's memory, borrowed from the network's list. NULL stands for the caller's: image (x), logits
 * (y), dlogits (dy). */
typedef struct fb_layer {
    fb_layer_kind kind;
    int level;            /* of y, which has its extent */
    int64_t channels;     /* of y */
    fb_act *x, *y;        /* input and output, (voxels, channels) of their level */
    const fb_act *skip;   /* (voxels, channels) */
    fb_act *dx, *dy;      /* gradients of x and y; dx NULL: not wanted */
    fb_act *dx_sum;       /* dx is added to it where x has another reader, else NULL */
    int dx_is_fresh;      /* norm: dx holds nothing yet */
    int64_t weight, bias; /* offsets into the arena: weight or gamma, bias or beta */
    fb_conv *conv;        /* owned */
    fb_real *stats;       /* norm: (2, FB_NORM_GROUPS) */
} fb_layer;

struct fb_segresnet {
    const fb_ops *ops;
    int training, has_activations; /* has_activations: forward has run and backward has not used them up */
    int64_t extent[FB_LEVELS_MAX][3];
    int layer_count, buffer_count;
    fb_layer *layers;                   /* (layer_count), owned */
    void **buffers;                     /* (buffer_count), owned; the backend's memory */
    int64_t level_bytes[FB_LEVELS_MAX]; /* of the activations and gradients of each level */
    const fb_real *w, *dropout_scale;   /* of the last forward, borrowed */
    const fb_act *x;
};

static inline int64_t fb_level_voxels(const fb_segresnet *net, int level)
{
    return net->extent[level][0] * net->extent[level][1] * net->extent[level][2];
}

/* Makes layers and buffers of a network whose ops, training and extent are set. Errors: memory, backend, a
 * parameter table of another spec; the caller then destroys the network. */
fb_status fb_segresnet_build(const fb_net_spec *spec, const fb_params *params, fb_segresnet *net) FB_MUST_USE;
