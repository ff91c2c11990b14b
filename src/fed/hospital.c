/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/frame.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/range.h"
#include "core/timer.h"
#include "fed/federation.h"
#include "nn/chunk.h"

#include <math.h>
#include <string.h>

const char *fb_hospital_name(const fb_federation *federation, int hospital)
{
    return federation->cohort->hospitals[hospital].name;
}

fb_rng fb_hospital_select_rng(const fb_federation *federation, int hospital, uint32_t round)
{
    const int common = federation->privacy->release.trust != FB_TRUST_LOCAL; /* the sum needs the same coordinates */
    return (fb_rng){(uint64_t)federation->config->run_seed, FB_RNG_SELECT, common ? 0 : (uint32_t)hospital, round, 0};
}

int fb_hospital_index_is_implied(const fb_federation *federation)
{
    const fb_select select = federation->privacy->release.select;
    return select == FB_SELECT_RANDOM || select == FB_SELECT_PUBLIC;
}

fb_status fb_hospital_derive_index(const fb_federation *federation, int hospital, uint32_t round, uint32_t *index)
{
    const fb_rng rng = fb_hospital_select_rng(federation, hospital, round);
    const int64_t n = federation->subset->count, count = federation->privacy->budget.count;
    if (federation->privacy->release.select == FB_SELECT_RANDOM)
        return fb_select_random(&rng, n, count, index);
    return fb_select_public(&rng, n, round > 0 ? federation->change : NULL, count, index);
}

void fb_hospital_drop_messages(fb_hospital *hospital)
{
    for (int i = 0; i < hospital->message_count; i++)
        FB_FREE(hospital->messages[i].bytes);
    hospital->message_count = 0;
}

/* Adam's moments at the start of a round, as train.momentum says. Borrowed. */
static fb_moments *start_moments(fb_federation *federation, fb_hospital *hospital)
{
    const int64_t n = federation->subset->count;
    fb_moments *moments = &federation->moments_local;
    if (federation->config->train_momentum == FB_MOMENTUM_KEEP)
        return &hospital->moments;
    fb_moments_zero(n, moments);
    if (federation->config->train_momentum == FB_MOMENTUM_AVERAGE) {
        memcpy(moments->m, federation->moments.m, (size_t)n * sizeof(float));
        memcpy(moments->v, federation->moments.v, (size_t)n * sizeof(float));
        moments->step = federation->moments.step;
    }
    return moments;
}

/* Sums of products over an update. */
typedef struct products {
    double whole, dot, released, truth, noise;
} products;

/* Of a part of the coordinates, and of a part of those shared. */
static products sum_part(const fb_update *update, double grid_to_change, int64_t n, const float *dw, int chunk)
{
    double whole = 0.0, dot = 0.0, released = 0.0, truth = 0.0, noise = 0.0;
#pragma omp simd reduction(+ : whole)
    for (int64_t i = fb_chunk_begin(n, chunk); i < fb_chunk_begin(n, chunk + 1); i++)
        whole += (double)dw[i] * (double)dw[i];
#pragma omp simd reduction(+ : dot, released, truth, noise)
    for (int64_t k = fb_chunk_begin(update->count, chunk); k < fb_chunk_begin(update->count, chunk + 1); k++) {
        const double real = dw[update->index ? update->index[k] : k];
        const double value = update->f32 ? (double)update->f32[k] : (double)update->grid[k] * grid_to_change;
        dot += real * value;
        released += value * value;
        truth += real * real;
        noise += (value - real) * (value - real);
    }
    return (products){whole, dot, released, truth, noise};
}

/* Cosine of the released and the true update, and |true|^2 / |released - true|^2 over the shared coordinates. */
static void compare(const fb_update *update, int64_t steps, int64_t n, const float *dw, fb_hospital_report *report)
{
    const double grid_to_change = ldexp((double)steps, update->grid_log2);
    products part[FB_CHUNKS], sum = {0};
#pragma omp parallel for
    for (int chunk = 0; chunk < FB_CHUNKS; chunk++)
        part[chunk] = sum_part(update, grid_to_change, n, dw, chunk);
    for (int chunk = 0; chunk < FB_CHUNKS; chunk++) { /* in one order, whatever the threads */
        sum.whole += part[chunk].whole;
        sum.dot += part[chunk].dot;
        sum.released += part[chunk].released;
        sum.truth += part[chunk].truth;
        sum.noise += part[chunk].noise;
    }
    report->update_cosine = sum.dot / sqrt(sum.whole * sum.released);
    report->update_snr = sum.truth / sum.noise;
}

static fb_status encode(fb_hospital *hospital, const fb_frame_info *info, const fb_update *update, int implied)
{
    fb_message *message = &hospital->messages[hospital->message_count];
    FB_TRY(fb_frame_encode(info, update, implied, &message->bytes, &message->size_bytes));
    hospital->message_count++;
    hospital->report.bytes_sent += message->size_bytes;
    return FB_OK;
}

