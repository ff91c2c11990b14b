/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/select.h"

#include "core/mem.h"
#include "privacy/mechanism.h"

#include <omp.h>
#include <string.h>

enum { DIGIT_BITS = 11, BUCKETS = 1 << DIGIT_BITS, CHUNKS_MAX = 64 };
enum { FEW = 1 << 14, DIGIT_BITS_OF_FEW = 6 }; /* elements: one thread, and histograms that are soon cleared */

/* What is ranked: (n) magnitudes of floats, or 64-bit keys. Either as bits that are in the same order. */
typedef struct ranked {
    const float *x; /* NULL: keys */
    const int64_t *key;
    int64_t n;
    int bits; /* 31 or 64 */
} ranked;

static inline __attribute__((always_inline)) uint64_t bits_at(const ranked *r, int keys, int64_t i)
{
    uint32_t bits;
    if (keys)
        return (uint64_t)r->key[i] ^ UINT64_C(1) << 63;
    memcpy(&bits, &r->x[i], sizeof bits);
    return bits & 0x7fffffffu;
}

/* The digit of `width` bits above `shift`, and which bits are above it. */
typedef struct digit {
    int shift, width;
    uint64_t above;
} digit;

static inline __attribute__((always_inline)) void count_digits_of(const ranked *r, int keys, int64_t from, int64_t to,
                                                                  uint64_t prefix, const digit *d, int64_t *histogram)
{
    const uint64_t low = (UINT64_C(1) << d->width) - 1, above = d->above;
    const int shift = d->shift;
    for (int64_t i = from; i < to; i++) {
        const uint64_t bits = bits_at(r, keys, i);
        if ((bits & above) == prefix) /* always for the first digit, seldom for the others: foreseen */
            histogram[bits >> shift & low]++;
    }
}

static void count_digits(const ranked *r, int64_t from, int64_t to, uint64_t prefix, const digit *d, int64_t *histogram)
{
    if (r->x)
        count_digits_of(r, 0, from, to, prefix, d, histogram);
    else
        count_digits_of(r, 1, from, to, prefix, d, histogram);
}

/* As many parts as make several for a thread; the result does not depend on them. */
static int count_chunks(int64_t n)
{
    return n > FEW && omp_get_max_threads() > 1 ? CHUNKS_MAX : 1;
}

static int64_t chunk_begin(int64_t n, int chunks, int chunk)
{
    return n / chunks * chunk + n % chunks * chunk / chunks;
}

/* sum (BUCKETS) of the digits of the elements that agree with `prefix` above them. */
static void add_histograms(const ranked *r, uint64_t prefix, const digit *d, int64_t *sum)
{
    const int chunks = count_chunks(r->n), buckets = 1 << d->width;
    memset(sum, 0, (size_t)buckets * sizeof *sum);
    if (chunks == 1) { /* without OpenMP, whose regions cost system calls even with a single thread */
        count_digits(r, 0, r->n, prefix, d, sum);
        return;
    }
#pragma omp parallel
    {
        int64_t mine[BUCKETS];
        memset(mine, 0, (size_t)buckets * sizeof *mine);
#pragma omp for nowait
        for (int chunk = 0; chunk < chunks; chunk++)
            count_digits(r, chunk_begin(r->n, chunks, chunk), chunk_begin(r->n, chunks, chunk + 1), prefix, d, mine);
#pragma omp critical(fb_select_histogram)
        for (int bucket = 0; bucket < buckets; bucket++)
            sum[bucket] += mine[bucket]; /* of integers: in any order */
    }
}

/* The bits of rank `count`, digit by digit from the highest, and how many elements of exactly these bits belong to the
 * largest `count`. */
static uint64_t find_cut(const ranked *r, int64_t count, int64_t *at_cut)
{
    uint64_t prefix = 0;
    int64_t wanted = count;
    const int widest = r->n > FEW ? DIGIT_BITS : DIGIT_BITS_OF_FEW;
    for (int known = r->bits; known > 0;) {
        int64_t sum[BUCKETS];
        const int width = known < widest ? known : widest;
        const uint64_t all = ~UINT64_C(0) >> (64 - r->bits), below = ~UINT64_C(0) >> (64 - known);
        known -= width;
        add_histograms(r, prefix, &(digit){known, width, all & ~below}, sum);
        uint64_t bucket = (UINT64_C(1) << width) - 1;
        for (; sum[bucket] < wanted; bucket--)
            wanted -= sum[bucket];
        prefix |= bucket << known;
    }
    *at_cut = wanted;
    return prefix;
}

/* Where the largest of a chunk go: `above` of those above the cut and `tied` at it are in the chunks before. */
typedef struct place {
    int64_t above, tied;
} place;

