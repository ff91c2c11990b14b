/* SPDX-License-Identifier: Apache-2.0
 *
 * Discrete Gaussian noise against its exact law with fixed keys, judged at 1e-6; each statistic is shown to reject a
 * sigma that is wrong by 1 % and wrong signs. On scripted bits the sampler's law is read back exactly.
 */
#include "privacy/gauss.h"

#include "privacy/alias.h"
#include "statistics.h"

#include <stdlib.h>

enum { MANY = 10000000, DRAWS = 2000000, LAW_VALUES = 12100 };

/* One strip width each: 1, 1, 1, 2, 2^14 and 2^44. */
static const double sigmas[] = {0.5, 1.0, 17.5, 150.0, 1e6, 0x1p50};
enum { SIGMAS = sizeof sigmas / sizeof sigmas[0] };

/* --- the law --- */

typedef struct law {
    double sigma;
    double mass[LAW_VALUES], above[LAW_VALUES]; /* P(X = x) and P(X > x) for x >= 0; sigma up to 1000 */
} law;

static const double SUMMED_UP_TO = 1000.0; /* beyond, the continuous law is within 2e-8 of it in total variation */

static law *make_law(double sigma)
{
    law *l = NULL;
    must(FB_ALLOC(l, 1, "law"));
    l->sigma = sigma;
    double sum = 0.0;
    for (int x = LAW_VALUES - 1; x >= 0; x--) {
        l->mass[x] = exp(-(double)x * x / (2.0 * sigma * sigma));
        l->above[x] = sum;
        sum += l->mass[x];
    }
    const double all = 2.0 * sum - 1.0;
    for (int x = 0; x < LAW_VALUES; x++) {
        l->mass[x] /= all;
        l->above[x] /= all;
    }
    return l;
}

static void add_gauss(uniform_sample *sample, const law *l, int64_t x)
{
    const double v = randomise(sample);
    const int64_t m = llabs(x);
    if (l->sigma > SUMMED_UP_TO) {
        add_uniform(sample, 0.5 * erfc(-((double)x - 0.5 + v) / (l->sigma * sqrt(2.0))));
        return;
    }
    const double tail = m < LAW_VALUES ? l->above[m] + v * l->mass[m] : 0.0;
    add_uniform(sample, x < 0 ? tail : 1.0 - tail);
}

typedef enum fault { SOUND, SIGMA_HIGH, SIGMA_LOW, SIGN_LOST, SIGN_BIASED, ZERO_TWICE } fault;

static verdict judge_gauss(double sigma, fault f, int n, uint64_t seed)
{
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(seed);
    uniform_sample sample = make_sample();
    law *l = make_law(sigma);
    must(fb_gauss_create(sigma * (f == SIGMA_HIGH ? 1.01 : f == SIGMA_LOW ? 0.99 : 1.0), &gauss));
    for (int i = 0; i < n; i++) {
        int64_t x = fb_gauss_draw(gauss, noise);
        if (f == SIGN_LOST || (f == SIGN_BIASED && i % 64 == 0))
            x = llabs(x);
        if (f == ZERO_TWICE && randomise(&sample) < l->mass[0] / (1.0 + l->mass[0])) /* (minus, 0) accepted */
            x = 0;
        add_gauss(&sample, l, x);
    }
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
    FB_FREE(l);
    return judge(&sample);
}

static void test_distribution(void **state)
{
    (void)state;
    for (int i = 0; i < SIGMAS; i++)
        must_pass(judge_gauss(sigmas[i], SOUND, MANY, 100 + (uint64_t)i), "gauss", sigmas[i]);
}

static void test_one_percent_is_rejected(void **state)
{
    (void)state;
    for (int i = 0; i < SIGMAS; i++)
        must_be_rejected(judge_gauss(sigmas[i], i % 2 ? SIGMA_HIGH : SIGMA_LOW, MANY, 200 + (uint64_t)i), "sigma",
                         sigmas[i]);
}

