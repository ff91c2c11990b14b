/* SPDX-License-Identifier: Apache-2.0
 *
 * Without arguments: the tests. As `test_safetensors generate PATH` it writes the file that check_results.py reads.
 */
#include "core/rng.h"
#include "io/safetensors.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COUNT = 2 * 27 + 3 + 4, TENSORS = 3, FILE_MAX = 8192 };

static char folder[FB_PATH_CHARS]; /* of this run of the tests */

static fb_tensor_info tensors[TENSORS] = {
    {.name = "convInit.conv.weight", .shape = {2, 1, 3, 3, 3}, .rank = 5, .offset = 0, .count = 54},
    {.name = "norm.weight", .shape = {3}, .rank = 1, .offset = 54, .count = 3},
    {.name = "last.bias", .shape = {4}, .rank = 1, .offset = 57, .count = 4},
};
static const fb_params params = {.count = COUNT, .tensor_count = TENSORS, .tensors = tensors};

/* The headers below are variations of this one, for data of 244 bytes. */
#define CONV "\"convInit.conv.weight\":{\"dtype\":\"F32\",\"shape\":[2,1,3,3,3],\"data_offsets\":[0,216]}"
#define NORM "\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[216,228]}"
#define LAST "\"last.bias\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[228,244]}"

static void weights(float w[COUNT])
{
    const fb_rng rng = {.seed = 3, .purpose = FB_RNG_TEST};
    for (uint32_t i = 0; i < COUNT; i++)
        w[i] = (float)fb_rng_normal(&rng, i);
    w[0] = -0.0f, w[1] = 1e-42f, w[2] = 3.4028235e38f; /* signed zero, subnormal, largest */
}

static const char *path_of(const char *name)
{
    static char path[FB_PATH_CHARS];
    must(fb_path_join(path, folder, name));
    return path;
}

static void write_file(const char *path, const void *bytes, size_t size_bytes)
{
    (void)unlink(path); /* a new file each time: replacing one flushes it to disk, thousands of times here */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size_bytes, file), size_bytes);
    assert_int_equal(fclose(file), 0);
}

/* Length, header and data_bytes of finite data, with the length as given or, when 0, the true one. */
static size_t build(char file[FILE_MAX], const char *header, uint64_t length, size_t data_bytes)
{
    float data[COUNT + 8] = {0};
    const size_t chars = strlen(header);
    assert_true(8 + chars + data_bytes <= FILE_MAX && data_bytes <= sizeof data);
    length = length ? length : chars;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, chars);
    memcpy(file + 8 + chars, data, data_bytes);
    return 8 + chars + data_bytes;
}

/* The file is refused, with `part` and the path in the message, and w is unchanged. */
static void assert_refused(const void *bytes, size_t size_bytes, const char *part)
{
    float w[COUNT], before[COUNT];
    const char *path = path_of("hostile.safetensors");
    weights(w);
    memcpy(before, w, sizeof w);
    write_file(path, bytes, size_bytes);
    must_fail(fb_safetensors_read(path, &params, w), part, path);
    assert_memory_equal(w, before, sizeof w);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const metadata[] = {"note", "quote \" backslash \\ newline \n Zürich", "round", "7"};
    float w[COUNT], back[COUNT] = {0};
    char sha256[FB_SHA256_CHARS], expected[FB_SHA256_CHARS], *bytes = NULL;
    int64_t size_bytes = 0;
    uint64_t length = 0;
    weights(w);
    must(fb_safetensors_write(path_of("model.safetensors"), &params, w, metadata, 2, sha256));
    must(fb_safetensors_read(path_of("model.safetensors"), &params, back));
    assert_memory_equal(w, back, sizeof w);
    fb_sha256(w, sizeof w, expected);
    assert_string_equal(sha256, expected);
    must(fb_file_read(path_of("model.safetensors"), FILE_MAX, &bytes, &size_bytes));
    memcpy(&length, bytes, 8);
    assert_int_equal(length % 8, 0);
    assert_int_equal(size_bytes, 8 + (int64_t)length + COUNT * 4);
    assert_memory_equal(bytes + 8,
                        "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"quote \\\" backslash \\\\ newline "
                        "\\u000a Z",
                        76);
    FB_FREE(bytes);
}

