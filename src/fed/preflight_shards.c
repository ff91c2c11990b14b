/* SPDX-License-Identifier: Apache-2.0 */
#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "fed/preflight_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What the ranks tell of a file. */
typedef struct file_report {
    int checked; /* by this rank */
    fb_shard_facts facts;
} file_report;

static const char *file_name(const fb_preflight_state *s, int file)
{
    return file < s->cohort->hospital_count ? s->cohort->hospitals[file].file : FB_SHARD_TEST_FILE;
}

/* --- a case --- */

static int is_label(uint8_t label)
{
    return label == 0 || label == 1 || label == 2 || label == 4;
}

static fb_status check_values(const char *path, const fb_volume *volume)
{
    const int64_t voxels = fb_volume_voxels(volume->shape);
    for (int64_t i = 0; i < voxels * FB_MODALITIES; i++)
        if (!isfinite(volume->image[i]))
            return FB_FAIL("%s: %s: the %s image has a voxel of %g: not a finite number; repair the case and run "
                           "brats-split again",
                           path, volume->subject, fb_modality_name[i % FB_MODALITIES], (double)volume->image[i]);
    for (int64_t v = 0; v < voxels; v++)
        if (!is_label(volume->label[v]))
            return FB_FAIL("%s: %s: label %d is not one of 0, 1, 2, 4 (" FB_SHARD_LABELS
                           "); repair the case and run brats-split again",
                           path, volume->subject, volume->label[v]);
    return FB_OK;
}

static void take_shape(const fb_preflight_state *s, fb_split split, const fb_volume *volume, fb_shard_facts *facts)
{
    const fb_config *config = s->config;
    const int64_t bytes =
        fb_volume_voxels(volume->shape) * (int64_t)(FB_MODALITIES * sizeof *volume->image + sizeof *volume->label);
    facts->bytes[split] += bytes;
    facts->window_voxels[split] += fb_evaluator_voxels((int)config->model_blocks_down.count, config->eval_window,
                                                       config->eval_overlap, volume->shape);
    if (bytes > facts->largest_bytes) {
        facts->largest_bytes = bytes;
        memcpy(facts->largest, volume->shape, sizeof facts->largest);
    }
}

/* --- a file --- */

typedef struct reading {
    int64_t done, total; /* cases of this rank */
    double start_s;
} reading;

static void check_case(fb_preflight_state *s, fb_shard *shard, const char *path, fb_split split, int64_t index,
                       fb_shard_facts *facts)
{
    const fb_volume *volume = NULL;
    fb_status status = fb_shard_volume(shard, split, index, &volume);
    if (status != FB_OK)
        status = fb_error_context(status, "%s: %s cannot be read; write the shard again with brats-split", path,
                                  fb_shard_subject(shard, split, index));
    else
        take_shape(s, split, volume, facts);
    fb_problems_add(&s->problems, status == FB_OK ? check_values(path, volume) : status);
}

/* The counts by which work and noise are planned are the manifest's. */
static fb_status check_counts(const fb_preflight_state *s, int file, const char *path, const fb_shard_facts *facts)
{
    const int test = file == s->cohort->hospital_count;
    const int64_t planned[3] = {test ? 0 : s->cohort->hospitals[file].train_cases,
                                test ? 0 : s->cohort->hospitals[file].validation_cases,
                                test ? s->cohort->test_cases : 0};
    for (int split = 0; split < 3; split++)
        if (facts->cases[split] != planned[split])
            return FB_FAIL("%s: %lld %s cases, but manifest.csv has %lld; run brats-split again", path,
                           (long long)facts->cases[split], fb_split_name((fb_split)split), (long long)planned[split]);
    return FB_OK;
}

/* The run does not open a test shard that it does not evaluate. */
static int is_needed(const fb_preflight_state *s, int file)
{
    return file < s->cohort->hospital_count ||
           (s->cohort->test_cases > 0 && fb_memory_evaluates(s->config, FB_SPLIT_TEST));
}

