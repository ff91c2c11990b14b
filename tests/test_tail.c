/* SPDX-License-Identifier: Apache-2.0
 *
 * Relatively exact draws: their probabilities are read back from scripted bits, to the last one, and compared with the
 * closed form; and frequencies with fixed keys, judged at 1e-6.
 */
#include "privacy/tail.h"

#include "privacy/alias.h"
#include "statistics.h"

#include <stdlib.h>

enum { TESTS = 1000000, DRAWS = 100000, MANY = 10000000 };

static const double scales[] = {0.3, 1.0, 17.5, 1e6, 1e12};
enum { SCALES = sizeof scales / sizeof scales[0] };

/* --- scripted bits: as many chunks of 16 zeros as fit before the first 1 of the probability, 16 bits, 64 bits --- */

enum { CHUNK_BYTES = 2, DECIDING_BITS = 80, DECIDING_BYTES = 10 };

/* 2^(-m log2(e) / scale) to about a unit of the long double: the quotient's remainder is not lost. */
static long double power(double scale, long double m)
{
    const long double high = m / (long double)scale, low = fmal(-high, (long double)scale, m) / (long double)scale;
    return expl(-high) * (1.0L - low);
}

static void write_bits(fb_noise *noise, size_t at, fb_wide bits)
{
    rescript(noise, at, CHUNK_BYTES, (uint64_t)(bits >> 64));
    rescript(noise, at + CHUNK_BYTES, 8, (uint64_t)bits);
}

typedef int (*event)(const void *context, fb_noise *noise);

/* The probability of an event that happens while a random fraction is below it: bisected in the 80 bits that follow
 * `at` bytes, in units of 2^-(80 + zeros). */
static long double read_probability(event happens, const void *context, fb_noise *noise, size_t at, int zeros)
{
    fb_wide cut = 0;
    for (int bit = DECIDING_BITS - 1; bit >= 0; bit--) {
        const fb_wide below = cut + ((fb_wide)1 << bit);
        write_bits(noise, at, below - 1);
        cut = happens(context, noise) ? below : cut;
    }
    return ldexpl((long double)cut, -DECIDING_BITS - zeros);
}

typedef struct test_of {
    fb_tail tail;
    int64_t distance;
} test_of;

static int reaches(const void *context, fb_noise *noise)
{
    const test_of *t = context;
    return fb_tail_reaches(&t->tail, t->distance, noise);
}

static int fails_to_reach(const void *context, fb_noise *noise)
{
    return !reaches(context, noise);
}

/* A 1 among the zeros that come before those 80 bits decides, wherever it is. */
static void check_leading_zeros(const test_of *t, int lower, fb_noise *noise, int zeros)
{
    for (int bit = 0; bit < zeros; bit++) {
        script(noise, NULL, 0);
        rescript(noise, (size_t)bit / 8, 1, UINT64_C(1) << bit % 8);
        assert_int_equal(reaches(t, noise), lower);
    }
    script(noise, NULL, 0);
}

/* Relative error of P(X >= m), m >= 1, and of P(X < 1 - m), which is the same number, were the scale `law`. */
static long double relative_error(double scale, double law, int64_t m, int lower)
{
    const test_of t = {fb_tail_of(scale), lower ? 1 - m : m};
    const long double p = power(law, (long double)m) / (1.0L + power(law, 1.0L));
    const int zeros = (int)(((long double)m / (long double)scale) / logl(2.0L)) / 16 * 16;
    fb_noise *noise = make_noise(1);
    check_leading_zeros(&t, lower, noise, zeros);
    const long double seen =
        read_probability(lower ? fails_to_reach : reaches, &t, noise, CHUNK_BYTES * (size_t)(zeros / 16), zeros);
    fb_noise_destroy(&noise);
    return fabsl(seen / p - 1.0L);
}

