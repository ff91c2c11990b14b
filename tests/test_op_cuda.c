/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of the GPU backend that the network is made of, but for the convolutions (test_conv_cuda.c), against
 * the reference, which sums in double; memory, repetition and recordings. In bfloat16 the inputs are bfloat16 already,
 * so that only the order of the sums and one rounding of the result remain. Runs on the emulated GPU and on a real one.
 *
 * A block has 256 threads, and there are at most 528: the larger shapes here give every thread more than one turn.
 */
#include "device_arrays.h"
#include "device_work.h"

static const double eps = FLT_EPSILON;
static const int64_t all_channels[] = {8, 16, 24, 32, 64, 512};
enum { CHANNELS = sizeof all_channels / sizeof all_channels[0] };

/* --- norm -------------------------------------------------------------------------------------------------- */

typedef struct norm_case {
    int64_t voxels, channels, count;
    float *x, *gamma, *beta, *dy, *dx, *y, *dgamma, *dbeta;
    float stats[2 * FB_NORM_GROUPS];
} norm_case;

static norm_case make_norm(const device *d, int64_t voxels, int64_t channels, double mean, double spread)
{
    norm_case k = {.voxels = voxels, .channels = channels, .count = voxels * channels};
    k.x = make_act(d, k.count, 1, mean - spread, mean + spread);
    k.gamma = make_random(channels, 2, -2.0, 2.0);
    k.beta = make_random(channels, 3, -1.0, 1.0);
    k.dy = make_act(d, k.count, 4, -1.0, 1.0);
    k.dx = make_act(d, k.count, 5, -1.0, 1.0); /* what is there before the gradient is added */
    k.y = make_nan(k.count);
    k.dgamma = make_nan(channels);
    k.dbeta = make_nan(channels);
    return k;
}

static void free_norm(norm_case *k)
{
    float **const all[] = {&k->x, &k->gamma, &k->beta, &k->dy, &k->dx, &k->y, &k->dgamma, &k->dbeta};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        FB_FREE(*all[i]);
}

/* Where the argument of the ReLU is within rounding of 0 the two may disagree: no gradient there. */
static void silence_kinks(norm_case *k, double doubt)
{
    for (int64_t i = 0; i < k->count; i++) {
        const int64_t c = i % k->channels, g = c / (k->channels / FB_NORM_GROUPS);
        const double xhat = ((double)k->x[i] - (double)k->stats[g]) * (double)k->stats[FB_NORM_GROUPS + g];
        if (fabs((double)k->gamma[c] * xhat + (double)k->beta[c]) < doubt)
            k->dy[i] = 0.0F;
    }
}

typedef struct norm_arrays {
    array x, gamma, beta, stats, y, dy, dx, dgamma, dbeta;
} norm_arrays;

static void norm_forward(device *d, norm_case *k, norm_arrays *a)
{
    a->x = put_act(d, k->count, k->x);
    a->gamma = put_floats(d, k->channels, k->gamma);
    a->beta = put_floats(d, k->channels, k->beta);
    a->y = out_act(d, k->count, NULL);
    a->stats = out_floats(d, 2 * FB_NORM_GROUPS, NULL);
    d->ops->norm_relu_fwd(d->ops, k->voxels, k->channels, a->x.first, (const float *)(void *)a->gamma.first,
                          (const float *)(void *)a->beta.first, a->y.first, (float *)(void *)a->stats.first);
    fb_ops_ref.norm_relu_fwd(&fb_ops_ref, k->voxels, k->channels, k->x, k->gamma, k->beta, k->y, k->stats);
}

