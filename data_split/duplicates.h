/* SPDX-License-Identifier: Apache-2.0
 *
 * The same patient twice in a cohort. Hospitals are accounted for in parallel (the budget of a run is the largest of a
 * hospital's, not the sum) because their patients are disjoint: one who is in two hospitals pays both budgets, one who
 * is twice in a hospital pays double under patient-level privacy, and a test patient who is also trained on makes the
 * test score one of memory.
 *
 * Two cases count as one patient when their images are equal voxel by voxel (labels may differ: another rater), or when
 * their names are equal behind the prefix BraTS<year>_, in any spelling: Brats17_CBICA_AAB_1 and BraTS19_CBICA_AAB_1.
 * Names that are only numbered within a year (<prefix>Training_001, <prefix>00001) say nothing about another year and
 * are not compared. A resampled or registered copy under another name is not found.
 */
#pragma once

#include "cases.h"
#include "partition.h"

enum { FB_IMAGE_HASH_BYTES = 16 };

typedef enum fb_on_duplicate {
    FB_DUPLICATE_FAIL_TEST = 0, /* fail when a test case is also for training or validation, warn of the others */
    FB_DUPLICATE_WARN,
    FB_DUPLICATE_FAIL
} fb_on_duplicate;

/* BLAKE2b of the decoded image. */
void fb_duplicates_hash(const fb_volume *volume, uint8_t hash[FB_IMAGE_HASH_BYTES]);

/* 1 when the names stand for one patient, by the rule above. */
int fb_duplicates_same_name(const char *a, const char *b);

/* Warns of every pair, 20 at most, naming both and what it means. hash (cases->count) in the order of the cases.
 * Errors: what `policy` refuses. */
fb_status fb_duplicates_check(const fb_cases *cases, const fb_partition *partition,
                              const uint8_t (*hash)[FB_IMAGE_HASH_BYTES], fb_on_duplicate policy) FB_MUST_USE;
