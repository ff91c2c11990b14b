/* SPDX-License-Identifier: Apache-2.0 */
#include "duplicates.h"

#include "core/log.h"

#include <ctype.h>
#include <sodium.h>
#include <string.h>
#include <strings.h>

enum { PAIRS_SHOWN = 20 };

void fb_duplicates_hash(const fb_volume *volume, uint8_t hash[FB_IMAGE_HASH_BYTES])
{
    const size_t size_bytes = (size_t)fb_volume_voxels(volume->shape) * FB_MODALITIES * sizeof *volume->image;
    crypto_generichash(hash, FB_IMAGE_HASH_BYTES, (const uint8_t *)volume->image, size_bytes, NULL, 0);
}

static int is_digit(char c)
{
    return isdigit((unsigned char)c);
}

/* The name behind BraTS<2 or 4 digits>_; NULL when it has another form or only counts the cases of that year. */
static const char *patient_of(const char *subject)
{
    if (strncasecmp(subject, "brats", 5) != 0)
        return NULL;
    const char *rest = subject + 5;
    while (is_digit(*rest))
        rest++;
    if (*rest++ != '_' || strncasecmp(rest, "training_", 9) == 0 || strncasecmp(rest, "validation_", 11) == 0)
        return NULL;
    return rest[strspn(rest, "0123456789")] ? rest : NULL;
}

int fb_duplicates_same_name(const char *a, const char *b)
{
    const char *patient_a = patient_of(a), *patient_b = patient_of(b);
    return patient_a && patient_b && strcmp(patient_a, patient_b) == 0;
}

static int across_test(const fb_assignment *a, const fb_assignment *b)
{
    return (a->split == FB_SPLIT_TEST) != (b->split == FB_SPLIT_TEST);
}

static const char *consequence(const fb_assignment *a, const fb_assignment *b)
{
    if (across_test(a, b))
        return "the test score counts a patient that is not unseen";
    if (a->split == FB_SPLIT_TEST)
        return "the test score counts the patient twice";
    if (a->hospital != b->hospital)
        return "the patient's privacy costs the sum of both hospitals' epsilons, not the larger one";
    if (a->split != b->split)
        return "the validation score counts a patient that is not unseen";
    return "the patient counts twice in training, and patient-level privacy costs double";
}

static void warn(const fb_cases *cases, const fb_partition *partition, int64_t i, int64_t j, int same_image)
{
    const fb_assignment *a = &partition->of_case[i], *b = &partition->of_case[j];
    fb_log_warn("%s (hospital %s, %s) and %s (hospital %s, %s) are one patient by their %s: %s", cases->list[i].subject,
                partition->hospital[a->hospital], fb_split_name(a->split), cases->list[j].subject,
                partition->hospital[b->hospital], fb_split_name(b->split), same_image ? "images" : "names",
                consequence(a, b));
}

fb_status fb_duplicates_check(const fb_cases *cases, const fb_partition *partition,
                              const uint8_t (*hash)[FB_IMAGE_HASH_BYTES], fb_on_duplicate policy)
{
    int64_t pairs = 0, with_test = 0;
    for (int64_t i = 0; i < cases->count; i++) {
        for (int64_t j = i + 1; j < cases->count; j++) {
            const int same_image = memcmp(hash[i], hash[j], FB_IMAGE_HASH_BYTES) == 0;
            if (!same_image && !fb_duplicates_same_name(cases->list[i].subject, cases->list[j].subject))
                continue;
            with_test += across_test(&partition->of_case[i], &partition->of_case[j]);
            if (pairs++ < PAIRS_SHOWN)
                warn(cases, partition, i, j, same_image);
        }
    }
    if (pairs > PAIRS_SHOWN)
        fb_log_warn("and %lld more pairs of cases that are one patient", (long long)(pairs - PAIRS_SHOWN));
    if (policy == FB_DUPLICATE_FAIL && pairs > 0)
        return FB_FAIL("%lld pairs of cases are one patient each; nothing was written; take one of each out of the "
                       "cohort, or set --on-duplicate=warn",
                       (long long)pairs);
    if (policy == FB_DUPLICATE_FAIL_TEST && with_test > 0)
        return FB_FAIL("%lld test cases are the same patients as cases for training or validation; nothing was "
                       "written; take one of each out of the cohort, give both the same split by --partition, or set "
                       "--on-duplicate=warn",
                       (long long)with_test);
    return FB_OK;
}
