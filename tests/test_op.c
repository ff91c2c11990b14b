/* SPDX-License-Identifier: Apache-2.0
 *
 * The convolutions of the fast CPU backend against the reference, which sums in double, on all layers of SegResNet at
 * 16^3 and on odd shapes. Errors are measured against the largest element of the expected array.
 */
#include "arrays.h"
#include "nn/kernels_conv8.h"
#include "nn/op.h"
#include "segresnet_layers.h"

#include <float.h>

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
    must(ops->conv_create(ops, &k->shape, &conv));
    must(ops->conv_load(conv, k->w));
    must(ops->conv_fwd(conv, k->x, r.y));
    must(ops->conv_bwd_data(conv, k->dy, r.dx));
    must(ops->conv_bwd_weights(conv, k->x, k->dy, r.dw));
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

/* fb_conv8 as fb_ops, whether or not the backend prefers it on this machine. */
static conv_result run_conv8(const conv_case *k)
{
    conv_result r = {make_nan(k->out), make_nan(k->in), make_nan(k->weights + 1) + 1};
    float *packed = make(FB_CONV8_PACKED), *scratch = make((int64_t)FB_CONV8_MAX_CHUNKS * FB_CONV8_PACKED);
    fb_conv8_pack(k->shape.c_in, k->w, packed);
    fb_conv8_apply(k->shape.in, k->shape.c_in, packed, k->x, r.y);
    fb_conv8_bwd_weights(k->shape.in, k->shape.c_in, k->x, k->dy, scratch, r.dw);
    if (k->shape.c_in == 8) {
        fb_conv8_pack_transposed(k->w, packed);
        fb_conv8_apply(k->shape.in, 8, packed, k->dy, r.dx);
    }
    FB_FREE(packed);
    FB_FREE(scratch);
    return r;
}

static void check_conv8(const int64_t in[3], int64_t c_in)
{
    conv_case k = make_case(&(fb_conv_shape){{in[0], in[1], in[2]}, c_in, 8, 3, 1});
    conv_result want = run_conv(&fb_ops_ref, &k), got = run_conv8(&k);
    fb_ops_set_threads(2);
    conv_result two = run_conv8(&k);
    fb_ops_set_threads(1);
    assert_close("conv8 forward", k.out, got.y, want.y, sum_bound(27 * c_in));
    assert_close("conv8 backward weights", k.weights, got.dw, want.dw, sum_bound(volume(in)));
    assert_same_bits(k.out, got.y, two.y);
    assert_same_bits(k.weights, got.dw, two.dw);
    if (c_in == 8) {
        assert_close("conv8 backward data", k.in, got.dx, want.dx, sum_bound(27 * 8));
        assert_same_bits(k.in, got.dx, two.dx);
    }
    free_result(&want);
    free_result(&got);
    free_result(&two);
    free_case(&k);
}

static void test_conv8(void **state)
{
    (void)state;
    /* W: one short tile, one long, both, several; more rows than partial sums in the last */
    static const int64_t extents[][3] = {{1, 1, 8}, {3, 5, 8}, {4, 2, 16}, {5, 3, 24}, {2, 2, 40}, {13, 11, 8}};
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++)
        for (int64_t c_in = 4; c_in <= 8; c_in += 4) {
            assert_true(fb_conv8_can(extents[e], c_in));
            check_conv8(extents[e], c_in);
        }
    assert_false(fb_conv8_can((const int64_t[3]){8, 8, 14}, 8));
    assert_false(fb_conv8_can((const int64_t[3]){8, 8, 8}, 6));
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
    must(fb_ops_dnnl.conv_create(&fb_ops_dnnl, &k.shape, &conv));
    k.w[4321] += 0.1F;
    must(fb_ops_dnnl.conv_load(conv, k.w));
    must(fb_ops_dnnl.conv_fwd(conv, k.x, y));
    assert_true(error_of(k.out, y, want.y) > 100.0 * sum_bound(27 * 16));
    k.w[4321] -= 0.1F;
    must(fb_ops_dnnl.conv_load(conv, k.w));
    must(fb_ops_dnnl.conv_fwd(conv, k.x, y));
    assert_close("reloaded", k.out, y, want.y, sum_bound(27 * 16));
    fb_ops_dnnl.conv_destroy(&conv);
    FB_FREE(y);
    free_result(&want);
    free_case(&k);
}

static void assert_refused(const fb_conv_shape *s, const char *named)
{
    fb_conv *conv = NULL;
    must_fail(fb_ops_dnnl.conv_create(&fb_ops_dnnl, s, &conv), named);
    assert_null(conv);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv_layers_f8),
        cmocka_unit_test(test_conv_layers_f16),
        cmocka_unit_test(test_conv_odd_shapes),
        cmocka_unit_test(test_conv8),
        cmocka_unit_test(test_conv_repeats_bits),
        cmocka_unit_test(test_conv_two_threads),
        cmocka_unit_test(test_conv_notices_one_wrong_weight),
        cmocka_unit_test(test_conv_refuses),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    fb_ops_set_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
