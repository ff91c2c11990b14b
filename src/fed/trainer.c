/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/trainer.h"

#include "core/mem.h"
#include "data/augment.h"
#include "nn/loss.h"
#include "nn/segresnet.h"

#include <string.h>

enum { DRAWS_PER_SAMPLE = 8 }; /* random indices that fb_augment_draw uses */

struct fb_trainer {
    const fb_config *config;
    const fb_subset *subset; /* borrowed */
    fb_adam_spec adam;
    int64_t voxels;
    fb_segresnet *net;       /* owned, as everything below */
    float *x;                /* (patch, FB_MODALITIES) */
    uint8_t *target;         /* (patch) region bits */
    float *logits, *dlogits; /* (patch, FB_REGIONS) */
    float *gradient;         /* (params->count); of the trained parameters once it is gathered */
    float *dropout_scale;    /* (filters) */
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

static fb_status allocate(fb_trainer *trainer, const fb_net_spec *spec, const fb_params *params, const fb_ops *ops)
{
    const int64_t voxels = trainer->voxels;
    FB_TRY(FB_ALLOC(trainer->x, voxels * FB_MODALITIES, "training sample"));
    FB_TRY(FB_ALLOC(trainer->target, voxels, "training target"));
    FB_TRY(FB_ALLOC(trainer->logits, voxels * FB_REGIONS, "logits"));
    FB_TRY(FB_ALLOC(trainer->dlogits, voxels * FB_REGIONS, "logit gradients"));
    FB_TRY(FB_ALLOC(trainer->gradient, params->count, "gradient"));
    FB_TRY(FB_ALLOC(trainer->dropout_scale, spec->filters, "dropout"));
    return fb_segresnet_create(spec, params, ops, trainer->config->data_patch, 1, &trainer->net);
}

fb_status fb_trainer_create(const fb_config *config, const fb_net_spec *spec, const fb_params *params,
                            const fb_subset *subset, const fb_ops *ops, fb_trainer **out)
{
    fb_trainer *trainer = NULL;
    FB_TRY(FB_ALLOC(trainer, 1, "trainer"));
    trainer->config = config;
    trainer->adam = (fb_adam_spec){config->train_learning_rate, 0.9, 0.999, 1e-8, config->train_weight_decay};
    trainer->subset = subset;
    trainer->voxels = fb_volume_voxels(config->data_patch);
    const fb_status status = allocate(trainer, spec, params, ops);
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
    if (t) {
        fb_segresnet_destroy(&t->net);
        FB_FREE(t->x);
        FB_FREE(t->target);
        FB_FREE(t->logits);
        FB_FREE(t->dlogits);
        FB_FREE(t->gradient);
        FB_FREE(t->dropout_scale);
    }
    FB_FREE(*trainer);
}

static void draw_dropout(fb_trainer *trainer, const fb_rng *rng, uint32_t sample)
{
    const int64_t filters = trainer->config->model_filters;
    const double p = trainer->config->model_dropout;
    for (int64_t c = 0; c < filters; c++) {
        const double u = fb_rng_uniform(rng, sample * (uint32_t)filters + (uint32_t)c);
        trainer->dropout_scale[c] = u < p ? 0.0f : (float)(1.0 / (1.0 - p));
    }
}

/* One sample: augment, forward, loss, backward; trainer->gradient becomes that of the trained parameters. `where`
 * addresses the random numbers up to their purpose. */
static fb_status differentiate(fb_trainer *trainer, const fb_volume *volume, fb_rng where, uint32_t sample,
                               const float *w, double *loss)
{
    fb_augmentation augmentation;
    where.purpose = FB_RNG_AUGMENT;
    FB_TRY(fb_augment_draw(&where, sample * DRAWS_PER_SAMPLE, volume, trainer->config->data_patch, &augmentation));
    fb_augment_apply(volume, trainer->config->data_patch, &augmentation, trainer->x, trainer->target);
    where.purpose = FB_RNG_DROPOUT;
    draw_dropout(trainer, &where, sample);
    FB_TRY(fb_segresnet_forward(trainer->net, w, trainer->x, trainer->dropout_scale, trainer->logits));
    *loss = fb_dice_loss(trainer->voxels, trainer->logits, trainer->target, trainer->dlogits);
    FB_TRY(fb_segresnet_backward(trainer->net, trainer->dlogits, trainer->gradient));
    fb_subset_gather(trainer->subset, trainer->gradient, trainer->gradient);
    return FB_OK;
}

/* Moves the trained parameters along trainer->gradient, as train.optimizer says. */
static void update(fb_trainer *trainer, float *w, fb_moments *moments)
{
    const fb_adam_spec *adam = &trainer->adam;
    int64_t position = 0;
    moments->step++;
    for (int r = 0; r < trainer->subset->range_count; r++) {
        const fb_range *range = &trainer->subset->ranges[r];
        const float *gradient = trainer->gradient + position;
        if (trainer->config->train_optimizer == FB_OPTIMIZER_SGD)
            fb_sgd_step(adam->learning_rate, adam->weight_decay, range->count, w + range->offset, gradient);
        else
            fb_adam_step(adam, range->count, moments->step, w + range->offset, gradient, moments->m + position,
                         moments->v + position);
        position += range->count;
    }
}

/* A round in progress. */
typedef struct training {
    fb_trainer *trainer;
    fb_shard *const *shards; /* (shard_count) */
    int shard_count;
    int64_t cases; /* of all shards */
    fb_rng where;  /* random numbers, up to purpose and epoch */
    float *w;
    fb_moments *moments;
    int64_t samples;
    double loss_sum; /* over the samples */
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
    const fb_volume *volume = NULL;
    fb_shard *shard = pooled_case(t, &number);
    double loss = 0.0;
    FB_TRY(fb_shard_volume(shard, FB_SPLIT_TRAIN, number, &volume));
    FB_TRY(differentiate(t->trainer, volume, where, sample, t->w, &loss));
    t->loss_sum += loss;
    t->samples++;
    return FB_OK;
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
            update(t->trainer, t->w, t->moments);
        }
    }
