/* SPDX-License-Identifier: Apache-2.0
 *
 * Each kernel of a training step alone, at every shape that the step has. Each call of a repetition gets other memory,
 * so that nothing is found in the cache; in the step itself some of it would be.
 */
#include "bench.h"

#include "nn/kernels_conv_cuda.h"
#include "segresnet_layers.h"

#include <math.h>

typedef enum op {
    CONV_FWD,
    CONV_BWD_DATA,
    CONV_BWD_WEIGHTS,
    CONV_PACK,
    NORM_FWD,
    NORM_BWD,
    ZERO,
    ADD,
    UPSAMPLE_FWD,
    UPSAMPLE_BWD,
    SCALE_CHANNELS,
    BIAS_ADD,
    BIAS_BWD,
    DICE,
    SAMPLE,
    COUNT_STEP,
    ADAM,
    TAKE_WINDOW,
    ADD_WINDOW,
    OPS
} op;

static const char *const op_name[OPS] = {
    "conv_fwd",  "conv_bwd_data", "conv_bwd_weights", "conv_pack",    "norm_relu_fwd", "norm_relu_bwd",
    "zero",      "add",           "upsample_fwd",     "upsample_bwd", "scale",         "bias_add",
    "bias_bwd",  "dice",          "sample",           "count_step",   "adam",          "take_window",
    "add_window"};

/* Memory that the calls share: each takes a part of it. */
typedef struct arena {
    char *memory; /* of cudaMalloc */
    int64_t bytes;
} arena;

typedef struct kernel_case {
    op what;
    fb_conv_shape shape; /* of a convolution; else in (D, H, W) of the output and c_out channels */
    const char *layer;
    int times; /* in a training step */
    int64_t voxels, channels;
    double bytes, flop; /* of one call */
} kernel_case;

enum { STEP_PART = 100 /* beyond what sums take */ };
enum { KERNELS_MAX = 128, READ_X, READ_Y, WRITE, POSITIVE, BYTES, SMALL, ARENAS };
typedef struct kernels {
    fb_cuda_queue queue;
    arena arenas[ARENAS];
    fb_sample *drawn; /* the device's */
    void *packed, *partial;
    const bench_case *of;
    int64_t parameters, act_bytes;
    int count;
    kernel_case list[KERNELS_MAX];
    const kernel_case *now;
} kernels;

/* --- what there is -------------------------------------------------------------------------------------------- */

static int64_t volume_of(const int64_t shape[3])
{
    return shape[0] * shape[1] * shape[2];
}

static kernel_case *append(kernels *k, op what, const char *layer, int times)
{
    FB_ASSERT(k->count < KERNELS_MAX);
    kernel_case *c = &k->list[k->count++];
    *c = (kernel_case){.what = what, .layer = layer, .times = times};
    return c;
}

static void append_conv(kernels *k, const conv_layer *layer, int is_first)
{
    const fb_conv_shape *s = &layer->shape;
    const double act = (double)k->act_bytes, of_y = s->c_out == FB_REGIONS ? 4.0 : act;
    int64_t out[3];
    for (int axis = 0; axis < 3; axis++)
        out[axis] = (s->in[axis] + s->stride - 1) / s->stride;
    const double weights = (double)(s->c_in * s->c_out * s->kernel * s->kernel * s->kernel);
    const double x = (double)(volume_of(s->in) * s->c_in) * act, y = (double)(volume_of(out) * s->c_out) * of_y;
    for (op what = CONV_FWD; what <= CONV_PACK; what++) {
        if (what == CONV_BWD_DATA && is_first)
            continue;
        kernel_case *c = append(k, what, layer->name, layer->times);
        c->shape = *s;
        c->voxels = volume_of(out);
        c->channels = s->c_out;
        c->bytes = what == CONV_PACK ? weights * (4.0 + act) : x + y + weights * (what == CONV_BWD_WEIGHTS ? 4.0 : act);
        c->flop = what == CONV_PACK ? 0.0 : 2.0 * weights * (double)volume_of(out);
    }
}

