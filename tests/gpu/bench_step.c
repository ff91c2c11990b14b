/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole training step as fed/trainer.c takes it (sample, dropout, forward, loss, backward, Adam), and inference.
 * The backend has a stream of its own, so these are timed by the host: several steps queued, then one wait; the median
 * of such groups.
 */
#include "bench.h"

#include "core/mem.h"
#include "core/timer.h"
#include "nn/op_cuda.h"
#include "nn/segresnet.h"

#include <math.h>
#include <string.h>

enum { CHANNELS_MAX = 64, GROUP = 5, GROUPS_MAX = 64 };

typedef struct draw {
    fb_sample sample;
    float dropout_scale[CHANNELS_MAX];
} draw;

typedef struct training {
    const bench_case *of;
    fb_act_type type;
    int trains;
    int64_t voxels, extent[3]; /* of the case that samples are cut from */
    fb_ops *ops;
    fb_params *params;
    fb_segresnet *net;
    float *image; /* (extent, 4) the backend's memory, as the rest */
    uint8_t *label, *target;
    draw *drawn;
    fb_act *x;
    float *logits, *dlogits, *w, *g, *m, *v;
    double *loss;
    int64_t *step;
    void *recording;
    int64_t memory_bytes; /* of everything but image and label, and the context */
} training;

/* --- memory ----------------------------------------------------------------------------------------------------- */

static fb_status reserve(const training *t, int64_t bytes, void *out)
{
    return t->ops->alloc(t->ops, bytes, "benchmark", out);
}

/* Waits for the backend's stream, which zeroes what it reserves; `memory` is any of its arrays. */
static fb_status finish(const training *t, const void *memory)
{
    double unused;
    return t->ops->download(t->ops, &unused, memory, sizeof unused);
}

static fb_status upload_model(const training *t)
{
    float *w = NULL;
    FB_TRY(FB_ALLOC(w, t->params->count, "benchmark model"));
    fb_params_init(t->params, 1, w);
    t->ops->upload(t->ops, t->w, w, t->params->count * 4);
    const fb_status status = t->ops->download(t->ops, w, t->w, 4);
    FB_FREE(w);
    return status;
}

/* A sample from the middle of the case, every fifth channel dropped. */
static void upload_draw(const training *t)
{
    draw d = {.sample = {.image = t->image, .label = t->label, .how = {{0, 0, 0}, {1, 0, 1}, 1.05, -0.02}}};
    for (int axis = 0; axis < 3; axis++) {
        d.sample.shape[axis] = t->extent[axis];
        d.sample.how.offset[axis] = (t->extent[axis] - t->of->shape[axis]) / 2;
    }
    for (int c = 0; c < CHANNELS_MAX; c++)
        d.dropout_scale[c] = c % 5 == 2 ? 0.0f : 1.25f;
    t->ops->upload(t->ops, t->drawn, &d, sizeof d);
}

static fb_status make_case(bench *b, training *t)
{
    const int64_t brats[3] = {240, 240, 155};
    for (int axis = 0; axis < 3; axis++) {
        t->extent[axis] = b->smoke ? t->of->shape[axis] + 4 : brats[axis];
        if (t->extent[axis] < t->of->shape[axis])
            t->extent[axis] = t->of->shape[axis];
    }
    const int64_t voxels = t->extent[0] * t->extent[1] * t->extent[2];
    FB_TRY(reserve(t, voxels * FB_IMAGE_CHANNELS * 4, &t->image));
    FB_TRY(reserve(t, (voxels + 15) / 16 * 16, &t->label));
    FB_TRY(finish(t, t->image));
    CUDA_OK(bench_fill(t->image, voxels * FB_IMAGE_CHANNELS * 4, -1, 3, b->stream));
    CUDA_OK(bench_fill_bytes(t->label, (voxels + 15) / 16 * 16, 3, b->stream)); /* labels 0 to 3; 4 is ET, 1 TC */
    return bench_cuda(cudaStreamSynchronize(b->stream), "cudaStreamSynchronize");
}

