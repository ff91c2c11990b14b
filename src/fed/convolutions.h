/* SPDX-License-Identifier: Apache-2.0
 *
 * run.conv: by what the convolutions of the training network are computed on GPUs. Rank 0 decides: it reads the choices
 * of the interrupted run, or measures, and writes them to run.output/conv-plans.txt; all ranks then choose what that
 * text says and nothing else, since other choices give other bits. What is measured are the convolutions of a training
 * step; those of an evaluation, whose windows vary with the cases, are computed by our own kernels unless they have the
 * very shape of a training step's, so that nothing is measured later or on another rank.
 */
#pragma once

#include "comm/comm.h"
#include "config/config.h"
#include "core/file.h"
#include "nn/op.h"

typedef struct fb_convolutions {
    char *table;                  /* without what was measured; owned; NULL on the CPU */
    char sha256[FB_SHA256_CHARS]; /* of the table; "" on the CPU */
} fb_convolutions;

/* Makes `ops` compute as run.conv says. The folder of the run must be there. Collective. Errors, on every rank: a
 * folder to resume from whose conv-plans.txt is missing or does not fit this machine, memory to measure with. On error
 * nothing is owned. */
fb_status fb_convolutions_settle(const fb_config *config, const fb_ops *ops, fb_comm *comm,
                                 fb_convolutions *out) FB_MUST_USE;
void fb_convolutions_free(fb_convolutions *convolutions);