static void test_sign_errors_are_rejected(void **state)
{
    (void)state;
    for (int i = 1; i < SIGMAS; i++) {
        must_be_rejected(judge_gauss(sigmas[i], SIGN_LOST, DRAWS, 210 + (uint64_t)i), "sign lost", sigmas[i]);
        must_be_rejected(judge_gauss(sigmas[i], SIGN_BIASED, DRAWS, 220 + (uint64_t)i), "sign biased", sigmas[i]);
    }
    for (int i = 0; i < 3; i++)
        must_be_rejected(judge_gauss(sigmas[i], ZERO_TWICE, DRAWS, 230 + (uint64_t)i), "zero twice", sigmas[i]);
}

static void test_no_correlation(void **state)
{
    (void)state;
    for (int i = 1; i < SIGMAS; i++) {
        fb_gauss *gauss = NULL;
        fb_noise *noise = make_noise(300 + (uint64_t)i);
        double last = 0.0, product = 0.0, squares = 0.0;
        must(fb_gauss_create(sigmas[i], &gauss));
        for (int k = 0; k < DRAWS; k++) {
            const double x = (double)fb_gauss_draw(gauss, noise) / sigmas[i];
            product += x * last;
            squares += (x * x - 1.0) * (last * last - 1.0) / 2.0;
            last = x;
        }
        assert_true(fabs(product) < Z_TWO_SIDED * sqrt(DRAWS));
        assert_true(fabs(squares) < Z_TWO_SIDED * sqrt(DRAWS));
        fb_gauss_destroy(&gauss);
        fb_noise_destroy(&noise);
    }
}

/* --- scripted bits: the layout is 10 bits slot, 10 of the cut, 11 of the ratio, sign; 54 bits of a tied cut; the
 * offset; 52 bits of a tied ratio --- */

enum { STRIPS = 1024, TIE_BITS = 54, RATIO_BITS = 63, HEADER_BYTES = 4, TIE_BYTES = 8 };

typedef struct reader {
    fb_gauss *gauss;
    fb_noise *noise;
    int width_log2, offset_bytes;
    fb_wide weight[STRIPS]; /* of a strip, in units of 2^-74 */
    struct {
        uint32_t header;
        int tied;  /* 54 bits of 0 follow */
    } way[STRIPS]; /* to the strip */
} reader;

static void read_strips(reader *r)
{
    for (uint32_t header = 0; header < 1 << 20; header++) {
        rescript(r->noise, 0, HEADER_BYTES, header);
        rescript(r->noise, HEADER_BYTES, TIE_BYTES, UINT64_MAX);
        const int64_t slot = header & (STRIPS - 1), other = fb_gauss_draw(r->gauss, r->noise) >> r->width_log2;
        const int tied = r->noise->position > HEADER_BYTES + (size_t)r->offset_bytes;
        uint64_t cut = 0;
        for (int bit = TIE_BITS - 1; tied && bit >= 0; bit--) {
            const uint64_t below = cut + (UINT64_C(1) << bit);
            rescript(r->noise, HEADER_BYTES, TIE_BYTES, (below - 1) << 10);
            cut = fb_gauss_draw(r->gauss, r->noise) >> r->width_log2 == slot ? below : cut;
        }
        r->weight[slot] += cut;
        r->weight[other] += (UINT64_C(1) << TIE_BITS) - cut;
        if (!tied) {
            r->way[other].header = header;
            r->way[other].tied = 0;
        } else if (cut > 0 && r->way[slot].header == 0) { /* perhaps the only one */
            r->way[slot].header = header;
            r->way[slot].tied = 1;
        }
    }
}