/* One that works on activations of a level: `passes` over them, read or written, and `more` bytes. */
static void append_at(kernels *k, op what, int level, int times, double passes, double more)
{
    static const char *const name[LEVELS] = {"level 0", "level 1", "level 2", "level 3"};
    kernel_case *c = append(k, what, name[level], times);
    for (int axis = 0; axis < 3; axis++)
        c->shape.in[axis] = k->of->shape[axis] >> level;
    c->voxels = volume_of(c->shape.in);
    c->channels = c->shape.c_out = k->of->filters << level;
    c->bytes = passes * (double)(c->voxels * c->channels * k->act_bytes) + more;
}

/* Passes: norm forward reads x twice, for the moments and to apply them; backward reads x and dy twice, and dx. */
static void append_level(kernels *k, int level)
{
    const int blocks = blocks_at_level[level], top = level == 0;
    append_at(k, NORM_FWD, level, 2 * blocks + top, 3.0, 0.0);
    append_at(k, NORM_BWD, level, 2 * blocks + top, 6.0, 0.0);
    append_at(k, ZERO, level, blocks + top, 1.0, 0.0);
    append_at(k, ADD, level, blocks + (level < LEVELS - 1), 3.0, 0.0);
    if (level < LEVELS - 1) {
        append_at(k, UPSAMPLE_FWD, level, 1, 2.125, 0.0);
        append_at(k, UPSAMPLE_BWD, level, 1, 1.125, 0.0);
    }
}

/* Bytes a voxel: logits are 3 floats, a target 1 byte; the image of a sample is 4 floats. */
static void append_rest(kernels *k)
{
    const double v = (double)volume_of(k->of->shape), act = (double)k->act_bytes;
    append_at(k, SCALE_CHANNELS, 0, 2, 2.0, 0.0);
    append_at(k, BIAS_ADD, 0, 1, 0.0, 24.0 * v);
    append_at(k, BIAS_BWD, 0, 1, 0.0, 12.0 * v);
    append_at(k, DICE, 0, 1, 0.0, 38.0 * v);
    append_at(k, SAMPLE, 0, 1, 0.0, (34.0 + 4.0 * act) * v);
    append_at(k, COUNT_STEP, 0, 1, 0.0, 16.0);
    append_at(k, ADAM, 0, 1, 0.0, 28.0 * (double)k->parameters);
    append_at(k, TAKE_WINDOW, 0, 0, 0.0, 8.0 * act * v);
    append_at(k, ADD_WINDOW, 0, 0, 0.0, 36.0 * v);
}

static void list_kernels(kernels *k)
{
    conv_layer layers[CONV_LAYERS];
    list_conv_layers(k->of->shape, k->of->filters, layers);
    for (int i = 0; i < CONV_LAYERS; i++)
        append_conv(k, &layers[i], i == 0);
    for (int level = 0; level < LEVELS; level++)
        append_level(k, level);
    append_rest(k);
}

/* --- one call ----------------------------------------------------------------------------------------------- */

/* Part number i of an arena, of those of this size that fit. */
static void *part_of(const kernels *k, int which, int64_t bytes, int64_t i)
{
    const arena *a = &k->arenas[which];
    const int64_t size = (bytes + 255) / 256 * 256, parts = a->bytes / size;
    FB_ASSERT(parts > 0);
    return a->memory + i % parts * size;
}

static void queue_conv(kernels *k, int64_t i)
{
    fb_cuda_queue *q = &k->queue;
    const kernel_case *c = k->now;
    const fb_conv_shape *s = &c->shape;
    const int64_t x_bytes = volume_of(s->in) * s->c_in * k->act_bytes;
    const int64_t y_bytes = c->voxels * s->c_out * (s->c_out == FB_REGIONS ? 4 : k->act_bytes);
    const int64_t w_bytes = s->c_in * s->c_out * s->kernel * s->kernel * s->kernel * 4;
    if (c->what == CONV_PACK)
        q->error = fb_cuda_conv_pack(s, q->act, part_of(k, READ_X, w_bytes, i), k->packed, q->stream);
    else if (c->what == CONV_FWD)
        q->error = fb_cuda_conv_fwd(s, q->act, k->packed, part_of(k, READ_X, x_bytes, i), part_of(k, WRITE, y_bytes, i),
                                    q->stream);
    else if (c->what == CONV_BWD_DATA)
        q->error = fb_cuda_conv_bwd_data(s, q->act, k->packed, part_of(k, READ_Y, y_bytes, i),
                                         part_of(k, WRITE, x_bytes, i), q->stream);
    else
        q->error = fb_cuda_conv_bwd_weights(s, q->act, k->partial, part_of(k, READ_X, x_bytes, i),
                                            part_of(k, READ_Y, y_bytes, i), part_of(k, WRITE, w_bytes, i), q->stream);
}

