/* SPDX-License-Identifier: Apache-2.0
 *
 * Hospitals and splits: the paper's 13 clients, FeTS tables, the drawing rule, and every fault of a table.
 */

#include "data/csv.h"
#include "duplicates.h"
#include "partition.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAPER_TABLE "data_split/partitions/brats2018_li2019.csv"

/* --- cohorts and tables in memory and in a temporary file
 * --------------------------------------------------------------- */

static void add(fb_cases *cases, const char *subject, const char *site, const char *grade)
{
    must(fb_mem_resize(&cases->list, cases->count + 1, sizeof *cases->list, "cases"));
    fb_case *item = &cases->list[cases->count++];
    snprintf(item->subject, sizeof item->subject, "%s", subject);
    snprintf(item->site, sizeof item->site, "%s", site);
    snprintf(item->grade, sizeof item->grade, "%s", grade);
}

static int by_subject(const void *a, const void *b)
{
    return strcmp(((const fb_case *)a)->subject, ((const fb_case *)b)->subject);
}

/* `counts` cases at each of the sites "A", "B", ...; every third of them LGG. */
static fb_cases *make_cohort(const int *counts, int sites)
{
    fb_cases *cases = NULL;
    must(FB_ALLOC(cases, 1, "cohort"));
    for (int s = 0; s < sites; s++)
        for (int i = 0; i < counts[s]; i++) {
            char subject[FB_SUBJECT_CHARS], site[2] = {(char)('A' + s), '\0'};
            snprintf(subject, sizeof subject, "Brats18_%s_%03d_1", site, i);
            add(cases, subject, site, i % 3 == 2 ? "LGG" : "HGG");
        }
    return cases;
}

/* The 285 subjects of the committed table, sorted as fb_cases_find does. */
static fb_cases *paper_cohort(void)
{
    fb_cases *cases = NULL;
    fb_csv *csv = NULL;
    must(FB_ALLOC(cases, 1, "cohort"));
    must(fb_csv_read(PAPER_TABLE, &csv));
    for (int64_t i = 0; i < fb_csv_rows(csv); i++)
        add(cases, fb_csv_get(csv, i, 0), fb_csv_get(csv, i, 1), fb_csv_get(csv, i, 2));
    fb_csv_free(&csv);
    qsort(cases->list, (size_t)cases->count, sizeof *cases->list, by_subject);
    return cases;
}

static fb_cases *fets_cohort(void)
{
    fb_cases *cases = NULL;
    must(FB_ALLOC(cases, 1, "cohort"));
    for (int i = 1; i <= 6; i++) {
        char subject[FB_SUBJECT_CHARS];
        snprintf(subject, sizeof subject, "FeTS2022_%05d", i);
        add(cases, subject, "NA", "NA");
    }
    return cases;
}

/* Reads `text` as a table for `cases`. */
static fb_status read_table(fb_cases *cases, const char *text, fb_partition **partition)
{
    char path[] = "/tmp/fb_partition_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    fb_status status = fb_partition_by_table(path, cases, partition);
    unlink(path);
    return status;
}

/* --- the paper
 * ----------------------------------------------------------------------------------------------------------- */

static void test_paper_clients(void **state)
{
    static const struct {
        const char *site;
        int train, test;
    } expected[] = {{"2013", 18, 12},  {"CBICA", 77, 11}, {"TCIA01", 20, 2}, {"TCIA02", 30, 4}, {"TCIA03", 11, 1},
                    {"TCIA04", 7, 1},  {"TCIA05", 3, 1},  {"TCIA06", 6, 2},  {"TCIA08", 13, 1}, {"TCIA09", 9, 2},
                    {"TCIA10", 32, 3}, {"TCIA12", 5, 1},  {"TCIA13", 11, 2}};
    fb_cases *cases = paper_cohort();
    fb_partition *partition = NULL;
    int64_t train = 0, test = 0;
    (void)state;
    assert_int_equal(cases->count, 285);
    must(fb_partition_by_table(PAPER_TABLE, cases, &partition));
    must(fb_partition_draw(partition, cases, 0.15, 0.0, 1));
    assert_int_equal(partition->hospital_count, 13);
    for (int h = 0; h < 13; h++) {
        assert_string_equal(partition->hospital[h], expected[h].site);
        assert_int_equal(fb_partition_count(partition, h, FB_SPLIT_TRAIN), expected[h].train);
        assert_int_equal(fb_partition_count(partition, h, FB_SPLIT_TEST), expected[h].test);
        assert_int_equal(fb_partition_count(partition, h, FB_SPLIT_VALIDATION), 0);
        train += fb_partition_count(partition, h, FB_SPLIT_TRAIN);
        test += fb_partition_count(partition, h, FB_SPLIT_TEST);
    }
    assert_int_equal(train, 242);
    assert_int_equal(test, 43);
    fb_partition_free(&partition);
    fb_cases_free(&cases);
}

