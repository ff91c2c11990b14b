/* SPDX-License-Identifier: Apache-2.0
 *
 * Our own convolutions on the GPU against the reference, which sums in double: float ones at the level of float's
 * roundings, bfloat16 ones given inputs and weights that are bfloat16 already, so that only the order of the sums and
 * one rounding of the result remain. Runs on the emulated GPU and on a real one; uses nothing but the CUDA runtime.
 */
#include "arrays.h"
#include "nn/kernels_conv_cuda.h"
#include "nn/op.h"

#include <float.h>
#include <stdbool.h>

/* --- what is computed -------------------------------------------------------------------------------------- */

enum { FORWARD = 1, DATA = 2, WEIGHTS = 4, ALL = 7 };

typedef struct conv_case {
    fb_conv_shape shape;
    fb_act_type type;
    int parts; /* of the above, what to compute */
    int64_t in, out, weights; /* elements of x, y, w */
    float *x, *dy, *w;
} conv_case;

typedef struct conv_result {
    float *y, *dx, *dw;
} conv_result;

static bool is_logits(const conv_case *k)
{
    return k->shape.c_out == 3;
}

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static float float_of(uint16_t bf16)
{
    const uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void round_all(int64_t count, float *a)
{
    for (int64_t i = 0; i < count; i++)
        a[i] = float_of(bf16_of(a[i]));
}

static conv_case make_case(const fb_conv_shape *s, fb_act_type type, int parts)
{
    int64_t out[3];
    for (int axis = 0; axis < 3; axis++)
        out[axis] = (s->in[axis] + s->stride - 1) / s->stride;
    conv_case k = {.shape = *s, .type = type, .parts = parts};
    k.in = volume(s->in) * s->c_in;
    k.out = volume(out) * s->c_out;
    k.weights = s->c_in * s->c_out * s->kernel * s->kernel * s->kernel;
    k.x = make_random(k.in, 1, -1.0, 1.0);
    k.dy = make_random(k.out, 2, -1.0, 1.0);
    k.w = make_random(k.weights, 3, -1.0, 1.0);
    if (type == FB_ACT_BF16) {
        round_all(k.in, k.x);
        if (!is_logits(&k)) {
            round_all(k.out, k.dy);
            round_all(k.weights, k.w);
        }
    }
    return k;
}

static void free_case(conv_case *k)
{
    FB_FREE(k->x);
    FB_FREE(k->dy);
    FB_FREE(k->w);
}

static void free_result(conv_result *r)
{
    FB_FREE(r->y);
    FB_FREE(r->dx);
    FB_FREE(r->dw);
}

static conv_result run_reference(const conv_case *k)
{
    conv_result r = {make_nan(k->out), make_nan(k->in), make_nan(k->weights)};
    fb_conv *conv = NULL;
    must(fb_ops_ref.conv_create(&fb_ops_ref, &k->shape, &conv));
    must(fb_ops_ref.conv_load(conv, k->w));
    if (k->parts & FORWARD)
        must(fb_ops_ref.conv_fwd(conv, k->x, r.y));
    if (k->parts & DATA)
        must(fb_ops_ref.conv_bwd_data(conv, k->dy, r.dx));
    if (k->parts & WEIGHTS)
        must(fb_ops_ref.conv_bwd_weights(conv, k->x, k->dy, r.dw));
    fb_ops_ref.conv_destroy(&conv);
    return r;
}

/* --- device memory ----------------------------------------------------------------------------------------- */

#define cuda(call) assert_int_equal(call, cudaSuccess)

/* What is written lies between guards; what is only read ends with its allocation, where the emulated device's page
 * ends; w and dw lie one element behind an aligned address. All starts as NaN. */
enum { GUARD_BYTES = 4096 };

typedef struct array {
    char *memory; /* of cudaMalloc, owned */
    char *first;
    int64_t count;
    size_t width, guard; /* bytes of an element, of a guard */
} array;

static array make_device(int64_t count, size_t width, size_t guard, cudaStream_t stream)
{
    array a = {.count = count, .width = width, .guard = guard};
    const size_t bytes = (size_t)count * width + 2 * guard;
    void *memory = NULL;
    cuda(cudaMalloc(&memory, bytes));
    a.memory = memory;
    a.first = a.memory + guard;
    cuda(cudaMemsetAsync(memory, 0xff, bytes, stream));
    return a;
}

/* Copy of host values, `guard` bytes behind the begin; width 2: as bfloat16. */
static array upload(int64_t count, size_t width, size_t guard, const float *from, cudaStream_t stream)
{
    array a = make_device(count, width, guard, stream);
    uint16_t *half = NULL;
    must(FB_ALLOC(half, count, "test array"));
    for (int64_t i = 0; i < count; i++)
        half[i] = bf16_of(from[i]);
    cuda(cudaMemcpyAsync(a.first, width == 2 ? (const void *)half : from, (size_t)count * width,
                         cudaMemcpyHostToDevice, stream));
    cuda(cudaStreamSynchronize(stream));
    FB_FREE(half);
    return a;
}

/* The values, as floats; frees the array after a look at its guards. */
static float *download(array *a, cudaStream_t stream)
{
    const size_t bytes = (size_t)a->count * a->width + 2 * a->guard;
    unsigned char *all = NULL;
    must(FB_ALLOC(all, (int64_t)bytes, "test array"));
    cuda(cudaMemcpyAsync(all, a->memory, bytes, cudaMemcpyDeviceToHost, stream));
    cuda(cudaStreamSynchronize(stream));
    cuda(cudaFree(a->memory));
    for (size_t i = 0; i < a->guard; i++)
        if (all[i] != 0xff || all[bytes - 1 - i] != 0xff)
            fail_msg("something was written outside of an array of %lld", (long long)a->count);
    float *out = make(a->count);
    for (int64_t i = 0; i < a->count; i++)
        if (a->width == 2) {
            uint16_t half;
            memcpy(&half, all + a->guard + 2 * i, 2);
            out[i] = float_of(half);
        } else {
            memcpy(&out[i], all + a->guard + 4 * i, 4);
        }
    FB_FREE(all);
    return out;
}

static void queue_parts(const conv_case *k, array *w, array *packed, array *partial, const array *x, const array *dy,
                        array *y, array *dx, array *dw, cudaStream_t stream)
{
    const fb_conv_shape *s = &k->shape;
    cuda(fb_cuda_conv_pack(s, k->type, (const float *)w->first, packed->first, stream));
    cuda(cudaMemsetAsync(w->first, 0xff, (size_t)k->weights * 4, stream)); /* pack has read it */
    if (k->parts & FORWARD)
        cuda(fb_cuda_conv_fwd(s, k->type, packed->first, x->first, y->first, stream));
    if (k->parts & WEIGHTS)
        cuda(fb_cuda_conv_bwd_weights(s, k->type, partial->first, x->first, dy->first, (float *)dw->first, stream));
    if (k->parts & DATA)
        cuda(fb_cuda_conv_bwd_data(s, k->type, packed->first, dy->first, dx->first, stream));
}

static conv_result run_device(const conv_case *k)
{
    const size_t act = k->type == FB_ACT_BF16 ? 2 : 4, of_y = is_logits(k) ? 4 : act;
    const size_t packed_bytes = fb_cuda_conv_packed_bytes(&k->shape, k->type);
    const size_t partial_bytes = fb_cuda_conv_partial_bytes(&k->shape, k->type);
    cudaStream_t stream = NULL;
    assert_true(packed_bytes > 0 && partial_bytes > 0);
    cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    array x = upload(k->in, act, 0, k->x, stream), dy = upload(k->out, of_y, 0, k->dy, stream);
    array w = upload(k->weights, 4, 4, k->w, stream);
    array packed = make_device((int64_t)packed_bytes, 1, 0, stream);
    array partial = make_device((int64_t)partial_bytes, 1, 0, stream);
    array y = make_device(k->out, of_y, GUARD_BYTES, stream), dx = make_device(k->in, act, GUARD_BYTES, stream);
    array dw = make_device(k->weights, 4, GUARD_BYTES + 4, stream);
    queue_parts(k, &w, &packed, &partial, &x, &dy, &y, &dx, &dw, stream);
    conv_result r = {download(&y, stream), download(&dx, stream), download(&dw, stream)};
    cuda(cudaFree(x.memory));
    cuda(cudaFree(dy.memory));
    cuda(cudaFree(w.memory));
    cuda(cudaFree(packed.memory));
    cuda(cudaFree(partial.memory));
    cuda(cudaStreamDestroy(stream));
    return r;
}

/* --- how far off it may be --------------------------------------------------------------------------------- */

/* Of a sum of n products in float, in any order, relative to the largest result. n/16 additions that chop, as the
 * tensor cores' may, err by no more than n/16 eps of the largest partial sum; 16 eps for what is short. A tap more or
 * less, or two axes exchanged, errs by more than 0.01. */
static double sum_bound(int64_t terms)
{
    return (double)FLT_EPSILON * (16.0 + (double)terms / 16.0);
}

/* Largest error in units of what is allowed: 2^-8 of the value where it is rounded to bfloat16 (8 bits), and the
 * sum's. */
static double excess_of(int64_t count, const float *got, const float *want, bool rounded, int64_t terms)
{
    double largest = 0.0, excess = 0.0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(got[i]))
            return INFINITY;
        const double sum = sum_bound(terms) * largest;
        const double bound = sum + (rounded ? 0x1p-8 * (fabs((double)want[i]) + sum) : 0.0);
        excess = fmax(excess, fabs((double)got[i] - (double)want[i]) / bound);
    }
    return excess;
}

