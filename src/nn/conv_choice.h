/* SPDX-License-Identifier: Apache-2.0
 *
 * Which convolutions of the GPU backend are computed by our own kernels and which by a plan of cuDNN, and that as text:
 * what rank 0 measured, sends to the others, keeps in the run's folder and reads again. Knows nothing of CUDA.
 *
 *     convolutions of fedbrats, format 1, bf16
 *     conv 64 x 64 x 64, 16 to 16 channels, kernel 3, stride 1, forward: own # 0.081 ms
 *     conv 64 x 64 x 64, 16 to 16 channels, kernel 3, stride 1, backward weights: bf16-gradient-f32 cudnn 9.19.0 engine
 *     69 knobs 17=16 workspace 32 # 0.102 ms, own 0.243 ms                                      (all in one line)
 *
 * What follows " # " is for the reader and no part of the table's identity. A convolution that is not listed is
 * computed by our own kernels.
 */
#pragma once

#include "nn/conv_cudnn.h"

enum { FB_CONV_DIRECTIONS = 3 }; /* of a convolution: fb_cudnn_direction */

typedef struct fb_conv_choice {
    fb_conv_shape shape;
    fb_cudnn_direction direction;
    int cudnn;                    /* 0: our own kernels; else `plan`, in this precision */
    fb_cudnn_precision precision; /* as the type of activations and the direction allow */
    fb_cudnn_choice plan;
    double ms, own_ms; /* of what was chosen, and of our own kernels: medians; 0: not measured */
} fb_conv_choice;

typedef struct fb_conv_choices {
    fb_act_type act;
    int count, capacity;
    fb_conv_choice *items; /* (count) owned; each shape and direction once */
} fb_conv_choices;

/* Whether cuDNN may compute it: not the first layer and not the logits, which have kernels of their own. */
int fb_conv_allows_cudnn(const fb_conv_shape *shape);

/* Appends a copy. The caller sees to it that it is not there yet. */
fb_status fb_conv_choices_add(fb_conv_choices *choices, const fb_conv_choice *choice) FB_MUST_USE;
void fb_conv_choices_free(fb_conv_choices *choices);

/* Its index, or -1. */
int fb_conv_choices_find(const fb_conv_choices *choices, const fb_conv_shape *shape, fb_cudnn_direction direction);

/* "64 x 64 x 64, 16 to 16 channels, kernel 3, stride 1, forward" */
void fb_conv_choice_name(const fb_conv_shape *shape, fb_cudnn_direction direction, size_t chars, char *text);

/* The table as text, with or without what was measured. *text is owned by the caller. */
fb_status fb_conv_choices_print(const fb_conv_choices *choices, int with_times, char **text) FB_MUST_USE;

/* The reverse. Errors name the line and show it: not of that form, twice the same, other activations than `act`, cuDNN
 * where it may not be. On error *out is empty. */
fb_status fb_conv_choices_parse(const char *text, fb_act_type act, fb_conv_choices *out) FB_MUST_USE;