/* Whether 63 random bits accept the integer. */
static int accepts(reader *r, int strip, uint64_t offset, uint64_t random)
{
    const uint32_t squeeze = (uint32_t)(random >> 52) << 20;
    const size_t offset_at = HEADER_BYTES + (r->way[strip].tied ? TIE_BYTES : 0);
    const size_t at = offset_at + (size_t)r->offset_bytes;
    rescript(r->noise, HEADER_BYTES, TIE_BYTES, 0);
    rescript(r->noise, offset_at, r->offset_bytes, offset);
    rescript(r->noise, at, 8, random << 12);
    rescript(r->noise, 0, HEADER_BYTES, r->way[strip].header | squeeze);
    const int64_t x = fb_gauss_draw(r->gauss, r->noise);
    return r->noise->position <= at + 8 && x == ((int64_t)strip << r->width_log2) + (int64_t)offset;
}

/* The ratio in Q63 */
static uint64_t read_ratio(reader *r, int strip, uint64_t offset)
{
    uint64_t ratio = 0;
    for (int bit = RATIO_BITS - 1; bit >= 0; bit--) {
        const uint64_t below = ratio + (UINT64_C(1) << bit);
        ratio = accepts(r, strip, offset, below - 1) ? below : ratio;
    }
    return ratio + (uint64_t)accepts(r, strip, offset, ratio & INT64_MAX);
}

/* Total variation between the law of |x| before signs, as read, and that of `sigma`. */
static long double law_distance(reader *r, double sigma)
{
    static long double read[2 * 2 * STRIPS], exact[2 * 2 * STRIPS];
    const int width = 1 << r->width_log2;
    long double read_sum = 0.0L, exact_sum = 0.0L, distance = 0.0L;
    for (int x = STRIPS * width - 1; x >= 0; x--) {
        const int strip = x / width;
        const uint64_t ratio = r->weight[strip] == 0 ? 0 : read_ratio(r, strip, (uint64_t)(x % width));
        read[x] = ldexpl((long double)r->weight[strip], -74) * ldexpl((long double)ratio, -63);
        exact[x] = expl(-(long double)x * x / (2.0L * (long double)sigma * (long double)sigma));
        read_sum += read[x];
        exact_sum += exact[x];
    }
    for (int x = 0; x < STRIPS * width; x++)
        distance += fabsl(read[x] / read_sum - exact[x] / exact_sum);
    return distance / 2.0L;
}

static void test_enumeration(void **state)
{
    (void)state;
    static const double cases[] = {0.5, 20.0, 103.0, 150.0, 400.0};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        reader *r = NULL;
        fb_wide sum = 0;
        must(FB_ALLOC(r, 1, "reader"));
        r->noise = make_noise(1);
        must(fb_gauss_create(cases[c], &r->gauss));
        r->width_log2 = cases[c] > 206.0 ? 2 : cases[c] > 103.0;
        r->offset_bytes = r->width_log2 > 0;
        script(r->noise, NULL, 0);
        read_strips(r);
        for (int i = 0; i < STRIPS; i++)
            sum += r->weight[i];
        assert_true(sum == (fb_wide)1 << 74);
        const long double right = law_distance(r, cases[c]), wrong = law_distance(r, cases[c] * (1.0 + 0x1p-48));
        if (getenv("FB_VERBOSE"))
            print_message("sigma %g: %Lg units of 2^-64, %Lg with a wrong sigma\n", cases[c], right * 0x1p64L,
                          wrong * 0x1p64L);
        assert_true(right < 23 * 0x1p-64L); /* 14u + 9u of gauss.c */
        assert_true(wrong > 23 * 0x1p-64L);
        fb_gauss_destroy(&r->gauss);
        fb_noise_destroy(&r->noise);
        FB_FREE(r);
    }
}

static void test_scripted_sign(void **state)
{
    (void)state;
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(1);
    const uint8_t bytes[] = {3, 4, 0, 0, 3, 4, 0, 0x80, 0, 4, 0, 0x80, 5, 4, 0, 0x80, 0, 4, 0, 0};
    must(fb_gauss_create(20.0, &gauss)); /* slots 0, 3 and 5 hold themselves at 1/1024 of the cut */
    script(noise, bytes, sizeof bytes);
    assert_int_equal(fb_gauss_draw(gauss, noise), 3);
    assert_int_equal(fb_gauss_draw(gauss, noise), -3);
    assert_int_equal(fb_gauss_draw(gauss, noise), -5); /* after a (minus, 0) */
    assert_int_equal(fb_gauss_draw(gauss, noise), 0);
    assert_int_equal(noise->position, sizeof bytes);
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
}

