/* SPDX-License-Identifier: Apache-2.0
 *
 * One convolution with random data, as the reference wants it and as cuDNN does, for the tests of nn/conv_cudnn.
 */
#pragma once

#include "arrays.h"
#include "nn/conv_cudnn.h"

enum { WORKSPACE_BYTES = 4096 };

/* float to bfloat16, to the nearest, ties to even */
static inline uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static inline float of_bf16(uint16_t value)
{
    const uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Which of x (0), w (1), y (2) a direction writes. */
static inline int written_by(fb_cudnn_direction direction)
{
    return direction == FB_CUDNN_FORWARD ? 2 : (int)direction - 1;
}

typedef struct problem {
    fb_conv_shape shape;
    fb_cudnn_precision precision;
    int64_t counts[3];    /* elements of x, w, y */
    float *values[3];     /* x, w (O, I, K, K, K), dy: representable in the precision */
    void *image[3];       /* the same as cuDNN wants them, w as (O, K, K, K, I); room for float32 */
    unsigned char *space; /* (WORKSPACE_BYTES) */
} problem;

static inline int is_bf16(const problem *p, int tensor, fb_cudnn_direction direction)
{
    return p->precision == FB_CUDNN_BF16 ||
           (p->precision == FB_CUDNN_BF16_GRADIENT_F32 && !(tensor == 1 && direction == FB_CUDNN_BACKWARD_WEIGHTS));
}

/* Where cuDNN's weights hold element i of the reference's. */
static inline int64_t weight_at(const fb_conv_shape *s, int64_t i)
{
    const int64_t taps = s->kernel * s->kernel * s->kernel;
    const int64_t o = i / (s->c_in * taps), c = i / taps % s->c_in, tap = i % taps;
    return (o * taps + tap) * s->c_in + c;
}

static inline void write_image(const problem *p, int tensor, fb_cudnn_direction direction)
{
    for (int64_t i = 0; i < p->counts[tensor]; i++) {
        const int64_t at = tensor == 1 ? weight_at(&p->shape, i) : i;
        if (is_bf16(p, tensor, direction))
            ((uint16_t *)p->image[tensor])[at] = to_bf16(p->values[tensor][i]);
        else
            ((float *)p->image[tensor])[at] = p->values[tensor][i];
    }
}

static inline float *read_image(const problem *p, int tensor, fb_cudnn_direction direction)
{
    float *values = make(p->counts[tensor]);
    for (int64_t i = 0; i < p->counts[tensor]; i++) {
        const int64_t at = tensor == 1 ? weight_at(&p->shape, i) : i;
        values[i] = is_bf16(p, tensor, direction) ? of_bf16(((const uint16_t *)p->image[tensor])[at])
                                                  : ((const float *)p->image[tensor])[at];
    }
    return values;
}

static inline problem make_problem(const fb_conv_shape *s, fb_cudnn_precision precision)
{
    int64_t out[3];
    for (int axis = 0; axis < 3; axis++)
        out[axis] = (s->in[axis] + s->stride - 1) / s->stride;
    problem p = {.shape = *s, .precision = precision, .counts = {volume(s->in) * s->c_in, 0, volume(out) * s->c_out}};
    p.counts[1] = s->c_in * s->c_out * s->kernel * s->kernel * s->kernel;
    for (int t = 0; t < 3; t++) {
        p.values[t] = make_random(p.counts[t], (uint32_t)(1 + t), -1.0, 1.0);
        p.image[t] = make(p.counts[t]);
        for (int64_t i = 0; i < p.counts[t] && is_bf16(&p, t, FB_CUDNN_FORWARD); i++) {
            p.values[t][i] = of_bf16(to_bf16(p.values[t][i]));
        }
    }
    must(FB_ALLOC(p.space, WORKSPACE_BYTES, "workspace"));
    return p;
}

static inline void free_problem(problem *p)
{
    for (int t = 0; t < 3; t++) {
        FB_FREE(p->values[t]);
        FB_FREE(p->image[t]);
    }
    FB_FREE(p->space);
}

/* What the direction writes, by the reference. */
static inline float *expected(const problem *p, fb_cudnn_direction direction)
{
    const int written = written_by(direction);
    float *result = make_nan(p->counts[written]);
    fb_conv *conv = NULL;
    must(fb_ops_ref.conv_create(&fb_ops_ref, &p->shape, &conv));
    must(fb_ops_ref.conv_load(conv, p->values[1]));
    if (direction == FB_CUDNN_FORWARD)
        must(fb_ops_ref.conv_fwd(conv, p->values[0], result));
    else if (direction == FB_CUDNN_BACKWARD_DATA)
        must(fb_ops_ref.conv_bwd_data(conv, p->values[2], result));
    else
        must(fb_ops_ref.conv_bwd_weights(conv, p->values[0], p->values[2], result));
    fb_ops_ref.conv_destroy(&conv);
    return result;
}

/* All three buffers but the one written hold the problem; that one holds NaN (0xFF bytes). */
static inline void fill_images(const problem *p, fb_cudnn_direction direction)
{
    const int written = written_by(direction);
    for (int t = 0; t < 3; t++)
        write_image(p, t, direction);
    memset(p->image[written], 0xFF, (size_t)p->counts[written] * sizeof(float));
}
