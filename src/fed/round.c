/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/frame.h"
#include "core/mem.h"
#include "core/timer.h"
#include "fed/federation.h"
#include "fed/schedule.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

static void reset_reports(fb_federation *federation)
{
    for (int h = 0; h < federation->hospital_count; h++) {
        fb_hospital *hospital = &federation->hospitals[h];
        const int64_t releases = hospital->report.releases;
        hospital->report = (fb_hospital_report){.releases = releases,
                                                .update_cosine = NAN,
                                                .update_snr = NAN,
                                                .clip_rate = NAN,
                                                .selection_overlap = NAN,
                                                .norm_scale = NAN,
                                                .train_loss = NAN};
    }
}

/* The rank that fills a hospital's report: the one that plays it, but rank 0 trains for all in mode centralised. */
static int reporting_rank(const fb_federation *federation, int hospital)
{
    return federation->config->run_mode == FB_MODE_CENTRALISED ? 0 : federation->rank_of[hospital];
}

/* Every hospital's report on rank 0, from the rank that filled it. */
static fb_status gather_reports(fb_federation *federation, fb_hospital_report *reports)
{
    const int hospitals = federation->hospital_count, ranks = fb_comm_size(federation->comm);
    const int root = fb_comm_rank(federation->comm) == 0;
    fb_hospital_report *own = NULL, *all = NULL;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, FB_ALLOC(own, hospitals, "reports"), done);
    FB_TRY_GOTO(status, FB_ALLOC(all, root ? (int64_t)hospitals * ranks : 0, "reports"), done);
    for (int h = 0; h < hospitals; h++)
        own[h] = federation->hospitals[h].report;
    FB_TRY_GOTO(status, fb_comm_gather(federation->comm, own, hospitals * (int64_t)sizeof *own, all), done);
    for (int h = 0; h < hospitals && root; h++)
        reports[h] = all[reporting_rank(federation, h) * hospitals + h];
done:
    FB_FREE(own);
    FB_FREE(all);
    return status;
}

/* Splits the time of a round: the ranks train side by side, so the slowest of each kind counts. Rank 0. */
static void split_time(const fb_federation *federation, const fb_hospital_report *reports, double elapsed_s,
                       fb_round_times *times)
{
    for (int rank = 0; rank < fb_comm_size(federation->comm); rank++) {
        double train_s = 0.0, privacy_s = 0.0;
        for (int h = 0; h < federation->hospital_count; h++) {
            train_s += reporting_rank(federation, h) == rank ? reports[h].train_seconds : 0.0;
            privacy_s += reporting_rank(federation, h) == rank ? reports[h].privacy_seconds : 0.0;
        }
        times->train_s = fmax(times->train_s, train_s);
        times->privacy_s = fmax(times->privacy_s, privacy_s);
    }
    times->comm_s = fmax(0.0, elapsed_s - times->train_s - times->privacy_s);
}

/* --- federated --- */

static void hash_model(const fb_federation *federation, uint8_t hash[16])
{
    crypto_generichash(hash, 16, (const uint8_t *)federation->w, (size_t)federation->params->count * sizeof(float),
                       NULL, 0);
}

static fb_status train_hospitals(fb_federation *federation, uint32_t round, const int64_t *participates,
                                 const uint8_t model_hash[16])
{
    for (int h = 0; h < federation->hospital_count; h++)
        if (federation->hospitals[h].mine && participates[h])
            FB_TRY(fb_hospital_round(federation, &federation->hospitals[h], round, model_hash));
    return FB_OK;
}

static fb_status send_messages(fb_federation *federation)
{
    for (int h = 0; h < federation->hospital_count; h++)
        for (int i = 0; i < federation->hospitals[h].message_count; i++)
            FB_TRY(fb_comm_send(federation->comm, federation->hospitals[h].messages[i].bytes,
                                federation->hospitals[h].messages[i].size_bytes));
    return FB_OK;
}

/* The server's view of a round in progress. */
typedef struct server {
    fb_federation *federation;
    uint32_t round;
    const int64_t *participates; /* (hospital_count) */
    const uint8_t *model_hash;   /* 16 bytes */
    int *received;               /* (hospital_count) messages so far */
    uint32_t *implied;           /* (privacy->budget.count) scratch for select = random */
} server;

/* Which sum a hospital's i-th message belongs to: the update, then Adam's first and second moments. */
static fb_aggregate *sum_of(const fb_federation *federation, int message)
{
    fb_aggregate *const sums[FB_MESSAGES_MAX] = {federation->aggregate, federation->aggregate_m,
                                                 federation->aggregate_v};
    return sums[message];
}

