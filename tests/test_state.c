/* SPDX-License-Identifier: Apache-2.0 */
#include "testing.h"

#include "core/file.h"
#include "core/mem.h"
#include "io/state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HASH_CHARS = FB_SHA256_CHARS - 1, ENTRY_BYTES = FB_STATE_NAME_CHARS + 8, TITLE_BYTES = 16 };

static char folder[] = "/tmp/test_state_XXXXXX";

static const char *path_of(const char *name)
{
    static char path[FB_PATH_CHARS];
    must(fb_path_join(path, folder, name));
    return path;
}

/* A state of three sections, one of them empty, as the bytes of a file. */
static char *make(int64_t *size_bytes)
{
    static double numbers[200];
    const int64_t rounds = 12;
    fb_state state = {0};
    char *bytes = NULL;
    for (int i = 0; i < 200; i++)
        numbers[i] = 1.0 / (i + 1);
    fb_state_add(&state, "rounds", &rounds, sizeof rounds);
    fb_state_add(&state, "nothing", NULL, 0);
    fb_state_add(&state, "numbers", numbers, sizeof numbers);
    must(fb_state_write(&state, path_of("good")));
    must(fb_file_read(path_of("good"), 1 << 20, &bytes, size_bytes));
    return bytes;
}

static char *copy(const char *bytes, int64_t size_bytes)
{
    char *out = NULL;
    must(fb_mem_alloc_raw(&out, size_bytes + 1, 1, "copy"));
    memcpy(out, bytes, (size_t)size_bytes);
    return out;
}

/* With a right hash: what only the structure shows. */
static void sign(char *bytes, int64_t size_bytes)
{
    char hash[FB_SHA256_CHARS];
    fb_sha256(bytes, size_bytes - HASH_CHARS, hash);
    memcpy(bytes + size_bytes - HASH_CHARS, hash, HASH_CHARS);
}

static void refused(const char *text, char *bytes, int64_t size_bytes)
{
    fb_state state;
    must_fail(fb_state_parse("x.state", bytes, size_bytes, &state), text);
    assert_null(state.bytes);
    assert_int_equal(state.count, 0);
}

static void test_round_trip(void **unused)
{
    (void)unused;
    int64_t size_bytes = 0, rounds = 0;
    double numbers[200];
    char sha256[FB_SHA256_CHARS], *bytes = make(&size_bytes);
    fb_state state;
    assert_int_equal(size_bytes, TITLE_BYTES + 3 * ENTRY_BYTES + 8 + (int64_t)sizeof numbers + HASH_CHARS);
    must(fb_state_read(path_of("good"), &state));
    must(fb_state_get(&state, "rounds", &rounds, sizeof rounds));
    must(fb_state_get(&state, "numbers", numbers, sizeof numbers));
    must(fb_state_get(&state, "nothing", NULL, 0));
    assert_int_equal(rounds, 12);
    assert_true(numbers[199] == 1.0 / 200);
    must(fb_file_sha256(path_of("good"), sha256));
    assert_string_equal(sha256, state.sha256);
    assert_null(fb_state_find(&state, "number"));
    must_fail(fb_state_get(&state, "number", numbers, 8), "good: the section \"number\" is missing");
    must_fail(fb_state_get(&state, "numbers", numbers, 8), "\"numbers\" has 1600 bytes instead of 8");
    fb_state_free(&state);
    FB_FREE(bytes);
}

/* Every bit of the file, one at a time. */
static void test_flips(void **unused)
{
    (void)unused;
    int64_t size_bytes = 0, flips = 0;
    char *bytes = make(&size_bytes);
    for (int64_t bit = 0; bit < 8 * size_bytes; bit++, flips++) {
        char *changed = copy(bytes, size_bytes);
        changed[bit / 8] = (char)(changed[bit / 8] ^ 1 << bit % 8);
        refused("x.state: not a state file", changed, size_bytes);
    }
    assert_true(flips >= 10000);
    FB_FREE(bytes);
}

static void test_truncations(void **unused)
{
    (void)unused;
    int64_t size_bytes = 0;
    char *bytes = make(&size_bytes);
    for (int64_t length = 0; length < size_bytes; length++)
        refused("x.state: not a state file", copy(bytes, length), length);
    char *longer = copy(bytes, size_bytes);
    longer[size_bytes] = '\0';
    refused("not a state file", longer, size_bytes + 1);
    FB_FREE(bytes);
}

/* Files that somebody signed, but that are not well formed. */
static void test_structure(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        int64_t at, value;
    } cases[] = {
        {"the number of sections is impossible", 8, -1},
        {"the number of sections is impossible", 8, FB_STATE_SECTIONS_MAX + 1},
        {"the number of sections is impossible", 8, 40},
        {"there are bytes behind the last section", 8, 2},
        {"a section is longer than the file", TITLE_BYTES + FB_STATE_NAME_CHARS, -1},
        {"a section is longer than the file", TITLE_BYTES + FB_STATE_NAME_CHARS, INT64_MAX},
        {"a section is longer than the file", TITLE_BYTES + FB_STATE_NAME_CHARS, 9},
        {"there are bytes behind the last section", TITLE_BYTES + FB_STATE_NAME_CHARS, 7},
        {"a section has no proper name", TITLE_BYTES, 0},
        {"a section has no proper name", TITLE_BYTES, INT64_C(0x2020202020202020)},
        {"a section has no proper name", TITLE_BYTES + FB_STATE_NAME_CHARS - 8, INT64_C(0x4141414141414141)},
    };
    int64_t size_bytes = 0;
    char *bytes = make(&size_bytes);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *changed = copy(bytes, size_bytes);
        memcpy(changed + cases[i].at, &cases[i].value, sizeof cases[i].value);
        sign(changed, size_bytes);
        refused(cases[i].text, changed, size_bytes);
    }
    char *twice = copy(bytes, size_bytes);
    memcpy(twice + TITLE_BYTES + ENTRY_BYTES, twice + TITLE_BYTES, FB_STATE_NAME_CHARS);
    sign(twice, size_bytes);
    refused("two sections have one name", twice, size_bytes);
    FB_FREE(bytes);
}

static void test_paths(void **unused)
{
    (void)unused;
    const int64_t value = 1;
    fb_state state = {0};
    fb_state_add(&state, "value", &value, sizeof value);
    must_fail(fb_state_write(&state, "/nowhere/x.state"), "/nowhere/x.state.tmp: cannot create");
    must_fail(fb_state_read("/nowhere/x.state", &state), "/nowhere/x.state: cannot open");
    must_fail(fb_state_read("/tmp", &state), "/tmp: not a regular file");
}

static int set_up(void **unused)
{
    (void)unused;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    unlink(path_of("good"));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_flips), cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_structure),  cmocka_unit_test(test_paths), cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