static void queue_at_level(kernels *k, int64_t i)
{
    fb_cuda_queue *q = &k->queue;
    const kernel_case *c = k->now;
    const int64_t bytes = c->voxels * c->channels * k->act_bytes,
                  in[3] = {c->shape.in[0] / 2, c->shape.in[1] / 2, c->shape.in[2] / 2};
    void *x = part_of(k, READ_X, bytes, i), *y = part_of(k, READ_Y, bytes, i), *out = part_of(k, WRITE, bytes, i);
    const float *gamma = part_of(k, POSITIVE, 4 * c->channels, 0), *beta = part_of(k, POSITIVE, 4 * c->channels, 1);
    float *stats = part_of(k, SMALL, 4 * 2 * FB_NORM_GROUPS, 0), *sums = part_of(k, SMALL, 4 * c->channels, 1);
    if (c->what == NORM_FWD)
        fb_cuda_norm_relu_fwd(q, c->voxels, c->channels, x, gamma, beta, out, stats);
    else if (c->what == NORM_BWD)
        fb_cuda_norm_relu_bwd(q, c->voxels, c->channels, x, gamma, beta, gamma, y, out, sums, sums);
    else if (c->what == ZERO)
        q->error = cudaMemsetAsync(out, 0, (size_t)bytes, q->stream);
    else if (c->what == ADD)
        fb_cuda_add(q, c->voxels * c->channels, x, y, out);
    else if (c->what == UPSAMPLE_FWD)
        fb_cuda_upsample_add_fwd(q, in, c->channels, x, y, out);
    else if (c->what == UPSAMPLE_BWD)
        fb_cuda_upsample_bwd(q, in, c->channels, y, out);
    else
        fb_cuda_scale_channels(q, c->voxels, c->channels, beta, out);
}

static void queue_rest(kernels *k, int64_t i)
{
    static const fb_adam_spec adam = {1e-4, 0.9, 0.999, 1e-8, 1e-5};
    fb_cuda_queue *q = &k->queue;
    const kernel_case *c = k->now;
    const int64_t v = c->voxels, logits = 12 * v, model = 4 * k->parameters, zero[3] = {0, 0, 0};
    uint8_t *target = part_of(k, BYTES, v, i);
    if (c->what == BIAS_ADD)
        fb_cuda_bias_add(q, v, part_of(k, POSITIVE, 12, 0), part_of(k, WRITE, logits, i));
    else if (c->what == BIAS_BWD)
        fb_cuda_bias_bwd(q, v, part_of(k, READ_Y, logits, i), part_of(k, SMALL, 12, 0));
    else if (c->what == DICE)
        fb_cuda_dice_loss(q, v, part_of(k, READ_X, logits, i), target, part_of(k, WRITE, logits, i),
                          part_of(k, SMALL, 8, 0));
    else if (c->what == SAMPLE)
        fb_cuda_sample(q, k->drawn, c->shape.in, part_of(k, WRITE, v * FB_IMAGE_CHANNELS * k->act_bytes, i), target);
    else if (c->what == COUNT_STEP)
        fb_cuda_count_step(q, part_of(k, SMALL, 8, STEP_PART));
    else if (c->what == ADAM)
        fb_cuda_adam_step(q, &adam, k->parameters, part_of(k, SMALL, 8, STEP_PART), part_of(k, WRITE, model, 2 * i),
                          part_of(k, READ_X, model, i), part_of(k, WRITE, model, 2 * i + 1),
                          part_of(k, POSITIVE, model, i));
    else if (c->what == TAKE_WINDOW)
        fb_cuda_take_window(q, part_of(k, READ_X, v * FB_IMAGE_CHANNELS * k->act_bytes, i), c->shape.in, zero,
                            c->shape.in, part_of(k, WRITE, v * FB_IMAGE_CHANNELS * k->act_bytes, i));
    else
        fb_cuda_add_window(q, part_of(k, READ_X, logits, i), c->shape.in, zero, c->shape.in,
                           part_of(k, WRITE, logits, i));
}

