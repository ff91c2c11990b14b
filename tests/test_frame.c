/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages: what was sent arrives, in close to the fewest bytes; what was damaged or forged is refused.
 */
#include "codec/frame.h"
#include "core/file.h"
#include "core/rng.h"
#include "privacy/mechanism.h"
#include "testing.h"

#include <math.h>

enum { HEADER_BYTES = 76, CRC_OFFSET = 72 };

static const fb_frame_info info = {3, 5, 154, "model hash of 16"};
static const fb_rng rng = {.seed = 11, .purpose = FB_RNG_TEST};

/* A random subset of `count` coordinates with random values; grid values have `bits` bits. */
static fb_update make_update(int64_t n, int64_t count, fb_value_kind kind, int bits)
{
    fb_update u = {0};
    must(fb_update_reserve(&u, n, count, kind));
    if (u.index)
        must(fb_select_random(&rng, n, count, u.index));
    u.grid_log2 = kind == FB_VALUES_GRID ? -33 : 0;
    for (int64_t k = 0; k < count; k++) {
        uint32_t words[4];
        fb_rng_words(&rng, (uint32_t)k, words);
        if (kind == FB_VALUES_F32)
            u.f32[k] = (float)fb_rng_normal(&rng, (uint32_t)k);
        else
            u.grid[k] = (int64_t)((uint64_t)words[0] << 32 | words[1]) >> (64 - bits);
    }
    return u;
}

static void assert_same(const fb_update *a, const fb_update *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->grid_log2, b->grid_log2);
    assert_int_equal(a->index == NULL, b->index == NULL);
    const size_t count = (size_t)a->count;
    if (a->index && count > 0)
        assert_memory_equal(a->index, b->index, count * sizeof *a->index);
    if (a->kind == FB_VALUES_F32 && count > 0)
        assert_memory_equal(a->f32, b->f32, count * sizeof *a->f32);
    if (a->kind == FB_VALUES_GRID && count > 0)
        assert_memory_equal(a->grid, b->grid, count * sizeof *a->grid);
}

/* Sends and receives; returns the size of the message. */
static int64_t send(const fb_update *u, int implied)
{
    uint8_t *bytes = NULL;
    int64_t size_bytes = 0;
    fb_frame_info seen;
    fb_update got = {0};
    must(fb_frame_encode(&info, u, implied, &bytes, &size_bytes));
    must(fb_frame_peek(bytes, size_bytes, &seen));
    assert_int_equal(seen.hospital, info.hospital);
    assert_int_equal(seen.round, info.round);
    assert_int_equal(seen.steps, info.steps);
    assert_memory_equal(seen.model_hash, info.model_hash, sizeof info.model_hash);
    must(fb_frame_decode(bytes, size_bytes, &info, u->n, u->n, implied ? u->index : NULL, u->count, &got));
    assert_same(u, &got);
    fb_update_free(&got);
    FB_FREE(bytes);
    return size_bytes;
}

static void test_round_trip(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 7, 8, 9, 1000, 100003};
    static const double fractions[] = {0.0, 1e-4, 0.1, 0.38, 0.4, 0.5, 0.62, 0.9, 0.9999, 1.0};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t f = 0; f < sizeof fractions / sizeof fractions[0]; f++) {
            for (int kind = 0; kind < 2; kind++) {
                const int64_t count = (int64_t)(fractions[f] * (double)sizes[i]);
                fb_update u = make_update(sizes[i], count, (fb_value_kind)kind, 21);
                send(&u, 0);
                send(&u, u.index != NULL); /* implied; with all coordinates there is nothing to imply */
                fb_update_free(&u);
            }
        }
    }
}

