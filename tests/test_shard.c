/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards: what is written is read back bit for bit, in order, within the cache limit; damage is found before HDF5 sees
 * it.
 */

#include "core/file.h"
#include "core/rng.h"
#include "data/checksums.h"
#include "data/shard.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { VOXELS = 6 * 5 * 4, VOLUME_BYTES = VOXELS * (FB_MODALITIES * 4 + 1) };
static const int64_t shape[3] = {6, 5, 4};

/* --- a folder with one hospital and a test shard
 * ------------------------------------------------------------------------- */

/* Case `number`: int16 values with both extremes; odd numbers have fractions, which need float32. */
static fb_volume *make_volume(int number)
{
    static const uint8_t labels[] = {0, 1, 2, 4};
    const fb_rng rng = {.seed = (uint64_t)number, .purpose = FB_RNG_TEST};
    fb_volume *volume = NULL;
    char subject[FB_SUBJECT_CHARS];
    snprintf(subject, sizeof subject, "Brats18_A_%d_1", number);
    must(fb_volume_create(subject, shape, &volume));
    for (uint32_t i = 0; i < VOXELS * FB_MODALITIES; i++)
        volume->image[i] = floorf((float)fb_rng_range(&rng, i, -32768.0, 32768.0)) + (number % 2 ? 0.25f : 0.0f);
    for (uint32_t i = 0; i < VOXELS; i++)
        volume->label[i] = labels[fb_rng_below(&rng, i, 4)];
    volume->image[0] = -32768.0f;
    volume->image[1] = 32767.0f;
    return volume;
}

static void add(fb_shard_writer *writer, int number, fb_split split)
{
    char sha256[65];
    fb_volume *volume = make_volume(number);
    must(fb_shard_writer_add(writer, volume, split, "HGG", "A", sha256));
    assert_int_equal(strlen(sha256), 64);
    fb_volume_destroy(&volume);
}

static void write_text(const char *folder, const char *file, const char *text)
{
    char path[FB_PATH_CHARS];
    must(fb_path_join(path, folder, file));
    must(fb_file_write_atomic(path, text, (int64_t)strlen(text)));
}

static void write_sums(const char *folder)
{
    static const char *const files[] = {"hospital_00.h5", "test.h5", "manifest.csv"};
    must(fb_checksums_write(folder, files, 3));
}

#define HEAD "subject,site,grade,hospital,split,depth,height,width,sha256\n"
#define LINE(number, split) "Brats18_A_" number "_1,A,HGG,A," split ",6,5,4,0\n"
#define MANIFEST HEAD LINE("9", "train") LINE("3", "train") LINE("5", "validation") LINE("4", "train") LINE("1", "test")

static void make_temporary(char folder[64])
{
    snprintf(folder, 64, "/tmp/fb_shard_XXXXXX");
    assert_non_null(mkdtemp(folder));
}

static void make_folder(char folder[64])
{
    fb_shard_writer *writer = NULL;
    make_temporary(folder);
    must(fb_shard_writer_create(folder, "hospital_00.h5", "A", 0, &writer));
    add(writer, 9, FB_SPLIT_TRAIN);
    add(writer, 3, FB_SPLIT_TRAIN);
    add(writer, 5, FB_SPLIT_VALIDATION);
    add(writer, 4, FB_SPLIT_TRAIN);
    must(fb_shard_writer_finish(&writer));
    must(fb_shard_writer_create(folder, "test.h5", "test", -1, &writer));
    add(writer, 1, FB_SPLIT_TEST);
    must(fb_shard_writer_finish(&writer));
    write_text(folder, "manifest.csv", MANIFEST);
    write_sums(folder);
}

static void remove_file(const char *folder, const char *file)
{
    char path[FB_PATH_CHARS];
    must(fb_path_join(path, folder, file));
    unlink(path);
}

