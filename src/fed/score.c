/* SPDX-License-Identifier: Apache-2.0
 *
 * Every case is segmented once, by the rank that has it: validation cases by their hospital's rank, test cases dealt
 * out over all ranks. Counts are integers, so where a case was counted cannot be seen in the result. */
#include "core/mem.h"
#include "core/stop.h"
#include "fed/federation.h"

#include <math.h>
#include <string.h>

static int wanted(const fb_federation *federation, int split)
{
    const int on = federation->config->eval_on;
    return on == FB_EVAL_BOTH || on == split;
}

/* Sums the ranks' counts of all cases (every case is non-zero on one rank only) into rank 0's. Collective. */
static fb_status merge(fb_federation *federation, int64_t cases, fb_counts *counts)
{
    const int root = fb_comm_rank(federation->comm) == 0, ranks = fb_comm_size(federation->comm);
    const int64_t words = cases * (int64_t)(sizeof *counts / sizeof(int64_t));
    int64_t *all = NULL, *sum = (int64_t *)counts;
    FB_TRY(FB_ALLOC(all, root ? words * ranks : 0, "case counts"));
    const fb_status status = fb_comm_gather(federation->comm, counts, words * (int64_t)sizeof *all, all);
    for (int64_t i = 0; i < words && root && status == FB_OK; i++) {
        sum[i] = 0;
        for (int rank = 0; rank < ranks; rank++)
            sum[i] += all[rank * words + i];
    }
    FB_FREE(all);
    return status;
}

static fb_status count_case(fb_federation *federation, const float *w, fb_shard *shard, fb_split split, int64_t index,
                            fb_counts *counts)
{
    const fb_volume *volume = NULL;
    FB_TRY(fb_stop_check(federation->config->run_grace_s));
    FB_TRY(fb_shard_volume(shard, split, index, &volume));
    return fb_error_context(fb_evaluator_case(federation->evaluator, w, volume, counts), "evaluating %s",
                            volume->subject);
}

static fb_status count_test(fb_federation *federation, const float *w, fb_counts *counts)
{
    const int rank = fb_comm_rank(federation->comm), ranks = fb_comm_size(federation->comm);
    for (int64_t i = rank; i < federation->cohort->test_cases; i += ranks)
        FB_TRY(count_case(federation, w, federation->test, FB_SPLIT_TEST, i, &counts[i]));
    return FB_OK;
}

/* Validation cases of all hospitals (only >= 0: of that one), each on its hospital's rank. */
static fb_status count_validation(fb_federation *federation, const float *w, int only, fb_counts *counts)
{
    int64_t base = 0;
    for (int h = 0; h < federation->hospital_count; h++) {
        const int64_t cases = federation->cohort->hospitals[h].validation_cases;
        fb_hospital *hospital = &federation->hospitals[h];
        for (int64_t i = 0; i < cases && hospital->mine && (only < 0 || only == h); i++)
            FB_TRY(count_case(federation, w, hospital->shard, FB_SPLIT_VALIDATION, i, &counts[base + i]));
        base += cases;
    }
    return FB_OK;
}

void fb_score_clear(fb_score *score)
{
    memset(score, 0, sizeof *score);
    for (int r = 0; r < FB_REGIONS; r++)
        score->dice[r] = NAN;
    score->mean = NAN;
}

/* Scores one model on one split; valid on rank 0. Collective. */
static fb_status score_split(fb_federation *federation, const float *w, fb_split split, int only, fb_score *score)
{
    int64_t cases = federation->cohort->test_cases;
    fb_counts *counts = NULL;
    fb_score_clear(score);
    if (split == FB_SPLIT_VALIDATION) {
        cases = 0;
        for (int h = 0; h < federation->hospital_count; h++)
            cases += federation->cohort->hospitals[h].validation_cases;
    }
    fb_status status = FB_ALLOC(counts, cases, "case counts");
    if (status == FB_OK)
        status =
            split == FB_SPLIT_TEST ? count_test(federation, w, counts) : count_validation(federation, w, only, counts);
    status = fb_status_agree(federation->comm, status);
    if (status == FB_OK)
        status = fb_status_or_abort(federation->comm, merge(federation, cases, counts));
    if (status == FB_OK)
        score->mean = fb_dice_mean(cases, counts, score->dice, score->cases);
    FB_FREE(counts);
    return status;
}