static fb_status queue_kernel(bench *b, void *context, int64_t repetition)
{
    kernels *k = context;
    const op what = k->now->what;
    (void)b;
    (what <= CONV_PACK ? queue_conv : what <= SCALE_CHANNELS ? queue_at_level : queue_rest)(k, repetition);
    return bench_cuda(k->queue.error, op_name[what]);
}

/* --- measuring ------------------------------------------------------------------------------------------------ */

/* So many that a replay takes about 2 ms: next to it its launch is nothing. */
static int repeats_of(const bench *b, const kernel_case *c, fb_act_type type)
{
    const double bytes_per_s = 2e12, flop_per_s = type == FB_ACT_BF16 ? 1e14 : 1e13;
    const double guess_s = 3e-6 + fmax(c->bytes / bytes_per_s, c->flop / flop_per_s);
    const double repeats = 2e-3 / guess_s;
    return b->smoke ? 1 : repeats < 6.0 ? 6 : repeats > 200.0 ? 200 : (int)repeats;
}

static void describe_kernel(bench *b, const kernel_case *c, double seconds)
{
    json *j = &b->out;
    json_open(j, NULL, '{');
    json_text(j, "kernel", op_name[c->what]);
    json_text(j, "layer", c->layer);
    json_integer(j, "voxels_out", c->voxels);
    json_integer(j, "channels_out", c->channels);
    json_integer(j, "times_a_step", c->times);
    json_number(j, "ms", seconds * 1e3);
    json_number(j, "bytes", c->bytes);
    json_number(j, "bytes_per_s", c->bytes / seconds);
    json_number(j, "of_copy_rate", c->bytes / seconds / b->copy_rate);
    json_number(j, "flop", c->flop);
    json_number(j, "flop_per_s", c->flop / seconds);
    json_close(j, '}');
}

