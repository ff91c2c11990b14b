/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of the network, as one table per backend. op_ref.c is plain C that reads like the mathematics and is
 * the oracle for the others; op_dnnl.c is the fast CPU backend.
 *
 * Batch 1 throughout. Activations are dense (D, H, W, C), C fastest ("NDHWC"); V = D*H*W voxels. Weights of a
 * convolution are MONAI's and PyTorch's (C_out, C_in, K, K, K). Buffers are the caller's and never overlap unless said.
 * No function here is collective. All are deterministic for a fixed number of threads.
 *
 * fb_real is float; compiled with -DFB_REAL=double the same sources give the double-precision oracle of the tests.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

#ifndef FB_REAL
#define FB_REAL float
#endif
typedef FB_REAL fb_real;

typedef enum fb_act_type { FB_ACT_F32, FB_ACT_BF16 } fb_act_type;

/* A 3-D convolution without bias, zero padding kernel/2 on each side; output extent = ceil(input extent / stride). */
typedef struct fb_conv_shape {
    int64_t in[3]; /* D, H, W of the input */
    int64_t c_in, c_out;
    int kernel; /* 1 or 3, the same in all directions */
    int stride; /* 1 or 2 */
} fb_conv_shape;

typedef struct fb_conv fb_conv; /* made by a backend for one shape: primitives, reordered weights, scratch */

enum { FB_NORM_GROUPS = 8 };

typedef struct fb_ops {
    const char *name; /* "ref", "dnnl" */

    /* Makes a convolution. Errors: shape the backend cannot do, no memory. Owned by the caller. */
    fb_status (*conv_create)(const fb_conv_shape *shape, fb_conv **out);
    void (*conv_destroy)(fb_conv **conv);

    /* Takes new weights w (C_out, C_in, K, K, K); w is copied or borrowed until the next call, so it must stay valid
     * and unchanged while fwd and bwd_data are used. */
    fb_status (*conv_load)(fb_conv *conv, const fb_real *w);

    /* y[o] = sum over i, k of w[o, i, k] * x[stride * position + k - K/2, i]; x (in, C_in), y (out, C_out) */
    fb_status (*conv_fwd)(fb_conv *conv, const fb_real *x, fb_real *y);

    /* dx = transposed convolution of dy; dx is overwritten. dy (out, C_out), dx (in, C_in) */
    fb_status (*conv_bwd_data)(fb_conv *conv, const fb_real *dy, fb_real *dx);

    /* dw = correlation of x with dy; dw (C_out, C_in, K, K, K) is overwritten. */
    fb_status (*conv_bwd_weights)(fb_conv *conv, const fb_real *x, const fb_real *dy, fb_real *dw);

    /* y = relu(gamma[c] * (x - mean[g]) * rstd[g] + beta[c]) with g = c / (channels / FB_NORM_GROUPS), mean and biased
     * variance over the group's voxels and channels, rstd = 1/sqrt(var + 1e-5) (Wu & He 2018; PyTorch GroupNorm).
     * x, y (voxels, channels); gamma, beta (channels); stats receives mean and rstd (2, FB_NORM_GROUPS). */
    void (*norm_relu_fwd)(int64_t voxels, int64_t channels, const fb_real *x, const fb_real *gamma, const fb_real *beta,
                          fb_real *y, fb_real *stats);

    /* Gradient of the above: dx += d/dx (accumulates: the residual path's gradient is already there, or zero);
     * dgamma, dbeta (channels) are overwritten. The ReLU mask is recomputed from x. */
    void (*norm_relu_bwd)(int64_t voxels, int64_t channels, const fb_real *x, const fb_real *gamma, const fb_real *beta,
                          const fb_real *stats, const fb_real *dy, fb_real *dx, fb_real *dgamma, fb_real *dbeta);

    /* y (2D, 2H, 2W, C) = trilinear interpolation of x (D, H, W, C), align_corners false (PyTorch Upsample), plus
     * skip (2D, 2H, 2W, C), which may be y itself. `in` is (D, H, W). */
    void (*upsample_add_fwd)(const int64_t in[3], int64_t channels, const fb_real *x, const fb_real *skip, fb_real *y);

    /* dx (D, H, W, C) = transposed interpolation of dy (2D, 2H, 2W, C), in gather form; dx is overwritten. */
    void (*upsample_bwd)(const int64_t in[3], int64_t channels, const fb_real *dy, fb_real *dx);

    /* y = a + b over `count` elements; y may be a or b. */
    void (*add)(int64_t count, const fb_real *a, const fb_real *b, fb_real *y);
} fb_ops;

extern const fb_ops fb_ops_ref;
extern const fb_ops fb_ops_dnnl;

/* Number of threads that the dnnl backend and the own kernels use in this process (OpenMP). At least 1. Set it before
 * conv_create: a convolution keeps the number it was made with where that decides the order of its sums. */
void fb_ops_set_threads(int threads);

/* Library, version and instruction set that compute, e.g. "oneDNN 2.6.3, AVX-512": part of a run's identity, since
 * other ones give other bits. Writes at most `chars` characters with '\0'. */
void fb_ops_describe(size_t chars, char *text);
