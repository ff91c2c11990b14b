/* SPDX-License-Identifier: Apache-2.0 */
#include "golden/golden_augment.h"
#include "normalise.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>

typedef fb_status draw_fn(const fb_rng *rng, uint32_t first_index, const fb_volume *volume, const int64_t patch[3],
                          fb_augmentation *out);

static fb_status draw_sample(const fb_rng *rng, uint32_t first_index, const fb_volume *volume, const int64_t patch[3],
                             fb_augmentation *out)
{
    return fb_augment_draw(rng, first_index, volume->subject, volume->shape, patch, out);
}

/* The formula of golden/make_augment.py for shape (6, 5, 7); any other shape gets the same kind of volume. */
static fb_volume *formula_volume(int64_t depth, int64_t height, int64_t width)
{
    static const uint8_t labels[4] = {0, 1, 2, 4};
    fb_volume *volume = NULL;
    const int64_t shape[3] = {depth, height, width};
    assert_null(fb_volume_create("formula", shape, &volume));
    for (int64_t v = 0; v < fb_volume_voxels(shape); v++) {
        const int64_t d = v / (height * width), h = v / width % height, w = v % width;
        for (int64_t m = 0; m < FB_MODALITIES; m++) {
            const int64_t value = (31 * d + 17 * h + 7 * w + 11 * m + d * h * w) % 29;
            const float intensity = m == 3 ? 5.0F : (float)value * 3.5F - 20.0F;
            volume->image[v * FB_MODALITIES + m] = value < 9 ? 0.0F : intensity;
        }
        volume->label[v] = labels[(d + 2 * h + 3 * w) % 4];
    }
    return volume;
}

static fb_rng stream(uint64_t seed)
{
    return (fb_rng){.seed = seed, .purpose = FB_RNG_AUGMENT, .hospital = 3, .round = 5, .epoch = 1};
}

/* Index in the volume of voxel v of the patch: the definition of crop and flip, one voxel at a time. */
static int64_t source_voxel(const fb_volume *volume, const int64_t patch[3], const fb_augmentation *a, int64_t v)
{
    int64_t p[3] = {v / (patch[1] * patch[2]), v / patch[2] % patch[1], v % patch[2]};
    for (int axis = 0; axis < 3; axis++)
        p[axis] = a->offset[axis] + (a->flip[axis] ? patch[axis] - 1 - p[axis] : p[axis]);
    return (p[0] * volume->shape[1] + p[1]) * volume->shape[2] + p[2];
}

/* One modality of a sample, the slow way: collect the non-zero values, then NumPy's mean and std. */
static void slow_modality(const fb_volume *volume, const int64_t patch[3], const fb_augmentation *a, int m, double *y)
{
    const int64_t voxels = fb_volume_voxels(patch);
    double sum = 0.0, squares = 0.0, count = 0.0;
    for (int64_t v = 0; v < voxels; v++) {
        y[v] = (double)volume->image[source_voxel(volume, patch, a, v) * FB_MODALITIES + m];
        sum += y[v];
        count += y[v] != 0.0;
    }
    const double mean = count > 0.0 ? sum / count : 0.0;
    for (int64_t v = 0; v < voxels; v++)
        squares += y[v] != 0.0 ? pow(y[v] - mean, 2.0) : 0.0;
    double std = count > 0.0 ? sqrt(squares / count) : 0.0;
    if (std == 0.0)
        std = 1.0;
    for (int64_t v = 0; v < voxels; v++)
        y[v] = (y[v] != 0.0 ? (y[v] - mean) / std : 0.0) * a->scale + a->shift;
}

/* Both compute in double and round once to float; the orders differ by a few units of 2^-53, so 2 units of float at the
 * largest value (< 8) cover a rounding that falls the other way. */
static const double rounding = 2.0 * 8.0 * 0x1p-24;