static void norm_backward(device *d, norm_case *k, norm_arrays *a)
{
    a->dy = put_act(d, k->count, k->dy);
    a->dx = out_act(d, k->count, k->dx);
    a->dgamma = out_floats(d, k->channels, NULL);
    a->dbeta = out_floats(d, k->channels, NULL);
    fill_array(d, &a->stats, k->stats);
    d->ops->norm_relu_bwd(d->ops, k->voxels, k->channels, a->x.first, (const float *)(void *)a->gamma.first,
                          (const float *)(void *)a->beta.first, (const float *)(void *)a->stats.first, a->dy.first,
                          a->dx.first, (float *)(void *)a->dgamma.first, (float *)(void *)a->dbeta.first);
    fb_ops_ref.norm_relu_bwd(&fb_ops_ref, k->voxels, k->channels, k->x, k->gamma, k->beta, k->stats, k->dy, k->dx,
                             k->dgamma, k->dbeta);
}

/* Where a group has few elements its spread may be small, and the terms of a gradient, each times rstd, large. */
static double largest_rstd(const norm_case *k)
{
    double largest = 1.0;
    for (int g = 0; g < FB_NORM_GROUPS; g++)
        largest = fmax(largest, (double)k->stats[FB_NORM_GROUPS + g]);
    return largest;
}

/* Sums run over few terms of a thread and 8 levels of a tree in float, then in double; an element takes 4 roundings.
 * The mean is kept as a float, which counts by |mean| over the spread. A gradient uses the sums twice. */
static void check_norm(device *d, int64_t voxels, int64_t channels, double mean, double spread)
{
    const double bound = eps * (8.0 + fabs(mean) / spread);
    norm_case k = make_norm(d, voxels, channels, mean, spread);
    norm_arrays a;
    norm_forward(d, &k, &a);
    compare(d, &a.y, k.y, bound, "norm, %lld x %lld, mean %g", (long long)voxels, (long long)channels, mean);
    float *stats = get(d, &a.stats);
    assert_true(excess_of(FB_NORM_GROUPS, stats, k.stats, false, 2.0 * eps * fmax(1.0, spread / (1.0 + fabs(mean)))) <=
                1.0);
    assert_true(excess_of(FB_NORM_GROUPS, stats + FB_NORM_GROUPS, k.stats + FB_NORM_GROUPS, false, 8.0 * eps) <= 1.0);
    FB_FREE(stats);
    silence_kinks(&k, 1e-5 + 4.0 * bound);
    norm_backward(d, &k, &a);
    compare(d, &a.dx, k.dx, 2.0 * bound * largest_rstd(&k), "dx, %lld x %lld, mean %g", (long long)voxels,
            (long long)channels, mean);
    compare(d, &a.dgamma, k.dgamma, 4.0 * bound, "dgamma, %lld x %lld", (long long)voxels, (long long)channels);
    compare(d, &a.dbeta, k.dbeta, 4.0 * bound, "dbeta, %lld x %lld", (long long)voxels, (long long)channels);
    release_arrays(d);
    free_norm(&k);
}

static void check_norms(device *d)
{
    for (int c = 0; c < CHANNELS; c++)
        for (int64_t voxels = 1; voxels < 5000; voxels = 9 * voxels - 2) /* 1, 7, 61, 547, 4921 */
            check_norm(d, all_channels[c] == 512 && voxels > 1000 ? 1000 : voxels, all_channels[c], 0.3, 1.0);
    check_norm(d, 1100003, 8, 0.3, 1.0); /* more than 528 blocks have turns for */
    check_norm(d, 20003, 24, -2.0, 1.0);
    check_norm(d, 4001, 512, 0.3, 1.0);
}

static void test_norm(void **state)
{
    (void)state;
    in_both(check_norms);
}

/* A variance computed as mean(x^2) - mean(x)^2 in float loses everything here. bfloat16 has steps of 64 at 10^4. */
static void check_norm_large_mean(device *d)
{
    const double spread = d->act == FB_ACT_BF16 ? 1000.0 : sqrt(3.0);
    check_norm(d, 4096, 8, 1e4, spread);
    check_norm(d, 513, 64, -1e4, spread);
}

static void test_norm_large_mean(void **state)
{
    (void)state;
    in_both(check_norm_large_mean);
}