static fb_status time_kernels(bench *b, kernels *k)
{
    double sum_s = 0.0, conv_s = 0.0, norm_s = 0.0, norm_bytes = 0.0;
    json_open(&b->out, "list", '[');
    for (int i = 0; i < k->count; i++) {
        const kernel_case *c = k->now = &k->list[i];
        double seconds = NAN;
        FB_TRY(bench_time(b, queue_kernel, k, repeats_of(b, c, k->queue.act), &seconds));
        describe_kernel(b, c, seconds);
        sum_s += seconds * c->times;
        conv_s += c->what <= CONV_PACK ? seconds * c->times : 0.0;
        norm_s += c->what == NORM_FWD || c->what == NORM_BWD ? seconds * c->times : 0.0;
        norm_bytes += c->what == NORM_FWD || c->what == NORM_BWD ? c->bytes * c->times : 0.0;
    }
    json_close(&b->out, ']');
    json_number(&b->out, "step_ms", sum_s * 1e3);
    json_number(&b->out, "conv_ms", conv_s * 1e3);
    json_number(&b->out, "norm_ms", norm_s * 1e3);
    json_number(&b->out, "norm_of_copy_rate", norm_bytes / norm_s / b->copy_rate);
    bench_progress(b, "kernels of a step, one by one: %.3f ms, convolutions %.3f, norms %.3f at %.0f %% of the copy",
                   sum_s * 1e3, conv_s * 1e3, norm_s * 1e3, 100.0 * norm_bytes / norm_s / b->copy_rate);
    return FB_OK;
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static fb_status make_arena(bench *b, kernels *k, int which, int64_t bytes)
{
    void *memory = NULL;
    bytes = (bytes + 4095) / 4096 * 4096;
    CUDA_OK(cudaMalloc(&memory, (size_t)bytes));
    k->arenas[which] = (arena){memory, bytes};
    if (which == BYTES)
        return bench_cuda(bench_fill_bytes(memory, bytes, 7, b->stream), "bench_fill_bytes");
    if (which == SMALL)
        return bench_cuda(cudaMemsetAsync(memory, 0, (size_t)bytes, b->stream), "cudaMemsetAsync");
    return bench_cuda(bench_fill(memory, bytes, which == POSITIVE ? 0 : -1, (unsigned)which, b->stream), "bench_fill");
}

/* The largest of the convolutions' own memory, and the sample of the whole patch. */
static fb_status make_scratch(bench *b, kernels *k)
{
    size_t packed = 16, partial = 16;
    void *drawn = NULL;
    for (int i = 0; i < k->count; i++)
        if (k->list[i].what == CONV_FWD) {
            const size_t w = fb_cuda_conv_packed_bytes(&k->list[i].shape, k->queue.act);
            const size_t p = fb_cuda_conv_partial_bytes(&k->list[i].shape, k->queue.act);
            packed = w > packed ? w : packed;
            partial = p > partial ? p : partial;
        }
    CUDA_OK(cudaMalloc(&k->packed, packed));
    CUDA_OK(bench_fill(k->packed, (int64_t)(packed / 16 * 16), -1, 9, b->stream));
    CUDA_OK(cudaMalloc(&k->partial, partial));
    CUDA_OK(cudaMalloc(&k->queue.scratch, FB_CUDA_SCRATCH_BYTES));
    CUDA_OK(cudaMemsetAsync(k->queue.scratch, 0, FB_CUDA_SCRATCH_BYTES, b->stream));
    const int64_t *n = k->of->shape;
    const fb_sample sample = {(const float *)k->arenas[READ_X].memory,
                              (const uint8_t *)k->arenas[BYTES].memory,
                              {n[0], n[1], n[2]},
                              {{0, 0, 0}, {1, 0, 1}, 1.05, -0.02}};
    CUDA_OK(cudaMalloc(&drawn, sizeof sample));
    k->drawn = drawn;
    CUDA_OK(cudaMemcpyAsync(drawn, &sample, sizeof sample, cudaMemcpyHostToDevice, b->stream));
    return bench_cuda(cudaStreamSynchronize(b->stream), "cudaStreamSynchronize");
}

static fb_status prepare(bench *b, kernels *k)
{
    const fb_net_spec spec = bench_spec(k->of->filters);
    fb_params *params = NULL;
    FB_TRY(fb_params_create(&spec, &params));
    k->parameters = params->count;
    fb_params_destroy(&params);
    const int64_t voxels = volume_of(k->of->shape), model = 4 * k->parameters + 256;
    int64_t largest = voxels * 4 * FB_IMAGE_CHANNELS, act = voxels * k->of->filters * k->act_bytes;
    largest = act > largest ? act : largest;
    largest = 2 * model > largest ? 2 * model : largest;
    /* beyond any cache, and at least three calls' */
    const int64_t wanted = b->smoke ? 0 : (int64_t)512 << 20, bytes = 3 * largest > wanted ? 3 * largest : wanted;
    list_kernels(k);
    for (int which = READ_X; which <= WRITE; which++)
        FB_TRY(make_arena(b, k, which, b->smoke ? largest + 4096 : bytes));
    FB_TRY(make_arena(b, k, POSITIVE, 2 * model));
    FB_TRY(make_arena(b, k, BYTES, b->smoke ? voxels : 4 * voxels));
    FB_TRY(make_arena(b, k, SMALL, 1 << 16));
    return make_scratch(b, k);
}

static void release(kernels *k)
{
    for (int which = READ_X; which < ARENAS; which++)
        (void)cudaFree(k->arenas[which].memory);
    (void)cudaFree(k->drawn);
    (void)cudaFree(k->packed);
    (void)cudaFree(k->partial);
    (void)cudaFree(k->queue.scratch);
}

fb_status bench_kernels(bench *b, const bench_case *of, fb_act_type type)
{
    kernels k = {.queue = {.stream = b->stream, .act = type}, .of = of, .act_bytes = type == FB_ACT_BF16 ? 2 : 4};
    fb_status status = prepare(b, &k);
    if (status == FB_OK)
        status = time_kernels(b, &k);
    release(&k);
    return status;
}
