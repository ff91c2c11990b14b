/* SPDX-License-Identifier: Apache-2.0
 *
 * The selection of a release on a GPU (kernels_privacy.h).
 *
 * The largest: radix select as in select.c, 8 bits at a time from the highest. What is kept of an array is written in
 * order: counted in tiles, the counts added up, then every tile knows where its own begin.
 *
 * The SVT's order: Fisher-Yates swaps place k with a later one, target[k], for k in order. Swaps that have no place in
 * common may be made in any order. So in every round each waiting swap claims both of its places, the earliest one gets
 * a place, and who got both is made (Shun, Gu, Blelloch, Fineman & Gibbons 2015: O(log n) rounds with high
 * probability).
 */
#include "privacy/kernels_privacy.cuh"

#include "core/rng_draw.h"

enum { DIGIT_BITS = 8, SCAN_THREADS = 1024, EACH = FB_TILE / FB_THREADS, FLOAT_BITS = 31, KEY_BITS = 64 };
enum { WAITING = 0, JUST_MADE = 1, MADE = 2 }; /* a swap */

static const uint32_t NO_CLAIM = UINT32_MAX;

/* --- the largest ------------------------------------------------------------------------------------------------ */

/* Elements as bits that are in the same order. */
struct float_bits {
    const uint32_t *x;
    __device__ __forceinline__ uint64_t operator()(int64_t i) const
    {
        const uint32_t bits = x[i] & 0x7fffffffu;
        return bits < 0x7f800000u ? bits : 0;
    }
};

struct raw_bits {
    const uint32_t *x;
    __device__ __forceinline__ uint64_t operator()(int64_t i) const
    {
        return x[i] & 0x7fffffffu;
    }
};

struct grid_bits {
    const int32_t *x;
    __device__ __forceinline__ uint64_t operator()(int64_t i) const
    {
        return (uint64_t)(x[i] < 0 ? -x[i] : x[i]);
    }
};

struct key_bits {
    const int64_t *x;
    __device__ __forceinline__ uint64_t operator()(int64_t i) const
    {
        return (uint64_t)x[i] ^ UINT64_C(1) << 63;
    }
};

static __global__ void begin_select(unsigned long long count, fb_privacy_state *state)
{
    state->histogram[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
        state->cut = 0;
        state->wanted = count;
    }
}

/* state->histogram += that of the digit above `shift`, of the elements that agree with the cut above it. Runs of a
 * digit, long where magnitudes are alike, are counted before they are added. */
template <typename Bits>
static __global__ void count_digits(Bits bits_of, int64_t n, int shift, uint64_t above, fb_privacy_state *state)
{
    FB_SHARED(unsigned, mine, [FB_PRIVACY_HISTOGRAM]);
    const uint64_t cut = state->cut;
    unsigned run = 0, last = 0;
    mine[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = fb_first(); i < n; i += fb_stride()) {
        const uint64_t bits = bits_of(i);
        const unsigned digit = (unsigned)(bits >> shift) & (FB_PRIVACY_HISTOGRAM - 1);
        if ((bits & above) != cut)
            continue;
        if (digit != last) {
            if (run > 0)
                atomicAdd(&mine[last], run);
            run = 0;
            last = digit;
        }
        run++;
    }
    if (run > 0)
        atomicAdd(&mine[last], run);
    __syncthreads();
    if (mine[threadIdx.x] > 0)
        atomicAdd(&state->histogram[threadIdx.x], mine[threadIdx.x]);
}

/* The next digit of the cut: that of the element of rank `wanted` from above. Thread t has digit 255 - t. */
static __global__ void choose_digit(int shift, fb_privacy_state *state)
{
    const unsigned digit = FB_PRIVACY_HISTOGRAM - 1 - threadIdx.x;
    const unsigned long long wanted = state->wanted, here = state->histogram[digit];
    unsigned long long total;
    const unsigned long long before = fb_scan_block(here, &total);
    state->histogram[digit] = 0;
    if (before < wanted && wanted <= before + here) {
        state->cut |= (unsigned long long)digit << shift;
        state->wanted = wanted - before;
    }
}

/* --- what is kept ------------------------------------------------------------------------------------------------ */

