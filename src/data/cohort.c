/* SPDX-License-Identifier: Apache-2.0
 *
 * manifest.csv of a shard folder. The hospitals are numbered in the order in which the manifest first names them.
 */
#include "data/shard.h"

#include "core/file.h"
#include "core/mem.h"
#include "data/checksums.h"
#include "data/csv.h"

#include <stdio.h>
#include <string.h>

#define MANIFEST "manifest.csv"

/* The hospital called `name`, added when it is new. */
static fb_status find_hospital(fb_cohort *cohort, const char *name, fb_cohort_hospital **out)
{
    for (int i = 0; i < cohort->hospital_count; i++) {
        *out = &cohort->hospitals[i];
        if (strcmp((*out)->name, name) == 0)
            return FB_OK;
    }
    if (strlen(name) >= FB_SUBJECT_CHARS)
        return FB_FAIL("hospital \"%s\": the name is longer than %d characters", name, FB_SUBJECT_CHARS - 1);
    FB_TRY(fb_mem_resize(&cohort->hospitals, cohort->hospital_count + 1, sizeof *cohort->hospitals, "hospitals"));
    *out = &cohort->hospitals[cohort->hospital_count];
    snprintf((*out)->name, sizeof(*out)->name, "%s", name);
    snprintf((*out)->file, sizeof(*out)->file, FB_SHARD_HOSPITAL_FILE, cohort->hospital_count);
    cohort->hospital_count++;
    return FB_OK;
}

static fb_status count_case(fb_cohort *cohort, const char *hospital, const char *split)
{
    fb_split kind = FB_SPLIT_TRAIN;
    fb_cohort_hospital *found = NULL;
    FB_TRY(fb_split_parse(split, &kind));
    if (kind == FB_SPLIT_TEST) {
        cohort->test_cases++;
        return FB_OK;
    }
    FB_TRY(find_hospital(cohort, hospital, &found));
    *(kind == FB_SPLIT_TRAIN ? &found->train_cases : &found->validation_cases) += 1;
    return FB_OK;
}

static fb_status count_cases(fb_cohort *cohort, const char *path, const fb_csv *manifest)
{
    int hospital = 0, split = 0;
    FB_TRY(fb_csv_need(manifest, "hospital", &hospital));
    FB_TRY(fb_csv_need(manifest, "split", &split));
    for (int64_t row = 0; row < fb_csv_rows(manifest); row++) {
        const fb_status status =
            count_case(cohort, fb_csv_get(manifest, row, hospital), fb_csv_get(manifest, row, split));
        FB_TRY(fb_error_context(status, "%s:%lld", path, (long long)fb_csv_line(row)));
    }
    return FB_OK;
}

static fb_status check_hospitals(const fb_cohort *cohort, const char *path)
{
    if (cohort->hospital_count == 0)
        return FB_FAIL("%s: no hospital has a case", path);
    for (int i = 0; i < cohort->hospital_count; i++)
        if (cohort->hospitals[i].train_cases == 0)
            return FB_FAIL("%s: hospital %s has no train case; give it one or leave it out, then run brats-split again",
                           path, cohort->hospitals[i].name);
    return FB_OK;
}

fb_status fb_cohort_find(const fb_cohort *cohort, const char *folder, int index)
{
    char file[FB_PATH_CHARS];
    int found = 0;
    const int test = index == cohort->hospital_count;
    FB_TRY(fb_path_join(file, folder, test ? FB_SHARD_TEST_FILE : cohort->hospitals[index].file));
    FB_TRY(fb_file_find(file, &found));
    if (found)
        return FB_OK;
    return test ? FB_FAIL("%s: the test shard is missing; copy it again", file)
                : FB_FAIL("%s: the shard of hospital %s is missing; copy it again or run brats-split again", file,
                          cohort->hospitals[index].name);
}

static fb_status load(fb_cohort *cohort, const char *folder)
{
    char path[FB_PATH_CHARS];
    fb_csv *manifest = NULL;
    fb_status status = FB_OK;
    int found = 0;
    FB_TRY(fb_path_join(path, folder, MANIFEST));
    FB_TRY(fb_folder_find(folder, &found));
    if (!found)
        return FB_FAIL("%s: there is no such folder; brats-split makes it", folder);
    FB_TRY(fb_csv_read(path, &manifest));
    FB_TRY_GOTO(status, count_cases(cohort, path, manifest), done);
    FB_TRY_GOTO(status, fb_checksums_verify(folder, MANIFEST), done);
    FB_TRY_GOTO(status, fb_checksums_identity(folder, cohort->sha256), done);
    status = check_hospitals(cohort, path);
done:
    fb_csv_free(&manifest);
    return status;
}

fb_status fb_cohort_read(const char *folder, fb_cohort **out)
{
    fb_cohort *cohort = NULL;
    FB_TRY(FB_ALLOC(cohort, 1, "cohort"));
    fb_status status = load(cohort, folder);
    if (status != FB_OK)
        fb_cohort_close(&cohort);
    *out = cohort;
    return status;
}

fb_status fb_cohort_open(const char *folder, fb_cohort **out)
{
    fb_status status = fb_cohort_read(folder, out);
    for (int i = 0; status == FB_OK && i <= (*out)->hospital_count; i++)
        status = fb_cohort_find(*out, folder, i);
    if (status != FB_OK)
        fb_cohort_close(out);
    return status;
}

void fb_cohort_close(fb_cohort **cohort)
{
    if (!*cohort)
        return;
    FB_FREE((*cohort)->hospitals);
    FB_FREE(*cohort);
}
