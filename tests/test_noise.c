/* SPDX-License-Identifier: Apache-2.0
 *
 * Noise against its closed form, with fixed keys, so that a verdict never changes by chance. Statistics are judged at
 * 1e-6, and each is shown to reject a scale that is wrong by 1 % and wrong signs. On scripted bits the tables are read
 * back exactly.
 */
#include "core/file.h"
#include "privacy/alias.h"
#include "statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

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
    for (int i = 0; i < DRAWS; i++)
        x[i] = fb_laplace_draw(laplace, noise);
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

enum { DIGIT_VALUES = 256, TIE_BYTES = 7, TIE_BITS = 56 };

/* A draw from pairs (slot, high) for each digit, with those of digit j given. Returns digit j; *tied: more bits were
 * read. */
static int scripted_digit(const fb_laplace *laplace, int digits, int j, fb_noise *noise, int pair, uint64_t tie,
                          int *tied)
{
    for (int k = 0; k < digits; k++)
        rescript(noise, 2 * (size_t)k, 2, 0xFC00); /* slot 0 and a high byte that does not tie */
    rescript(noise, 2 * (size_t)digits, 1, 0);     /* plus */
    rescript(noise, 2 * (size_t)j, 2, (uint64_t)pair);
    const uint64_t x = (uint64_t)fb_laplace_draw(laplace, noise);
    *tied = noise->position != 2 * (size_t)digits + 1;
    if (!*tied)
        return (int)(x >> 8 * j & 255);
    rescript(noise, 2 * (size_t)j + 2, TIE_BYTES, tie);
    return (int)((uint64_t)fb_laplace_draw(laplace, noise) >> 8 * j & 255);
}

