/* SPDX-License-Identifier: Apache-2.0
 *
 * The key stream under the draws: libsodium's for the key of the address, in buffers of 4096 bytes that no draw
 * crosses, however the bytes are asked for.
 */
#include "privacy/noise_stream.h"
#include "testing.h"

#include <sodium.h>

enum { STREAM_BYTES = 5 * FB_NOISE_BUFFER_BYTES, RESERVED_BYTES = 73 };

static const fb_noise_address address = {.attempt = 7, .round = 300, .step = 2, .purpose = FB_NOISE_QUERY, .pass = 1};

static void make_expected(const uint8_t key[FB_KEY_BYTES], uint8_t *stream)
{
    const uint8_t bytes[16] = {7, 0, 0, 0, 300 - 256, 1, 0, 0, 2, 0, 0, 0, FB_NOISE_QUERY, 0, 1, 0};
    const uint8_t nonce[crypto_stream_chacha20_ietf_NONCEBYTES] = {0};
    uint8_t address_key[FB_KEY_BYTES];
    crypto_generichash(address_key, sizeof address_key, bytes, sizeof bytes, key, FB_KEY_BYTES);
    crypto_stream_chacha20_ietf(stream, STREAM_BYTES, nonce, address_key);
}

/* Where a draw that reserves `bytes` begins. */
static size_t begin(size_t at, size_t bytes)
{
    const size_t left = FB_NOISE_BUFFER_BYTES - at % FB_NOISE_BUFFER_BYTES;
    return left < bytes ? at + left : at;
}

/* Draws of the three kinds in turn, the first kind `lead` times before. */
static void follow(fb_noise *noise, const uint8_t *stream, int lead)
{
    size_t at = 0;
    fb_noise_seek(noise, &address);
    for (int i = 0; at < STREAM_BYTES - 2 * FB_NOISE_BUFFER_BYTES; i++) {
        const int kind = i < lead ? 0 : i % 3;
        const size_t bytes = kind == 0 ? 1 : kind == 1 ? 8 : 3;
        uint64_t drawn, expected = 0;
        at = begin(at, kind == 2 ? RESERVED_BYTES : bytes);
        memcpy(&expected, stream + at, bytes);
        at += bytes;
        if (kind == 2)
            fb_noise_reserve(noise, RESERVED_BYTES);
        drawn = kind == 0 ? fb_noise_byte(noise) : kind == 1 ? fb_noise_word(noise) : fb_noise_take(noise, 3);
        if (drawn != expected)
            fail_msg("draw %d, lead %d: %llx instead of %llx", i, lead, (unsigned long long)drawn,
                     (unsigned long long)expected);
    }
}

static void test_draws_follow_the_stream(void **state)
{
    (void)state;
    static uint8_t stream[STREAM_BYTES];
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    must(fb_key_make(FB_KEY_SEED, 3, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    make_expected(key, stream);
    for (int lead = 0; lead < 600; lead++) /* the pieces of the buffer end in every place of a draw */
        follow(noise, stream, lead);
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_stream),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("noise stream", tests, NULL, NULL);
}
