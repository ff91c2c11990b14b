/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/trainer.h"

#include "core/mem.h"
#include "core/range.h"
#include "core/stop.h"
#include "data/augment.h"
#include "fed/volumes.h"
#include "nn/segresnet.h"

#include <string.h>

enum { DRAWS_PER_SAMPLE = 8 /* random indices that fb_augment_draw uses */, FB_FILTERS_MAX = 256 };

/* What changes from one sample to the next, in one piece, so that a device gets it in one transfer. */
typedef struct draw {
    fb_sample sample;
    float dropout_scale[FB_FILTERS_MAX];
} draw;

struct fb_trainer {
    const fb_config *config;
    const fb_subset *subset; /* borrowed */
    const fb_ops *ops;       /* borrowed */
    fb_adam_spec adam;
    int64_t voxels, parameters;
    fb_segresnet *net;   /* owned, as everything below */
    fb_volumes *volumes; /* the train cases where the backend computes */
    draw drawn;

    /* The backend's memory. The first four: NULL on the host, where the caller's serves. */
    float *own_w, *own_m, *own_v; /* (parameters), (subset->count), (subset->count) */
    draw *own_drawn;
    fb_act *x;                 /* (patch, FB_MODALITIES) */
    uint8_t *target;           /* (patch) region bits */
    float *logits, *dlogits;   /* (patch, FB_REGIONS) */
    float *gradient;           /* (parameters) */
    double *loss_sum;          /* over the samples of a round */
    int64_t *step;             /* of the optimiser */
    void *sampling, *updating; /* recordings; NULL: not recorded yet, or the backend has none */

    /* Of the round that is in progress, the backend's memory. */
    float *w, *m, *v;
    draw *sees;
};

fb_status fb_moments_create(int64_t n, fb_moments *out)
{
    memset(out, 0, sizeof *out);
    FB_TRY(FB_ALLOC(out->m, n, "Adam's first moments"));
    return FB_ALLOC(out->v, n, "Adam's second moments");
}

void fb_moments_free(fb_moments *moments)
{
    FB_FREE(moments->m);
    FB_FREE(moments->v);
}

void fb_moments_zero(int64_t n, fb_moments *moments)
{
    memset(moments->m, 0, (size_t)n * sizeof *moments->m);
    memset(moments->v, 0, (size_t)n * sizeof *moments->v);
    moments->step = 0;
}

/* --- memory --- */

/* `count` elements of the backend's memory. */
#define RESERVE(trainer, pointer, count, subject)                                                                      \
    reserve(trainer, (int64_t)sizeof *(pointer) * (count), subject, (void **)&(pointer))

static fb_status reserve(const fb_trainer *trainer, int64_t bytes, const char *subject, void **out)
{
    return trainer->ops->alloc(trainer->ops, bytes, subject, out);
}

static fb_status allocate_own(fb_trainer *trainer)
{
    if (trainer->ops->on_host)
        return FB_OK;
    FB_TRY(RESERVE(trainer, trainer->own_w, trainer->parameters, "local model"));
    FB_TRY(RESERVE(trainer, trainer->own_m, trainer->subset->count, "Adam's first moments"));
    FB_TRY(RESERVE(trainer, trainer->own_v, trainer->subset->count, "Adam's second moments"));
    return RESERVE(trainer, trainer->own_drawn, 1, "random numbers of a sample");
}

static fb_status allocate(fb_trainer *trainer, const fb_net_spec *spec, const fb_params *params)
{
    const int64_t voxels = trainer->voxels;
    FB_ASSERT(spec->filters <= FB_FILTERS_MAX);
    FB_TRY(fb_volumes_create(trainer->ops, trainer->config->data_device_cache_bytes, &trainer->volumes));
    FB_TRY(allocate_own(trainer));
    FB_TRY(reserve(trainer, voxels * FB_MODALITIES * trainer->ops->act_bytes, "training sample", &trainer->x));
    FB_TRY(RESERVE(trainer, trainer->target, voxels, "training target"));
    FB_TRY(RESERVE(trainer, trainer->logits, voxels * FB_REGIONS, "logits"));
    FB_TRY(RESERVE(trainer, trainer->dlogits, voxels * FB_REGIONS, "logit gradients"));
    FB_TRY(RESERVE(trainer, trainer->gradient, trainer->parameters, "gradient"));
    FB_TRY(RESERVE(trainer, trainer->loss_sum, 1, "loss"));
    FB_TRY(RESERVE(trainer, trainer->step, 1, "step of the optimiser"));
    return fb_segresnet_create(spec, params, trainer->ops, trainer->config->data_patch, 1, &trainer->net);
}