static fb_status make_network(bench *b, training *t)
{
    const fb_net_spec spec = bench_spec(t->of->filters);
    const int64_t act = t->ops->act_bytes, v = t->voxels;
    FB_TRY(fb_params_create(&spec, &t->params));
    float **const model[] = {&t->w, &t->g, &t->m, &t->v};
    for (int i = 0; i < (t->trains ? 4 : 1); i++)
        FB_TRY(reserve(t, t->params->count * 4, model[i]));
    FB_TRY(reserve(t, v * FB_IMAGE_CHANNELS * act, &t->x));
    FB_TRY(reserve(t, v * FB_REGIONS * 4, &t->logits));
    if (t->trains) {
        FB_TRY(reserve(t, v * FB_REGIONS * 4, &t->dlogits));
        FB_TRY(reserve(t, v, &t->target));
        FB_TRY(reserve(t, 8, &t->loss));
        FB_TRY(reserve(t, 8, &t->step));
        FB_TRY(reserve(t, (int64_t)sizeof *t->drawn, &t->drawn));
        upload_draw(t);
    } else {
        FB_TRY(finish(t, t->x));
        CUDA_OK(bench_fill(t->x, v * FB_IMAGE_CHANNELS * act, -1, 4, b->stream));
        CUDA_OK(cudaStreamSynchronize(b->stream));
    }
    FB_TRY(upload_model(t));
    return fb_segresnet_create(&spec, t->params, t->ops, t->of->shape, t->trains, &t->net);
}

static fb_status start(bench *b, training *t)
{
    int64_t before = 0, after = 0, total = 0;
    t->voxels = t->of->shape[0] * t->of->shape[1] * t->of->shape[2];
    FB_TRY(fb_ops_cuda_create(t->type, &t->ops));
    if (t->trains)
        FB_TRY(make_case(b, t));
    t->ops->room(t->ops, &before, &total);
    FB_TRY(make_network(b, t));
    t->ops->room(t->ops, &after, &total);
    t->memory_bytes = before - after;
    return FB_OK;
}

static void stop(training *t)
{
    if (!t->ops)
        return;
    void **const memory[] = {
        (void **)&t->image,  (void **)&t->label,   (void **)&t->target, (void **)&t->drawn, &t->x,
        (void **)&t->logits, (void **)&t->dlogits, (void **)&t->w,      (void **)&t->g,     (void **)&t->m,
        (void **)&t->v,      (void **)&t->loss,    (void **)&t->step};
    t->ops->record_free(t->ops, &t->recording);
    fb_segresnet_destroy(&t->net);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        t->ops->release(t->ops, memory[i]);
    fb_ops_cuda_destroy(&t->ops);
    fb_params_destroy(&t->params);
}

/* --- a step --------------------------------------------------------------------------------------------------------
 */

static fb_status queue_step(training *t)
{
    static const fb_adam_spec adam = {1e-4, 0.9, 0.999, 1e-8, 1e-5};
    const fb_ops *ops = t->ops;
    if (!t->trains)
        return fb_segresnet_forward(t->net, t->w, t->x, NULL, t->logits);
    ops->sample(ops, &t->drawn->sample, t->of->shape, t->x, t->target);
    FB_TRY(fb_segresnet_forward(t->net, t->w, t->x, t->drawn->dropout_scale, t->logits));
    ops->zero(ops, t->loss, 8);
    ops->dice_loss(ops, t->voxels, t->logits, t->target, t->dlogits, t->loss);
    FB_TRY(fb_segresnet_backward(t->net, t->dlogits, t->g));
    ops->count_step(ops, t->step);
    ops->adam_step(ops, &adam, t->params->count, t->step, t->w, t->g, t->m, t->v);
    return FB_OK;
}

static fb_status record(training *t)
{
    FB_TRY(t->ops->record_begin(t->ops));
    const fb_status status = queue_step(t);
    return fb_error_first(status, t->ops->record_end(t->ops, &t->recording));
}