/* Validation comes out of the 242, the 43 stay. */
static void test_paper_validation(void **state)
{
    fb_cases *cases = paper_cohort();
    fb_partition *partition = NULL;
    int64_t count[3] = {0};
    (void)state;
    must(fb_partition_by_table(PAPER_TABLE, cases, &partition));
    must(fb_partition_draw(partition, cases, 0.15, 0.1, 1));
    for (int h = 0; h < partition->hospital_count; h++)
        for (int split = 0; split < 3; split++)
            count[split] += fb_partition_count(partition, h, (fb_split)split);
    assert_int_equal(count[FB_SPLIT_TEST], 43);
    assert_int_equal(count[FB_SPLIT_TRAIN] + count[FB_SPLIT_VALIDATION], 242);
    assert_int_equal(count[FB_SPLIT_VALIDATION], 25); /* round(0.1 n), at least 1 of 4 */
    fb_partition_free(&partition);
    fb_cases_free(&cases);
}

/* --- drawing
 * ------------------------------------------------------------------------------------------------------------- */

static void test_rule(void **state)
{
    static const int counts[] = {1, 2, 2, 2, 3, 4, 10, 30};
    static const int test[] = {0, 1, 0, 1, 1, 1, 2, 5}, validation[] = {0, 0, 1, 0, 0, 1, 1, 3};
    fb_cases *cases = make_cohort(counts, 8);
    fb_partition *partition = NULL;
    (void)state;
    must(fb_partition_by_site(cases, &partition));
    must(fb_partition_draw(partition, cases, 0.15, 0.1, 7));
    assert_int_equal(partition->hospital_count, 8);
    for (int h = 0; h < 8; h++) {
        assert_int_equal(fb_partition_count(partition, h, FB_SPLIT_TEST), test[h]);
        assert_int_equal(fb_partition_count(partition, h, FB_SPLIT_VALIDATION), validation[h]);
        assert_int_equal(fb_partition_count(partition, h, FB_SPLIT_TRAIN), counts[h] - test[h] - validation[h]);
    }
    fb_partition_free(&partition);
    fb_cases_free(&cases);
}

/* 20 HGG and 10 LGG, 6 test cases: 4 and 2, whatever the seed. And the largest fractions leave a train case. */
static void test_grades_and_limits(void **state)
{
    static const int counts[] = {30};
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        fb_cases *cases = make_cohort(counts, 1);
        fb_partition *partition = NULL;
        int low_grade = 0;
        must(fb_partition_by_site(cases, &partition));
        must(fb_partition_draw(partition, cases, 0.2, 0.0, seed));
        for (int64_t i = 0; i < cases->count; i++)
            low_grade += partition->of_case[i].split == FB_SPLIT_TEST && strcmp(cases->list[i].grade, "LGG") == 0;
        assert_int_equal(fb_partition_count(partition, 0, FB_SPLIT_TEST), 6);
        assert_int_equal(low_grade, 2);
        must(fb_partition_draw(partition, cases, 0.0, 0.99, seed));
        assert_int_equal(fb_partition_count(partition, 0, FB_SPLIT_TRAIN), 1);
        fb_partition_free(&partition);
        fb_cases_free(&cases);
    }
}

