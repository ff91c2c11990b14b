/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/range.h"
#include "core/timer.h"
#include "fed/federation.h"
#include "fed/schedule.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

static void reset_reports(fb_federation *federation)
{
    federation->sum_cosine = NAN;
    for (int h = 0; h < federation->hospital_count; h++) {
        fb_hospital *hospital = &federation->hospitals[h];
        const int64_t releases = hospital->report.releases, releases_all = hospital->report.releases_all;
        hospital->report = (fb_hospital_report){.releases = releases,
                                                .releases_all = releases_all,
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

fb_status fb_round_gather_reports(fb_federation *federation, fb_hospital_report *reports)
{
    return fb_status_or_abort(federation->comm, gather_reports(federation, reports));
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

/* --- federated: who takes part, and what an earlier run left of the round --- */

typedef struct round_start {
    uint32_t round;
    uint8_t model_hash[16];
    int64_t *participates; /* (hospital_count) owned */
} round_start;

/* Looks for the stored messages of this rank's participants, and for the server's. attempt: the highest of theirs. */
static fb_status find_own(fb_federation *federation, const round_start *start, uint32_t first_attempt, double *attempt)
{
    const fb_frame_info sum = fb_server_frame(federation, start->round, start->model_hash);
    for (int h = 0; h < federation->hospital_count; h++) {
        fb_hospital *hospital = &federation->hospitals[h];
        if (!hospital->mine || !start->participates[h])
            continue;
        FB_TRY(fb_hospital_find(federation, hospital, start->round, start->model_hash, first_attempt));
        *attempt = fmax(*attempt, hospital->letter.attempt);
    }
    if (!federation->server_outbox)
        return FB_OK;
    fb_letter_free(&federation->server_letter);
    FB_TRY(fb_outbox_find(federation->server_outbox, &sum, first_attempt, &federation->server_letter));
    *attempt = fmax(*attempt, federation->server_letter.attempt);
    return FB_OK;
}

/* Where hospitals protect each other with one sum of noise, a second attempt of one is one of all: two sums that share
 * some of their noise would be noised less than either. Collective. */
static fb_status find_letters(fb_federation *federation, const round_start *start)
{
    double attempt = 0.0;
    FB_TRY(fb_status_agree(federation->comm, find_own(federation, start, 0, &attempt)));
    if (federation->privacy->release.trust == FB_TRUST_LOCAL)
        return FB_OK;
    FB_TRY(fb_comm_largest(federation->comm, &attempt));
    if (attempt == 0.0)
        return FB_OK;
    fb_log_warn(
        "round %u: all its hospitals are at attempt %.0f, since they share their noise; each attempt is charged",
        start->round + 1, attempt);
    return fb_status_agree(federation->comm, find_own(federation, start, (uint32_t)attempt, &attempt));
}

static fb_status start_round(fb_federation *federation, uint32_t round, round_start *start)
{
    const fb_config *config = federation->config;
    *start = (round_start){.round = round};
    hash_model(federation, start->model_hash);
    fb_status status = FB_ALLOC(start->participates, federation->hospital_count, "participants");
    if (status == FB_OK)
        status = fb_schedule_participants((uint64_t)config->run_seed, round, federation->hospital_count,
                                          config->federation_participation, start->participates);
    status = fb_status_agree(federation->comm, status);
    return status == FB_OK ? find_letters(federation, start) : status;
}

/* What the participants of this rank will have spent after the round, the most of them. */
static fb_status spending_after(const fb_federation *federation, const round_start *start, double *most)
{
    for (int h = 0; h < federation->hospital_count; h++) {
        const fb_hospital *hospital = &federation->hospitals[h];
        fb_spent spent;
        if (!hospital->outbox || !start->participates[h])
            continue;
        const int64_t releases = fb_ledger_releases(fb_outbox_ledger(hospital->outbox)) + !hospital->letter.charged;
        FB_TRY(fb_privacy_plan_spent(federation->privacy, h, releases, &spent));
        if (!hospital->letter.charged)
            *most = fmax(*most, spent.epsilon);
    }
    return FB_OK;
}

fb_status fb_round_affordable(fb_federation *federation, uint32_t round, int *affordable, double *most)
{
    const double limit = federation->config->privacy_stop_at_epsilon;
    round_start start = {0};
    *affordable = 1;
    *most = 0.0;
    if (limit == 0.0 || federation->config->run_mode != FB_MODE_FEDERATED)
        return FB_OK;
    fb_status status = start_round(federation, round, &start);
    if (status == FB_OK)
        status = fb_status_agree(federation->comm, spending_after(federation, &start, most));
    if (status == FB_OK)
        status = fb_comm_largest(federation->comm, most);
    FB_FREE(start.participates);
    *affordable = *most <= limit;
    return status;
}

/* --- federated: the round --- */

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
        for (int i = 0; i < federation->hospitals[h].message_count; i++) {
            FB_TRY(fb_comm_send(federation->comm, federation->hospitals[h].messages[i].bytes,
                                federation->hospitals[h].messages[i].size_bytes));
            fb_kill_point("message.sent");
        }
    return FB_OK;
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
    fb_range_begin("exchange and aggregate");
    fb_status status = send_messages(federation);
    if (status == FB_OK && fb_comm_rank(federation->comm) == 0)
        status = fb_server_round(federation, round, participates, model_hash);
    if (status == FB_OK)
        status = fb_comm_flush(federation->comm);
    fb_range_end();
    status = fb_status_or_abort(federation->comm, status);
    for (int h = 0; h < federation->hospital_count; h++)
        fb_hospital_drop_messages(&federation->hospitals[h]);
    return status;
}

/* After the exchange every rank knows the global update, by which select = public goes. */
static void note_change(fb_federation *federation)
{
    if (federation->change)
        fb_subset_difference(federation->subset, federation->w, federation->w_previous, federation->change);
}

static fb_status federated_round(fb_federation *federation, uint32_t round)
{
    round_start start = {0};
    fb_status status = start_round(federation, round, &start);
    if (status == FB_OK)
        status =
            fb_status_agree(federation->comm, train_hospitals(federation, round, start.participates, start.model_hash));
    if (status == FB_OK && federation->w_previous)
        memcpy(federation->w_previous, federation->w, (size_t)federation->params->count * sizeof(float));
    if (status == FB_OK)
        status = exchange(federation, round, start.participates, start.model_hash);
    if (status == FB_OK)
        age_moments(federation, start.participates);
    FB_FREE(start.participates);
    if (status == FB_OK)
        status = broadcast_model(federation);
    if (status == FB_OK)
        note_change(federation);
    return status;
}

/* --- the baselines --- */

/* The pooled shards on rank 0; its figures are reported under the first hospital. */
/* ReLU turns what is no number into 0, so that a loss can look well when the model does not. */
static fb_status check_model(const fb_federation *federation)
{
    for (int64_t i = 0; i < federation->params->count; i++)
        if (!isfinite(federation->w[i]))
            return FB_FAIL("parameter %lld became %g: the training diverged; lower train.learning_rate", (long long)i,
                           (double)federation->w[i]);
    return FB_OK;
}

static fb_status train_pooled(fb_federation *federation, uint32_t round)
{
    fb_shard **shards = NULL;
    fb_train_report trained = {0};
    fb_hospital_report *report = &federation->hospitals[0].report;
    const double start_s = fb_time_s();
    FB_TRY(FB_ALLOC(shards, federation->hospital_count, "pooled shards"));
    for (int h = 0; h < federation->hospital_count; h++)
        shards[h] = federation->hospitals[h].shard;
    fb_status status =
        fb_trainer_run(federation->trainer, shards, federation->hospital_count, (uint32_t)federation->hospital_count,
                       round, NULL, federation->w, &federation->moments, &trained);
    FB_FREE(shards);
    if (status == FB_OK)
        status = check_model(federation);
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

/* Mode local: a round that was charged before is drawn as it was or, where its noise is lost, under another number. */
static void number_attempt(const fb_federation *federation, fb_hospital *hospital, uint32_t round)
{
    const fb_ledger_entry *last = hospital->ledger ? fb_ledger_last(hospital->ledger, round) : NULL;
    hospital->letter.attempt = last ? last->attempt + !fb_hospital_repeats(federation) : 0;
}

/* The hospital's own model is evaluated and kept: its round is charged before, once for the same model. */
static fb_status charge_model(const fb_federation *federation, fb_hospital *hospital, uint32_t round)
{
    fb_ledger_entry entry = {.attempt = hospital->letter.attempt,
                             .round = round,
                             .hospital = (uint32_t)hospital->index,
                             .steps = hospital->report.steps,
                             .count = federation->subset->count};
    if (!hospital->ledger)
        return FB_OK;
    fb_sha256(hospital->model, federation->params->count * (int64_t)sizeof *hospital->model, entry.message_sha256);
    const fb_ledger_entry *last = fb_ledger_last(hospital->ledger, round);
    if (last && last->attempt == entry.attempt && strcmp(last->message_sha256, entry.message_sha256) == 0)
        return FB_OK;
    return fb_ledger_append(hospital->ledger, &entry);
}

static fb_status train_alone(fb_federation *federation, fb_hospital *hospital, uint32_t round)
{
    number_attempt(federation, hospital, round);
    fb_status status = fb_hospital_train(federation, hospital, round, hospital->model, &hospital->moments);
    if (status == FB_OK)
        status = charge_model(federation, hospital, round);
    fb_hospital_report_releases(hospital, round);
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
    FB_TRY(fb_round_gather_reports(federation, reports));
    if (fb_comm_rank(federation->comm) == 0)
        split_time(federation, reports, fb_time_s() - start_s, times);
    return FB_OK;
}
