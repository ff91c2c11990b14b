/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of the network that are bound by memory: the non-convolution entries of fb_ops, with the same contract
 * (nn/op.h), for the CPU. Channels are the vector loop, voxels the parallel one (OpenMP). The pieces that work is cut
 * into depend on the problem size alone and partial sums are added in their order: the bits do not depend on the number
 * of threads. channels: a multiple of FB_NORM_GROUPS up to FB_KERNELS_MAX_CHANNELS for the norm, any number otherwise.
 */
#pragma once

#include "nn/op.h"

enum { FB_KERNELS_MAX_CHANNELS = 512 };

void fb_kernels_norm_relu_fwd(int64_t voxels, int64_t channels, const fb_real *x, const fb_real *gamma,
                              const fb_real *beta, fb_real *y, fb_real *stats);
void fb_kernels_norm_relu_bwd(int64_t voxels, int64_t channels, const fb_real *x, const fb_real *gamma,
                              const fb_real *beta, const fb_real *stats, const fb_real *dy, fb_real *dx,
                              fb_real *dgamma, fb_real *dbeta);
void fb_kernels_upsample_add_fwd(const int64_t in[3], int64_t channels, const fb_real *x, const fb_real *skip,
                                 fb_real *y);
void fb_kernels_upsample_bwd(const int64_t in[3], int64_t channels, const fb_real *dy, fb_real *dx);
void fb_kernels_add(int64_t count, const fb_real *a, const fb_real *b, fb_real *y);
