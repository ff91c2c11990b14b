/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a key stream, for the samplers beside noise.c, which read its buffer without a call for every byte, and
 * for tests, which write a script into the buffer.
 */
#pragma once

#include "privacy/noise.h"

#include <string.h>

enum { FB_NOISE_BUFFER_BYTES = 4096 };

struct fb_noise {
    uint8_t key[FB_KEY_BYTES], address_key[FB_KEY_BYTES];
    uint64_t block;  /* next block of the address; UINT64_MAX before the first seek */
    size_t position; /* next unused byte of the buffer */
    uint8_t buffer[FB_NOISE_BUFFER_BYTES];
};

/* Fills the buffer with the next blocks of the address. What was left in it is dropped, but for what is left of the
 * first 512 bytes of an address (noise.c). */
void fb_noise_refill(fb_noise *noise);

/* Sees to it that `bytes` <= 512 unused ones are in the buffer. The few that are left where they are not are dropped,
 * so that no draw crosses a buffer. */
static inline void fb_noise_reserve(fb_noise *noise, size_t bytes)
{
    if (FB_NOISE_BUFFER_BYTES - noise->position < bytes)
        fb_noise_refill(noise);
}

/* The next `bytes` <= 8 bytes as a little-endian number. 8 must be reserved, whatever `bytes` is. */
static inline uint64_t fb_noise_take(fb_noise *noise, int bytes)
{
    uint64_t word;
    memcpy(&word, noise->buffer + noise->position, sizeof word);
    noise->position += (size_t)bytes;
    return bytes == 8 ? word : word & ((UINT64_C(1) << 8 * bytes) - 1);
}