/* momentum = average: both moments travel whole. */
static fb_status encode_moments(fb_federation *federation, fb_hospital *hospital, const fb_frame_info *info)
{
    const int64_t n = federation->subset->count;
    const float *const moments[2] = {federation->moments_local.m, federation->moments_local.v};
    fb_update update = {0};
    fb_status status = FB_OK;
    for (int i = 0; i < 2 && status == FB_OK; i++) {
        FB_TRY_GOTO(status, fb_update_reserve(&update, n, n, FB_VALUES_F32), done);
        memcpy(update.f32, moments[i], (size_t)n * sizeof(float));
        status = encode(hospital, info, &update, 0);
    }
done:
    fb_update_free(&update);
    return status;
}

const fb_ledger *fb_hospital_ledger(const fb_hospital *hospital)
{
    return hospital->outbox ? fb_outbox_ledger(hospital->outbox) : hospital->ledger;
}

void fb_hospital_report_releases(fb_hospital *hospital, uint32_t round)
{
    fb_hospital_report *report = &hospital->report;
    const fb_ledger *ledger = fb_hospital_ledger(hospital);
    if (!ledger)
        return;
    report->releases = fb_ledger_releases_until(ledger, round);
    report->releases_round = report->releases - (round > 0 ? fb_ledger_releases_until(ledger, round - 1) : 0);
    report->releases_all = fb_ledger_releases(ledger);
}

/* The letter becomes the round's message: on disk and charged before anybody else sees it. */
static fb_status post(fb_hospital *hospital, const fb_frame_info *info)
{
    fb_letter *letter = &hospital->letter;
    FB_TRY(fb_outbox_post(hospital->outbox, info, letter));
    hospital->messages[0] = (fb_message){letter->bytes, letter->size_bytes};
    hospital->message_count = 1;
    hospital->report.bytes_sent = letter->size_bytes;
    letter->bytes = NULL; /* the message owns them now */
    fb_hospital_report_releases(hospital, info->round);
    return FB_OK;
}

/* Encodes the update; where messages are charged, by way of the outbox. */
static fb_status encode_and_post(const fb_federation *federation, fb_hospital *hospital, const fb_frame_info *info,
                                 const fb_update *update)
{
    fb_letter *letter = &hospital->letter;
    const int implied = fb_hospital_index_is_implied(federation);
    if (!hospital->outbox)
        return encode(hospital, info, update, implied);
    FB_TRY(fb_frame_encode(info, update, implied, &letter->bytes, &letter->size_bytes));
    return post(hospital, info);
}

/* Moments outlive the round, and they are in no message on disk. */
static int keeps_moments(const fb_federation *federation)
{
    return federation->config->train_momentum != FB_MOMENTUM_RESTART;
}

static fb_status train_from_global(fb_federation *federation, fb_hospital *hospital, uint32_t round)
{
    memcpy(federation->w_local, federation->w, (size_t)federation->params->count * sizeof(float));
    return fb_hospital_train(federation, hospital, round, federation->w_local, start_moments(federation, hospital));
}

/* The message that an earlier run made. Without moments to keep there is no training, and no diagnostics of it;
 * otherwise the training is repeated for them. */
static fb_status send_again(fb_federation *federation, fb_hospital *hospital, const fb_frame_info *info)
{
    fb_hospital_report *report = &hospital->report;
    report->participated = 1;
    report->steps = federation->steps[hospital->index];
    if (keeps_moments(federation))
        FB_TRY(train_from_global(federation, hospital, info->round));
    FB_TRY(fb_frame_peek_count(hospital->letter.bytes, hospital->letter.size_bytes, &report->shared));
    FB_TRY(post(hospital, info));
    return federation->config->train_momentum == FB_MOMENTUM_AVERAGE ? encode_moments(federation, hospital, info)
                                                                     : FB_OK;
}

static fb_status release(fb_federation *federation, fb_hospital *hospital, const fb_frame_info *info)
{
    uint32_t *public_index = NULL;
    const fb_rng rng = fb_hospital_select_rng(federation, hospital->index, info->round);
    const int64_t n = federation->subset->count;
    fb_hospital_report *report = &hospital->report;
    fb_update update = {0};
    fb_release_report inside = {0};
    fb_release_input in = {.public_rng = &rng,
                           .noise = hospital->noise,
                           .attempt = hospital->letter.attempt,
                           .round = info->round,
                           .steps = info->steps,
                           .dw = federation->dw,
                           .device = federation->release_device};
    fb_status status = FB_OK;
    if (federation->privacy->release.select == FB_SELECT_PUBLIC) {
        FB_TRY(FB_ALLOC(public_index, federation->privacy->budget.count, "public coordinates"));
        status = fb_hospital_derive_index(federation, hospital->index, info->round, public_index);
        in.public_index = public_index;
    }
    if (status == FB_OK)
        status = fb_release(&federation->privacy->release, &federation->privacy->budget, &in, &update, &inside);
    FB_FREE(public_index);
    if (inside.non_finite > 0)
        fb_log_warn("hospital %d (%s), round %u: %lld values of the update are not finite and count as 0; its training "
                    "has diverged, but it still spends its budget",
                    hospital->index, fb_hospital_name(federation, hospital->index), info->round + 1,
                    (long long)inside.non_finite);
    if (status == FB_OK)
        status = encode_and_post(federation, hospital, info, &update);
    if (status == FB_OK) {
        report->shared = update.count;
        report->svt_tests = inside.tests;
        if (!federation->privacy->dpsgd)
            report->clip_rate = (double)inside.clipped / (double)n;
        if (federation->privacy->release.mechanism == FB_MECHANISM_GAUSSIAN)
            report->norm_scale = inside.norm_scale;
        compare(&update, info->steps, n, federation->dw, report);
        report->selection_overlap = inside.overlap;
        if (isnan(inside.overlap))
            status = fb_release_overlap(&update, federation->dw, &report->selection_overlap);
    }
    fb_update_free(&update);
    if (status == FB_OK && federation->config->train_momentum == FB_MOMENTUM_AVERAGE)
        status = encode_moments(federation, hospital, info);
    return status;
}

