/* SPDX-License-Identifier: Apache-2.0
 *
 * manifest.csv of a shard folder that has three hospitals' files and a test shard. What is accepted is written again
 * from the counts of the hospitals and read to the same.
 */
#include "fuzz_folder.h"

#include "data/shard.h"

enum { FILES = 3, LIMIT_BYTES = 64 * FUZZ_INPUT_MAX, TEXT_CHARS = 16 * FUZZ_INPUT_MAX };

/* The manifest and a SHA256SUMS that fits it; the shards are only looked for. */
static void fill_folder(const void *manifest, size_t size)
{
    char sums[FB_SHA256_CHARS + 16], sha256[FB_SHA256_CHARS], name[32], path[FB_PATH_CHARS];
    fuzz_must(fb_path_join(path, fuzz_folder(), FB_SHARD_TEST_FILE));
    if (!fb_file_exists(path)) {
        fuzz_folder_write(FB_SHARD_TEST_FILE, "", 0);
        for (int i = 0; i < FILES; i++) {
            snprintf(name, sizeof name, FB_SHARD_HOSPITAL_FILE, i);
            fuzz_folder_write(name, "", 0);
        }
    }
    fb_sha256(manifest, (int64_t)size, sha256);
    const int chars = snprintf(sums, sizeof sums, "%s  manifest.csv\n", sha256);
    fuzz_folder_write("SHA256SUMS", sums, (size_t)chars);
    fuzz_folder_write("manifest.csv", manifest, size);
}

static size_t print_rows(char *text, size_t chars, int64_t count, const char *hospital, fb_split split)
{
    for (int64_t i = 0; i < count; i++)
        chars += (size_t)snprintf(text + chars, TEXT_CHARS - chars, "%s,%s\n", hospital, fb_split_name(split));
    FB_ASSERT(chars < TEXT_CHARS);
    return chars;
}

static void write_and_read(const fb_cohort *cohort)
{
    char text[TEXT_CHARS];
    fb_cohort *again = NULL;
    size_t chars = (size_t)snprintf(text, sizeof text, "Hospital,split\n");
    for (int h = 0; h < cohort->hospital_count; h++) {
        const fb_cohort_hospital *hospital = &cohort->hospitals[h];
        FB_ASSERT(hospital->train_cases > 0);
        chars = print_rows(text, chars, hospital->train_cases, hospital->name, FB_SPLIT_TRAIN);
        chars = print_rows(text, chars, hospital->validation_cases, hospital->name, FB_SPLIT_VALIDATION);
    }
    chars = print_rows(text, chars, cohort->test_cases, "x", FB_SPLIT_TEST);
    fill_folder(text, chars);
    fuzz_must(fb_cohort_open(fuzz_folder(), &again));
    FB_ASSERT(again->hospital_count == cohort->hospital_count && again->test_cases == cohort->test_cases);
    for (int h = 0; h < cohort->hospital_count; h++) {
        FB_ASSERT(strcmp(again->hospitals[h].name, cohort->hospitals[h].name) == 0);
        FB_ASSERT(strcmp(again->hospitals[h].file, cohort->hospitals[h].file) == 0);
        FB_ASSERT(again->hospitals[h].train_cases == cohort->hospitals[h].train_cases);
        FB_ASSERT(again->hospitals[h].validation_cases == cohort->hospitals[h].validation_cases);
    }
    fb_cohort_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    fb_cohort *cohort = NULL;
    if (size > FUZZ_INPUT_MAX)
        return 0;
    fill_folder(data, size);
    fb_status status = fb_cohort_open(fuzz_folder(), &cohort);
    if (status != FB_OK) {
        FB_ASSERT(cohort == NULL);
        fuzz_refused(&status);
    } else {
        FB_ASSERT(cohort->hospital_count >= 1 && cohort->hospital_count <= FILES);
        write_and_read(cohort);
        fb_cohort_close(&cohort);
    }
    return fuzz_end(start, LIMIT_BYTES);
}
