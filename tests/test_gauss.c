/* SPDX-License-Identifier: Apache-2.0
 *
 * Discrete Gaussian noise against its exact law with fixed keys, judged at 1e-6; each statistic is shown to reject a
 * sigma that is wrong by 1 % and wrong signs. On scripted bits the sampler's law is read back exactly.
 */
#include "privacy/gauss.h"

#include "privacy/alias.h"
#include "privacy/laplace.h"
#include "statistics.h"

#include <stdlib.h>

enum { MANY = 10000000, DRAWS = 2000000, LAW_VALUES = 12100 };

/* One strip width each: 1, 1, 1, 1, 2^13 and 2^43. */
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
        before_draw(noise, i);
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
            before_draw(noise, k);
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

/* --- scripted bits: the layout is 10 bits slot, 10 of the cut, 11 of the ratio, sign; 104 bits of a tied cut, of which
 * 102 count; the offset; 52 bits of a tied ratio --- */

enum { SLOTS = 1024, COARSE = 1024, TIE_BITS = 102, RATIO_BITS = 63, HEADER_BYTES = 4, TIE_BYTES = 13 };

static const long double UNIT = 0x1p-64L;
static const fb_wide WHOLE = (fb_wide)1 << TIE_BITS;

typedef struct reader {
    long double sigma;
    fb_gauss *gauss;
    fb_noise *noise;
    int width_log2, offset_bytes, strips; /* slot `strips` is the tail */
    fb_wide weight[SLOTS];                /* of a strip, in units of 2^-122 */
    struct {
        uint32_t header; /* 0: none yet */
        int tied;        /* TIE_BYTES of 0 follow */
    } way[SLOTS];        /* to the strip */
} reader;

static reader *make_reader(double sigma)
{
    reader *r = NULL;
    must(FB_ALLOC(r, 1, "reader"));
    r->sigma = (long double)sigma;
    r->noise = make_noise(1);
    must(fb_gauss_create(sigma, &r->gauss));
    while (ldexp(SLOTS - 1, r->width_log2) < 5.0 * sigma)
        r->width_log2++;
    r->offset_bytes = (r->width_log2 + 7) / 8;
    r->strips = (int)fmax(1.0, ldexp(5.0 * sigma, -r->width_log2));
    script(r->noise, NULL, 0);
    return r;
}

static void free_reader(reader *r)
{
    fb_gauss_destroy(&r->gauss);
    fb_noise_destroy(&r->noise);
    FB_FREE(r);
}

/* Where these bits lead; nothing but zeros after them, which stay at the beginning of the tail. */
static int strip_at(reader *r, int slot, int coarse, fb_wide tie)
{
    const fb_wide bits = tie << (8 * TIE_BYTES - TIE_BITS);
    rescript(r->noise, HEADER_BYTES, 8, (uint64_t)bits);
    rescript(r->noise, HEADER_BYTES + 8, TIE_BYTES - 8, (uint64_t)(bits >> 64));
    rescript(r->noise, 0, HEADER_BYTES, (uint64_t)slot | (uint64_t)coarse << 10);
    const int64_t strip = fb_gauss_draw(r->gauss, r->noise) >> r->width_log2;
    return strip < r->strips ? (int)strip : r->strips;
}

static void set_way(reader *r, int strip, int slot, int coarse, int tied)
{
    if (r->way[strip].header != 0)
        return;
    r->way[strip].header = (uint32_t)(slot | coarse << 10);
    r->way[strip].tied = tied;
}

/* The cut of a slot: the 10 bits by trying all, the other 102 by bisection. */
static void read_slot(reader *r, int slot)
{
    int high = -1; /* of the cut */
    fb_wide low = 0;
    const int other = strip_at(r, slot, COARSE - 1, WHOLE - 1);
    if (other == slot) { /* it has the slot for itself */
        r->weight[slot] += COARSE * WHOLE;
        set_way(r, slot, slot, COARSE - 1, 0);
        return;
    }
    for (int coarse = 0; coarse < COARSE; coarse++)
        high += strip_at(r, slot, coarse, 0) == slot;
    for (int bit = TIE_BITS - 1; bit >= 0 && high >= 0; bit--) {
        const fb_wide below = low + ((fb_wide)1 << bit);
        low = strip_at(r, slot, high, below - 1) == slot ? below : low;
    }
    if (high >= 0)
        set_way(r, slot, slot, 0, high == 0);
    set_way(r, other, slot, COARSE - 1, high == COARSE - 1);
    const fb_wide cut = high < 0 ? 0 : (fb_wide)(unsigned)high * WHOLE + low;
    r->weight[slot] += cut;
    r->weight[other] += COARSE * WHOLE - cut;
}

