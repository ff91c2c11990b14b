/* SPDX-License-Identifier: Apache-2.0
 *
 * What the network does beside fb_ops: the bias of the last convolution and the dropout of channels. The
 * same code serves every CPU backend.
 */
#pragma once

#include "nn/params.h"

/* x[v, c] *= scale[c]; x (voxels, channels) */
void fb_scale_channels(int64_t voxels, int64_t channels, const fb_real *scale, fb_real *x);

/* y[v, r] += bias[r]; y (voxels, FB_REGIONS) */
void fb_bias_add(int64_t voxels, const fb_real *bias, fb_real *y);

/* dbias[r] = sum over v of dy[v, r], in double in an order that only `voxels` decides; dy (voxels, FB_REGIONS) */
void fb_bias_bwd(int64_t voxels, const fb_real *dy, fb_real *dbias);
