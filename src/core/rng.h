/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers that no privacy guarantee rests on: initialisation, shuffling, augmentation, dropout, phantoms.
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11) through Random123. There is no
 * state: a number is a pure function of (seed, purpose, hospital, round, epoch, index), so results depend neither on
 * ranks nor on call order, and CPU and GPU draw the same bits. Noise for privacy comes from privacy/noise.h instead.
 */
#pragma once

#include <stdint.h>

/* What a number is for. Append only: the values are part of a run's identity. */
typedef enum fb_rng_purpose {
    FB_RNG_INIT = 1,          /* initial weights */
    FB_RNG_SHUFFLE = 2,       /* order of the cases in an epoch */
    FB_RNG_AUGMENT = 3,       /* crop, flips, intensity */
    FB_RNG_DROPOUT = 4,       /* dropped channels */
    FB_RNG_PARTICIPATION = 5, /* hospitals of a round */
    FB_RNG_SELECT = 6,        /* public random subsets and the public order of SVT tests */
    FB_RNG_SPLIT = 7,         /* train / validation / test */
    FB_RNG_PHANTOM = 8,       /* brats-phantom; `hospital` is the subject number */
    FB_RNG_TEST = 9           /* test data */
} fb_rng_purpose;

typedef struct fb_rng {
    uint64_t seed;
    uint32_t purpose;  /* fb_rng_purpose, < 2^8 */
    uint32_t hospital; /* < 2^24 */
    uint32_t round;
    uint32_t epoch;
} fb_rng;

/* Four independent words, uniform on [0, 2^32), for `index`. */
void fb_rng_words(const fb_rng *rng, uint32_t index, uint32_t words[4]);

double fb_rng_uniform(const fb_rng *rng, uint32_t index);                     /* [0, 1), 53 bits */
double fb_rng_range(const fb_rng *rng, uint32_t index, double lo, double hi); /* [lo, hi) */
double fb_rng_normal(const fb_rng *rng, uint32_t index);                      /* mean 0, variance 1 (Box-Muller) */

/* Uniform on {0, ..., count - 1}, count in [1, 2^32); the bias is below count * 2^-64. */
uint32_t fb_rng_below(const fb_rng *rng, uint32_t index, uint32_t count);

/* A uniformly random permutation of 0..count-1 into order[] (Fisher-Yates, indices 0..count-1). */
void fb_rng_permutation(const fb_rng *rng, uint32_t count, uint32_t *order);
