/* SPDX-License-Identifier: Apache-2.0
 *
 * Checksums, memory, errors. */
#include "core/file.h"
#include "core/rng.h"
#include "testing.h"

#include <string.h>

/* CRC-32C bit by bit, as its polynomial says. */
static uint32_t slow_crc(uint32_t crc, const unsigned char *byte, int64_t size_bytes)
{
    crc = ~crc;
    for (int64_t i = 0; i < size_bytes; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1u ? 0x82F63B78u : 0u);
    }
    return ~crc;
}

/* The value of RFC 3720 for "123456789", and long and short buffers at odd places against the slow form. */
static void crc32c_is_castagnolis(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    unsigned char *data = NULL;
    const fb_rng rng = {3, FB_RNG_TEST, 0, 0, 0};
    assert_int_equal(fb_crc32c(0, "123456789", 9), 0xE3069283u);
    must(FB_ALLOC(data, BYTES, "data"));
    for (uint32_t i = 0; i < BYTES; i++)
        data[i] = (unsigned char)fb_rng_below(&rng, i, 256);
    const int64_t sizes[] = {0, 1, 7, 8, 9, 4096, 262143, 262144, 262145, 300001, BYTES - 5};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_int_equal(fb_crc32c(0, data + 5, sizes[i]), slow_crc(0, data + 5, sizes[i]));
    const uint32_t first = fb_crc32c(0, data, 400000), whole = slow_crc(0, data, BYTES);
    assert_int_equal(fb_crc32c(first, data + 400000, BYTES - 400000), whole); /* in two parts */
    data[700000] ^= 4;
    assert_int_not_equal(fb_crc32c(first, data + 400000, BYTES - 400000), whole);
    FB_FREE(data);
}

static void memory_is_counted_and_refused(void **state)
{
    (void)state;
    int32_t *block = NULL;
    int32_t *dirty[50] = {NULL}; /* what the next block is made of */
    for (int i = 0; i < 50; i++) {
        must(FB_ALLOC(dirty[i], 1000, "block"));
        memset(dirty[i], 0xff, 1000 * sizeof *dirty[i]);
    }
    for (int i = 0; i < 50; i++)
        FB_FREE(dirty[i]);
    must(FB_ALLOC(block, 1000, "block"));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(block[i], 0);
    assert_int_equal((uintptr_t)block % FB_MEM_ALIGNMENT_BYTES, 0);
    assert_int_equal(fb_mem_live_blocks(), 1);
    block[999] = 7;
    must(fb_mem_resize(&block, 2000, sizeof *block, "block"));
    assert_true(block[999] == 7 && block[1000] == 0 && block[1999] == 0);
    FB_FREE(block);
    assert_null(block);
    must_fail(FB_ALLOC(block, -1, "negative"), "negative");
    must_fail(FB_ALLOC(block, INT64_MAX / 2, "huge"), "huge");
    must_fail(FB_ALLOC(block, INT64_MAX / 8, "large"), "large");
}

static void errors_keep_their_code_and_gain_context(void **state)
{
    (void)state;
    fb_status status = FB_USAGE("value %d: above %d", 7, 5);
    status = fb_error_context(status, "file %s", "x.ini");
    assert_string_equal(fb_error_message(status), "file x.ini: value 7: above 5");
    assert_int_equal(fb_error_exit_code(status), FB_EXIT_USAGE);
    status = fb_error_first(status, FB_FAIL("later"));
    assert_int_equal(fb_error_exit_code(status), FB_EXIT_USAGE);
    fb_error_free(&status);
    assert_null(status);
    assert_null(fb_error_context(FB_OK, "nothing"));
    assert_int_equal(fb_error_exit_code(FB_OK), FB_EXIT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_is_castagnolis),
        cmocka_unit_test(memory_is_counted_and_refused),
        cmocka_unit_test(errors_keep_their_code_and_gain_context),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
