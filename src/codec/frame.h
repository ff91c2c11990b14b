/* SPDX-License-Identifier: Apache-2.0
 *
 * The message of a hospital to the server: little-endian, length-checked before anything is allocated.
 *
 *   header   magic "FBU1", version, round, hospital, steps, n, count, index coding, value coding and bits, grid,
 *            128 bits of BLAKE2b of the model it answers, payload size, CRC-32C of all of it
 *   indices  all (count == n) | implied (select = random: the server derives them) | Rice-coded gaps between the
 *            shared or the absent ones | bitmap
 *   values   f32 | grid integers of `bits` bits each, two's complement, packed: as many as the largest needs, but at
 *            least the update's least_bits
 * Rice or bitmap is chosen by size, exactly, per message (codec/index.h). The layout of the header is in frame.c.
 */
#pragma once

#include "privacy/update.h"

typedef struct fb_frame_info {
    uint32_t round, hospital;
    int64_t steps;          /* N_k, public */
    uint8_t model_hash[16]; /* of the model that the update is relative to */
} fb_frame_info;

/* implied: 1 when the receiver derives the indices itself. *bytes is owned by the caller. */
fb_status fb_frame_encode(const fb_frame_info *info, const fb_update *update, int implied, uint8_t **bytes,
                          int64_t *size_bytes) FB_MUST_USE;

/* Reads only the header's info: who sent it. Errors: too short, bad magic, version or checksum. */
fb_status fb_frame_peek(const uint8_t *bytes, int64_t size_bytes, fb_frame_info *info) FB_MUST_USE;

/* The same for the number of coordinates that it shares. */
fb_status fb_frame_peek_count(const uint8_t *bytes, int64_t size_bytes, int64_t *count) FB_MUST_USE;

/* Decodes and checks everything: sizes, checksum, round, model hash and steps against `expected`, n, count <=
 * max_count, strictly ascending indices below n, finite values, |grid| <= 2^62. implied (implied_count): the derived
 * indices, or NULL. out: start from a zeroed struct; owned by the caller. Errors name hospital, round, field, value and
 * limit. */
fb_status fb_frame_decode(const uint8_t *bytes, int64_t size_bytes, const fb_frame_info *expected, int64_t n,
                          int64_t max_count, const uint32_t *implied, int64_t implied_count,
                          fb_update *out) FB_MUST_USE;

/* The information bound of such a message in bytes: (log2 C(n, count) + count * value_bits) / 8. */
double fb_frame_bound_bytes(int64_t n, int64_t count, int value_bits);
