/* SPDX-License-Identifier: Apache-2.0
 *
 * Every operation of the fast CPU backend against the reference in double accumulation, on all layers of SegResNet at
 * 16^3 and on odd shapes. Errors are measured against the largest element of the expected array.
 */
#include "core/mem.h"
#include "core/rng.h"
#include "nn/op.h"
#include "segresnet_layers.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* --- helpers
 * ------------------------------------------------------------------------------------------------------------ */

static void succeed(fb_status status)
{
    if (status != FB_OK)
        fail_msg("%s", fb_error_message(status));
}

static float *make(int64_t count)
{
    float *a = NULL;
    succeed(FB_ALLOC(a, count, "test array"));
    return a;
}

/* Uniform on [lo, hi); `stream` tells arrays apart. */
static float *make_random(int64_t count, uint32_t stream, double lo, double hi)
{
    const fb_rng rng = {.seed = 20261123, .purpose = FB_RNG_TEST, .round = stream};
    float *a = make(count);
    for (int64_t i = 0; i < count; i++)
        a[i] = (float)fb_rng_range(&rng, (uint32_t)i, lo, hi);
    return a;
}

static float *make_copy(int64_t count, const float *from)
{
    float *a = make(count);
    memcpy(a, from, (size_t)count * sizeof *a);
    return a;
}

/* An array that must be overwritten. */
static float *make_nan(int64_t count)
{
    float *a = make(count);
    for (int64_t i = 0; i < count; i++)
        a[i] = NAN;
    return a;
}