/* Clustered supports: long gaps, long runs, both ends. */
static void test_round_trip_clusters(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    for (int form = 0; form < 5; form++) {
        static const int64_t counts[] = {1, 1, 1000, N - 1, N - 1000};
        static const uint32_t firsts[] = {0, N - 1, N - 1000, 1, 0};
        fb_update u = make_update(N, counts[form], FB_VALUES_F32, 0);
        for (int64_t k = 0; k < u.count; k++)
            u.index[k] = firsts[form] + (uint32_t)k;
        const int64_t size_bytes = send(&u, 0);
        assert_true(size_bytes <= HEADER_BYTES + 4 * u.count + 1600); /* 1000 codes of 10 bits and a long one */
        fb_update_free(&u);
    }
}

/* A public width: the length does not tell small values from large ones, and larger ones still fit. */
static void test_public_width(void **state)
{
    (void)state;
    int64_t size_bytes[3];
    for (int i = 0; i < 3; i++) {
        fb_update u = make_update(100, 40, FB_VALUES_GRID, i == 0 ? 1 : i == 1 ? 20 : 25);
        u.least_bits = 20;
        size_bytes[i] = send(&u, 1);
        fb_update_free(&u);
    }
    assert_true(size_bytes[0] == HEADER_BYTES + 100 && size_bytes[1] == size_bytes[0]);
    assert_true(size_bytes[2] > size_bytes[1]);
}

static void test_extreme_values(void **state)
{
    (void)state;
    const int64_t limit = INT64_C(1) << 62;
    const int64_t grids[][4] = {{0, 0, 0, 0},          {-1, 0, -1, 0},         {1, 0, 0, 0},
                                {limit, -limit, 0, 1}, {-limit, -limit, 0, 0}, {limit - 1, 1 - limit, 127, -128}};
    for (size_t i = 0; i < sizeof grids / sizeof grids[0]; i++) {
        fb_update u = make_update(9, 4, FB_VALUES_GRID, 8);
        memcpy(u.grid, grids[i], sizeof grids[i]);
        send(&u, 0);
        fb_update_free(&u);
    }
    for (int bits = 1; bits <= 63; bits++) {
        fb_update u = make_update(1000, 333, FB_VALUES_GRID, bits);
        send(&u, 0);
        fb_update_free(&u);
    }
    const float floats[4] = {-0.0f, 3.4028235e38f, -1e-45f, 1.1754944e-38f};
    fb_update u = make_update(9, 4, FB_VALUES_F32, 0);
    memcpy(u.f32, floats, sizeof floats);
    send(&u, 0);
    fb_update_free(&u);
}

/* Whole messages within 1 % of the bound, indices within 3 %, but between 0.38 and 0.4 (and mirrored), where the codes
 * of codec/index.h are worst: 4.3 %. */
static void test_size(void **state)
{
    (void)state;
    static const double fractions[] = {0.01, 0.03, 0.1, 0.2, 0.3, 0.35, 0.38, 0.4, 0.5, 0.6, 0.62, 0.65, 0.7, 0.8, 0.9};
    for (size_t f = 0; f < sizeof fractions / sizeof fractions[0]; f++) {
        const int64_t n = 200000, count = (int64_t)(fractions[f] * (double)n + 0.5);
        fb_update u = make_update(n, count, FB_VALUES_F32, 0);
        const int64_t size_bytes = send(&u, 0);
        const double index_bytes = (double)(size_bytes - HEADER_BYTES - 4 * count);
        const double whole = (double)size_bytes / fb_frame_bound_bytes(n, count, 32);
        const double index = index_bytes / fb_frame_bound_bytes(n, count, 0);
        const int worst = fabs(fractions[f] - 0.5) > 0.11 && fabs(fractions[f] - 0.5) < 0.14;
        if (whole > 1.01 || index > (worst ? 1.045 : 1.03))
            fail_msg("fraction %g: %g of the bound, indices %g", fractions[f], whole, index);
        fb_update_free(&u);
    }
    assert_true(fabs(fb_frame_bound_bytes(4, 2, 0) - log2(6.0) / 8.0) < 1e-12);
    assert_true(fabs(fb_frame_bound_bytes(10, 10, 32) - 40.0) < 1e-12);
}

