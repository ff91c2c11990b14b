/* SPDX-License-Identifier: Apache-2.0
 *
 * Who owns a case, and what it is used for: the hospitals of a cohort and the train, validation and test splits.
 *
 * How the splits are drawn. Of a hospital's n cases
 *     n = 1      1 train
 *     n = 2      1 train, and 1 test or 1 validation: such hospitals take turns, test first
 *     n >= 3     test = max(1, round(n F_test)), validation = round(n F_validation), at least 1 when n >= 4;
 *                both are cut, validation first, so that 1 train case is left
 * where a fraction of 0 means none at all. Each grade of the hospital gives its proportion, rounded down or up, drawn
 * at random. The result is a function of the subjects, the hospitals and the seed alone.
 */
#pragma once

#include "cases.h"
#include "data/shard.h"

typedef struct fb_assignment {
    int hospital; /* index */
    fb_split split;
} fb_assignment;

typedef struct fb_partition {
    int hospital_count;
    char (*hospital)[FB_SUBJECT_CHARS]; /* (hospital_count) the paper's 13 sites in its order, then others; owned */
    int64_t case_count;
    fb_assignment *of_case; /* (case_count) in the order of the cases; owned */
    int has_test;           /* the table gave test cases (fb_partition_by_table) ... */
    int has_validation;     /* ... and validation cases */
} fb_partition;

/* A hospital for every site, all cases train. Errors: a case without a site (named). */
fb_status fb_partition_by_site(const fb_cases *cases, fb_partition **out) FB_MUST_USE;

/* Hospitals, and splits if there is such a column, from a CSV whose header names, in any order and case, `Subject_ID`
 * and `Partition_ID` (as FeTS) or `site`, and perhaps `grade` and `split`. Sites and grades unknown from the folders
 * are taken over into `cases`. Errors name line and subject: a subject that the cohort lacks, that occurs twice or not
 * at all, a grade that is not the folder's, an unknown split. */
fb_status fb_partition_by_table(const char *path, fb_cases *cases, fb_partition **out) FB_MUST_USE;

/* Draws what the table did not give. Errors: a hospital without a train case (named). */
fb_status fb_partition_draw(fb_partition *partition, const fb_cases *cases, double test_fraction,
                            double validation_fraction, uint64_t seed) FB_MUST_USE;

int64_t fb_partition_count(const fb_partition *partition, int hospital, fb_split split);
void fb_partition_free(fb_partition **partition);
