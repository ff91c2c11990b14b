/* SPDX-License-Identifier: Apache-2.0
 *
 * The block function of ChaCha20 (RFC 8439, 2.3) in plain integers, for a graphics processor, where libsodium is not.
 */
#pragma once

#include "core/hd.h"

FB_HD static inline uint32_t fb_chacha20_rotate(uint32_t x, int left)
{
    return x << left | x >> (32 - left);
}

FB_HD static inline void fb_chacha20_quarter(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    *a += *b;
    *d = fb_chacha20_rotate(*d ^ *a, 16);
    *c += *d;
    *b = fb_chacha20_rotate(*b ^ *c, 12);
    *a += *b;
    *d = fb_chacha20_rotate(*d ^ *a, 8);
    *c += *d;
    *b = fb_chacha20_rotate(*b ^ *c, 7);
}

/* out: 64 bytes of the key stream as little-endian words; so are key and nonce. */
FB_HD static inline void fb_chacha20_block(const uint32_t key[8], uint32_t counter, const uint32_t nonce[3],
                                           uint32_t out[16])
{
    const uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0],  key[1],   key[2],   key[3],
                                key[4],     key[5],     key[6],     key[7],     counter, nonce[0], nonce[1], nonce[2]};
    uint32_t x[16];
    for (int i = 0; i < 16; i++)
        x[i] = start[i];
    for (int round = 0; round < 20; round += 2) {
        for (int i = 0; i < 4; i++) /* columns */
            fb_chacha20_quarter(&x[i], &x[4 + i], &x[8 + i], &x[12 + i]);
        for (int i = 0; i < 4; i++) /* diagonals */
            fb_chacha20_quarter(&x[i], &x[4 + (i + 1) % 4], &x[8 + (i + 2) % 4], &x[12 + (i + 3) % 4]);
    }
    for (int i = 0; i < 16; i++)
        out[i] = x[i] + start[i];
}