/* No spread at all: y = relu(beta), rstd = 1 / sqrt(1e-5). */
static void check_norm_constant(device *d)
{
    norm_case k = make_norm(d, 700, 16, 7.0, 0.0);
    norm_arrays a;
    norm_forward(d, &k, &a);
    compare(d, &a.y, k.y, 0.0, "norm of a constant");
    float *stats = get(d, &a.stats);
    for (int g = 0; g < FB_NORM_GROUPS; g++)
        assert_true(stats[g] == 7.0F && fabsf(stats[FB_NORM_GROUPS + g] - 316.2278F) < 1e-3F);
    FB_FREE(stats);
    free_norm(&k);
}

static void test_norm_constant(void **state)
{
    (void)state;
    in_both(check_norm_constant);
}

/* One number that is none: its group's statistics are none, the other groups have theirs. */
static void check_norm_nan(device *d)
{
    norm_case k = make_norm(d, 3000, 24, 0.3, 1.0);
    norm_arrays a;
    k.x[2999 * 24 + 7] = NAN; /* group 2 */
    norm_forward(d, &k, &a);
    float *stats = get(d, &a.stats);
    for (int i = 0; i < 2 * FB_NORM_GROUPS; i++)
        assert_int_equal(isnan(stats[i]), i % FB_NORM_GROUPS == 2);
    FB_FREE(stats);
    free_norm(&k);
}

static void test_norm_nan(void **state)
{
    (void)state;
    in_both(check_norm_nan);
}

/* --- upsampling -------------------------------------------------------------------------------------------- */

/* Weights are exact; 8 products and the skip, or 64 products. */
static void check_upsample(device *d, const int64_t in[3], int64_t channels)
{
    const int64_t low = volume(in) * channels, high = 8 * low;
    float *x = make_act(d, low, 1, -1.0, 1.0), *skip = make_act(d, high, 2, -1.0, 1.0), *y = make_nan(high);
    float *dy = make_act(d, high, 3, -1.0, 1.0), *dx = make_nan(low);
    const array from = put_act(d, low, x), along = put_act(d, high, skip), out = out_act(d, high, NULL);
    const array both = out_act(d, high, skip), gradient = put_act(d, high, dy), back = out_act(d, low, NULL);
    d->ops->upsample_add_fwd(d->ops, in, channels, from.first, along.first, out.first);
    d->ops->upsample_add_fwd(d->ops, in, channels, from.first, both.first, both.first);
    d->ops->upsample_bwd(d->ops, in, channels, gradient.first, back.first);
    fb_ops_ref.upsample_add_fwd(&fb_ops_ref, in, channels, x, skip, y);
    fb_ops_ref.upsample_bwd(&fb_ops_ref, in, channels, dy, dx);
    compare(d, &out, y, 3.0 * eps, "upsampling, %lld x %lld", (long long)volume(in), (long long)channels);
    float *apart = get(d, &out);
    compare_bits(d, &both, apart, "upsampling in place");
    FB_FREE(apart);
    compare(d, &back, dx, 6.0 * eps, "its gradient, %lld x %lld", (long long)volume(in), (long long)channels);
    release_arrays(d);
    FB_FREE(x);
    FB_FREE(skip);
    FB_FREE(y);
    FB_FREE(dy);
    FB_FREE(dx);
}

static void check_upsamples(device *d)
{
    static const int64_t extents[][3] = {{1, 1, 1}, {1, 2, 3}, {3, 1, 2}, {2, 3, 1}, {4, 3, 5}};
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++)
        for (int c = 0; c < CHANNELS; c++)
            check_upsample(d, extents[e], all_channels[c]);
    check_upsample(d, (const int64_t[3]){26, 27, 26}, 8); /* more voxels below, and far more above, than threads */
    check_upsample(d, (const int64_t[3]){37, 61, 62}, 8);
}

static void test_upsample(void **state)
{
    (void)state;
    in_both(check_upsamples);
}

/* --- one place --------------------------------------------------------------------------------------------- */

