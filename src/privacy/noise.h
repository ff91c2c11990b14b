/* SPDX-License-Identifier: Apache-2.0
 *
 * The randomness that guarantees rest on: ChaCha20 (RFC 8439, libsodium) under a per-hospital key, addressed by
 * (attempt, round, step, purpose, pass). laplace.h, gauss.h, gumbel.h and tail.h draw from it in integers.
 *
 * Blocks. A draw takes as many bytes as it needs, so that it depends on all before it in its key stream. An address
 * therefore has a key stream of its own for every FB_NOISE_BLOCK draws: draw k of an address is draw k % FB_NOISE_BLOCK
 * of block k / FB_NOISE_BLOCK, and any number of threads, of this processor or another, draws the same. What is drawn
 * one at a time after fb_noise_seek comes from block 0, whose key stream goes on as long as it is asked.
 *
 * Accuracy. A sampler's law is not exactly the ideal one, because tables are finite. What is promised is relative: a
 * value of probability e^-x has it up to a factor within e^+-fb_noise_rounding(x), however improbable it is. So a
 * release of n values is as probable as with ideal noise up to a factor within e^+-(n r), which costs 2 n r of epsilon
 * (accountant.h), whatever the epsilon of the run; an error in total variation would cost e^epsilon times itself of
 * delta. How improbable a value has to be thought of depends on the loss: an input under which it has e^-700 or more
 * (less is an event that no run reaches, far below what the key of 256 bits promises, and is not charged) has a
 * neighbour under which it has e^-(700 + loss).
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

enum {
    FB_KEY_BYTES = 32,
    FB_NOISE_BLOCK = 256 /* draws */
};
#define FB_NOISE_REACHED 700.0 /* -log of the least probability that counts */

typedef enum fb_noise_purpose {
    FB_NOISE_THRESHOLD = 1, /* SVT: the threshold */
    FB_NOISE_QUERY = 2,     /* SVT: a test */
    FB_NOISE_ANSWER = 3,    /* the values that are sent */
    FB_NOISE_GUMBEL = 4,    /* exponential mechanism */
    FB_NOISE_SAMPLE = 5,    /* dpsgd: which patients are in a step */
    FB_NOISE_GRADIENT = 6,  /* dpsgd: the sum of gradients */
    FB_NOISE_SERVER = 7,    /* trust = central: the sum of updates */
    FB_NOISE_AUDIT = 8      /* canaries and guesses of an audit */
} fb_noise_purpose;

/* Where a stream of draws begins; two different addresses under one key never share bits. */
typedef struct fb_noise_address {
    uint32_t attempt; /* of the run: a replay of a lost message is a new attempt, charged again */
    uint32_t round, step;
    uint16_t purpose; /* fb_noise_purpose */
    uint16_t pass;
} fb_noise_address;

typedef struct fb_stream fb_stream; /* the key stream of a block: what draws are taken from (noise_stream.h) */
typedef struct fb_noise fb_noise;   /* a key, and a stream of one of its addresses */

fb_status fb_noise_create(const uint8_t key[FB_KEY_BYTES], fb_noise **out) FB_MUST_USE;
void fb_noise_destroy(fb_noise **noise);                              /* wipes the key */
void fb_noise_seek(fb_noise *noise, const fb_noise_address *address); /* to the first bit of its block 0 */

/* The key of ChaCha20 for an address under a hospital's key. */
void fb_noise_address_key(const uint8_t key[FB_KEY_BYTES], const fb_noise_address *address,
                          uint8_t address_key[FB_KEY_BYTES]);

/* How many blocks `count` draws make, and how many of these are in one. */
static inline int64_t fb_noise_blocks(int64_t count)
{
    return (count + FB_NOISE_BLOCK - 1) / FB_NOISE_BLOCK;
}

static inline int fb_noise_draws_in(int64_t block, int64_t count)
{
    const int64_t left = count - block * FB_NOISE_BLOCK;
    return left < FB_NOISE_BLOCK ? (int)left : FB_NOISE_BLOCK;
}

/* Of a discrete Laplace, Gaussian or geometric value of probability e^-x, x = `exponent` (laplace.c, gauss.c). */
static inline double fb_noise_rounding(double exponent)
{
    return 0x1p-61 * (1024.0 + exponent);
}

uint8_t fb_noise_byte(fb_noise *noise);  /* 8 uniform bits */
uint64_t fb_noise_word(fb_noise *noise); /* 64 uniform bits */

/* Keys. Each hospital has its own: they are in no checkpoint, log or result. */
typedef enum fb_key_source { FB_KEY_SYSTEM = 0, FB_KEY_SEED = 1, FB_KEY_FILE = 2 } fb_key_source;

/* SYSTEM: 32 fresh bytes of the kernel's generator. SEED: derived (BLAKE2b) from (seed, hospital): reproducible, only a
 * simulation. FILE: derived from the 64 hexadecimal digits in `path`, a file that only its owner may read, hospital and
 * `seed`, which must then be a number that no other run with this file has: equal noise on other data would cancel. */
fb_status fb_key_make(fb_key_source source, uint64_t seed, const char *path, uint32_t hospital,
                      uint8_t key[FB_KEY_BYTES]) FB_MUST_USE;
