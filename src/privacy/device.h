/* SPDX-License-Identifier: Apache-2.0
 *
 * fb_release on a GPU: the same update, byte for byte, and the same report as on the processor. device_cuda.c, or, in a
 * build without CUDA, device_cuda_none.c, which does nothing.
 *
 * On the GPU: finite check, grid, the largest (topk, exponential), Gumbel noise, all of the SVT but its threshold, the
 * values, the L2 clip, the noise and the overlap with the largest. On the processor: the public coordinates (random,
 * public), which are uploaded, and whole releases for which fb_privacy_device_create gives NULL: without noise (none,
 * dpsgd) all but topk and exponential, because nothing is computed there that would be worth a copy. An update that may
 * not be released, because it is not finite and there is no mechanism, goes to the processor too, which says why.
 *
 * Keys. The hospital's key stays on the host. A kernel gets the key of its address as an argument; it is in no array of
 * the device, and the host's copy is zeroed. What remains: parameters of past launches in the driver's buffers, and
 * registers, local and shared memory of the GPU until they are used again, which no call clears. What was drawn, the
 * noised scores and values, and what is exact, the change and its grid, lie in this object's memory, which is zeroed
 * after every release and before it is given back.
 */
#pragma once

#include "nn/op.h"
#include "privacy/mechanism.h"

/* The memory of releases of one budget: up to 34 bytes a parameter. */
typedef struct fb_privacy_device fb_privacy_device;

/* *out is NULL where `ops` (borrowed) is not the GPU's, or the processor does it all. Errors: memory. */
fb_status fb_privacy_device_create(const fb_ops *ops, const fb_release_spec *spec, const fb_budget *budget,
                                   fb_privacy_device **out) FB_MUST_USE;
void fb_privacy_device_destroy(fb_privacy_device **device);

/* fb_release, with spec and budget those of create; *done is 0 where the processor is to do it (nothing is changed
 * then). Errors: memory, CUDA's. */
fb_status fb_privacy_device_release(fb_privacy_device *device, const fb_release_spec *spec, const fb_budget *budget,
                                    const fb_release_input *in, fb_update *out, fb_release_report *report,
                                    int *done) FB_MUST_USE;
