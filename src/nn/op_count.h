/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that count: what is made with them asks for exactly the memory that it would have from another backend,
 * gets a few bytes for each block, and must not be run. So the memory of a network is known before any of it is needed,
 * by the code that needs it.
 */
#pragma once

#include "nn/op.h"

typedef struct fb_count {
    fb_ops ops;            /* hand &count.ops on; the counter must stay where it is */
    const fb_ops *like;    /* borrowed */
    int64_t bytes;         /* asked for and not given back, without scratch */
    int64_t scratch_bytes; /* the most that one convolution needs beside, shared by all */
    int64_t convolutions;  /* made so far */
} fb_count;

/* `like` is the backend whose memory is counted; borrowed. Nothing to give back. */
void fb_count_begin(const fb_ops *like, fb_count *count);
