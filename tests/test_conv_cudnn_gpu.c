/* SPDX-License-Identifier: Apache-2.0
 *
 * Every plan that cuDNN offers on the GPU at hand, against the reference, twice (same bits), and out of a CUDA graph.
 * Skipped where there is no GPU.
 */
#include "conv_problem.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#define CUDA_MUST(call)                                                                                                \
    do {                                                                                                               \
        const cudaError_t cuda_must_ = (call);                                                                         \
        if (cuda_must_ != cudaSuccess)                                                                                 \
            fail_msg("%s: %s", #call, cudaGetErrorString(cuda_must_));                                                 \
    } while (0)

enum { REPEATS = 5 };

typedef struct gpu {
    cudaStream_t stream;
    fb_cudnn *cudnn;
} gpu;

/* A problem's buffers on the device, and workspace for all candidates. */
typedef struct buffers {
    void *data[3], *space;
    size_t space_bytes;
} buffers;

static const fb_conv_shape shapes[] = {
    {{16, 16, 16}, 16, 16, 3, 1}, {{20, 12, 28}, 8, 8, 3, 1}, {{32, 32, 32}, 8, 16, 3, 2},
    {{32, 32, 32}, 16, 8, 1, 1},  {{32, 32, 32}, 8, 3, 1, 1}, {{8, 8, 8}, 64, 64, 3, 1},
};

static gpu open_gpu(void)
{
    gpu g = {0};
    CUDA_MUST(cudaStreamCreate(&g.stream));
    must(fb_cudnn_create(g.stream, &g.cudnn));
    return g;
}

static void close_gpu(gpu *g)
{
    fb_cudnn_destroy(&g->cudnn);
    CUDA_MUST(cudaStreamDestroy(g->stream));
}

static size_t image_bytes(const problem *p, int tensor)
{
    return (size_t)p->counts[tensor] * sizeof(float);
}

static void upload(const problem *p, const buffers *b)
{
    for (int t = 0; t < 3; t++)
        CUDA_MUST(cudaMemcpy(b->data[t], p->image[t], image_bytes(p, t), cudaMemcpyHostToDevice));
}

static buffers make_buffers(const problem *p, const fb_cudnn_conv *conv)
{
    buffers b = {.space_bytes = 16};
    for (int64_t i = 0; i < fb_cudnn_conv_count(conv); i++)
        if ((size_t)fb_cudnn_conv_choice(conv, i)->workspace_bytes > b.space_bytes)
            b.space_bytes = (size_t)fb_cudnn_conv_choice(conv, i)->workspace_bytes;
    for (int t = 0; t < 3; t++)
        CUDA_MUST(cudaMalloc(&b.data[t], image_bytes(p, t)));
    CUDA_MUST(cudaMalloc(&b.space, b.space_bytes));
    return b;
}

static void free_buffers(buffers *b)
{
    for (int t = 0; t < 3; t++)
        CUDA_MUST(cudaFree(b->data[t]));
    CUDA_MUST(cudaFree(b->space));
}

/* Runs candidate i on fresh buffers and brings the result into its image. */
static void run_once(const gpu *g, fb_cudnn_conv *conv, int64_t i, const problem *p, fb_cudnn_direction direction,
                     const buffers *b)
{
    const int written = written_by(direction);
    fill_images(p, direction);
    upload(p, b);
    must(fb_cudnn_conv_run(conv, i, b->data[0], b->data[1], b->data[2], b->space));
    CUDA_MUST(cudaStreamSynchronize(g->stream));
    CUDA_MUST(cudaMemcpy(p->image[written], b->data[written], image_bytes(p, written), cudaMemcpyDeviceToHost));
}

/* Of the largest element: a rounding to bfloat16, or TF32 factors, or float32 sums in any order. */
static double bound_of(const problem *p, fb_cudnn_direction direction)
{
    if (is_bf16(p, written_by(direction), direction))
        return 1.0 / 128.0;
    return p->precision == FB_CUDNN_TF32 ? 1.0 / 512.0 : 1e-4;
}

static void check_candidate(const gpu *g, fb_cudnn_conv *conv, int64_t i, const problem *p,
                            fb_cudnn_direction direction, const buffers *b, const float *want)
{
    char text[FB_CUDNN_CHOICE_CHARS];
    const int64_t count = p->counts[written_by(direction)];
    fb_cudnn_choice_print(fb_cudnn_conv_choice(conv, i), sizeof text, text);
    run_once(g, conv, i, p, direction, b);
    float *got = read_image(p, written_by(direction), direction);
    run_once(g, conv, i, p, direction, b);
    float *again = read_image(p, written_by(direction), direction);
    assert_close(text, count, got, want, bound_of(p, direction));
    assert_same_bits(count, got, again);
    FB_FREE(got);
    FB_FREE(again);
}

static void check_direction(const gpu *g, const problem *p, fb_cudnn_direction direction)
{
    fb_cudnn_conv *conv = NULL;
    fb_status status = fb_cudnn_conv_create(g->cudnn, &p->shape, direction, p->precision, NULL, &conv);
    if (status != FB_OK && p->precision == FB_CUDNN_BF16_GRADIENT_F32) {
        print_message("# %s\n", fb_error_message(status)); /* there need not be one */
        must_fail(status, "take the weight gradient in bf16");
        return;
    }
    must(status);
    buffers b = make_buffers(p, conv);
    float *want = expected(p, direction);
    for (int64_t i = 0; i < fb_cudnn_conv_count(conv); i++)
        check_candidate(g, conv, i, p, direction, &b, want);
    FB_FREE(want);
    free_buffers(&b);
    fb_cudnn_conv_destroy(&conv);
}

static void check_precision(fb_cudnn_precision precision)
{
    gpu g = open_gpu();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        problem p = make_problem(&shapes[s], precision);
        for (fb_cudnn_direction dir = FB_CUDNN_FORWARD; dir <= FB_CUDNN_BACKWARD_WEIGHTS; dir++)
            check_direction(&g, &p, dir);
        free_problem(&p);
    }
    close_gpu(&g);
}

