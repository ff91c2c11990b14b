/* SPDX-License-Identifier: Apache-2.0
 *
 * The 3x3x3 convolution, stride 1, with 8 output channels: half the work of SegResNet with 8 filters, on which oneDNN
 * leaves half of a 512-bit vector empty. Here a vector holds, for each of the 8 outputs, the products with an even and
 * with an odd input channel; an input pair is one 64-bit broadcast and the two halves are added once at the end. Same
 * contract as fb_ops (nn/op.h); the bits do not depend on the number of threads.
 */
#pragma once

#include <stdint.h>

enum {
    FB_CONV8_TILE = 8,             /* W must be a multiple */
    FB_CONV8_MAX_IN = 8,           /* c_in: 4 or 8 */
    FB_CONV8_PACKED = 27 * 4 * 16, /* floats of packed weights at most */
    FB_CONV8_MAX_CHUNKS = 64,      /* partial weight gradients */
#ifdef __AVX512F__
    FB_CONV8_FAST = 1
#else
    FB_CONV8_FAST = 0 /* right but slow: narrower vectors are full with 8 outputs already */
#endif
};

int fb_conv8_can(const int64_t in[3], int64_t c_in);

/* w (8, c_in, 3, 3, 3) -> packed, aligned to 64 bytes, for y = conv(x). */
void fb_conv8_pack(int64_t c_in, const float *w, float *packed);

/* w (8, 8, 3, 3, 3) -> packed for dx = transposed conv(dy), which is the convolution with w mirrored. */
void fb_conv8_pack_transposed(const float *w, float *packed);

/* x (D, H, W, c_in) -> y (D, H, W, 8) */
void fb_conv8_apply(const int64_t in[3], int64_t c_in, const float *packed, const float *x, float *y);

/* x (D, H, W, c_in), dy (D, H, W, 8) -> dw (8, c_in, 3, 3, 3); scratch (FB_CONV8_MAX_CHUNKS, FB_CONV8_PACKED), aligned
 * to 64 bytes. */
void fb_conv8_bwd_weights(const int64_t in[3], int64_t c_in, const float *x, const float *dy, float *scratch,
                          float *dw);
