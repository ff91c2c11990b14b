/* SPDX-License-Identifier: Apache-2.0
 *
 * Rank 0's part of a federated round. With privacy.trust = local it adds the updates as they come. Otherwise it needs
 * the sum of the grid values on the common coordinates and nothing else: with secagg the sum is taken here, in place of
 * the protocol that would hide its parts (simulated); with central the server adds the noise, and the noised sum, which
 * everything later is made from, goes through an outbox of its own.
 */
#include "codec/frame.h"
#include "core/kill.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/timer.h"
#include "fed/federation.h"

#include <math.h>
#include <string.h>

static const int64_t SUM_LIMIT = INT64_C(1) << 61; /* leaves room for the noise within the 2^62 of a message */

/* The server's view of a round in progress. */
typedef struct server {
    fb_federation *federation;
    uint32_t round;
    const int64_t *participates; /* (hospital_count) */
    const uint8_t *model_hash;   /* 16 bytes */
    int64_t participants;
    int *received;     /* (hospital_count) messages so far */
    uint32_t *implied; /* (privacy->budget.count) scratch for coordinates that do not travel */
    fb_update sum;     /* trust other than local: of the hospitals' grid values; owned */
} server;

/* Which sum a hospital's i-th message belongs to: the update, then Adam's first and second moments. */
static fb_aggregate *sum_of(const fb_federation *federation, int message)
{
    fb_aggregate *const sums[FB_MESSAGES_MAX] = {federation->aggregate, federation->aggregate_m,
                                                 federation->aggregate_v};
    return sums[message];
}

/* --- one noise for all --- */

fb_frame_info fb_server_frame(const fb_federation *federation, uint32_t round, const uint8_t model_hash[16])
{
    fb_frame_info info = fb_hospital_frame(federation, 0, round, model_hash);
    info.hospital = FB_OUTBOX_SERVER;
    return info;
}

/* The first update becomes the sum; the others are added, coordinate by coordinate. */
static fb_status add_to_sum(server *s, fb_update *update)
{
    fb_update *sum = &s->sum;
    if (sum->grid == NULL) {
        *sum = *update;
        *update = (fb_update){0};
        return FB_OK;
    }
    if (update->count != sum->count || update->grid_log2 != sum->grid_log2 ||
        (sum->index && memcmp(update->index, sum->index, (size_t)sum->count * sizeof *sum->index) != 0))
        return FB_FAIL("server: hospitals that share one noise must share the same coordinates and grid");
    for (int64_t k = 0; k < sum->count; k++) {
        const int added = !__builtin_add_overflow(sum->grid[k], update->grid[k], &sum->grid[k]);
        if (!added || sum->grid[k] > SUM_LIMIT || sum->grid[k] < -SUM_LIMIT)
            return FB_FAIL("server: the sum over hospitals of shared value %lld exceeds 2^61 grid steps: lower the "
                           "noise or raise privacy.clip",
                           (long long)k);
    }
    return FB_OK;
}

/* Cosine of two sums of one length. */
static double cosine(int64_t count, const int64_t *a, const int64_t *b)
{
    double dot = 0.0, a_square = 0.0, b_square = 0.0;
    for (int64_t k = 0; k < count; k++) {
        dot += (double)a[k] * (double)b[k];
        a_square += (double)a[k] * (double)a[k];
        b_square += (double)b[k] * (double)b[k];
    }
    return dot / sqrt(a_square * b_square);
}

static fb_status add_server_noise(server *s)
{
    fb_federation *federation = s->federation;
    const fb_privacy_plan *plan = federation->privacy;
    const int64_t count = s->sum.count;
    int64_t *clean = NULL;
    FB_TRY(FB_ALLOC_RAW(clean, count, "sum of the updates"));
    memcpy(clean, s->sum.grid, (size_t)count * sizeof *clean);
    const fb_status status = fb_release_server_noise(&plan->release, &plan->budget, federation->server_noise,
                                                     federation->server_letter.attempt, s->round, count, s->sum.grid);
    federation->sum_cosine = cosine(count, clean, s->sum.grid);
    FB_FREE(clean);
    return status;
}

/* The sum with its noise: as it is stored from an earlier run, or made, stored and charged now. */
static fb_status noise_sum(server *s)
{
    fb_federation *federation = s->federation;
    const fb_frame_info info = fb_server_frame(federation, s->round, s->model_hash);
    const fb_privacy_plan *plan = federation->privacy;
    const int implied = fb_hospital_index_is_implied(federation);
    fb_letter *letter = &federation->server_letter;
    if (letter->bytes) {
        fb_update_free(&s->sum);
        FB_TRY(fb_frame_decode(letter->bytes, letter->size_bytes, &info, federation->subset->count, plan->budget.count,
                               implied ? s->implied : NULL, implied ? plan->budget.count : 0, &s->sum));
    } else {
        FB_TRY(add_server_noise(s));
        FB_TRY(fb_frame_encode(&info, &s->sum, implied, &letter->bytes, &letter->size_bytes));
    }
    return fb_outbox_post(federation->server_outbox, &info, letter);
}