static fb_status score_model(fb_federation *federation, const float *w, int only, fb_score *validation, fb_score *test)
{
    fb_score_clear(validation);
    fb_score_clear(test);
    if (wanted(federation, FB_EVAL_VALIDATION))
        FB_TRY(score_split(federation, w, FB_SPLIT_VALIDATION, only, validation));
    if (wanted(federation, FB_EVAL_TEST))
        FB_TRY(score_split(federation, w, FB_SPLIT_TEST, -1, test));
    return FB_OK;
}

/* Adds a hospital's score to the sums of a mean over hospitals that ignores NaN. */
static void accumulate(const fb_score *one, fb_score *sum, int64_t counts[FB_REGIONS + 1])
{
    for (int r = 0; r <= FB_REGIONS; r++) {
        const double value = r < FB_REGIONS ? one->dice[r] : one->mean;
        double *total = r < FB_REGIONS ? &sum->dice[r] : &sum->mean;
        if (isnan(value))
            continue;
        *total = counts[r] == 0 ? value : *total + value;
        counts[r]++;
    }
    for (int r = 0; r < FB_REGIONS; r++)
        sum->cases[r] = one->cases[r] > sum->cases[r] ? one->cases[r] : sum->cases[r];
}

static void divide(fb_score *sum, const int64_t counts[FB_REGIONS + 1])
{
    for (int r = 0; r < FB_REGIONS; r++)
        sum->dice[r] /= counts[r] > 0 ? (double)counts[r] : 1.0;
    sum->mean /= counts[FB_REGIONS] > 0 ? (double)counts[FB_REGIONS] : 1.0;
}

/* Hospital h's own model to every rank's w_local. Collective. */
static fb_status share_model(fb_federation *federation, int h)
{
    const int64_t size_bytes = federation->params->count * (int64_t)sizeof(float);
    fb_hospital *hospital = &federation->hospitals[h];
    uint8_t *received = NULL;
    int64_t received_bytes = 0;
    if (hospital->mine)
        FB_TRY(fb_comm_send(federation->comm, hospital->model, size_bytes));
    if (fb_comm_rank(federation->comm) == 0) {
        FB_TRY(fb_comm_receive(federation->comm, &received, &received_bytes));
        FB_ASSERT(received_bytes == size_bytes);
        memcpy(federation->w_local, received, (size_t)size_bytes);
        FB_FREE(received);
    }
    FB_TRY(fb_comm_flush(federation->comm));
    return fb_comm_broadcast(federation->comm, federation->w_local, size_bytes);
}

static fb_status score_local_models(fb_federation *federation, fb_score *validation, fb_score *test)
{
    int64_t validation_counts[FB_REGIONS + 1] = {0}, test_counts[FB_REGIONS + 1] = {0};
    fb_score_clear(validation);
    fb_score_clear(test);
    for (int h = 0; h < federation->hospital_count; h++) {
        fb_score own_validation, own_test;
        FB_TRY(fb_status_or_abort(federation->comm, share_model(federation, h)));
        FB_TRY(score_model(federation, federation->w_local, h, &own_validation, &own_test));
        accumulate(&own_validation, validation, validation_counts);
        accumulate(&own_test, test, test_counts);
    }
    divide(validation, validation_counts);
    divide(test, test_counts);
    return FB_OK;
}

fb_status fb_score_run(fb_federation *federation, fb_score *validation, fb_score *test)
{
    if (federation->config->run_mode == FB_MODE_LOCAL)
        return score_local_models(federation, validation, test);
    return score_model(federation, federation->w, -1, validation, test);
}
