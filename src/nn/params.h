/* SPDX-License-Identifier: Apache-2.0
 *
 * The parameters of the network in one flat arena: a hospital's model, gradient, update and Adam moments are each one
 * `fb_real *` and a length. This table names the views into it, in MONAI's names, shapes and order (state_dict of
 * monai.networks.nets.SegResNet(spatial_dims=3, norm=("group", {"num_groups": 8}), upsample_mode="nontrainable")).
 */
#pragma once

#include "nn/op.h"

enum { FB_LEVELS_MAX = 6, FB_TENSOR_NAME_CHARS = 64 };

/* The architecture: everything that decides the parameters (and dropout, which does not). */
typedef struct fb_net_spec {
    int64_t filters;                    /* channels of the first level; a multiple of FB_NORM_GROUPS */
    int levels;                         /* resolution levels, 1 to FB_LEVELS_MAX; each below the first halves D, H, W */
    int64_t blocks_down[FB_LEVELS_MAX]; /* residual blocks per level on the way down */
    int64_t blocks_up[FB_LEVELS_MAX];   /* per level on the way up, deepest first; levels - 1 entries */
    double dropout;                     /* probability to drop a channel after the first convolution, in [0, 1) */
} fb_net_spec;

typedef struct fb_tensor_info {
    char name[FB_TENSOR_NAME_CHARS]; /* MONAI's, e.g. "down_layers.1.1.conv1.conv.weight" */
    int64_t shape[5];                /* (C_out, C_in, K, K, K) or (C) */
    int rank;                        /* 5 or 1 */
    int64_t offset, count;           /* in elements, into the arena */
} fb_tensor_info;

typedef struct fb_params {
    int64_t count; /* elements in the arena */
    int tensor_count;
    fb_tensor_info *tensors; /* owned; (tensor_count) in MONAI's order */
} fb_params;

/* Errors: filters not a positive multiple of FB_NORM_GROUPS, levels, channels, block counts or dropout out of range
 * (all named). */
fb_status fb_params_create(const fb_net_spec *spec, fb_params **out) FB_MUST_USE;
void fb_params_destroy(fb_params **params);

/* The tensor called `name`; NULL when there is none. Borrowed. */
const fb_tensor_info *fb_params_find(const fb_params *params, const char *name);

/* PyTorch's default initialisation: convolutions U(-b, b), b = 1/sqrt(fan_in) (kaiming_uniform with a = sqrt(5));
 * norm weights 1, norm biases 0; bias of the last convolution U(-b, b). w (count) is overwritten. Element i of the
 * arena uses index i of the stream (seed, FB_RNG_INIT), so it depends on nothing else. */
void fb_params_init(const fb_params *params, uint64_t seed, fb_real *w);
