/* SPDX-License-Identifier: Apache-2.0
 *
 * Draws by the reader of a graphics processor's thread, with its own ChaCha20 in pieces of 64 bytes, against those of
 * the processor: the same, one by one, in every block. ChaCha20 itself against RFC 8439 and libsodium.
 */
#define FB_STREAM_OF_THREAD

#include "privacy/gauss.h"
#include "privacy/gauss_draw.h"
#include "privacy/gumbel.h"
#include "privacy/laplace.h"
#include "privacy/laplace_draw.h"
#include "privacy/mechanism.h"
#include "privacy/tail.h"
#include "testing.h"

#include <sodium.h>

enum { DRAWS = 20000 };

static const fb_noise_address address = {.attempt = 7, .round = 300, .step = 2, .purpose = FB_NOISE_QUERY, .pass = 1};

/* --- ChaCha20 --- */

static uint32_t word_of(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void words_of(const uint8_t *bytes, int count, uint32_t *words)
{
    for (int i = 0; i < count; i++)
        words[i] = word_of(bytes + 4 * i);
}

/* RFC 8439, 2.1.1 and 2.3.2 */
static void test_rfc_vectors(void **state)
{
    (void)state;
    static const uint32_t expected[16] = {0xe4e7f110, 0x15593bd1, 0x1fdd0f50, 0xc47120a3, 0xc7f4d1c7, 0x0368c033,
                                          0x9aaa2204, 0x4e6cd4c3, 0x466482d2, 0x09aa9f07, 0x05d7c214, 0xa2028bd9,
                                          0xd19c12b5, 0xb94e16de, 0xe883d0cb, 0x4e3c50a2};
    static const uint8_t nonce[12] = {0, 0, 0, 0x09, 0, 0, 0, 0x4a};
    uint8_t key[FB_KEY_BYTES];
    uint32_t key_words[8], nonce_words[3], out[16];
    uint32_t a = 0x11111111, b = 0x01020304, c = 0x9b8d6f43, d = 0x01234567;
    fb_chacha20_quarter(&a, &b, &c, &d);
    assert_true(a == 0xea2a92f4 && b == 0xcb1cf8ce && c == 0x4581472e && d == 0x5881c4bb);
    for (int i = 0; i < FB_KEY_BYTES; i++)
        key[i] = (uint8_t)i;
    words_of(key, 8, key_words);
    words_of(nonce, 3, nonce_words);
    fb_chacha20_block(key_words, 1, nonce_words, out);
    for (int i = 0; i < 16; i++)
        assert_int_equal(out[i], expected[i]);
}

/* RFC 8439, A.1: a key of zeros, and one whose second byte is 0xff (vectors 1 and 4). */
static void test_more_rfc_vectors(void **state)
{
    (void)state;
    static const uint32_t first[4] = {0xade0b876, 0x903df1a0, 0xe56a5d40, 0x28bd8653};
    static const uint32_t fourth[4] = {0xfb4dd572, 0x4bc42ef1, 0xdf922636, 0x327f1394};
    uint32_t key[8] = {0}, out[16];
    const uint32_t nonce[3] = {0};
    fb_chacha20_block(key, 0, nonce, out);
    assert_memory_equal(out, first, sizeof first);
    key[0] = 0xff00;
    fb_chacha20_block(key, 2, nonce, out);
    assert_memory_equal(out, fourth, sizeof fourth);
}

/* Random keys and nonces, and counters up to the last. */
static void test_against_libsodium(void **state)
{
    (void)state;
    assert_true(sodium_init() >= 0);
    for (uint32_t i = 0; i < 2000; i++) {
        uint8_t seed[randombytes_SEEDBYTES] = {(uint8_t)i, (uint8_t)(i >> 8)};
        uint8_t random[FB_KEY_BYTES + 12 + 4], bytes[64] = {0};
        uint32_t key[8], nonce[3], out[16], expected[16];
        randombytes_buf_deterministic(random, sizeof random, seed);
        const uint32_t counter = i % 4 == 0 ? i / 4 : i % 4 == 1 ? UINT32_MAX - i : word_of(random + FB_KEY_BYTES + 12);
        words_of(random, 8, key);
        words_of(random + FB_KEY_BYTES, 3, nonce);
        fb_chacha20_block(key, counter, nonce, out);
        crypto_stream_chacha20_ietf_xor_ic(bytes, bytes, sizeof bytes, random + FB_KEY_BYTES, counter, random);
        words_of(bytes, 16, expected);
        assert_memory_equal(out, expected, sizeof out);
    }
}

/* --- draws --- */

typedef int64_t (*thread_draw)(const void *tables, int64_t k, fb_stream *stream);
typedef int64_t (*processor_draw)(const void *tables, int64_t k, fb_noise *noise);

/* All of them in block 0, whose stream goes on: every place of a piece of 64 bytes is the end of some draw. */
static void compare(const char *name, double parameter, const void *tables, thread_draw by_thread,
                    processor_draw by_processor)
{
    uint8_t key[FB_KEY_BYTES], address_key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    fb_stream stream;
    must(fb_key_make(FB_KEY_SEED, 11, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    fb_noise_seek(noise, &address);
    fb_noise_address_key(key, &address, address_key);
    words_of(address_key, 8, stream.key);
    fb_stream_seek(&stream, 0);
    for (int64_t k = 0; k < DRAWS; k++) {
        const int64_t x = by_thread(tables, k, &stream), y = by_processor(tables, k, noise);
        if (x != y)
            fail_msg("%s, %g, draw %lld: %lld, and %lld on the processor", name, parameter, (long long)k, (long long)x,
                     (long long)y);
    }
    fb_noise_destroy(&noise);
}

static int64_t laplace_by_thread(const void *tables, int64_t k, fb_stream *stream)
{
    (void)k;
    return fb_draw_laplace(tables, stream);
}

static int64_t laplace_by_processor(const void *tables, int64_t k, fb_noise *noise)
{
    (void)k;
    return fb_laplace_draw(tables, noise);
}

static int64_t gauss_by_thread(const void *tables, int64_t k, fb_stream *stream)
{
    (void)k;
    return fb_draw_gauss(tables, stream);
}

static int64_t gauss_by_processor(const void *tables, int64_t k, fb_noise *noise)
{
    (void)k;
    return fb_gauss_draw(tables, noise);
}

static int64_t gumbel_by_thread(const void *tables, int64_t k, fb_stream *stream)
{
    (void)k;
    return fb_draw_gumbel(tables, stream);
}

static int64_t gumbel_by_processor(const void *tables, int64_t k, fb_noise *noise)
{
    (void)tables;
    (void)k;
    return fb_gumbel_draw(noise);
}

static int64_t tail_by_thread(const void *tables, int64_t k, fb_stream *stream)
{
    return k % 64 == 0 ? fb_draw_tail(tables, stream) : fb_draw_reaches(tables, (k % 1000 - 500) * 3000, stream);
}

static int64_t tail_by_processor(const void *tables, int64_t k, fb_noise *noise)
{
    return k % 64 == 0 ? fb_tail_draw(tables, noise) : fb_tail_reaches(tables, (k % 1000 - 500) * 3000, noise);
}

static void test_the_same_draws(void **state)
{
    (void)state;
    static const double scales[] = {0x1p-4, 0.3, 1.0, 5.0, 17.5, 1e3, 1e6, 1e9, 1e12, 0x1p52};
    static const double sigmas[] = {0.25, 1.0, 150.0, 600.0, 1e6, 0x1p30, 0x1p56};
    static const double tails[] = {0.3, 1.0, 1e5, 1e6, 1e12};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        fb_laplace *laplace = NULL;
        must(fb_laplace_create(scales[i], &laplace));
        compare("laplace", scales[i], laplace, laplace_by_thread, laplace_by_processor);
        fb_laplace_destroy(&laplace);
    }
    for (size_t i = 0; i < sizeof sigmas / sizeof sigmas[0]; i++) {
        fb_gauss *gauss = NULL;
        must(fb_gauss_create(sigmas[i], &gauss));
        compare("gauss", sigmas[i], gauss, gauss_by_thread, gauss_by_processor);
        fb_gauss_destroy(&gauss);
    }
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        const fb_tail tail = fb_tail_of(tails[i]);
        compare("tail", tails[i], &tail, tail_by_thread, tail_by_processor);
    }
    compare("gumbel", 1.0, fb_gumbel_tables(), gumbel_by_thread, gumbel_by_processor);
}

/* A bulk release: thread b of a graphics processor draws block b. */
static void test_blocks_of_a_release(void **state)
{
    (void)state;
    enum { COUNT = 3 * FB_NOISE_BLOCK + 7 };
    const fb_release_spec spec = {.mechanism = FB_MECHANISM_LAPLACE, .trust = FB_TRUST_CENTRAL};
    const fb_budget budget = {.scale_answer = 1e6};
    const fb_noise_address server = {.attempt = 3, .round = 4, .purpose = FB_NOISE_SERVER};
    uint8_t key[FB_KEY_BYTES], address_key[FB_KEY_BYTES];
    int64_t sum[COUNT] = {0};
    fb_noise *noise = NULL;
    fb_laplace *laplace = NULL;
    fb_stream stream;
    must(fb_key_make(FB_KEY_SEED, 12, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    must(fb_release_server_noise(&spec, &budget, noise, 3, 4, COUNT, sum));
    must(fb_laplace_create(budget.scale_answer, &laplace));
    fb_noise_address_key(key, &server, address_key);
    words_of(address_key, 8, stream.key);
    for (int64_t k = 0; k < COUNT; k++) {
        if (k % FB_NOISE_BLOCK == 0)
            fb_stream_seek(&stream, (uint64_t)(k / FB_NOISE_BLOCK));
        assert_int_equal(sum[k], fb_draw_laplace(laplace, &stream));
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc_vectors),         cmocka_unit_test(test_more_rfc_vectors),
        cmocka_unit_test(test_against_libsodium),   cmocka_unit_test(test_the_same_draws),
        cmocka_unit_test(test_blocks_of_a_release), cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("draws", tests, NULL, NULL);
}
