/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a key stream: the reader of the processor's draws (stream.h), which takes bytes from a buffer without a
 * call for every one, and what tests write a script into.
 */
#pragma once

#include "privacy/noise.h"

#include <string.h>

enum {
    FB_STREAM_BUFFER_BYTES = 4096,
    FB_STREAM_RESERVE_MAX = 256, /* of which every refill makes as many */
    FB_STREAM_OVERREAD_BYTES = 7 /* beyond the end of the buffer */
};

/* The key stream of one block of draws. Every thread has its own. */
typedef struct fb_stream {
    uint8_t key[FB_KEY_BYTES]; /* of the address */
    uint64_t block;            /* of draws */
    uint64_t next;             /* piece of 64 bytes of the block's key stream; UINT64_MAX before the first seek */
    size_t fresh_bytes;        /* that the next refill makes */
    size_t position;           /* next unused byte of the buffer, which ends at FB_STREAM_BUFFER_BYTES */
    uint8_t buffer[FB_STREAM_BUFFER_BYTES + FB_STREAM_OVERREAD_BYTES];
} fb_stream;

struct fb_noise {
    uint8_t key[FB_KEY_BYTES];
    fb_stream stream;
};

/* A stream of the address that `noise` was sought to, for one thread; close wipes it. */
void fb_stream_open(fb_stream *stream, const fb_noise *noise);
void fb_stream_close(fb_stream *stream);

/* To the first bit of a block of draws that will use about so many bytes: what is made at once, never what is drawn. */
void fb_stream_seek(fb_stream *stream, uint64_t block, size_t bytes);

/* What is done with the first `count` draws of a block: seeks the stream there, and writes where no other block does.
 */
typedef void (*fb_noise_body)(const void *context, fb_stream *stream, int64_t block, int count);

/* Does `body` for the blocks of `count` draws of the address that `noise` was sought to, shared by OpenMP's threads. */
void fb_noise_for_blocks(const fb_noise *noise, int64_t count, fb_noise_body body, const void *context);

/* Puts fresh bytes of the key stream after those left in the buffer, of which none is dropped. */
void fb_stream_refill(fb_stream *stream);

/* Sees to it that `bytes` <= FB_STREAM_RESERVE_MAX unused ones are in the buffer. */
static inline void fb_stream_reserve(fb_stream *stream, size_t bytes)
{
    if (__builtin_expect(FB_STREAM_BUFFER_BYTES - stream->position < bytes, 0))
        fb_stream_refill(stream);
}

/* The next `bytes` <= 8 bytes as a little-endian number; they must be reserved. */
static inline uint64_t fb_stream_take(fb_stream *stream, int bytes)
{
    uint64_t word;
    memcpy(&word, stream->buffer + stream->position, sizeof word);
    stream->position += (size_t)bytes;
    return bytes == 8 ? word : word & ((UINT64_C(1) << 8 * bytes) - 1);
}
