/* SPDX-License-Identifier: Apache-2.0
 *
 * What a rank computes on, as run.device, run.ops and model.precision say.
 */
#pragma once

#include "comm/comm.h"
#include "config/config.h"
#include "nn/op.h"

typedef struct fb_device fb_device;

/* The ranks of a host take its GPUs in turn: local rank modulo visible devices. Rank 0 logs a line for each rank on a
 * GPU, and why there is none where run.device = auto found none. Collective. Errors, on every rank: cuda without a
 * device, precision that the device lacks, CUDA's. */
fb_status fb_device_open(const fb_config *config, fb_comm *comm, fb_device **out) FB_MUST_USE;
void fb_device_close(fb_device **device);

const fb_ops *fb_device_ops(const fb_device *device); /* borrowed */
int fb_device_number(const fb_device *device);        /* of the GPU on its host; -1 on the CPU */