/* --- damage --- */

typedef struct message {
    uint8_t *bytes;
    int64_t size_bytes, n, max_count;
    fb_update sent;
} message;

static message make_message(int64_t n, int64_t count, fb_value_kind kind)
{
    message m = {.n = n, .max_count = count, .sent = make_update(n, count, kind, 12)};
    must(fb_frame_encode(&info, &m.sent, 0, &m.bytes, &m.size_bytes));
    return m;
}

static void free_message(message *m)
{
    FB_FREE(m->bytes);
    fb_update_free(&m->sent);
}

static fb_status receive(const message *m, const uint8_t *bytes, int64_t size_bytes)
{
    fb_update got = {0};
    const fb_status status = fb_frame_decode(bytes, size_bytes, &info, m->n, m->max_count, NULL, 0, &got);
    if (status != FB_OK)
        assert_true(got.index == NULL && got.f32 == NULL && got.grid == NULL && got.n == 0);
    fb_update_free(&got);
    return status;
}

static void test_every_truncation_and_bit_flip(void **state)
{
    (void)state;
    static const int64_t counts[] = {40, 150, 300}; /* Rice-coded gaps, a bitmap, all */
    int64_t flips = 0;
    for (int trial = 0; trial < 6; trial++) {
        message m = make_message(300, counts[trial / 2], (fb_value_kind)(trial % 2));
        uint8_t *copy = NULL;
        fb_frame_info seen;
        must(receive(&m, m.bytes, m.size_bytes));
        for (int64_t size = 0; size < m.size_bytes; size++) {
            must(FB_ALLOC(copy, size, "exactly so long, for the sanitizer")); /* reading on is an error there */
            memcpy(copy, m.bytes, (size_t)size);
            must_fail(receive(&m, copy, size), "hospital 5, round 4: message");
            must_fail(fb_frame_peek(copy, size, &seen), "message");
            FB_FREE(copy);
        }
        for (int64_t bit = 0; bit < 8 * m.size_bytes; bit++) {
            m.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            must_fail(receive(&m, m.bytes, m.size_bytes), "hospital 5, round 4: message");
            must_fail(fb_frame_peek(m.bytes, m.size_bytes, &seen), "message");
            m.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        flips += 8 * m.size_bytes;
        must(receive(&m, m.bytes, m.size_bytes));
        free_message(&m);
    }
    assert_true(flips >= 10000);
}

/* --- forgeries: wrong contents under a right checksum --- */

static void seal(uint8_t *bytes, int64_t size_bytes)
{
    const uint32_t crc = fb_crc32c(fb_crc32c(0, bytes, CRC_OFFSET), bytes + HEADER_BYTES, size_bytes - HEADER_BYTES);
    for (int i = 0; i < 4; i++)
        bytes[CRC_OFFSET + i] = (uint8_t)(crc >> (8 * i));
}

typedef struct forgery {
    int offset, bytes;
    uint64_t value;
    const char *error;
} forgery;

static void assert_refused(const message *m, const forgery *f)
{
    uint8_t *copy = NULL;
    must(FB_ALLOC(copy, m->size_bytes, "forgery"));
    memcpy(copy, m->bytes, (size_t)m->size_bytes);
    for (int i = 0; i < f->bytes; i++)
        copy[f->offset + i] = (uint8_t)(f->value >> (8 * i));
    seal(copy, m->size_bytes);
    const int64_t before = fb_mem_peak_bytes();
    must_fail(receive(m, copy, m->size_bytes), f->error);
    assert_true(fb_mem_peak_bytes() - before < 1 << 20); /* no allocation by a forged size */
    FB_FREE(copy);
}

static void test_forged_headers(void **state)
{
    (void)state;
    static const forgery forgeries[] = {
        {0, 1, 'X', "FBU1"},
        {4, 2, 2, "version 2"},
        {6, 1, 0, "index coding 0"},
        {6, 1, 1, "index coding 1"},
        {6, 1, 4, "index coding 4"},
        {6, 1, 5, "index coding 5"},
        {6, 1, 255, "index coding 255"},
        {7, 1, 2, "value kind 2"},
        {8, 4, 4, "round 5, expected is 4"},
        {12, 4, 6, "hospital 6, expected is 5"},
        {16, 8, 155, "steps 155, expected are 154"},
        {16, 8, UINT64_MAX, "steps -1"},
        {24, 8, 301, "n 301, the model has 300"},
        {24, 8, UINT64_MAX, "n -1"},
        {32, 8, 301, "count 301, the limit is 40"},
        {32, 8, 41, "count 41, the limit is 40"},
        {32, 8, UINT64_C(1) << 62, "count 4611686018427387904, the limit is 40"},
        {32, 8, UINT64_MAX, "count -1, the limit is 40"},
        {32, 8, 39, "left behind the last one"},
        {32, 8, 0, "left behind the last one"},
        {40, 4, 1, "grid exponent 1"},
        {44, 1, 31, "value bits 31"},
        {44, 1, 0, "value bits 0"},
        {45, 1, 32, "Rice code 32"},
        {45, 1, 31, "cannot hold 40 of 300"},
        {46, 2, 1, "reserved bytes"},
        {48, 1, 'M', "it answers another model"},
        {64, 8, 1, "payload of 1 bytes announced"},
        {64, 8, UINT64_MAX, "payload of -1 bytes announced"},
    };
    message m = make_message(300, 40, FB_VALUES_F32);
    assert_int_equal(m.bytes[6], 2); /* Rice */
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++)
        assert_refused(&m, &forgeries[i]);
    free_message(&m);
}