/* In one number, how many elements are above (lower half) and how many at the cut (upper half); both below 2^32. */
static __device__ __forceinline__ unsigned long long both(bool above, bool tied)
{
    return (unsigned long long)above | (unsigned long long)tied << 32;
}

/* Elements above the cut, and the first `wanted` at it, write their indices. */
template <typename Bits> struct largest {
    Bits bits_of;
    fb_privacy_state *state;
    uint32_t *index;
    __device__ __forceinline__ unsigned long long weigh(int64_t i) const
    {
        const uint64_t bits = bits_of(i);
        return both(bits > state->cut, bits == state->cut);
    }
    __device__ __forceinline__ void place(int64_t i, unsigned long long weight, unsigned long long before) const
    {
        const uint32_t above = (uint32_t)before, tied = (uint32_t)(before >> 32), wanted = (uint32_t)state->wanted;
        if ((uint32_t)weight != 0 || (weight != 0 && tied < wanted))
            index[above + (tied < wanted ? tied : wanted)] = (uint32_t)i;
    }
};

/* Flags that are 1 write their indices. */
struct listed {
    const uint8_t *flag;
    uint32_t *index;
    __device__ __forceinline__ unsigned long long weigh(int64_t i) const
    {
        return flag[i] == 1;
    }
    __device__ __forceinline__ void place(int64_t i, unsigned long long weight, unsigned long long before) const
    {
        if (weight != 0)
            index[before] = (uint32_t)i;
    }
};

/* The places of a stretch, by their tests. */
struct tested {
    const fb_svt_place *rest; /* of the stretch */
    fb_svt_place *failed;     /* where those go */
    const uint8_t *flag;
    uint8_t *chosen;
    unsigned long long wanted;
    fb_privacy_state *state;
    __device__ __forceinline__ unsigned long long weigh(int64_t i) const
    {
        return flag[i] == 1;
    }
    __device__ __forceinline__ void place(int64_t i, unsigned long long weight, unsigned long long before) const
    {
        if (weight == 0) {
            failed[i - (int64_t)before] = rest[i];
        } else if (before < wanted) {
            chosen[rest[i].index] = 1;
            if (before == wanted - 1)
                state->stop = (unsigned long long)i + 1;
        }
    }
};

template <typename Keep> static __global__ void count_tiles(Keep keep, int64_t n, unsigned long long *tiles)
{
    unsigned long long sum = 0, total;
    const int64_t begin = (int64_t)blockIdx.x * FB_TILE;
    for (int64_t i = begin + threadIdx.x; i < n && i < begin + FB_TILE; i += FB_THREADS)
        sum += keep.weigh(i);
    fb_scan_block(sum, &total);
    if (threadIdx.x == 0)
        tiles[blockIdx.x] = total;
}

/* Every tile's number becomes the sum of those before it; by one block. */
static __global__ void add_up_tiles(int64_t count, unsigned long long *tiles, fb_privacy_state *state)
{
    unsigned long long before = 0, total;
    for (int64_t first = 0; first < count; first += SCAN_THREADS) {
        const int64_t i = first + threadIdx.x;
        const unsigned long long sum = fb_scan_block(i < count ? tiles[i] : 0, &total);
        if (i < count)
            tiles[i] = before + sum;
        before += total;
    }
    if (threadIdx.x == 0)
        state->kept = before;
}

template <typename Keep> static __global__ void write_tiles(Keep keep, int64_t n, const unsigned long long *tiles)
{
    const int64_t begin = (int64_t)blockIdx.x * FB_TILE + (int64_t)threadIdx.x * EACH;
    unsigned long long weight[EACH], sum = 0, total;
    for (int e = 0; e < EACH; e++) {
        weight[e] = begin + e < n ? keep.weigh(begin + e) : 0;
        sum += weight[e];
    }
    unsigned long long before = tiles[blockIdx.x] + fb_scan_block(sum, &total);
    for (int e = 0; e < EACH; e++) {
        if (begin + e < n)
            keep.place(begin + e, weight[e], before);
        before += weight[e];
    }
}