static void judge(const conv_case *k, const char *what, double excess)
{
    const fb_conv_shape *s = &k->shape;
    if (!(excess <= 1.0))
        fail_msg("%s, %s, %lld x %lld x %lld, %lld to %lld channels, kernel %d, stride %d: %.3g times the bound",
                 k->type == FB_ACT_BF16 ? "bf16" : "f32", what, (long long)s->in[0], (long long)s->in[1],
                 (long long)s->in[2], (long long)s->c_in, (long long)s->c_out, s->kernel, s->stride, excess);
}

static void compare(const conv_case *k, const conv_result *got, const conv_result *want)
{
    const fb_conv_shape *s = &k->shape;
    const int64_t taps = s->kernel * s->kernel * s->kernel;
    const bool bf16 = k->type == FB_ACT_BF16;
    if (k->parts & FORWARD)
        judge(k, "forward", excess_of(k->out, got->y, want->y, bf16 && !is_logits(k), taps * s->c_in));
    if (k->parts & DATA)
        judge(k, "backward data", excess_of(k->in, got->dx, want->dx, bf16, taps * s->c_out));
    if (k->parts & WEIGHTS)
        judge(k, "backward weights", excess_of(k->weights, got->dw, want->dw, false, k->out / s->c_out));
}

static void check(const fb_conv_shape *s, fb_act_type type, int parts)
{
    conv_case k = make_case(s, type, parts);
    conv_result want = run_reference(&k), got = run_device(&k);
    compare(&k, &got, &want);
    free_result(&want);
    free_result(&got);
    free_case(&k);
}

