/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/select.h"

#include "core/mem.h"
#include "privacy/mechanism.h"

#include <string.h>

enum { BUCKETS = 1 << 11, LEVELS = 3 };

/* The 31 bits of |x| order like |x|; they are sorted out in digits of 11, 10 and 10 bits, the highest first. */
static const int shift_of[LEVELS] = {20, 10, 0};
static const int bits_of[LEVELS] = {11, 10, 10};

static uint32_t magnitude_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

/* The magnitude of rank `count`, and how many elements of exactly this magnitude belong to the largest `count`. */
static uint32_t find_cut(int64_t n, const float *x, int64_t count, int64_t *at_cut)
{
    uint32_t prefix = 0, known = 0; /* bits of the cut found so far, and their mask */
    int64_t wanted = count;
    for (int level = 0; level < LEVELS; level++) {
        int64_t histogram[BUCKETS] = {0};
        const uint32_t low = (1u << bits_of[level]) - 1u;
        for (int64_t i = 0; i < n; i++) {
            const uint32_t bits = magnitude_bits(x[i]);
            if ((bits & known) == prefix) /* always on the first level, seldom on the others: well predicted */
                histogram[bits >> shift_of[level] & low]++;
        }
        uint32_t bucket = low;
        for (; histogram[bucket] < wanted; bucket--)
            wanted -= histogram[bucket];
        prefix |= bucket << shift_of[level];
        known |= low << shift_of[level];
    }
    *at_cut = wanted;
    return prefix;
}

fb_status fb_select_topk(int64_t n, const float *x, int64_t count, uint32_t *index)
{
    FB_ASSERT(0 <= count && count <= n && n <= UINT32_MAX);
    if (count == 0)
        return FB_OK;
    int64_t at_cut = 0, filled = 0;
    const uint32_t cut = find_cut(n, x, count, &at_cut);
    for (int64_t i = 0; i < n && filled < count; i++) {
        const uint32_t bits = magnitude_bits(x[i]);
        const int tied = bits == cut && at_cut > 0;
        index[filled] = (uint32_t)i;
        filled += bits > cut || tied;
        at_cut -= tied;
    }
    FB_ASSERT(filled == count);
    return FB_OK;
}

/* Floyd's subset: one draw per element, whatever n. */
fb_status fb_select_random(const fb_rng *rng, int64_t n, int64_t count, uint32_t *index)
{
    FB_ASSERT(0 <= count && count <= n && n <= UINT32_MAX);
    uint64_t *taken = NULL; /* (n bits) */
    const int64_t words = (n + 63) / 64;
    FB_TRY(FB_ALLOC(taken, words, "random selection"));
    for (int64_t last = n - count; last < n; last++) {
        const uint32_t candidate = fb_rng_below(rng, (uint32_t)last, (uint32_t)last + 1u);
        const int64_t repeated = (int64_t)(taken[candidate / 64] >> candidate % 64 & 1u);
        const int64_t i = candidate + repeated * (last - candidate); /* last, when the candidate is taken */
        taken[i / 64] |= UINT64_C(1) << i % 64;
    }
    int64_t filled = 0;
    for (int64_t word = 0; word < words; word++) {
        for (uint64_t rest = taken[word]; rest != 0; rest &= rest - 1u)
            index[filled++] = (uint32_t)(64 * word + __builtin_ctzll(rest));
    }
    FB_ASSERT(filled == count);
    FB_FREE(taken);
    return FB_OK;
}