static void probabilities_are_relatively_exact(void **state)
{
    (void)state;
    static const double in_scales[] = {1e-6, 0.1, 0.5, 1.0, 1.7, 2.0, 5.0, 11.0, 30.0, 100.0, 400.0, 700.0, 3000.0};
    static const double more_scales[] = {0.0014, 0.3, 1.0, 2.8853900817779268, 17.5, 1e6, 123456789.123, 1e12, 0x1p56};
    long double worst = 0.0L, least_wrong = 1e30L;
    for (size_t s = 0; s < sizeof more_scales / sizeof more_scales[0]; s++) {
        for (size_t k = 0; k < sizeof in_scales / sizeof in_scales[0]; k++) {
            const double scale = more_scales[s], at = ceil(in_scales[k] * scale);
            if (at / scale > 3100.0 || at >= 0x1p62)
                continue; /* a script of so many zeros is too long; not on the grid */
            const long double allowed = fb_tail_rounding(at / scale);
            for (int lower = 0; lower < 2; lower++)
                worst = fmaxl(worst, relative_error(scale, scale, (int64_t)at, lower) / allowed);
            least_wrong = fminl(least_wrong, relative_error(scale, scale * (1.0 + 0x1p-30), (int64_t)at, 0) / allowed);
        }
    }
    if (getenv("FB_VERBOSE"))
        print_message("relative error %Lg of what is allowed; of a wrong scale %Lg\n", worst, least_wrong);
    assert_true(worst < 1.0L);
    assert_true(least_wrong > 1.0L);
}

typedef struct power_of {
    int64_t integer;
    uint64_t fraction;
} power_of;

static int below_power(const void *context, fb_noise *noise)
{
    const power_of *y = context;
    return fb_tail_below_power(y->integer, y->fraction, noise);
}

/* 2^-y read back, for all kinds of integers and fractions: off by less than 2^-60. */
static void powers_of_two(void **state)
{
    (void)state;
    static const int64_t integers[] = {0, 1, 15, 16, 17, 31, 32, 100, 1023, 1024, 5000};
    static const uint64_t fractions[] = {0, 1, UINT64_C(1) << 62, UINT64_C(0x9E3779B97F4A7C15), UINT64_MAX};
    fb_noise *noise = make_noise(1);
    for (int i = 0; i < 11; i++) {
        for (int f = 0; f < 5; f++) {
            const power_of y = {integers[i], fractions[f]};
            const int zeros = (int)(y.integer / 16 * 16);
            script(noise, NULL, 0);
            const long double seen = read_probability(below_power, &y, noise, (size_t)zeros / 8, zeros);
            const long double exact = ldexpl(exp2l(-ldexpl((long double)y.fraction, -64)), -(int)y.integer);
            assert_true(fabsl(seen / exact - 1.0L) < 0x1p-60L);
            for (int bit = 0; bit < zeros; bit += 7) { /* no zero of them may be missing */
                script(noise, NULL, 0);
                rescript(noise, (size_t)bit / 8, 1, UINT64_C(1) << bit % 8);
                assert_int_equal(below_power(&y, noise), 0);
            }
        }
    }
    fb_noise_destroy(&noise);
}

typedef struct bit_of {
    fb_tail tail;
    int bit;
} bit_of;

static int bit_is_set(const void *context, fb_noise *noise)
{
    const bit_of *b = context;
    return (int)(fb_tail_draw(&b->tail, noise) >> b->bit & 1);
}

/* Bit i with 2^i / scale small enough for the first chunk to matter; the other bits are scripted as 0, which large
 * fractions do: no probability is above 1/2. */
static void bits_are_relatively_exact(void **state)
{
    (void)state;
    for (int s = 2; s < SCALES; s++) {
        bit_of b = {.tail = fb_tail_of(scales[s])};
        fb_noise *noise = make_noise(1);
        for (; ldexp(1.0, b.bit) / scales[s] < 10.0; b.bit++) {
            uint8_t large[DECIDING_BYTES * 62];
            memset(large, 0xFE, sizeof large); /* above 1/2; as a sign, plus */
            script(noise, large, sizeof large);
            const long double a = power(scales[s], ldexpl(1.0L, b.bit));
            const long double p = read_probability(bit_is_set, &b, noise, DECIDING_BYTES * (size_t)b.bit, 0);
            assert_true(fabsl(p * (1.0L + a) / a - 1.0L) < 0x1p-53);
        }
        assert_true(b.bit >= 8);
        fb_noise_destroy(&noise);
    }
}

/* --- frequencies --- */

/* P(X >= d) of the discrete Laplace */
static double upper_tail(double scale, int64_t d)
{
    const double a = exp(-1.0 / scale);
    return d >= 1 ? exp(-(double)d / scale) / (1.0 + a) : 1.0 - exp(((double)d - 1.0) / scale) / (1.0 + a);
}

static double frequency(double scale, int64_t distance, int tests, uint64_t seed)
{
    const fb_tail tail = fb_tail_of(scale);
    fb_noise *noise = make_noise(seed);
    int64_t reached = 0;
    for (int i = 0; i < tests; i++) {
        before_draw(noise, i);
        reached += fb_tail_reaches(&tail, distance, noise);
    }
    fb_noise_destroy(&noise);
    return (double)reached / tests;
}

