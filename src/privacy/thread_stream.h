/* SPDX-License-Identifier: Apache-2.0
 *
 * The key stream of a block of draws, 64 bytes at a time: what a thread of a graphics processor reads. The same bytes
 * as noise_stream.h, in the same order.
 */
#pragma once

#include "privacy/chacha.h"

enum { FB_STREAM_PIECE_BYTES = 64 };

typedef struct fb_stream {
    uint32_t key[8];    /* of the address (fb_noise_address_key), little-endian words */
    uint32_t nonce[3];  /* the block of draws */
    uint32_t next;      /* piece of the block's key stream */
    uint32_t position;  /* next unused byte of `piece` */
    uint32_t piece[16]; /* little-endian words */
} fb_stream;

FB_HD static inline void fb_stream_seek(fb_stream *stream, uint64_t block)
{
    stream->nonce[0] = (uint32_t)block;
    stream->nonce[1] = (uint32_t)(block >> 32);
    stream->nonce[2] = 0;
    stream->next = 0;
    stream->position = FB_STREAM_PIECE_BYTES;
}

/* Pieces are made as they are needed. */
FB_HD static inline void fb_stream_reserve(fb_stream *stream, int bytes)
{
    (void)stream;
    (void)bytes;
}

/* The next `bytes` <= 8 bytes as a little-endian number. */
FB_HD static inline uint64_t fb_stream_take(fb_stream *stream, int bytes)
{
    uint64_t taken = 0;
    for (int i = 0; i < bytes; i++) {
        if (stream->position == FB_STREAM_PIECE_BYTES) {
            fb_chacha20_block(stream->key, stream->next++, stream->nonce, stream->piece);
            stream->position = 0;
        }
        const uint32_t byte = stream->piece[stream->position / 4] >> 8 * (stream->position % 4) & 0xFF;
        taken |= (uint64_t)byte << 8 * i;
        stream->position++;
    }
    return taken;
}
