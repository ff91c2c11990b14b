/* SPDX-License-Identifier: Apache-2.0
 *
 * Measures one convolution by everything that can compute it, and checks what it computes. op_cuda.h says how.
 */
#include "core/log.h"
#include "core/mem.h"
#include "nn/kernels_conv_cuda.h"
#include "nn/kernels_pack_cuda.h"
#include "nn/op_cuda_impl.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MEMORY_MAX = 16, REPEATS_MAX = 64, NAME_CHARS = 192 };

static const double ROUNDING_BF16 = 0x1p-8; /* of a number to the nearest bfloat16, and as much again */
static const double SUM_BOUND_MAX = 0x1p-7; /* a wrong tap or a lost block of voxels shows more than this */

/* Data of one convolution on the device. */
typedef struct bench {
    const fb_ops *ops;
    const fb_conv_tuning *how;
    fb_conv_shape shape;
    fb_act_type act;
    int64_t in, out, weight_count;
    void *memory[MEMORY_MAX]; /* (memory_count) owned: all of the following */
    int memory_count;
    void *x, *y;                                                 /* inputs, of the activations' type */
    fb_cuda_room room;                                           /* for both engines */
    float *exact_x, *exact_y, *w, *exact_packed, *exact_partial; /* the same in float32 */
    float *reference;                                            /* what our float32 kernels make of them */
    void *result, *first;                                        /* what an engine makes of them; its first result */
    fb_cuda_difference *differences;                             /* (FB_CUDA_COMPARE_BLOCKS) */
    cudaEvent_t start, stop;                                     /* owned */
} bench;

/* --- the bench ------------------------------------------------------------------------------------------------- */

static fb_status take(bench *b, int64_t bytes, void **out)
{
    FB_ASSERT(b->memory_count < MEMORY_MAX);
    FB_TRY(b->ops->alloc(b->ops, bytes, "choice of convolutions", out));
    b->memory[b->memory_count++] = *out;
    return FB_OK;
}

static int64_t largest_of(const bench *b)
{
    const int64_t most = b->in > b->out ? b->in : b->out;
    return most > b->weight_count ? most : b->weight_count;
}

static fb_status take_all(bench *b)
{
    const int64_t act_bytes = b->ops->act_bytes, full = (int64_t)sizeof(float);
    const int64_t weights_bytes = fb_cuda_image_bytes(&b->shape);
    const int64_t sums_bytes = (int64_t)fb_cuda_conv_partial_bytes(&b->shape, b->act);
    /* a weight gradient is float32 always */
    const int64_t acts = (b->in > b->out ? b->in : b->out) * act_bytes;
    const int64_t result_bytes = acts > weights_bytes ? acts : weights_bytes;
    FB_TRY(take(b, b->in * act_bytes, &b->x));
    FB_TRY(take(b, b->out * act_bytes, &b->y));
    FB_TRY(take(b, weights_bytes, &b->room.image));
    FB_TRY(take(b, (int64_t)fb_cuda_conv_packed_bytes(&b->shape, b->act), &b->room.packed));
    FB_TRY(take(b, sums_bytes > weights_bytes ? sums_bytes : weights_bytes, &b->room.sums));
    FB_TRY(take(b, b->how->workspace_bytes, &b->room.workspace));
    FB_TRY(take(b, b->in * full, (void **)&b->exact_x));
    FB_TRY(take(b, b->out * full, (void **)&b->exact_y));
    FB_TRY(take(b, weights_bytes, (void **)&b->w));
    FB_TRY(take(b, (int64_t)fb_cuda_conv_packed_bytes(&b->shape, FB_ACT_F32), (void **)&b->exact_packed));
    FB_TRY(take(b, (int64_t)fb_cuda_conv_partial_bytes(&b->shape, FB_ACT_F32), (void **)&b->exact_partial));
    FB_TRY(take(b, largest_of(b) * full, (void **)&b->reference));
    FB_TRY(take(b, result_bytes, &b->result));
    FB_TRY(take(b, result_bytes, &b->first));
    FB_TRY(take(b, FB_CUDA_COMPARE_BLOCKS * (int64_t)sizeof *b->differences, (void **)&b->differences));
    CUDA_TRY(cudaEventCreateWithFlags(&b->start, 0));
    CUDA_TRY(cudaEventCreateWithFlags(&b->stop, 0));
    return FB_OK;
}