static void report_dpsgd(const fb_federation *federation, fb_hospital *hospital, uint32_t round,
                         const fb_dpsgd_report *inside)
{
    if (inside->gradients > 0)
        hospital->report.clip_rate = (double)inside->clipped / (double)inside->gradients;
    if (inside->non_finite > 0)
        fb_log_warn(
            "hospital %d (%s), round %u: %lld of %lld gradients are not finite and count as 0; its training has "
            "diverged, but it still spends its budget",
            hospital->index, fb_hospital_name(federation, hospital->index), round + 1, (long long)inside->non_finite,
            (long long)inside->gradients);
}

fb_status fb_hospital_train(fb_federation *federation, fb_hospital *hospital, uint32_t round, float *w,
                            fb_moments *moments)
{
    const double start_s = fb_time_s();
    const fb_dpsgd_plan *plans = federation->privacy->dpsgd;
    fb_train_report trained = {0};
    fb_train_dpsgd dpsgd = {.gauss = hospital->gauss, .noise = hospital->noise, .attempt = hospital->letter.attempt};
    if (plans)
        dpsgd.plan = &plans[hospital->index];
    FB_TRY(fb_trainer_run(federation->trainer, &hospital->shard, 1, (uint32_t)hospital->index, round,
                          plans ? &dpsgd : NULL, w, moments, &trained));
    report_dpsgd(federation, hospital, round, &dpsgd.report);
    hospital->report.participated = 1;
    hospital->report.steps = trained.steps;
    hospital->report.train_loss = trained.loss_mean;
    hospital->report.train_seconds = fb_time_s() - start_s;
    return FB_OK;
}

static fb_status train_and_release(fb_federation *federation, fb_hospital *hospital, const fb_frame_info *info)
{
    FB_TRY(train_from_global(federation, hospital, info->round));
    const double trained_s = fb_time_s();
    fb_range_begin("select, protect and encode");
    fb_subset_difference(federation->subset, federation->w_local, federation->w, federation->dw);
    const fb_status status = release(federation, hospital, info);
    fb_range_end();
    hospital->report.privacy_seconds = fb_time_s() - trained_s;
    return status;
}

fb_frame_info fb_hospital_frame(const fb_federation *federation, int hospital, uint32_t round,
                                const uint8_t model_hash[16])
{
    fb_frame_info info = {round, (uint32_t)hospital, federation->privacy->divisor[hospital], {0}};
    memcpy(info.model_hash, model_hash, sizeof info.model_hash);
    return info;
}

int fb_hospital_repeats(const fb_federation *federation)
{
    return !federation->privacy->dpsgd || strcmp(federation->config->privacy_key, "system") != 0;
}

fb_status fb_hospital_find(const fb_federation *federation, fb_hospital *hospital, uint32_t round,
                           const uint8_t model_hash[16], uint32_t first_attempt)
{
    const fb_frame_info info = fb_hospital_frame(federation, hospital->index, round, model_hash);
    fb_letter_free(&hospital->letter);
    if (!hospital->outbox)
        return FB_OK;
    fb_status status = fb_outbox_find(hospital->outbox, &info, first_attempt, &hospital->letter);
    if (status == FB_OK && hospital->letter.bytes && keeps_moments(federation) && !fb_hospital_repeats(federation))
        fb_outbox_give_up(&hospital->letter, "belongs to moments whose noise cannot be drawn again");
    return fb_error_context(status, "hospital %d (%s), round %u", hospital->index,
                            fb_hospital_name(federation, hospital->index), round + 1);
}

fb_status fb_hospital_round(fb_federation *federation, fb_hospital *hospital, uint32_t round,
                            const uint8_t model_hash[16])
{
    const fb_frame_info info = fb_hospital_frame(federation, hospital->index, round, model_hash);
    const fb_status status = hospital->letter.bytes ? send_again(federation, hospital, &info)
                                                    : train_and_release(federation, hospital, &info);
    return fb_error_context(status, "hospital %d (%s), round %u", hospital->index,
                            fb_hospital_name(federation, hospital->index), round + 1);
}