static void check_sample(const fb_volume *volume, const int64_t patch[3], const fb_augmentation *a)
{
    const int64_t voxels = fb_volume_voxels(patch);
    float *x = NULL;
    double *y = NULL;
    uint8_t *target = NULL;
    assert_null(FB_ALLOC(x, voxels * FB_MODALITIES, "x"));
    assert_null(FB_ALLOC(y, voxels, "y"));
    assert_null(FB_ALLOC(target, voxels, "target"));
    fb_augment_apply(volume->image, volume->label, volume->shape, patch, a, x, target);
    for (int m = 0; m < FB_MODALITIES; m++) {
        slow_modality(volume, patch, a, m, y);
        for (int64_t v = 0; v < voxels; v++)
            assert_true(fabs((double)x[v * FB_MODALITIES + m] - y[v]) <= rounding);
    }
    for (int64_t v = 0; v < voxels; v++)
        assert_int_equal(target[v], fb_region_bits(volume->label[source_voxel(volume, patch, a, v)]));
    FB_FREE(x);
    FB_FREE(y);
    FB_FREE(target);
}

static void sample_equals_definition(void **state)
{
    (void)state;
    static const int64_t patches[][3] = {{8, 8, 8}, {4, 6, 8}, {5, 7, 3}, {1, 1, 1}, {9, 10, 11}};
    fb_volume *volume = formula_volume(9, 10, 11);
    const fb_rng rng = stream(11);
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        for (uint32_t sample = 0; sample < 20; sample++) {
            fb_augmentation a;
            assert_null(draw_sample(&rng, 8 * sample, volume, patches[i], &a));
            check_sample(volume, patches[i], &a);
        }
    }
    fb_volume_destroy(&volume);
}

static void sample_equals_numpy(void **state)
{
    (void)state;
    const fb_augmentation a = {.offset = {1, 2, 3}, .flip = {1, 0, 1}, .scale = 1.0625, .shift = -0.09375};
    const int64_t patch[3] = {4, 3, 4};
    fb_volume *volume = formula_volume(6, 5, 7);
    float x[sizeof golden_sample / sizeof *golden_sample];
    uint8_t target[4 * 3 * 4];
    fb_augment_apply(volume->image, volume->label, volume->shape, patch, &a, x, target);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        assert_true(fabs((double)x[i] - golden_sample[i]) <= rounding);
    fb_volume_destroy(&volume);
}

/* The scale and shift of the background: exactly `shift`, in every modality, and so for an image of zeros. */
static void background_gets_shift(void **state)
{
    (void)state;
    const int64_t shape[3] = {3, 2, 2};
    const fb_augmentation a = {.scale = 1.05, .shift = 0.07};
    fb_volume *volume = NULL;
    assert_null(fb_volume_create("empty", shape, &volume));
    float x[12 * FB_MODALITIES];
    uint8_t target[12];
    fb_augment_apply(volume->image, volume->label, volume->shape, shape, &a, x, target);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        assert_true(x[i] == 0.07F);
    fb_volume_destroy(&volume);
}

/* Pearson's statistic of 3^3 offsets x 2^3 flips against the uniform joint distribution: it sees a value that is
 * missing, too frequent, or tied to another axis. */
static double joint_chi_square(draw_fn *draw, const fb_volume *volume, const int64_t patch[3])
{
    enum { CELLS = 27 * 8, SAMPLES = 100 * CELLS };
    const fb_rng rng = stream(2019);
    int64_t seen[CELLS] = {0};
    for (uint32_t sample = 0; sample < SAMPLES; sample++) {
        fb_augmentation a;
        int64_t cell = 0;
        assert_null(draw(&rng, 8 * sample, volume, patch, &a));
        for (int axis = 0; axis < 3; axis++)
            cell = (cell * 3 + a.offset[axis]) * 2 + a.flip[axis];
        assert_in_range(cell, 0, CELLS - 1);
        seen[cell]++;
    }
    double statistic = 0.0;
    for (int i = 0; i < CELLS; i++)
        statistic += pow((double)seen[i] - 100.0, 2.0) / 100.0;
    return statistic;
}

static fb_status draw_never_last(const fb_rng *rng, uint32_t first_index, const fb_volume *volume,
                                 const int64_t patch[3], fb_augmentation *out)
{
    FB_TRY(draw_sample(rng, first_index, volume, patch, out));
    out->offset[1] = fb_rng_below(rng, first_index + 1, 2);
    return FB_OK;
}

static fb_status draw_tied_flips(const fb_rng *rng, uint32_t first_index, const fb_volume *volume,
                                 const int64_t patch[3], fb_augmentation *out)
{
    FB_TRY(draw_sample(rng, first_index, volume, patch, out));
    out->flip[2] = out->flip[0];
    return FB_OK;
}