/* Largest difference relative to the largest element expected; infinite where one is NaN. */
static double error_of(int64_t count, const float *got, const float *want)
{
    double difference = 0.0, largest = 0.0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i]))
            return INFINITY;
        difference = fmax(difference, fabs((double)got[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    return difference / largest;
}

static void assert_close(const char *what, int64_t count, const float *got, const float *want, double bound)
{
    const double error = error_of(count, got, want);
    if (!(error <= bound))
        fail_msg("%s: error %.3g of the largest element, allowed %.3g", what, error, bound);
}

static void assert_same_bits(int64_t count, const float *a, const float *b)
{
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
}

static int64_t volume(const int64_t extent[3])
{
    return extent[0] * extent[1] * extent[2];
}

/* --- convolution
 * -------------------------------------------------------------------------------------------------------- */

typedef struct conv_case {
    fb_conv_shape shape;
    int64_t in, out, weights; /* elements of x, y, w */
    float *x, *dy, *w;
} conv_case;

typedef struct conv_result {
    float *y, *dx, *dw;
} conv_result;

/* w lies one element behind an aligned address, as a view into the arena of parameters may. */
static conv_case make_case(const fb_conv_shape *s)
{
    int64_t out[3];
    for (int axis = 0; axis < 3; axis++)
        out[axis] = (s->in[axis] + s->stride - 1) / s->stride;
    conv_case k = {.shape = *s, .in = volume(s->in) * s->c_in, .out = volume(out) * s->c_out};
    k.weights = s->c_in * s->c_out * s->kernel * s->kernel * s->kernel;
    k.x = make_random(k.in, 1, -1.0, 1.0);
    k.dy = make_random(k.out, 2, -1.0, 1.0);
    k.w = make_random(k.weights + 1, 3, -1.0, 1.0) + 1;
    return k;
}

static void free_case(conv_case *k)
{
    float *w = k->w - 1;
    FB_FREE(k->x);
    FB_FREE(k->dy);
    FB_FREE(w);
}

static conv_result run_conv(const fb_ops *ops, const conv_case *k)
{
    conv_result r = {make_nan(k->out), make_nan(k->in), make_nan(k->weights + 1) + 1};
    fb_conv *conv = NULL;
    succeed(ops->conv_create(&k->shape, &conv));
    succeed(ops->conv_load(conv, k->w));
    succeed(ops->conv_fwd(conv, k->x, r.y));
    succeed(ops->conv_bwd_data(conv, k->dy, r.dx));
    succeed(ops->conv_bwd_weights(conv, k->x, k->dy, r.dw));
    ops->conv_destroy(&conv);
    assert_null(conv);
    return r;
}

static void free_result(conv_result *r)
{
    float *dw = r->dw - 1;
    FB_FREE(r->y);
    FB_FREE(r->dx);
    FB_FREE(dw);
}

/* A sum of n products of random signs in float, in any order, has a random-walk error of about eps/2 sqrt(n/3) of its
 * own size (each partial sum is rounded); the largest element is several times the typical one. 2 eps sqrt(n) leaves
 * room for the worst element of many and for other orders of summation. Never below 8 roundings. */
static double sum_bound(int64_t terms)
{
    return (double)FLT_EPSILON * fmax(8.0, 2.0 * sqrt((double)terms));
}

static void check_conv(const fb_conv_shape *s)
{
    conv_case k = make_case(s);
    conv_result want = run_conv(&fb_ops_ref, &k), got = run_conv(&fb_ops_dnnl, &k);
    const int64_t taps = s->kernel * s->kernel * s->kernel;
    assert_close("forward", k.out, got.y, want.y, sum_bound(taps * s->c_in));
    assert_close("backward data", k.in, got.dx, want.dx, sum_bound(taps * s->c_out));
    assert_close("backward weights", k.weights, got.dw, want.dw, sum_bound(k.out / s->c_out));
    free_result(&want);
    free_result(&got);
    free_case(&k);
}

static void check_network(int64_t filters)
{
    conv_layer layers[CONV_LAYERS];
    list_conv_layers((const int64_t[3]){16, 16, 16}, filters, layers);
    for (int i = 0; i < CONV_LAYERS; i++)
        check_conv(&layers[i].shape);
}

static void test_conv_layers_f8(void **state)
{
    (void)state;
    check_network(8);
}

static void test_conv_layers_f16(void **state)
{
    (void)state;
    check_network(16);
}

static void test_conv_odd_shapes(void **state)
{
    (void)state;
    static const int64_t extents[][3] = {{10, 6, 14}, {7, 5, 9}, {1, 1, 1}, {2, 1, 3}, {4, 6, 2}};
    static const int64_t channels[][2] = {{8, 8}, {4, 8}, {8, 3}, {3, 5}, {24, 16}};
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++)
        for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
            for (int kernel = 1; kernel <= 3; kernel += 2)
                for (int stride = 1; stride <= 2; stride++) {
                    const int64_t *n = extents[e];
                    check_conv(&(fb_conv_shape){{n[0], n[1], n[2]}, channels[c][0], channels[c][1], kernel, stride});
                }
}

static const fb_conv_shape typical = {{10, 6, 14}, 8, 8, 3, 1};

static void test_conv_repeats_bits(void **state)
{
    (void)state;
    conv_case k = make_case(&typical);
    conv_result a = run_conv(&fb_ops_dnnl, &k), b = run_conv(&fb_ops_dnnl, &k);
    assert_same_bits(k.out, a.y, b.y);
    assert_same_bits(k.in, a.dx, b.dx);
    assert_same_bits(k.weights, a.dw, b.dw);
    free_result(&a);
    free_result(&b);
    free_case(&k);
}

static void test_conv_two_threads(void **state)
{
    (void)state;
    fb_ops_set_threads(2);
    check_conv(&typical);
    fb_ops_set_threads(1);
}

/* The comparison must see one weight of 13,824 that is off by a twentieth of the range, and a forgotten reload. */
static void test_conv_notices_one_wrong_weight(void **state)
{
    (void)state;
    conv_case k = make_case(&(fb_conv_shape){{4, 4, 4}, 16, 32, 3, 1});
    conv_result want = run_conv(&fb_ops_ref, &k);
    fb_conv *conv = NULL;
    float *y = make_nan(k.out);
    succeed(fb_ops_dnnl.conv_create(&k.shape, &conv));
    k.w[4321] += 0.1F;
    succeed(fb_ops_dnnl.conv_load(conv, k.w));
    succeed(fb_ops_dnnl.conv_fwd(conv, k.x, y));
    assert_true(error_of(k.out, y, want.y) > 100.0 * sum_bound(27 * 16));
    k.w[4321] -= 0.1F;
    succeed(fb_ops_dnnl.conv_load(conv, k.w));
    succeed(fb_ops_dnnl.conv_fwd(conv, k.x, y));
    assert_close("reloaded", k.out, y, want.y, sum_bound(27 * 16));
    fb_ops_dnnl.conv_destroy(&conv);
    FB_FREE(y);
    free_result(&want);
    free_case(&k);
}

static void assert_refused(const fb_conv_shape *s, const char *named)
{
    fb_conv *conv = NULL;
    fb_status status = fb_ops_dnnl.conv_create(s, &conv);
    assert_true(status != FB_OK);
    assert_null(conv);
    assert_non_null(strstr(fb_error_message(status), named));
    fb_error_free(&status);
}

static void test_conv_refuses(void **state)
{
    (void)state;
    assert_refused(&(fb_conv_shape){{4, 4, 4}, 8, 8, 5, 1}, "kernel 5");
    assert_refused(&(fb_conv_shape){{4, 4, 4}, 8, 8, 2, 1}, "kernel 2");
    assert_refused(&(fb_conv_shape){{4, 4, 4}, 8, 8, 3, 3}, "stride 3");
    assert_refused(&(fb_conv_shape){{4, 0, 4}, 8, 8, 3, 1}, "4 x 0 x 4");
    assert_refused(&(fb_conv_shape){{4, 4, 4}, 0, 8, 3, 1}, "channels 0 to 8");
    assert_refused(&(fb_conv_shape){{4, 4, 4}, 8, -1, 3, 1}, "channels 8 to -1");
}

/* --- norm
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct norm_case {
    int64_t voxels, channels, count;
    float *x, *gamma, *beta, *dy, *dx0; /* dx0: what dx holds before the gradient is added */
} norm_case;