/* Exact probabilities of digit j in units of 2^-72: all pairs, and where the bytes tie the cut by bisection. */
static void read_digit(double scale, int digits, int j, fb_wide weight[DIGIT_VALUES])
{
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(1);
    int tied;
    must(fb_laplace_create(scale, &laplace));
    for (int i = 0; i < DIGIT_VALUES; i++)
        weight[i] = 0;
    for (int pair = 0; pair < 1 << 16; pair++) {
        const int slot = pair & 255, other = scripted_digit(laplace, digits, j, noise, pair, UINT64_MAX, &tied);
        uint64_t cut = 0;
        for (int bit = TIE_BITS - 1; tied && bit >= 0; bit--) {
            const uint64_t below = cut + (UINT64_C(1) << bit);
            cut = scripted_digit(laplace, digits, j, noise, pair, below - 1, &tied) == slot ? below : cut;
        }
        weight[slot] += cut;
        weight[other] += (UINT64_C(1) << TIE_BITS) - cut;
    }
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* Total variation between the weights and a geometric digit of ratio exp(-256^j / scale). */
static long double digit_distance(const fb_wide weight[DIGIT_VALUES], double scale, int j)
{
    const long double t = ldexpl(1.0L, 8 * j) / (long double)scale;
    const long double first = expm1l(-t) / expm1l(-256.0L * t);
    long double sum = 0.0L;
    for (int i = 0; i < DIGIT_VALUES; i++)
        sum += fabsl(ldexpl((long double)weight[i], -72) - first * expl(-(long double)i * t));
    return sum / 2.0L;
}

/* The sampler's law, read back from its bits, is as near to the discrete Laplace as noise.c derives: 15 units of 2^-64
 * a digit; a scale wrong by 2^-40 is not. */
static void test_enumeration(void **state)
{
    (void)state;
    static const struct {
        double scale;
        int digits;
    } cases[] = {{0.3, 1}, {1.0, 1}, {5.0, 1}, {17.5, 2}, {1e6, 4}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (int j = 0; j < cases[c].digits; j++) {
            fb_wide weight[DIGIT_VALUES], sum = 0;
            read_digit(cases[c].scale, cases[c].digits, j, weight);
            for (int i = 0; i < DIGIT_VALUES; i++)
                sum += weight[i];
            assert_true(sum == (fb_wide)1 << 72);
            const long double right = digit_distance(weight, cases[c].scale, j);
            const long double wrong = digit_distance(weight, cases[c].scale * (1.0 + 0x1p-40), j);
            if (right > 15 * 0x1p-64L || (wrong <= 15 * 0x1p-64L && j < cases[c].digits - 1))
                fail_msg("scale %g, digit %d: %Lg units, %Lg with a wrong scale", cases[c].scale, j, right * 0x1p64L,
                         wrong * 0x1p64L);
        }
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
    assert_int_equal(noise->position, sizeof bytes);
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
    enum { DIGITS = 4 };
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
        int reachable = needed >> 8 * DIGITS == 0;
        for (int j = 0; j < DIGITS; j++)
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
    must(fb_laplace_create(1e-300, &laplace));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(fb_laplace_draw(laplace, noise), 0);
    fb_laplace_destroy(&laplace);
    must(fb_laplace_create(0x1p56, &laplace));
    double sum = 0.0;
    for (int i = 0; i < 100000; i++) {
        const int64_t x = fb_laplace_draw(laplace, noise);
        assert_true(llabs(x) < INT64_C(1) << 62);
        sum += fabs((double)x) * 0x1p-56;
    }
    assert_true(fabs(sum / 100000.0 - 1.0) < Z_TWO_SIDED / sqrt(100000.0)); /* mean and deviation are the scale */
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
    const double refused[] = {0.0, -1.0, 0x1.0000000000001p56, (double)INFINITY, (double)NAN};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        must_fail(fb_laplace_create(refused[i], &laplace), "at most 2^56");
    assert_null(laplace);
}

/* --- addresses --- */

enum { ADDRESSES = 9, PREFIX = 64 };

/* Differ from the first in one field each, by the smallest and by the highest bit. */
static const fb_noise_address addresses[ADDRESSES] = {
    {.purpose = 1},
    {.purpose = 1, .attempt = 1},
    {.purpose = 1, .round = 1},
    {.purpose = 1, .step = 1},
    {.purpose = 1, .pass = 1},
    {.purpose = 2},
    {.purpose = 1, .attempt = 1u << 31},
    {.purpose = 1, .round = 1u << 31},
    {.purpose = 1, .pass = 1u << 15},
};

static void draw_prefix(fb_noise *noise, const fb_noise_address *address, int64_t x[PREFIX])
{
    fb_laplace *laplace = NULL;
    must(fb_laplace_create(0x1p50, &laplace));
    fb_noise_seek(noise, address);
    for (int i = 0; i < PREFIX; i++)
        x[i] = fb_laplace_draw(laplace, noise);
    fb_laplace_destroy(&laplace);
}

/* No draw of 50 bits occurs twice at all: by chance that has probability below 2^-25. */
static void test_addresses_are_distinct(void **state)
{
    (void)state;
    int64_t x[2 * ADDRESSES * PREFIX];
    for (int hospital = 0; hospital < 2; hospital++) {
        uint8_t key[FB_KEY_BYTES];
        fb_noise *noise = NULL;
        must(fb_key_make(FB_KEY_SEED, 7, NULL, (uint32_t)hospital, key));
        must(fb_noise_create(key, &noise));
        for (int a = 0; a < ADDRESSES; a++)
            draw_prefix(noise, &addresses[a], &x[(hospital * ADDRESSES + a) * PREFIX]);
        fb_noise_destroy(&noise);
    }
    for (int i = 0; i < 2 * ADDRESSES * PREFIX; i++)
        for (int k = 0; k < i; k++)
            assert_int_not_equal(x[i], x[k]);
}

static int compare(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Streams of 13 hospitals and 40 rounds: nothing in common, and none correlated with the next. By chance two of 33,280
 * draws are equal with probability 2^-22. */
static void test_streams_are_independent(void **state)
{
    (void)state;
    enum { HOSPITALS = 13, ROUNDS = 40, STREAMS = HOSPITALS * ROUNDS, ALL = STREAMS * PREFIX };
    int64_t *x = NULL;
    double product = 0.0;
    must(FB_ALLOC(x, ALL, "draws"));
    for (uint32_t hospital = 0; hospital < HOSPITALS; hospital++) {
        uint8_t key[FB_KEY_BYTES];
        fb_noise *noise = NULL;
        must(fb_key_make(FB_KEY_SEED, 7, NULL, hospital, key));
        must(fb_noise_create(key, &noise));
        for (uint32_t round = 0; round < ROUNDS; round++)
            draw_prefix(noise, &(fb_noise_address){.round = round, .purpose = FB_NOISE_ANSWER},
                        &x[(hospital * ROUNDS + round) * PREFIX]);
        fb_noise_destroy(&noise);
    }
    for (int i = PREFIX; i < ALL; i++)
        product += ldexp((double)x[i], -50) * ldexp((double)x[i - PREFIX], -50) / 2.0; /* 2: the variance */
    assert_true(fabs(product) < 5.0 * sqrt(ALL - PREFIX));
    qsort(x, ALL, sizeof *x, compare);
    for (int i = 1; i < ALL; i++)
        assert_true(x[i] != x[i - 1]);
    FB_FREE(x);
}

static void test_repeatable(void **state)
{
    (void)state;
    int64_t first[PREFIX], again[PREFIX];
    fb_noise *noise = make_noise(8), *other = make_noise(8);
    draw_prefix(noise, &addresses[2], first);
    draw_prefix(noise, &addresses[5], again); /* elsewhere in between */
    draw_prefix(noise, &addresses[2], again);
    assert_memory_equal(first, again, sizeof first);
    draw_prefix(other, &addresses[2], again);
    assert_memory_equal(first, again, sizeof first);
    fb_noise_destroy(&noise);
    fb_noise_destroy(&other);
    assert_null(noise);
}

/* The bits are part of a run's identity: a change of layout must be noticed. */
static void test_golden(void **state)
{
    (void)state;
    static const int64_t expected[4] = {665874887, 737755743, 121640917, -763390531};
    fb_laplace *laplace = NULL;
    fb_noise *noise = make_noise(2026);
    must(fb_laplace_create(1e9, &laplace));
    fb_noise_seek(noise, &(fb_noise_address){1, 2, 3, FB_NOISE_QUERY, 4});
    for (int i = 0; i < 4; i++)
        assert_int_equal(fb_laplace_draw(laplace, noise), expected[i]);
    fb_laplace_destroy(&laplace);
    fb_noise_destroy(&noise);
}

/* --- keys --- */

static void write_key(const char *path, const char *text, mode_t mode)
{
    must(fb_file_write_atomic(path, text, (int64_t)strlen(text)));
    assert_int_equal(chmod(path, mode), 0);
}

static const char HEX[] = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

static void test_key_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_noise.XXXXXX", path[64], text[128];
    uint8_t key[FB_KEY_BYTES], same[FB_KEY_BYTES], other[FB_KEY_BYTES];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/key", folder);
    must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "No such file");
    write_key(path, HEX, 0600);
    must(fb_key_make(FB_KEY_FILE, 0, path, 0, key));
    must(fb_key_make(FB_KEY_FILE, 0, path, 1, other));
    assert_memory_not_equal(key, other, sizeof key);
    must(fb_key_make(FB_KEY_FILE, 9, path, 0, other)); /* another run with the same file */
    assert_memory_not_equal(key, other, sizeof key);
    snprintf(text, sizeof text, "%s\n", HEX);
    write_key(path, text, 0400);
    must(fb_key_make(FB_KEY_FILE, 0, path, 0, same));
    assert_memory_equal(key, same, sizeof key);
    static const mode_t open_modes[] = {0640, 0604, 0660, 0601, 0777};
    for (size_t i = 0; i < sizeof open_modes / sizeof open_modes[0]; i++) {
        write_key(path, HEX, open_modes[i]);
        must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "chmod 600");
    }
    static const char *const malformed[] = {"",
                                            "00",
                                            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1",
                                            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1g",
                                            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0",
                                            "0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"};
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        write_key(path, malformed[i], 0600);
        must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "64 hexadecimal digits");
    }
    snprintf(text, sizeof text, "%s\n\n", HEX);
    write_key(path, text, 0600);
    must_fail(fb_key_make(FB_KEY_FILE, 0, path, 0, key), "exceed the limit");
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