/* Around zero, where the two formulas meet, and far out, where p is 3e-4 and all of the first bits are 0. */
static void reaches_with_the_right_probability(void **state)
{
    (void)state;
    static const double in_scales[] = {-8.0, -1.0, 0.5, 2.0, 8.0};
    for (int s = 0; s < SCALES; s++) {
        for (int k = 0; k < 8; k++) {
            const int64_t distance = k < 3 ? k - 1 : (int64_t)(in_scales[k - 3] * scales[s]);
            const double p = upper_tail(scales[s], distance), sd = sqrt(p * (1.0 - p) / TESTS);
            const double seen = frequency(scales[s], distance, TESTS, (uint64_t)(100 * s + k));
            if (fabs(seen - p) > Z_TWO_SIDED * sd + 1e-12)
                fail_msg("scale %g, distance %lld: %g, not %g", scales[s], (long long)distance, seen, p);
        }
    }
}

/* The mutants that have the formulas meet at the wrong place (distance 0 for 1), and whose scale is wrong by 1 %. */
static void wrong_tests_are_rejected(void **state)
{
    (void)state;
    const double p = upper_tail(1.0, 1), off_by_one = frequency(1.0, 0, TESTS, 7);
    assert_true(fabs(off_by_one - p) > Z_TWO_SIDED * sqrt(p * (1.0 - p) / TESTS));
    for (int s = 2; s < SCALES; s++) {
        const int64_t distance = (int64_t)scales[s];
        const double q = upper_tail(scales[s], distance), seen = frequency(1.01 * scales[s], distance, MANY, 8);
        assert_true(fabs(seen - q) > Z_TWO_SIDED * sqrt(q * (1.0 - q) / MANY));
    }
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
        assert_true(fabs(magnitude / DRAWS - mean) < Z_TWO_SIDED * sqrt((square - mean * mean) / DRAWS));
        assert_true(fabs(signed_sum / DRAWS) < Z_TWO_SIDED * sqrt(square / DRAWS));
        assert_true(fabs(zeros / DRAWS - zero) < Z_TWO_SIDED * sqrt(zero * (1.0 - zero) / DRAWS) + 1e-4);
        /* 15 % more scale would not pass */
        assert_true(fabs(magnitude / DRAWS - 1.15 * mean) > Z_TWO_SIDED * sqrt((square - mean * mean) / DRAWS));
    }
}

static void extremes(void **state)
{
    (void)state;
    fb_noise *noise = make_noise(2000);
    const fb_tail narrow = fb_tail_of(1e-300), denormal = fb_tail_of(0x1p-1074), wide = fb_tail_of(0x1p56);
    const int64_t far = INT64_C(1) << 62;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(fb_tail_reaches(&narrow, 1, noise), 0);
        assert_int_equal(fb_tail_reaches(&narrow, 0, noise), 1);
        assert_int_equal(fb_tail_reaches(&denormal, far, noise), 0);
        assert_int_equal(fb_tail_reaches(&denormal, -far, noise), 1);
        assert_int_equal(fb_tail_reaches(&wide, far, noise), 0); /* e^-64 */
        assert_int_equal(fb_tail_reaches(&wide, -far, noise), 1);
        assert_int_equal(fb_tail_draw(&narrow, noise), 0);
    }
    fb_noise_destroy(&noise);
}

/* The bits are part of a run's identity: a change of layout must be noticed. */
static void golden(void **state)
{
    (void)state;
    static const int64_t expected[4] = {-557747190, 2916526820, -1231427881, -3235169080};
    const fb_tail tail = fb_tail_of(1e9);
    fb_noise *noise = make_noise(2026);
    uint64_t reached = 0;
    fb_noise_seek(noise, &(fb_noise_address){1, 2, 3, FB_NOISE_THRESHOLD, 4});
    for (int i = 0; i < 4; i++)
        assert_int_equal(fb_tail_draw(&tail, noise), expected[i]);
    for (int i = 0; i < 64; i++)
        reached |= (uint64_t)fb_tail_reaches(&tail, (i - 32) * 50000000, noise) << i;
    assert_true(reached == UINT64_C(0x8185E5FDAFFF7));
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probabilities_are_relatively_exact),
        cmocka_unit_test(powers_of_two),
        cmocka_unit_test(bits_are_relatively_exact),
        cmocka_unit_test(reaches_with_the_right_probability),
        cmocka_unit_test(wrong_tests_are_rejected),
        cmocka_unit_test(draws_have_the_right_scale),
        cmocka_unit_test(extremes),
        cmocka_unit_test(golden),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("tail", tests, NULL, NULL);
}