typedef struct norm_result {
    float *y, *stats, *dx, *dgamma, *dbeta;
} norm_result;

static norm_case make_norm_case(int64_t voxels, int64_t channels, double mean)
{
    norm_case k = {.voxels = voxels, .channels = channels, .count = voxels * channels};
    k.x = make_random(k.count, 1, mean - 1.0, mean + 1.0);
    k.gamma = make_random(channels, 2, -2.0, 2.0);
    k.beta = make_random(channels, 3, -1.0, 1.0);
    k.dy = make_random(k.count, 4, -1.0, 1.0);
    k.dx0 = make_random(k.count, 5, -1.0, 1.0);
    return k;
}

static void free_norm_case(norm_case *k)
{
    FB_FREE(k->x);
    FB_FREE(k->gamma);
    FB_FREE(k->beta);
    FB_FREE(k->dy);
    FB_FREE(k->dx0);
}

static norm_result run_norm_fwd(const fb_ops *ops, const norm_case *k)
{
    norm_result r = {make_nan(k->count), make_nan((int64_t)2 * FB_NORM_GROUPS), make_copy(k->count, k->dx0),
                     make_nan(k->channels), make_nan(k->channels)};
    ops->norm_relu_fwd(k->voxels, k->channels, k->x, k->gamma, k->beta, r.y, r.stats);
    return r;
}

static void run_norm_bwd(const fb_ops *ops, const norm_case *k, const float *stats, norm_result *r)
{
    ops->norm_relu_bwd(k->voxels, k->channels, k->x, k->gamma, k->beta, stats, k->dy, r->dx, r->dgamma, r->dbeta);
}

static void free_norm_result(norm_result *r)
{
    FB_FREE(r->y);
    FB_FREE(r->stats);
    FB_FREE(r->dx);
    FB_FREE(r->dgamma);
    FB_FREE(r->dbeta);
}

/* Where the argument of the ReLU is within rounding of 0 the backends may disagree about the mask: no gradient there.
 */
static void silence_kinks(norm_case *k, const float *stats, double mean)
{
    const double doubt = 1e-4 * (1.0 + fabs(mean));
    for (int64_t i = 0; i < k->count; i++) {
        const int64_t c = i % k->channels, g = c / (k->channels / FB_NORM_GROUPS);
        const double xhat = ((double)k->x[i] - (double)stats[g]) * (double)stats[FB_NORM_GROUPS + g];
        if (fabs((double)k->gamma[c] * xhat + (double)k->beta[c]) < doubt)
            k->dy[i] = 0.0F;
    }
}

/* Sums run over at most 256 terms in float (random walk: 16/2 eps) and then in double; an element takes 4 roundings;
 * the rounding of x and of the mean counts by |mean| over the standard deviation, 1/sqrt(3) here, against elements of
 * at most 4 deviations. Doubled for the gradients, which use the sums twice. */
static void check_norm(int64_t voxels, int64_t channels, double mean)
{
    const double bound = (double)FLT_EPSILON * (12.0 + fabs(mean));
    norm_case k = make_norm_case(voxels, channels, mean);
    norm_result want = run_norm_fwd(&fb_ops_ref, &k), got = run_norm_fwd(&fb_ops_dnnl, &k);
    assert_close("norm", k.count, got.y, want.y, bound);
    assert_close("mean", FB_NORM_GROUPS, got.stats, want.stats, bound);
    assert_close("rstd", FB_NORM_GROUPS, got.stats + FB_NORM_GROUPS, want.stats + FB_NORM_GROUPS, bound);
    silence_kinks(&k, want.stats, mean);
    run_norm_bwd(&fb_ops_ref, &k, want.stats, &want);
    run_norm_bwd(&fb_ops_dnnl, &k, want.stats, &got);
    assert_close("dx", k.count, got.dx, want.dx, 2.0 * bound);
    assert_close("dgamma", channels, got.dgamma, want.dgamma, 2.0 * bound);
    assert_close("dbeta", channels, got.dbeta, want.dbeta, 2.0 * bound);
    free_norm_result(&want);
    free_norm_result(&got);
    free_norm_case(&k);
}