/* The nearest the activations can hold. */
static float nearest(const device *d, float value)
{
    return d->act == FB_ACT_BF16 ? float_of(bf16_of(value)) : value;
}

static void check_add(device *d, int64_t count)
{
    float *a = make_act(d, count, 1, -1.0, 1.0), *b = make_act(d, count, 2, -1.0, 1.0), *sum = make(count);
    for (int64_t i = 0; i < count; i++)
        sum[i] = nearest(d, a[i] + b[i]);
    const array first = put_act(d, count, a), second = put_act(d, count, b), out = out_act(d, count, NULL);
    const array over_first = out_act(d, count, a), over_second = out_act(d, count, b);
    d->ops->add(d->ops, count, first.first, second.first, out.first);
    d->ops->add(d->ops, count, over_first.first, second.first, over_first.first);
    d->ops->add(d->ops, count, first.first, over_second.first, over_second.first);
    compare_bits(d, &out, sum, "sum");
    compare_bits(d, &over_first, sum, "sum in place of the first");
    compare_bits(d, &over_second, sum, "sum in place of the second");
    release_arrays(d);
    FB_FREE(a);
    FB_FREE(b);
    FB_FREE(sum);
}

static void check_scale(device *d, int64_t voxels, int64_t channels)
{
    const int64_t count = voxels * channels;
    float *x = make_act(d, count, 1, -1.0, 1.0), *scale = make_random(channels, 2, -2.0, 2.0), *want = make(count);
    for (int64_t c = 0; c < channels; c += 3)
        scale[c] = 0.0F;
    for (int64_t i = 0; i < count; i++)
        want[i] = nearest(d, x[i] * scale[i % channels]);
    const array out = out_act(d, count, x), by = put_floats(d, channels, scale);
    d->ops->scale_channels(d->ops, voxels, channels, (const float *)(void *)by.first, out.first);
    compare_bits(d, &out, want, "scaled channels");
    release_arrays(d);
    FB_FREE(x);
    FB_FREE(scale);
    FB_FREE(want);
}

static void check_places(device *d)
{
    check_add(d, 8);
    check_add(d, 8 * 257);
    check_add(d, 8 * (4 * 528 * 256 + 77));
    for (int c = 0; c < CHANNELS; c++) {
        check_scale(d, 1, all_channels[c]);
        check_scale(d, 301, all_channels[c]);
    }
    check_scale(d, 4 * 528 * 256 / 3 + 55, 24);
}

static void test_add_and_scale(void **state)
{
    (void)state;
    in_both(check_places);
}

/* --- logits ------------------------------------------------------------------------------------------------ */

static const int64_t logit_voxels[] = {1, 85, 1025, 4 * 528 * 256 + 301};
enum { LOGIT_SHAPES = sizeof logit_voxels / sizeof logit_voxels[0] };

static void check_bias(device *d, int64_t voxels)
{
    const int64_t count = voxels * FB_REGIONS;
    float *y = make_random(count, 1, -0.5, 1.0), *want = make_copy(count, y),
          *bias = make_random(FB_REGIONS, 2, -1.0, 1.0);
    float dbias[FB_REGIONS];
    const array by = put_floats(d, FB_REGIONS, bias), out = out_floats(d, count, y);
    const array gradient = out_floats(d, FB_REGIONS, NULL);
    d->ops->bias_bwd(d->ops, voxels, (const float *)(void *)out.first, (float *)(void *)gradient.first);
    d->ops->bias_add(d->ops, voxels, (const float *)(void *)by.first, (float *)(void *)out.first);
    fb_ops_ref.bias_bwd(&fb_ops_ref, voxels, y, dbias);
    fb_ops_ref.bias_add(&fb_ops_ref, voxels, bias, want);
    compare_bits(d, &out, want, "bias");
    compare(d, &gradient, dbias, 4.0 * eps, "its gradient, %lld", (long long)voxels);
    release_arrays(d);
    FB_FREE(y);
    FB_FREE(want);
    FB_FREE(bias);
}

