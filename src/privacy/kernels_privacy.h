/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of a release on a GPU: each call queues one or a few kernels. All arrays are the device's. Nothing in the
 * results depends on the order in which threads run: what is added up by atomic operations is integers.
 *
 * Keys: a kernel that draws gets the key of its address as an argument. It is never in an array; what holds it is the
 * launch's parameters and, while the kernel runs, registers and the threads' local memory, which no one clears.
 */
#pragma once

#include "core/rng.h"
#include "nn/kernels_cuda.h"
#include "privacy/fixed.h"
#include "privacy/quantise.h"

enum {
    FB_TILE = 2048, /* elements of which one block keeps some */
    FB_LIMBS = 4,   /* of 32 bits each, of a sum of 128 */
    FB_PRIVACY_HISTOGRAM = 256
};

typedef struct fb_address_key {
    uint32_t word[8]; /* fb_noise_address_key, little-endian */
} fb_address_key;

/* What kernels leave for one another and for the host. */
typedef struct fb_privacy_state {
    unsigned long long clipped, non_finite;
    unsigned long long limb[FB_LIMBS]; /* the sum is that of limb[i] * 2^(32 i) */
    unsigned long long cut;            /* radix select: the bits of the last that is kept */
    unsigned long long wanted;         /* how many with just these bits are kept */
    unsigned long long kept;           /* compaction: elements kept */
    unsigned long long stop;           /* SVT: places of the stretch up to the one that selects the last */
    unsigned long long remaining;      /* SVT: swaps that are still to be made */
    unsigned histogram[FB_PRIVACY_HISTOGRAM];
} fb_privacy_state;

/* By what elements are ranked. */
typedef enum fb_rank_kind {
    FB_RANK_FLOAT, /* |x| of float; what is not finite counts as 0 */
    FB_RANK_BITS,  /* |x| of float, as it is */
    FB_RANK_GRID,  /* |x| of int32_t */
    FB_RANK_KEY    /* int64_t */
} fb_rank_kind;

/* An element of the SVT's order. */
typedef struct fb_svt_place {
    uint32_t index;
    int32_t magnitude;
} fb_svt_place;

/* The SVT's arrays, each (n) but for those that a stretch needs. */
typedef struct fb_svt_arrays {
    fb_svt_place *rest, *other; /* candidates of this pass, and of the next */
    uint32_t *claim;            /* all bits 1 between stretches */
    uint32_t *target;           /* (stretch) place with which a place is swapped */
    uint8_t *flag;              /* (stretch) progress of the swaps, then 1: passed the test */
    uint8_t *chosen;            /* 1: selected */
} fb_svt_arrays;