static void remove_folder(const char *folder)
{
    static const char *const files[] = {"hospital_00.h5", "test.h5", "manifest.csv", "SHA256SUMS", "other.h5"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        remove_file(folder, files[i]);
    assert_int_equal(rmdir(folder), 0);
}

static void check_volume(fb_shard *shard, fb_split split, int64_t index, int number)
{
    const fb_volume *found = NULL;
    fb_volume *expected = make_volume(number);
    must(fb_shard_volume(shard, split, index, &found));
    assert_string_equal(found->subject, expected->subject);
    assert_string_equal(fb_shard_subject(shard, split, index), expected->subject);
    assert_memory_equal(found->shape, shape, sizeof shape);
    assert_memory_equal(fb_shard_shape(shard, split, index), shape, sizeof shape);
    assert_memory_equal(found->image, expected->image, VOXELS * FB_MODALITIES * sizeof(float));
    assert_memory_equal(found->label, expected->label, VOXELS);
    fb_volume_destroy(&expected);
}

/* --- what must work
 * ------------------------------------------------------------------------------------------------------ */

/* Bit for bit, int16 (4) and float32 (odd numbers), in the order of writing (9, 3, 4: not that of the names). */
static void test_round_trip(void **state)
{
    char folder[64];
    fb_shard *shard = NULL;
    (void)state;
    make_folder(folder);
    must(fb_shard_open(folder, "hospital_00.h5", 1 << 20, &shard));
    assert_int_equal(fb_shard_cases(shard, FB_SPLIT_TRAIN), 3);
    assert_int_equal(fb_shard_cases(shard, FB_SPLIT_VALIDATION), 1);
    assert_int_equal(fb_shard_cases(shard, FB_SPLIT_TEST), 0);
    for (int twice = 0; twice < 2; twice++) {
        check_volume(shard, FB_SPLIT_TRAIN, 0, 9);
        check_volume(shard, FB_SPLIT_TRAIN, 1, 3);
        check_volume(shard, FB_SPLIT_TRAIN, 2, 4);
        check_volume(shard, FB_SPLIT_VALIDATION, 0, 5);
    }
    fb_shard_close(&shard);
    must(fb_shard_open(folder, "test.h5", 0, &shard));
    check_volume(shard, FB_SPLIT_TEST, 0, 1);
    fb_shard_close(&shard);
    remove_folder(folder);
}

/* Two volumes fit: they are decoded once; the third passes through one more volume's room; 0 bytes hold nothing. */
static void test_cache(void **state)
{
    char folder[64];
    fb_shard *shard = NULL;
    const fb_volume *first = NULL, *second = NULL, *again = NULL;
    (void)state;
    make_folder(folder);
    must(fb_shard_open(folder, "hospital_00.h5", 2 * VOLUME_BYTES, &shard));
    const int64_t empty_bytes = fb_mem_live_bytes();
    must(fb_shard_volume(shard, FB_SPLIT_TRAIN, 0, &first));
    must(fb_shard_volume(shard, FB_SPLIT_TRAIN, 1, &second));
    for (int pass = 0; pass < 3; pass++) {
        check_volume(shard, FB_SPLIT_TRAIN, 2, 4);
        check_volume(shard, FB_SPLIT_VALIDATION, 0, 5);
        assert_in_range(fb_mem_live_bytes() - empty_bytes, 3 * VOLUME_BYTES, 3 * (VOLUME_BYTES + 256));
        must(fb_shard_volume(shard, FB_SPLIT_TRAIN, 0, &again));
        assert_ptr_equal(again, first);
        must(fb_shard_volume(shard, FB_SPLIT_TRAIN, 1, &again));
        assert_ptr_equal(again, second);
    }
    fb_shard_close(&shard);
    must(fb_shard_open(folder, "hospital_00.h5", VOLUME_BYTES - 1, &shard));
    check_volume(shard, FB_SPLIT_TRAIN, 0, 9);
    check_volume(shard, FB_SPLIT_TRAIN, 1, 3);
    assert_in_range(fb_mem_live_bytes() - empty_bytes, VOLUME_BYTES, VOLUME_BYTES + 256);
    fb_shard_close(&shard);
    remove_folder(folder);
}

static void test_cohort(void **state)
{
    char folder[64], sha256[65], path[FB_PATH_CHARS];
    fb_cohort *cohort = NULL;
    (void)state;
    make_folder(folder);
    must(fb_cohort_open(folder, &cohort));
    assert_int_equal(cohort->hospital_count, 1);
    assert_string_equal(cohort->hospitals[0].name, "A");
    assert_string_equal(cohort->hospitals[0].file, "hospital_00.h5");
    assert_int_equal(cohort->hospitals[0].train_cases, 3);
    assert_int_equal(cohort->hospitals[0].validation_cases, 1);
    assert_int_equal(cohort->test_cases, 1);
    must(fb_path_join(path, folder, "SHA256SUMS"));
    must(fb_file_sha256(path, sha256));
    assert_string_equal(cohort->sha256, sha256);
    fb_cohort_close(&cohort);
    remove_folder(folder);
}

static void test_regions(void **state)
{
    (void)state;
    assert_int_equal(fb_region_bits(0), 0);
    assert_int_equal(fb_region_bits(1), 1 | 2);     /* necrotic core: TC, WT */
    assert_int_equal(fb_region_bits(2), 2);         /* edema: WT */
    assert_int_equal(fb_region_bits(4), 1 | 2 | 4); /* enhancing: all */
}

/* --- what must be refused
 * ------------------------------------------------------------------------------------------------ */

static void put_byte(const char *path, int64_t position, int byte)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)position, SEEK_SET), 0);
    assert_int_equal(fputc(byte & 0xFF, file), byte & 0xFF);
    assert_int_equal(fclose(file), 0);
}

