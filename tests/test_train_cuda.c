/* SPDX-License-Identifier: Apache-2.0
 *
 * What a training step does beside the network on the GPU backend, the sample, the loss and the optimiser, against the
 * reference. Runs on the emulated GPU and on a real one.
 */
#include "device_arrays.h"
#include "nn/loss.h"

static const double eps = FLT_EPSILON;

/* --- sample ------------------------------------------------------------------------------------------------ */

enum { CONSTANT = 1, ZERO = 2 }; /* modalities */

/* Two fifths background; a quarter of every label. */
static void make_case(int64_t voxels, double mean, float *image, uint8_t *label)
{
    static const uint8_t labels[4] = {0, 1, 2, 4};
    const fb_rng rng = {.seed = 3, .purpose = FB_RNG_TEST};
    for (int64_t v = 0; v < voxels; v++) {
        label[v] = labels[fb_rng_below(&rng, (uint32_t)(8 * v), 4)];
        for (int m = 0; m < FB_IMAGE_CHANNELS; m++) {
            const double u = fb_rng_range(&rng, (uint32_t)(8 * v + 1 + m), 0.0, 1.0);
            const double value = mean + sqrt(12.0) * (u - 0.5);
            image[v * FB_IMAGE_CHANNELS + m] = (float)(m == ZERO ? 0.0 : m == CONSTANT ? 3.7 : value);
        }
        if (fb_rng_below(&rng, (uint32_t)(8 * v + 5), 5) < 2)
            memset(image + v * FB_IMAGE_CHANNELS, 0, FB_IMAGE_CHANNELS * sizeof *image);
    }
}

/* Both compute the moments in double, so that one rounding remains, of a number of up to 4. */
static void check_sample(device *d, const int64_t shape[3], const int64_t patch[3], double mean,
                         const fb_augmentation *how)
{
    const int64_t voxels = volume(shape), count = volume(patch) * FB_IMAGE_CHANNELS;
    float *image = make(voxels * FB_IMAGE_CHANNELS), *x = make_nan(count);
    uint8_t *label = NULL, *target = NULL, *got = NULL;
    must(FB_ALLOC(label, voxels, "labels"));
    must(FB_ALLOC(target, volume(patch), "target"));
    must(FB_ALLOC(got, volume(patch), "target"));
    make_case(voxels, mean, image, label);
    fb_augment_apply(image, label, shape, patch, how, x, target);
    const array images = put_floats(d, voxels * FB_IMAGE_CHANNELS, image), labels = put_bytes(d, voxels, label);
    const fb_sample sample = {
        (const float *)(void *)images.first, (const uint8_t *)labels.first, {shape[0], shape[1], shape[2]}, *how};
    const array from = put_bytes(d, sizeof sample, &sample), out = out_act(d, count, NULL);
    const array targets = reserve_array(d, volume(patch), 1, 0);
    d->ops->sample(d->ops, (const fb_sample *)(void *)from.first, patch, out.first, (uint8_t *)targets.first);
    get_bytes(d, &targets, got);
    compare(d, &out, x, eps, "sample, patch of %lld, mean %g", (long long)volume(patch), mean);
    assert_memory_equal(got, target, (size_t)volume(patch));
    release_arrays(d);
    FB_FREE(image);
    FB_FREE(x);
    FB_FREE(label);
    FB_FREE(target);
    FB_FREE(got);
}