fb_status fb_trainer_create(const fb_config *config, const fb_net_spec *spec, const fb_params *params,
                            const fb_subset *subset, const fb_ops *ops, fb_trainer **out)
{
    fb_trainer *trainer = NULL;
    FB_TRY(FB_ALLOC(trainer, 1, "trainer"));
    trainer->config = config;
    trainer->adam = (fb_adam_spec){config->train_learning_rate, 0.9, 0.999, 1e-8, config->train_weight_decay};
    trainer->subset = subset;
    trainer->ops = ops;
    trainer->voxels = fb_volume_voxels(config->data_patch);
    trainer->parameters = params->count;
    const fb_status status = allocate(trainer, spec, params);
    if (status != FB_OK) {
        fb_trainer_destroy(&trainer);
        return status;
    }
    *out = trainer;
    return FB_OK;
}

void fb_trainer_destroy(fb_trainer **trainer)
{
    fb_trainer *t = *trainer;
    if (!t)
        return;
    void **const memory[] = {(void **)&t->own_w,    (void **)&t->own_m,    (void **)&t->own_v,  (void **)&t->own_drawn,
                             (void **)&t->x,        (void **)&t->target,   (void **)&t->logits, (void **)&t->dlogits,
                             (void **)&t->gradient, (void **)&t->loss_sum, (void **)&t->step};
    if (t->ops->record_free) {
        t->ops->record_free(t->ops, &t->sampling);
        t->ops->record_free(t->ops, &t->updating);
    }
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        t->ops->release(t->ops, memory[i]);
    fb_segresnet_destroy(&t->net);
    fb_volumes_destroy(&t->volumes);
    FB_FREE(*trainer);
}

/* --- a step --- */

static void draw_dropout(fb_trainer *trainer, const fb_rng *rng, uint32_t sample)
{
    const int64_t filters = trainer->config->model_filters;
    const double p = trainer->config->model_dropout;
    for (int64_t c = 0; c < filters; c++) {
        const double u = fb_rng_uniform(rng, sample * (uint32_t)filters + (uint32_t)c);
        trainer->drawn.dropout_scale[c] = u < p ? 0.0f : (float)(1.0 / (1.0 - p));
    }
}

/* Augment, forward, loss, backward. */
static fb_status run_sample(fb_trainer *t)
{
    const fb_ops *ops = t->ops;
    ops->sample(ops, &t->sees->sample, t->config->data_patch, t->x, t->target);
    FB_TRY(fb_segresnet_forward(t->net, t->w, t->x, t->sees->dropout_scale, t->logits));
    ops->dice_loss(ops, t->voxels, t->logits, t->target, t->dlogits, t->loss_sum);
    return fb_segresnet_backward(t->net, t->dlogits, t->gradient);
}

/* Moves the trained parameters along the gradient, as train.optimizer says. */
static fb_status run_update(fb_trainer *t)
{
    const fb_ops *ops = t->ops;
    const fb_adam_spec *adam = &t->adam;
    int64_t position = 0;
    ops->count_step(ops, t->step);
    for (int r = 0; r < t->subset->range_count; r++) {
        const fb_range *range = &t->subset->ranges[r];
        float *w = t->w + range->offset, *gradient = t->gradient + range->offset;
        if (t->config->train_optimizer == FB_OPTIMIZER_SGD)
            ops->sgd_step(ops, adam->learning_rate, adam->weight_decay, range->count, w, gradient);
        else
            ops->adam_step(ops, adam, range->count, t->step, w, gradient, t->m + position, t->v + position);
        position += range->count;
    }
    return FB_OK;
}

