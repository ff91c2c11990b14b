/* SPDX-License-Identifier: Apache-2.0
 *
 * The key streams behind the noise: their addresses, and where keys come from.
 */
#include "core/file.h"
#include "privacy/laplace.h"
#include "statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- addresses --- */

enum { ADDRESSES = 9, PREFIX = 64 };

/* Differ from the first in one field each, by the smallest and by the highest bit. */
static const fb_noise_address addresses[ADDRESSES] = {
    {.purpose = 1},
    {.purpose = 1, .attempt = 1},
    {.purpose = 1, .round = 1},
    {.purpose = 1, .step = 1},
    {.purpose = 1, .pass = 1},
    {.purpose = 2},
    {.purpose = 1, .attempt = 1u << 31},
    {.purpose = 1, .round = 1u << 31},
    {.purpose = 1, .pass = 1u << 15},
};

static void draw_prefix(fb_noise *noise, const fb_noise_address *address, int64_t x[PREFIX])
{
    fb_laplace *laplace = NULL;
    must(fb_laplace_create(0x1p50, &laplace));
    fb_noise_seek(noise, address);
    for (int i = 0; i < PREFIX; i++)
        x[i] = fb_laplace_draw(laplace, noise);
    fb_laplace_destroy(&laplace);
}

/* No draw of 50 bits occurs twice at all: by chance that has probability below 2^-25. */
static void test_addresses_are_distinct(void **state)
{
    (void)state;
    int64_t x[2 * ADDRESSES * PREFIX];
    for (int hospital = 0; hospital < 2; hospital++) {
        uint8_t key[FB_KEY_BYTES];
        fb_noise *noise = NULL;
        must(fb_key_make(FB_KEY_SEED, 7, NULL, (uint32_t)hospital, key));
        must(fb_noise_create(key, &noise));
        for (int a = 0; a < ADDRESSES; a++)
            draw_prefix(noise, &addresses[a], &x[(hospital * ADDRESSES + a) * PREFIX]);
        fb_noise_destroy(&noise);
    }
    for (int i = 0; i < 2 * ADDRESSES * PREFIX; i++)
        for (int k = 0; k < i; k++)
            assert_int_not_equal(x[i], x[k]);
}

