/* SPDX-License-Identifier: Apache-2.0
 *
 * Key stream. Address and block do not fit ChaCha20's 96-bit nonce beside its 32-bit block counter, so that an address
 * gets a key of its own, BLAKE2b-256 under the hospital's key of the 16 bytes
 *     attempt (4) | round (4) | step (4) | purpose (2) | pass (2), little-endian.
 * The nonce is the number of the block of draws, 8 bytes little-endian, and 4 bytes of 0; ChaCha20's counter begins at
 * 0. Two addresses have two keys, and two blocks of an address two nonces under its key: no two (address, block) pairs
 * ask ChaCha20 for the same piece of 64 bytes. A block holds 2^32 pieces, 256 GiB, and more is an assertion, because
 * the counter would wrap.
 */
#include "privacy/noise_stream.h"

#include "core/mem.h"

#include <sodium.h>

_Static_assert(FB_KEY_BYTES == crypto_stream_chacha20_ietf_KEYBYTES, "key of ChaCha20");

/* 256 bytes are the least that libsodium's AVX2 code makes at a good speed, 512 at its best. */
enum { BUFFER_BYTES = FB_STREAM_BUFFER_BYTES, PIECE_BYTES = 64, UNIT_BYTES = 256, FRESH_BYTES = 512 };
enum { BLOCKS_AT_ONCE = 8 }; /* that a thread takes */

_Static_assert((int)UNIT_BYTES >= (int)FB_STREAM_RESERVE_MAX, "one refill is enough for a draw");

static const uint64_t PIECES_PER_BLOCK = UINT64_C(1) << 32;

fb_status fb_noise_create(const uint8_t key[FB_KEY_BYTES], fb_noise **out)
{
    if (sodium_init() < 0)
        return FB_FAIL("libsodium cannot be initialised");
    fb_noise *noise = NULL;
    FB_TRY(FB_ALLOC(noise, 1, "noise stream"));
    memcpy(noise->key, key, FB_KEY_BYTES);
    noise->stream.next = UINT64_MAX;
    noise->stream.position = BUFFER_BYTES;
    *out = noise;
    return FB_OK;
}

void fb_noise_destroy(fb_noise **noise)
{
    if (*noise)
        sodium_memzero(*noise, sizeof **noise);
    FB_FREE(*noise);
}

static void put_bytes(uint8_t *bytes, uint64_t value, int count)
{
    for (int i = 0; i < count; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void fb_noise_address_key(const uint8_t key[FB_KEY_BYTES], const fb_noise_address *address,
                          uint8_t address_key[FB_KEY_BYTES])
{
    uint8_t bytes[16];
    put_bytes(bytes, address->attempt, 4);
    put_bytes(bytes + 4, address->round, 4);
    put_bytes(bytes + 8, address->step, 4);
    put_bytes(bytes + 12, address->purpose, 2);
    put_bytes(bytes + 14, address->pass, 2);
    crypto_generichash(address_key, FB_KEY_BYTES, bytes, sizeof bytes, key, FB_KEY_BYTES);
}

void fb_noise_seek(fb_noise *noise, const fb_noise_address *address)
{
    fb_noise_address_key(noise->key, address, noise->stream.key);
    fb_stream_seek(&noise->stream, 0, FRESH_BYTES);
}

void fb_stream_open(fb_stream *stream, const fb_noise *noise)
{
    memcpy(stream->key, noise->stream.key, FB_KEY_BYTES);
    fb_stream_seek(stream, 0, FRESH_BYTES);
}

void fb_stream_close(fb_stream *stream)
{
    sodium_memzero(stream, sizeof *stream);
}

void fb_stream_seek(fb_stream *stream, uint64_t block, size_t bytes)
{
    const size_t most = BUFFER_BYTES - FB_STREAM_RESERVE_MAX,
                 wanted = (bytes + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
    stream->block = block;
    stream->next = 0;
    stream->position = BUFFER_BYTES;
    stream->fresh_bytes = wanted > most ? most : wanted > UNIT_BYTES ? wanted : UNIT_BYTES;
}

void fb_stream_refill(fb_stream *stream)
{
    uint8_t nonce[crypto_stream_chacha20_ietf_NONCEBYTES] = {0};
    const size_t fresh_bytes = stream->fresh_bytes, left = BUFFER_BYTES - stream->position;
    uint8_t *fresh = stream->buffer + BUFFER_BYTES - fresh_bytes;
    FB_ASSERT(stream->next <= PIECES_PER_BLOCK - fresh_bytes / PIECE_BYTES); /* sought, and not run out */
    FB_ASSERT(left <= BUFFER_BYTES - fresh_bytes);
    put_bytes(nonce, stream->block, 8);
    memmove(fresh - left, stream->buffer + stream->position, left);
    memset(fresh, 0, fresh_bytes);
    crypto_stream_chacha20_ietf_xor_ic(fresh, fresh, fresh_bytes, nonce, (uint32_t)stream->next, stream->key);
    stream->next += fresh_bytes / PIECE_BYTES;
    stream->position = BUFFER_BYTES - fresh_bytes - left;
    stream->fresh_bytes = FRESH_BYTES;
}

/* One block is done without OpenMP, whose regions cost system calls even with a single thread. */
void fb_noise_for_blocks(const fb_noise *noise, int64_t count, fb_noise_body body, const void *context)
{
    const int64_t blocks = fb_noise_blocks(count);
    if (blocks == 1) {
        fb_stream stream;
        fb_stream_open(&stream, noise);
        body(context, &stream, 0, (int)count);
        fb_stream_close(&stream);
        return;
    }
#pragma omp parallel
    {
        fb_stream stream;
        fb_stream_open(&stream, noise);
#pragma omp for schedule(dynamic, BLOCKS_AT_ONCE) nowait
        for (int64_t block = 0; block < blocks; block++)
            body(context, &stream, block, fb_noise_draws_in(block, count));
        fb_stream_close(&stream);
    }
}

uint8_t fb_noise_byte(fb_noise *noise)
{
    fb_stream_reserve(&noise->stream, 1);
    return (uint8_t)fb_stream_take(&noise->stream, 1);
}

uint64_t fb_noise_word(fb_noise *noise)
{
    fb_stream_reserve(&noise->stream, 8);
    return fb_stream_take(&noise->stream, 8);
}