template <typename Keep>
static void launch_keep(fb_cuda_queue *queue, const char *name, Keep keep, int64_t n, unsigned long long *tiles,
                        fb_privacy_state *state)
{
    const int64_t count = (n + FB_TILE - 1) / FB_TILE;
    fb_launch_threads(queue, name, count, FB_THREADS, count_tiles<Keep>, keep, n, tiles);
    fb_launch_threads(queue, name, 1, SCAN_THREADS, add_up_tiles, count, tiles, state);
    fb_launch_threads(queue, name, count, FB_THREADS, write_tiles<Keep>, keep, n, tiles);
}

template <typename Bits>
static void select_by(fb_cuda_queue *queue, Bits bits_of, int known, int64_t n, int64_t count,
                      unsigned long long *tiles, uint32_t *index, fb_privacy_state *state)
{
    const uint64_t all = ~UINT64_C(0) >> (64 - known);
    fb_launch_threads(queue, "selection", 1, FB_PRIVACY_HISTOGRAM, begin_select, (unsigned long long)count, state);
    while (known > 0) {
        const uint64_t above = all & ~(~UINT64_C(0) >> (64 - known));
        const int shift = known > DIGIT_BITS ? known - DIGIT_BITS : 0;
        fb_launch_threads(queue, "selection", fb_grid_for(n), FB_THREADS, count_digits<Bits>, bits_of, n, shift, above,
                          state);
        fb_launch_threads(queue, "selection", 1, FB_PRIVACY_HISTOGRAM, choose_digit, shift, state);
        known = shift;
    }
    launch_keep(queue, "selection", largest<Bits>{bits_of, state, index}, n, tiles, state);
}

extern "C" void fb_privacy_select(fb_cuda_queue *queue, fb_rank_kind kind, const void *x, int64_t n, int64_t count,
                                  unsigned long long *tiles, uint32_t *index, fb_privacy_state *state)
{
    if (kind == FB_RANK_FLOAT)
        select_by(queue, float_bits{(const uint32_t *)x}, FLOAT_BITS, n, count, tiles, index, state);
    else if (kind == FB_RANK_BITS)
        select_by(queue, raw_bits{(const uint32_t *)x}, FLOAT_BITS, n, count, tiles, index, state);
    else if (kind == FB_RANK_GRID)
        select_by(queue, grid_bits{(const int32_t *)x}, FLOAT_BITS, n, count, tiles, index, state);
    else
        select_by(queue, key_bits{(const int64_t *)x}, KEY_BITS, n, count, tiles, index, state);
}

extern "C" void fb_privacy_list_flags(fb_cuda_queue *queue, int64_t n, const uint8_t *flag, unsigned long long *tiles,
                                      uint32_t *index, fb_privacy_state *state)
{
    launch_keep(queue, "selection", listed{flag, index}, n, tiles, state);
}

static __global__ void clear_marks(int64_t n, uint8_t *mark, fb_privacy_state *state)
{
    if (fb_first() == 0)
        state->kept = 0;
    for (int64_t i = fb_first(); i < n; i += fb_stride())
        mark[i] = 0;
}

static __global__ void set_marks(int64_t count, const uint32_t *index, uint8_t *mark)
{
    for (int64_t k = fb_first(); k < count; k += fb_stride())
        mark[index[k]] = 1;
}

static __global__ void count_marks(int64_t count, const uint32_t *index, const uint8_t *mark, fb_privacy_state *state)
{
    unsigned long long common = 0;
    for (int64_t k = fb_first(); k < count; k += fb_stride())
        common += mark[index[k]];
    fb_add_up(&state->kept, common);
}

extern "C" void fb_privacy_count_common(fb_cuda_queue *queue, int64_t n, int64_t count, const uint32_t *one,
                                        const uint32_t *other, uint8_t *mark, fb_privacy_state *state)
{
    fb_launch_threads(queue, "overlap", fb_grid_for(n), FB_THREADS, clear_marks, n, mark, state);
    fb_launch_threads(queue, "overlap", fb_grid_for(count), FB_THREADS, set_marks, count, one, mark);
    fb_launch_threads(queue, "overlap", fb_grid_for(count), FB_THREADS, count_marks, count, other, mark, state);
}

/* --- the SVT's order and results -----------------------------------------------------------------------------------
 */

static __global__ void svt_begin(int64_t n, const int32_t *grid, fb_svt_arrays arrays)
{
    for (int64_t i = fb_first(); i < n; i += fb_stride()) {
        arrays.rest[i] = {(uint32_t)i, grid[i] < 0 ? -grid[i] : grid[i]};
        arrays.claim[i] = NO_CLAIM;
        arrays.chosen[i] = 0;
    }
}