static int compare(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Streams of 13 hospitals and 40 rounds: nothing in common, and none correlated with the next. By chance two of 33,280
 * draws are equal with probability 2^-22. */
static void test_streams_are_independent(void **state)
{
    (void)state;
    enum { HOSPITALS = 13, ROUNDS = 40, STREAMS = HOSPITALS * ROUNDS, ALL = STREAMS * PREFIX };
    int64_t *x = NULL;
    double product = 0.0;
    must(FB_ALLOC(x, ALL, "draws"));
    for (uint32_t hospital = 0; hospital < HOSPITALS; hospital++) {
        uint8_t key[FB_KEY_BYTES];
        fb_noise *noise = NULL;
        must(fb_key_make(FB_KEY_SEED, 7, NULL, hospital, key));
        must(fb_noise_create(key, &noise));
        for (uint32_t round = 0; round < ROUNDS; round++)
            draw_prefix(noise, &(fb_noise_address){.round = round, .purpose = FB_NOISE_ANSWER},
                        &x[(hospital * ROUNDS + round) * PREFIX]);
        fb_noise_destroy(&noise);
    }
    for (int i = PREFIX; i < ALL; i++)
        product += ldexp((double)x[i], -50) * ldexp((double)x[i - PREFIX], -50) / 2.0; /* 2: the variance */
    assert_true(fabs(product) < 5.0 * sqrt(ALL - PREFIX));
    qsort(x, ALL, sizeof *x, compare);
    for (int i = 1; i < ALL; i++)
        assert_true(x[i] != x[i - 1]);
    FB_FREE(x);
}

static void test_repeatable(void **state)
{
    (void)state;
    int64_t first[PREFIX], again[PREFIX];
    fb_noise *noise = make_noise(8), *other = make_noise(8);
    draw_prefix(noise, &addresses[2], first);
    draw_prefix(noise, &addresses[5], again); /* elsewhere in between */
    draw_prefix(noise, &addresses[2], again);
    assert_memory_equal(first, again, sizeof first);
    draw_prefix(other, &addresses[2], again);
    assert_memory_equal(first, again, sizeof first);
    fb_noise_destroy(&noise);
    fb_noise_destroy(&other);
    assert_null(noise);
}

/* The bits are part of a run's identity: a change of layout must be noticed. */
static void test_golden(void **state)
{
    (void)state;
    static const int64_t expected[4] = {665874887, 737755743, 121640917, -763390531};
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(2026);
    must(fb_laplace_create(1e9, &laplace));
    fb_noise_seek(noise, &(fb_noise_address){1, 2, 3, FB_NOISE_QUERY, 4});
    for (int i = 0; i < 4; i++)
        assert_int_equal(fb_laplace_draw(laplace, noise), expected[i]);
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* --- keys --- */

static void write_key(const char *path, const char *text, mode_t mode)
{
    must(fb_file_write_atomic(path, text, (int64_t)strlen(text)));
    assert_int_equal(chmod(path, mode), 0);
}

static const char HEX[] = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

static void test_key_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_noise.XXXXXX", path[64], text[128];
    uint8_t key[FB_KEY_BYTES], same[FB_KEY_BYTES], other[FB_KEY_BYTES];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/key", folder);
    must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "No such file");
    write_key(path, HEX, 0600);
    must(fb_key_make(FB_KEY_FILE, 0, path, 0, key));
    must(fb_key_make(FB_KEY_FILE, 0, path, 1, other));
    assert_memory_not_equal(key, other, sizeof key);
    must(fb_key_make(FB_KEY_FILE, 9, path, 0, other)); /* another run with the same file */
    assert_memory_not_equal(key, other, sizeof key);
    snprintf(text, sizeof text, "%s\n", HEX);
    write_key(path, text, 0400);
    must(fb_key_make(FB_KEY_FILE, 0, path, 0, same));
    assert_memory_equal(key, same, sizeof key);
    static const mode_t open_modes[] = {0640, 0604, 0660, 0601, 0777};
    for (size_t i = 0; i < sizeof open_modes / sizeof open_modes[0]; i++) {
        write_key(path, HEX, open_modes[i]);
        must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "chmod 600");
    }
    static const char *const malformed[] = {"",
                                            "00",
                                            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1",
                                            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1g",
                                            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0",
                                            "0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"};
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        write_key(path, malformed[i], 0600);
        must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "64 hexadecimal digits");
    }
    snprintf(text, sizeof text, "%s\n\n", HEX);
    write_key(path, text, 0600);
    must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "exceed the limit");
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

static void test_key_sources(void **state)
{
    (void)state;
    uint8_t first[FB_KEY_BYTES], second[FB_KEY_BYTES];
    must(fb_key_make(FB_KEY_SYSTEM, 1, NULL, 0, first));
    must(fb_key_make(FB_KEY_SYSTEM, 1, NULL, 0, second));
    assert_memory_not_equal(first, second, sizeof first);
    must(fb_key_make(FB_KEY_SEED, 1, NULL, 0, first));
    must(fb_key_make(FB_KEY_SEED, 1, NULL, 0, second));
    assert_memory_equal(first, second, sizeof first);
    must(fb_key_make(FB_KEY_SEED, 2, NULL, 0, second));
    assert_memory_not_equal(first, second, sizeof first);
    must(fb_key_make(FB_KEY_SEED, 1, NULL, 1, second));
    assert_memory_not_equal(first, second, sizeof first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_are_distinct),
        cmocka_unit_test(test_streams_are_independent),
        cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_key_file),
        cmocka_unit_test(test_key_sources),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("noise", tests, NULL, NULL);
}