static void check_both(const fb_conv_shape *s)
{
    check(s, FB_ACT_F32, ALL);
    check(s, FB_ACT_BF16, ALL);
}

/* --- tests ------------------------------------------------------------------------------------------------- */

/* The tile of the 8-channel kernels is 8 x 8 x 16. */
static void test_few_channels(void **state)
{
    (void)state;
    static const int64_t extents[][3] = {{1, 1, 1}, {2, 1, 3}, {3, 5, 17}, {9, 10, 19}, {5, 17, 33}};
    static const int64_t channels[][2] = {{8, 8}, {4, 8}};
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++)
        for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
            for (int stride = 1; stride <= 2; stride++) {
                const int64_t *n = extents[e];
                check_both(&(fb_conv_shape){{n[0], n[1], n[2]}, channels[c][0], channels[c][1], 3, stride});
            }
}

/* Every block of channels, whole and cut. */
static void test_channels(void **state)
{
    (void)state;
    static const int64_t channels[][2] = {{8, 16},  {16, 8},  {16, 16}, {4, 16},  {24, 8}, {8, 24},
                                          {24, 40}, {32, 16}, {16, 32}, {32, 32}, {4, 64}};
    for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
        for (int stride = 1; stride <= 2; stride++)
            check_both(&(fb_conv_shape){{3, 5, 7}, channels[c][0], channels[c][1], 3, stride});
}

static void test_wide(void **state)
{
    (void)state;
    check_both(&(fb_conv_shape){{2, 3, 4}, 64, 64, 3, 1});
    check_both(&(fb_conv_shape){{3, 2, 4}, 64, 64, 3, 2});
    check_both(&(fb_conv_shape){{2, 3, 4}, 64, 32, 3, 1});
}

static void test_points(void **state)
{
    (void)state;
    static const int64_t extents[][3] = {{1, 1, 1}, {3, 5, 19}};
    static const int64_t channels[][2] = {{8, 8},   {4, 8},   {16, 8},  {8, 16},  {32, 16}, {24, 40},
                                          {64, 32}, {32, 64}, {64, 64}, {16, 32}, {4, 64}};
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++)
        for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
            for (int stride = 1; stride <= 2; stride++) {
                const int64_t *n = extents[e];
                check_both(&(fb_conv_shape){{n[0], n[1], n[2]}, channels[c][0], channels[c][1], 1, stride});
            }
}

