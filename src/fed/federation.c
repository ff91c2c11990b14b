/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/federation.h"

#include "core/mem.h"
#include "core/progress.h"
#include "fed/resume.h"
#include "fed/schedule.h"
#include "io/safetensors.h"

#include <sodium.h>
#include <string.h>

fb_net_spec fb_federation_net(const fb_config *config)
{
    fb_net_spec spec = {.filters = config->model_filters,
                        .levels = (int)config->model_blocks_down.count,
                        .dropout = config->model_dropout};
    for (int level = 0; level < spec.levels; level++)
        spec.blocks_down[level] = config->model_blocks_down.value[level];
    for (int level = 0; level + 1 < spec.levels; level++)
        spec.blocks_up[level] = config->model_blocks_up.value[level];
    return spec;
}

static fb_key_source key_source(const fb_config *config)
{
    if (strcmp(config->privacy_key, "system") == 0)
        return FB_KEY_SYSTEM;
    return strcmp(config->privacy_key, "seed") == 0 ? FB_KEY_SEED : FB_KEY_FILE;
}

/* What is shared and what it costs, from the options. A round of dpsgd has steps of its own. */
static fb_status plan_privacy(fb_federation *federation)
{
    const int hospitals = federation->hospital_count;
    int64_t *train_cases = NULL;
    FB_TRY(FB_ALLOC(train_cases, hospitals, "hospitals"));
    for (int h = 0; h < hospitals; h++)
        train_cases[h] = federation->cohort->hospitals[h].train_cases;
    const fb_status status = fb_privacy_plan_create(federation->config, federation->subset->count, hospitals,
                                                    train_cases, &federation->privacy);
    for (int h = 0; status == FB_OK && federation->privacy->dpsgd && h < hospitals; h++)
        federation->steps[h] = federation->privacy->dpsgd[h].steps;
    FB_FREE(train_cases);
    return status;
}

static fb_status assign(fb_federation *federation)
{
    const int hospitals = federation->hospital_count, ranks = federation->ranks;
    if (ranks > hospitals)
        return FB_USAGE("%d ranks but only %d hospitals in %s: start at most %d ranks", ranks, hospitals,
                        federation->config->data_shards, hospitals);
    FB_TRY(FB_ALLOC(federation->rank_of, hospitals, "hospitals"));
    FB_TRY(FB_ALLOC(federation->hospitals, hospitals, "hospitals"));
    FB_TRY(FB_ALLOC(federation->steps, hospitals, "hospitals"));
    for (int h = 0; h < hospitals; h++)
        federation->steps[h] = federation->cohort->hospitals[h].train_cases * federation->config->train_epochs;
    fb_schedule_assign(hospitals, federation->steps, ranks, federation->rank_of);
    for (int h = 0; h < hospitals; h++) {
        federation->hospitals[h].index = h;
        federation->hospitals[h].mine = federation->rank_of[h] == fb_comm_rank(federation->comm);
    }
    return FB_OK;
}

static fb_status open_noise(const fb_federation *federation, uint32_t hospital, fb_noise **noise)
{
    const fb_config *config = federation->config;
    uint8_t key[FB_KEY_BYTES];
    const uint64_t seed = key_source(config) == FB_KEY_FILE ? federation->run_nonce : (uint64_t)config->run_seed;
    FB_TRY(fb_key_make(key_source(config), seed, config->privacy_key, hospital, key));
    const fb_status status = fb_noise_create(key, noise);
    sodium_memzero(key, sizeof key);
    return status;
}

fb_status fb_federation_key_mark(const fb_federation *federation, char mark[FB_SHA256_CHARS])
{
    uint8_t key[FB_KEY_BYTES];
    mark[0] = '\0';
    if (federation->privacy->guarantee->mechanism == FB_MECHANISM_NONE || key_source(federation->config) != FB_KEY_FILE)
        return FB_OK;
    FB_TRY(fb_key_make(FB_KEY_FILE, federation->run_nonce, federation->config->privacy_key, UINT32_MAX, key));
    fb_sha256(key, sizeof key, mark);
    sodium_memzero(key, sizeof key);
    return FB_OK;
}

/* What the ledger of a hospital or of the server is about. */
static fb_status ledger_identity(const fb_federation *federation, int hospital, char text[FB_LEDGER_IDENTITY_CHARS])
{
    char plan[FB_TEXT_CHARS];
    FB_TRY(fb_privacy_plan_identity(federation->privacy, hospital, plan));
    snprintf(text, FB_LEDGER_IDENTITY_CHARS, "%s data=%s", plan, federation->cohort->sha256);
    return FB_OK;
}