/* The data begins at a multiple of 8 whatever the length of the metadata. */
static void test_alignment(void **state)
{
    (void)state;
    float w[COUNT], back[COUNT] = {0};
    weights(w);
    for (int chars = 0; chars <= 8; chars++) {
        const char *const metadata[] = {"note", &"xxxxxxxx"[8 - chars]};
        char *bytes = NULL;
        int64_t size_bytes = 0;
        uint64_t length = 1;
        must(fb_safetensors_write(path_of("padded.safetensors"), &params, w, metadata, chars > 0, NULL));
        must(fb_file_read(path_of("padded.safetensors"), FILE_MAX, &bytes, &size_bytes));
        memcpy(&length, bytes, 8);
        assert_int_equal(length % 8, 0);
        FB_FREE(bytes);
        must(fb_safetensors_read(path_of("padded.safetensors"), &params, back));
        assert_memory_equal(w, back, sizeof w);
    }
}

/* Other writers order keys and data differently and put spaces in. */
static void test_other_writers(void **state)
{
    (void)state;
    static const char *const header = " {} "; /* a leading space is refused; the good ones follow */
    static const char *const good[] = {
        "{" CONV "," NORM "," LAST "}",
        "{" LAST "," CONV "," NORM ",\"__metadata__\":{}}   ",
        "{ \"__metadata__\" : { \"a\\\"b\" : \"\\u00fc\" , \"c\":\"\" } ,\n" NORM " ,\t" LAST "," CONV " }",
        "{\"convInit.conv.weight\":{\"data_offsets\":[28,244],\"shape\":[2,1,3,3,3],\"dtype\":\"F32\"},"
        "\"norm.weight\":{\"shape\":[3],\"dtype\":\"F32\",\"data_offsets\":[0,12]},"
        "\"last.bias\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[12,28]}}",
    };
    char file[FILE_MAX];
    float w[COUNT];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const size_t size_bytes = build(file, good[i], 0, COUNT * 4);
        const float marker = 5.0f; /* the first of the data belongs to norm.weight in the last header */
        memcpy(file + size_bytes - COUNT * 4, &marker, 4);
        write_file(path_of("other.safetensors"), file, size_bytes);
        must(fb_safetensors_read(path_of("other.safetensors"), &params, w));
        assert_true(w[i == 3 ? 54 : 0] == 5.0f && w[i == 3 ? 0 : 54] == 0.0f);
    }
    assert_refused(file, build(file, header, 0, 0), "expected '{' at byte 8");
}

static void test_truncated(void **state)
{
    (void)state;
    float w[COUNT];
    char *bytes = NULL;
    int64_t size_bytes = 0;
    weights(w);
    must(fb_safetensors_write(path_of("whole.safetensors"), &params, w, NULL, 0, NULL));
    must(fb_file_read(path_of("whole.safetensors"), FILE_MAX, &bytes, &size_bytes));
    for (int64_t n = 0; n < size_bytes; n++)
        assert_refused(bytes, (size_t)n, "");
    FB_FREE(bytes);
}

/* Every byte of the header set to several values: refused, or read as the same weights (spaces, metadata). */
static void test_corrupted_header(void **state)
{
    (void)state;
    static const char values[] = {'0', '9', '"', '\\', '{', '}', ',', ' ', 'x', '\0', (char)0xff};
    float w[COUNT], back[COUNT];
    char *bytes = NULL;
    int64_t size_bytes = 0, refused = 0;
    weights(w);
    must(fb_safetensors_write(path_of("whole.safetensors"), &params, w, NULL, 0, NULL));
    must(fb_file_read(path_of("whole.safetensors"), FILE_MAX, &bytes, &size_bytes));
    for (int64_t i = 0; i < size_bytes - COUNT * 4; i++) {
        const char kept = bytes[i];
        for (size_t v = 0; v < sizeof values; v++) {
            bytes[i] = values[v];
            write_file(path_of("corrupted.safetensors"), bytes, (size_t)size_bytes);
            fb_status status = fb_safetensors_read(path_of("corrupted.safetensors"), &params, back);
            if (status == FB_OK)
                assert_memory_equal(w, back, sizeof w);
            refused += status != FB_OK;
            fb_error_free(&status);
        }
        bytes[i] = kept;
    }
    assert_true(refused > 2000);
    FB_FREE(bytes);
}