/* Flips one bit at every 97th byte in turn, and cuts the file: always the checksum, never HDF5. */
static void test_damage(void **state)
{
    char folder[64], path[FB_PATH_CHARS], *data = NULL;
    int64_t size_bytes = 0;
    fb_shard *shard = NULL;
    (void)state;
    make_folder(folder);
    must(fb_path_join(path, folder, "hospital_00.h5"));
    must(fb_file_read(path, 1 << 24, &data, &size_bytes));
    for (int64_t i = 0; i < size_bytes; i += 97) {
        put_byte(path, i, data[i] ^ 1);
        must_fail(fb_shard_open(folder, "hospital_00.h5", 0, &shard), path, "damaged");
        assert_null(shard);
        put_byte(path, i, data[i]);
    }
    must(fb_file_write_atomic(path, data, size_bytes - 1));
    must_fail(fb_shard_open(folder, "hospital_00.h5", 0, &shard), path, "damaged");
    must(fb_file_write_atomic(path, data, size_bytes));
    must(fb_shard_open(folder, "hospital_00.h5", 0, &shard));
    fb_shard_close(&shard);
    fb_mem_free(&data);
    remove_folder(folder);
}

static void test_missing(void **state)
{
    char folder[64];
    fb_shard *shard = NULL;
    fb_cohort *cohort = NULL;
    (void)state;
    make_folder(folder);
    must_fail(fb_shard_open(folder, "other.h5", 0, &shard), "no checksum for other.h5", "SHA256SUMS");
    remove_file(folder, "hospital_00.h5");
    must_fail(fb_shard_open(folder, "hospital_00.h5", 0, &shard), "hospital_00.h5", "cannot open");
    must_fail(fb_cohort_open(folder, &cohort), "hospital_00.h5", "hospital A is missing");
    write_text(folder, "SHA256SUMS", "0123  test.h5\n");
    must_fail(fb_shard_open(folder, "test.h5", 0, &shard), "SHA256SUMS:1", "not a line");
    remove_file(folder, "SHA256SUMS");
    must_fail(fb_shard_open(folder, "test.h5", 0, &shard), "SHA256SUMS", "cannot open");
    must_fail(fb_cohort_open(folder, &cohort), "SHA256SUMS", "cannot open");
    remove_file(folder, "manifest.csv");
    must_fail(fb_cohort_open(folder, &cohort), "manifest.csv", "cannot open");
    must_fail(fb_cohort_open("/nonexistent", &cohort), "/nonexistent", "no such folder");
    assert_null(cohort);
    remove_folder(folder);
}

/* A file with a correct checksum that is not one of our shards. */
static void test_foreign(void **state)
{
    static const char *const files[] = {"other.h5"};
    char folder[64];
    fb_shard *shard = NULL;
    (void)state;
    make_folder(folder);
    write_text(folder, "other.h5", "this is not HDF5");
    must(fb_checksums_write(folder, files, 1));
    must_fail(fb_shard_open(folder, "other.h5", 0, &shard), "other.h5", "cannot open");
    remove_folder(folder);
}

