/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers of core/rng.h on processor and graphics processor, without Random123: Philox4x32-10 (Salmon et al.,
 * SC'11), the same bits.
 */
#pragma once

#include "core/hd.h"
#include "core/rng.h"

FB_HD static inline void fb_rng_draw_words(const fb_rng *rng, uint32_t index, uint32_t words[4])
{
    uint32_t key[2] = {(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)};
    uint32_t c[4] = {index, rng->epoch, rng->round, rng->purpose << 24 | rng->hospital};
    for (int round = 0; round < 10; round++) {
        const uint64_t even = (uint64_t)0xD2511F53u * c[0], odd = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t next[4] = {(uint32_t)(odd >> 32) ^ c[1] ^ key[0], (uint32_t)odd,
                                  (uint32_t)(even >> 32) ^ c[3] ^ key[1], (uint32_t)even};
        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++)
        words[i] = c[i];
}

/* fb_rng_below */
FB_HD static inline uint32_t fb_rng_draw_below(const fb_rng *rng, uint32_t index, uint32_t count)
{
    uint32_t words[4];
    fb_rng_draw_words(rng, index, words);
    const uint64_t high = (uint64_t)words[0] * count, low = (uint64_t)words[1] * count;
    return (uint32_t)((high + (low >> 32)) >> 32);
}