/* The offset and the flip of an axis from one and the same index. */
static fb_status draw_shared_index(const fb_rng *rng, uint32_t first_index, const fb_volume *volume,
                                   const int64_t patch[3], fb_augmentation *out)
{
    FB_TRY(draw_sample(rng, first_index, volume, patch, out));
    out->flip[0] = (int)fb_rng_below(rng, first_index, 2);
    return FB_OK;
}

static void offsets_and_flips_are_uniform(void **state)
{
    (void)state;
    const int64_t patch[3] = {4, 4, 4};
    const double limit =
        284.82; /* chi-square, 215 degrees of freedom: exceeded once in 1000 seeds; the seed is fixed */
    fb_volume *volume = formula_volume(6, 6, 6);
    assert_true(joint_chi_square(draw_sample, volume, patch) < limit);
    assert_true(joint_chi_square(draw_never_last, volume, patch) > limit);
    assert_true(joint_chi_square(draw_tied_flips, volume, patch) > limit);
    assert_true(joint_chi_square(draw_shared_index, volume, patch) > limit);
    fb_volume_destroy(&volume);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov-Smirnov distance of values[count] from U(lo, hi), times sqrt(count). */
static double kolmogorov(double *values, int count, double lo, double hi)
{
    double distance = 0.0;
    qsort(values, (size_t)count, sizeof *values, ascending);
    for (int i = 0; i < count; i++) {
        const double expected = (values[i] - lo) / (hi - lo);
        distance = fmax(distance, fmax(expected - (double)i / count, (double)(i + 1) / count - expected));
    }
    return distance * sqrt((double)count);
}

static void intensities_are_uniform(void **state)
{
    (void)state;
    enum { SAMPLES = 2000 };
    static double scale[SAMPLES], shift[SAMPLES], both[SAMPLES];
    const int64_t patch[3] = {4, 4, 4};
    const double limit = 1.95; /* exceeded once in 1000 seeds; the seed is fixed */
    const fb_rng rng = stream(7);
    fb_volume *volume = formula_volume(6, 6, 6);
    double product = 0.0;
    for (uint32_t i = 0; i < SAMPLES; i++) {
        fb_augmentation a;
        assert_null(draw_sample(&rng, 8 * i, volume, patch, &a));
        scale[i] = a.scale;
        shift[i] = a.shift;
        both[i] = a.shift * 0.95; /* the mutant: a range that is 5 % too narrow */
        product += (a.scale - 1.0) * a.shift;
    }
    assert_true(kolmogorov(scale, SAMPLES, 0.9, 1.1) < limit);
    assert_true(kolmogorov(shift, SAMPLES, -0.1, 0.1) < limit);
    assert_true(scale[0] >= 0.9 && scale[SAMPLES - 1] <= 1.1 && shift[0] >= -0.1 && shift[SAMPLES - 1] <= 0.1);
    assert_true(kolmogorov(both, SAMPLES, -0.1, 0.1) > 1.0); /* 0.025 sqrt(2000) = 1.12 is expected */
    /* Correlation, standard deviation 1/sqrt(SAMPLES); 3.29 of them are exceeded once in 1000 seeds. */
    assert_true(fabs(product / SAMPLES / (0.01 / 3.0)) < 3.29 / sqrt((double)SAMPLES));
    fb_volume_destroy(&volume);
}

static void draw_is_a_pure_function(void **state)
{
    (void)state;
    const int64_t patch[3] = {8, 8, 8};
    fb_volume *volume = formula_volume(64, 64, 64);
    fb_rng rng = stream(1), other[5];
    fb_augmentation first, again, next;
    assert_null(draw_sample(&rng, 16, volume, patch, &first));
    assert_null(draw_sample(&rng, 16, volume, patch, &again));
    assert_memory_equal(first.offset, again.offset, sizeof first.offset);
    assert_memory_equal(first.flip, again.flip, sizeof first.flip);
    assert_true(first.scale == again.scale && first.shift == again.shift);
    for (int i = 0; i < 5; i++)
        other[i] = rng;
    other[0].seed++;
    other[1].hospital++;
    other[2].round++;
    other[3].epoch++;
    for (int i = 0; i < 5; i++) { /* the last: the same stream, another sample */
        assert_null(draw_sample(&other[i], i == 4 ? 24 : 16, volume, patch, &next));
        assert_true(first.scale != next.scale && first.shift != next.shift);
    }
    fb_volume_destroy(&volume);
}

static void patch_of_the_volume_has_offset_zero(void **state)
{
    (void)state;
    fb_volume *volume = formula_volume(6, 5, 7);
    const fb_rng rng = stream(3);
    for (uint32_t sample = 0; sample < 50; sample++) {
        fb_augmentation a;
        assert_null(draw_sample(&rng, 8 * sample, volume, volume->shape, &a));
        assert_true(a.offset[0] == 0 && a.offset[1] == 0 && a.offset[2] == 0);
    }
    fb_volume_destroy(&volume);
}

static void refuse(const fb_volume *volume, const int64_t patch[3], const char *axis, const char *value)
{
    const fb_rng rng = stream(3);
    fb_augmentation a;
    must_fail(draw_sample(&rng, 0, volume, patch, &a), "formula", axis, value, "data.patch");
}

static void unfit_patch_is_refused(void **state)
{
    (void)state;
    fb_volume *volume = formula_volume(6, 5, 7);
    refuse(volume, (const int64_t[3]){7, 5, 7}, "depth of 6", "patch of 7");
    refuse(volume, (const int64_t[3]){6, 6, 7}, "height of 5", "patch of 6");
    refuse(volume, (const int64_t[3]){6, 5, 8}, "width of 7", "patch of 8");
    refuse(volume, (const int64_t[3]){6, 0, 7}, "height of 5", "patch of 0");
    fb_volume_destroy(&volume);
}

static void order_is_a_permutation_of_its_own(void **state)
{
    (void)state;
    enum { CASES = 40, STREAMS = 5 };
    fb_rng rngs[STREAMS];
    uint32_t order[STREAMS][CASES], again[CASES];
    for (int i = 0; i < STREAMS; i++)
        rngs[i] = (fb_rng){.seed = 5, .purpose = FB_RNG_SHUFFLE, .hospital = 2, .round = 3, .epoch = 4};
    rngs[1].epoch++;
    rngs[2].round++;
    rngs[3].hospital++;
    rngs[4].seed++;
    for (int i = 0; i < STREAMS; i++) {
        int seen[CASES] = {0};
        fb_sample_order(&rngs[i], CASES, order[i]);
        for (int k = 0; k < CASES; k++) {
            assert_in_range(order[i][k], 0, CASES - 1);
            assert_int_equal(seen[order[i][k]]++, 0);
        }
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(order[i], order[j], sizeof order[i]);
    }
    fb_sample_order(&rngs[0], CASES, again);
    assert_memory_equal(again, order[0], sizeof again);
    fb_sample_order(&rngs[0], 1, again);
    assert_int_equal(again[0], 0);
}

static void normalise_pads_at_the_end(void **state)
{
    (void)state;
    const fb_augmentation identity = {.scale = 1.0};
    const int64_t padded[3] = {8, 8, 8};
    fb_volume *volume = formula_volume(6, 5, 7);
    static float whole[6 * 5 * 7 * FB_MODALITIES], x[8 * 8 * 8 * FB_MODALITIES];
    static uint8_t target[6 * 5 * 7];
    fb_augment_apply(volume->image, volume->label, volume->shape, volume->shape, &identity, whole, target);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = NAN;
    normalise(volume, padded, x);
    for (int64_t i = 0; i < 8 * 8 * 8 * FB_MODALITIES; i++) {
        const int64_t d = i / 256, h = i / 32 % 8, w = i / 4 % 8, m = i % 4;
        const int inside = d < 6 && h < 5 && w < 7;
        assert_true(x[i] == (inside ? whole[((d * 5 + h) * 7 + w) * 4 + m] : 0.0F));
        if (d == 2)
            assert_true(fabs((double)x[i] - golden_whole_plane[i - 2 * 256]) <= rounding);
    }
    fb_volume_destroy(&volume);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sample_equals_definition),
        cmocka_unit_test(sample_equals_numpy),
        cmocka_unit_test(background_gets_shift),
        cmocka_unit_test(offsets_and_flips_are_uniform),
        cmocka_unit_test(intensities_are_uniform),
        cmocka_unit_test(draw_is_a_pure_function),
        cmocka_unit_test(patch_of_the_volume_has_offset_zero),
        cmocka_unit_test(unfit_patch_is_refused),
        cmocka_unit_test(order_is_a_permutation_of_its_own),
        cmocka_unit_test(normalise_pads_at_the_end),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