#ifdef __cplusplus
extern "C" {
#endif

/* --- values --- */

/* grid (n), state->clipped and non_finite, which must be 0 before: grid.h. */
void fb_privacy_quantise(fb_cuda_queue *queue, const fb_quantiser *quantiser, int64_t n, const float *dw, int32_t *grid,
                         fb_privacy_state *state);
void fb_privacy_count_non_finite(fb_cuda_queue *queue, int64_t n, const float *dw, fb_privacy_state *state);

/* value[k] = grid[i], i = index[k], or k where index is NULL. */
void fb_privacy_take_grid(fb_cuda_queue *queue, int64_t count, const uint32_t *index, const int32_t *grid,
                          int64_t *value);
/* The change before the clip: trunc(dw / steps * per_grid_step) within +-2^46. */
void fb_privacy_take_unclipped(fb_cuda_queue *queue, double steps, double per_grid_step, int64_t count,
                               const uint32_t *index, const float *dw, int64_t *value);
/* state->clipped += what the quantiser clips. */
void fb_privacy_take_quantised(fb_cuda_queue *queue, const fb_quantiser *quantiser, int64_t count,
                               const uint32_t *index, const float *dw, int64_t *value, fb_privacy_state *state);
/* Floats beyond +-limit become it; state->clipped += how many. */
void fb_privacy_take_floats(fb_cuda_queue *queue, float limit, int64_t count, const uint32_t *index, const float *dw,
                            float *value, fb_privacy_state *state);
/* state->limb += the limbs of all squares; |value| <= 2^46, count < 2^32. */
void fb_privacy_add_squares(fb_cuda_queue *queue, int64_t count, const int64_t *value, fb_privacy_state *state);
/* By factor / 2^62, toward zero. */
void fb_privacy_scale(fb_cuda_queue *queue, uint64_t factor, int64_t count, int64_t *value);

/* --- draws: the same as the processor's, block by block --- */

/* value (count) += noise, then clipped to +-limit. tables: fb_laplace or fb_gauss. */
void fb_privacy_add_laplace(fb_cuda_queue *queue, const fb_address_key *key, const void *tables, int64_t limit,
                            int64_t count, int64_t *value);
void fb_privacy_add_gauss(fb_cuda_queue *queue, const fb_address_key *key, const void *tables, int64_t limit,
                          int64_t count, int64_t *value);
/* key_of[i] = Gumbel noise + |grid[i]| * factor / 2^32. tables: fb_gumbel. */
void fb_privacy_gumbel_keys(fb_cuda_queue *queue, const fb_address_key *key, const void *tables, fb_wide factor,
                            int64_t n, const int32_t *grid, int64_t *key_of);
/* flag[k - from] = whether place k passes its test, for the places from..to-1 of a pass; from is that of a block of
 * draws, and so is `to`, or the end of the pass. tables: fb_tail. */
void fb_privacy_svt_test(fb_cuda_queue *queue, const fb_address_key *key, const void *tables, int64_t threshold,
                         int64_t from, int64_t to, const fb_svt_arrays *arrays);

/* --- selection --- */

/* select.h: the `count` largest of x (n), ties by lowest index, ascending into index (count). tiles (n / FB_TILE + 1).
 * 0 < count <= n. */
void fb_privacy_select(fb_cuda_queue *queue, fb_rank_kind kind, const void *x, int64_t n, int64_t count,
                       unsigned long long *tiles, uint32_t *index, fb_privacy_state *state);

/* The indices of all flags (n) that are 1, ascending. */
void fb_privacy_list_flags(fb_cuda_queue *queue, int64_t n, const uint8_t *flag, unsigned long long *tiles,
                           uint32_t *index, fb_privacy_state *state);

/* state->kept = how many elements two lists (count) of different indices have in common. mark (n) is overwritten. */
void fb_privacy_count_common(fb_cuda_queue *queue, int64_t n, int64_t count, const uint32_t *one, const uint32_t *other,
                             uint8_t *mark, fb_privacy_state *state);

/* rest = all coordinates of grid (n), none chosen, nothing claimed. */
void fb_privacy_svt_begin(fb_cuda_queue *queue, int64_t n, const int32_t *grid, const fb_svt_arrays *arrays);
/* Draws the swaps of the places from..to-1 of a pass over `left` candidates (svt.c). */
void fb_privacy_svt_draw_swaps(fb_cuda_queue *queue, const fb_rng *order, int64_t left, int64_t from, int64_t to,
                               const fb_svt_arrays *arrays);
/* Makes all swaps that wait for no earlier one, `rounds` times; state->remaining are left. */
void fb_privacy_svt_swap(fb_cuda_queue *queue, int rounds, int64_t from, int64_t to, const fb_svt_arrays *arrays,
                         fb_privacy_state *state);
/* Takes the results of places from..to-1: state->kept is how many have passed, of which the first `wanted` are chosen,
 * and state->stop counts the tests up to the last of these, if there are so many. What failed goes to `other` from
 * place `kept` on. */
void fb_privacy_svt_take(fb_cuda_queue *queue, int64_t from, int64_t to, int64_t wanted, int64_t kept,
                         unsigned long long *tiles, const fb_svt_arrays *arrays, fb_privacy_state *state);

#ifdef __cplusplus
}
#endif