/* Keys, noise, ledger and stored messages of a hospital: only with a mechanism. In mode local there are no messages. */
static fb_status open_privacy(fb_federation *federation, fb_hospital *hospital, const char *folder)
{
    char name[64], identity[FB_LEDGER_IDENTITY_CHARS];
    int begun = 0;
    if (federation->privacy->guarantee->mechanism == FB_MECHANISM_NONE)
        return FB_OK;
    FB_TRY(open_noise(federation, (uint32_t)hospital->index, &hospital->noise));
    if (federation->privacy->dpsgd)
        FB_TRY(fb_gauss_create(federation->privacy->dpsgd[hospital->index].sigma, &hospital->gauss));
    if (!folder)
        return FB_OK;
    FB_TRY(ledger_identity(federation, hospital->index, identity));
    snprintf(name, sizeof name, "hospital_%02d", hospital->index);
    FB_TRY(fb_resume_has_begun(folder, &begun));
    FB_TRY(federation->config->run_mode == FB_MODE_LOCAL
               ? fb_outbox_open_ledger(folder, name, identity, begun, &hospital->ledger)
               : fb_outbox_open(folder, name, identity, begun, &hospital->outbox));
    hospital->report.releases_all = fb_ledger_releases(fb_hospital_ledger(hospital));
    return FB_OK;
}

fb_status fb_federation_check_patch(const fb_config *config, const fb_shard *shard)
{
    for (int64_t i = 0; i < fb_shard_cases(shard, FB_SPLIT_TRAIN); i++)
        for (int axis = 0; axis < 3; axis++)
            if (fb_shard_shape(shard, FB_SPLIT_TRAIN, i)[axis] < config->data_patch[axis])
                return FB_USAGE(
                    "data.patch: extent %lld exceeds the %lld voxels of subject %s in direction %c; choose a "
                    "smaller patch",
                    (long long)config->data_patch[axis], (long long)fb_shard_shape(shard, FB_SPLIT_TRAIN, i)[axis],
                    fb_shard_subject(shard, FB_SPLIT_TRAIN, i), "DHW"[axis]);
    return FB_OK;
}

/* Whether each hospital has its own, from round to round. */
static int keeps_moments(const fb_config *config)
{
    return config->run_mode == FB_MODE_LOCAL ||
           (config->run_mode == FB_MODE_FEDERATED && config->train_momentum == FB_MOMENTUM_KEEP);
}

static int has_global_moments(const fb_config *config)
{
    return config->train_momentum == FB_MOMENTUM_AVERAGE || config->run_mode == FB_MODE_CENTRALISED;
}

static int has_local_moments(const fb_config *config)
{
    return config->run_mode == FB_MODE_FEDERATED && config->train_momentum != FB_MOMENTUM_KEEP;
}

static fb_status open_hospital(fb_federation *federation, fb_hospital *hospital, const char *folder)
{
    const fb_config *config = federation->config;
    const int64_t n = federation->subset->count, size_bytes = federation->params->count * (int64_t)sizeof(float);
    const int pooled = config->run_mode == FB_MODE_CENTRALISED && fb_comm_rank(federation->comm) == 0;
    if (!hospital->mine && !pooled)
        return FB_OK;
    fb_progress_hospital(hospital->index, fb_hospital_name(federation, hospital->index));
    FB_TRY(fb_shard_open(config->data_shards, federation->cohort->hospitals[hospital->index].file,
                         config->data_cache_bytes, &hospital->shard));
    FB_TRY(fb_federation_check_patch(config, hospital->shard));
    if (!hospital->mine)
        return FB_OK;
    if (keeps_moments(config))
        FB_TRY(fb_moments_create(n, &hospital->moments));
    if (config->run_mode == FB_MODE_LOCAL) {
        FB_TRY(FB_ALLOC(hospital->model, federation->params->count, "local model"));
        memcpy(hospital->model, federation->w, (size_t)size_bytes);
    }
    return open_privacy(federation, hospital, folder);
}

static fb_status make_model(fb_federation *federation)
{
    const fb_config *config = federation->config;
    const int64_t n = federation->subset->count;
    FB_TRY(FB_ALLOC(federation->w, federation->params->count, "global model"));
    FB_TRY(FB_ALLOC(federation->w_local, federation->params->count, "local model"));
    FB_TRY(FB_ALLOC(federation->dw, n, "update"));
    if (config->sharing_select == FB_SELECT_PUBLIC) {
        FB_TRY(FB_ALLOC(federation->w_previous, federation->params->count, "previous global model"));
        FB_TRY(FB_ALLOC(federation->change, n, "global update"));
    }
    if (config->train_init_from[0])
        FB_TRY(fb_safetensors_read(config->train_init_from, federation->params, federation->w));
    else
        fb_params_init(federation->params, (uint64_t)config->run_seed, federation->w);
    if (has_global_moments(config))
        FB_TRY(fb_moments_create(n, &federation->moments));
    if (has_local_moments(config))
        FB_TRY(fb_moments_create(n, &federation->moments_local));
    return FB_OK;
}

