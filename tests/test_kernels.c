/* SPDX-License-Identifier: Apache-2.0
 *
 * GroupNorm with ReLU, upsampling and addition of the fast CPU backend against the reference, which sums in double, on
 * all levels of SegResNet at 16^3 and on odd shapes. Errors are measured against the largest element expected.
 */
#include "arrays.h"
#include "nn/op.h"
#include "segresnet_layers.h"

#include <float.h>

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
    ops->norm_relu_fwd(ops, k->voxels, k->channels, k->x, k->gamma, k->beta, r.y, r.stats);
    return r;
}

static void run_norm_bwd(const fb_ops *ops, const norm_case *k, const float *stats, norm_result *r)
{
    ops->norm_relu_bwd(ops, k->voxels, k->channels, k->x, k->gamma, k->beta, stats, k->dy, r->dx, r->dgamma, r->dbeta);
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
    fb_ops_ref.upsample_add_fwd(&fb_ops_ref, in, channels, k.x, k.skip, want);
    fb_ops_dnnl.upsample_add_fwd(&fb_ops_dnnl, in, channels, k.x, k.skip, got);
    assert_close("upsample", k.high, got, want, 8.0 * (double)FLT_EPSILON);
    fb_ops_ref.upsample_bwd(&fb_ops_ref, in, channels, k.dy, want_dx);
    fb_ops_dnnl.upsample_bwd(&fb_ops_dnnl, in, channels, k.dy, got_dx);
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
    fb_ops_dnnl.upsample_add_fwd(&fb_ops_dnnl, k.in, k.channels, k.x, k.skip, y);
    fb_ops_dnnl.upsample_add_fwd(&fb_ops_dnnl, k.in, k.channels, k.x, in_place, in_place);
    assert_same_bits(k.high, y, in_place);
    fb_ops_ref.add(&fb_ops_ref, k.high, k.skip, k.dy, y);
    memcpy(in_place, k.skip, (size_t)k.high * sizeof *in_place);
    fb_ops_dnnl.add(&fb_ops_dnnl, k.high, in_place, k.dy, in_place);
    assert_same_bits(k.high, y, in_place);
    memcpy(in_place, k.dy, (size_t)k.high * sizeof *in_place);
    fb_ops_dnnl.add(&fb_ops_dnnl, k.high, k.skip, in_place, in_place);
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
        fb_ops_dnnl.upsample_add_fwd(&fb_ops_dnnl, k.in, k.channels, k.x, k.skip, y[i]);
        fb_ops_dnnl.upsample_bwd(&fb_ops_dnnl, k.in, k.channels, k.dy, dx[i]);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_layers),
        cmocka_unit_test(test_norm_odd_shapes),
        cmocka_unit_test(test_norm_large_mean),
        cmocka_unit_test(test_norm_constant_input),
        cmocka_unit_test(test_upsample),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_threads_do_not_change_bits),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    fb_ops_set_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
