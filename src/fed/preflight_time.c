/* SPDX-License-Identifier: Apache-2.0 */
#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "fed/preflight_impl.h"
#include "fed/schedule.h"

#include <math.h>
#include <string.h>

static const double MEASURE_S = 1.5;         /* of training steps */
static const double NETWORK_BYTES_S = 1.0e9; /* where no network was measured: 10 Gbit/s Ethernet */
enum { ROUNDS_LOOKED_AT = 200 };             /* of the schedule of participants */

/* --- measuring --- */

/* The second of two evaluations of one case: the first makes the network. */
static fb_status measure_evaluation(fb_preflight_state *s, fb_shard *shard, fb_split split)
{
    const fb_federation *f = s->federation;
    const fb_volume *volume = NULL;
    fb_counts counts;
    FB_TRY(fb_shard_volume(shard, split, 0, &volume));
    FB_TRY(fb_evaluator_case(f->evaluator, f->w, volume, &counts));
    const double start_s = fb_time_s();
    FB_TRY(fb_evaluator_case(f->evaluator, f->w, volume, &counts));
    const int64_t voxels =
        fb_evaluator_voxels(f->net.levels, f->config->eval_window, f->config->eval_overlap, volume->shape);
    s->own.voxel_s = (fb_time_s() - start_s) / (double)voxels;
    return FB_OK;
}

static fb_status measure_own(fb_preflight_state *s)
{
    fb_federation *f = s->federation;
    fb_hospital *mine = NULL;
    for (int h = f->hospital_count - 1; h >= 0; h--)
        mine = f->hospitals[h].mine ? &f->hospitals[h] : mine;
    if (!mine)
        return FB_OK;
    if (fb_memory_evaluates(s->config, FB_SPLIT_TEST) && f->test)
        FB_TRY(measure_evaluation(s, f->test, FB_SPLIT_TEST));
    for (int h = 0; h < f->hospital_count && fb_memory_evaluates(s->config, FB_SPLIT_VALIDATION); h++)
        if (f->hospitals[h].mine && s->own.voxel_s == 0.0 &&
            fb_shard_cases(f->hospitals[h].shard, FB_SPLIT_VALIDATION) > 0)
            FB_TRY(measure_evaluation(s, f->hospitals[h].shard, FB_SPLIT_VALIDATION));
    FB_TRY(fb_hospital_measure(f, mine, MEASURE_S, &s->own.hospital));
    if (s->root && f->aggregate)
        FB_TRY(fb_server_measure(f, mine, &s->own.accept_s, &s->own.apply_s));
    fb_hospital_drop_messages(mine);
    return FB_OK;
}

/* Of the model to all ranks: the second one, once there are connections. */
static fb_status measure_broadcast(fb_preflight_state *s)
{
    fb_federation *f = s->federation;
    const int64_t bytes = f->params->count * (int64_t)sizeof(float);
    if (fb_comm_size(s->comm) == 1)
        return FB_OK;
    FB_TRY(fb_comm_broadcast(s->comm, f->w_local, bytes));
    FB_TRY(fb_status_agree(s->comm, FB_OK));
    const double start_s = fb_time_s();
    FB_TRY(fb_comm_broadcast(s->comm, f->w_local, bytes));
    FB_TRY(fb_status_agree(s->comm, FB_OK));
    s->own.broadcast_s = fb_time_s() - start_s;
    return FB_OK;
}

fb_status fb_preflight_measure(fb_preflight_state *s)
{
    fb_log_info("measuring a few training steps and an evaluation on every rank");
    FB_TRY(fb_federation_build(s->federation, NULL));
    FB_TRY(fb_status_agree(s->comm, measure_own(s)));
    FB_TRY(measure_broadcast(s));
    fb_host_memory now;
    fb_host_memory_read("", &now);
    s->own.program_bytes = now.resident_bytes - fb_mem_peak_bytes();
    return fb_comm_gather(s->comm, &s->own, sizeof s->own, s->all);
}

/* --- estimating --- */

/* Rank `rank` of the plan as it was measured; of another plan, as rank 0 was. */
static const fb_rank_figures *figures(const fb_preflight_state *s, int rank)
{
    return &s->all[s->what_if ? 0 : rank];
}

/* Seconds of the slowest rank in training and releasing for these participants. */
static double train_s(const fb_preflight_state *s, const int64_t *participates)
{
    const fb_federation *f = s->federation;
    const int pooled = s->config->run_mode == FB_MODE_CENTRALISED;
    double slowest = 0.0;
    for (int rank = 0; rank < s->ranks; rank++) {
        const fb_hospital_time *time = &figures(s, rank)->hospital;
        double seconds = 0.0;
        for (int h = 0; h < f->hospital_count; h++)
            if ((pooled ? rank == 0 : f->rank_of[h] == rank) && participates[h])
                seconds += (double)f->steps[h] * time->training.step_s + time->release_s;
        slowest = fmax(slowest, seconds);
    }
    return slowest;
}

/* The same, on the average of the first rounds: who takes part is drawn. */
static fb_status mean_train_s(const fb_preflight_state *s, double *mean)
{
    const int64_t rounds =
        s->config->federation_rounds < ROUNDS_LOOKED_AT ? s->config->federation_rounds : ROUNDS_LOOKED_AT;
    int64_t *participates = NULL;
    fb_status status = FB_ALLOC(participates, s->federation->hospital_count, "participants");
    *mean = 0.0;
    for (int64_t round = 0; round < rounds && status == FB_OK; round++) {
        status = fb_schedule_participants((uint64_t)s->config->run_seed, (uint32_t)round, s->federation->hospital_count,
                                          s->config->federation_participation, participates);
        if (status == FB_OK)
            *mean += train_s(s, participates) / (double)rounds;
    }
    FB_FREE(participates);
    return status;
}

