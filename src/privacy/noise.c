/* SPDX-License-Identifier: Apache-2.0
 *
 * Key stream. The address does not fit ChaCha20's 96-bit nonce beside its 32-bit block counter, so that an address gets
 * a key of its own, BLAKE2b-256 under the hospital's key of the 16 bytes
 *     attempt (4) | round (4) | step (4) | purpose (2) | pass (2), little-endian,
 * with nonce 0 and blocks counted from 0; an address holds 2^32 blocks, 256 GiB, and more is an assertion.
 */
#include "privacy/noise_stream.h"

#include "core/mem.h"

#include <sodium.h>

_Static_assert(FB_KEY_BYTES == crypto_stream_chacha20_ietf_KEYBYTES, "key of ChaCha20");

enum { BUFFER_BYTES = FB_NOISE_BUFFER_BYTES, BLOCK_BYTES = 64 };

static const uint64_t BLOCKS_PER_ADDRESS = UINT64_C(1) << 32;

fb_status fb_noise_create(const uint8_t key[FB_KEY_BYTES], fb_noise **out)
{
    if (sodium_init() < 0)
        return FB_FAIL("libsodium cannot be initialised");
    fb_noise *noise = NULL;
    FB_TRY(FB_ALLOC(noise, 1, "noise stream"));
    memcpy(noise->key, key, FB_KEY_BYTES);
    noise->block = UINT64_MAX;
    noise->position = BUFFER_BYTES;
    *out = noise;
    return FB_OK;
}

void fb_noise_destroy(fb_noise **noise)
{
    if (*noise)
        sodium_memzero(*noise, sizeof **noise);
    FB_FREE(*noise);
}

static void put_bytes(uint8_t *bytes, uint32_t value, int count)
{
    for (int i = 0; i < count; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void fb_noise_seek(fb_noise *noise, const fb_noise_address *address)
{
    uint8_t bytes[16];
    put_bytes(bytes, address->attempt, 4);
    put_bytes(bytes + 4, address->round, 4);
    put_bytes(bytes + 8, address->step, 4);
    put_bytes(bytes + 12, address->purpose, 2);
    put_bytes(bytes + 14, address->pass, 2);
    crypto_generichash(noise->address_key, sizeof noise->address_key, bytes, sizeof bytes, noise->key, FB_KEY_BYTES);
    noise->block = 0;
    noise->position = BUFFER_BYTES;
}

/* The first 4096 bytes of an address come in two pieces, because most addresses of small updates need few of them. A
 * refill in between keeps what is left of the first, so that the draws are those of one piece. */
void fb_noise_refill(fb_noise *noise)
{
    static const uint8_t nonce[crypto_stream_chacha20_ietf_NONCEBYTES];
    enum { FIRST_BLOCKS = 8, BLOCKS = BUFFER_BYTES / BLOCK_BYTES };
    const int first = noise->block == 0, second = noise->block == FIRST_BLOCKS;
    const size_t fresh_blocks = first ? FIRST_BLOCKS : second ? BLOCKS - FIRST_BLOCKS : BLOCKS;
    const size_t fresh_bytes = fresh_blocks * BLOCK_BYTES, left = second ? BUFFER_BYTES - noise->position : 0;
    uint8_t *fresh = noise->buffer + BUFFER_BYTES - fresh_bytes;
    FB_ASSERT(noise->block < BLOCKS_PER_ADDRESS); /* sought, and not run out */
    FB_ASSERT(left <= BUFFER_BYTES - fresh_bytes);
    memmove(fresh - left, noise->buffer + noise->position, left);
    memset(fresh, 0, fresh_bytes);
    crypto_stream_chacha20_ietf_xor_ic(fresh, fresh, fresh_bytes, nonce, (uint32_t)noise->block, noise->address_key);
    noise->block += fresh_blocks;
    noise->position = BUFFER_BYTES - fresh_bytes - left;
}

uint8_t fb_noise_byte(fb_noise *noise)
{
    if (noise->position == BUFFER_BYTES)
        fb_noise_refill(noise);
    return noise->buffer[noise->position++];
}

uint64_t fb_noise_word(fb_noise *noise)
{
    uint64_t word;
    if (BUFFER_BYTES - noise->position < sizeof word)
        fb_noise_refill(noise); /* the few bytes left are dropped */
    memcpy(&word, noise->buffer + noise->position, sizeof word);
    noise->position += sizeof word;
    return word;
}