/* The bits are part of a run's identity: a change of layout must be noticed. */
static void test_golden(void **state)
{
    (void)state;
    static const int64_t expected[4] = {334137756, -984199883, -320772884, 728869163};
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(2026);
    must(fb_gauss_create(1e9, &gauss));
    fb_noise_seek(noise, &(fb_noise_address){1, 2, 3, FB_NOISE_GRADIENT, 4});
    for (int i = 0; i < 4; i++)
        assert_int_equal(fb_gauss_draw(gauss, noise), expected[i]);
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
}

static void test_extreme_sigmas(void **state)
{
    (void)state;
    enum { FEW = 100000 };
    fb_gauss *gauss = NULL;
    fb_noise *noise = make_noise(600);
    must(fb_gauss_create(0x1p-6, &gauss));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(fb_gauss_draw(gauss, noise), 0);
    fb_gauss_destroy(&gauss);
    must(fb_gauss_create(0x1p56, &gauss));
    double squares = 0.0;
    for (int i = 0; i < FEW; i++) {
        const int64_t x = fb_gauss_draw(gauss, noise);
        assert_true(llabs(x) < INT64_C(1) << 62);
        squares += ldexp((double)x, -56) * ldexp((double)x, -56);
    }
    assert_true(fabs(squares / FEW - 1.0) < Z_TWO_SIDED * sqrt(2.0 / FEW));
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
    const double refused[] = {0.0, -1.0, 0x1.fffffffffffffp-7, 0x1.0000000000001p56, (double)INFINITY, (double)NAN};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        must_fail(fb_gauss_create(refused[i], &gauss), "2^-6", "at most 2^56");
    assert_null(gauss);
}

/* --- the continuous one, rounded --- */

/* The total variation itself, added up. */
static double distance_to_rounded(double sigma)
{
    double sum = 0.0, distance = 0.0;
    const int reach = (int)(12.0 * sigma) + 3;
    for (int x = -reach; x <= reach; x++)
        sum += exp(-(double)x * x / (2.0 * sigma * sigma));
    for (int x = 0; x <= reach; x++) {
        const double mass = exp(-(double)x * x / (2.0 * sigma * sigma)) / sum, unit = sigma * sqrt(2.0);
        const double rounded = 0.5 * (erfc((x - 0.5) / unit) - erfc((x + 0.5) / unit));
        distance += (x == 0 ? 1.0 : 2.0) * fabs(mass - rounded);
    }
    return distance / 2.0;
}

static void test_distance_to_continuous(void **state)
{
    (void)state;
    for (double sigma = 0.05; sigma < 60.0; sigma *= 1.03) {
        const double bound = fb_gauss_tv_continuous(sigma), distance = distance_to_rounded(sigma);
        if (getenv("FB_VERBOSE"))
            print_message("sigma %g: %g, bound %g\n", sigma, distance, bound);
        assert_true(bound >= distance && bound <= 1.0);
        if (sigma > 0.5)
            assert_true(bound < distance * (1.0 + 1.0 / sigma)); /* and near: the leading term is right */
    }
    assert_true(fabs(fb_gauss_tv_continuous(1e4) * 1e8 / 0.0201646 - 1.0) < 1e-4);
    assert_true(fb_gauss_tv_continuous(1e-3) == 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_one_percent_is_rejected),
        cmocka_unit_test(test_sign_errors_are_rejected),
        cmocka_unit_test(test_no_correlation),
        cmocka_unit_test(test_enumeration),
        cmocka_unit_test(test_scripted_sign),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_extreme_sigmas),
        cmocka_unit_test(test_distance_to_continuous),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("gauss", tests, NULL, NULL);
}
