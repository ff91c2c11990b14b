/* SPDX-License-Identifier: Apache-2.0
 *
 * The results of a run: one HDF5 file (serial HDF5, rank 0 only), netCDF-4 compatible: every axis of every array has a
 * dimension scale, every array has units and long_name. Arrays are preallocated, contiguous and NaN-filled (integers:
 * -1); a round is written, flushed, then counted in `rounds_committed` and flushed again, so that after a kill the
 * committed rounds are readable. The file is made under PATH.tmp, renamed to PATH once its structure is on disk;
 * its attribute `status` says running, complete, stopped or failed.
 *
 * Dimensions: share_fraction, epsilon, seed (numbers) and select, mechanism, algorithm, mode (text), each of length 1,
 * so that xarray's combine_by_coords of a sweep's files gives the grid; then round, hospital, region.
 */
#pragma once

#include "nn/params.h"

typedef struct fb_results fb_results;

typedef struct fb_attribute {
    const char *name, *text;
} fb_attribute;

typedef struct fb_results_spec {
    double share_fraction;
    double epsilon; /* configured total of the whole run; INFINITY for none */
    int64_t seed;
    const char *select, *mechanism, *algorithm, *mode;
    int64_t rounds;
    int hospital_count;
    const char *const *hospital_names; /* (hospital_count) borrowed */
    const fb_attribute *config;        /* (config_count) every option used -> group /config */
    int config_count;
    const fb_attribute *provenance; /* (provenance_count) -> group /provenance */
    int provenance_count;
} fb_results_spec;

/* One round. Arrays have one entry per hospital and are borrowed. */
typedef struct fb_round_record {
    double dice[FB_REGIONS], dice_mean;                       /* global model, common test shard; NaN: not evaluated */
    double dice_validation[FB_REGIONS], dice_validation_mean; /* all hospitals' validation cases */
    int64_t dice_cases[FB_REGIONS];                           /* test cases where the region exists */
    double comm_seconds, eval_seconds, train_seconds_max, round_seconds;
    double simulated_seconds; /* slowest hospital + communication: a round with one rank per hospital */
    int64_t bytes_dense;      /* uncompressed float32 values of all trained parameters */
    const int64_t *steps, *participated, *bytes_sent;
    const double *shared_fraction_achieved, *epsilon_round, *epsilon_total, *epsilon_per_parameter;
    /* group /diagnostics: the simulator's own view, not for release */
    const double *update_cosine, *update_snr, *clip_rate, *selection_overlap, *norm_scale;
    const double *train_loss, *train_seconds, *privacy_seconds;
    double sum_cosine; /* trust = central; NaN otherwise */
    const int64_t *svt_tests;
} fb_round_record;

enum { FB_RESULTS_SUMS = 32 };

/* CRC-32C of the committed rounds of each variable: by these a checkpoint knows the results it belongs to. */
typedef struct fb_results_sums {
    uint32_t crc[FB_RESULTS_SUMS];
} fb_results_sums;

/* Errors: exists already (named; nothing is overwritten), not writable, disk full. */
fb_status fb_results_create(const char *path, const fb_results_spec *spec, fb_results **out) FB_MUST_USE;

/* Goes on with the file of an interrupted run: a new one takes its place, with its first `rounds` rounds and room for
 * spec->rounds. Until the new one is complete the old one stays as it is; with rounds = 0 it need not exist. Errors: as
 * above; the old file cannot be read, or its rounds are not those of `sums`. */
fb_status fb_results_continue(const char *path, const fb_results_spec *spec, int64_t rounds,
                              const fb_results_sums *sums, fb_results **out) FB_MUST_USE;

fb_results_sums fb_results_take_sums(const fb_results *results);

/* How many rounds are complete in the results file of another run. Errors: not such a file, damaged. */
fb_status fb_results_committed(const char *path, int64_t *rounds) FB_MUST_USE;

/* Rounds are numbered from 0 and come in order; the coordinate `round` holds the same numbers. A round that could not
 * be written is not counted. Errors: disk full or faulty. */
fb_status fb_results_write_round(fb_results *results, int64_t round, const fb_round_record *record) FB_MUST_USE;

/* Sets `status` ("complete", "stopped" or "failed"), the end time and the given attributes (model hash, totals),
 * closes, and reads the file back. On an error PATH keeps its committed rounds and the status "running". Sets *results
 * to NULL. */
fb_status fb_results_finish(fb_results **results, const char *status, const fb_attribute *summary,
                            int summary_count) FB_MUST_USE;