static __global__ void svt_draw_swaps(fb_rng order, int64_t left, int64_t from, int64_t to, fb_svt_arrays arrays)
{
    for (int64_t k = from + fb_first(); k < to; k += fb_stride()) {
        arrays.target[k - from] = (uint32_t)k + fb_rng_draw_below(&order, (uint32_t)k, (uint32_t)(left - k));
        arrays.flag[k - from] = WAITING;
    }
}

static __global__ void svt_claim(int64_t from, int64_t to, fb_svt_arrays arrays, fb_privacy_state *state)
{
    if (fb_first() == 0)
        state->remaining = 0;
    for (int64_t k = from + fb_first(); k < to; k += fb_stride())
        if (arrays.flag[k - from] == WAITING) {
            atomicMin(&arrays.claim[k], (uint32_t)k);
            atomicMin(&arrays.claim[arrays.target[k - from]], (uint32_t)k);
        }
}

static __global__ void svt_make_swaps(int64_t from, int64_t to, fb_svt_arrays arrays)
{
    for (int64_t k = from + fb_first(); k < to; k += fb_stride()) {
        if (arrays.flag[k - from] != WAITING)
            continue;
        const uint32_t other = arrays.target[k - from];
        if (arrays.claim[k] != (uint32_t)k || arrays.claim[other] != (uint32_t)k)
            continue;
        const fb_svt_place moved = arrays.rest[k];
        arrays.rest[k] = arrays.rest[other];
        arrays.rest[other] = moved;
        arrays.flag[k - from] = JUST_MADE;
    }
}

static __global__ void svt_release_claims(int64_t from, int64_t to, fb_svt_arrays arrays, fb_privacy_state *state)
{
    unsigned long long waiting = 0;
    for (int64_t k = from + fb_first(); k < to; k += fb_stride()) {
        if (arrays.flag[k - from] == MADE)
            continue;
        arrays.claim[k] = NO_CLAIM;
        arrays.claim[arrays.target[k - from]] = NO_CLAIM;
        if (arrays.flag[k - from] == JUST_MADE)
            arrays.flag[k - from] = MADE;
        else
            waiting++;
    }
    fb_add_up(&state->remaining, waiting);
}

extern "C" void fb_privacy_svt_begin(fb_cuda_queue *queue, int64_t n, const int32_t *grid, const fb_svt_arrays *arrays)
{
    fb_launch_threads(queue, "SVT", fb_grid_for(n), FB_THREADS, svt_begin, n, grid, *arrays);
}

extern "C" void fb_privacy_svt_draw_swaps(fb_cuda_queue *queue, const fb_rng *order, int64_t left, int64_t from,
                                          int64_t to, const fb_svt_arrays *arrays)
{
    fb_launch_threads(queue, "SVT order", fb_grid_for(to - from), FB_THREADS, svt_draw_swaps, *order, left, from, to,
                      *arrays);
}

extern "C" void fb_privacy_svt_swap(fb_cuda_queue *queue, int rounds, int64_t from, int64_t to,
                                    const fb_svt_arrays *arrays, fb_privacy_state *state)
{
    const int64_t blocks = fb_grid_for(to - from);
    for (int round = 0; round < rounds; round++) {
        fb_launch_threads(queue, "SVT order", blocks, FB_THREADS, svt_claim, from, to, *arrays, state);
        fb_launch_threads(queue, "SVT order", blocks, FB_THREADS, svt_make_swaps, from, to, *arrays);
        fb_launch_threads(queue, "SVT order", blocks, FB_THREADS, svt_release_claims, from, to, *arrays, state);
    }
}

extern "C" void fb_privacy_svt_take(fb_cuda_queue *queue, int64_t from, int64_t to, int64_t wanted, int64_t kept,
                                    unsigned long long *tiles, const fb_svt_arrays *arrays, fb_privacy_state *state)
{
    const tested keep = {arrays->rest + from, arrays->other + kept,       arrays->flag,
                         arrays->chosen,      (unsigned long long)wanted, state};
    launch_keep(queue, "SVT results", keep, to - from, tiles, state);
}