/* Whether 63 random bits accept the integer. */
static int accepts(reader *r, int strip, uint64_t offset, uint64_t random)
{
    const uint32_t squeeze = (uint32_t)(random >> 52) << 20;
    const size_t offset_at = HEADER_BYTES + (r->way[strip].tied ? TIE_BYTES : 0);
    const size_t at = offset_at + (size_t)r->offset_bytes;
    script(r->noise, NULL, 0);
    rescript(r->noise, offset_at, r->offset_bytes, offset);
    rescript(r->noise, at, 8, random << 12);
    rescript(r->noise, 0, HEADER_BYTES, r->way[strip].header | squeeze);
    const int64_t x = fb_gauss_draw(r->gauss, r->noise);
    return r->noise->stream.position <= at + 8 && x == ((int64_t)strip << r->width_log2) + (int64_t)offset;
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

static long double exponent_of(long double x, long double sigma)
{
    return (x / sigma) * (x / sigma) / 2.0L;
}

/* Of the tail's weight: what a geometric variable of its first ratio makes of its first integer. */
static long double tail_share(const reader *r, long double sigma)
{
    const long double begin = (long double)(r->strips << r->width_log2);
    return expl(-exponent_of(begin, sigma)) / -expm1l(-begin / sigma / sigma) / (long double)(1 << r->width_log2);
}

/* The worst relative error of a probability of |x| before signs, as read, over what gauss.c allows, (3 e + 26)
 * units below the tail and 10 more of its weight, and as much for the same arithmetic here. */
static long double law_error(reader *r, long double sigma)
{
    const int width = 1 << r->width_log2;
    long double sum = tail_share(r, sigma), worst = 0.0L;
    for (int strip = 0; strip < r->strips; strip++)
        sum += expl(-exponent_of((long double)(strip * width), sigma));
    for (int x = 0; x < r->strips * width; x++) {
        const int strip = x / width;
        const uint64_t ratio = read_ratio(r, strip, (uint64_t)(x % width));
        const long double e = exponent_of((long double)x, sigma), exact = expl(-e) / sum;
        const long double read = ldexpl((long double)r->weight[strip], -122) * ldexpl((long double)ratio, -63);
        worst = fmaxl(worst, fabsl(read / exact - 1.0L) / (6.0L * e + 52.0L));
    }
    const long double read = ldexpl((long double)r->weight[r->strips], -122) * sum, e = exponent_of(5.0L, 1.0L);
    worst = fmaxl(worst, fabsl(read / tail_share(r, sigma) - 1.0L) / (6.0L * e + 72.0L));
    return worst / UNIT;
}

static void test_enumeration(void **state)
{
    (void)state;
    static const double cases[] = {0.25, 0.5, 20.0, 103.0, 250.0, 600.0};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        reader *r = make_reader(cases[c]);
        fb_wide sum = 0;
        for (int slot = 0; slot < SLOTS; slot++)
            read_slot(r, slot);
        for (int i = 0; i < SLOTS; i++) {
            sum += r->weight[i];
            assert_true(i <= r->strips || r->weight[i] == 0);
        }
        assert_true(sum == (fb_wide)1 << 122);
        const long double right = law_error(r, r->sigma), wrong = law_error(r, r->sigma * (1.0L + 0x1p-48L));
        if (getenv("FB_VERBOSE"))
            print_message("sigma %g: %Lg of what is allowed, %Lg with a wrong sigma\n", cases[c], right, wrong);
        assert_true(right < 1.0L);
        assert_true(wrong > 1.0L);
        free_reader(r);
    }
}

/* --- the tail --- */

/* P(X > x) given X >= begin, at x + v - 1, for a sigma whose law is summed, and for a large one. */
static double beyond(const law *l, double sigma, int64_t begin, int64_t x, double v)
{
    if (sigma > SUMMED_UP_TO)
        return erfc(((double)x - 0.5 + v) / (sigma * sqrt(2.0))) / erfc(((double)begin - 0.5) / (sigma * sqrt(2.0)));
    return (l->above[x] + (1.0 - v) * l->mass[x]) / l->above[begin - 1];
}

/* Whether a draw into the tail, whose geometric variable the script makes y (of one digit, below the values of its
 * table), is accepted by 2^-x with `zeros` leading zeros and then these 80 bits. */