static void test_norm_layers(void **state)
{
    (void)state;
    for (int64_t filters = 8; filters <= 32; filters *= 2)
        for (int level = 0; level < LEVELS; level++)
            check_norm((16 >> level) * (16 >> level) * (16 >> level), filters << level, 0.3);
}

static void test_norm_odd_shapes(void **state)
{
    (void)state;
    check_norm(7 * 5 * 9, 8, 0.3);
    check_norm(10 * 6 * 14, 24, 0.3); /* 24 and 40 do not divide the rows of the kernels */
    check_norm(1031, 40, 0.3);
    check_norm(3, 8, 0.3);
    check_norm(77, 512, 0.3);
    check_norm(30011, 8, 0.3); /* several chunks and an incomplete row */
}

/* A variance computed as mean(x^2) - mean(x)^2 in float loses everything here. */
static void test_norm_large_mean(void **state)
{
    (void)state;
    check_norm(4096, 8, 1000.0);
    check_norm(4096, 32, -300.0);
}

static void test_norm_constant_input(void **state)
{
    (void)state;
    norm_case k = make_norm_case(100, 16, 0.0);
    for (int64_t i = 0; i < k.count; i++)
        k.x[i] = 7.0F;
    norm_result r = run_norm_fwd(&fb_ops_dnnl, &k);
    for (int64_t i = 0; i < k.count; i++)
        assert_true(r.y[i] == fmaxf(0.0F, k.beta[i % 16]));
    assert_true(fabsf(r.stats[FB_NORM_GROUPS] - 316.2278F) < 1e-3F); /* 1 / sqrt(1e-5) */
    free_norm_result(&r);
    free_norm_case(&k);
}

/* --- upsampling and addition
 * -------------------------------------------------------------------------------------------- */

typedef struct up_case {
    int64_t in[3], channels, low, high; /* elements at the low and at the high resolution */
    float *x, *skip, *dy;
} up_case;

static up_case make_up_case(const int64_t in[3], int64_t channels)
{
    up_case k = {.in = {in[0], in[1], in[2]}, .channels = channels, .low = volume(in) * channels};
    k.high = 8 * k.low;
    k.x = make_random(k.low, 1, -1.0, 1.0);
    k.skip = make_random(k.high, 2, -1.0, 1.0);
    k.dy = make_random(k.high, 3, -1.0, 1.0);
    return k;
}

static void free_up_case(up_case *k)
{
    FB_FREE(k->x);
    FB_FREE(k->skip);
    FB_FREE(k->dy);
}

/* 8 and 64 terms with positive weights that sum to 1 and 8: at most as many roundings as the longest chain of
 * additions has, 8 and 20, of terms no larger than the largest element. */
static void check_upsample(const int64_t in[3], int64_t channels)
{
    up_case k = make_up_case(in, channels);
    float *want = make_nan(k.high), *got = make_nan(k.high), *want_dx = make_nan(k.low), *got_dx = make_nan(k.low);
    fb_ops_ref.upsample_add_fwd(in, channels, k.x, k.skip, want);
    fb_ops_dnnl.upsample_add_fwd(in, channels, k.x, k.skip, got);
    assert_close("upsample", k.high, got, want, 8.0 * (double)FLT_EPSILON);
    fb_ops_ref.upsample_bwd(in, channels, k.dy, want_dx);
    fb_ops_dnnl.upsample_bwd(in, channels, k.dy, got_dx);
    assert_close("upsample backward", k.low, got_dx, want_dx, 20.0 * (double)FLT_EPSILON);
    FB_FREE(want);
    FB_FREE(got);
    FB_FREE(want_dx);
    FB_FREE(got_dx);
    free_up_case(&k);
}

static void test_upsample(void **state)
{
    (void)state;
    for (int64_t filters = 8; filters <= 16; filters *= 2)
        for (int level = 1; level < LEVELS; level++)
            check_upsample((const int64_t[3]){16 >> level, 16 >> level, 16 >> level}, filters << (level - 1));
    check_upsample((const int64_t[3]){5, 3, 7}, 8);
    check_upsample((const int64_t[3]){1, 1, 1}, 8);
    check_upsample((const int64_t[3]){1, 4, 2}, 24);
    check_upsample((const int64_t[3]){2, 1, 600}, 16); /* rows longer than a tile */
    check_upsample((const int64_t[3]){2, 2, 9}, 512);
    check_upsample((const int64_t[3]){3, 2, 5}, 3);
}

