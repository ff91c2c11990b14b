/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "privacy/noise.h"
#include "testing.h"

/* A noise stream whose key comes from a seed. Owned by the caller. */
static inline fb_noise *make_noise(uint64_t seed)
{
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    must(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    return noise;
}