static void test_forged_grid_headers(void **state)
{
    (void)state;
    static const forgery forgeries[] = {
        {40, 4, (uint32_t)-41, "grid exponent -41"},
        {40, 4, 65, "grid exponent 65"},
        {44, 1, 0, "value bits 0"},
        {44, 1, 65, "value bits 65"},
    };
    message m = make_message(300, 40, FB_VALUES_GRID);
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++)
        assert_refused(&m, &forgeries[i]);
    free_message(&m);
    m = make_message(300, 41, FB_VALUES_GRID); /* 41 * 12 bits: four of padding */
    const uint8_t last = m.bytes[m.size_bytes - 1];
    const forgery padding = {(int)m.size_bytes - 1, 1, last | 0x80u, "bits behind the last one are not zero"};
    assert_refused(&m, &padding);
    free_message(&m);
    /* a value beyond 2^62: only with all 64 bits; -2^63 at the first place */
    m = make_message(300, 40, FB_VALUES_GRID);
    m.sent.grid[0] = INT64_C(1) << 62;
    FB_FREE(m.bytes);
    must(fb_frame_encode(&info, &m.sent, 0, &m.bytes, &m.size_bytes));
    const forgery beyond = {(int)(m.size_bytes - 40 * 8), 8, UINT64_C(1) << 63, "value 0: -9223372036854775808"};
    must(receive(&m, m.bytes, m.size_bytes));
    assert_refused(&m, &beyond);
    free_message(&m);
}

static void test_forged_payloads(void **state)
{
    (void)state;
    message m = make_message(300, 40, FB_VALUES_F32);
    const int values = (int)(m.size_bytes - 40 * 4);
    const forgery floats[] = {{values, 4, 0x7f800000u, "value 0: inf"},
                              {values + 4, 4, 0xff800000u, "value 1: -inf"},
                              {values + 8, 4, 0x7fc00001u, "value 2: nan"},
                              {HEADER_BYTES, 8, 0, "index"}};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
        assert_refused(&m, &floats[i]);
    free_message(&m);
    m = make_message(301, 150, FB_VALUES_F32); /* a bitmap of 38 bytes */
    assert_int_equal(m.bytes[6], 4);
    const forgery beyond = {HEADER_BYTES + 37, 1, m.bytes[HEADER_BYTES + 37] | 0x80u, "bitmap"};
    const forgery fewer = {HEADER_BYTES, 4, 0, "the header announces 150"};
    const forgery more = {HEADER_BYTES, 4, 0xffffffffu, "one more than the 150"};
    assert_refused(&m, &beyond);
    assert_refused(&m, &fewer);
    assert_refused(&m, &more);
    free_message(&m);
}