static void test_manifest(void **state)
{
    static const struct {
        const char *text, *message, *other;
    } faults[] = {
        {HEAD LINE("9", "train") "Brats18_A_3_1,A,HGG\n", "manifest.csv:3:", "3 fields where the header has 9"},
        {HEAD LINE("9", "train") LINE("3", "dev"), "manifest.csv:3", "split \"dev\""},
        {HEAD LINE("9", "validation") LINE("3", "test"), "hospital A", "no train case"},
        {HEAD LINE("9", "test"), "manifest.csv", "no hospital"},
        {"subject,split\nx,train\n", "manifest.csv:1:", "hospital"},
        {"", "manifest.csv", "empty"},
    };
    char folder[64];
    fb_cohort *cohort = NULL;
    (void)state;
    make_folder(folder);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        write_text(folder, "manifest.csv", faults[i].text);
        write_sums(folder);
        must_fail(fb_cohort_open(folder, &cohort), faults[i].message, faults[i].other);
    }
    write_sums(folder);
    write_text(folder, "manifest.csv", MANIFEST LINE("7", "train"));
    must_fail(fb_cohort_open(folder, &cohort), "manifest.csv", "damaged");
    remove_folder(folder);
}

/* Bad volumes, a subject twice, an aborted writer: an error, and no file under the final name. */
static void test_writer_refuses(void **state)
{
    char folder[64], sha256[65];
    fb_shard_writer *writer = NULL;
    fb_volume *volume = make_volume(2);
    (void)state;
    make_temporary(folder);
    must(fb_shard_writer_create(folder, "hospital_00.h5", "A", 0, &writer));
    volume->label[7] = 3;
    must_fail(fb_shard_writer_add(writer, volume, FB_SPLIT_TRAIN, "HGG", "A", sha256), "Brats18_A_2_1", "label 3");
    volume->label[7] = 1;
    volume->image[4 * 5 + 3] = NAN;
    must_fail(fb_shard_writer_add(writer, volume, FB_SPLIT_TRAIN, "HGG", "A", sha256), "voxel 5 of flair", "finite");
    volume->image[4 * 5 + 3] = 0.0f;
    must(fb_shard_writer_add(writer, volume, FB_SPLIT_TRAIN, "HGG", "A", sha256));
    must_fail(fb_shard_writer_add(writer, volume, FB_SPLIT_TRAIN, "HGG", "A", sha256), "Brats18_A_2_1", "exists");
    fb_shard_writer_abort(&writer);
    assert_int_equal(rmdir(folder), 0); /* so it is empty */
    must_fail(fb_shard_writer_create("/nonexistent", "a.h5", "A", 0, &writer), "/nonexistent/a.h5", "cannot create");
    assert_null(writer);
    fb_volume_destroy(&volume);
}

/* The disk changes a byte behind the writer's back: finish finds it, and the shard gets no name. The volume is large
 * and random, so that the middle of the file is image data. */
static void test_verification(void **state)
{
    static const int64_t large[3] = {16, 32, 32};
    const fb_rng rng = {.purpose = FB_RNG_TEST};
    char folder[64], sha256[65], path[FB_PATH_CHARS], *data = NULL;
    int64_t size_bytes = 0;
    fb_shard_writer *writer = NULL;
    fb_volume *volume = NULL;
    (void)state;
    make_temporary(folder);
    must(fb_volume_create("Brats18_A_1_1", large, &volume));
    for (uint32_t i = 0; i < 16 * 32 * 32 * FB_MODALITIES; i++)
        volume->image[i] = (float)fb_rng_uniform(&rng, i);
    must(fb_shard_writer_create(folder, "hospital_00.h5", "A", 0, &writer));
    must(fb_shard_writer_add(writer, volume, FB_SPLIT_TRAIN, "HGG", "A", sha256));
    must(fb_path_join(path, folder, "hospital_00.h5.tmp"));
    must(fb_file_read(path, 1 << 24, &data, &size_bytes));
    put_byte(path, size_bytes / 2, data[size_bytes / 2] ^ 1);
    must_fail(fb_shard_writer_finish(&writer), path, "Brats18_A_1_1");
    assert_null(writer);
    assert_int_equal(rmdir(folder), 0); /* so it is empty */
    fb_mem_free(&data);
    fb_volume_destroy(&volume);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_cohort),
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_verification),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("shard", tests, NULL, NULL);
}
