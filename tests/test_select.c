/* SPDX-License-Identifier: Apache-2.0
 *
 * Selection by rank and by a public mask: exact against sorting, fair where it is random.
 */
#include "privacy/select.h"

#include "privacy/mechanism.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

static const double Z_LIMIT = 4.8916; /* two-sided 1e-6 */
static const fb_rng public_rng = {.seed = 3, .purpose = FB_RNG_SELECT, .hospital = 2, .round = 7};

typedef struct ranked {
    float magnitude;
    uint32_t index;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude > y->magnitude ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static int by_index(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void compare_topk(int64_t n, const float *x, int64_t count)
{
    ranked *all = NULL;
    uint32_t *expected = NULL, *got = NULL;
    must(FB_ALLOC(all, n, "ranks"));
    must(FB_ALLOC(expected, n, "expected"));
    must(FB_ALLOC(got, n, "got"));
    for (int64_t i = 0; i < n; i++)
        all[i] = (ranked){fabsf(x[i]), (uint32_t)i};
    qsort(all, (size_t)n, sizeof *all, by_rank);
    for (int64_t k = 0; k < count; k++)
        expected[k] = all[k].index;
    qsort(expected, (size_t)count, sizeof *expected, by_index);
    must(fb_select_topk(n, x, count, got));
    for (int64_t k = 0; k < count; k++)
        assert_int_equal(got[k], expected[k]);
    FB_FREE(all);
    FB_FREE(expected);
    FB_FREE(got);
}

static void test_topk_against_sort(void **state)
{
    (void)state;
    enum { SMALL = 700 };
    const fb_rng rng = {.seed = 2, .purpose = FB_RNG_TEST};
    float x[SMALL];
    static const int64_t counts[] = {0, 1, 2, 69, 70, 350, 699, 700};
    for (int form = 0; form < 6; form++) {
        for (uint32_t i = 0; i < SMALL; i++) {
            const double normal = fb_rng_normal(&rng, i);
            const double forms[] = {normal,        nearbyint(normal), 0.0, copysign(1.5, normal), exp(40.0 * normal),
                                    normal * 1e-42};
            x[i] = (float)forms[form]; /* many ties; all zero; all tied with either sign; many decades; subnormal */
        }
        x[5] = -0.0f;
        x[6] = 3.4028235e38f;
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
            compare_topk(SMALL, x, counts[c]);
    }
}

/* Keys of all sizes and signs, with ties, against a sort by hand. */
static void test_largest_keys(void **state)
{
    (void)state;
    enum { SMALL = 300 };
    const fb_rng rng = {.seed = 6, .purpose = FB_RNG_TEST};
    int64_t key[SMALL];
    uint32_t got[SMALL];
    for (int form = 0; form < 4; form++) {
        for (uint32_t i = 0; i < SMALL; i++) {
            uint32_t words[4];
            fb_rng_words(&rng, i, words);
            const int64_t wide = (int64_t)((uint64_t)words[0] << 32 | words[1]);
            const int64_t forms[] = {wide, wide >> 60, 0, i % 3 ? INT64_MAX : INT64_MIN};
            key[i] = forms[form];
        }
        for (int64_t count = 1; count <= SMALL; count += 23) {
            int64_t filled = 0;
            must(fb_select_largest(SMALL, key, count, got));
            for (uint32_t i = 0; i < SMALL; i++) {
                int64_t before = 0;
                for (uint32_t j = 0; j < SMALL; j++)
                    before += key[j] > key[i] || (key[j] == key[i] && j < i);
                if (before < count)
                    assert_int_equal(got[filled++], i);
            }
            assert_int_equal(filled, count);
        }
    }
}

/* Half the largest of what everybody knows, half a random subset of the others, each of them as often. */
static void test_public_mask(void **state)
{
    (void)state;
    enum { SMALL = 20, COUNT = 7, EXPLOIT = 4, TRIALS = 20000 };
    static const uint32_t largest[EXPLOIT] = {0, 3, 11, 19};
    float change[SMALL];
    uint32_t index[SMALL];
    int64_t times[SMALL] = {0}, first[SMALL] = {0};
    for (int i = 0; i < SMALL; i++)
        change[i] = (float)(i % 2 ? -i : i) * 1e-3f;
    for (int k = 0; k < EXPLOIT; k++)
        change[largest[k]] = k % 2 ? -5.0f : 5.0f;
    for (uint32_t t = 0; t < TRIALS; t++) {
        fb_rng rng = public_rng;
        rng.round = t;
        must(fb_select_public(&rng, SMALL, change, COUNT, index));
        for (int k = 0; k < COUNT; k++) {
            assert_true(k == 0 || index[k] > index[k - 1]);
            times[index[k]]++;
        }
        must(fb_select_public(&rng, SMALL, NULL, COUNT, index));
        for (int k = 0; k < COUNT; k++)
            first[index[k]]++;
    }
    for (int i = 0; i < SMALL; i++) {
        const double p = (double)(COUNT - EXPLOIT) / (SMALL - EXPLOIT), q = (double)COUNT / SMALL;
        if (i == 0 || i == 3 || i == 11 || i == 19)
            assert_int_equal(times[i], TRIALS);
        else
            assert_true(fabs((double)times[i] - TRIALS * p) < Z_LIMIT * sqrt(TRIALS * p * (1.0 - p)));
        assert_true(fabs((double)first[i] - TRIALS * q) < Z_LIMIT * sqrt(TRIALS * q * (1.0 - q)));
    }
    for (int64_t count = 0; count <= SMALL; count += SMALL) { /* none, and all */
        must(fb_select_public(&public_rng, SMALL, change, count, index));
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(index[i], i);
    }
}

static void test_overlap(void **state)
{
    (void)state;
    const float dw[6] = {0.1f, -9.0f, 3.0f, 0.0f, -4.0f, 2.0f};
    uint32_t index[3] = {0, 1, 4};
    fb_update u = {.n = 6, .count = 3, .index = index};
    double overlap = 0.0;
    must(fb_release_overlap(&u, dw, &overlap));
    assert_true(overlap == 2.0 / 3.0);
    index[0] = 1;
    index[1] = 2;
    must(fb_release_overlap(&u, dw, &overlap));
    assert_true(overlap == 1.0);
    index[0] = 0;
    index[1] = 3;
    index[2] = 5;
    must(fb_release_overlap(&u, dw, &overlap));
    assert_true(overlap == 0.0);
    u.count = 0;
    must(fb_release_overlap(&u, dw, &overlap));
    assert_true(isnan(overlap));
    u = (fb_update){.n = 6, .count = 6};
    must(fb_release_overlap(&u, dw, &overlap));
    assert_true(overlap == 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topk_against_sort),    cmocka_unit_test(test_largest_keys),
        cmocka_unit_test(test_public_mask),          cmocka_unit_test(test_overlap),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
