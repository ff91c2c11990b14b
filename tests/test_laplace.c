/* SPDX-License-Identifier: Apache-2.0
 *
 * Discrete Laplace noise against its closed form, with fixed keys, so that a verdict never changes by chance.
 * Statistics are judged at 1e-6, and each is shown to reject a scale that is wrong by 1 % and wrong signs. On scripted
 * bits the tables are read back exactly.
 */
#include "privacy/laplace.h"

#include "privacy/alias.h"
#include "statistics.h"

#include <stdlib.h>

enum { MANY = 10000000, DRAWS = 2000000, REACH_DRAWS = 1000000 };

static const double scales[] = {0.3, 1.0, 17.5, 1e6, 1e12};
enum { SCALES = sizeof scales / sizeof scales[0] };

/* x (DRAWS), owned by the caller */
static int64_t *make_draws(double scale, uint64_t seed)
{
    int64_t *x = NULL;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(seed);
    must(FB_ALLOC(x, DRAWS, "draws"));
    must(fb_laplace_create(scale, &laplace));
    for (int i = 0; i < DRAWS; i++) {
        before_draw(noise, i);
        x[i] = fb_laplace_draw(laplace, noise);
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    return x;
}

/* --- the law --- */

/* Adds x as a uniform number, were x discrete Laplace: P(X <= x) = exp(x / s) / (1 + a) below 0, mirrored above. */
static void add_laplace(uniform_sample *sample, double scale, double a, int64_t x)
{
    const double u = randomise(sample), at = exp(-fabs((double)x) / scale) / (1.0 + a); /* P(X <= -|x|) */
    if (x == 0)
        add_uniform(sample, a / (1.0 + a) + u * (1.0 - a) / (1.0 + a));
    else
        add_uniform(sample, x < 0 ? at * (a + u * (1.0 - a)) : 1.0 - at * (a + u * (1.0 - a)));
}

typedef enum fault { SOUND, SCALE_HIGH, SCALE_LOW, SIGN_LOST, SIGN_BIASED, ZERO_TWICE } fault;

/* Statistics of n draws, changed by the fault, against the law of `scale`. */
static verdict judge_laplace(double scale, fault f, int n, uint64_t seed)
{
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(seed);
    uniform_sample sample = make_sample();
    const double a = exp(-1.0 / scale);
    must(fb_laplace_create(scale * (f == SCALE_HIGH ? 1.01 : f == SCALE_LOW ? 0.99 : 1.0), &laplace));
    for (int i = 0; i < n; i++) {
        before_draw(noise, i);
        int64_t x = fb_laplace_draw(laplace, noise);
        if (f == SIGN_LOST || (f == SIGN_BIASED && i % 64 == 0)) /* as an OR with other bits would do */
            x = llabs(x);
        if (f == ZERO_TWICE && randomise(&sample) < (1.0 - a) / 2.0) /* (minus, 0) accepted */
            x = 0;
        add_laplace(&sample, scale, a, x);
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    return judge(&sample);
}

static void test_distribution(void **state)
{
    (void)state;
    for (int i = 0; i < SCALES; i++)
        must_pass(judge_laplace(scales[i], SOUND, MANY, 100 + (uint64_t)i), "laplace", scales[i]);
}

static void test_one_percent_is_rejected(void **state)
{
    (void)state;
    for (int i = 0; i < SCALES; i++)
        must_be_rejected(judge_laplace(scales[i], i % 2 ? SCALE_HIGH : SCALE_LOW, MANY, 200 + (uint64_t)i), "scale",
                         scales[i]);
}

static void test_sign_errors_are_rejected(void **state)
{
    (void)state;
    for (int i = 1; i < SCALES; i++) {
        must_be_rejected(judge_laplace(scales[i], SIGN_LOST, DRAWS, 210 + (uint64_t)i), "sign lost", scales[i]);
        must_be_rejected(judge_laplace(scales[i], SIGN_BIASED, DRAWS, 220 + (uint64_t)i), "sign biased", scales[i]);
    }
    for (int i = 0; i < 3; i++)
        must_be_rejected(judge_laplace(scales[i], ZERO_TWICE, DRAWS, 230 + (uint64_t)i), "zero twice", scales[i]);
}

/* Zero keeps (1 - a) / (1 + a): a sign without rejection would give 1 - a. */
static void test_zero(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        const double a = exp(-1.0 / scales[i]), p = (1.0 - a) / (1.0 + a), without_rejection = 1.0 - a;
        int64_t *x = make_draws(scales[i], 300 + (uint64_t)i);
        double zeros = 0.0;
        for (int k = 0; k < DRAWS; k++)
            zeros += x[k] == 0;
        FB_FREE(x);
        const double sd = sqrt(p * (1.0 - p) / DRAWS);
        assert_true(fabs(zeros / DRAWS - p) < Z_TWO_SIDED * sd);
        assert_true(fabs(zeros / DRAWS - without_rejection) > Z_TWO_SIDED * sd);
    }
}

/* Under independence sqrt(n) r is standard normal; of the draws, of their magnitudes and between bits of a draw. */
static void test_no_correlation(void **state)
{
    (void)state;
    for (int i = 0; i < SCALES; i++) {
        int64_t *x = make_draws(scales[i], 400 + (uint64_t)i);
        const double a = exp(-1.0 / scales[i]), b = -expm1(-1.0 / scales[i]);
        const double mean = 2.0 * a / (b * (1.0 + a)), square = 2.0 * a / (b * b);
        double signed_sum = 0.0, magnitude_sum = 0.0;
        for (int k = 1; k < DRAWS; k++) {
            signed_sum += (double)x[k] * (double)x[k - 1];
            magnitude_sum += (fabs((double)x[k]) - mean) * (fabs((double)x[k - 1]) - mean);
        }
        FB_FREE(x);
        assert_true(fabs(signed_sum / square) < Z_TWO_SIDED * sqrt(DRAWS - 1.0));
        assert_true(fabs(magnitude_sum / (square - mean * mean)) < Z_TWO_SIDED * sqrt(DRAWS - 1.0));
    }
}

/* Bits far apart in a draw of a huge scale, where all low bits are fair, agree half of the time. */
static void test_bits_are_independent(void **state)
{
    (void)state;
    static const int pairs[][2] = {{0, 1}, {0, 7}, {0, 8}, {7, 8}, {3, 20}, {8, 16}, {15, 24}, {1, 30}};
    int64_t *x = make_draws(1e12, 500);
    for (size_t p = 0; p < sizeof pairs / sizeof pairs[0]; p++) {
        double agree = 0.0;
        for (int k = 0; k < DRAWS; k++) {
            const int64_t magnitude = llabs(x[k]);
            agree += ((magnitude >> pairs[p][0] ^ magnitude >> pairs[p][1]) & 1) == 0;
        }
        assert_true(fabs(agree / DRAWS - 0.5) < Z_TWO_SIDED * 0.5 / sqrt(DRAWS));
    }
    FB_FREE(x);
}

/* --- scripted bits --- */

enum { DIGIT_VALUES = 256, TIE_BYTES = 13 };

static const long double UNIT = 0x1p-64L;
static const double TABLE_END = 24.0; /* exponent down to which the table of the last digit goes */

/* Puts 104 bits at `at` of the script. */
static void put_tie(fb_noise *noise, size_t at, fb_wide tie)
{
    rescript(noise, at, 8, (uint64_t)tie);
    rescript(noise, at + 8, TIE_BYTES - 8, (uint64_t)(tie >> 64));
}

/* A draw from pairs (slot, high) for each digit, with those of digit j given. Returns digit j; *tied: more bits were
 * read. */
static int scripted_digit(const fb_laplace *laplace, int digits, int j, fb_noise *noise, int pair, fb_wide tie,
                          int *tied)
{
    for (int k = 0; k < digits; k++)
        rescript(noise, 2 * (size_t)k, 2, 0xFC00); /* slot 0 and a high byte that does not tie */
    rescript(noise, 2 * (size_t)digits, 4, 0);     /* plus; or slot 0, and then plus */
    rescript(noise, 2 * (size_t)j, 2, (uint64_t)pair);
    const uint64_t x = (uint64_t)fb_laplace_draw(laplace, noise);
    *tied = noise->stream.position > 2 * (size_t)digits + 3;
    if (!*tied)
        return (int)(x >> 8 * j & 255);
    put_tie(noise, 2 * (size_t)j + 2, tie);
    return (int)((uint64_t)fb_laplace_draw(laplace, noise) >> 8 * j & 255);
}

/* Exact probabilities of digit j in units of 2^-120: all pairs, and where the bytes tie the cut by bisection. */
static void read_digit(double scale, int digits, int j, fb_wide weight[DIGIT_VALUES])
{
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(1);
    int tied;
    const fb_wide whole = (fb_wide)1 << 8 * TIE_BYTES;
    must(fb_laplace_create(scale, &laplace));
    for (int i = 0; i < DIGIT_VALUES; i++)
        weight[i] = 0;
    script(noise, NULL, 0);
    for (int pair = 0; pair < 1 << 16; pair++) {
        const int slot = pair & 255, other = scripted_digit(laplace, digits, j, noise, pair, whole - 1, &tied);
        fb_wide cut = 0;
        for (int bit = 8 * TIE_BYTES - 1; tied && bit >= 0; bit--) {
            const fb_wide below = cut + ((fb_wide)1 << bit);
            cut = scripted_digit(laplace, digits, j, noise, pair, below - 1, &tied) == slot ? below : cut;
        }
        weight[slot] += cut;
        weight[other] += whole - cut;
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* How many values the table of digit j has beside "more", which is the last of them, or 256. */
static int table_values(double scale, int digits, int j)
{
    return j < digits - 1 ? DIGIT_VALUES : (int)fmin(TABLE_END * scale / ldexp(1.0, 8 * j), DIGIT_VALUES - 1.0);
}

/* The worst relative error of the weights against a geometric digit of ratio exp(-256^j / scale), over what laplace.c
 * allows value i: (3 i t + 33) units of 2^-64. */
static long double digit_error(const fb_wide weight[DIGIT_VALUES], double scale, int digits, int j)
{
    const long double t = ldexpl(1.0L, 8 * j) / (long double)scale;
    const int values = table_values(scale, digits, j), last = j == digits - 1;
    const long double all = last ? 1.0L : -expm1l(-256.0L * t);
    long double worst = 0.0L;
    for (int i = 0; i < DIGIT_VALUES; i++) {
        const long double it = (long double)i * t, read = ldexpl((long double)weight[i], -120);
        const long double exact = expl(-it) * (last && i == values ? 1.0L : -expm1l(-t) / all);
        if (i < values + last)
            worst = fmaxl(worst, fabsl(read / exact - 1.0L) / (3.0L * it + 33.0L));
        else
            assert_true(weight[i] == 0);
    }
    return worst / UNIT;
}

/* The sampler's law, read back from its bits: every probability, however small, is as near to the ideal as laplace.c
 * derives; a scale wrong by 2^-40 is not. */
static void test_enumeration(void **state)
{
    (void)state;
    static const struct {
        double scale;
        int digits;
    } cases[] = {{0x1p-4, 1}, {0.3, 1}, {1.0, 1}, {5.0, 1}, {17.5, 1}, {25.0, 2}, {1e6, 3}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (int j = 0; j < cases[c].digits; j++) {
            fb_wide weight[DIGIT_VALUES], sum = 0;
            const double scale = cases[c].scale;
            read_digit(scale, cases[c].digits, j, weight);
            for (int i = 0; i < DIGIT_VALUES; i++)
                sum += weight[i];
            assert_true(sum == (fb_wide)1 << 120);
            const long double right = digit_error(weight, scale, cases[c].digits, j);
            const long double wrong = digit_error(weight, scale * (1.0 + 0x1p-40), cases[c].digits, j);
            if (getenv("FB_VERBOSE"))
                print_message("scale %g, digit %d: %Lg of what is allowed\n", scale, j, right);
            if (right > 1.0L || (wrong <= 1.0L && j == cases[c].digits - 1))
                fail_msg("scale %g, digit %d: %Lg of what is allowed, %Lg with a wrong scale", scale, j, right, wrong);
        }
    }
}

/* "More" of a scale of 5, whose table has 120 values: the slot's own cut is so low that all bits have to tell. */
enum { MORE = 120, MORE_BYTES = 2 + TIE_BYTES };
static const uint8_t more[MORE_BYTES] = {MORE};

/* It adds as much as the table has values, once or several times, and the digit that follows. */
static void test_more(void **state)
{
    (void)state;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(1);
    uint8_t bytes[3 * MORE_BYTES + 6];
    must(fb_laplace_create(5.0, &laplace));
    memcpy(bytes, more, MORE_BYTES);
    memcpy(bytes + MORE_BYTES, more, MORE_BYTES);
    memcpy(bytes + 2 * MORE_BYTES, (const uint8_t[]){3, 1, 0}, 3);
    memcpy(bytes + 2 * MORE_BYTES + 3, more, MORE_BYTES);
    memcpy(bytes + 3 * MORE_BYTES + 3, (const uint8_t[]){0, 1, 1}, 3);
    script(noise, bytes, sizeof bytes);
    assert_int_equal(fb_laplace_draw(laplace, noise), 2 * MORE + 3);
    assert_int_equal(fb_laplace_draw(laplace, noise), -MORE);
    assert_int_equal(noise->stream.position, sizeof bytes);
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* With more digits than one only the last is drawn again: 25 has two, and m = 2 in the second. What would be 2^62 or
 * more is drawn again as a whole. */
static void test_more_of_two_digits(void **state)
{
    (void)state;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(1);
    uint8_t again[2 + MORE_BYTES + 3] = {7, 0xFC, 2};
    must(fb_laplace_create(25.0, &laplace));
    again[2 + MORE_BYTES] = 1; /* the second digit, after its "more" */
    script(noise, again, sizeof again);
    const int64_t x = fb_laplace_draw(laplace, noise), high = x >> 8;
    assert_true(high >= 2 && high <= 3 && noise->stream.position >= sizeof again - 1);
    fb_laplace_destroy(&laplace);
    must(fb_laplace_create(FB_LAPLACE_SCALE_MAX, &laplace)); /* seven digits; the last of 255 values, below 2^14 */
    for (int count = 64; count <= 65; count++) {
        const size_t last = (size_t)12; /* after six digits of two bytes: slot 0 and no tie */
        script(noise, NULL, 0);
        for (size_t j = 0; j < 6; j++)
            rescript(noise, 2 * j, 2, 0xFC00);
        for (size_t k = 0; k < (size_t)count; k++)
            rescript(noise, last + MORE_BYTES * k, 1, 255);
        const int64_t y = fb_laplace_draw(laplace, noise);
        if (count == 64)
            assert_int_equal(llabs(y) >> 48, 255 * 64);
        else
            assert_true(llabs(y) >> 48 < 255); /* anew, from zeros */
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* Of a million draws beyond the table, forced by the first bytes, what is beyond it is geometric anew: no memory. */
static void test_beyond_the_table(void **state)
{
    (void)state;
    for (int lost = 0; lost <= 1; lost++) { /* the mutant forgets what the table covers */
        fb_laplace *laplace = NULL;
        fb_noise *noise = make_noise(650);
        uniform_sample sample = make_sample();
        const double scale = 5.0, a = exp(-1.0 / scale);
        must(fb_laplace_create(scale, &laplace));
        for (int i = 0; i < REACH_DRAWS; i++) {
            fb_stream_reserve(&noise->stream, 256);
            memcpy(noise->stream.buffer + noise->stream.position, more, MORE_BYTES);
            const double rest = fabs((double)fb_laplace_draw(laplace, noise)) - (lost ? MORE - 1 : MORE);
            add_uniform(&sample, 1.0 - pow(a, rest) * (1.0 - randomise(&sample) * (1.0 - a)));
        }
        if (lost)
            must_be_rejected(judge(&sample), "beyond the table, shifted", scale);
        else
            must_pass(judge(&sample), "beyond the table", scale);
        fb_laplace_destroy(&laplace);
        fb_noise_destroy(&noise);
    }
}

/* The sign byte: its lowest bit; (minus, 0) is drawn again. */
static void test_scripted_sign(void **state)
{
    (void)state;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(1);
    const uint8_t bytes[] = {3, 1, 0x00, 3, 1, 0xFF, 0, 1, 0x01, 5, 1, 0x81, 0, 1, 0xFE};
    must(fb_laplace_create(5.0, &laplace)); /* one digit; slots 3 and 5 hold themselves at high byte 1 */
    script(noise, bytes, sizeof bytes);
    assert_int_equal(fb_laplace_draw(laplace, noise), 3);
    assert_int_equal(fb_laplace_draw(laplace, noise), -3);
    assert_int_equal(fb_laplace_draw(laplace, noise), -5); /* after a (minus, 0) */
    assert_int_equal(fb_laplace_draw(laplace, noise), 0);
    assert_int_equal(noise->stream.position, sizeof bytes);
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* --- what an output gives away --- */

/* Every residue of 2^8 grid steps occurs as often as the others: no bit of an answer is fixed. */
static void test_residues(void **state)
{
    (void)state;
    int64_t *x = make_draws(1e6, 700), count[256] = {0};
    for (int i = 0; i < DRAWS; i++) {
        const double value = ldexp((double)(x[i] + 12345), -31); /* as it is released, on the grid 2^-31 */
        const int64_t steps = llrint(ldexp(value, 31));
        assert_true(ldexp((double)steps, -31) == value);
        count[(steps % 256 + 256) % 256]++;
    }
    FB_FREE(x);
    double statistic = 0.0;
    for (int i = 0; i < 256; i++)
        statistic += ((double)count[i] - DRAWS / 256.0) * ((double)count[i] - DRAWS / 256.0) / (DRAWS / 256.0);
    const double v = 2.0 / (9.0 * 255.0);
    assert_true((cbrt(statistic / 255.0) - (1.0 - v)) / sqrt(v) < Z_ONE_SIDED);
}

/* The attack of Mironov 2012: whether an output y can come from the input b at all. Of 1e6 outputs for the input a, how
 * many cannot come from b. */
static int count_distinguished(int64_t a, int64_t b, uint64_t seed)
{
    enum { DIGITS = 3, LAST = DIGIT_VALUES - 1 }; /* LAST: "more" */
    static const double scale = 1e6;
    fb_wide weight[DIGITS][DIGIT_VALUES];
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(seed);
    int distinguished = 0;
    must(fb_laplace_create(scale, &laplace));
    for (int j = 0; j < DIGITS; j++)
        read_digit(scale, DIGITS, j, weight[j]);
    for (int i = 0; i < REACH_DRAWS; i++) {
        const uint64_t needed = (uint64_t)llabs(a + fb_laplace_draw(laplace, noise) - b);
        const uint64_t last = needed >> 8 * (DIGITS - 1);
        int reachable = weight[DIGITS - 1][last % LAST] != 0 && (last < LAST || weight[DIGITS - 1][LAST] != 0);
        for (int j = 0; j < DIGITS - 1; j++)
            reachable &= weight[j][needed >> 8 * j & 255] != 0;
        distinguished += !reachable;
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    return distinguished;
}

/* Textbook noise, -scale ln(k 2^-53) in doubles: is there a k near the one that the output implies? */
static int float_reaches(double output, double input, double scale)
{
    const double middle = exp(-fabs(output - input) / scale) * 0x1p53;
    for (double k = floor(middle) - 8.0; k <= middle + 8.0; k += 1.0) {
        const double noise = -scale * log(k * 0x1p-53);
        if (k > 0.0 && (input + noise == output || input - noise == output))
            return 1;
    }
    return 0;
}

static void test_reachability(void **state)
{
    (void)state;
    enum { FLOAT_DRAWS = 10000 };
    assert_int_equal(count_distinguished(0, 100000, 800), 0);
    assert_int_equal(count_distinguished(100000, 0, 801), 0);
    fb_noise *noise = make_noise(802);
    int known = 0, distinguished = 0;
    for (int i = 0; i < FLOAT_DRAWS; i++) {
        const double uniform = (double)((fb_noise_word(noise) >> 11) + 1) * 0x1p-53;
        const double output = 0.0 - 4.0 * log(uniform);
        known += float_reaches(output, 0.0, 4.0);
        distinguished += !float_reaches(output, 1.0, 4.0);
    }
    fb_noise_destroy(&noise);
    assert_int_equal(known, FLOAT_DRAWS); /* the attack finds what was there */
    assert_true(distinguished > FLOAT_DRAWS / 3);
}

static void test_extreme_scales(void **state)
{
    (void)state;
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(600);
    must(fb_laplace_create(FB_LAPLACE_SCALE_MIN, &laplace)); /* 0 but for 2 e^-16 */
    int others = 0;
    for (int i = 0; i < 100000; i++)
        others += fb_laplace_draw(laplace, noise) != 0;
    assert_true(others <= 2);
    fb_laplace_destroy(&laplace);
    must(fb_laplace_create(FB_LAPLACE_SCALE_MAX, &laplace));
    double sum = 0.0;
    for (int i = 0; i < 100000; i++) {
        const int64_t x = fb_laplace_draw(laplace, noise);
        assert_true(llabs(x) < INT64_C(1) << 62);
        sum += fabs((double)x) / FB_LAPLACE_SCALE_MAX;
    }
    assert_true(fabs(sum / 100000.0 - 1.0) < Z_TWO_SIDED / sqrt(100000.0)); /* mean and deviation are the scale */
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    const double refused[] = {0.0, -1.0, 0x1.fffffffffffffp-5, 0x1.0000000000001p52, (double)INFINITY, (double)NAN};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        must_fail(fb_laplace_create(refused[i], &laplace), "from 2^-4 to 2^52");
    assert_null(laplace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_one_percent_is_rejected),
        cmocka_unit_test(test_sign_errors_are_rejected),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_no_correlation),
        cmocka_unit_test(test_bits_are_independent),
        cmocka_unit_test(test_enumeration),
        cmocka_unit_test(test_more),
        cmocka_unit_test(test_more_of_two_digits),
        cmocka_unit_test(test_beyond_the_table),
        cmocka_unit_test(test_scripted_sign),
        cmocka_unit_test(test_residues),
        cmocka_unit_test(test_reachability),
        cmocka_unit_test(test_extreme_scales),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("laplace", tests, NULL, NULL);
}
