/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything a rank holds during a run: the global model, its hospitals, its share of the evaluation. Built once, used
 * by every round. All functions here are collective unless said otherwise.
 */
#pragma once

#include "comm/comm.h"
#include "config/config.h"
#include "data/shard.h"
#include "fed/aggregate.h"
#include "fed/evaluate.h"
#include "fed/outbox.h"
#include "fed/privacy_plan.h"
#include "fed/trainer.h"
#include "privacy/device.h"

/* What a hospital reports of a round, beside its message. Plain data: gathered as bytes. */
typedef struct fb_hospital_report {
    int64_t participated, steps, bytes_sent, shared, svt_tests;
    int64_t releases, releases_round;                  /* charged until this round, and in it */
    int64_t releases_all;                              /* and later ones, when a resumed run repeats a round */
    double update_cosine, update_snr, clip_rate;       /* diagnostics: released against true update */
    double selection_overlap, norm_scale;              /* diagnostics: NaN where they mean nothing */
    double train_loss, train_seconds, privacy_seconds; /* diagnostics */
} fb_hospital_report;

typedef struct fb_message {
    uint8_t *bytes; /* owned */
    int64_t size_bytes;
} fb_message;

enum { FB_MESSAGES_MAX = 3 }; /* update; with momentum = average also Adam's two moments */

/* A hospital that this rank plays; of the others only `index` is set. */
typedef struct fb_hospital {
    int index, mine;
    fb_shard *shard;    /* owned */
    fb_moments moments; /* owned; only where it keeps them: momentum = keep, mode local */
    float *model;       /* (params->count) mode local: the hospital's own model; else NULL; owned */
    fb_noise *noise;    /* owned; NULL without a mechanism */
    fb_gauss *gauss;    /* of the hospital's part of privacy->dpsgd; owned; NULL without */
    fb_outbox *outbox;  /* owned; NULL where nothing is sent or charged: without a mechanism, in mode local */
    fb_ledger *ledger;  /* owned; mode local with dpsgd: charges the rounds of a model that nobody asked for yet */
    fb_letter letter;   /* of the present round: found, or to be made */
    int message_count;
    fb_message messages[FB_MESSAGES_MAX]; /* of the present round */
    fb_hospital_report report;            /* of the present round */
} fb_hospital;

typedef struct fb_federation {
    const fb_config *config; /* borrowed */
    fb_comm *comm;           /* borrowed */
    fb_cohort *cohort;       /* owned, as everything below */
    int ranks;               /* that play the hospitals: those of comm, unless it is a plan for others */
    int hospital_count;
    int *rank_of;           /* (hospital_count) */
    int64_t *steps;         /* (hospital_count) local steps of a round, public: a hospital's weight */
    fb_hospital *hospitals; /* (hospital_count) */
    fb_shard *test;         /* NULL where this rank evaluates no test case */
    fb_net_spec net;
    fb_params *params;
    fb_subset *subset; /* what is trained and shared: n is its count */
    const fb_ops *ops; /* borrowed */
    fb_trainer *trainer;
    fb_evaluator *evaluator;
    fb_privacy_plan *privacy;
    fb_privacy_device *release_device;       /* NULL: releases are made on the processor */
    uint64_t run_nonce;                      /* public, of the whole run: keeps runs with one key file apart */
    char run_sha256[FB_SHA256_CHARS];        /* rank 0: of all that makes the run this one and no other */
    float *w;                                /* (params->count) the global model */
    float *w_local;                          /* (params->count) the model being trained */
    float *dw;                               /* (n) its change */
    fb_moments moments;                      /* global: momentum = average, and mode centralised */
    fb_moments moments_local;                /* of the model being trained, where hospitals keep none */
    float *w_previous;                       /* (params->count) before the last exchange; select = public */
    float *change;                           /* (n) the last global update; select = public */
    fb_noise *server_noise;                  /* rank 0, trust = central */
    fb_outbox *server_outbox;                /* rank 0, trust = central: the noised sums */
    fb_letter server_letter;                 /* of the present round */
    double sum_cosine;                       /* of it, before and after its noise: a diagnostic; NaN where unknown */
    fb_aggregate *aggregate;                 /* rank 0 */
    fb_aggregate *aggregate_m, *aggregate_v; /* rank 0, momentum = average */
} fb_federation;

