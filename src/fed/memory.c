/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/memory.h"

#include "fed/privacy_text.h"
#include "nn/op_count.h"

#include <stdio.h>

/* Guesses for oneDNN 2.6 on AVX-512, which hold until a rank has been measured: the code that it makes for the three
 * directions of a convolution, and the pages of itself and of HDF5 that are read in once they work. */
static const int64_t CONVOLUTION_CODE_BYTES = 180 << 10, PAGES_BYTES = 12 << 20;
enum { HEADER_BYTES = 128 }; /* of a message, and more than it has */

int fb_memory_evaluates(const fb_config *config, fb_split split)
{
    if (config->eval_on == FB_EVAL_BOTH)
        return split != FB_SPLIT_TRAIN;
    return (split == FB_SPLIT_TEST && config->eval_on == FB_EVAL_TEST) ||
           (split == FB_SPLIT_VALIDATION && config->eval_on == FB_EVAL_VALIDATION);
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- decoded volumes --- */

/* What a shard keeps of cases of so many bytes; what does not fit passes through one volume more. */
static int64_t cached_bytes(const fb_config *config, const fb_shard_facts *facts, int64_t bytes)
{
    if (bytes <= config->data_cache_bytes)
        return bytes;
    return facts->largest_bytes > 0
               ? config->data_cache_bytes / facts->largest_bytes * facts->largest_bytes + facts->largest_bytes
               : 0;
}

/* The test cases are dealt out over the ranks. */
static int64_t test_bytes(const fb_federation *f, int rank, const fb_shard_facts *test)
{
    const int64_t cases = f->cohort->test_cases, mine = (cases - rank + f->ranks - 1) / f->ranks;
    if (!fb_memory_evaluates(f->config, FB_SPLIT_TEST) || mine <= 0 || cases == 0)
        return 0;
    return cached_bytes(f->config, test, test->bytes[FB_SPLIT_TEST] / cases * mine);
}

static int64_t count_cache(const fb_federation *f, int rank, const fb_shard_facts *facts)
{
    const int centralised = f->config->run_mode == FB_MODE_CENTRALISED;
    int64_t bytes = test_bytes(f, rank, &facts[f->hospital_count]);
    for (int h = 0; h < f->hospital_count; h++) {
        int64_t wanted = 0;
        if (centralised ? rank == 0 : f->rank_of[h] == rank)
            wanted += facts[h].bytes[FB_SPLIT_TRAIN];
        if (f->rank_of[h] == rank && fb_memory_evaluates(f->config, FB_SPLIT_VALIDATION))
            wanted += facts[h].bytes[FB_SPLIT_VALIDATION];
        bytes += cached_bytes(f->config, &facts[h], wanted);
    }
    return bytes;
}

/* --- messages --- */

/* What a hospital sends in a round. */
static int64_t sent_bytes(const fb_federation *f)
{
    const int64_t moments = f->config->train_momentum == FB_MOMENTUM_AVERAGE ? FB_MESSAGES_MAX - 1 : 0;
    return (int64_t)fb_privacy_message_bytes(f->privacy) + HEADER_BYTES +
           moments * (f->subset->count * (int64_t)sizeof(float) + HEADER_BYTES);
}

/* A rank keeps its hospitals' messages until all have trained; rank 0 sends itself copies, and then has one message at
 * a time from the others, with what is decoded from it. */
static void count_messages(const fb_federation *f, int rank, fb_memory *out)
{
    const fb_privacy_plan *plan = f->privacy;
    const int64_t count = plan->budget.count, n = f->subset->count;
    const int noised = plan->guarantee->mechanism != FB_MECHANISM_NONE && !plan->dpsgd;
    const int64_t update = fb_update_bytes(n, count, noised ? FB_VALUES_GRID : FB_VALUES_F32);
    int64_t hospitals = 0;
    if (f->config->run_mode == FB_MODE_LOCAL)
        out->message_bytes = f->params->count * (int64_t)sizeof(float);
    if (f->config->run_mode != FB_MODE_FEDERATED)
        return;
    for (int h = 0; h < f->hospital_count; h++)
        hospitals += f->rank_of[h] == rank;
    const int64_t messages = (hospitals < plan->participants ? hospitals : plan->participants) * sent_bytes(f);
    const int64_t releasing = fb_release_bytes(&plan->release, &plan->budget);
    const int64_t receiving = messages + sent_bytes(f) + update + count * (int64_t)sizeof(uint32_t) +
                              (plan->release.trust == FB_TRUST_LOCAL ? 0 : 2 * update);
    out->message_bytes = messages + (rank == 0 ? larger(receiving, releasing) : releasing);
}

/* --- networks --- */

static fb_status count_release_device(const fb_federation *f, fb_memory *out)
{
    fb_count count;
    fb_privacy_device *device = NULL;
    fb_count_begin(f->ops, &count);
    FB_TRY(fb_privacy_device_create(&count.ops, &f->privacy->release, &f->privacy->budget, &device));
    out->device_bytes += count.bytes;
    fb_privacy_device_destroy(&device);
    return FB_OK;
}

static const fb_shard_facts *largest_evaluated(const fb_federation *f, const fb_shard_facts *facts)
{
    const fb_shard_facts *largest = NULL;
    for (int file = 0; file <= f->hospital_count; file++) {
        const fb_split split = file == f->hospital_count ? FB_SPLIT_TEST : FB_SPLIT_VALIDATION;
        if (facts[file].cases[split] > 0 && fb_memory_evaluates(f->config, split) &&
            (!largest || facts[file].largest_bytes > largest->largest_bytes))
            largest = &facts[file];
    }
    return largest;
}

static fb_status count_networks(const fb_federation *f, const fb_shard_facts *facts, int warm, fb_memory *out)
{
    const fb_shard_facts *largest = largest_evaluated(f, facts);
    fb_trainer_size trainer;
    fb_evaluator_size evaluator = {0};
    FB_TRY(fb_trainer_count(f->config, &f->net, f->params, f->subset, f->ops, &trainer));
    if (largest)
        FB_TRY(fb_evaluator_count(&f->net, f->params, f->ops, f->config->eval_window, f->config->eval_overlap,
                                  largest->largest, &evaluator));
    const int64_t scratch = larger(trainer.scratch_bytes, evaluator.scratch_bytes);
    out->training_bytes = trainer.bytes + scratch;
    out->evaluation_bytes = evaluator.bytes;
    out->evaluation_host_bytes = evaluator.host_bytes;
    if (f->privacy->dpsgd)
        out->message_bytes += fb_trainer_private_bytes(f->subset->count, f->params->count);
    if (!warm && f->ops->on_host)
        out->program_bytes += PAGES_BYTES + (trainer.convolutions + evaluator.convolutions) * CONVOLUTION_CODE_BYTES;
    return FB_OK;
}

/* --- the heap --- */

/* Freed memory stays with the process (fb_mem_keep_freed). Where a dense update was, the next hospital's volumes are
 * decoded, and stay: what is left beside them is too small for an update. The first evaluation fills what is left, if
 * its volumes fit there, or else leaves such rests itself. Volumes larger than an update find no such place, and the
 * pieces of other updates are small enough to use the rests. */
static int64_t count_holes(const fb_federation *f, int rank, const fb_shard_facts *facts)
{
    const fb_privacy_plan *plan = f->privacy;
    const int noised = plan->guarantee->mechanism != FB_MECHANISM_NONE && !plan->dpsgd;
    const int64_t update = f->subset->count * (int64_t)sizeof(float);
    int64_t rests = 0, evaluated = test_bytes(f, rank, &facts[f->hospital_count]), volume = 0;
    for (int h = 0; h < f->hospital_count; h++) {
        if (f->rank_of[h] != rank || facts[h].largest_bytes == 0 || facts[h].largest_bytes > update)
            continue;
        volume = facts[h].largest_bytes;
        rests += update - smaller(facts[h].cases[FB_SPLIT_TRAIN], update / volume) * volume;
        if (fb_memory_evaluates(f->config, FB_SPLIT_VALIDATION))
            evaluated += facts[h].bytes[FB_SPLIT_VALIDATION];
    }
    if (volume == 0 || noised || plan->budget.count < f->subset->count || f->config->run_mode != FB_MODE_FEDERATED)
        return 0;
    return update / volume > 1 ? larger(0, rests - evaluated) : rests + evaluated / volume * (update - volume);
}

fb_status fb_memory_estimate(const fb_federation *f, int rank, const fb_shard_facts *facts, int64_t results_bytes,
                             int64_t program_bytes, int warm, fb_memory *out)
{
    *out = (fb_memory){.program_bytes = program_bytes};
    out->model_bytes = fb_federation_model_bytes(f, rank);
    out->cache_bytes = count_cache(f, rank, facts);
    out->server_bytes = rank == 0 ? fb_federation_server_bytes(f) + results_bytes : 0;
    out->hole_bytes = count_holes(f, rank, facts);
    count_messages(f, rank, out);
    FB_TRY(count_networks(f, facts, warm, out));
    out->host_bytes = out->program_bytes + out->model_bytes + out->cache_bytes + out->message_bytes +
                      out->server_bytes + out->evaluation_host_bytes + out->hole_bytes;
    if (f->ops->on_host) {
        out->host_bytes += out->training_bytes + out->evaluation_bytes;
        return FB_OK;
    }
    for (int h = 0; h <= f->hospital_count; h++) /* the case in use and the next one are on the device */
        out->device_bytes = larger(out->device_bytes, 2 * facts[h].largest_bytes);
    out->device_bytes += out->training_bytes + out->evaluation_bytes;
    return f->config->run_mode == FB_MODE_FEDERATED ? count_release_device(f, out) : FB_OK;
}