static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *header, *expected;
        uint64_t length;   /* 0: the true one */
        size_t data_bytes; /* 0: 244 */
    } cases[] = {
        {"{" CONV "," NORM "," LAST "}", "cut off, or not a safetensors file", UINT64_MAX, 0},
        {"{" CONV "," NORM "," LAST "}", "cut off, or not a safetensors file", (uint64_t)1 << 40, 0},
        {"{" CONV "," NORM "," LAST "}", "cut off, or not a safetensors file", 1000, 0},
        {"{" CONV "," NORM "," LAST "}", "expected", 40, 0},
        {"{" CONV "," NORM "," LAST "}", "cut off or has something appended", 0, 248},
        {"{" CONV "," NORM "," LAST "}", "not 16 bytes within the data of 240", 0, 240},
        {"{" CONV "," NORM "," NORM "," LAST "}", "norm.weight is there twice", 0, 0},
        {"{" CONV "," NORM "}", "last.bias is missing", 0, 0},
        {"{" CONV "," NORM "," LAST ",\"more\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[244,244]}}",
         "more is not one of this network's 3", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[216,228]}," LAST "}",
         "norm.weight: dtype F16 instead of F32", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[216,228]}," LAST "}",
         "norm.weight: shape (3, 1), but the network has (3)", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,3],\"data_offsets\":[216,228]}," LAST "}",
         "at most 5 numbers", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[215,227]}," LAST "}",
         "norm.weight overlap", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[232,244]}," LAST "}", "overlap",
         0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[216,229]}," LAST "}",
         "216 to 229 are not 12 bytes", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[228,216]}," LAST "}",
         "228 to 216 are not 12 bytes", 0, 0},
        {"{" CONV "," NORM ",\"last.bias\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[232,248]}}",
         "cut off or has something appended", 0, 248}, /* a hole */
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[216,99999999999999999999]}," LAST
         "}",
         "1 to 18 digits", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[-3],\"data_offsets\":[216,228]}," LAST "}",
         "1 to 18 digits", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[3]}," LAST "}", "two data_offsets", 0, 0},
        {"{" CONV ",\"norm.weight\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}," LAST "}", "each once", 0, 0},
        {"{" CONV "," NORM "," LAST "} x", "nothing more", 0, 0},
        {"{" CONV "," NORM "," LAST ",}", "expected '\"'", 0, 0},
        {"{\"__metadata__\":{},\"__metadata__\":{}," CONV "," NORM "," LAST "}", "__metadata__ is there twice", 0, 0},
        {"{\"__metadata__\":{\"a\":1}," CONV "," NORM "," LAST "}", "expected '\"'", 0, 0},
        {"{\"__metadata__\":{\"a\":\"b\\", "expected '\"'", 0, 0},
        {"{\"norm\\u002eweight\":{}}", "plain characters", 0, 0},
        {"[]", "expected '{'", 0, 0},
        {"{}", "expected '\"'", 0, 0},
        {"{", "expected '\"'", 0, 0},
    };
    char file[FILE_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(file,
                       build(file, cases[i].header, cases[i].length, cases[i].data_bytes ? cases[i].data_bytes : 244),
                       cases[i].expected);
    assert_refused(file, build(file, "", (uint64_t)1 << 20, 0), "cut off");
}

static void test_not_finite(void **state)
{
    (void)state;
    const float values[] = {NAN, INFINITY, -INFINITY};
    char file[FILE_MAX];
    const size_t size_bytes = build(file, "{" CONV "," NORM "," LAST "}", 0, COUNT * 4);
    for (int i = 0; i < 3; i++) {
        memcpy(file + size_bytes - 4, &values[i], 4);
        assert_refused(file, size_bytes, "last.bias: weight 3 is");
    }
}

static void test_files(void **state)
{
    (void)state;
    float w[COUNT] = {0};
    must_fail(fb_safetensors_read(path_of("missing.safetensors"), &params, w), "missing.safetensors: cannot open");
    must_fail(fb_safetensors_write(path_of("no/model.safetensors"), &params, w, NULL, 0, NULL), "cannot create");
}

static int generate(const char *path)
{
    static const char *const metadata[] = {"note", "quote \" backslash \\ newline \n Zürich"};
    float w[COUNT];
    char sha256[FB_SHA256_CHARS];
    weights(w);
    fb_status status = fb_safetensors_write(path, &params, w, metadata, 1, sha256);
    if (status == FB_OK)
        puts(sha256);
    else
        fprintf(stderr, "%s\n", fb_error_message(status));
    return status != FB_OK;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "generate") == 0)
        return generate(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),           cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_other_writers),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_corrupted_header),     cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_not_finite),           cmocka_unit_test(test_files),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    snprintf(folder, sizeof folder, "%s/test_safetensors.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[FB_PATH_CHARS + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0 || failed != 0;
}
