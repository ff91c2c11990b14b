/* SPDX-License-Identifier: Apache-2.0
 *
 * Cases in the memory of the backend that computes. On the CPU that is the decoded case itself. On a device each case
 * is brought once and stays as long as there is room: where there is not, the one that was used longest ago goes.
 */
#pragma once

#include "data/shard.h"
#include "nn/op.h"

typedef struct fb_volumes fb_volumes;

/* limit_bytes of device memory are used at most, but always two cases; 0: half of what is free at the time. Where
 * that turns out too much, because others use the device too, fewer cases stay. ops is borrowed.
 */
fb_status fb_volumes_create(const fb_ops *ops, int64_t limit_bytes, fb_volumes **out) FB_MUST_USE;
void fb_volumes_destroy(fb_volumes **volumes);

/* Fills image, label and shape of *sample with case `index` of `split`. Borrowed: on the host until the next call on
 * the shard; on a device until the call after the next one here, if ops->turn is called before the work on each. Asked
 * for early, a case arrives beside the work on the one before. Errors: shard, memory of the device. */
fb_status fb_volumes_get(fb_volumes *volumes, fb_shard *shard, fb_split split, int64_t index,
                         fb_sample *sample) FB_MUST_USE;

int64_t fb_volumes_bytes(const fb_volumes *volumes); /* of the device, in use */
