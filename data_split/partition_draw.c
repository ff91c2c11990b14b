/* SPDX-License-Identifier: Apache-2.0 */
#include "partition.h"

#include "core/mem.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many of a hospital's n cases are for test and validation: the rule of the header. `turn` counts the hospitals of
 * two cases that came before. */
static void plan(int64_t n, double test_fraction, double validation_fraction, int *turn, int64_t *test,
                 int64_t *validation)
{
    *test = llround((double)n * test_fraction);
    *validation = llround((double)n * validation_fraction);
    if (n == 2 && test_fraction > 0.0 && validation_fraction > 0.0) {
        *test = (*turn)++ % 2 == 0;
        *validation = !*test;
        return;
    }
    if (n >= 2 && test_fraction > 0.0 && *test < 1)
        *test = 1;
    if ((n >= 4 || n == 2) && validation_fraction > 0.0 && *validation < 1)
        *validation = 1;
    *test = min(*test, n - 1);
    *validation = min(*validation, n - 1 - *test);
}

typedef struct candidate {
    int64_t item; /* index of the case */
    const char *grade;
    uint32_t place; /* random */
} candidate;

static int compare_candidates(const void *a, const void *b)
{
    const candidate *left = a, *right = b;
    const int grade = strcmp(left->grade, right->grade);
    return grade != 0 ? grade : (left->place > right->place) - (left->place < right->place);
}

/* How many of the first i of n candidates are drawn: evenly spaced, from the middle of the first interval on. */
static int64_t drawn_before(int64_t i, int64_t wanted, int64_t n)
{
    return (2 * i * wanted + n) / (2 * n);
}

/* Gives `wanted` of the hospital's n train cases to `split`, evenly spaced over the list by grade, random within a
 * grade: so each grade gives its proportion, rounded down or up. */
static fb_status draw(fb_partition *partition, const fb_cases *cases, const fb_rng *rng, int64_t n, int64_t wanted,
                      fb_split split)
{
    candidate *list = NULL;
    uint32_t *place = NULL;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, FB_ALLOC(list, n, "draw"), done);
    FB_TRY_GOTO(status, FB_ALLOC(place, n, "draw"), done);
    fb_rng_permutation(rng, (uint32_t)n, place);
    for (int64_t i = 0, k = 0; i < partition->case_count; i++)
        if (partition->of_case[i].hospital == (int)rng->hospital && partition->of_case[i].split == FB_SPLIT_TRAIN) {
            list[k] = (candidate){i, cases->list[i].grade, place[k]};
            k++;
        }
    qsort(list, (size_t)n, sizeof *list, compare_candidates);
    for (int64_t i = 0; i < n; i++)
        if (drawn_before(i + 1, wanted, n) > drawn_before(i, wanted, n))
            partition->of_case[list[i].item].split = split;
done:
    FB_FREE(place);
    FB_FREE(list);
    return status;
}

fb_status fb_partition_draw(fb_partition *partition, const fb_cases *cases, double test_fraction,
                            double validation_fraction, uint64_t seed)
{
    int turn = 0;
    const double f_test = partition->has_test ? 0.0 : test_fraction;
    const double f_validation = partition->has_validation ? 0.0 : validation_fraction;
    for (int h = 0; h < partition->hospital_count; h++) {
        int64_t test = 0, validation = 0;
        const int64_t n = fb_partition_count(partition, h, FB_SPLIT_TRAIN);
        fb_rng rng = {.seed = seed, .purpose = FB_RNG_SPLIT, .hospital = (uint32_t)h, .round = FB_SPLIT_TEST};
        if (n == 0)
            return FB_FAIL(
                "hospital %s has no train case; give it one or take its subjects out of cohort and partition",
                partition->hospital[h]);
        plan(n, f_test, f_validation, &turn, &test, &validation);
        FB_TRY(draw(partition, cases, &rng, n, test, FB_SPLIT_TEST));
        rng.round = FB_SPLIT_VALIDATION;
        FB_TRY(draw(partition, cases, &rng, n - test, validation, FB_SPLIT_VALIDATION));
    }
    return FB_OK;
}
