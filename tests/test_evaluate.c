/* SPDX-License-Identifier: Apache-2.0 */
#include "core/rng.h"
#include "fed/evaluate.h"
#include "nn/segresnet.h"
#include "normalise.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

/* A small network, the window of most tests and the weights. */
static const fb_net_spec spec = {.filters = 8, .levels = 2, .blocks_down = {1, 1}, .blocks_up = {1}};
static const int64_t window[3] = {8, 8, 8};

typedef struct model {
    fb_params *params;
    float *w;
    fb_evaluator *evaluator;
    fb_segresnet *net; /* for the window */
} model;

static model make_model(double overlap)
{
    model m = {0};
    assert_null(fb_params_create(&spec, &m.params));
    assert_null(FB_ALLOC(m.w, m.params->count, "weights"));
    fb_params_init(m.params, 4, m.w);
    assert_null(fb_evaluator_create(&spec, m.params, &fb_ops_ref, window, overlap, &m.evaluator));
    assert_null(fb_segresnet_create(&spec, m.params, &fb_ops_ref, window, 0, &m.net));
    return m;
}

static void free_model(model *m)
{
    fb_evaluator_destroy(&m->evaluator);
    fb_segresnet_destroy(&m->net);
    FB_FREE(m->w);
    fb_params_destroy(&m->params);
}

/* Random intensities with a background of zeros, random labels. */
static fb_volume *make_volume(int64_t depth, int64_t height, int64_t width)
{
    static const uint8_t labels[4] = {0, 1, 2, 4};
    const fb_rng rng = {.seed = 8, .purpose = FB_RNG_TEST};
    const int64_t shape[3] = {depth, height, width};
    fb_volume *volume = NULL;
    assert_null(fb_volume_create("case", shape, &volume));
    for (int64_t v = 0; v < fb_volume_voxels(shape); v++) {
        volume->label[v] = labels[fb_rng_below(&rng, (uint32_t)(5 * v), 4)];
        for (int64_t m = 0; m < FB_MODALITIES; m++) {
            const double value = fb_rng_range(&rng, (uint32_t)(5 * v + m + 1), -200.0, 1000.0);
            volume->image[v * FB_MODALITIES + m] = value < 0.0 ? 0.0F : (float)value;
        }
    }
    return volume;
}

static float *new_floats(int64_t count)
{
    float *x = NULL;
    assert_null(FB_ALLOC(x, count, "test"));
    return x;
}

/* MONAI's search, transcribed: the starts along one axis, their number is returned. */
static int64_t slow_starts(int64_t extent, int64_t size, double overlap, int64_t starts[])
{
    int64_t interval = size == extent ? size : (int64_t)((double)size * (1.0 - overlap));
    interval = interval > 0 ? interval : 1;
    int64_t number = 0;
    while (number * interval + size < extent)
        number++;
    for (int64_t i = 0; i <= number; i++) {
        const int64_t beyond = i * interval + size - extent;
        starts[i] = i * interval - (beyond > 0 ? beyond : 0);
    }
    return number + 1;
}

static void window_positions(void **state)
{
    (void)state;
    static const struct {
        int64_t extent, window;
        double overlap;
        int64_t count, starts[6];
    } table[] = {
        {64, 32, 0.5, 3, {0, 16, 32}},
        {40, 32, 0.5, 2, {0, 8}},
        {32, 32, 0.5, 1, {0}},
        {33, 32, 0.5, 2, {0, 1}},
        {70, 32, 0.0, 3, {0, 32, 38}},
        {256, 240, 0.5, 2, {0, 16}},            /* the reference's evaluation: 240x240x155 padded to 32s */
        {160, 64, 0.6, 5, {0, 25, 50, 75, 96}}, /* int(25.6) */
        {10, 8, 0.99, 3, {0, 1, 2}},            /* int(0.08), at least 1 */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(fb_window_count(table[i].extent, table[i].window, table[i].overlap), table[i].count);
        for (int64_t k = 0; k < table[i].count; k++)
            assert_int_equal(fb_window_start(table[i].extent, table[i].window, table[i].overlap, k),
                             table[i].starts[k]);
    }
    int64_t starts[100];
    for (int64_t size = 8; size <= 32; size += 8) {
        for (int64_t extent = size; extent <= 100; extent++) {
            for (int tenths = 0; tenths < 10; tenths++) {
                const int64_t count = slow_starts(extent, size, tenths / 10.0, starts);
                assert_int_equal(fb_window_count(extent, size, tenths / 10.0), count);
                for (int64_t k = 0; k < count; k++)
                    assert_int_equal(fb_window_start(extent, size, tenths / 10.0, k), starts[k]);
            }
        }
    }
}

