/* SPDX-License-Identifier: Apache-2.0 */
#include "partition.h"

#include "core/mem.h"
#include "data/csv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- hospitals
 * --------------------------------------------------------------------------------------------------------- */

/* The order of the 13 clients of Li et al. 2019. */
static int paper_rank(const char *site)
{
    static const char *const sites[] = {"2013",   "CBICA",  "TCIA01", "TCIA02", "TCIA03", "TCIA04", "TCIA05",
                                        "TCIA06", "TCIA08", "TCIA09", "TCIA10", "TCIA12", "TCIA13"};
    const int count = (int)(sizeof sites / sizeof *sites);
    for (int i = 0; i < count; i++)
        if (strcmp(site, sites[i]) == 0)
            return i;
    return count;
}

/* Paper's sites, then numbers by value (FeTS), then the rest by name. */
static int compare_hospitals(const void *a, const void *b)
{
    const char *left = a, *right = b;
    char *left_end = NULL, *right_end = NULL;
    const int rank = paper_rank(left) - paper_rank(right);
    if (rank != 0)
        return rank;
    const long x = strtol(left, &left_end, 10), y = strtol(right, &right_end, 10);
    if (*left_end == '\0' && *right_end == '\0' && x != y)
        return x < y ? -1 : 1;
    if ((*left_end == '\0') != (*right_end == '\0'))
        return *left_end == '\0' ? -1 : 1;
    return strcmp(left, right);
}

/* owner: the hospital of every case. Makes the list of hospitals and refers each case to it. */
static fb_status number_hospitals(fb_partition *partition, char (*owner)[FB_SUBJECT_CHARS])
{
    int *count = &partition->hospital_count;
    FB_TRY(FB_ALLOC(partition->hospital, partition->case_count, "hospitals"));
    memcpy(partition->hospital, owner, (size_t)partition->case_count * sizeof *owner);
    qsort(partition->hospital, (size_t)partition->case_count, sizeof *partition->hospital, compare_hospitals);
    for (int64_t i = 0; i < partition->case_count; i++)
        if (*count == 0 || strcmp(partition->hospital[*count - 1], partition->hospital[i]) != 0)
            memmove(partition->hospital[(*count)++], partition->hospital[i], sizeof *partition->hospital);
    for (int64_t i = 0; i < partition->case_count; i++)
        for (int h = 0; h < *count; h++)
            if (strcmp(partition->hospital[h], owner[i]) == 0)
                partition->of_case[i].hospital = h;
    return FB_OK;
}

static fb_status create(const fb_cases *cases, fb_partition **out)
{
    FB_TRY(FB_ALLOC(*out, 1, "partition"));
    (*out)->case_count = cases->count;
    fb_status status = FB_ALLOC((*out)->of_case, cases->count, "partition");
    if (status != FB_OK)
        fb_partition_free(out);
    return status;
}

static fb_status by_site(const fb_cases *cases, fb_partition *partition, char (*owner)[FB_SUBJECT_CHARS])
{
    for (int64_t i = 0; i < cases->count; i++) {
        if (strcmp(cases->list[i].site, "NA") == 0)
            return FB_FAIL("%s: its name does not tell the site (Brats18_<site>_<case>_1); name the hospitals with "
                           "--partition FILE.csv",
                           cases->list[i].subject);
        memcpy(owner[i], cases->list[i].site, sizeof owner[i]);
    }
    return number_hospitals(partition, owner);
}

fb_status fb_partition_by_site(const fb_cases *cases, fb_partition **out)
{
    char(*owner)[FB_SUBJECT_CHARS] = NULL;
    fb_partition *partition = NULL;
    FB_TRY(create(cases, &partition));
    fb_status status = FB_ALLOC(owner, cases->count, "hospital of each case");
    if (status == FB_OK)
        status = by_site(cases, partition, owner);
    FB_FREE(owner);
    if (status != FB_OK)
        fb_partition_free(&partition);
    *out = partition;
    return status;
}

/* --- table
 * ------------------------------------------------------------------------------------------------------------- */

typedef struct table_reader {
    const char *path;
    fb_csv *csv;                         /* owned */
    int subject, hospital, grade, split; /* columns; -1: absent */
    int site;
    char (*owner)[FB_SUBJECT_CHARS]; /* (cases) the hospital, "" before its line was read; owned */
} table_reader;

static fb_status find_columns(table_reader *table)
{
    FB_TRY(fb_csv_need(table->csv, "subject_id", &table->subject));
    table->site = fb_csv_column(table->csv, "site");
    table->hospital = fb_csv_column(table->csv, "partition_id");
    if (table->hospital < 0)
        table->hospital = table->site;
    if (table->hospital < 0)
        return FB_FAIL("%s:1: there is no column \"Partition_ID\" or \"site\"", table->path);
    table->grade = fb_csv_column(table->csv, "grade");
    table->split = fb_csv_column(table->csv, "split");
    return FB_OK;
}