static void test_key_sources(void **state)
{
    (void)state;
    uint8_t first[FB_KEY_BYTES], second[FB_KEY_BYTES];
    must(fb_key_make(FB_KEY_SYSTEM, 1, NULL, 0, first));
    must(fb_key_make(FB_KEY_SYSTEM, 1, NULL, 0, second));
    assert_memory_not_equal(first, second, sizeof first);
    must(fb_key_make(FB_KEY_SEED, 1, NULL, 0, first));
    must(fb_key_make(FB_KEY_SEED, 1, NULL, 0, second));
    assert_memory_equal(first, second, sizeof first);
    must(fb_key_make(FB_KEY_SEED, 2, NULL, 0, second));
    assert_memory_not_equal(first, second, sizeof first);
    must(fb_key_make(FB_KEY_SEED, 1, NULL, 1, second));
    assert_memory_not_equal(first, second, sizeof first);
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
        cmocka_unit_test(test_scripted_sign),
        cmocka_unit_test(test_residues),
        cmocka_unit_test(test_reachability),
        cmocka_unit_test(test_extreme_scales),
        cmocka_unit_test(test_addresses_are_distinct),
        cmocka_unit_test(test_streams_are_independent),
        cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_key_file),
        cmocka_unit_test(test_key_sources),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("noise", tests, NULL, NULL);
}
