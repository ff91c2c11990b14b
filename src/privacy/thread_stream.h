/* SPDX-License-Identifier: Apache-2.0
 *
 * The key stream of a block of draws, 64 bytes at a time: what a thread of a graphics processor reads. The same bytes
 * as noise_stream.h, in the same order. Pieces are made when bytes are reserved, never when they are taken, so that the
 * threads of a warp can make theirs together (kernels_privacy.cuh).
 */
#pragma once

#include "privacy/chacha.h"

enum {
    FB_STREAM_PIECE_BYTES = 64,
    FB_STREAM_PIECE_WORDS = 16,
    FB_STREAM_RING_BYTES = 256, /* of which up to FB_STREAM_RESERVE_MAX are unused when another piece is made */
    FB_STREAM_RING_WORDS = 64,
    FB_STREAM_RESERVE_MAX = FB_STREAM_RING_BYTES - FB_STREAM_PIECE_BYTES + 1
};

typedef struct fb_stream {
    uint32_t key[8];                     /* of the address (fb_noise_address_key), little-endian words */
    uint32_t nonce[3];                   /* the block of draws */
    uint32_t made;                       /* pieces of the block's key stream */
    uint32_t taken;                      /* bytes of them, modulo 2^32 */
    uint32_t ring[FB_STREAM_RING_WORDS]; /* the last pieces, little-endian words */
} fb_stream;

FB_HD static inline void fb_stream_seek(fb_stream *stream, uint64_t block)
{
    stream->nonce[0] = (uint32_t)block;
    stream->nonce[1] = (uint32_t)(block >> 32);
    stream->nonce[2] = 0;
    stream->made = 0;
    stream->taken = 0;
}

/* Bytes made and not yet taken. */
FB_HD static inline uint32_t fb_stream_left(const fb_stream *stream)
{
    return stream->made * FB_STREAM_PIECE_BYTES - stream->taken;
}

/* There must be room: at most FB_STREAM_RING_BYTES - FB_STREAM_PIECE_BYTES left. */
FB_HD static inline void fb_stream_make_piece(fb_stream *stream)
{
    const uint32_t place = stream->made % (FB_STREAM_RING_WORDS / FB_STREAM_PIECE_WORDS) * FB_STREAM_PIECE_WORDS;
    fb_chacha20_block(stream->key, stream->made, stream->nonce, stream->ring + place);
    stream->made++;
}

/* Sees to it that `bytes` <= FB_STREAM_RESERVE_MAX unused ones are there. */
FB_HD static inline void fb_stream_reserve(fb_stream *stream, int bytes)
{
    while (fb_stream_left(stream) < (uint32_t)bytes)
        fb_stream_make_piece(stream);
}

/* The next `bytes` <= 8 bytes as a little-endian number; they must be reserved. */
FB_HD static inline uint64_t fb_stream_take(fb_stream *stream, int bytes)
{
    const uint32_t first = stream->taken / 4, drop = 8 * (stream->taken % 4);
    const uint64_t low = stream->ring[first % FB_STREAM_RING_WORDS],
                   middle = stream->ring[(first + 1) % FB_STREAM_RING_WORDS],
                   high = bytes > 4 ? stream->ring[(first + 2) % FB_STREAM_RING_WORDS] : 0;
    const uint64_t word = (low | middle << 32) >> drop | high << 1 << (63 - drop); /* drop 0: nothing of `high` */
    stream->taken += (uint32_t)bytes;
    return bytes == 8 ? word : word & ((UINT64_C(1) << 8 * bytes) - 1);
}