/* Any payload under a right checksum is either refused or decodes to ascending indices below n. A gap code cannot say
 * a duplicate or a descending index at all; this tries to make it. */
static void test_random_payloads(void **state)
{
    (void)state;
    static const int64_t counts[] = {3, 40, 120, 150, 200, 260, 299};
    int accepted = 0;
    for (uint32_t trial = 0; trial < 20000; trial++) {
        message m = make_message(300, counts[trial % 7], trial / 7 % 2 ? FB_VALUES_F32 : FB_VALUES_GRID);
        for (uint32_t i = 0; i < 3; i++) {
            const uint32_t payload_bytes = (uint32_t)(m.size_bytes - HEADER_BYTES);
            m.bytes[HEADER_BYTES + fb_rng_below(&rng, 6 * trial + 2 * i, payload_bytes)] ^=
                (uint8_t)fb_rng_below(&rng, 6 * trial + 2 * i + 1, 256);
        }
        if (trial % 5 == 0)
            m.bytes[45] = (uint8_t)fb_rng_below(&rng, trial, 33);
        seal(m.bytes, m.size_bytes);
        fb_update got = {0};
        fb_status status = fb_frame_decode(m.bytes, m.size_bytes, &info, 300, 300, NULL, 0, &got);
        for (int64_t k = 0; status == FB_OK && k < got.count; k++)
            assert_true(got.index[k] < 300 && (k == 0 || got.index[k] > got.index[k - 1]));
        accepted += status == FB_OK;
        fb_error_free(&status);
        fb_update_free(&got);
        free_message(&m);
    }
    assert_true(accepted > 100 && accepted < 19900); /* both happen */
}

static void test_implied(void **state)
{
    (void)state;
    fb_update u = make_update(300, 40, FB_VALUES_F32, 0), got = {0};
    uint8_t *bytes = NULL, *with_indices = NULL;
    int64_t size_bytes = 0, long_bytes = 0;
    must(fb_frame_encode(&info, &u, 1, &bytes, &size_bytes));
    must(fb_frame_encode(&info, &u, 0, &with_indices, &long_bytes));
    assert_int_equal(size_bytes, HEADER_BYTES + 4 * 40);
    must_fail(fb_frame_decode(bytes, size_bytes, &info, 300, 40, NULL, 0, &got), "not public");
    must_fail(fb_frame_decode(bytes, size_bytes, &info, 300, 40, u.index, 39, &got), "public selection has 39");
    must_fail(fb_frame_decode(with_indices, long_bytes, &info, 300, 40, u.index, 40, &got), "do not travel");
    fb_frame_info other = info;
    other.hospital = 9;
    must_fail(fb_frame_decode(bytes, size_bytes, &other, 300, 40, u.index, 40, &got),
              "hospital 9, round 4: hospital 5");
    FB_FREE(bytes);
    FB_FREE(with_indices);
    fb_update_free(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_clusters),
        cmocka_unit_test(test_public_width),
        cmocka_unit_test(test_extreme_values),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_every_truncation_and_bit_flip),
        cmocka_unit_test(test_forged_headers),
        cmocka_unit_test(test_forged_grid_headers),
        cmocka_unit_test(test_forged_payloads),
        cmocka_unit_test(test_random_payloads),
        cmocka_unit_test(test_implied),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
