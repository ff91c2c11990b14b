/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of bits, lowest bit of the lowest byte first. Header only: every function is a few instructions.
 */
#pragma once

#include <stdint.h>
#include <string.h>

/* Writes into bytes[], which must be large enough and zeroed behind the position. */
typedef struct fb_bit_writer {
    uint8_t *bytes;
    int64_t position; /* in bits */
} fb_bit_writer;

/* Reads of the first size_bits bits; `overrun` is set, and zeros are read, beyond the end. */
typedef struct fb_bit_reader {
    const uint8_t *bytes;
    int64_t position, size_bits;
    int overrun;
} fb_bit_reader;

static inline int64_t fb_bits_to_bytes(int64_t bits)
{
    return (bits + 7) / 8;
}

/* The lowest `count` bits of value, count in 0..64, a byte at a time. */
static inline void fb_bits_put(fb_bit_writer *writer, uint64_t value, int count)
{
    while (count > 0) {
        const int used = (int)(writer->position & 7), room = 8 - used, taken = count < room ? count : room;
        const unsigned piece = (unsigned)(value & ((1u << taken) - 1u));
        writer->bytes[writer->position >> 3] = (uint8_t)(writer->bytes[writer->position >> 3] | piece << used);
        writer->position += taken;
        value >>= taken;
        count -= taken;
    }
}

/* The 57 bits or more from the position on; bits beyond the end are zero. */
static inline uint64_t fb_bits_window(const fb_bit_reader *reader)
{
    uint64_t window = 0;
    const int64_t first = reader->position >> 3, left = fb_bits_to_bytes(reader->size_bits) - first;
    if (left >= 8) {
        for (int i = 0; i < 8; i++) /* one load on little-endian machines */
            window |= (uint64_t)reader->bytes[first + i] << (8 * i);
    } else {
        for (int i = 0; i < left; i++)
            window |= (uint64_t)reader->bytes[first + i] << (8 * i);
    }
    return window >> (reader->position & 7);
}

static inline void fb_bits_skip(fb_bit_reader *reader, int64_t count)
{
    reader->position += count;
    if (reader->position > reader->size_bits) {
        reader->position = reader->size_bits;
        reader->overrun = 1;
    }
}

/* count in 0..64 */
static inline uint64_t fb_bits_get(fb_bit_reader *reader, int count)
{
    const int low_count = count < 32 ? count : 32, high_count = count - low_count;
    uint64_t value = fb_bits_window(reader) & ((UINT64_C(1) << low_count) - 1u);
    fb_bits_skip(reader, low_count);
    if (high_count > 0) {
        value |= (fb_bits_window(reader) & ((UINT64_C(1) << high_count) - 1u)) << low_count;
        fb_bits_skip(reader, high_count);
    }
    return value;
}

/* The zeros before the next one, and that one; overrun when there is no one. */
static inline int64_t fb_bits_get_unary(fb_bit_reader *reader)
{
    int64_t zeros = 0;
    while (!reader->overrun) {
        const uint64_t window = fb_bits_window(reader) & UINT64_MAX >> 8;
        if (window != 0) {
            const int run = __builtin_ctzll(window);
            fb_bits_skip(reader, run + 1);
            return zeros + run;
        }
        fb_bits_skip(reader, 56);
        zeros += 56;
    }
    return zeros;
}
