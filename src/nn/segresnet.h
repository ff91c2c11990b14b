/* SPDX-License-Identifier: Apache-2.0
 *
 * SegResNet as MONAI's (Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", 2018, without
 * the VAE branch): logits of the regions TC, WT, ET from the modalities t1ce, t1, t2, flair.
 *
 *   init convolution -> dropout of channels -> for each level [stride-2 convolution] and residual blocks
 *   -> for each level up: 1x1x1 convolution, trilinear x2, + skip, residual blocks -> GroupNorm, ReLU, 1x1x1 with bias
 *   residual block: x + conv(relu(norm(conv(relu(norm(x))))))
 *
 * The object owns every activation, primitive and scratch buffer for one input shape; a step allocates nothing.
 */
#pragma once

#include "nn/params.h"

typedef struct fb_segresnet fb_segresnet;

/* `shape` (D, H, W) is the input window: each extent a positive multiple of 2^(levels-1). With training == 0 backward
 * is unavailable and activations are reused. ops is borrowed. Errors: shape not divisible (named), backend, memory. */
fb_status fb_segresnet_create(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                              const int64_t shape[3], int training, fb_segresnet **out) FB_MUST_USE;
void fb_segresnet_destroy(fb_segresnet **net);

/* x (D, H, W, FB_IMAGE_CHANNELS) -> logits (D, H, W, FB_REGIONS). w (params->count), x and dropout_scale must stay
 * unchanged until the matching backward; like all buffers here they are the backend's memory. dropout_scale (filters):
 * factor of each channel after the first convolution, 0 for dropped and 1/(1-p) for kept ones; NULL for none. */
fb_status fb_segresnet_forward(fb_segresnet *net, const fb_real *w, const fb_act *x, const fb_real *dropout_scale,
                               fb_real *logits) FB_MUST_USE;

/* The same with the weights of the last forward, unchanged since then: nothing is packed anew. */
fb_status fb_segresnet_forward_again(fb_segresnet *net, const fb_act *x, const fb_real *dropout_scale,
                                     fb_real *logits) FB_MUST_USE;

/* Gradient of the last forward: dlogits (D, H, W, FB_REGIONS) -> gradient (params->count), overwritten. Uses up the
 * activations: once for each forward. Errors: no forward before, made without training. */
fb_status fb_segresnet_backward(fb_segresnet *net, const fb_real *dlogits, fb_real *gradient) FB_MUST_USE;

/* What the object holds of activations and their gradients: in all, and at a level, 0 to FB_LEVELS_MAX - 1. */
int64_t fb_segresnet_activation_bytes(const fb_segresnet *net);
int64_t fb_segresnet_level_bytes(const fb_segresnet *net, int level);