/* Draws cohort {12, 9} with `seed` and returns the splits as text, one character a case. */
static void draw_text(uint64_t seed, char text[22])
{
    static const int counts[] = {12, 9};
    fb_cases *cases = make_cohort(counts, 2);
    fb_partition *partition = NULL;
    must(fb_partition_by_site(cases, &partition));
    must(fb_partition_draw(partition, cases, 0.3, 0.2, seed));
    for (int i = 0; i < 21; i++)
        text[i] = (char)('0' + partition->of_case[i].split);
    text[21] = '\0';
    fb_partition_free(&partition);
    fb_cases_free(&cases);
}

static void test_seed(void **state)
{
    char first[22], again[22], other[22];
    (void)state;
    draw_text(1, first);
    draw_text(1, again);
    draw_text(2, other);
    assert_string_equal(first, again);
    assert_string_not_equal(first, other);
}

/* --- tables
 * -------------------------------------------------------------------------------------------------------------- */

/* FeTS 2021 (zero-padded numbers), FeTS 2022 (other order, CRLF, no line end at the end): the same hospitals. */
static void test_fets(void **state)
{
    static const char *const tables[] = {
        "Subject_ID,Partition_ID\nFeTS2022_00003,02\nFeTS2022_00001,02\nFeTS2022_00002,01\nFeTS2022_00004,10\n"
        "FeTS2022_00005,10\nFeTS2022_00006,10\n",
        "\xEF\xBB\xBFPartition_ID,Subject_ID\r\n2,FeTS2022_00001\r\n1,FeTS2022_00002\r\n2,FeTS2022_00003\r\n"
        "10,FeTS2022_00004\r\n10,FeTS2022_00005\r\n10,FeTS2022_00006"};
    static const char *const names[][3] = {{"01", "02", "10"}, {"1", "2", "10"}};
    static const int owner[] = {1, 0, 1, 2, 2, 2};
    (void)state;
    for (int t = 0; t < 2; t++) {
        fb_cases *cases = fets_cohort();
        fb_partition *partition = NULL;
        must(read_table(cases, tables[t], &partition));
        assert_int_equal(partition->hospital_count, 3);
        for (int h = 0; h < 3; h++)
            assert_string_equal(partition->hospital[h], names[t][h]);
        for (int i = 0; i < 6; i++)
            assert_int_equal(partition->of_case[i].hospital, owner[i]);
        assert_false(partition->has_test || partition->has_validation);
        fb_partition_free(&partition);
        fb_cases_free(&cases);
    }
}

/* All three splits in the table: nothing is drawn. Sites and grades that folders do not tell are taken over. */
static void test_full_table(void **state)
{
    fb_cases *cases = fets_cohort();
    fb_partition *partition = NULL;
    static const fb_split expected[] = {FB_SPLIT_TRAIN, FB_SPLIT_TEST,  FB_SPLIT_VALIDATION,
                                        FB_SPLIT_TRAIN, FB_SPLIT_TRAIN, FB_SPLIT_TRAIN};
    (void)state;
    must(read_table(cases,
                    "split,grade,SITE,Subject_ID,note\ntrain,HGG,X,FeTS2022_00001,a\ntest,HGG,X,FeTS2022_00002,b\n"
                    "validation,LGG,X,FeTS2022_00003,c\ntrain,LGG,2013,FeTS2022_00004,d\n"
                    "train,LGG,X,FeTS2022_00005,e\ntrain,LGG,X,FeTS2022_00006,f\n\n",
                    &partition));
    must(fb_partition_draw(partition, cases, 0.5, 0.4, 3));
    assert_string_equal(partition->hospital[0], "2013");
    assert_string_equal(cases->list[3].site, "2013");
    assert_string_equal(cases->list[2].grade, "LGG");
    for (int i = 0; i < 6; i++)
        assert_int_equal(partition->of_case[i].split, expected[i]);
    fb_partition_free(&partition);
    fb_cases_free(&cases);
}

