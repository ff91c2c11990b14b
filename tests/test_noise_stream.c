/* SPDX-License-Identifier: Apache-2.0
 *
 * The key stream under the draws: libsodium's for the key of the address, with the block of draws as nonce, byte by
 * byte and none left out, however the bytes are asked for and however many are made at once.
 */
#include "blocks.h"
#include "testing.h"

#include <sodium.h>
#include <stdlib.h>

enum { STREAM_BYTES = 5 * FB_STREAM_BUFFER_BYTES, BLOCKS = 5, RESERVED_BYTES = 73 };

static const fb_noise_address address = {.attempt = 7, .round = 300, .step = 2, .purpose = FB_NOISE_QUERY, .pass = 1};
static const uint64_t block_numbers[BLOCKS] = {0, 1, 255, 256, UINT64_C(0x0102030405060708)};

static void make_expected(const uint8_t key[FB_KEY_BYTES], uint64_t block, uint8_t *stream)
{
    const uint8_t bytes[16] = {7, 0, 0, 0, 300 - 256, 1, 0, 0, 2, 0, 0, 0, FB_NOISE_QUERY, 0, 1, 0};
    uint8_t nonce[crypto_stream_chacha20_ietf_NONCEBYTES] = {0}, address_key[FB_KEY_BYTES];
    for (int i = 0; i < 8; i++)
        nonce[i] = (uint8_t)(block >> 8 * i);
    crypto_generichash(address_key, sizeof address_key, bytes, sizeof bytes, key, FB_KEY_BYTES);
    crypto_stream_chacha20_ietf(stream, STREAM_BYTES, nonce, address_key);
}

/* Draws of the three kinds in turn, the first kind `lead` times before. */
static void follow(fb_noise *noise, const uint8_t *stream, int lead)
{
    size_t at = 0;
    for (int i = 0; at < STREAM_BYTES - 2 * FB_STREAM_BUFFER_BYTES; i++) {
        const int kind = i < lead ? 0 : i % 3;
        const size_t bytes = kind == 0 ? 1 : kind == 1 ? 8 : 3;
        uint64_t drawn, expected = 0;
        memcpy(&expected, stream + at, bytes);
        at += bytes;
        if (kind == 2)
            fb_stream_reserve(&noise->stream, RESERVED_BYTES);
        drawn = kind == 0 ? fb_noise_byte(noise) : kind == 1 ? fb_noise_word(noise) : fb_stream_take(&noise->stream, 3);
        if (drawn != expected)
            fail_msg("draw %d, lead %d: %llx instead of %llx", i, lead, (unsigned long long)drawn,
                     (unsigned long long)expected);
    }
}

static fb_noise *make_noise(uint8_t key[FB_KEY_BYTES])
{
    fb_noise *noise = NULL;
    must(fb_key_make(FB_KEY_SEED, 3, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    return noise;
}

static void test_draws_follow_the_stream(void **state)
{
    (void)state;
    static uint8_t stream[STREAM_BYTES];
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = make_noise(key);
    make_expected(key, 0, stream);
    for (int lead = 0; lead < 600; lead++) { /* the refills fall on every place of a draw */
        fb_noise_seek(noise, &address);
        follow(noise, stream, lead);
    }
    fb_noise_destroy(&noise);
}

/* Each block has its own stream, which the size of the first refill does not change. */
static void test_blocks_follow_their_streams(void **state)
{
    (void)state;
    static uint8_t stream[STREAM_BYTES];
    static const size_t sizes[] = {0, 1, 256, 257, 1700, 4096, 1 << 20};
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = make_noise(key);
    fb_noise_seek(noise, &address);
    for (int b = 0; b < BLOCKS; b++) {
        make_expected(key, block_numbers[b], stream);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            for (int lead = 0; lead < 3; lead++) {
                fb_stream_seek(&noise->stream, block_numbers[b], sizes[s]);
                follow(noise, stream, lead);
            }
        }
    }
    fb_noise_destroy(&noise);
}

/* A thread's stream is of the address that the noise was sought to, wherever the noise itself stands in it. */
static void test_opened_streams(void **state)
{
    (void)state;
    static uint8_t stream[STREAM_BYTES];
    uint8_t key[FB_KEY_BYTES];
    uint64_t expected;
    fb_noise *noise = make_noise(key);
    fb_stream own;
    fb_noise_seek(noise, &address);
    (void)fb_noise_byte(noise);
    fb_stream_open(&own, noise);
    fb_stream_seek(&own, block_numbers[3], 8);
    make_expected(key, block_numbers[3], stream);
    fb_stream_reserve(&own, sizeof expected);
    memcpy(&expected, stream, sizeof expected);
    assert_true(fb_stream_take(&own, sizeof expected) == expected);
    fb_stream_close(&own);
    for (size_t i = 0; i < sizeof own; i++)
        assert_int_equal(((const uint8_t *)&own)[i], 0);
    fb_noise_destroy(&noise);
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* No word of 64 bits occurs twice in neighbouring blocks of neighbouring addresses: by chance, below 2^-35. */
static void test_blocks_share_nothing(void **state)
{
    (void)state;
    enum { ADDRESSES = 6, NEIGHBOURS = 40, WORDS = 64, ALL = ADDRESSES * NEIGHBOURS * WORDS };
    static const fb_noise_address addresses[ADDRESSES] = {
        {.purpose = 1}, {.purpose = 1, .attempt = 1}, {.purpose = 1, .round = 1}, {.purpose = 1, .step = 1},
        {.purpose = 2}, {.purpose = 1, .pass = 1}};
    static uint64_t word[ALL];
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = make_noise(key);
    int filled = 0;
    for (int a = 0; a < ADDRESSES; a++) {
        fb_noise_seek(noise, &addresses[a]);
        for (uint64_t block = 0; block < NEIGHBOURS; block++) {
            fb_stream_seek(&noise->stream, block, 8 * WORDS);
            for (int i = 0; i < WORDS; i++)
                word[filled++] = fb_noise_word(noise);
        }
    }
    qsort(word, ALL, sizeof *word, compare);
    for (int i = 1; i < ALL; i++)
        assert_true(word[i] != word[i - 1]);
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_stream), cmocka_unit_test(test_blocks_follow_their_streams),
        cmocka_unit_test(test_opened_streams),          cmocka_unit_test(test_blocks_share_nothing),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("noise stream", tests, NULL, NULL);
}