static void check_biases(device *d)
{
    for (int i = 0; i < LOGIT_SHAPES; i++)
        check_bias(d, logit_voxels[i]);
}

static void test_bias(void **state)
{
    (void)state;
    in_both(check_biases);
}

/* --- windows ----------------------------------------------------------------------------------------------- */

static void check_window(device *d, const int64_t extent[3], const int64_t start[3], const int64_t window[3])
{
    const int64_t whole = volume(extent), part = volume(window);
    float *image = make_act(d, whole * FB_IMAGE_CHANNELS, 1, -1.0, 1.0), *x = make_nan(part * FB_IMAGE_CHANNELS);
    float *logits = make_random(part * FB_REGIONS, 2, -1.0, 1.0), *sum = make_random(whole * FB_REGIONS, 3, -1.0, 1.0);
    const array from = put_act(d, whole * FB_IMAGE_CHANNELS, image), out = out_act(d, part * FB_IMAGE_CHANNELS, NULL);
    const array added = put_floats(d, part * FB_REGIONS, logits), all = out_floats(d, whole * FB_REGIONS, sum);
    d->ops->take_window(d->ops, from.first, extent, start, window, out.first);
    d->ops->add_window(d->ops, (const float *)(void *)added.first, extent, start, window, (float *)(void *)all.first);
    fb_ops_ref.take_window(&fb_ops_ref, image, extent, start, window, x);
    fb_ops_ref.add_window(&fb_ops_ref, logits, extent, start, window, sum);
    compare_bits(d, &out, x, "window");
    compare_bits(d, &all, sum, "sum of windows");
    release_arrays(d);
    FB_FREE(image);
    FB_FREE(x);
    FB_FREE(logits);
    FB_FREE(sum);
}

static void check_windows(device *d)
{
    check_window(d, (const int64_t[3]){1, 1, 1}, (const int64_t[3]){0, 0, 0}, (const int64_t[3]){1, 1, 1});
    check_window(d, (const int64_t[3]){5, 7, 9}, (const int64_t[3]){0, 0, 0}, (const int64_t[3]){2, 3, 4});
    check_window(d, (const int64_t[3]){5, 7, 9}, (const int64_t[3]){3, 4, 5}, (const int64_t[3]){2, 3, 4});
    check_window(d, (const int64_t[3]){90, 81, 82}, (const int64_t[3]){5, 0, 1}, (const int64_t[3]){84, 81, 80});
}

static void test_windows(void **state)
{
    (void)state;
    in_both(check_windows);
}

/* --- memory, repetition, recordings ------------------------------------------------------------------------- */

static void check_memory(device *d)
{
    const fb_ops *ops = d->ops;
    char bytes[1000], got[1000];
    void *a = NULL, *b = NULL;
    int64_t free_bytes = 0, total_bytes = 0;
    memset(bytes, 0x5a, sizeof bytes);
    must(ops->alloc(ops, 1000, "memory", &a));
    must(ops->alloc(ops, 1000, "memory", &b));
    must(ops->download(ops, got, a, 1000));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(got[i], 0);
    ops->upload(ops, a, bytes, 1000);
    memset(bytes, 1, sizeof bytes); /* may be changed at once */
    ops->copy(ops, b, a, 900);
    ops->zero(ops, a, 10);
    must(ops->download(ops, got, b, 1000));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(got[i], i < 900 ? 0x5a : 0);
    must(ops->download(ops, got, a, 20));
    for (int i = 0; i < 20; i++)
        assert_int_equal(got[i], i < 10 ? 0 : 0x5a);
    ops->room(ops, &free_bytes, &total_bytes);
    assert_true(free_bytes > 0 && free_bytes < total_bytes);
    ops->release(ops, &a);
    assert_null(a);
    ops->release(ops, &a);
    ops->release(ops, &b);
}

static void test_memory(void **state)
{
    (void)state;
    in_both(check_memory);
}