static void test_bf16(void **state)
{
    (void)state;
    check_precision(FB_CUDNN_BF16);
}

static void test_bf16_with_float32_gradient(void **state)
{
    (void)state;
    check_precision(FB_CUDNN_BF16_GRADIENT_F32);
}

static void test_tf32(void **state)
{
    (void)state;
    check_precision(FB_CUDNN_TF32);
}

static void test_f32(void **state)
{
    (void)state;
    check_precision(FB_CUDNN_F32);
}

static void replay(const gpu *g, fb_cudnn_conv *conv, const buffers *b)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    CUDA_MUST(cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal));
    must(fb_cudnn_conv_run(conv, 0, b->data[0], b->data[1], b->data[2], b->space));
    CUDA_MUST(cudaStreamEndCapture(g->stream, &graph));
    CUDA_MUST(cudaGraphInstantiate(&exec, graph, 0));
    CUDA_MUST(cudaGraphLaunch(exec, g->stream));
    CUDA_MUST(cudaStreamSynchronize(g->stream));
    CUDA_MUST(cudaGraphExecDestroy(exec));
    CUDA_MUST(cudaGraphDestroy(graph));
}

/* Tuned, built anew from its text and captured into a CUDA graph, a plan gives the same bits. */
static void test_tuned_plan_in_a_graph(void **state)
{
    (void)state;
    gpu g = open_gpu();
    problem p = make_problem(&shapes[0], FB_CUDNN_BF16);
    fb_cudnn_conv *conv = NULL, *again = NULL;
    fb_cudnn_tuning t;
    fb_cudnn_choice choice;
    char text[FB_CUDNN_CHOICE_CHARS];
    must(fb_cudnn_conv_create(g.cudnn, &p.shape, FB_CUDNN_FORWARD, p.precision, NULL, &conv));
    buffers b = make_buffers(&p, conv);
    fill_images(&p, FB_CUDNN_FORWARD);
    upload(&p, &b);
    must(fb_cudnn_conv_tune(conv, b.data[0], b.data[1], b.data[2], b.space, b.space_bytes, REPEATS, &t));
    assert_int_equal(t.failed, 0);
    assert_true(t.best_ms > 0.0 && t.best_ms <= t.first_ms);
    fb_cudnn_conv_describe(conv, sizeof text, text);
    must(fb_cudnn_choice_parse(text, &choice));
    must(fb_cudnn_conv_create(g.cudnn, &p.shape, FB_CUDNN_FORWARD, p.precision, &choice, &again));
    run_once(&g, conv, 0, &p, FB_CUDNN_FORWARD, &b);
    float *eager = read_image(&p, 2, FB_CUDNN_FORWARD);
    fill_images(&p, FB_CUDNN_FORWARD);
    upload(&p, &b);
    replay(&g, again, &b);
    CUDA_MUST(cudaMemcpy(p.image[2], b.data[2], image_bytes(&p, 2), cudaMemcpyDeviceToHost));
    float *replayed = read_image(&p, 2, FB_CUDNN_FORWARD);
    assert_same_bits(p.counts[2], eager, replayed);
    FB_FREE(eager);
    FB_FREE(replayed);
    free_buffers(&b);
    free_problem(&p);
    fb_cudnn_conv_destroy(&again);
    fb_cudnn_conv_destroy(&conv);
    close_gpu(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_bf16_with_float32_gradient),
        cmocka_unit_test(test_tf32),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_tuned_plan_in_a_graph),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    if (found != cudaSuccess || devices < 1) {
        printf("no GPU: %s\n", found == cudaSuccess ? "none listed" : cudaGetErrorString(found));
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
