/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "data/augment.h"

#include <stddef.h>

/* The whole volume z-scored, with background up to `padded` (D, H, W): what evaluation hands to the network. */
static inline void normalise(const fb_volume *volume, const int64_t padded[3], float *x)
{
    const fb_augmentation nothing = fb_augment_nothing();
    fb_augment_apply(volume->image, volume->label, volume->shape, padded, &nothing, x, NULL);
}