static int accepts_tail(reader *r, int y, int zeros, fb_wide random)
{
    const size_t digit = HEADER_BYTES + TIE_BYTES, at = digit + 2 + (size_t)zeros / 8;
    script(r->noise, NULL, 0);
    rescript(r->noise, at, 2, (uint64_t)(random >> 64));
    rescript(r->noise, at + 2, 8, (uint64_t)random);
    rescript(r->noise, digit, 2, (uint64_t)y | 1 << 8);
    rescript(r->noise, 0, HEADER_BYTES, (uint64_t)r->strips);
    const int64_t x = fb_gauss_draw(r->gauss, r->noise);
    return x == ((int64_t)r->strips << r->width_log2) + y && r->noise->stream.position == at + 10;
}

/* The thinning of the tail, exp(-y^2 / (2 sigma^2)), read back: to (4 e + 16) units, as gauss.c says, of 2^-64. y up to
 * 100 sigma, where a neighbour far away may need it; slot y of the geometric table holds itself at a high byte of 1. */
static void test_tail_acceptance(void **state)
{
    (void)state;
    static const double cases[] = {0.7, 1.1, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0, 100.0};
    int read = 0;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        reader *r = make_reader(cases[c]);
        const double rate = (double)r->strips / cases[c] / cases[c];
        const int values = (int)fmin(24.0 / rate, 255.0); /* of the table of a single digit */
        for (int y = 1; y < values && rate * 256.0 >= 12.0; y += 1 + y / 16) {
            const long double e = exponent_of((long double)y, r->sigma), exact = expl(-e);
            const int zeros = (int)(e / logl(2.0L)) / 16 * 16;
            fb_wide cut = 0;
            if (!accepts_tail(r, y, zeros, 0))
                continue; /* the slot holds another value, or its cut has this byte and takes more */
            for (int bit = 79; bit >= 0; bit--) {
                const fb_wide below = cut + ((fb_wide)1 << bit);
                cut = accepts_tail(r, y, zeros, below - 1) ? below : cut;
            }
            const long double seen = ldexpl((long double)cut, -80 - zeros);
            if (!(fabsl(seen / exact - 1.0L) < (4.0L * e + 16.0L) * UNIT + e * UNIT))
                fail_msg("sigma %g y %d zeros %d: seen %Lg exact %Lg", cases[c], y, zeros, seen, exact);
            read++;
        }
        free_reader(r);
    }
    assert_true(read > 100);
}

/* What the tail proposes is, bit for bit, the geometric variable of rate begin / sigma^2 of the bytes that follow: one
 * of another rate would now and then be another number. */
static void assert_proposal(const fb_geometric *geometric, const fb_noise *before, int64_t proposed)
{
    fb_noise noise = *before;
    noise.stream.position += HEADER_BYTES + TIE_BYTES;
    assert_int_equal(proposed, fb_geometric_draw(geometric, &noise));
}

/* Draws that the first bits send into the tail follow the law there, and are kept as often as they must be; the mutant
 * keeps all that the geometric variable proposes. */