/* Does `work`; where the backend can, from a recording that the first call makes. */
static fb_status repeat(fb_trainer *t, fb_status (*work)(fb_trainer *), void **recording)
{
    const fb_ops *ops = t->ops;
    if (!ops->record_begin)
        return work(t);
    if (!*recording) {
        FB_TRY(ops->record_begin(ops));
        const fb_status status = work(t);
        const fb_status ended = ops->record_end(ops, recording);
        if (status != FB_OK || ended != FB_OK) {
            ops->record_free(ops, recording);
            return fb_error_first(status, ended);
        }
    }
    ops->record_replay(ops, *recording);
    return FB_OK;
}

static fb_status update(fb_trainer *trainer)
{
    return repeat(trainer, run_update, &trainer->updating);
}

/* The gradient of one case. `where` addresses the random numbers up to their purpose. */
static fb_status differentiate(fb_trainer *trainer, fb_shard *shard, int64_t number, fb_rng where, uint32_t sample)
{
    fb_sample *drawn = &trainer->drawn.sample;
    where.purpose = FB_RNG_AUGMENT;
    FB_TRY(fb_augment_draw(&where, sample * DRAWS_PER_SAMPLE, fb_shard_subject(shard, FB_SPLIT_TRAIN, number),
                           fb_shard_shape(shard, FB_SPLIT_TRAIN, number), trainer->config->data_patch, &drawn->how));
    FB_TRY(fb_volumes_get(trainer->volumes, shard, FB_SPLIT_TRAIN, number, drawn));
    where.purpose = FB_RNG_DROPOUT;
    draw_dropout(trainer, &where, sample);
    if (!trainer->ops->on_host)
        trainer->ops->upload(trainer->ops, trainer->sees, &trainer->drawn, sizeof trainer->drawn);
    trainer->ops->turn(trainer->ops);
    return repeat(trainer, run_sample, &trainer->sampling);
}

/* The caller's `from`, where the backend computes: the same on the host, else brought to `own`. */
static void *bring(const fb_ops *ops, void *from, void *own, int64_t bytes)
{
    if (ops->on_host)
        return from;
    ops->upload(ops, own, from, bytes);
    return own;
}

static void begin(fb_trainer *t, float *w, const fb_moments *moments)
{
    const fb_ops *ops = t->ops;
    const int64_t moment_bytes = t->subset->count * (int64_t)sizeof(float);
    t->w = bring(ops, w, t->own_w, t->parameters * (int64_t)sizeof *w);
    t->m = bring(ops, moments->m, t->own_m, moment_bytes);
    t->v = bring(ops, moments->v, t->own_v, moment_bytes);
    t->sees = ops->on_host ? &t->drawn : t->own_drawn;
    ops->upload(ops, t->step, &moments->step, sizeof moments->step);
    ops->zero(ops, t->loss_sum, sizeof *t->loss_sum);
}

/* The other way round. Errors: what went wrong on a device since the last time. */
static fb_status end(fb_trainer *t, float *w, fb_moments *moments, double *loss_sum)
{
    const fb_ops *ops = t->ops;
    const int64_t moment_bytes = t->subset->count * (int64_t)sizeof(float);
    FB_TRY(ops->download(ops, loss_sum, t->loss_sum, sizeof *loss_sum));
    FB_TRY(ops->download(ops, &moments->step, t->step, sizeof moments->step));
    if (ops->on_host)
        return FB_OK;
    FB_TRY(ops->download(ops, moments->m, t->m, moment_bytes));
    FB_TRY(ops->download(ops, moments->v, t->v, moment_bytes));
    return ops->download(ops, w, t->w, t->parameters * (int64_t)sizeof *w);
}

/* A round in progress. */
typedef struct training {
    fb_trainer *trainer;
    fb_shard *const *shards; /* (shard_count) */
    int shard_count;
    int64_t cases; /* of all shards */
    fb_rng where;  /* random numbers, up to purpose and epoch */
    int64_t samples;
} training;