static fb_status run_step(training *t)
{
    if (!t->recording)
        return queue_step(t);
    t->ops->record_replay(t->ops, t->recording);
    return FB_OK;
}

static fb_status wait(const training *t)
{
    return finish(t, t->trains ? (const void *)t->loss : t->logits);
}

/* Groups of about 0.1 s and at most GROUP steps; fewer of them where a step is slow. */
static fb_status time_steps(const bench *b, training *t, double *seconds)
{
    double of_group[GROUPS_MAX];
    *seconds = 0.0;
    for (int i = 0; i < b->warm_up; i++) {
        const double begin = fb_time_s();
        FB_TRY(run_step(t));
        FB_TRY(wait(t));
        *seconds = fb_time_s() - begin;
    }
    const int each = *seconds > 0.1 || b->smoke ? 1 : *seconds > 0.1 / GROUP ? (int)(0.1 / *seconds) : GROUP;
    const int groups = *seconds > 0.1 && b->replays > 5 ? 5 : b->replays;
    FB_ASSERT(groups <= GROUPS_MAX);
    for (int i = 0; i < groups; i++) {
        const double begin = fb_time_s();
        for (int s = 0; s < each; s++)
            FB_TRY(run_step(t));
        FB_TRY(wait(t));
        of_group[i] = (fb_time_s() - begin) / each;
    }
    *seconds = bench_median(groups, of_group);
    return FB_OK;
}

static fb_status read_loss(const training *t, double *loss)
{
    FB_TRY(t->ops->download(t->ops, loss, t->loss, sizeof *loss));
    if (!isfinite(*loss))
        return FB_FAIL("the loss is not finite");
    return FB_OK;
}

static fb_status measure(bench *b, training *t)
{
    double eager_s = NAN, graph_s = NAN, first = NAN, last = NAN;
    FB_TRY(start(b, t));
    FB_TRY(run_step(t));
    FB_TRY(wait(t));
    if (t->trains)
        FB_TRY(read_loss(t, &first));
    FB_TRY(time_steps(b, t, &eager_s));
    FB_TRY(record(t));
    FB_TRY(time_steps(b, t, &graph_s));
    if (t->trains)
        FB_TRY(read_loss(t, &last));
    json *j = &b->out;
    json_number(j, "eager_ms", eager_s * 1e3);
    json_number(j, "graph_ms", graph_s * 1e3);
    json_integer(j, "memory_bytes", t->memory_bytes);
    json_integer(j, "activation_bytes", fb_segresnet_activation_bytes(t->net));
    json_number(j, "flop", t->trains ? bench_step_flop(t->of) : bench_forward_flop(t->of));
    if (t->trains) {
        json_number(j, "floor_bytes", bench_step_bytes(t->of));
        json_number(j, "first_loss", first);
        json_number(j, "last_loss", last);
    }
    bench_progress(b, "%s: %.3f ms eager, %.3f ms recorded, %lld MiB", t->trains ? "training step" : "inference",
                   eager_s * 1e3, graph_s * 1e3, (long long)(t->memory_bytes >> 20));
    return FB_OK;
}

static fb_status run(bench *b, const bench_case *of, fb_act_type type, int trains)
{
    training t = {.of = of, .type = type, .trains = trains};
    const fb_status status = measure(b, &t);
    stop(&t);
    return status;
}

fb_status bench_training(bench *b, const bench_case *of, fb_act_type type)
{
    return run(b, of, type, 1);
}

fb_status bench_inference(bench *b, const bench_case *of, fb_act_type type)
{
    return run(b, of, type, 0);
}

fb_status bench_one_step(bench *b, const bench_case *of, fb_act_type type)
{
    training t = {.of = of, .type = type, .trains = 1};
    fb_status status = start(b, &t);
    if (status == FB_OK)
        status = queue_step(&t);
    if (status == FB_OK)
        status = wait(&t);
    stop(&t);
    return status;
}