static void test_tail(void **state)
{
    (void)state;
    enum { FORCED = 1000000, COMPARED = 100000 };
    static const double cases[] = {20.0, 1e6};
    for (int c = 0; c < 4; c++) {
        const double sigma = cases[c / 2];
        const int mutant = c % 2;
        reader *r = make_reader(sigma);
        law *l = make_law(fmin(sigma, SUMMED_UP_TO));
        fb_noise *noise = make_noise(700 + (uint64_t)c);
        fb_geometric *geometric = NULL;
        uniform_sample sample = make_sample();
        const int64_t begin = (int64_t)r->strips << r->width_log2;
        const long double rate = (long double)begin / r->sigma / r->sigma;
        double kept = 0.0;
        must(fb_geometric_create(rate, &geometric));
        for (int i = 0; i < FORCED; i++) {
            fb_stream_reserve(&noise->stream, 256);
            memset(noise->stream.buffer + noise->stream.position, 0, HEADER_BYTES + TIE_BYTES);
            memcpy(noise->stream.buffer + noise->stream.position, &(uint32_t){(uint32_t)r->strips}, HEADER_BYTES);
            const fb_noise before = *noise;
            const int64_t x =
                mutant ? begin + (int64_t)fb_geometric_draw(geometric, noise) : llabs(fb_gauss_draw(r->gauss, noise));
            if (x < begin)
                continue; /* not kept, and all was drawn again */
            if (!mutant && i < COMPARED)
                assert_proposal(geometric, &before, x - begin);
            kept += 1.0;
            add_uniform(&sample, 1.0 - beyond(l, sigma, begin, x, randomise(&sample)));
        }
        double p = 0.0;
        for (int64_t y = 0; y < 4 * begin && (double)(rate * y) < 40.0; y++)
            p += exp(-(double)y * (double)rate - (double)y / sigma * (double)y / sigma / 2.0) * -expm1(-(double)rate);
        if (mutant) {
            must_be_rejected(judge(&sample), "tail, all kept", sigma);
        } else {
            must_pass(judge(&sample), "tail", sigma);
            assert_true(fabs(kept / FORCED - p) < Z_TWO_SIDED * sqrt(p * (1.0 - p) / FORCED));
        }
        fb_geometric_destroy(&geometric);
        fb_noise_destroy(&noise);
        FB_FREE(l);
        free_reader(r);
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
    assert_int_equal(noise->stream.position, sizeof bytes);
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
}

/* The bits are part of a run's identity: a change of layout must be noticed. */
static void test_golden(void **state)
{
    (void)state;
    static const int64_t expected[4] = {174754204, -816427723, -169777940, 368159019};
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
    double ones = 0.0, squares = 0.0;
    must(fb_gauss_create(FB_GAUSS_SIGMA_MIN, &gauss));
    for (int i = 0; i < FEW; i++)
        ones += fabs((double)fb_gauss_draw(gauss, noise));
    const double p = 2.0 * exp(-8.0) / (1.0 + 2.0 * exp(-8.0));
    assert_true(fabs(ones / FEW - p) < Z_TWO_SIDED * sqrt(p / FEW));
    fb_gauss_destroy(&gauss);
    must(fb_gauss_create(FB_GAUSS_SIGMA_MAX, &gauss));
    for (int i = 0; i < FEW; i++) {
        const int64_t x = fb_gauss_draw(gauss, noise);
        assert_true(llabs(x) < INT64_C(1) << 62);
        squares += ldexp((double)x, -56) * ldexp((double)x, -56);
    }
    assert_true(fabs(squares / FEW - 1.0) < Z_TWO_SIDED * sqrt(2.0 / FEW));
    fb_gauss_destroy(&gauss);
    fb_noise_destroy(&noise);
    const double refused[] = {0.0, -1.0, 0x1.fffffffffffffp-3, 0x1.0000000000001p56, (double)INFINITY, (double)NAN};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        must_fail(fb_gauss_create(refused[i], &gauss), "from 1/4 to 2^56");
    assert_null(gauss);
}

/* --- the continuous one, rounded --- */

/* The largest |log| of the ratio of the two laws of an integer, where that is above 2^-1000. */
static double ratio_to_rounded(double sigma)
{
    double sum = 0.0, worst = 0.0;
    const int reach = (int)(37.0 * sigma);
    for (int x = -reach - 3; x <= reach + 3; x++)
        sum += exp(-(double)x * x / (2.0 * sigma * sigma));
    for (int x = 0; x <= reach; x++) {
        const double mass = exp(-(double)x * x / (2.0 * sigma * sigma)) / sum, unit = sigma * sqrt(2.0);
        const double rounded = 0.5 * (erfc((x - 0.5) / unit) - erfc((x + 0.5) / unit));
        worst = fmax(worst, fabs(log(mass / rounded)));
    }
    return worst;
}

static void test_ratio_to_continuous(void **state)
{
    (void)state;
    for (double sigma = 0.25; sigma < 200.0; sigma *= 1.03) {
        const double bound = fb_gauss_to_continuous(sigma, 37.0), ratio = ratio_to_rounded(sigma);
        if (getenv("FB_VERBOSE"))
            print_message("sigma %g: %g, bound %g\n", sigma, ratio, bound);
        assert_true(bound >= ratio);
        if (sigma > 32.0)
            assert_true(bound < 1.1 * ratio); /* and near */
    }
    assert_true(fabs(fb_gauss_to_continuous(1e4, 30.0) * 1e8 / (900.0 / 24.0) - 1.0) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_one_percent_is_rejected),
        cmocka_unit_test(test_sign_errors_are_rejected),
        cmocka_unit_test(test_no_correlation),
        cmocka_unit_test(test_enumeration),
        cmocka_unit_test(test_tail_acceptance),
        cmocka_unit_test(test_tail),
        cmocka_unit_test(test_scripted_sign),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_extreme_sigmas),
        cmocka_unit_test(test_ratio_to_continuous),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("gauss", tests, NULL, NULL);
}