/* The case `number` of the train cases of all shards, counted through. */
static fb_shard *pooled_case(const training *t, int64_t *number)
{
    int s = 0;
    for (; *number >= fb_shard_cases(t->shards[s], FB_SPLIT_TRAIN); s++)
        *number -= fb_shard_cases(t->shards[s], FB_SPLIT_TRAIN);
    FB_ASSERT(s < t->shard_count);
    return t->shards[s];
}

/* The gradient of case `number`, with the random numbers of `sample` at `where`. */
static fb_status see_case(training *t, int64_t number, fb_rng where, uint32_t sample)
{
    fb_shard *shard = pooled_case(t, &number);
    FB_TRY(fb_stop_check(t->trainer->config->run_grace_s));
    t->samples++;
    return differentiate(t->trainer, shard, number, where, sample);
}

/* Brings the next case to the device while that works on the present one. */
static fb_status expect_case(const training *t, int64_t number)
{
    fb_sample unused;
    fb_shard *shard = pooled_case(t, &number);
    const fb_trainer *trainer = t->trainer;
    return trainer->ops->on_host ? FB_OK : fb_volumes_get(trainer->volumes, shard, FB_SPLIT_TRAIN, number, &unused);
}

static fb_status run_epochs(training *t)
{
    fb_status status = FB_OK;
    uint32_t *order = NULL;
    FB_TRY(FB_ALLOC(order, t->cases, "order of the cases"));
    for (int64_t epoch = 0; epoch < t->trainer->config->train_epochs; epoch++) {
        t->where.epoch = (uint32_t)epoch;
        t->where.purpose = FB_RNG_SHUFFLE;
        fb_sample_order(&t->where, t->cases, order);
        for (int64_t i = 0; i < t->cases; i++) {
            FB_TRY_GOTO(status, see_case(t, order[i], t->where, (uint32_t)i), done);
            FB_TRY_GOTO(status, update(t->trainer), done);
            FB_TRY_GOTO(status, i + 1 < t->cases ? expect_case(t, order[i + 1]) : FB_OK, done);
        }
    }
done:
    FB_FREE(order);
    return status;
}

/* --- with patient-level privacy --- */

typedef struct private_sum {
    uint32_t *member;          /* (cases) owned, as everything here */
    int32_t *scratch;          /* (subset->count) */
    int64_t *sum;              /* (subset->count) */
    float *compact, *gradient; /* (subset->count); (parameters) */
} private_sum;

/* Where a patient's random numbers are: by name, so that one patient more or less, which moves the numbers of the
 * others in the shard, changes nothing of the others' gradients. FNV-1a (Fowler, Noll & Vo), begun with the seed. */
static fb_rng patient_stream(const training *t, int64_t number)
{
    const fb_shard *shard = pooled_case(t, &number);
    fb_rng where = t->where;
    where.seed ^= UINT64_C(0xCBF29CE484222325);
    for (const char *c = fb_shard_subject(shard, FB_SPLIT_TRAIN, number); *c; c++)
        where.seed = (where.seed ^ (uint8_t)*c) * UINT64_C(0x100000001B3);
    return where;
}

/* Adds the gradient of case `number`, clipped, to the sum. */
static fb_status add_clipped(training *t, int64_t number, fb_train_dpsgd *dpsgd, const private_sum *room)
{
    const fb_trainer *trainer = t->trainer;
    FB_TRY(see_case(t, number, patient_stream(t, number), 0));
    FB_TRY(trainer->ops->download(trainer->ops, room->gradient, trainer->gradient,
                                  trainer->parameters * (int64_t)sizeof *room->gradient));
    fb_subset_gather(trainer->subset, room->gradient, room->compact);
    fb_dpsgd_add(dpsgd->plan, room->compact, room->scratch, room->sum, &dpsgd->report);
    return FB_OK;
}