static fb_status aggregate_sum(server *s)
{
    const fb_privacy_plan *plan = s->federation->privacy;
    if (plan->release.trust == FB_TRUST_CENTRAL)
        FB_TRY(noise_sum(s));
    fb_kill_point("server.summed");
    return fb_aggregate_add_sum(s->federation->aggregate, &s->sum, s->participants, plan->divisor[0]);
}

/* --- messages --- */

static fb_status add(server *s, int hospital, int message, fb_update *update)
{
    fb_federation *federation = s->federation;
    const int uniform = federation->config->federation_weighting == FB_WEIGHTING_UNIFORM;
    if (federation->privacy->release.trust != FB_TRUST_LOCAL)
        return add_to_sum(s, update);
    return fb_aggregate_add(sum_of(federation, message), update, uniform ? 1 : federation->steps[hospital],
                            federation->privacy->divisor[hospital]);
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
    const fb_frame_info expected = fb_hospital_frame(federation, hospital, s->round, s->model_hash);
    const int implied = message == 0 && fb_hospital_index_is_implied(federation);
    const int64_t n = federation->subset->count, count = federation->privacy->budget.count;
    if (implied)
        FB_TRY(fb_hospital_derive_index(federation, hospital, s->round, s->implied));
    fb_update update = {0};
    fb_status status = fb_frame_decode(bytes, size_bytes, &expected, n, message == 0 ? count : n,
                                       implied ? s->implied : NULL, implied ? count : 0, &update);
    if (status == FB_OK)
        status = add(s, hospital, message, &update);
    fb_update_free(&update);
    return status;
}

static fb_status receive_all(server *s, int64_t expected)
{
    fb_status status = FB_OK;
    for (int64_t i = 0; i < expected && status == FB_OK; i++) {
        uint8_t *bytes = NULL;
        int64_t size_bytes = 0;
        FB_TRY(fb_comm_receive(s->federation->comm, &bytes, &size_bytes));
        fb_kill_point("message.received");
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

fb_status fb_server_round(fb_federation *federation, uint32_t round, const int64_t *participates,
                          const uint8_t model_hash[16])
{
    server s = {.federation = federation, .round = round, .participates = participates, .model_hash = model_hash};
    fb_status status = FB_OK;
    fb_progress_enter(FB_PHASE_AGGREGATE);
    for (int message = 0; message < FB_MESSAGES_MAX; message++)
        if (sum_of(federation, message))
            fb_aggregate_reset(sum_of(federation, message));
    for (int h = 0; h < federation->hospital_count; h++)
        s.participants += participates[h] != 0;
    FB_TRY_GOTO(status, FB_ALLOC(s.received, federation->hospital_count, "server"), done);
    FB_TRY_GOTO(status, FB_ALLOC(s.implied, federation->privacy->budget.count, "server"), done);
    FB_TRY_GOTO(status, receive_all(&s, s.participants * (federation->aggregate_m ? FB_MESSAGES_MAX : 1)), done);
    if (federation->privacy->release.trust != FB_TRUST_LOCAL)
        FB_TRY_GOTO(status, aggregate_sum(&s), done);
    status = apply_sums(federation);
    fb_kill_point("server.applied");
done:
    FB_FREE(s.received);
    FB_FREE(s.implied);
    fb_update_free(&s.sum);
    return status;
}

static fb_status accept_messages(server *s, const fb_hospital *hospital)
{
    for (int i = 0; i < hospital->message_count; i++)
        FB_TRY(accept(s, hospital->messages[i].bytes, hospital->messages[i].size_bytes));
    return FB_OK;
}

fb_status fb_server_measure(fb_federation *federation, const fb_hospital *hospital, double *accept_s, double *apply_s)
{
    const uint8_t model_hash[16] = {0};
    int64_t *participates = NULL;
    server s = {.federation = federation, .model_hash = model_hash, .participants = 1};
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, FB_ALLOC(participates, federation->hospital_count, "server"), done);
    FB_TRY_GOTO(status, FB_ALLOC(s.received, federation->hospital_count, "server"), done);
    FB_TRY_GOTO(status, FB_ALLOC(s.implied, federation->privacy->budget.count, "server"), done);
    participates[hospital->index] = 1;
    s.participates = participates;
    const double start_s = fb_time_s();
    FB_TRY_GOTO(status, accept_messages(&s, hospital), done);
    *accept_s = fb_time_s() - start_s;
    if (federation->privacy->release.trust != FB_TRUST_LOCAL)
        FB_TRY_GOTO(status, fb_aggregate_add_sum(federation->aggregate, &s.sum, 1, federation->privacy->divisor[0]),
                    done);
    status = apply_sums(federation);
    *apply_s = fb_time_s() - start_s - *accept_s;
done:
    FB_FREE(participates);
    FB_FREE(s.received);
    FB_FREE(s.implied);
    fb_update_free(&s.sum);
    return status;
}
