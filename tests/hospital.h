/* SPDX-License-Identifier: Apache-2.0
 *
 * A hospital of CASES phantoms, a small network and a trainer, for the tests of local training.
 */
#pragma once

#include "data/checksums.h"
#include "fed/trainer.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CASES = 6, SIDE = 12, HOSPITAL = 4, ROUND = 3, VOXELS = 8 * 8 * 8 };

#define NOISELESS 0x1p-31 /* times the clip: a quarter of a step of the grid or more, the least there is */

static const fb_net_spec hospital_spec = {
    .filters = 8, .levels = 2, .blocks_down = {1, 1}, .blocks_up = {1}, .dropout = 0.2};

/* A bright tumour, ET in TC in WT, in noise; its place differs from case to case. */
static inline void add_case(fb_shard_writer *writer, int number)
{
    const fb_rng rng = {.seed = (uint64_t)number, .purpose = FB_RNG_TEST};
    const int64_t shape[3] = {SIDE, SIDE, SIDE};
    char subject[FB_SUBJECT_CHARS], sha256[65];
    fb_volume *volume = NULL;
    snprintf(subject, sizeof subject, "Brats18_A_%d_1", number);
    must(fb_volume_create(subject, shape, &volume));
    for (int64_t i = 0; i < SIDE * SIDE * SIDE; i++) {
        const int64_t d = i / SIDE / SIDE - 4 - number % 3, h = i / SIDE % SIDE - 6, w = i % SIDE - 5 - number % 2;
        const int64_t distance = d * d + h * h + w * w;
        volume->label[i] = distance <= 3 ? 4 : distance <= 8 ? 1 : distance <= 14 ? 2 : 0;
        for (int64_t m = 0; m < FB_MODALITIES; m++)
            volume->image[i * FB_MODALITIES + m] =
                (float)(100.0 + (volume->label[i] > 0 ? 60.0 : 0.0) +
                        10.0 * fb_rng_normal(&rng, (uint32_t)(i * FB_MODALITIES + m)));
    }
    must(fb_shard_writer_add(writer, volume, FB_SPLIT_TRAIN, "HGG", "A", sha256));
    fb_volume_destroy(&volume);
}

typedef struct bench {
    char folder[64];
    fb_config config;
    fb_options *options;
    fb_shard *shard;
    fb_net_spec spec;
    fb_params *params;
    fb_subset *subset;
    fb_trainer *trainer;
    fb_moments moments;
    fb_noise *noise;
    float *w, *start; /* (params->count) */
} bench;

/* The cases from number `first` on. */
static inline void write_shard(bench *b, int first)
{
    static const char *const files[] = {"hospital_00.h5"};
    fb_shard_writer *writer = NULL;
    snprintf(b->folder, sizeof b->folder, "/tmp/fb_trainer_XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    must(fb_shard_writer_create(b->folder, files[0], "A", 0, &writer));
    for (int number = first; number < CASES; number++)
        add_case(writer, number);
    must(fb_shard_writer_finish(&writer));
    must(fb_checksums_write(b->folder, files, 1));
    must(fb_shard_open(b->folder, files[0], 1 << 24, &b->shard));
}

static inline void start_again(bench *b)
{
    memcpy(b->w, b->start, (size_t)b->params->count * sizeof *b->w);
    fb_moments_zero(b->subset->count, &b->moments);
}

static inline void open_part(bench *b, int first, const char *trainable, const fb_ops *ops, int optimizer,
                             double weight_decay)
{
    uint8_t key[FB_KEY_BYTES];
    memset(b, 0, sizeof *b);
    char *argv[] = {"test",
                    "--data.shards=none",
                    "--run.output=none",
                    "--data.patch=8x8x8",
                    "--model.blocks_down=1,1",
                    "--model.blocks_up=1",
                    "--train.learning_rate=0.01",
                    "--privacy.mechanism=dpsgd"};
    must(fb_config_read(sizeof argv / sizeof *argv, argv, &b->config, &b->options));
    b->config.train_optimizer = optimizer;
    b->config.train_weight_decay = weight_decay;
    b->spec = hospital_spec;
    write_shard(b, first);
    must(fb_params_create(&b->spec, &b->params));
    must(fb_subset_create(b->params, trainable, &b->subset));
    must(fb_trainer_create(&b->config, &b->spec, b->params, b->subset, ops, &b->trainer));
    must(fb_moments_create(b->subset->count, &b->moments));
    must(fb_key_make(FB_KEY_SEED, 5, NULL, 0, key));
    must(fb_noise_create(key, &b->noise));
    must(FB_ALLOC(b->w, b->params->count, "model"));
    must(FB_ALLOC(b->start, b->params->count, "model"));
    fb_params_init(b->params, 1, b->start);
    start_again(b);
}

static inline void open_bench(bench *b, const char *trainable, const fb_ops *ops, int optimizer, double weight_decay)
{
    open_part(b, 0, trainable, ops, optimizer, weight_decay);
}

static inline void close_bench(bench *b)
{
    static const char *const files[] = {"hospital_00.h5", "SHA256SUMS"};
    char path[128];
    fb_shard_close(&b->shard);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", b->folder, files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(b->folder), 0);
    fb_trainer_destroy(&b->trainer);
    fb_moments_free(&b->moments);
    fb_noise_destroy(&b->noise);
    fb_subset_destroy(&b->subset);
    fb_params_destroy(&b->params);
    fb_options_destroy(&b->options);
    FB_FREE(b->w);
    FB_FREE(b->start);
}

static inline fb_dpsgd_plan make_plan(const bench *b, double clip_norm, double noise_multiplier, double batch,
                                      int64_t epochs)
{
    const fb_dpsgd_spec spec = {clip_norm, noise_multiplier, batch, CASES, epochs, b->subset->count};
    fb_dpsgd_plan plan;
    must(fb_dpsgd_plan_make(&spec, &plan));
    return plan;
}

/* A private round on b->w. */
static inline fb_dpsgd_report run_round(bench *b, const fb_dpsgd_plan *plan, uint32_t round, uint32_t attempt,
                                        fb_train_report *report)
{
    fb_gauss *gauss = NULL;
    must(fb_gauss_create(plan->sigma, &gauss));
    fb_train_dpsgd dpsgd = {.plan = plan, .gauss = gauss, .noise = b->noise, .attempt = attempt};
    must(fb_trainer_run(b->trainer, &b->shard, 1, HOSPITAL, round, &dpsgd, b->w, &b->moments, report));
    fb_gauss_destroy(&gauss);
    return dpsgd.report;
}

static inline fb_dpsgd_report run_private(bench *b, const fb_dpsgd_plan *plan, uint32_t attempt,
                                          fb_train_report *report)
{
    return run_round(b, plan, ROUND, attempt, report);
}

static inline int is_trained(const fb_subset *subset, int64_t i)
{
    for (int r = 0; r < subset->range_count; r++)
        if (i >= subset->ranges[r].offset && i < subset->ranges[r].offset + subset->ranges[r].count)
            return 1;
    return 0;
}