static void one_window_is_one_forward(void **state)
{
    (void)state;
    model m = make_model(0.5);
    fb_volume *volume = make_volume(8, 8, 8);
    float *x = new_floats(512 * FB_MODALITIES), *expected = new_floats(512 * FB_REGIONS);
    const float *logits = NULL;
    normalise(volume, window, x);
    assert_null(fb_segresnet_forward(m.net, m.w, x, NULL, expected));
    assert_null(fb_evaluator_logits(m.evaluator, m.w, volume, &logits));
    assert_memory_equal(logits, expected, 512 * FB_REGIONS * sizeof *logits);
    FB_FREE(x);
    FB_FREE(expected);
    fb_volume_destroy(&volume);
    free_model(&m);
}

/* Padded to the next multiple, segmented, and the padding cut away, bit for bit. */
static void padding_is_cropped(void **state)
{
    (void)state;
    model m = make_model(0.5);
    fb_volume *volume = make_volume(7, 8, 7);
    float *x = new_floats(512 * FB_MODALITIES), *expected = new_floats(512 * FB_REGIONS);
    const float *logits = NULL;
    normalise(volume, window, x);
    assert_null(fb_segresnet_forward(m.net, m.w, x, NULL, expected));
    assert_null(fb_evaluator_logits(m.evaluator, m.w, volume, &logits));
    for (int64_t v = 0; v < 7 * 8 * 7; v++) {
        const int64_t at = (v / 56 * 8 + v / 7 % 8) * 8 + v % 7;
        for (int r = 0; r < FB_REGIONS; r++)
            assert_true(logits[v * FB_REGIONS + r] == expected[at * FB_REGIONS + r]);
    }
    FB_FREE(x);
    FB_FREE(expected);
    fb_volume_destroy(&volume);
    free_model(&m);
}

/* The window shrinks to a smaller case, and grows back for the next: no voxel of padding beyond the multiple. */
static void window_shrinks_to_the_case(void **state)
{
    (void)state;
    static const int64_t shape[3] = {8, 4, 6};
    model m = make_model(0.5);
    fb_segresnet *small = NULL;
    fb_volume *volume = make_volume(shape[0], shape[1], shape[2]), *full = make_volume(8, 8, 8);
    float *x = new_floats(512 * FB_MODALITIES), *expected = new_floats(512 * FB_REGIONS);
    const float *logits = NULL;
    assert_null(fb_segresnet_create(&spec, m.params, &fb_ops_ref, shape, 0, &small));
    normalise(volume, shape, x);
    assert_null(fb_segresnet_forward(small, m.w, x, NULL, expected));
    assert_null(fb_evaluator_logits(m.evaluator, m.w, volume, &logits));
    assert_memory_equal(logits, expected, 8 * 4 * 6 * FB_REGIONS * sizeof *logits);
    normalise(full, window, x);
    assert_null(fb_segresnet_forward(m.net, m.w, x, NULL, expected));
    assert_null(fb_evaluator_logits(m.evaluator, m.w, full, &logits));
    assert_memory_equal(logits, expected, 512 * FB_REGIONS * sizeof *logits);
    FB_FREE(x);
    FB_FREE(expected);
    fb_segresnet_destroy(&small);
    fb_volume_destroy(&volume);
    fb_volume_destroy(&full);
    free_model(&m);
}