static fb_status accept(server *s, const uint8_t *bytes, int64_t size_bytes)
{
    fb_federation *federation = s->federation;
    fb_frame_info info;
    FB_TRY(fb_frame_peek(bytes, size_bytes, &info));
    const int hospital = (int)info.hospital;
    const int messages = federation->config->train_momentum == FB_MOMENTUM_AVERAGE ? FB_MESSAGES_MAX : 1;
    if (info.hospital >= (uint32_t)federation->hospital_count || !s->participates[hospital] ||
        s->received[hospital] == messages)
        return FB_FAIL("server: unexpected message of hospital %u in round %u", info.hospital, s->round + 1);
    const int message = s->received[hospital]++;
    fb_frame_info expected = {s->round, info.hospital, federation->privacy->divisor[hospital], {0}};
    memcpy(expected.model_hash, s->model_hash, sizeof expected.model_hash);

    const int implied = message == 0 && federation->privacy->release.select == FB_SELECT_RANDOM;
    const int64_t n = federation->subset->count, count = federation->privacy->budget.count;
    if (implied) {
        const fb_rng rng = fb_hospital_select_rng(federation, hospital, s->round);
        FB_TRY(fb_select_random(&rng, n, count, s->implied));
    }
    fb_update update = {0};
    fb_status status = fb_frame_decode(bytes, size_bytes, &expected, n, message == 0 ? count : n,
                                       implied ? s->implied : NULL, implied ? count : 0, &update);
    const int uniform = federation->config->federation_weighting == FB_WEIGHTING_UNIFORM;
    if (status == FB_OK)
        status = fb_aggregate_add(sum_of(federation, message), &update, uniform ? 1 : federation->steps[hospital],
                                  expected.steps);
    fb_update_free(&update);
    return status;
}

static fb_status receive_all(server *s, int expected)
{
    fb_status status = FB_OK;
    for (int i = 0; i < expected && status == FB_OK; i++) {
        uint8_t *bytes = NULL;
        int64_t size_bytes = 0;
        FB_TRY(fb_comm_receive(s->federation->comm, &bytes, &size_bytes));
        status = accept(s, bytes, size_bytes);
        FB_FREE(bytes);
    }
    return status;
}

static fb_status apply_sums(fb_federation *federation)
{
    const size_t size_bytes = (size_t)federation->subset->count * sizeof(float);
    float *trained = federation->dw; /* this round's changes are on their way */
    fb_subset_gather(federation->subset, federation->w, trained);
    FB_TRY(fb_aggregate_apply(federation->aggregate, trained));
    fb_subset_scatter(federation->subset, trained, federation->w);
    if (federation->config->train_momentum != FB_MOMENTUM_AVERAGE)
        return FB_OK;
    memset(federation->moments.m, 0, size_bytes);
    memset(federation->moments.v, 0, size_bytes);
    FB_TRY(fb_aggregate_apply(federation->aggregate_m, federation->moments.m));
    return fb_aggregate_apply(federation->aggregate_v, federation->moments.v);
}

/* Rank 0: receives every participant's messages and makes the new model. */
static fb_status serve(fb_federation *federation, uint32_t round, const int64_t *participates,
                       const uint8_t model_hash[16])
{
    server s = {federation, round, participates, model_hash, NULL, NULL};
    fb_status status = FB_OK;
    int expected = 0;
    for (int message = 0; message < FB_MESSAGES_MAX; message++)
        if (sum_of(federation, message))
            fb_aggregate_reset(sum_of(federation, message));
    for (int h = 0; h < federation->hospital_count; h++)
        expected += participates[h] ? (federation->aggregate_m ? FB_MESSAGES_MAX : 1) : 0;
    FB_TRY_GOTO(status, FB_ALLOC(s.received, federation->hospital_count, "server"), done);
    FB_TRY_GOTO(status, FB_ALLOC(s.implied, federation->privacy->budget.count, "server"), done);
    FB_TRY_GOTO(status, receive_all(&s, expected), done);
    status = apply_sums(federation);
done:
    FB_FREE(s.received);
    FB_FREE(s.implied);
    return status;
}

/* Averaged moments come from hospitals that took different numbers of steps; for Adam's bias correction theirs is the
 * mean. A hospital's own count would be wrong for moments that are mostly others'. */
static void age_moments(fb_federation *federation, const int64_t *participates)
{
    const int uniform = federation->config->federation_weighting == FB_WEIGHTING_UNIFORM;
    federation->moments.step +=
        fb_schedule_mean_steps(federation->hospital_count, participates, federation->steps, uniform);
}