static void check_file(fb_preflight_state *s, int file, reading *progress, fb_shard_facts *facts)
{
    char path[FB_PATH_CHARS];
    fb_shard *shard = NULL;
    fb_status status = fb_path_join(path, s->config->data_shards, file_name(s, file));
    if (status == FB_OK)
        status = fb_cohort_find(s->cohort, s->config->data_shards, file);
    if (status == FB_OK && is_needed(s, file))
        status = fb_shard_open(s->config->data_shards, file_name(s, file), 0, &shard);
    fb_problems_add(&s->problems, status);
    if (!shard)
        return;
    const double opened_s = fb_time_s();
    for (int split = 0; split < 3; split++) {
        facts->cases[split] = fb_shard_cases(shard, (fb_split)split);
        for (int64_t i = 0; i < facts->cases[split]; i++) {
            check_case(s, shard, path, (fb_split)split, i, facts);
            fb_log_progress(fb_comm_size(s->comm) > 1 ? "reading the cases of rank 0" : "reading the cases",
                            ++progress->done, progress->total, progress->start_s);
        }
    }
    fb_problems_add(&s->problems, check_counts(s, file, path, facts));
    fb_problems_add(&s->problems, fb_federation_check_patch(s->config, shard));
    fb_shard_close(&shard);
    facts->read_s = fb_time_s() - opened_s;
}

static int64_t cases_of(const fb_preflight_state *s, int file)
{
    const fb_cohort *cohort = s->cohort;
    return file < cohort->hospital_count
               ? cohort->hospitals[file].train_cases + cohort->hospitals[file].validation_cases
               : cohort->test_cases;
}

static void print_files(const fb_preflight_state *s, int files)
{
    for (int file = 0; file < files; file++) {
        const fb_shard_facts *facts = &s->facts[file];
        if (facts->largest_bytes > 0)
            fb_log_info("%s (%s): %lld train, %lld validation, %lld test cases read in %.1f s, %.1f MiB decoded",
                        file_name(s, file), file + 1 < files ? s->cohort->hospitals[file].name : "test",
                        (long long)facts->cases[FB_SPLIT_TRAIN], (long long)facts->cases[FB_SPLIT_VALIDATION],
                        (long long)facts->cases[FB_SPLIT_TEST], facts->read_s,
                        (double)(facts->bytes[0] + facts->bytes[1] + facts->bytes[2]) / 1048576.0);
    }
}

/* --- all of them --- */

/* Every rank's reports to all: a file is checked by one of them. */
static fb_status share(fb_preflight_state *s, int files, const file_report *own)
{
    const int ranks = fb_comm_size(s->comm);
    file_report *all = NULL;
    FB_TRY(fb_status_agree(s->comm, FB_ALLOC(all, s->root ? (int64_t)files * ranks : 0, "facts of the shards")));
    fb_status status = fb_comm_gather(s->comm, own, files * (int64_t)sizeof *own, all);
    for (int i = 0; status == FB_OK && s->root && i < files * ranks; i++)
        if (all[i].checked)
            s->facts[i % files] = all[i].facts;
    FB_FREE(all);
    if (status == FB_OK)
        status = fb_comm_broadcast(s->comm, s->facts, files * (int64_t)sizeof *s->facts);
    return status;
}

fb_status fb_preflight_shards(fb_preflight_state *s)
{
    const int files = s->cohort->hospital_count + 1, ranks = fb_comm_size(s->comm), rank = fb_comm_rank(s->comm);
    file_report *own = NULL;
    reading progress = {.start_s = fb_time_s()};
    fb_status status = FB_ALLOC(own, files, "facts of the shards");
    if (status == FB_OK)
        status = FB_ALLOC(s->facts, files, "facts of the shards");
    FB_TRY_GOTO(status, fb_status_agree(s->comm, status), done);
    for (int file = rank; file < files; file += ranks)
        progress.total += is_needed(s, file) ? cases_of(s, file) : 0;
    for (int file = rank; file < files; file += ranks) {
        own[file].checked = 1;
        check_file(s, file, &progress, &own[file].facts);
    }
    status = share(s, files, own);
    if (status == FB_OK)
        print_files(s, files);
done:
    FB_FREE(own);
    return status;
}