int64_t fb_federation_model_bytes(const fb_federation *federation, int rank)
{
    const fb_config *config = federation->config;
    const int64_t n = federation->subset->count * (int64_t)sizeof(float);
    const int64_t all = federation->params->count * (int64_t)sizeof(float);
    int64_t hospitals = 0;
    for (int h = 0; h < federation->hospital_count; h++)
        hospitals += federation->rank_of[h] == rank;
    return 2 * all + n + (config->sharing_select == FB_SELECT_PUBLIC ? all + n : 0) +
           2 * n * (has_global_moments(config) + has_local_moments(config)) +
           hospitals * ((keeps_moments(config) ? 2 * n : 0) + (config->run_mode == FB_MODE_LOCAL ? all : 0));
}

/* The server adds noise of its own, so it has a key, a ledger and stored sums of its own. */
static fb_status make_trusted_server(fb_federation *federation, const char *folder)
{
    char identity[FB_LEDGER_IDENTITY_CHARS];
    int begun = 0;
    FB_TRY(open_noise(federation, FB_OUTBOX_SERVER, &federation->server_noise));
    if (!folder)
        return FB_OK;
    FB_TRY(ledger_identity(federation, 0, identity));
    FB_TRY(fb_resume_has_begun(folder, &begun));
    return fb_outbox_open(folder, "server", identity, begun, &federation->server_outbox);
}

static fb_status make_server(fb_federation *federation, const char *folder)
{
    const int64_t n = federation->subset->count;
    if (fb_comm_rank(federation->comm) != 0 || federation->config->run_mode != FB_MODE_FEDERATED)
        return FB_OK;
    if (federation->privacy->release.trust == FB_TRUST_CENTRAL)
        FB_TRY(make_trusted_server(federation, folder));
    FB_TRY(fb_aggregate_create(n, FB_WEIGHT_BITS, &federation->aggregate));
    if (federation->config->train_momentum != FB_MOMENTUM_AVERAGE)
        return FB_OK;
    FB_TRY(fb_aggregate_create(n, FB_MOMENT_BITS, &federation->aggregate_m));
    return fb_aggregate_create(n, FB_MOMENT_BITS, &federation->aggregate_v);
}

/* Where this rank's hospitals release on the GPU. */
static fb_status make_release_device(fb_federation *federation)
{
    int hospitals = 0; /* that this rank plays */
    for (int h = 0; h < federation->hospital_count; h++)
        hospitals += federation->hospitals[h].mine;
    if (hospitals == 0 || federation->config->run_mode != FB_MODE_FEDERATED)
        return FB_OK;
    return fb_privacy_device_create(federation->ops, &federation->privacy->release, &federation->privacy->budget,
                                    &federation->release_device);
}

int64_t fb_federation_server_bytes(const fb_federation *federation)
{
    const int sums = federation->config->train_momentum == FB_MOMENTUM_AVERAGE ? FB_MESSAGES_MAX : 1;
    const int serves = federation->config->run_mode == FB_MODE_FEDERATED;
    return serves ? sums * fb_aggregate_bytes(federation->subset->count) : 0;
}

fb_status fb_federation_check_files(const fb_federation *federation)
{
    const fb_config *config = federation->config;
    fb_noise *noise = NULL;
    float *w = NULL;
    if (federation->privacy->guarantee->mechanism != FB_MECHANISM_NONE)
        FB_TRY(open_noise(federation, 0, &noise));
    fb_noise_destroy(&noise);
    if (!config->train_init_from[0])
        return FB_OK;
    FB_TRY(FB_ALLOC(w, federation->params->count, "initial model"));
    const fb_status status = fb_safetensors_read(config->train_init_from, federation->params, w);
    FB_FREE(w);
    return status;
}

int64_t fb_federation_state_bytes(const fb_federation *federation)
{
    const fb_config *config = federation->config;
    const int64_t moments = 2 * federation->subset->count * (int64_t)sizeof(float);
    const int64_t model = federation->params->count * (int64_t)sizeof(float);
    const int local = config->run_mode == FB_MODE_LOCAL;
    const int64_t change = config->sharing_select == FB_SELECT_PUBLIC ? moments / 2 : 0;
    return (local ? 0 : model) + change + (has_global_moments(config) ? moments : 0) +
           federation->hospital_count * ((keeps_moments(config) ? moments : 0) + (local ? model : 0));
}

static fb_status describe(fb_federation *federation)
{
    const fb_config *config = federation->config;
    fb_ops_set_threads((int)config->run_threads);
    FB_TRY(fb_cohort_read(config->data_shards, &federation->cohort));
    federation->hospital_count = federation->cohort->hospital_count;
    FB_TRY(assign(federation));
    federation->net = fb_federation_net(config);
    FB_TRY(fb_params_create(&federation->net, &federation->params));
    FB_TRY(fb_subset_create(federation->params, config->train_trainable, &federation->subset));
    return plan_privacy(federation);
}