static inline __attribute__((always_inline)) place count_largest_of(const ranked *r, int keys, int64_t from, int64_t to,
                                                                    uint64_t cut)
{
    place count = {0, 0};
    for (int64_t i = from; i < to; i++) {
        const uint64_t bits = bits_at(r, keys, i);
        count.above += bits > cut;
        count.tied += bits == cut;
    }
    return count;
}

/* Writes the indices from..to-1 that are among the largest to index (filled..end-1), of which the last may be written
 * to although nothing belongs there yet. */
static inline __attribute__((always_inline)) void list_largest_of(const ranked *r, int keys, int64_t from, int64_t to,
                                                                  uint64_t cut, int64_t at_cut, int64_t filled,
                                                                  int64_t end, uint32_t *index)
{
    for (int64_t i = from; i < to && filled < end; i++) {
        const uint64_t bits = bits_at(r, keys, i);
        index[filled] = (uint32_t)i;
        if (__builtin_expect(bits == cut, 0))
            filled += at_cut-- > 0;
        else
            filled += bits > cut; /* without a branch, and without waiting for the ties */
    }
}

static void list_largest(const ranked *r, int64_t from, int64_t to, uint64_t cut, int64_t at_cut, int64_t filled,
                         int64_t end, uint32_t *index)
{
    if (r->x)
        list_largest_of(r, 0, from, to, cut, at_cut, filled, end, index);
    else
        list_largest_of(r, 1, from, to, cut, at_cut, filled, end, index);
}

static int64_t begin_of(place before, int64_t at_cut)
{
    return before.above + (before.tied < at_cut ? before.tied : at_cut);
}

/* before (chunks) */
static void find_places(const ranked *r, int chunks, uint64_t cut, place *before)
{
#pragma omp parallel for
    for (int chunk = 0; chunk < chunks - 1; chunk++) { /* what is in the last is left over */
        const int64_t from = chunk_begin(r->n, chunks, chunk), to = chunk_begin(r->n, chunks, chunk + 1);
        before[chunk + 1] = r->x ? count_largest_of(r, 0, from, to, cut) : count_largest_of(r, 1, from, to, cut);
    }
    before[0] = (place){0, 0};
    for (int chunk = 1; chunk < chunks; chunk++) {
        before[chunk].above += before[chunk - 1].above;
        before[chunk].tied += before[chunk - 1].tied;
    }
}

/* The largest `count` in ascending order of their indices: every chunk knows where its own begin. */
static void select_largest(const ranked *r, int64_t count, uint32_t *index)
{
    int64_t at_cut = 0;
    place before[CHUNKS_MAX];
    const int chunks = count_chunks(r->n);
    const uint64_t cut = find_cut(r, count, &at_cut);
    if (chunks == 1) {
        list_largest(r, 0, r->n, cut, at_cut, 0, count, index);
        return;
    }
    find_places(r, chunks, cut, before);
#pragma omp parallel for
    for (int chunk = 0; chunk < chunks; chunk++) {
        const int64_t filled = begin_of(before[chunk], at_cut);
        const int64_t end = chunk + 1 < chunks ? begin_of(before[chunk + 1], at_cut) : count;
        list_largest(r, chunk_begin(r->n, chunks, chunk), chunk_begin(r->n, chunks, chunk + 1), cut,
                     at_cut - (filled - before[chunk].above), filled, end, index);
    }
}

fb_status fb_select_topk(int64_t n, const float *x, int64_t count, uint32_t *index)
{
    const ranked r = {.x = x, .n = n, .bits = 31};
    FB_ASSERT(0 <= count && count <= n && n <= UINT32_MAX);
    if (count > 0)
        select_largest(&r, count, index);
    return FB_OK;
}

fb_status fb_select_largest(int64_t n, const int64_t *key, int64_t count, uint32_t *index)
{
    const ranked r = {.key = key, .n = n, .bits = 64};
    FB_ASSERT(0 < count && count <= n && n <= UINT32_MAX);
    select_largest(&r, count, index);
    return FB_OK;
}

/* candidate[k], uniform on 0..first + k. */
static void draw_candidates(const fb_rng *rng, int64_t first, int64_t count, uint32_t *candidate)
{
#pragma omp parallel for if (count > FEW)
    for (int64_t k = 0; k < count; k++)
        candidate[k] = fb_rng_below(rng, (uint32_t)(first + k), (uint32_t)(first + k) + 1u);
}

/* Floyd's subset: one draw per element, whatever n. */
fb_status fb_select_random(const fb_rng *rng, int64_t n, int64_t count, uint32_t *index)
{
    FB_ASSERT(0 <= count && count <= n && n <= UINT32_MAX);
    uint64_t *taken = NULL; /* (n bits) */
    const int64_t words = (n + 63) / 64;
    FB_TRY(FB_ALLOC(taken, words, "random selection"));
    draw_candidates(rng, n - count, count, index);
    for (int64_t last = n - count; last < n; last++) {
        const uint32_t candidate = index[last - (n - count)];
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