static void fill(bench *b)
{
    fb_cuda_backend *backend = fb_cuda_state(b->ops);
    fb_cuda_queue *q = &backend->queue;
    fb_cuda_random(q, b->act, b->in, 1, b->x);
    fb_cuda_random(q, FB_ACT_F32, b->in, 1, b->exact_x);
    fb_cuda_random(q, b->act, b->out, 2, b->y);
    fb_cuda_random(q, FB_ACT_F32, b->out, 2, b->exact_y);
    fb_cuda_random(q, FB_ACT_F32, b->weight_count, 3, b->w);
    fb_cuda_pack_weights(q, &b->shape, b->act, b->w, b->room.image);
    if (q->error == cudaSuccess)
        fb_cuda_note(b->ops, "packing of weights",
                     fb_cuda_conv_pack(&b->shape, b->act, b->w, b->room.packed, q->stream));
    if (q->error == cudaSuccess)
        fb_cuda_note(b->ops, "packing of weights",
                     fb_cuda_conv_pack(&b->shape, FB_ACT_F32, b->w, b->exact_packed, q->stream));
}

static fb_status open_bench(bench *b)
{
    FB_TRY(take_all(b));
    fill(b);
    return FB_OK;
}

static void close_bench(bench *b)
{
    if (b->start)
        fb_cuda_note(b->ops, "cudaEventDestroy", cudaEventDestroy(b->start));
    if (b->stop)
        fb_cuda_note(b->ops, "cudaEventDestroy", cudaEventDestroy(b->stop));
    while (b->memory_count > 0)
        b->ops->release(b->ops, &b->memory[--b->memory_count]);
}

/* --- one pass -------------------------------------------------------------------------------------------------- */

static fb_status run(bench *b, fb_cudnn_direction direction, const fb_cuda_pass *pass)
{
    void *x = direction == FB_CUDNN_BACKWARD_DATA ? b->result : b->x;
    void *y = direction == FB_CUDNN_FORWARD ? b->result : b->y;
    float *dw = direction == FB_CUDNN_BACKWARD_WEIGHTS ? b->result : NULL;
    return fb_cuda_run_pass(b->ops, &b->shape, direction, pass, &b->room, x, y, dw);
}

static void run_reference(bench *b, fb_cudnn_direction direction)
{
    const fb_cuda_queue *q = &fb_cuda_state(b->ops)->queue;
    cudaError_t error = q->error;
    if (error != cudaSuccess)
        return;
    if (direction == FB_CUDNN_FORWARD)
        error = fb_cuda_conv_fwd(&b->shape, FB_ACT_F32, b->exact_packed, b->exact_x, b->reference, q->stream);
    else if (direction == FB_CUDNN_BACKWARD_DATA)
        error = fb_cuda_conv_bwd_data(&b->shape, FB_ACT_F32, b->exact_packed, b->exact_y, b->reference, q->stream);
    else
        error = fb_cuda_conv_bwd_weights(&b->shape, FB_ACT_F32, b->exact_partial, b->exact_x, b->exact_y, b->reference,
                                         q->stream);
    fb_cuda_note(b->ops, "convolution in float32", error);
}