/* Of a rank that has a case to evaluate, by preference this one. */
static double voxel_s(const fb_preflight_state *s, int rank)
{
    double seconds = figures(s, rank)->voxel_s;
    for (int other = 0; other < fb_comm_size(s->comm) && seconds == 0.0; other++)
        seconds = s->all[other].voxel_s;
    return seconds;
}

/* Seconds of the slowest rank in one evaluation. Mode local evaluates the model of each hospital on the test cases. */
static double evaluate_s(const fb_preflight_state *s)
{
    const fb_federation *f = s->federation;
    const fb_shard_facts *test = &s->facts[f->hospital_count];
    const int models = s->config->run_mode == FB_MODE_LOCAL ? f->hospital_count : 1;
    double slowest = 0.0;
    for (int rank = 0; rank < s->ranks; rank++) {
        const int64_t cases = f->cohort->test_cases;
        const double mine = cases > rank ? (double)((cases - rank + s->ranks - 1) / s->ranks) / (double)cases : 0.0;
        double voxels = 0.0;
        if (fb_memory_evaluates(s->config, FB_SPLIT_TEST))
            voxels += models * mine * (double)test->window_voxels[FB_SPLIT_TEST];
        for (int h = 0; h < f->hospital_count; h++)
            if (f->rank_of[h] == rank && fb_memory_evaluates(s->config, FB_SPLIT_VALIDATION))
                voxels += (double)s->facts[h].window_voxels[FB_SPLIT_VALIDATION];
        slowest = fmax(slowest, voxels * voxel_s(s, rank));
    }
    return slowest;
}

/* Decoding of what a rank's cases take: once, and in every round again what the cache does not hold. */
static void decode_s(const fb_preflight_state *s, double *once, double *again)
{
    const fb_federation *f = s->federation;
    *once = *again = 0.0;
    for (int rank = 0; rank < s->ranks; rank++) {
        double all = 0.0, more = 0.0;
        for (int h = 0; h < f->hospital_count; h++) {
            const fb_shard_facts *facts = &s->facts[h];
            const double bytes = (double)(facts->bytes[0] + facts->bytes[1] + facts->bytes[2]);
            if (f->rank_of[h] != rank || bytes == 0.0)
                continue;
            all += facts->read_s;
            more += facts->read_s * fmax(0.0, 1.0 - (double)s->config->data_cache_bytes / bytes);
        }
        *once = fmax(*once, all);
        *again = fmax(*again, more);
    }
}

/* Messages up, one model down. Bytes go by the measured rate of the broadcast. */
static double communication_s(const fb_preflight_state *s, double *bytes)
{
    const fb_federation *f = s->federation;
    const double model = (double)f->params->count * sizeof(float), measured = s->all->broadcast_s;
    const double hops = s->ranks > 1 ? ceil(log2((double)s->ranks)) : 0.0;
    const double rate = measured > 0.0 ? model * hops / measured : NETWORK_BYTES_S;
    const int federated = s->config->run_mode == FB_MODE_FEDERATED;
    const double messages = federated ? f->privacy->participants : 0.0;
    const double remote = messages * (double)(s->ranks - 1) / (double)s->ranks;
    *bytes = messages * (double)s->all->hospital.message_bytes + model * (s->ranks - 1);
    const double down = measured > 0.0 && !s->what_if ? measured : model * hops / rate;
    return remote * (double)s->all->hospital.message_bytes / rate + (s->ranks > 1 ? down : 0.0) +
           messages * s->all->accept_s + s->all->apply_s;
}

fb_status fb_preflight_time(fb_preflight_state *s)
{
    const fb_config *config = s->config;
    const int64_t rounds = config->federation_rounds,
                  evaluations = (rounds + config->eval_every - 1) / config->eval_every;
    const fb_hospital_time *time = &s->all->hospital;
    double training_s = 0.0, once_s = 0.0, again_s = 0.0, bytes = 0.0;
    FB_TRY(mean_train_s(s, &training_s));
    const double evaluation_s = config->eval_on == FB_EVAL_NONE ? 0.0 : evaluate_s(s);
    const double exchange_s = communication_s(s, &bytes);
    decode_s(s, &once_s, &again_s);
    s->round_s = training_s + exchange_s + again_s + evaluation_s * (double)evaluations / (double)rounds;
    s->run_s = s->round_s * (double)rounds + once_s;
    fb_log_info("estimate, measured on %s (%s): a step takes %.4g s (mean of %lld), %.4g s to select, add noise and "
                "encode",
                s->all->host, s->ops->name, time->training.step_s, (long long)time->training.steps, time->release_s);
    fb_log_info("estimate: a round takes %.4g s: training %.4g s on the slowest rank, exchange %.4g s for %.4g MB, "
                "evaluation %.4g s in each of %lld of %lld rounds%s",
                s->round_s, training_s, exchange_s, bytes / 1e6, evaluation_s, (long long)evaluations,
                (long long)rounds,
                s->what_if ? "; by this process alone, so without what ranks of one host take from each other" : "");
    return FB_OK;
}
