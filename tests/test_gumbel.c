/* SPDX-License-Identifier: Apache-2.0
 *
 * Gumbel noise: every draw against the exact variable of the same bits in long double, and the law with fixed keys,
 * judged at 1e-6; each statistic is shown to reject a scale that is wrong by 1 % and wrong signs.
 */
#include "privacy/gumbel.h"

#include "statistics.h"

#include <stdlib.h>

enum { MANY = 10000000, WORDS = 400000, WORD_BYTES = 8 };

/* --- the same bits --- */

/* G of K zeros and y */
static long double exact_gumbel(int zeros, long double y)
{
    return -logl((long double)zeros * logl(2.0L) - log1pl(-y));
}

/* The two ends of what the bits leave open: y's first 56 bits after a 0 are `top`, then `empty` words of zeros and
 * `more` where they are read. Returns the distance of the draw to the farther end. */
static long double error_of(fb_noise *noise, int zeros, uint64_t top, int empty, uint64_t more)
{
    const int appended = zeros == 0 && top >> 49 == 0;
    const long double unit = appended ? ldexpl(0x1p-121L, -64 * empty) : 0x1p-57L;
    const long double y = (long double)top * 0x1p-57L + (appended ? (long double)more * unit : 0.0L);
    const size_t zero_bytes = (size_t)zeros / 8;
    size_t count = WORD_BYTES;
    script(noise, NULL, 0);
    if (zero_bytes > 0) { /* the first byte of the word, and the others after it */
        rescript(noise, WORD_BYTES + zero_bytes - 1, 1, UINT64_C(1) << zeros % 8);
        rescript(noise, 0, WORD_BYTES, top << 8);
        count += zero_bytes;
    } else {
        rescript(noise, WORD_BYTES * (1u + (unsigned)empty), WORD_BYTES, more);
        rescript(noise, 0, WORD_BYTES, top << 8 | UINT64_C(1) << zeros);
        count += appended ? WORD_BYTES * (1u + (unsigned)empty + (top == 0)) : 0;
    }
    const long double g = ldexpl((long double)fb_gumbel_draw(noise), -FB_GUMBEL_FRACTION_BITS);
    assert_int_equal(noise->stream.position, count);
    const long double open = top == 0 ? unit * 0x1p-64L : unit; /* of y */
    return fmaxl(fabsl(g - exact_gumbel(zeros, y)), fabsl(g - exact_gumbel(zeros, y + open)));
}

/* Random words, words next to all powers of two, and all small K. */
static void test_error(void **state)
{
    (void)state;
    fb_noise *noise = make_noise(1), *words = make_noise(2);
    const uint64_t mask = (UINT64_C(1) << 56) - 1;
    long double worst = 0.0L;
    for (int i = 0; i < WORDS; i++) {
        const int small = i % 4 == 0, zeros = small ? 0 : __builtin_ctzll(fb_noise_word(words) | UINT64_C(1) << 63);
        const uint64_t top = (fb_noise_word(words) & mask) >> (small ? 7 : 0);
        worst = fmaxl(worst, error_of(noise, zeros, top, 0, fb_noise_word(words)));
    }
    for (int bit = 0; bit < 56; bit++) {
        for (int off = -1; off <= 1; off++) {
            for (int zeros = 0; zeros < 20; zeros++)
                worst = fmaxl(worst, error_of(noise, zeros, ((UINT64_C(1) << bit) + (uint64_t)off) & mask, 0, mask));
        }
    }
    for (int zeros = 0; zeros < 1016; zeros++)
        worst = fmaxl(worst, error_of(noise, zeros, mask, 0, 0));
    for (int empty = 0; empty < 14; empty++) /* y below 2^-57, 2^-121, ... */
        for (int bit = 1; bit < 64; bit++)
            worst = fmaxl(worst, error_of(noise, 0, 0, empty, UINT64_C(1) << bit));
    if (getenv("FB_VERBOSE"))
        print_message("error %.9Lf units\n", worst * 0x1p40L);
    /* Half a unit is what the last rounding costs; gumbel.c derives 2^-4 more. */
    assert_true(worst > 0.499L * FB_GUMBEL_ERROR && worst < (0.5L + 0x1p-4L) * FB_GUMBEL_ERROR);
    fb_noise_destroy(&noise);
    fb_noise_destroy(&words);
}