static void test_faults(void **state)
{
#define HEAD "Subject_ID,Partition_ID\n"
#define FIVE "FeTS2022_00001,1\nFeTS2022_00002,1\nFeTS2022_00003,1\nFeTS2022_00004,1\nFeTS2022_00005,1\n"
    static const struct {
        const char *text, *message, *other;
    } faults[] = {
        {HEAD FIVE "FeTS2022_00007,1\n", ":7: FeTS2022_00007", "no such subject"},
        {HEAD FIVE "FeTS2022_00003,1\n", ":7: FeTS2022_00003", "twice"},
        {HEAD FIVE, "FeTS2022_00006 has no line", "1 of 6"},
        {HEAD "FeTS2022_00006,1\n", "FeTS2022_00001 has no line", "5 of 6"},
        {HEAD FIVE "FeTS2022_00006\n", ":7:", "1 fields where the header has 2"},
        {HEAD FIVE "FeTS2022_00006,\n", ":7:", "field 2 is empty"},
        {HEAD "\n" FIVE "FeTS2022_00006,1\n", ":2:", "empty line"},
        {HEAD FIVE "FeTS2022_00006\r,1\n", ":7:", "carriage return"},
        {HEAD FIVE "FeTS2022_00006,1\t\n", ":7:", "a tab"},
        {HEAD FIVE "\"FeTS2022_00006\",1\n", ":7:", "quotes"},
        {"Subject,Partition_ID\n" FIVE, ":1:", "subject_id"},
        {"Subject_ID,Hospital\n" FIVE, ":1:", "Partition_ID"},
        {"Subject_ID,subject_id\n" FIVE, ":1:", "twice"},
        {"Subject_ID,site,split\nFeTS2022_00001,1,dev\n", ":2: FeTS2022_00001", "split \"dev\""},
        {"", "empty", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        fb_cases *cases = fets_cohort();
        fb_partition *partition = NULL;
        must_fail(read_table(cases, faults[i].text, &partition), faults[i].message, faults[i].other);
        assert_null(partition);
        fb_cases_free(&cases);
    }
}

static void test_contradictions(void **state)
{
    static const int one = 1;
    fb_cases *cases = make_cohort(&one, 1), *unnamed = fets_cohort();
    fb_partition *partition = NULL;
    (void)state;
    must_fail(read_table(cases, "subject_id,site,grade\nBrats18_A_000_1,A,LGG\n", &partition), ":2: Brats18_A_000_1",
              "grade LGG, but the cohort says HGG");
    must_fail(read_table(cases, "subject_id,site\nBrats18_A_000_1,B\n", &partition), ":2:", "site B");
    must_fail(fb_partition_by_table("/nonexistent.csv", cases, &partition), "/nonexistent.csv", "cannot open");
    must_fail(fb_partition_by_site(unnamed, &partition), "FeTS2022_00001", "--partition");
    must(read_table(cases, "subject_id,site,split\nBrats18_A_000_1,A,test\n", &partition));
    must_fail(fb_partition_draw(partition, cases, 0.1, 0.1, 1), "hospital A", "no train case");
    fb_partition_free(&partition);
    fb_cases_free(&cases);
    fb_cases_free(&unnamed);
}

static void test_same_patient_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int same;
    } pairs[] = {
        {"Brats17_CBICA_AAB_1", "BraTS19_CBICA_AAB_1", 1},
        {"Brats18_2013_2_1", "BraTS2019_2013_2_1", 1},
        {"Brats18_CBICA_AAB_1", "Brats18_CBICA_AAC_1", 0},
        {"BraTS20_Training_001", "BraTS21_Training_001", 0}, /* numbered anew every year */
        {"BraTS20_Validation_001", "BraTS21_Validation_001", 0},
        {"BraTS2020_00001", "BraTS2021_00001", 0},
        {"BraTS18_", "BraTS19_", 0},
        {"Brats", "Brats", 0},
        {"patient_7", "patient_7", 0},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        assert_int_equal(fb_duplicates_same_name(pairs[i].a, pairs[i].b), pairs[i].same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paper_clients),
        cmocka_unit_test(test_paper_validation),
        cmocka_unit_test(test_rule),
        cmocka_unit_test(test_grades_and_limits),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_fets),
        cmocka_unit_test(test_full_table),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_same_patient_by_name),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("partition", tests, NULL, NULL);
}