done:
    FB_FREE(order);
    return status;
}

/* --- with patient-level privacy --- */

typedef struct private_sum {
    uint32_t *member; /* (cases) owned, as everything here */
    int32_t *scratch; /* (subset->count) */
    int64_t *sum;     /* (subset->count) */
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

/* An empty sample takes its step as well: that there was none must not be seen. */
static fb_status private_step(training *t, fb_train_dpsgd *dpsgd, uint32_t step, const private_sum *room)
{
    const fb_dpsgd_plan *plan = dpsgd->plan;
    float *gradient = t->trainer->gradient;
    int64_t count = 0;
    fb_dpsgd_sample(plan, dpsgd->noise, dpsgd->attempt, t->where.round, step, room->member, &count);
    memset(room->sum, 0, (size_t)plan->spec.n * sizeof *room->sum);
    t->where.epoch = step;
    for (int64_t i = 0; i < count; i++) {
        FB_TRY(see_case(t, room->member[i], patient_stream(t, room->member[i]), 0));
        fb_dpsgd_add(plan, gradient, room->scratch, room->sum, &dpsgd->report);
    }
    dpsgd->report.empty_steps += count == 0;
    fb_dpsgd_finish(plan, dpsgd->gauss, dpsgd->noise, dpsgd->attempt, t->where.round, step, room->sum, gradient);
    update(t->trainer, t->w, t->moments);
    return FB_OK;
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
    for (int64_t step = 0; step < plan->steps && status == FB_OK; step++)
        status = private_step(t, dpsgd, (uint32_t)step, &room);
done:
    FB_FREE(room.member);
    FB_FREE(room.scratch);
    FB_FREE(room.sum);
    return status;
}

fb_status fb_trainer_run(fb_trainer *trainer, fb_shard *const *shards, int shard_count, uint32_t hospital,
                         uint32_t round, fb_train_dpsgd *dpsgd, float *w, fb_moments *moments, fb_train_report *report)
{
    training t = {.trainer = trainer,
                  .shards = shards,
                  .shard_count = shard_count,
                  .where = {(uint64_t)trainer->config->run_seed, FB_RNG_SHUFFLE, hospital, round, 0},
                  .w = w,
                  .moments = moments};
    for (int s = 0; s < shard_count; s++)
        t.cases += fb_shard_cases(shards[s], FB_SPLIT_TRAIN);
    FB_TRY(dpsgd ? run_private_steps(&t, dpsgd) : run_epochs(&t));
    report->steps = dpsgd ? dpsgd->plan->steps : t.samples;
    report->loss_mean = t.loss_sum / (double)t.samples;
    return FB_OK;
}

int64_t fb_trainer_activation_bytes(const fb_trainer *trainer)
{
    return fb_segresnet_activation_bytes(trainer->net);
}