static void test_logits(void **state)
{
    (void)state;
    static const int64_t extents[][3] = {{1, 1, 1}, {3, 5, 19}, {4, 8, 8}, {10, 11, 12}};
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++)
        for (int64_t c = 8; c <= 64; c *= 2) {
            const int64_t *n = extents[e];
            check_both(&(fb_conv_shape){{n[0], n[1], n[2]}, c, 3, 1, 1});
        }
    check_both(&(fb_conv_shape){{3, 5, 19}, 24, 3, 1, 1});
}

/* Enough voxels that wide blocks of output channels are worth while: 16 channels, 32. */
static void test_wide_blocks(void **state)
{
    (void)state;
    check(&(fb_conv_shape){{1, 1021, 2}, 8, 32, 3, 1}, FB_ACT_BF16, FORWARD);
    check(&(fb_conv_shape){{1, 1021, 2}, 4, 64, 3, 1}, FB_ACT_BF16, FORWARD);
    check(&(fb_conv_shape){{1, 1021, 2}, 16, 32, 3, 1}, FB_ACT_BF16, FORWARD);
    check(&(fb_conv_shape){{1, 1021, 2}, 56, 16, 3, 1}, FB_ACT_BF16, DATA);
    check(&(fb_conv_shape){{1, 2041, 2}, 4, 32, 3, 2}, FB_ACT_BF16, FORWARD);
    check(&(fb_conv_shape){{1, 2041, 2}, 8, 64, 3, 2}, FB_ACT_BF16, FORWARD);
    check(&(fb_conv_shape){{1, 1021, 3}, 24, 16, 3, 2}, FB_ACT_BF16, DATA);
    check(&(fb_conv_shape){{1, 1021, 3}, 24, 8, 1, 2}, FB_ACT_BF16, DATA);
    check(&(fb_conv_shape){{1030, 3, 1}, 40, 32, 1, 1}, FB_ACT_BF16, FORWARD | DATA);
    check(&(fb_conv_shape){{1030, 3, 1}, 16, 32, 1, 1}, FB_ACT_BF16, FORWARD | DATA);
    check(&(fb_conv_shape){{1030, 3, 1}, 16, 16, 1, 1}, FB_ACT_BF16, FORWARD | DATA);
    check(&(fb_conv_shape){{2050, 3, 1}, 40, 16, 1, 2}, FB_ACT_BF16, FORWARD);
    check(&(fb_conv_shape){{2050, 3, 1}, 16, 32, 1, 2}, FB_ACT_BF16, FORWARD);
}

/* More tiles than shares, so that a block goes over several, and partial gradients of many blocks. */
static void test_many_shares(void **state)
{
    (void)state;
    check(&(fb_conv_shape){{1, 4300, 1}, 8, 8, 3, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{1, 2400, 2}, 8, 16, 3, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{1, 4300, 2}, 16, 8, 3, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{1, 1800, 2}, 16, 16, 3, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{1, 4300, 2}, 4, 8, 3, 2}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{1, 2400, 2}, 8, 16, 3, 2}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{70, 1000, 1}, 8, 8, 1, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{70, 1000, 1}, 32, 16, 1, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{70, 1000, 1}, 16, 3, 1, 1}, FB_ACT_BF16, WEIGHTS);
    check(&(fb_conv_shape){{33, 16, 17}, 8, 8, 3, 1}, FB_ACT_F32, WEIGHTS);
}

/* float's kernels take any number of channels. */
static void test_any_channels(void **state)
{
    (void)state;
    static const int64_t channels[][2] = {{3, 5}, {1, 1}, {8, 3}, {13, 10}};
    for (size_t c = 0; c < sizeof channels / sizeof *channels; c++)
        for (int kernel = 1; kernel <= 3; kernel += 2)
            for (int stride = 1; stride <= 2; stride++)
                check(&(fb_conv_shape){{4, 3, 6}, channels[c][0], channels[c][1], kernel, stride}, FB_ACT_F32,
                      ALL);
}