/* Bits of everything that a whole sequence of operations leaves. */
static void check_repetition(device *d)
{
    enum { TIMES = 20 };
    device_work work;
    void *recording = NULL;
    must(create_work(d->ops, &work));
    char *first = make_room_for(&work), *again = make_room_for(&work), *before = make_room_for(&work);
    reset_work(&work);
    must(read_work(&work, before));
    must(queue_work(&work));
    must(read_work(&work, first));
    assert_memory_not_equal(first, before, (size_t)work.bytes);
    for (int i = 1; i < TIMES; i++) {
        reset_work(&work);
        must(queue_work(&work));
        must(read_work(&work, again));
        assert_memory_equal(first, again, (size_t)work.bytes);
    }
    reset_work(&work);
    must(d->ops->record_begin(d->ops));
    must(queue_work(&work));
    must(d->ops->record_end(d->ops, &recording));
    must(read_work(&work, again));
    assert_memory_equal(before, again, (size_t)work.bytes); /* recorded, not done */
    for (int i = 0; i < 3; i++) {
        reset_work(&work);
        d->ops->record_replay(d->ops, recording);
        must(read_work(&work, again));
        assert_memory_equal(first, again, (size_t)work.bytes);
    }
    d->ops->record_free(d->ops, &recording);
    assert_null(recording);
    d->ops->record_free(d->ops, &recording);
    destroy_work(&work);
    FB_FREE(first);
    FB_FREE(again);
    FB_FREE(before);
}

static void test_repeats_bits(void **state)
{
    (void)state;
    in_both(check_repetition);
}

/* A recording outlives convolutions that are made, and need more memory, after it. */
static void check_recording_and_larger_convolution(device *d)
{
    const fb_conv_shape larger = {{24, 24, 24}, 64, 64, 3, 1};
    device_work work;
    fb_conv *conv = NULL;
    void *recording = NULL;
    must(create_work(d->ops, &work));
    char *first = make_room_for(&work), *again = make_room_for(&work);
    reset_work(&work);
    must(queue_work(&work));
    must(read_work(&work, first));
    must(d->ops->record_begin(d->ops));
    must(queue_work(&work));
    must(d->ops->record_end(d->ops, &recording));
    must(d->ops->conv_create(d->ops, &larger, &conv));
    reset_work(&work);
    d->ops->record_replay(d->ops, recording);
    must(read_work(&work, again));
    assert_memory_equal(first, again, (size_t)work.bytes);
    d->ops->conv_destroy(&conv);
    d->ops->record_free(d->ops, &recording);
    destroy_work(&work);
    FB_FREE(first);
    FB_FREE(again);
}

static void test_recording_and_larger_convolution(void **state)
{
    (void)state;
    in_both(check_recording_and_larger_convolution);
}

/* The comparison sees the least change that matters: one of 24 channels' gamma and beta exchanged, and the last bit of
 * a sum of float. */
static void check_comparison(device *d)
{
    norm_case k = make_norm(d, 500, 24, 0.3, 1.0);
    norm_arrays a;
    norm_forward(d, &k, &a);
    float *got = get(d, &a.y);
    const float gamma = k.gamma[11];
    k.gamma[11] = k.beta[11];
    k.beta[11] = gamma;
    fb_ops_ref.norm_relu_fwd(&fb_ops_ref, 500, 24, k.x, k.gamma, k.beta, k.y, k.stats);
    assert_true(excess_of(k.count, got, k.y, d->act == FB_ACT_BF16, 9.0 * eps) > 20.0);
    FB_FREE(got);
    free_norm(&k);
}

static void test_comparison_can_fail(void **state)
{
    (void)state;
    in_both(check_comparison);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_norm_large_mean),
        cmocka_unit_test(test_norm_constant),
        cmocka_unit_test(test_norm_nan),
        cmocka_unit_test(test_upsample),
        cmocka_unit_test(test_add_and_scale),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_repeats_bits),
        cmocka_unit_test(test_recording_and_larger_convolution),
        cmocka_unit_test(test_comparison_can_fail),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
