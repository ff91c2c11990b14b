/* SPDX-License-Identifier: Apache-2.0
 *
 * What a hospital shares in a round: some coordinates of its change of the model, and their values.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef enum fb_value_kind {
    FB_VALUES_F32 = 0, /* change of the weight over the round, dW: no mechanism */
    FB_VALUES_GRID = 1 /* dW / steps as a multiple of 2^grid_log2: with a mechanism, after noise */
} fb_value_kind;

typedef struct fb_update {
    int64_t n;       /* parameters of the model */
    int64_t count;   /* shared coordinates, 0..n */
    uint32_t *index; /* (count) strictly ascending; owned; NULL when count == n: all of them */
    fb_value_kind kind;
    float *f32;     /* (count) owned; FB_VALUES_F32 */
    int64_t *grid;  /* (count) owned; FB_VALUES_GRID */
    int grid_log2;  /* FB_VALUES_GRID: value = grid * 2^grid_log2, at least -40 */
    int least_bits; /* FB_VALUES_GRID: a message has at least so many bits for a value, 0 to 64 */
} fb_update;

/* Sets the kind and reserves room for `count` values (and, unless count == n, indices), not zeroed: the caller fills
 * all of it. Previous contents are freed.
 * Start from a zeroed struct. */
fb_status fb_update_reserve(fb_update *update, int64_t n, int64_t count, fb_value_kind kind) FB_MUST_USE;
void fb_update_free(fb_update *update);                                /* frees the arrays and zeroes the struct */
int64_t fb_update_bytes(int64_t n, int64_t count, fb_value_kind kind); /* what it holds when reserved so */