static void test_in_place(void **state)
{
    (void)state;
    up_case k = make_up_case((const int64_t[3]){5, 3, 7}, 16);
    float *y = make_nan(k.high), *in_place = make_copy(k.high, k.skip);
    fb_ops_dnnl.upsample_add_fwd(k.in, k.channels, k.x, k.skip, y);
    fb_ops_dnnl.upsample_add_fwd(k.in, k.channels, k.x, in_place, in_place);
    assert_same_bits(k.high, y, in_place);
    fb_ops_ref.add(k.high, k.skip, k.dy, y);
    memcpy(in_place, k.skip, (size_t)k.high * sizeof *in_place);
    fb_ops_dnnl.add(k.high, in_place, k.dy, in_place);
    assert_same_bits(k.high, y, in_place);
    memcpy(in_place, k.dy, (size_t)k.high * sizeof *in_place);
    fb_ops_dnnl.add(k.high, k.skip, in_place, in_place);
    assert_same_bits(k.high, y, in_place);
    FB_FREE(y);
    FB_FREE(in_place);
    free_up_case(&k);
}

/* --- threads
 * ------------------------------------------------------------------------------------------------------------ */

static void check_norm_threads(int threads)
{
    norm_case k = make_norm_case(30011, 16, 0.3);
    norm_result one = run_norm_fwd(&fb_ops_dnnl, &k);
    run_norm_bwd(&fb_ops_dnnl, &k, one.stats, &one);
    fb_ops_set_threads(threads);
    norm_result many = run_norm_fwd(&fb_ops_dnnl, &k);
    run_norm_bwd(&fb_ops_dnnl, &k, many.stats, &many);
    fb_ops_set_threads(1);
    assert_same_bits(k.count, one.y, many.y);
    assert_same_bits((int64_t)2 * FB_NORM_GROUPS, one.stats, many.stats);
    assert_same_bits(k.count, one.dx, many.dx);
    assert_same_bits(k.channels, one.dgamma, many.dgamma);
    assert_same_bits(k.channels, one.dbeta, many.dbeta);
    free_norm_result(&one);
    free_norm_result(&many);
    free_norm_case(&k);
}

static void check_upsample_threads(int threads)
{
    up_case k = make_up_case((const int64_t[3]){5, 3, 7}, 16);
    float *y[2] = {make_nan(k.high), make_nan(k.high)}, *dx[2] = {make_nan(k.low), make_nan(k.low)};
    for (int i = 0; i < 2; i++) {
        fb_ops_set_threads(i == 0 ? 1 : threads);
        fb_ops_dnnl.upsample_add_fwd(k.in, k.channels, k.x, k.skip, y[i]);
        fb_ops_dnnl.upsample_bwd(k.in, k.channels, k.dy, dx[i]);
    }
    fb_ops_set_threads(1);
    assert_same_bits(k.high, y[0], y[1]);
    assert_same_bits(k.low, dx[0], dx[1]);
    for (int i = 0; i < 2; i++) {
        FB_FREE(y[i]);
        FB_FREE(dx[i]);
    }
    free_up_case(&k);
}

static void test_threads_do_not_change_bits(void **state)
{
    (void)state;
    for (int threads = 2; threads <= 3; threads++) {
        check_norm_threads(threads);
        check_upsample_threads(threads);
    }
}

static void test_nothing_leaked(void **state)
{
    (void)state;
    assert_int_equal(fb_mem_live_blocks(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv_layers_f8),
        cmocka_unit_test(test_conv_layers_f16),
        cmocka_unit_test(test_conv_odd_shapes),
        cmocka_unit_test(test_conv_repeats_bits),
        cmocka_unit_test(test_conv_two_threads),
        cmocka_unit_test(test_conv_notices_one_wrong_weight),
        cmocka_unit_test(test_conv_refuses),
        cmocka_unit_test(test_norm_layers),
        cmocka_unit_test(test_norm_odd_shapes),
        cmocka_unit_test(test_norm_large_mean),
        cmocka_unit_test(test_norm_constant_input),
        cmocka_unit_test(test_upsample),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_threads_do_not_change_bits),
        cmocka_unit_test(test_nothing_leaked),
    };
    fb_ops_set_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