static fb_status broadcast_model(fb_federation *federation)
{
    const int64_t size_bytes = federation->subset->count * (int64_t)sizeof(float); /* of a moment */
    fb_status status =
        fb_comm_broadcast(federation->comm, federation->w, federation->params->count * (int64_t)sizeof(float));
    if (status == FB_OK && federation->config->train_momentum == FB_MOMENTUM_AVERAGE) {
        status = fb_comm_broadcast(federation->comm, federation->moments.m, size_bytes);
        if (status == FB_OK)
            status = fb_comm_broadcast(federation->comm, federation->moments.v, size_bytes);
    }
    return fb_status_or_abort(federation->comm, status);
}

static fb_status exchange(fb_federation *federation, uint32_t round, const int64_t *participates,
                          const uint8_t model_hash[16])
{
    fb_status status = send_messages(federation);
    if (status == FB_OK && fb_comm_rank(federation->comm) == 0)
        status = serve(federation, round, participates, model_hash);
    if (status == FB_OK)
        status = fb_comm_flush(federation->comm);
    status = fb_status_or_abort(federation->comm, status);
    for (int h = 0; h < federation->hospital_count; h++)
        fb_hospital_drop_messages(&federation->hospitals[h]);
    return status;
}

static fb_status federated_round(fb_federation *federation, uint32_t round)
{
    const fb_config *config = federation->config;
    const int hospitals = federation->hospital_count;
    uint8_t model_hash[16];
    int64_t *participates = NULL;
    hash_model(federation, model_hash);
    fb_status status = FB_ALLOC(participates, hospitals, "participants");
    if (status == FB_OK)
        status = fb_schedule_participants((uint64_t)config->run_seed, round, hospitals,
                                          config->federation_participation, participates);
    if (status == FB_OK)
        status = train_hospitals(federation, round, participates, model_hash);
    status = fb_status_agree(federation->comm, status);
    if (status == FB_OK)
        status = exchange(federation, round, participates, model_hash);
    if (status == FB_OK)
        age_moments(federation, participates);
    FB_FREE(participates);
    return status == FB_OK ? broadcast_model(federation) : status;
}

/* --- the baselines --- */

/* The pooled shards on rank 0; its figures are reported under the first hospital. */
static fb_status train_pooled(fb_federation *federation, uint32_t round)
{
    fb_shard **shards = NULL;
    fb_train_report trained = {0};
    fb_hospital_report *report = &federation->hospitals[0].report;
    const double start_s = fb_time_s();
    FB_TRY(FB_ALLOC(shards, federation->hospital_count, "pooled shards"));
    for (int h = 0; h < federation->hospital_count; h++)
        shards[h] = federation->hospitals[h].shard;
    const fb_status status =
        fb_trainer_run(federation->trainer, shards, federation->hospital_count, (uint32_t)federation->hospital_count,
                       round, NULL, federation->w, &federation->moments, &trained);
    FB_FREE(shards);
    report->participated = 1;
    report->steps = trained.steps;
    report->train_loss = trained.loss_mean;
    report->train_seconds = fb_time_s() - start_s;
    return fb_error_context(status, "centralised training, round %u", round + 1);
}

static fb_status centralised_round(fb_federation *federation, uint32_t round)
{
    const int root = fb_comm_rank(federation->comm) == 0;
    FB_TRY(fb_status_agree(federation->comm, root ? train_pooled(federation, round) : FB_OK));
    return broadcast_model(federation);
}

static fb_status train_alone(fb_federation *federation, fb_hospital *hospital, uint32_t round)
{
    const fb_status status = fb_hospital_train(federation, hospital, round, hospital->model, &hospital->moments);
    hospital->report.releases += federation->privacy->dpsgd != NULL; /* its model, at the end */
    return fb_error_context(status, "hospital %d (%s), round %u", hospital->index,
                            fb_hospital_name(federation, hospital->index), round + 1);
}

static fb_status local_round(fb_federation *federation, uint32_t round)
{
    fb_status status = FB_OK;
    for (int h = 0; h < federation->hospital_count && status == FB_OK; h++)
        if (federation->hospitals[h].mine)
            status = train_alone(federation, &federation->hospitals[h], round);
    return fb_status_agree(federation->comm, status);
}

fb_status fb_round_run(fb_federation *federation, uint32_t round, fb_hospital_report *reports, fb_round_times *times)
{
    const double start_s = fb_time_s();
    *times = (fb_round_times){0};
    reset_reports(federation);
    if (federation->config->run_mode == FB_MODE_FEDERATED)
        FB_TRY(federated_round(federation, round));
    else if (federation->config->run_mode == FB_MODE_CENTRALISED)
        FB_TRY(centralised_round(federation, round));
    else
        FB_TRY(local_round(federation, round));
    FB_TRY(fb_status_or_abort(federation->comm, gather_reports(federation, reports)));
    if (fb_comm_rank(federation->comm) == 0)
        split_time(federation, reports, fb_time_s() - start_s, times);
    return FB_OK;
}
