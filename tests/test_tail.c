/* SPDX-License-Identifier: Apache-2.0
 *
 * Relatively exact draws against their closed form, with fixed keys; judged at 1e-6, two-sided |z| < 4.892. */
#include "privacy/tail.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

enum { TESTS = 1000000, DRAWS = 100000 };

static const double Z = 4.8916;
static const double scales[] = {0.3, 1.0, 17.5, 1e6, 1e12};
enum { SCALES = sizeof scales / sizeof scales[0] };

static fb_noise *make_noise(uint64_t seed)
{
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    assert_null(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    assert_null(fb_noise_create(key, &noise));
    fb_noise_seek(noise, &(fb_noise_address){.purpose = FB_NOISE_QUERY});
    return noise;
}

/* P(X >= d) of the discrete Laplace */
static double upper_tail(double scale, int64_t d)
{
    const double a = exp(-1.0 / scale);
    return d >= 1 ? exp(-(double)d / scale) / (1.0 + a) : 1.0 - exp(((double)d - 1.0) / scale) / (1.0 + a);
}

static double frequency(double scale, int64_t distance, uint64_t seed)
{
    const fb_tail tail = fb_tail_of(scale);
    fb_noise *noise = make_noise(seed);
    int64_t reached = 0;
    for (int i = 0; i < TESTS; i++)
        reached += fb_tail_reaches(&tail, distance, noise);
    fb_noise_destroy(&noise);
    return (double)reached / TESTS;
}

/* Around zero, where the two formulas meet, and far out, where p is 3e-4 and its leading bytes are compared one by one.
 */
static void reaches_with_the_right_probability(void **state)
{
    (void)state;
    static const double in_scales[] = {-8.0, -1.0, 0.5, 2.0, 8.0};
    for (int s = 0; s < SCALES; s++) {
        for (int k = 0; k < 8; k++) {
            const int64_t distance = k < 3 ? k - 1 : (int64_t)(in_scales[k - 3] * scales[s]);
            const double p = upper_tail(scales[s], distance), sd = sqrt(p * (1.0 - p) / TESTS);
            const double seen = frequency(scales[s], distance, (uint64_t)(100 * s + k));
            if (fabs(seen - p) > Z * sd + 1e-12)
                fail_msg("scale %g, distance %lld: %g, not %g", scales[s], (long long)distance, seen, p);
        }
    }
}

/* The mutant that has the formulas meet at the wrong place (distance 0 for 1) is seen at once. */
static void off_by_one_is_rejected(void **state)
{
    (void)state;
    const double p = upper_tail(1.0, 1), wrong = frequency(1.0, 0, 7);
    assert_true(fabs(wrong - p) > Z * sqrt(p * (1.0 - p) / TESTS));
}

static void draws_have_the_right_scale(void **state)
{
    (void)state;
    for (int s = 0; s < SCALES; s++) {
        const double a = exp(-1.0 / scales[s]), b = -expm1(-1.0 / scales[s]);
        const double mean = 2.0 * a / (b * (1.0 + a)), square = 2.0 * a / (b * b), zero = b / (1.0 + a);
        const fb_tail tail = fb_tail_of(scales[s]);
        fb_noise *noise = make_noise(1000 + (uint64_t)s);
        double magnitude = 0.0, signed_sum = 0.0, zeros = 0.0;
        for (int i = 0; i < DRAWS; i++) {
            const int64_t x = fb_tail_draw(&tail, noise);
            assert_true(llabs(x) < INT64_C(1) << 62);
            magnitude += fabs((double)x);
            signed_sum += (double)x;
            zeros += x == 0;
        }
        fb_noise_destroy(&noise);
        assert_true(fabs(magnitude / DRAWS - mean) < Z * sqrt((square - mean * mean) / DRAWS));
        assert_true(fabs(signed_sum / DRAWS) < Z * sqrt(square / DRAWS));
        assert_true(fabs(zeros / DRAWS - zero) < Z * sqrt(zero * (1.0 - zero) / DRAWS) + 1e-4);
        /* 15 % more scale would not pass */
        assert_true(fabs(magnitude / DRAWS - 1.15 * mean) > Z * sqrt((square - mean * mean) / DRAWS));
    }
}

static void extremes(void **state)
{
    (void)state;
    fb_noise *noise = make_noise(2000);
    const fb_tail narrow = fb_tail_of(1e-300), wide = fb_tail_of(0x1p56);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(fb_tail_reaches(&narrow, 1, noise), 0);
        assert_int_equal(fb_tail_reaches(&narrow, 0, noise), 1);
        assert_int_equal(fb_tail_reaches(&wide, INT64_MAX / 2, noise), 0); /* e^-64 */
        assert_int_equal(fb_tail_draw(&narrow, noise), 0);
    }
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reaches_with_the_right_probability),
        cmocka_unit_test(off_by_one_is_rejected),
        cmocka_unit_test(draws_have_the_right_scale),
        cmocka_unit_test(extremes),
    };
    const int failed = cmocka_run_group_tests_name("tail", tests, NULL, NULL);
    return failed || fb_mem_live_blocks() != 0;
}