static int compare_ms(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median time of a pass that ran before. */
static fb_status measure(bench *b, fb_cudnn_direction direction, const fb_cuda_pass *pass, double *median_ms)
{
    const cudaStream_t stream = fb_cuda_state(b->ops)->queue.stream;
    const int repeats = b->how->repeats < REPEATS_MAX ? b->how->repeats : REPEATS_MAX;
    float ms[REPEATS_MAX];
    for (int i = 0; i < repeats; i++) {
        CUDA_TRY(cudaEventRecord(b->start, stream));
        FB_TRY(run(b, direction, pass));
        CUDA_TRY(cudaEventRecord(b->stop, stream));
        CUDA_TRY(cudaEventSynchronize(b->stop));
        CUDA_TRY(cudaEventElapsedTime(&ms[i], b->start, b->stop));
    }
    qsort(ms, (size_t)repeats, sizeof *ms, compare_ms);
    *median_ms = (double)ms[repeats / 2];
    return FB_OK;
}

/* --- is it right? ---------------------------------------------------------------------------------------------- */

static int64_t elements_of(const bench *b, fb_cudnn_direction direction)
{
    return direction == FB_CUDNN_FORWARD ? b->out : direction == FB_CUDNN_BACKWARD_DATA ? b->in : b->weight_count;
}

/* Numbers that an element is the sum of. */
static int64_t terms_of(const bench *b, fb_cudnn_direction direction)
{
    const int64_t taps = (int64_t)b->shape.kernel * b->shape.kernel * b->shape.kernel;
    if (direction == FB_CUDNN_BACKWARD_WEIGHTS)
        return b->out / b->shape.c_out;
    return taps * (direction == FB_CUDNN_FORWARD ? b->shape.c_in : b->shape.c_out);
}

static fb_act_type type_of(const bench *b, fb_cudnn_direction direction)
{
    return direction == FB_CUDNN_BACKWARD_WEIGHTS ? FB_ACT_F32 : b->act;
}

/* *excess: by how much the result exceeds `slack` of each element of `want`; *largest: of those. */
static fb_status compare(bench *b, fb_cudnn_direction direction, fb_act_type want_type, const void *want, double slack,
                         double *excess, double *largest)
{
    fb_cuda_difference all[FB_CUDA_COMPARE_BLOCKS];
    const int blocks = fb_cuda_compare(&fb_cuda_state(b->ops)->queue, elements_of(b, direction), type_of(b, direction),
                                       b->result, want_type, want, (float)slack, b->differences);
    FB_TRY(b->ops->download(b->ops, all, b->differences, blocks * (int64_t)sizeof *all));
    *excess = *largest = 0.0;
    for (int i = 0; i < blocks; i++) {
        *excess = fmax(*excess, (double)all[i].excess);
        *largest = fmax(*largest, (double)all[i].largest);
    }
    return FB_OK;
}

/* Whether the result is right, else why not. */
static fb_status check(bench *b, fb_cudnn_direction direction, const fb_cuda_pass *pass, size_t chars, char *fault)
{
    const int rounded =
        direction == FB_CUDNN_BACKWARD_WEIGHTS ? pass->plan && pass->precision == FB_CUDNN_BF16 : b->act == FB_ACT_BF16;
    const double terms = (double)terms_of(b, direction);
    const double allowed = fmin(SUM_BOUND_MAX, (double)FLT_EPSILON * (16.0 + terms / 16.0));
    double excess = 0.0, largest = 0.0;
    FB_TRY(compare(b, direction, FB_ACT_F32, b->reference, rounded ? ROUNDING_BF16 : 0.0, &excess, &largest));
    if (!(excess <= allowed * largest))
        snprintf(fault, chars,
                 "computes another result than our own kernels in float32: off by %.3g of the largest "
                 "element, %.3g allowed",
                 excess / largest, allowed);
    return FB_OK;
}

static fb_status check_repeats(bench *b, fb_cudnn_direction direction, size_t chars, char *fault)
{
    double excess = 0.0, largest = 0.0;
    FB_TRY(compare(b, direction, type_of(b, direction), b->first, 0.0, &excess, &largest));
    if (excess > 0.0)
        snprintf(fault, chars, "does not repeat its bits: off by %.3g of the largest element", excess / largest);
    return FB_OK;
}

/* Runs, checks and measures a pass. `fault` says why it may not be used, "" if it may. */
static fb_status judge(bench *b, fb_cudnn_direction direction, const fb_cuda_pass *pass, double *ms, size_t chars,
                       char *fault)
{
    const cudaStream_t stream = fb_cuda_state(b->ops)->queue.stream;
    const int64_t bytes = elements_of(b, direction) * (direction == FB_CUDNN_BACKWARD_WEIGHTS ? 4 : b->ops->act_bytes);
    fault[0] = '\0';
    CUDA_TRY(cudaMemsetAsync(b->result, 0xff, (size_t)bytes, stream)); /* NaN where nothing is written */
    fb_status ran = run(b, direction, pass);
    if (ran != FB_OK) { /* a plan that cuDNN does not launch; what goes wrong on the device later ends the run */
        snprintf(fault, chars, "does not run: %s", fb_error_message(ran));
        fb_error_free(&ran);
        return FB_OK;
    }
    FB_TRY(check(b, direction, pass, chars, fault));
    if (fault[0])
        return FB_OK;
    b->ops->copy(b->ops, b->first, b->result, bytes);
    FB_TRY(measure(b, direction, pass, ms));
    return check_repeats(b, direction, chars, fault);
}

/* --- candidates ------------------------------------------------------------------------------------------------ */

static void show_dropped(const bench *b, fb_cudnn_direction direction, const fb_cuda_pass *pass, const char *fault)
{
    char name[NAME_CHARS], plan[FB_CUDNN_CHOICE_CHARS];
    fb_conv_choice_name(&b->shape, direction, sizeof name, name);
    fb_cudnn_choice_print(fb_cudnn_conv_choice(pass->plan, pass->candidate), sizeof plan, plan);
    fb_log_warn("convolution %s: \"%s\" is not used: it %s", name, plan, fault);
}

/* Tries the candidates of a listing; c and *best hold the fastest so far, with *best -1 if it is another's. */
static fb_status race(bench *b, fb_cudnn_conv *plans, fb_cudnn_precision precision, fb_conv_choice *c, int64_t *best)
{
    char fault[2048];
    for (int64_t i = 0; i < fb_cudnn_conv_count(plans); i++) {
        const fb_cuda_pass pass = {plans, i, precision};
        const fb_cudnn_choice *plan = fb_cudnn_conv_choice(plans, i);
        double ms = 0.0;
        if (plan->workspace_bytes > b->how->workspace_bytes)
            continue;
        FB_TRY(judge(b, c->direction, &pass, &ms, sizeof fault, fault));
        if (fault[0]) {
            show_dropped(b, c->direction, &pass, fault);
            continue;
        }
        if (c->cudnn ? ms >= c->ms : ms >= c->ms && !b->how->prefer_cudnn)
            continue;
        c->cudnn = 1;
        c->precision = precision;
        c->plan = *plan;
        c->ms = ms;
        *best = i;
    }
    return FB_OK;
}

/* cuDNN's plans of one precision; *chosen becomes the listing with nothing left but the best, if there is one. */
static fb_status try_precision(bench *b, fb_cudnn_precision precision, fb_conv_choice *c, fb_cudnn_conv **chosen)
{
    char name[NAME_CHARS];
    fb_cudnn_conv *plans = NULL;
    int64_t best = -1;
    fb_status listed =
        fb_cudnn_conv_create(fb_cuda_state(b->ops)->engines.cudnn, &b->shape, c->direction, precision, NULL, &plans);
    if (listed != FB_OK) {
        fb_conv_choice_name(&b->shape, c->direction, sizeof name, name);
        fb_log_verbose("convolution %s: %s", name, fb_error_message(listed));
        fb_error_free(&listed);
        return FB_OK;
    }
    const fb_status status = race(b, plans, precision, c, &best);
    if (status == FB_OK && best >= 0) {
        fb_cudnn_conv_keep(plans, best);
        *chosen = plans;
    } else {
        fb_cudnn_conv_destroy(&plans);
    }
    return status;
}

static fb_status try_cudnn(bench *b, fb_conv_choice *c, fb_cudnn_conv **chosen)
{
    const int bf16 = b->act == FB_ACT_BF16, gradient = c->direction == FB_CUDNN_BACKWARD_WEIGHTS;
    if (!bf16)
        return try_precision(b, FB_CUDNN_F32, c, chosen);
    if (gradient)
        FB_TRY(try_precision(b, FB_CUDNN_BF16_GRADIENT_F32, c, chosen));
    if (gradient && (c->cudnn || !b->how->bf16_gradient))
        return FB_OK;
    return try_precision(b, FB_CUDNN_BF16, c, chosen);
}

static fb_status tune_direction(bench *b, fb_cudnn_direction direction)
{
    const fb_cuda_pass own = {.plan = NULL};
    char name[NAME_CHARS], fault[256];
    fb_conv_choice c = {.shape = b->shape, .direction = direction};
    fb_cudnn_conv *chosen = NULL;
    fb_conv_choice_name(&b->shape, direction, sizeof name, name);
    run_reference(b, direction);
    FB_TRY(judge(b, direction, &own, &c.own_ms, sizeof fault, fault));
    if (fault[0])
        return FB_FAIL("our own kernel for %s %s; model.precision = f32 does without it", name, fault);
    c.ms = c.own_ms;
    const fb_status status = try_cudnn(b, &c, &chosen);
    if (status != FB_OK) {
        fb_cudnn_conv_destroy(&chosen);
        return status;
    }
    fb_log_verbose("convolution %s: %s, %.4f ms; own kernels %.4f ms", name, c.cudnn ? "cuDNN" : "own", c.ms, c.own_ms);
    return fb_cuda_add_choice(b->ops, &c, &chosen);
}

/* A convolution with own kernels only: nothing to measure. */
static fb_status add_own(const fb_ops *ops, const fb_conv_shape *shape)
{
    for (fb_cudnn_direction d = FB_CUDNN_FORWARD; d <= FB_CUDNN_BACKWARD_WEIGHTS; d++) {
        const fb_conv_choice c = {.shape = *shape, .direction = d};
        fb_cudnn_conv *none = NULL;
        FB_TRY(fb_cuda_add_choice(ops, &c, &none));
    }
    return FB_OK;
}

fb_status fb_cuda_tune(const fb_ops *ops, const fb_conv_shape *shape)
{
    const fb_cuda_backend *backend = fb_cuda_state(ops);
    if (fb_conv_choices_find(&backend->engines.choices, shape, FB_CUDNN_FORWARD) >= 0)
        return FB_OK;
    if (!fb_conv_allows_cudnn(shape))
        return add_own(ops, shape);
    bench b = {.ops = ops, .how = backend->engines.tuning, .shape = *shape, .act = backend->queue.act};
    fb_cuda_conv_elements(shape, &b.in, &b.out);
    b.weight_count = fb_cuda_image_bytes(shape) / (int64_t)sizeof(float);
    fb_status status = open_bench(&b);
    for (fb_cudnn_direction d = FB_CUDNN_FORWARD; d <= FB_CUDNN_BACKWARD_WEIGHTS && status == FB_OK; d++)
        status = tune_direction(&b, d);
    close_bench(&b);
    return fb_error_context(status, "measuring convolutions (run.conv = own does without)");
}
