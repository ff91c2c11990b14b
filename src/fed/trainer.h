/* SPDX-License-Identifier: Apache-2.0
 *
 * Local training: epochs of single-sample steps of Adam or plain gradient descent (train.optimizer) over the train
 * cases of one or more shards. One trainer a rank plays all of its hospitals: only weights and moments change between
 * them. Only the parameters of `subset` are trained: the others keep their bits and have no moments.
 *
 * With patient-level privacy (privacy/dpsgd.h) a step takes a Poisson sample of the cases, clips each one's gradient,
 * adds noise to the sum and gives the result to the optimiser, weight decay included: from there on it is
 * post-processing. What is drawn for a case in a step (crop, flips, dropout) does not depend on who else is in it.
 */
#pragma once

#include "config/config.h"
#include "data/shard.h"
#include "nn/optim.h"
#include "nn/params.h"
#include "nn/subset.h"
#include "privacy/dpsgd.h"

typedef struct fb_trainer fb_trainer;

/* Adam's state; plain gradient descent leaves it at zero. restart: zeroed at the start of a round. */
typedef struct fb_moments {
    float *m, *v; /* (subset->count) owned */
    int64_t step; /* steps taken since the moments were zero */
} fb_moments;

typedef struct fb_train_report {
    int64_t steps;
    double loss_mean; /* over the samples; NAN when there were none */
} fb_train_report;

/* What makes a round private for patients. */
typedef struct fb_train_dpsgd {
    const fb_dpsgd_plan *plan; /* of the hospital; borrowed, as what follows */
    const fb_gauss *gauss;     /* of plan->sigma */
    fb_noise *noise;           /* the hospital's */
    uint32_t attempt;          /* addresses the noise, with round and step */
    fb_dpsgd_report report;    /* is added to */
} fb_train_dpsgd;

fb_status fb_moments_create(int64_t n, fb_moments *out) FB_MUST_USE;
void fb_moments_free(fb_moments *moments);
void fb_moments_zero(int64_t n, fb_moments *moments);

/* config, params, subset and ops are borrowed. */
fb_status fb_trainer_create(const fb_config *config, const fb_net_spec *spec, const fb_params *params,
                            const fb_subset *subset, const fb_ops *ops, fb_trainer **out) FB_MUST_USE;
void fb_trainer_destroy(fb_trainer **trainer);

/* train.epochs epochs over the pooled train cases of shards (shard_count), each case once an epoch in a fresh order;
 * with dpsgd (NULL: without) plan->steps steps over Poisson samples.
 * w (params->count) and moments are updated. `hospital` and `round` address the random numbers. Errors: shard, backend,
 * a plan for another number of cases.
 */
fb_status fb_trainer_run(fb_trainer *trainer, fb_shard *const *shards, int shard_count, uint32_t hospital,
                         uint32_t round, fb_train_dpsgd *dpsgd, float *w, fb_moments *moments,
                         fb_train_report *report) FB_MUST_USE;

typedef struct fb_trainer_time {
    double step_s; /* of a step, once all is warm */
    int64_t steps; /* that were timed */
} fb_trainer_time;

/* Takes real steps over the shard's train cases for about about_s seconds, at least three, and the time of one; with
 * dpsgd a step is its sample's. w and moments change. Errors: as of run. */
fb_status fb_trainer_measure(fb_trainer *trainer, fb_shard *shard, fb_train_dpsgd *dpsgd, double about_s, float *w,
                             fb_moments *moments, fb_trainer_time *out) FB_MUST_USE;

/* The backend's memory that fb_trainer_create takes, without that of train cases on a device. */
typedef struct fb_trainer_size {
    int64_t bytes;            /* all of it, but for: */
    int64_t scratch_bytes;    /* what the backend keeps for the largest convolution */
    int64_t activation_bytes; /* part of bytes: activations of the network and their gradients, and of each level: */
    int64_t level_bytes[FB_LEVELS_MAX];
    int64_t convolutions;
} fb_trainer_size;

/* Counts it, arguments as above, without taking it. */
fb_status fb_trainer_count(const fb_config *config, const fb_net_spec *spec, const fb_params *params,
                           const fb_subset *subset, const fb_ops *ops, fb_trainer_size *out) FB_MUST_USE;

/* What a round with dpsgd takes beside, of ordinary memory, for n trained parameters of so many. */
int64_t fb_trainer_private_bytes(int64_t n, int64_t parameters);
