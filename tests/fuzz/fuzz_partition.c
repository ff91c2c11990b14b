/* SPDX-License-Identifier: Apache-2.0
 *
 * The table that names the hospital of every subject, for a cohort of four. What is accepted is written and read again
 * to the same partition; then the splits are drawn, and the sites that the table told are hospitals.
 */
#include "fuzz.h"

#include "data/csv.h"
#include "partition.h"

enum { CASES = 4, LIMIT_BYTES = 32 * FUZZ_INPUT_MAX };

static const char *const subjects[CASES] = {"Brats18_2013_0_1", "Brats18_CBICA_AAB_1", "a", "b"};

/* `list` has what the folders of a cohort tell: two sites and one grade. */
static void make_cohort(fb_case list[CASES], fb_cases *cohort)
{
    for (int i = 0; i < CASES; i++) {
        snprintf(list[i].subject, sizeof list[i].subject, "%s", subjects[i]);
        snprintf(list[i].site, sizeof list[i].site, "%s", i == 0 ? "2013" : i == 1 ? "CBICA" : "NA");
        snprintf(list[i].grade, sizeof list[i].grade, "%s", i == 2 ? "HGG" : "NA");
    }
    *cohort = (fb_cases){.count = CASES, .list = list};
}

static void check_same(const fb_partition *a, const fb_partition *b)
{
    FB_ASSERT(a->hospital_count == b->hospital_count && a->case_count == b->case_count);
    for (int h = 0; h < a->hospital_count; h++)
        FB_ASSERT(strcmp(a->hospital[h], b->hospital[h]) == 0);
    for (int64_t i = 0; i < a->case_count; i++)
        FB_ASSERT(a->of_case[i].hospital == b->of_case[i].hospital && a->of_case[i].split == b->of_case[i].split);
}

static void write_and_read(const fb_partition *partition, const fb_cases *cohort)
{
    fb_case list[CASES];
    fb_cases folders;
    fb_partition *again = NULL;
    char text[FUZZ_INPUT_MAX];
    int chars = snprintf(text, sizeof text, "split,site,grade,subject_id,partition_id\r\n");
    for (int i = 0; i < CASES; i++)
        chars += snprintf(text + chars, sizeof text - (size_t)chars, "%s,%s,%s,%s,%s\r\n",
                          fb_split_name(partition->of_case[i].split), cohort->list[i].site, cohort->list[i].grade,
                          cohort->list[i].subject, partition->hospital[partition->of_case[i].hospital]);
    FB_ASSERT(chars < (int)sizeof text);
    make_cohort(list, &folders);
    fuzz_must(fb_partition_by_table(fuzz_file(text, (size_t)chars), &folders, &again));
    check_same(partition, again);
    fb_partition_free(&again);
}

/* A line for every subject, none twice. */
static void check_lines(const uint8_t *data, size_t size)
{
    fb_csv *csv = NULL;
    fuzz_must(fb_csv_read(fuzz_file(data, size), &csv));
    FB_ASSERT(fb_csv_rows(csv) == CASES);
    fb_csv_free(&csv);
}

static void draw(fb_partition *partition, const fb_cases *cohort)
{
    fb_status status = fb_partition_draw(partition, cohort, 0.25, 0.25, 7);
    int64_t count = 0;
    if (status != FB_OK) {
        fuzz_refused(&status);
        return;
    }
    for (int h = 0; h < partition->hospital_count; h++) {
        FB_ASSERT(fb_partition_count(partition, h, FB_SPLIT_TRAIN) > 0);
        for (int split = FB_SPLIT_TRAIN; split <= FB_SPLIT_TEST; split++)
            count += fb_partition_count(partition, h, (fb_split)split);
    }
    FB_ASSERT(count == CASES);
}

/* A hospital for every site, if all are known. */
static void use_sites(const fb_cases *cohort)
{
    fb_partition *partition = NULL;
    int known = 1;
    for (int i = 0; i < CASES; i++)
        known = known && strcmp(cohort->list[i].site, "NA") != 0;
    fb_status status = fb_partition_by_site(cohort, &partition);
    FB_ASSERT((status == FB_OK) == known);
    if (!known) {
        fuzz_refused(&status);
        return;
    }
    for (int i = 0; i < CASES; i++)
        FB_ASSERT(strcmp(partition->hospital[partition->of_case[i].hospital], cohort->list[i].site) == 0);
    fb_partition_free(&partition);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    fb_case list[CASES];
    fb_cases cohort;
    fb_partition *partition = NULL;
    if (size > FUZZ_INPUT_MAX)
        return 0;
    make_cohort(list, &cohort);
    fb_status status = fb_partition_by_table(fuzz_file(data, size), &cohort, &partition);
    if (status != FB_OK) {
        FB_ASSERT(partition == NULL);
        fuzz_refused(&status);
    } else {
        check_lines(data, size);
        write_and_read(partition, &cohort);
        draw(partition, &cohort);
        use_sites(&cohort);
        fb_partition_free(&partition);
    }
    return fuzz_end(start, LIMIT_BYTES);
}