static fb_status build(fb_federation *federation, const char *folder)
{
    const fb_config *config = federation->config;
    FB_TRY(make_model(federation));
    for (int h = 0; h < federation->hospital_count; h++)
        FB_TRY(fb_error_context(open_hospital(federation, &federation->hospitals[h], folder), "hospital %d (%s)", h,
                                fb_hospital_name(federation, h)));
    const int tests = config->eval_on == FB_EVAL_BOTH || config->eval_on == FB_EVAL_TEST;
    if (tests && fb_comm_rank(federation->comm) < federation->cohort->test_cases)
        FB_TRY(fb_shard_open(config->data_shards, FB_SHARD_TEST_FILE, config->data_cache_bytes, &federation->test));
    FB_TRY(make_server(federation, folder));
    FB_TRY(fb_trainer_create(config, &federation->net, federation->params, federation->subset, federation->ops,
                             &federation->trainer));
    FB_TRY(fb_evaluator_create(&federation->net, federation->params, federation->ops, config->eval_window,
                               config->eval_overlap, &federation->evaluator));
    return make_release_device(federation);
}

fb_status fb_federation_describe(const fb_config *config, const fb_ops *ops, fb_comm *comm, int ranks,
                                 fb_federation **out)
{
    fb_federation *federation = NULL;
    FB_TRY(fb_status_agree(comm, FB_ALLOC(federation, 1, "federation")));
    federation->config = config;
    federation->ops = ops;
    federation->comm = comm;
    federation->ranks = ranks;
    const fb_status status = fb_status_agree(comm, describe(federation));
    if (status != FB_OK)
        fb_federation_destroy(&federation);
    *out = federation;
    return status;
}

static fb_status make_nonce(fb_federation *federation, const char *folder)
{
    if (folder)
        return fb_resume_nonce(folder, &federation->run_nonce);
    randombytes_buf(&federation->run_nonce, sizeof federation->run_nonce);
    return FB_OK;
}

fb_status fb_federation_build(fb_federation *federation, const char *folder)
{
    fb_comm *comm = federation->comm;
    const int root = fb_comm_rank(comm) == 0;
    fb_status status = fb_status_agree(comm, root ? make_nonce(federation, folder) : FB_OK);
    if (status == FB_OK)
        status = fb_comm_broadcast(comm, &federation->run_nonce, sizeof federation->run_nonce);
    if (status == FB_OK)
        status = build(federation, folder);
    return fb_status_agree(comm, status);
}

fb_status fb_federation_create(const fb_config *config, const fb_ops *ops, fb_comm *comm, const char *folder,
                               fb_federation **out)
{
    FB_TRY(fb_federation_describe(config, ops, comm, fb_comm_size(comm), out));
    const fb_status status = fb_federation_build(*out, folder);
    if (status != FB_OK)
        fb_federation_destroy(out);
    return status;
}

static void close_hospital(fb_hospital *hospital)
{
    fb_hospital_drop_messages(hospital);
    fb_shard_close(&hospital->shard);
    fb_moments_free(&hospital->moments);
    FB_FREE(hospital->model);
    fb_gauss_destroy(&hospital->gauss);
    fb_noise_destroy(&hospital->noise);
    fb_letter_free(&hospital->letter);
    fb_outbox_close(&hospital->outbox);
    fb_ledger_close(&hospital->ledger);
}

void fb_federation_destroy(fb_federation **federation)
{
    fb_federation *f = *federation;
    if (!f)
        return;
    for (int h = 0; f->hospitals && h < f->hospital_count; h++)
        close_hospital(&f->hospitals[h]);
    FB_FREE(f->hospitals);
    FB_FREE(f->rank_of);
    FB_FREE(f->steps);
    fb_shard_close(&f->test);
    fb_trainer_destroy(&f->trainer);
    fb_evaluator_destroy(&f->evaluator);
    fb_aggregate_destroy(&f->aggregate);
    fb_aggregate_destroy(&f->aggregate_m);
    fb_aggregate_destroy(&f->aggregate_v);
    fb_privacy_device_destroy(&f->release_device);
    fb_privacy_plan_destroy(&f->privacy);
    fb_moments_free(&f->moments);
    fb_moments_free(&f->moments_local);
    FB_FREE(f->w);
    FB_FREE(f->w_local);
    FB_FREE(f->dw);
    FB_FREE(f->w_previous);
    FB_FREE(f->change);
    fb_letter_free(&f->server_letter);
    fb_outbox_close(&f->server_outbox);
    fb_noise_destroy(&f->server_noise);
    fb_subset_destroy(&f->subset);
    fb_params_destroy(&f->params);
    fb_cohort_close(&f->cohort);
    FB_FREE(*federation);
}
