/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/select.h"

#include "core/mem.h"
#include "privacy/mechanism.h"

#include <string.h>

enum { BUCKETS = 1 << 11, LEVELS = 3, KEY_BITS = 64, KEY_DIGIT_BITS = 8 };

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

/* The order of the integers as an order of bit patterns. */
static uint64_t key_bits(int64_t key)
{
    return (uint64_t)key ^ UINT64_C(1) << (KEY_BITS - 1);
}

/* find_cut for keys, digit by digit. */
static uint64_t find_key_cut(int64_t n, const int64_t *key, int64_t count, int64_t *at_cut)
{
    uint64_t prefix = 0, known = 0;
    int64_t wanted = count;
    for (int shift = KEY_BITS - KEY_DIGIT_BITS; shift >= 0; shift -= KEY_DIGIT_BITS) {
        int64_t histogram[1 << KEY_DIGIT_BITS] = {0};
        const uint64_t low = (1u << KEY_DIGIT_BITS) - 1u;
        for (int64_t i = 0; i < n; i++) {
            const uint64_t bits = key_bits(key[i]);
            if ((bits & known) == prefix)
                histogram[bits >> shift & low]++;
        }
        uint64_t bucket = low;
        for (; histogram[bucket] < wanted; bucket--)
            wanted -= histogram[bucket];
        prefix |= bucket << shift;
        known |= low << shift;
    }
    *at_cut = wanted;
    return prefix;
}

fb_status fb_select_largest(int64_t n, const int64_t *key, int64_t count, uint32_t *index)
{
    FB_ASSERT(0 < count && count <= n && n <= UINT32_MAX);
    int64_t at_cut = 0, filled = 0;
    const uint64_t cut = find_key_cut(n, key, count, &at_cut);
    for (int64_t i = 0; i < n && filled < count; i++) {
        const uint64_t bits = key_bits(key[i]);
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

/* Both lists ascend and have no element in common: `some` (some_count) holds indices, `places` (count - some_count)
 * counts places among the indices that `some` leaves out. */
static void merge(const uint32_t *some, int64_t some_count, const uint32_t *places, int64_t count, uint32_t *index)
{
    int64_t s = 0, p = 0;
    while (s + p < count) {
        const int more = p < count - some_count; /* s indices of `some` lie before places[p] or after it */
        if (s < some_count && (!more || some[s] <= places[p] + (uint64_t)s)) {
            index[s + p] = some[s];
            s++;
        } else {
            index[s + p] = places[p] + (uint32_t)s;
            p++;
        }
    }
}

fb_status fb_select_public(const fb_rng *rng, int64_t n, const float *change, int64_t count, uint32_t *index)
{
    const int64_t largest = change ? (count + 1) / 2 : 0;
    uint32_t *some = NULL, *places = NULL;
    fb_status status = FB_OK;
    FB_ASSERT(0 <= count && count <= n);
    FB_TRY_GOTO(status, FB_ALLOC(some, largest, "largest of the last update"), done);
    FB_TRY_GOTO(status, FB_ALLOC(places, count - largest, "random others"), done);
    if (change)
        FB_TRY_GOTO(status, fb_select_topk(n, change, largest, some), done);
    FB_TRY_GOTO(status, fb_select_random(rng, n - largest, count - largest, places), done);
    merge(some, largest, places, count, index);
done:
    FB_FREE(some);
    FB_FREE(places);
    return status;
}
