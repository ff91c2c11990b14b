/* SPDX-License-Identifier: Apache-2.0
 *
 * Noise against its closed form, with fixed keys, so that a verdict never changes by chance. Statistics are judged at
 * 1e-6, two-sided |z| < 4.892, and every one is shown to reject a scale that is wrong by 1 %.
 */
#include "core/file.h"
#include "privacy/noise.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DRAWS = 2000000, BINS_MAX = 64 };

static const double Z_TWO_SIDED = 4.8916, Z_ONE_SIDED = 4.7534; /* of 1e-6 */
static const double scales[] = {0.3, 1.0, 17.5, 1e6, 1e12};
enum { SCALES = sizeof scales / sizeof scales[0] };

static fb_noise *make_noise(uint64_t seed)
{
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    must(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    fb_noise_seek(noise, &(fb_noise_address){.purpose = FB_NOISE_ANSWER});
    return noise;
}

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

/* P(X <= x) of the discrete Laplace */
static double distribution(double scale, int64_t x)
{
    const double a = exp(-1.0 / scale);
    if (x < 0)
        return exp((double)x / scale) / (1.0 + a);
    return 1.0 - exp(-((double)x + 1.0) / scale) / (1.0 + a);
}

/* The least x with P(X <= x) >= p, in p < 1/2 */
static int64_t lower_quantile(double scale, double p)
{
    const double a = exp(-1.0 / scale);
    int64_t x = (int64_t)ceil(scale * log(p * (1.0 + a)));
    x = x > 0 ? 0 : x;
    while (x < 0 && distribution(scale, x) < p)
        x++;
    return x;
}

/* Bins between the quantiles below, mirrored; bin b is upper[b - 1] < x <= upper[b]. */
static int make_bins(double scale, int64_t upper[BINS_MAX])
{
    static const double p[] = {1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.06, 0.1,  0.13, 0.16, 0.2,
                               0.23, 0.26, 0.3,  0.33, 0.36, 0.4,  0.43, 0.46, 0.49};
    int bins = 0;
    for (size_t i = 0; i < sizeof p / sizeof p[0]; i++) {
        const int64_t x = lower_quantile(scale, p[i]);
        if (x < 0 && (bins == 0 || x > upper[bins - 1]))
            upper[bins++] = x;
    }
    for (int i = bins - 1; i >= 0; i--)
        upper[bins + (bins - 1 - i)] = -upper[i] - 1; /* x <= -u - 1 mirrors x > u */
    bins *= 2;
    upper[bins++] = INT64_MAX;
    return bins;
}

static int find_bin(const int64_t *upper, int bins, int64_t x)
{
    int low = 0, high = bins - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (x <= upper[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Chi-square of the draws against the law of `scale`, as a standard normal (Wilson & Hilferty). */
static double chi_square_z(const int64_t *x, double scale)
{
    int64_t upper[BINS_MAX], count[BINS_MAX] = {0};
    const int bins = make_bins(scale, upper);
    for (int i = 0; i < DRAWS; i++)
        count[find_bin(upper, bins, x[i])]++;
    double statistic = 0.0, below = 0.0;
    for (int b = 0; b < bins; b++) {
        const double up_to = b == bins - 1 ? 1.0 : distribution(scale, upper[b]);
        const double expected = DRAWS * (up_to - below), off = (double)count[b] - expected;
        assert_true(expected > 5.0);
        statistic += off * off / expected;
        below = up_to;
    }
    const double v = 2.0 / (9.0 * (bins - 1));
    return (cbrt(statistic / (bins - 1)) - (1.0 - v)) / sqrt(v);
}

/* Mean of |x|, the sufficient statistic of the scale, as a standard normal under the law of `scale`. */
static double scale_z(const int64_t *x, double scale)
{
    const double a = exp(-1.0 / scale), b = -expm1(-1.0 / scale); /* b = 1 - a */
    const double mean = 2.0 * a / (b * (1.0 + a)), square = 2.0 * a / (b * b);
    double sum = 0.0;
    for (int i = 0; i < DRAWS; i++)
        sum += fabs((double)x[i]);
    return (sum / DRAWS - mean) / sqrt((square - mean * mean) / DRAWS);
}

static void test_distribution(void **state)
{
    (void)state;
    for (int i = 0; i < SCALES; i++) {
        int64_t *x = make_draws(scales[i], 100 + (uint64_t)i);
        const double chi = chi_square_z(x, scales[i]), mean = scale_z(x, scales[i]);
        FB_FREE(x);
        if (chi > Z_ONE_SIDED || fabs(mean) > Z_TWO_SIDED)
            fail_msg("scale %g: z of chi-square %g, of the mean magnitude %g", scales[i], chi, mean);
    }
}

static void test_one_percent_is_rejected(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * SCALES; i++) {
        const double scale = scales[i / 2], wrong = scale * (i % 2 ? 1.01 : 0.99);
        int64_t *x = make_draws(wrong, 200 + (uint64_t)i);
        const double chi = chi_square_z(x, scale), mean = scale_z(x, scale);
        FB_FREE(x);
        if (chi < Z_ONE_SIDED || fabs(mean) < Z_TWO_SIDED)
            fail_msg("scale %g for %g passes: z of chi-square %g, of the mean magnitude %g", wrong, scale, chi, mean);
    }
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
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_no_correlation),
        cmocka_unit_test(test_bits_are_independent),
        cmocka_unit_test(test_extreme_scales),
        cmocka_unit_test(test_addresses_are_distinct),
        cmocka_unit_test(test_repeatable),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_key_file),
        cmocka_unit_test(test_key_sources),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("noise", tests, NULL, NULL);
}
