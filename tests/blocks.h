/* SPDX-License-Identifier: Apache-2.0
 *
 * The draws of an address one after the other, as noise.h numbers them: what code that draws in blocks is compared
 * with.
 */
#pragma once

#include "privacy/noise_stream.h"

/* To be called before draw k = 0, 1, ... of the address that `noise` was sought to. */
static inline void before_draw(fb_noise *noise, int64_t k)
{
    if (k % FB_NOISE_BLOCK == 0)
        fb_stream_seek(&noise->stream, (uint64_t)(k / FB_NOISE_BLOCK), 1);
}