static void check_samples(device *d)
{
    static const int64_t shapes[][2][3] = {
        {{5, 6, 7}, {3, 4, 5}}, {{1, 9, 2}, {1, 4, 2}}, {{1, 1, 1}, {1, 1, 1}}, {{9, 20, 31}, {8, 16, 24}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int flips = 0; flips < 8; flips++) {
            fb_augmentation how = {{0, 0, 0}, {flips >> 2, flips >> 1 & 1, flips & 1}, 1.07, -0.04};
            for (int axis = 0; axis < 3; axis++)
                how.offset[axis] = shapes[i][0][axis] - shapes[i][1][axis];
            check_sample(d, shapes[i][0], shapes[i][1], 500.0, &how);
        }
}

/* A patch that reaches beyond the volume, in each direction and in all; many voxels; digits lost where squares are
 * taken of what is large. */
static void check_padded_samples(device *d)
{
    const fb_augmentation nothing = fb_augment_nothing();
    const fb_augmentation moved = {{1, 2, 3}, {0, 0, 0}, 0.9, 0.1};
    check_sample(d, (const int64_t[3]){3, 4, 5}, (const int64_t[3]){4, 4, 8}, 2.0, &nothing);
    check_sample(d, (const int64_t[3]){3, 4, 5}, (const int64_t[3]){4, 8, 5}, 2.0, &nothing);
    check_sample(d, (const int64_t[3]){7, 8, 9}, (const int64_t[3]){8, 8, 8}, 2.0, &moved);
    check_sample(d, (const int64_t[3]){83, 81, 82}, (const int64_t[3]){84, 84, 84}, 10000.0, &nothing);
}

static void test_sample(void **state)
{
    (void)state;
    in_both(check_samples);
    in_both(check_padded_samples);
}

/* A voxel that is no number must not be lost: the whole modality is none, the others are. */
static void check_sample_nan(device *d)
{
    enum { VOXELS = 600 };
    float image[VOXELS * FB_IMAGE_CHANNELS];
    uint8_t label[VOXELS];
    const int64_t shape[3] = {6, 10, 10};
    make_case(VOXELS, 5.0, image, label);
    image[300 * FB_IMAGE_CHANNELS + 3] = NAN;
    const array images = put_floats(d, VOXELS * FB_IMAGE_CHANNELS, image), labels = put_bytes(d, VOXELS, label);
    const fb_sample sample = {
        (const float *)(void *)images.first, (const uint8_t *)labels.first, {6, 10, 10}, fb_augment_nothing()};
    const array from = put_bytes(d, sizeof sample, &sample), out = out_act(d, VOXELS * FB_IMAGE_CHANNELS, NULL);
    d->ops->sample(d->ops, (const fb_sample *)(void *)from.first, shape, out.first, NULL);
    float *x = get(d, &out);
    for (int i = 0; i < VOXELS * FB_IMAGE_CHANNELS; i++)
        assert_int_equal(isnan(x[i]), i % FB_IMAGE_CHANNELS == 3 && image[i] != 0.0F);
    FB_FREE(x);
}

static void test_sample_nan(void **state)
{
    (void)state;
    in_both(check_sample_nan);
}

/* --- loss -------------------------------------------------------------------------------------------------- */

static const int64_t logit_voxels[] = {1, 85, 1025, 4 * 528 * 256 + 301};
enum { LOGIT_SHAPES = sizeof logit_voxels / sizeof logit_voxels[0] };

/* What the loss of logits (voxels, FB_REGIONS) and its gradient are on the device; the loss is added to 0.25. */
static double run_loss(device *d, int64_t voxels, const float *logits, const uint8_t *target, array *gradient)
{
    double sum = 0.25;
    const array from = put_floats(d, voxels * FB_REGIONS, logits), truth = put_bytes(d, voxels, target);
    const array loss = put_bytes(d, sizeof sum, &sum);
    *gradient = out_floats(d, voxels * FB_REGIONS, NULL);
    d->ops->dice_loss(d->ops, voxels, (const float *)(void *)from.first, (const uint8_t *)truth.first,
                      (float *)(void *)gradient->first, (double *)(void *)loss.first);
    get_bytes(d, &loss, &sum);
    return sum - 0.25;
}

/* Of a gradient's element the steepest part is at most 2/3 over the denominator, twice; 1 - p has one rounding of 1. */
static void check_loss(device *d, int64_t voxels, double largest, unsigned regions)
{
    const int64_t count = voxels * FB_REGIONS;
    const fb_rng rng = {.seed = 9, .purpose = FB_RNG_TEST};
    float *logits = make_random(count, 1, -largest, largest), *dlogits = make(count);
    uint8_t *target = NULL;
    array gradient;
    must(FB_ALLOC(target, voxels, "target"));
    for (int64_t v = 0; v < voxels; v++)
        target[v] = (uint8_t)(fb_rng_below(&rng, (uint32_t)v, 8) & regions);
    const double want = fb_dice_loss(voxels, logits, target, dlogits);
    const double got = run_loss(d, voxels, logits, target, &gradient);
    if (!(fabs(got - want) <= 8.0 * eps))
        fail_msg("loss of %lld voxels, logits up to %g: %.9g, expected %.9g", (long long)voxels, largest, got, want);
    compare(d, &gradient, dlogits, 8.0 * eps, "gradient of the loss, %lld, logits up to %g", (long long)voxels,
            largest);
    release_arrays(d);
    FB_FREE(logits);
    FB_FREE(dlogits);
    FB_FREE(target);
}

static void check_losses(device *d)
{
    for (int i = 0; i < LOGIT_SHAPES; i++)
        check_loss(d, logit_voxels[i], 3.0, 7);
    check_loss(d, 3000, 3.0, 0); /* no region is there */
    check_loss(d, 3000, 3.0, 1 << FB_REGION_WT);
    check_loss(d, 3000, 100.0, 7);
    check_loss(d, 3000, 0.0, 7);
}

static void test_loss(void **state)
{
    (void)state;
    in_both(check_losses);
}

/* Logits of +-100 and +-1000: probabilities of exactly 0 and 1, no gradient, no NaN. */
static void check_loss_extremes(device *d)
{
    enum { VOXELS = 900 };
    float logits[VOXELS * FB_REGIONS], zero[VOXELS * FB_REGIONS] = {0.0F};
    uint8_t target[VOXELS];
    array gradient;
    for (int v = 0; v < VOXELS; v++) {
        target[v] = (uint8_t)(v % 8);
        for (int r = 0; r < FB_REGIONS; r++)
            logits[v * FB_REGIONS + r] = ((v >> r & 1) ? 1.0F : -1.0F) * (v % 3 ? 100.0F : 1000.0F);
    }
    assert_true(fabs(run_loss(d, VOXELS, logits, target, &gradient)) < 1e-6); /* the segmentation is perfect */
    compare(d, &gradient, zero, 0.0, "gradient of a perfect segmentation");
    release_arrays(d);
    for (int i = 0; i < VOXELS * FB_REGIONS; i++)
        logits[i] = -logits[i];
    assert_true(fabs(run_loss(d, VOXELS, logits, target, &gradient) - 1.0) < 1e-6); /* as wrong as can be */
    compare(d, &gradient, zero, 0.0, "gradient of a wrong segmentation");
}

static void test_loss_extremes(void **state)
{
    (void)state;
    in_both(check_loss_extremes);
}

/* One logit that is none makes the loss and its own region's gradient none, wherever it is. */
static void check_loss_nan(device *d)
{
    static const int64_t places[] = {0, 1000 * FB_REGIONS + 1, 2999 * FB_REGIONS + 2};
    for (int i = 0; i < 3; i++) {
        float *logits = make_random(3000 * FB_REGIONS, 1, -3.0, 3.0);
        uint8_t target[3000] = {7, 0, 3};
        array gradient;
        logits[places[i]] = NAN;
        assert_true(isnan(run_loss(d, 3000, logits, target, &gradient)));
        float *got = get(d, &gradient);
        for (int64_t k = 0; k < 3000 * FB_REGIONS; k++)
            assert_int_equal(isnan(got[k]), k % FB_REGIONS == places[i] % FB_REGIONS);
        release_arrays(d);
        FB_FREE(got);
        FB_FREE(logits);
    }
}

static void test_loss_nan(void **state)
{
    (void)state;
    in_both(check_loss_nan);
}

/* --- optimiser --------------------------------------------------------------------------------------------- */

/* Steps 42 to 44, with numbers that are not PyTorch's, so that none can be exchanged for another. */
static void check_adam(device *d, int64_t count)
{
    const fb_adam_spec spec = {0.01, 0.8, 0.99, 1e-3, 0.1};
    int64_t step = 41, counted = 0;
    float *w = make_random(count, 1, -1.0, 1.0), *g = make_random(count, 2, -1.0, 1.0);
    float *m = make_random(count, 3, -1.0, 1.0), *v = make_random(count, 4, 0.0, 1.0);
    const array on_w = out_floats(d, count, w), on_g = put_floats(d, count, g), on_m = out_floats(d, count, m);
    const array on_v = out_floats(d, count, v), steps = put_bytes(d, sizeof step, &step);
    for (int i = 0; i < 3; i++) {
        d->ops->count_step(d->ops, (int64_t *)(void *)steps.first);
        d->ops->adam_step(d->ops, &spec, count, (const int64_t *)(void *)steps.first, (float *)(void *)on_w.first,
                          (const float *)(void *)on_g.first, (float *)(void *)on_m.first, (float *)(void *)on_v.first);
        fb_ops_ref.count_step(&fb_ops_ref, &step);
        fb_ops_ref.adam_step(&fb_ops_ref, &spec, count, &step, w, g, m, v);
    }
    get_bytes(d, &steps, &counted);
    assert_int_equal(counted, 44);
    compare(d, &on_w, w, 2.0 * eps, "weights after Adam, %lld", (long long)count);
    compare(d, &on_m, m, 2.0 * eps, "first moments, %lld", (long long)count);
    compare(d, &on_v, v, 2.0 * eps, "second moments, %lld", (long long)count);
    release_arrays(d);
    FB_FREE(w);
    FB_FREE(g);
    FB_FREE(m);
    FB_FREE(v);
}

/* The first step from nothing is one of the learning rate against the gradient's sign: the corrections cancel. */
static void check_first_step(device *d)
{
    enum { COUNT = 5 };
    const fb_adam_spec spec = {1e-3, 0.9, 0.999, 1e-8, 0.0};
    const int64_t none = 0;
    const float zero[COUNT] = {0.0F}, g[COUNT] = {1.0F, -1.0F, 1e-3F, -1e3F, 0.0F};
    const float want[COUNT] = {-1e-3F, 1e-3F, -1e-3F, 1e-3F, 0.0F};
    const array w = out_floats(d, COUNT, zero), gradient = put_floats(d, COUNT, g), m = out_floats(d, COUNT, zero);
    const array v = out_floats(d, COUNT, zero), step = put_bytes(d, sizeof none, &none);
    d->ops->count_step(d->ops, (int64_t *)(void *)step.first);
    d->ops->adam_step(d->ops, &spec, COUNT, (const int64_t *)(void *)step.first, (float *)(void *)w.first,
                      (const float *)(void *)gradient.first, (float *)(void *)m.first, (float *)(void *)v.first);
    compare(d, &w, want, 2e-5, "the first step of Adam"); /* epsilon is 1e-5 of the smallest gradient */
}

static void check_sgd(device *d, int64_t count)
{
    float *w = make_random(count, 1, -1.0, 1.0), *g = make_random(count, 2, -1.0, 1.0);
    const array on_w = out_floats(d, count, w), on_g = put_floats(d, count, g);
    d->ops->sgd_step(d->ops, 0.25, 0.5, count, (float *)(void *)on_w.first, (const float *)(void *)on_g.first);
    fb_ops_ref.sgd_step(&fb_ops_ref, 0.25, 0.5, count, w, g);
    compare(d, &on_w, w, eps, "gradient descent, %lld", (long long)count);
    release_arrays(d);
    FB_FREE(w);
    FB_FREE(g);
}

static void check_optimisers(device *d)
{
    static const int64_t counts[] = {1, 255, 1025, 4 * 528 * 256 + 9};
    for (int i = 0; i < 4; i++) {
        check_adam(d, counts[i]);
        check_sgd(d, counts[i]);
    }
    check_first_step(d);
}

static void test_optimisers(void **state)
{
    (void)state;
    in_both(check_optimisers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_sample_nan),
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_loss_extremes),
        cmocka_unit_test(test_loss_nan),
        cmocka_unit_test(test_optimisers),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