static int compare_subject(const void *key, const void *item)
{
    return strcmp(key, ((const fb_case *)item)->subject);
}

/* `value` must agree with what the folders say, or fill it in where they say nothing. */
static fb_status reconcile(const char *what, const char *value, char *known, size_t known_chars)
{
    if (strcmp(known, "NA") != 0 && strcmp(known, value) != 0)
        return FB_FAIL("%s %s, but the cohort says %s", what, value, known);
    if (strlen(value) >= known_chars)
        return FB_FAIL("%s %s is longer than %d characters", what, value, (int)known_chars - 1);
    snprintf(known, known_chars, "%s", value);
    return FB_OK;
}

static fb_status apply_row(const table_reader *table, int64_t row, const char *subject, fb_cases *cases,
                           fb_partition *partition)
{
    fb_case *item = bsearch(subject, cases->list, (size_t)cases->count, sizeof *item, compare_subject);
    if (!item)
        return FB_FAIL("the cohort has no such subject");
    const int64_t index = item - cases->list;
    const char *hospital = fb_csv_get(table->csv, row, table->hospital);
    if (table->owner[index][0])
        return FB_FAIL("the subject occurs twice");
    if (strlen(hospital) >= FB_SUBJECT_CHARS)
        return FB_FAIL("hospital %s: the name is longer than %d characters", hospital, FB_SUBJECT_CHARS - 1);
    snprintf(table->owner[index], sizeof table->owner[index], "%s", hospital);
    if (table->site >= 0)
        FB_TRY(reconcile("site", fb_csv_get(table->csv, row, table->site), item->site, sizeof item->site));
    if (table->grade >= 0)
        FB_TRY(reconcile("grade", fb_csv_get(table->csv, row, table->grade), item->grade, sizeof item->grade));
    if (table->split >= 0)
        FB_TRY(fb_split_parse(fb_csv_get(table->csv, row, table->split), &partition->of_case[index].split));
    return FB_OK;
}

static fb_status check_complete(const table_reader *table, const fb_cases *cases)
{
    int64_t absent = 0;
    const char *first = NULL;
    for (int64_t i = 0; i < cases->count; i++)
        if (!table->owner[i][0] && absent++ == 0)
            first = cases->list[i].subject;
    if (absent == 0)
        return FB_OK;
    return FB_FAIL("%s: %s has no line%s; add one for each subject of the cohort (%lld of %lld are missing)",
                   table->path, first, absent > 1 ? ", nor have others" : "", (long long)absent,
                   (long long)cases->count);
}

static fb_status by_table(table_reader *table, fb_cases *cases, fb_partition *partition)
{
    FB_TRY(fb_csv_read(table->path, &table->csv));
    FB_TRY(find_columns(table));
    FB_TRY(FB_ALLOC(table->owner, cases->count, "hospital of each case"));
    for (int64_t row = 0; row < fb_csv_rows(table->csv); row++) {
        const char *subject = fb_csv_get(table->csv, row, table->subject);
        FB_TRY(fb_error_context(apply_row(table, row, subject, cases, partition), "%s:%lld: %s", table->path,
                                (long long)fb_csv_line(row), subject));
    }
    FB_TRY(check_complete(table, cases));
    partition->has_test = table->split >= 0;
    for (int64_t i = 0; i < partition->case_count; i++)
        partition->has_validation |= partition->of_case[i].split == FB_SPLIT_VALIDATION;
    return number_hospitals(partition, table->owner);
}

fb_status fb_partition_by_table(const char *path, fb_cases *cases, fb_partition **out)
{
    table_reader table = {.path = path};
    fb_partition *partition = NULL;
    FB_TRY(create(cases, &partition));
    fb_status status = by_table(&table, cases, partition);
    fb_csv_free(&table.csv);
    FB_FREE(table.owner);
    if (status != FB_OK)
        fb_partition_free(&partition);
    *out = partition;
    return status;
}

int64_t fb_partition_count(const fb_partition *partition, int hospital, fb_split split)
{
    int64_t count = 0;
    for (int64_t i = 0; i < partition->case_count; i++)
        count += partition->of_case[i].hospital == hospital && partition->of_case[i].split == split;
    return count;
}

void fb_partition_free(fb_partition **partition)
{
    if (!*partition)
        return;
    FB_FREE((*partition)->hospital);
    FB_FREE((*partition)->of_case);
    FB_FREE(*partition);
}