/* The logits of one window of x (padded, FB_MODALITIES), voxel by voxel, added to sum and count. */
static void slow_window(const model *m, const float *x, const int64_t padded[3], const int64_t start[3], double *sum,
                        double *count)
{
    float in[512 * FB_MODALITIES], out[512 * FB_REGIONS];
    int64_t at[512];
    for (int64_t v = 0; v < 512; v++) {
        at[v] = ((start[0] + v / 64) * padded[1] + start[1] + v / 8 % 8) * padded[2] + start[2] + v % 8;
        memcpy(in + v * FB_MODALITIES, x + at[v] * FB_MODALITIES, FB_MODALITIES * sizeof *in);
    }
    assert_null(fb_segresnet_forward(m->net, m->w, in, NULL, out));
    for (int64_t v = 0; v < 512; v++) {
        count[at[v]] += 1.0;
        for (int r = 0; r < FB_REGIONS; r++)
            sum[at[v] * FB_REGIONS + r] += (double)out[v * FB_REGIONS + r];
    }
}

static void slow_slide(const model *m, const fb_volume *volume, const int64_t padded[3], double overlap, double *mean)
{
    int64_t starts[3][16], number[3];
    const int64_t voxels = fb_volume_voxels(padded);
    float *x = new_floats(voxels * FB_MODALITIES);
    double *count = NULL;
    assert_null(FB_ALLOC(count, voxels, "count"));
    normalise(volume, padded, x);
    for (int axis = 0; axis < 3; axis++)
        number[axis] = slow_starts(padded[axis], window[axis], overlap, starts[axis]);
    for (int64_t i = 0; i < number[0]; i++)
        for (int64_t j = 0; j < number[1]; j++)
            for (int64_t k = 0; k < number[2]; k++)
                slow_window(m, x, padded, (const int64_t[3]){starts[0][i], starts[1][j], starts[2][k]}, mean, count);
    for (int64_t i = 0; i < voxels * FB_REGIONS; i++)
        mean[i] /= count[i / FB_REGIONS];
    FB_FREE(count);
    FB_FREE(x);
}

static void check_slide(double overlap, const int64_t shape[3], const int64_t padded[3])
{
    model m = make_model(overlap);
    fb_volume *volume = make_volume(shape[0], shape[1], shape[2]);
    double *mean = NULL;
    const float *logits = NULL;
    assert_null(FB_ALLOC(mean, fb_volume_voxels(padded) * FB_REGIONS, "mean"));
    slow_slide(&m, volume, padded, overlap, mean);
    assert_null(fb_evaluator_logits(m.evaluator, m.w, volume, &logits));
    for (int64_t v = 0; v < fb_volume_voxels(shape); v++) {
        const int64_t d = v / (shape[1] * shape[2]), h = v / shape[2] % shape[1], w = v % shape[2];
        const int64_t at = ((d * padded[1] + h) * padded[2] + w) * FB_REGIONS;
        for (int r = 0; r < FB_REGIONS; r++) {
            /* At most n = 12 windows over a voxel: n - 1 float additions, each off by 2^-24 of a sum below 8 n, and a
             * division by n. */
            assert_true(fabs(mean[at + r]) < 8.0);
            assert_true(fabs((double)logits[v * FB_REGIONS + r] - mean[at + r]) <= 12.0 * 8.0 * 0x1p-24);
        }
    }
    FB_FREE(mean);
    fb_volume_destroy(&volume);
    free_model(&m);
}

static void sliding_window_is_the_average(void **state)
{
    (void)state;
    check_slide(0.5, (const int64_t[3]){19, 13, 8}, (const int64_t[3]){20, 14, 8});
    check_slide(0.0, (const int64_t[3]){12, 7, 16}, (const int64_t[3]){12, 8, 16});
    check_slide(0.7, (const int64_t[3]){10, 12, 9}, (const int64_t[3]){10, 12, 10});
}

