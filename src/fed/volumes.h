/* SPDX-License-Identifier: Apache-2.0
 *
 * Cases in the memory of the backend that computes. On the CPU that is the decoded case itself. On a device each case
 * is brought once and stays as long as there is room: where there is not, the one that was brought first goes.
 */
#pragma once

#include "data/shard.h"
#include "nn/op.h"

typedef struct fb_volumes fb_volumes;

/* limit_bytes of device memory are used at most, but always one case; 0: half of what the device has. ops is borrowed.
 */
fb_status fb_volumes_create(const fb_ops *ops, int64_t limit_bytes, fb_volumes **out) FB_MUST_USE;
void fb_volumes_destroy(fb_volumes **volumes);

/* Fills image, label and shape of *sample with case `index` of `split`. Borrowed until the next call here or on the
 * shard; work that was queued before may still use them. Errors: shard, memory of the device. */
fb_status fb_volumes_get(fb_volumes *volumes, fb_shard *shard, fb_split split, int64_t index,
                         fb_sample *sample) FB_MUST_USE;

int64_t fb_volumes_bytes(const fb_volumes *volumes); /* of the device, in use */