static void test_repeats_bits(void **state)
{
    (void)state;
    static const fb_conv_shape shapes[] = {{{9, 9, 17}, 8, 8, 3, 1}, {{5, 9, 17}, 16, 16, 3, 2},
                                           {{5, 9, 17}, 16, 8, 1, 1}, {{5, 9, 17}, 16, 3, 1, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int type = FB_ACT_F32; type <= FB_ACT_BF16; type++) {
            conv_case k = make_case(&shapes[i], (fb_act_type)type, ALL);
            conv_result a = run_device(&k), b = run_device(&k);
            assert_same_bits(k.out, a.y, b.y);
            assert_same_bits(k.in, a.dx, b.dx);
            assert_same_bits(k.weights, a.dw, b.dw);
            free_result(&a);
            free_result(&b);
            free_case(&k);
        }
}

/* The comparison must see one weight that is a single tap further along W, of one pair of channels. */
static void test_notices_one_moved_tap(void **state)
{
    (void)state;
    for (int type = FB_ACT_F32; type <= FB_ACT_BF16; type++) {
        conv_case k = make_case(&(fb_conv_shape){{4, 4, 18}, 8, 8, 3, 1}, (fb_act_type)type, ALL);
        conv_result want = run_reference(&k);
        const int64_t tap = (5 * 8 + 6) * 27 + 12;
        const float before = k.w[tap];
        k.w[tap] = k.w[tap + 1];
        k.w[tap + 1] = before;
        conv_result got = run_device(&k);
        const bool rounded = type == FB_ACT_BF16;
        assert_true(excess_of(k.out, got.y, want.y, rounded, 27 * 8) > 10.0);
        assert_true(excess_of(k.in, got.dx, want.dx, rounded, 27 * 8) > 10.0);
        free_result(&want);
        free_result(&got);
        free_case(&k);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    static const fb_conv_shape shapes[] = {
        {{4, 4, 4}, 8, 8, 5, 1},  {{4, 4, 4}, 8, 8, 3, 3},  {{4, 0, 4}, 8, 8, 3, 1},
        {{4, 4, 4}, 12, 8, 3, 1}, {{4, 4, 4}, 8, 12, 3, 1}, {{4, 4, 4}, 8, 3, 3, 1},
        {{4, 4, 4}, 8, 3, 1, 2},  {{4, 4, 4}, 4, 3, 1, 1},  {{2048, 1024, 1024}, 8, 8, 3, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        assert_int_equal(fb_cuda_conv_packed_bytes(&shapes[i], FB_ACT_BF16), 0);
        assert_int_equal(fb_cuda_conv_partial_bytes(&shapes[i], FB_ACT_BF16), 0);
        assert_int_equal(fb_cuda_conv_fwd(&shapes[i], FB_ACT_BF16, NULL, NULL, NULL, NULL), cudaErrorInvalidValue);
    }
}

static void test_memory_is_bounded(void **state)
{
    (void)state;
    static const fb_conv_shape shapes[] = {
        {{240, 240, 160}, 4, 16, 3, 1}, {{240, 240, 160}, 16, 16, 3, 1}, {{30, 30, 20}, 128, 128, 3, 1},
        {{30, 30, 20}, 256, 256, 3, 1}, {{240, 240, 160}, 16, 3, 1, 1},  {{60, 60, 40}, 64, 128, 3, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int type = FB_ACT_F32; type <= FB_ACT_BF16; type++) {
            const fb_conv_shape *s = &shapes[i];
            const size_t weights = (size_t)(s->c_in * s->c_out * s->kernel * s->kernel * s->kernel) * sizeof(float);
            const size_t packed = fb_cuda_conv_packed_bytes(s, (fb_act_type)type);
            const size_t partial = fb_cuda_conv_partial_bytes(s, (fb_act_type)type);
            assert_true(packed > 0 && packed <= 6 * weights + 4096);
            assert_true(partial > 0 && partial <= ((size_t)64 << 20) + weights);
        }
}

/* Of the emulated device only: rows that a matrix load reads at once lie in different banks. */
__attribute__((weak)) int64_t fb_emulator_conflicts(void);

static void test_no_bank_conflicts(void **state)
{
    (void)state;
    if (!fb_emulator_conflicts)
        skip();
    else
        assert_int_equal(fb_emulator_conflicts(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_channels),
        cmocka_unit_test(test_channels),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_points),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_wide_blocks),
        cmocka_unit_test(test_many_shares),
        cmocka_unit_test(test_any_channels),
        cmocka_unit_test(test_repeats_bits),
        cmocka_unit_test(test_notices_one_moved_tap),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_no_bank_conflicts),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
