/* SPDX-License-Identifier: Apache-2.0
 *
 * brats-split: a BraTS cohort of NIfTI files -> one HDF5 shard per hospital, a common test shard and a manifest.
 */
#include "cases.h"
#include "config/options.h"
#include "core/build_info.h"
#include "core/cpu.h"
#include "core/log.h"
#include "partition.h"
#include "shards.h"

#include <stdio.h>
#include <string.h>

typedef struct split_settings {
    char input[FB_TEXT_CHARS], output[FB_TEXT_CHARS], partition[FB_TEXT_CHARS];
    double test_fraction, validation_fraction;
    int64_t seed;
    int on_duplicate; /* fb_on_duplicate */
} split_settings;

#define FIELD(name) offsetof(split_settings, name)

static const fb_option table[] = {
    {"", "input", FB_OPTION_TEXT, "", NULL, 0, 0, NULL, "folder of the cohort: HGG|LGG/<subject>/ or <subject>/",
     FIELD(input)},
    {"", "output", FB_OPTION_TEXT, "", NULL, 0, 0, NULL, "folder to make; must not exist or be empty", FIELD(output)},
    {"", "partition", FB_OPTION_TEXT, "", "", 0, 0, NULL,
     "CSV of hospitals: Subject_ID and Partition_ID (FeTS) or site, and perhaps grade and split; empty: the sites in "
     "the "
     "names Brats18_<site>_<case>_1",
     FIELD(partition)},
    {"", "test-fraction", FB_OPTION_REAL, "", "0.15", 0.0, 0.9, NULL,
     "of each hospital's cases, drawn by grade, at least 1 of 3; not used when the CSV has a split column",
     FIELD(test_fraction)},
    {"", "validation-fraction", FB_OPTION_REAL, "", "0.1", 0.0, 0.9, NULL,
     "of each hospital's cases, at least 1 of 4; 0: none; not used when the CSV names validation cases",
     FIELD(validation_fraction)},
    {"", "seed", FB_OPTION_INT, "", "1", 0, 9007199254740992.0, NULL, "of the random draw", FIELD(seed)},
    {"", "on-duplicate", FB_OPTION_CHOICE, "", "fail-test", 0, 0, "fail-test|warn|fail",
     "a patient who is in the cohort twice, by equal images or by name: fail when it is for test and for training or "
     "validation, and warn otherwise; only warn; always fail",
     FIELD(on_duplicate)},
};
enum { TABLE_COUNT = sizeof table / sizeof *table };

static void print_help(void)
{
    printf("brats-split: writes one HDF5 shard per hospital, a common test shard, manifest.csv and SHA256SUMS.\n\n"
           "  brats-split --input DIR --output DIR [--partition FILE.csv] [--test-fraction F]\n"
           "              [--validation-fraction F] [--seed N] [--on-duplicate=warn]\n\n");
    fb_options_help(stdout, table, TABLE_COUNT);
    printf("\nSplits: a hospital keeps at least 1 train case. Of 2 cases, 1 is for test or, in turn, validation.\n"
           "Li et al. 2019 exactly (242 train, 43 test): --partition brats2018_li2019.csv --validation-fraction 0\n");
}

static fb_status read_settings(int argc, char **argv, split_settings *settings)
{
    fb_options *options = NULL;
    int extra_count = 0;
    FB_TRY(fb_options_create(table, TABLE_COUNT, settings, &options));
    fb_status status = fb_options_read_args(options, argc, argv, NULL, 0, &extra_count);
    if (status == FB_OK)
        status = fb_options_complete(options);
    fb_options_destroy(&options);
    FB_TRY(status);
    if (settings->test_fraction + settings->validation_fraction > 0.9)
        return FB_USAGE("test-fraction + validation-fraction = %g exceeds 0.9; leave cases for training",
                        settings->test_fraction + settings->validation_fraction);
    for (size_t n = strlen(settings->output); n > 1 && settings->output[n - 1] == '/'; n--)
        settings->output[n - 1] = '\0';
    return FB_OK;
}

static fb_status make_partition(const split_settings *settings, fb_cases *cases, fb_partition **out)
{
    if (settings->partition[0])
        FB_TRY(fb_partition_by_table(settings->partition, cases, out));
    else
        FB_TRY(fb_partition_by_site(cases, out));
    if ((*out)->has_test)
        fb_log_info("test cases are those of %s; test-fraction is not used", settings->partition);
    if ((*out)->has_validation)
        fb_log_info("validation cases are those of %s; validation-fraction is not used", settings->partition);
    return fb_partition_draw(*out, cases, settings->test_fraction, settings->validation_fraction,
                             (uint64_t)settings->seed);
}

static int64_t count_grade(const fb_cases *cases, const fb_partition *partition, int hospital, const char *grade)
{
    int64_t count = 0;
    for (int64_t i = 0; i < cases->count; i++)
        count += partition->of_case[i].hospital == hospital && strcmp(cases->list[i].grade, grade) == 0;
    return count;
}

static void print_summary(const fb_cases *cases, const fb_partition *partition)
{
    long long total[5] = {0};
    printf("%-16s %6s %6s %6s %10s %6s  %s\n", "hospital", "HGG", "LGG", "train", "validation", "test", "shard");
    for (int h = 0; h < partition->hospital_count; h++) {
        const long long row[5] = {count_grade(cases, partition, h, "HGG"), count_grade(cases, partition, h, "LGG"),
                                  fb_partition_count(partition, h, FB_SPLIT_TRAIN),
                                  fb_partition_count(partition, h, FB_SPLIT_VALIDATION),
                                  fb_partition_count(partition, h, FB_SPLIT_TEST)};
        for (int i = 0; i < 5; i++)
            total[i] += row[i];
        printf("%-16s %6lld %6lld %6lld %10lld %6lld  hospital_%02d.h5\n", partition->hospital[h], row[0], row[1],
               row[2], row[3], row[4], h);
    }
    printf("%-16s %6lld %6lld %6lld %10lld %6lld\n", "all", total[0], total[1], total[2], total[3], total[4]);
}

static fb_status split(const split_settings *settings)
{
    fb_cases *cases = NULL;
    fb_partition *partition = NULL;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, fb_cases_find(settings->input, &cases), done);
    FB_TRY_GOTO(status, make_partition(settings, cases, &partition), done);
    FB_TRY_GOTO(status, fb_shards_prepare(settings->output), done);
    FB_TRY_GOTO(status, fb_shards_write(settings->output, cases, partition, (fb_on_duplicate)settings->on_duplicate),
                done);
    print_summary(cases, partition);
done:
    fb_partition_free(&partition);
    fb_cases_free(&cases);
    return status;
}

int main(int argc, char **argv)
{
    if (!fb_cpu_suffices("brats-split"))
        return FB_EXIT_FAILED;
    split_settings settings = {0};
    if (fb_options_wants(argc, argv, "--help")) {
        print_help();
        return FB_EXIT_OK;
    }
    if (fb_options_wants(argc, argv, "--version")) {
        printf("brats-split %s (%s)\n", fb_build_version(), fb_build_revision());
        return FB_EXIT_OK;
    }
    fb_status status = read_settings(argc, argv, &settings);
    if (status == FB_OK)
        status = split(&settings);
    const int exit_code = fb_error_exit_code(status);
    if (status != FB_OK)
        fb_log_error("%s", fb_error_message(status));
    fb_error_free(&status);
    return exit_code;
}