/* Opens shards, makes the network and the initial model, opens keys and ledgers under `folder`/ledger. On error every
 * rank gets the same one. ops is borrowed. Errors: more ranks than hospitals, shards, configuration that does not fit
 * the data, memory. */
fb_status fb_federation_create(const fb_config *config, const fb_ops *ops, fb_comm *comm, const char *folder,
                               fb_federation **out) FB_MUST_USE;
void fb_federation_destroy(fb_federation **federation); /* not collective */

/* The two halves of create. describe: hospitals, network, what is shared and by which of `ranks` ranks each hospital is
 * played; no shard is opened and nothing large is allocated. build: the rest. With folder NULL nothing is written, so
 * that no message can be charged or found again; for measuring and checking. On an error of build, destroy it. */
fb_status fb_federation_describe(const fb_config *config, const fb_ops *ops, fb_comm *comm, int ranks,
                                 fb_federation **out) FB_MUST_USE;
fb_status fb_federation_build(fb_federation *federation, const char *folder) FB_MUST_USE;

/* What build allocates of models, changes and moments on a rank, and of sums on rank 0, of a described federation. Not
 * collective. */
int64_t fb_federation_model_bytes(const fb_federation *federation, int rank);
int64_t fb_federation_server_bytes(const fb_federation *federation);

/* What lasts from round to round, on all ranks together: models, the last global update and the moments that are kept.
 * Not collective. */
int64_t fb_federation_state_bytes(const fb_federation *federation);

/* Reads what build would read beside shards: the key file and the initial model. Not collective. */
fb_status fb_federation_check_files(const fb_federation *federation) FB_MUST_USE;

/* What tells key files apart and nothing of their keys: the hash of a key that nobody draws noise with. "" where there
 * is no key file. Not collective. */
fb_status fb_federation_key_mark(const fb_federation *federation, char mark[FB_SHA256_CHARS]) FB_MUST_USE;

/* Refuses a patch larger than a train case. Not collective. */
fb_status fb_federation_check_patch(const fb_config *config, const fb_shard *shard) FB_MUST_USE;

/* The network that the options describe. Not collective. */
fb_net_spec fb_federation_net(const fb_config *config);

const char *fb_hospital_name(const fb_federation *federation, int hospital);

/* --- hospital.c: one hospital's round. Not collective. --- */

/* Trains `w` (params->count) on the hospital's cases, with noise where privacy->dpsgd says so; fills what the report
 * says about training. */
fb_status fb_hospital_train(fb_federation *federation, fb_hospital *hospital, uint32_t round, float *w,
                            fb_moments *moments) FB_MUST_USE;

/* What identifies the hospital's message of a round. model_hash: of federation->w. */
fb_frame_info fb_hospital_frame(const fb_federation *federation, int hospital, uint32_t round,
                                const uint8_t model_hash[16]);

/* Whether training a round again gives the same: without noise in it, or with noise from a key that is still there. */
int fb_hospital_repeats(const fb_federation *federation);

/* Looks for the message of an earlier run, of attempt first_attempt or later: fills hospital->letter. */
fb_status fb_hospital_find(const fb_federation *federation, fb_hospital *hospital, uint32_t round,
                           const uint8_t model_hash[16], uint32_t first_attempt) FB_MUST_USE;

/* Sends the message that was found again, or trains from the global model, releases, encodes, stores, charges: fills
 * messages and report. */
fb_status fb_hospital_round(fb_federation *federation, fb_hospital *hospital, uint32_t round,
                            const uint8_t model_hash[16]) FB_MUST_USE;
void fb_hospital_drop_messages(fb_hospital *hospital);