static void counts_are_the_voxels(void **state)
{
    (void)state;
    static const uint8_t member[FB_REGIONS][5] = {{0, 1, 0, 0, 1}, {0, 1, 1, 0, 1}, {0, 0, 0, 0, 1}};
    model m = make_model(0.5);
    fb_volume *volume = make_volume(11, 9, 10);
    const int64_t voxels = fb_volume_voxels(volume->shape);
    const float *logits = NULL;
    fb_counts counts;
    memset(&counts, 0x55, sizeof counts); /* must be overwritten */
    assert_null(fb_evaluator_case(m.evaluator, m.w, volume, &counts));
    assert_null(fb_evaluator_logits(m.evaluator, m.w, volume, &logits));
    int64_t predicted_all = 0;
    for (int r = 0; r < FB_REGIONS; r++) {
        int64_t both = 0, predicted = 0, truth = 0;
        for (int64_t v = 0; v < voxels; v++) {
            const int p = 1.0 / (1.0 + exp(-(double)logits[v * FB_REGIONS + r])) > 0.5;
            const int g = member[r][volume->label[v]];
            both += p && g;
            predicted += p;
            truth += g;
        }
        assert_int_equal(counts.both[r], both);
        assert_int_equal(counts.predicted[r], predicted);
        assert_int_equal(counts.truth[r], truth);
        predicted_all += predicted;
    }
    assert_in_range(predicted_all, 1, FB_REGIONS * voxels - 1); /* neither nothing nor everything: the test has a say */
    fb_volume_destroy(&volume);
    free_model(&m);
}

/* Buffers keep the contents of a larger case: nothing of it may reach a smaller one. */
static void cases_do_not_leak_into_each_other(void **state)
{
    (void)state;
    model m = make_model(0.5);
    fb_volume *small = make_volume(9, 6, 8), *large = make_volume(14, 12, 10);
    const int64_t count = fb_volume_voxels(small->shape) * FB_REGIONS;
    float *first = new_floats(count);
    const float *logits = NULL;
    assert_null(fb_evaluator_logits(m.evaluator, m.w, small, &logits));
    memcpy(first, logits, (size_t)count * sizeof *first);
    assert_null(fb_evaluator_logits(m.evaluator, m.w, large, &logits));
    const int64_t blocks = fb_mem_live_blocks();
    assert_null(fb_evaluator_logits(m.evaluator, m.w, small, &logits));
    assert_memory_equal(first, logits, (size_t)count * sizeof *first);
    assert_int_equal(fb_mem_live_blocks(), blocks);
    FB_FREE(first);
    fb_volume_destroy(&small);
    fb_volume_destroy(&large);
    free_model(&m);
}

static void refuse(const int64_t size[3], double overlap, const char *part)
{
    fb_params *params = NULL;
    fb_evaluator *evaluator = NULL;
    assert_null(fb_params_create(&spec, &params));
    fb_status status = fb_evaluator_create(&spec, params, &fb_ops_ref, size, overlap, &evaluator);
    must_fail(status, part);
    assert_null(evaluator);
    fb_params_destroy(&params);
}

static void unusable_settings_are_refused(void **state)
{
    (void)state;
    refuse(window, 1.0, "eval.overlap: 1 is outside");
    refuse(window, -0.25, "eval.overlap: -0.25 is outside");
    refuse(window, (double)NAN, "eval.overlap");
    refuse((const int64_t[3]){8, 9, 8}, 0.5, "eval.window");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(window_positions),
        cmocka_unit_test(one_window_is_one_forward),
        cmocka_unit_test(padding_is_cropped),
        cmocka_unit_test(window_shrinks_to_the_case),
        cmocka_unit_test(sliding_window_is_the_average),
        cmocka_unit_test(counts_are_the_voxels),
        cmocka_unit_test(cases_do_not_leak_into_each_other),
        cmocka_unit_test(unusable_settings_are_refused),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