/* An empty sample takes its step as well: that there was none must not be seen. */
static fb_status private_step(training *t, fb_train_dpsgd *dpsgd, uint32_t step, const private_sum *room)
{
    const fb_dpsgd_plan *plan = dpsgd->plan;
    const fb_trainer *trainer = t->trainer;
    int64_t count = 0;
    fb_dpsgd_sample(plan, dpsgd->noise, dpsgd->attempt, t->where.round, step, room->member, &count);
    memset(room->sum, 0, (size_t)plan->spec.n * sizeof *room->sum);
    t->where.epoch = step;
    for (int64_t i = 0; i < count; i++)
        FB_TRY(add_clipped(t, room->member[i], dpsgd, room));
    dpsgd->report.empty_steps += count == 0;
    fb_dpsgd_finish(plan, dpsgd->gauss, dpsgd->noise, dpsgd->attempt, t->where.round, step, room->sum, room->compact);
    fb_subset_scatter(trainer->subset, room->compact, room->gradient);
    trainer->ops->upload(trainer->ops, trainer->gradient, room->gradient,
                         trainer->parameters * (int64_t)sizeof *room->gradient);
    return update(t->trainer);
}

static fb_status run_private_steps(training *t, fb_train_dpsgd *dpsgd)
{
    const fb_dpsgd_plan *plan = dpsgd->plan;
    private_sum room = {0};
    fb_status status = FB_OK;
    FB_ASSERT(plan->spec.n == t->trainer->subset->count);
    if (plan->spec.cases != t->cases)
        return FB_FAIL(
            "the shard has %lld train cases, but manifest.csv, by which the noise was planned, has %lld; run "
            "brats-split again",
            (long long)t->cases, (long long)plan->spec.cases);
    FB_TRY_GOTO(status, FB_ALLOC(room.member, t->cases, "sample of the cases"), done);
    FB_TRY_GOTO(status, FB_ALLOC(room.scratch, plan->spec.n, "gradient on the grid"), done);
    FB_TRY_GOTO(status, FB_ALLOC(room.sum, plan->spec.n, "sum of gradients"), done);
    FB_TRY_GOTO(status, FB_ALLOC(room.compact, plan->spec.n, "noised gradient"), done);
    FB_TRY_GOTO(status, FB_ALLOC(room.gradient, t->trainer->parameters, "gradient"), done);
    for (int64_t step = 0; step < plan->steps && status == FB_OK; step++)
        status = private_step(t, dpsgd, (uint32_t)step, &room);
done:
    FB_FREE(room.member);
    FB_FREE(room.scratch);
    FB_FREE(room.sum);
    FB_FREE(room.compact);
    FB_FREE(room.gradient);
    return status;
}

static fb_status run_round(training *t, fb_train_dpsgd *dpsgd, float *w, fb_moments *moments, double *loss_sum)
{
    begin(t->trainer, w, moments);
    FB_TRY(dpsgd ? run_private_steps(t, dpsgd) : run_epochs(t));
    return end(t->trainer, w, moments, loss_sum);
}

fb_status fb_trainer_run(fb_trainer *trainer, fb_shard *const *shards, int shard_count, uint32_t hospital,
                         uint32_t round, fb_train_dpsgd *dpsgd, float *w, fb_moments *moments, fb_train_report *report)
{
    training t = {.trainer = trainer,
                  .shards = shards,
                  .shard_count = shard_count,
                  .where = {(uint64_t)trainer->config->run_seed, FB_RNG_SHUFFLE, hospital, round, 0}};
    double loss_sum = 0.0;
    for (int s = 0; s < shard_count; s++)
        t.cases += fb_shard_cases(shards[s], FB_SPLIT_TRAIN);
    fb_range_begin("train");
    const fb_status status = run_round(&t, dpsgd, w, moments, &loss_sum);
    fb_range_end();
    FB_TRY(status);
    report->steps = dpsgd ? dpsgd->plan->steps : t.samples;
    report->loss_mean = loss_sum / (double)t.samples;
    return FB_OK;
}

int64_t fb_trainer_activation_bytes(const fb_trainer *trainer)
{
    return fb_segresnet_activation_bytes(trainer->net);
}