typedef struct fb_hospital_time {
    fb_trainer_time training;
    double release_s;      /* to select, clip, add noise and encode */
    int64_t message_bytes; /* of what it would send in a round */
} fb_hospital_time;

/* Trains for about about_s seconds, as in a first round, and makes messages of it, which stay with the hospital; of a
 * federation that was built without a folder, and serves for nothing else afterwards. */
fb_status fb_hospital_measure(fb_federation *federation, fb_hospital *hospital, double about_s,
                              fb_hospital_time *out) FB_MUST_USE;

const fb_ledger *fb_hospital_ledger(const fb_hospital *hospital); /* NULL: it has none. Borrowed. */

/* Fills in what the hospital's ledger, if it has one, says after a round. */
void fb_hospital_report_releases(fb_hospital *hospital, uint32_t round);

/* The public random numbers that select coordinates of a hospital in a round. */
fb_rng fb_hospital_select_rng(const fb_federation *federation, int hospital, uint32_t round);

/* Whether hospital and server both derive the coordinates, so that they do not travel; if so, writes them to index
 * (privacy->budget.count). */
int fb_hospital_index_is_implied(const fb_federation *federation);
fb_status fb_hospital_derive_index(const fb_federation *federation, int hospital, uint32_t round,
                                   uint32_t *index) FB_MUST_USE;

/* --- server.c: rank 0's part of a round. Not collective. --- */

/* What identifies the server's noised sum of a round. */
fb_frame_info fb_server_frame(const fb_federation *federation, uint32_t round, const uint8_t model_hash[16]);

/* Receives every participant's messages and makes the new model. */
fb_status fb_server_round(fb_federation *federation, uint32_t round, const int64_t *participates,
                          const uint8_t model_hash[16]) FB_MUST_USE;

/* Seconds to take in the messages of this hospital, as fb_hospital_measure left them, and to make a new model. */
fb_status fb_server_measure(fb_federation *federation, const fb_hospital *hospital, double *accept_s,
                            double *apply_s) FB_MUST_USE;

/* --- round.c: one round of each mode --- */

typedef struct fb_round_times {
    double train_s;   /* local training of the slowest rank */
    double privacy_s; /* selection, clip, noise, encoding, ledger of the slowest rank */
    double comm_s;    /* the rest: messages, decoding, aggregation, broadcast, waiting */
} fb_round_times;

/* One round in the configured mode; afterwards federation->w is the new global model on every rank (mode local: each
 * hospital's model is its own). reports (hospital_count) are filled on rank 0. */
fb_status fb_round_run(fb_federation *federation, uint32_t round, fb_hospital_report *reports,
                       fb_round_times *times) FB_MUST_USE;

/* Refuses a run whose first round alone spends more than privacy.stop_at_epsilon. Not collective. */
fb_status fb_round_check_first(const fb_config *config, double spent) FB_MUST_USE;

/* Every hospital's report, from the rank that filled it, into reports (hospital_count) of rank 0. */
fb_status fb_round_gather_reports(fb_federation *federation, fb_hospital_report *reports) FB_MUST_USE;

/* Whether every hospital can take part in the round within privacy.stop_at_epsilon; if not, *most is what one would
 * have spent. The same on every rank. */
fb_status fb_round_affordable(fb_federation *federation, uint32_t round, int *affordable, double *most) FB_MUST_USE;

/* --- score.c: the global model on validation and test cases, spread over the ranks --- */

typedef struct fb_score {
    double dice[FB_REGIONS], mean; /* NaN where no case has the region, or none was evaluated */
    int64_t cases[FB_REGIONS];     /* cases that have the region */
} fb_score;

void fb_score_clear(fb_score *score); /* nothing evaluated: no case, every Dice NaN. Not collective. */

/* Scores of federation->w (mode local: the mean over hospitals of each hospital's own model), on rank 0. */
fb_status fb_score_run(fb_federation *federation, fb_score *validation, fb_score *test) FB_MUST_USE;
