/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums over voxels are made in FB_CHUNKS parts whose bounds only the number of voxels decides, then added in order: any
 * number of threads gives the same bits.
 */
#pragma once

#include <stdint.h>

enum { FB_CHUNKS = 64 };

/* First of the voxels of `chunk`; chunk == FB_CHUNKS gives the end. */
static inline int64_t fb_chunk_begin(int64_t voxels, int chunk)
{
    return voxels / FB_CHUNKS * chunk + voxels % FB_CHUNKS * chunk / FB_CHUNKS;
}