/* Bits that end in nothing but zeros give the largest and least values. */
static void test_extremes(void **state)
{
    (void)state;
    const uint8_t ones[1] = {1};
    fb_noise *noise = make_noise(1);
    script(noise, ones, 1); /* K = 0, y = 0 */
    const int64_t largest = fb_gumbel_draw(noise);
    script(noise, NULL, 0); /* K as large as it gets */
    const int64_t least = fb_gumbel_draw(noise);
    assert_true(largest < INT64_C(1) << 50 && largest > INT64_C(700) << FB_GUMBEL_FRACTION_BITS);
    assert_true(least > -(INT64_C(1) << 43) && least < -(INT64_C(6) << FB_GUMBEL_FRACTION_BITS));
    fb_noise_destroy(&noise);
}

/* --- the law --- */

typedef enum fault { SOUND, SCALE_HIGH, SCALE_LOW, SIGN_WRONG, SHIFTED } fault;

static verdict judge_gumbel(fault f, uint64_t seed)
{
    fb_noise *noise = make_noise(seed);
    uniform_sample sample = make_sample();
    for (int i = 0; i < MANY; i++) {
        before_draw(noise, i);
        double g = ldexp((double)fb_gumbel_draw(noise), -FB_GUMBEL_FRACTION_BITS);
        g *= f == SCALE_HIGH ? 1.01 : f == SCALE_LOW ? 0.99 : f == SIGN_WRONG ? -1.0 : 1.0;
        g += f == SHIFTED ? 0.01 : 0.0;
        add_uniform(&sample, exp(-exp(-g)));
    }
    fb_noise_destroy(&noise);
    return judge(&sample);
}

static void test_distribution(void **state)
{
    (void)state;
    must_pass(judge_gumbel(SOUND, 10), "gumbel", 1.0);
    must_be_rejected(judge_gumbel(SCALE_HIGH, 11), "scale", 1.01);
    must_be_rejected(judge_gumbel(SCALE_LOW, 12), "scale", 0.99);
    must_be_rejected(judge_gumbel(SIGN_WRONG, 13), "sign", -1.0);
    must_be_rejected(judge_gumbel(SHIFTED, 14), "location", 0.01);
}

/* What it is for: the largest of scores + G is score i with probability exp(q_i) / sum of exp(q). */
static void test_largest_of_few(void **state)
{
    (void)state;
    enum { SCORES = 4, TRIALS = 500000 };
    static const double scores[SCORES] = {0.0, 1.0, 2.5, -3.0};
    fb_noise *noise = make_noise(20);
    double count[SCORES] = {0.0}, sum = 0.0;
    for (int trial = 0; trial < TRIALS; trial++) {
        int64_t best = INT64_MIN;
        int chosen = 0;
        for (int i = 0; i < SCORES; i++) {
            const int64_t noised = (int64_t)ldexp(scores[i], FB_GUMBEL_FRACTION_BITS) + fb_gumbel_draw(noise);
            chosen = noised > best ? i : chosen;
            best = noised > best ? noised : best;
        }
        count[chosen] += 1.0;
    }
    for (int i = 0; i < SCORES; i++)
        sum += exp(scores[i]);
    for (int i = 0; i < SCORES; i++) {
        const double p = exp(scores[i]) / sum;
        assert_true(fabs(count[i] / TRIALS - p) < Z_TWO_SIDED * sqrt(p * (1.0 - p) / TRIALS));
    }
    fb_noise_destroy(&noise);
}

static void test_no_correlation(void **state)
{
    (void)state;
    enum { DRAWS = 2000000 };
    const double mean = 0.57721566490153286, variance = 1.6449340668482264; /* Euler's constant, pi^2 / 6 */
    fb_noise *noise = make_noise(30);
    double last = 0.0, product = 0.0;
    for (int i = 0; i < DRAWS; i++) {
        before_draw(noise, i);
        const double g = ldexp((double)fb_gumbel_draw(noise), -FB_GUMBEL_FRACTION_BITS) - mean;
        product += g * last / variance;
        last = g;
    }
    assert_true(fabs(product) < Z_TWO_SIDED * sqrt(DRAWS));
    fb_noise_destroy(&noise);
}

/* The bits are part of a run's identity: a change of layout must be noticed. */
static void test_golden(void **state)
{
    (void)state;
    static const int64_t expected[4] = {445096895010, -119863613680, -1388808118990, -871989278687};
    fb_noise *noise = make_noise(2026);
    fb_noise_seek(noise, &(fb_noise_address){1, 2, 3, FB_NOISE_GUMBEL, 4});
    for (int i = 0; i < 4; i++)
        assert_int_equal(fb_gumbel_draw(noise), expected[i]);
    fb_noise_destroy(&noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_largest_of_few),
        cmocka_unit_test(test_no_correlation),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("gumbel", tests, NULL, NULL);
}
