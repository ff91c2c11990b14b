/* SPDX-License-Identifier: Apache-2.0 */
#include "core/rng.h"

#include "core/status.h"

#include <Random123/philox.h>
#include <math.h>

void fb_rng_words(const fb_rng *rng, uint32_t index, uint32_t words[4])
{
    FB_ASSERT(rng->purpose < 1u << 8 && rng->hospital < 1u << 24);
    const philox4x32_key_t key = {{(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)}};
    const philox4x32_ctr_t counter = {{index, rng->epoch, rng->round, rng->purpose << 24 | rng->hospital}};
    const philox4x32_ctr_t out = philox4x32(counter, key);
    for (int i = 0; i < 4; i++)
        words[i] = out.v[i];
}

static double uniform53(uint32_t high, uint32_t low)
{
    const uint64_t bits = (uint64_t)high << 32 | low;
    return (double)(bits >> 11) * 0x1p-53;
}

double fb_rng_uniform(const fb_rng *rng, uint32_t index)
{
    uint32_t words[4];
    fb_rng_words(rng, index, words);
    return uniform53(words[0], words[1]);
}

double fb_rng_range(const fb_rng *rng, uint32_t index, double lo, double hi)
{
    return lo + (hi - lo) * fb_rng_uniform(rng, index);
}

double fb_rng_normal(const fb_rng *rng, uint32_t index)
{
    uint32_t words[4];
    fb_rng_words(rng, index, words);
    const double radius = sqrt(-2.0 * log1p(-uniform53(words[0], words[1])));
    return radius * cos(6.283185307179586 * uniform53(words[2], words[3]));
}

uint32_t fb_rng_below(const fb_rng *rng, uint32_t index, uint32_t count)
{
    uint32_t words[4];
    fb_rng_words(rng, index, words);
    const uint64_t bits = (uint64_t)words[0] << 32 | words[1];
    __extension__ typedef unsigned __int128 wide;
    return (uint32_t)((wide)bits * count >> 64);
}

void fb_rng_permutation(const fb_rng *rng, uint32_t count, uint32_t *order)
{
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t j = fb_rng_below(rng, i - 1, i);
        const uint32_t moved = order[i - 1];
        order[i - 1] = order[j];
        order[j] = moved;
    }
}
