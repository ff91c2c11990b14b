/* SPDX-License-Identifier: Apache-2.0 */
#include "io/audit_file.h"

#include "core/build_info.h"
#include "core/file.h"
#include "core/h5.h"
#include "core/mem.h"

#include <errno.h>
#include <hdf5_hl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DIRECTIONS = 2, AXES_MAX = 3 };

typedef enum axis { SUBJECT, PAIR, DIRECTION, POINT, AXES } axis;

/* A group with its own coordinates: xarray opens a group by itself. */
typedef struct table {
    hid_t group, scale[AXES];
    hsize_t count[AXES];
} table;

static fb_status describe(hid_t dataset, const char *long_name)
{
    FB_TRY(fb_h5_attribute_text(dataset, "long_name", long_name));
    return fb_h5_attribute_text(dataset, "units", "1");
}

static fb_status write_dataset(hid_t dataset, hid_t type, const void *values)
{
    return fb_h5_check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), dataset, NULL, "write");
}

/* values: (count) of type */
static fb_status add_scale(table *t, axis a, const char *name, const char *long_name, hid_t type, const void *values)
{
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    (void)H5Pset_obj_track_times(creation, 0);
    fb_status status = fb_h5_dataset_create(t->group, name, type, 1, &t->count[a], creation, &t->scale[a]);
    fb_h5_close(&creation);
    FB_TRY(status);
    FB_TRY(write_dataset(t->scale[a], type, values));
    FB_TRY(describe(t->scale[a], long_name));
    return fb_h5_check(H5DSset_scale(t->scale[a], name), t->scale[a], NULL, "become a dimension scale");
}

static fb_status add_text_scale(table *t, axis a, const char *name, const char *long_name, const char *const *texts)
{
    hid_t type = 0;
    FB_TRY(fb_h5_text_type(t->group, name, H5T_VARIABLE, &type));
    const fb_status status = add_scale(t, a, name, long_name, type, texts);
    fb_h5_close(&type);
    return status;
}

static fb_status add_points(table *t)
{
    int64_t point[FB_AUDIT_POINTS];
    for (int k = 0; k < FB_AUDIT_POINTS; k++)
        point[k] = k;
    return add_scale(t, POINT, "point", "point of the ROC curve", H5T_NATIVE_INT64, point);
}

/* Axes of a variable: subject, then those given; AXES ends them. */
static fb_status add_variable(const table *t, const char *name, const char *long_name, hid_t type, axis second,
                              axis third, const void *values)
{
    const axis axes[AXES_MAX] = {SUBJECT, second, third};
    hsize_t extent[AXES_MAX];
    int count = 0;
    hid_t dataset = 0, creation = 0;
    fb_status status = FB_OK;
    while (count < AXES_MAX && axes[count] != AXES) {
        extent[count] = t->count[axes[count]];
        count++;
    }
    creation = H5Pcreate(H5P_DATASET_CREATE);
    (void)H5Pset_obj_track_times(creation, 0);
    FB_TRY_GOTO(status, fb_h5_dataset_create(t->group, name, type, count, extent, creation, &dataset), done);
    FB_TRY_GOTO(status, write_dataset(dataset, type, values), done);
    FB_TRY_GOTO(status, describe(dataset, long_name), done);
    for (int k = 0; k < count && status == FB_OK; k++)
        status = fb_h5_check(H5DSattach_scale(dataset, t->scale[axes[k]], (unsigned)k), dataset, NULL,
                             "get its dimension scale");
done:
    fb_h5_close(&creation);
    fb_h5_close(&dataset);
    return status;
}

static void close_table(table *t)
{
    for (int a = 0; a < AXES; a++)
        fb_h5_close(&t->scale[a]);
    fb_h5_close(&t->group);
}

/* --- mechanisms --- */

/* All values of all rows. */
typedef struct columns {
    double *claimed, *delta, *bound, *ceiling;       /* (subject) */
    int64_t *samples, *refuted;                      /* (subject) */
    double *lower, *hit_rate, *miss_rate;            /* (subject, pair, direction) */
    double *false_positive, *true_positive;          /* (subject, pair, point) */
    const char **subject, *pair[FB_AUDIT_PAIRS_MAX]; /* (subject) */
} columns;

static void free_columns(columns *c)
{
    FB_FREE(c->claimed);
    FB_FREE(c->delta);
    FB_FREE(c->bound);
    FB_FREE(c->ceiling);
    FB_FREE(c->samples);
    FB_FREE(c->refuted);
    FB_FREE(c->lower);
    FB_FREE(c->hit_rate);
    FB_FREE(c->miss_rate);
    FB_FREE(c->false_positive);
    FB_FREE(c->true_positive);
    FB_FREE(c->subject);
}

static fb_status alloc_columns(columns *c, int rows, int pairs)
{
    const char *what = "columns of an audit";
    FB_TRY(FB_ALLOC(c->claimed, rows, what));
    FB_TRY(FB_ALLOC(c->delta, rows, what));
    FB_TRY(FB_ALLOC(c->bound, rows, what));
    FB_TRY(FB_ALLOC(c->ceiling, rows, what));
    FB_TRY(FB_ALLOC(c->samples, rows, what));
    FB_TRY(FB_ALLOC(c->refuted, rows, what));
    FB_TRY(FB_ALLOC(c->lower, rows * pairs * DIRECTIONS, what));
    FB_TRY(FB_ALLOC(c->hit_rate, rows * pairs * DIRECTIONS, what));
    FB_TRY(FB_ALLOC(c->miss_rate, rows * pairs * DIRECTIONS, what));
    FB_TRY(FB_ALLOC(c->false_positive, rows * pairs * FB_AUDIT_POINTS, what));
    FB_TRY(FB_ALLOC(c->true_positive, rows * pairs * FB_AUDIT_POINTS, what));
    return fb_mem_alloc(&c->subject, rows, sizeof *c->subject, what);
}

static void fill_row(columns *c, int r, int pairs, const fb_audit_row *row)
{
    c->subject[r] = row->subject;
    c->claimed[r] = row->epsilon;
    c->delta[r] = row->delta;
    c->bound[r] = row->result.bound;
    c->ceiling[r] = row->result.ceiling;
    c->samples[r] = row->result.samples;
    c->refuted[r] = row->result.refuted;
    for (int p = 0; p < pairs; p++) {
        const fb_audit_finding *finding = &row->result.finding[p];
        c->pair[p] = finding->pair;
        for (int d = 0; d < DIRECTIONS; d++) {
            const int at = (r * pairs + p) * DIRECTIONS + d;
            c->lower[at] = finding->epsilon[d];
            c->hit_rate[at] = finding->rate[d][0];
            c->miss_rate[at] = finding->rate[d][1];
        }
        const int64_t at = (int64_t)(r * pairs + p) * FB_AUDIT_POINTS;
        memcpy(c->false_positive + at, finding->false_positive, sizeof finding->false_positive);
        memcpy(c->true_positive + at, finding->true_positive, sizeof finding->true_positive);
    }
}

static fb_status write_columns(table *t, const columns *c)
{
    static const char *const directions[DIRECTIONS] = {"likely under the first", "likely under the second"};
    const hid_t real = H5T_NATIVE_DOUBLE, integer = H5T_NATIVE_INT64;
    FB_TRY(add_text_scale(t, SUBJECT, "subject", "audited mechanism", c->subject));
    FB_TRY(add_text_scale(t, PAIR, "pair", "neighbouring inputs", c->pair));
    FB_TRY(add_text_scale(t, DIRECTION, "direction", "input under which the event is likely", directions));
    FB_TRY(add_points(t));
    FB_TRY(add_variable(t, "epsilon_claimed", "claimed privacy budget of one release", real, AXES, AXES, c->claimed));
    FB_TRY(add_variable(t, "delta", "claimed delta", real, AXES, AXES, c->delta));
    FB_TRY(add_variable(t, "epsilon_bound", "largest lower bound on epsilon", real, AXES, AXES, c->bound));
    FB_TRY(add_variable(t, "epsilon_ceiling", "largest lower bound that the samples could give", real, AXES, AXES,
                        c->ceiling));
    FB_TRY(add_variable(t, "samples", "samples drawn", integer, AXES, AXES, c->samples));
    FB_TRY(add_variable(t, "refuted", "1 when the bound exceeds the claim", integer, AXES, AXES, c->refuted));
    FB_TRY(add_variable(t, "epsilon_lower", "lower bound on epsilon", real, PAIR, DIRECTION, c->lower));
    FB_TRY(add_variable(t, "event_rate", "rate of the event under the input that favours it", real, PAIR, DIRECTION,
                        c->hit_rate));
    FB_TRY(add_variable(t, "event_rate_other", "rate of the event under the other input", real, PAIR, DIRECTION,
                        c->miss_rate));
    FB_TRY(add_variable(t, "false_positive_rate", "false positive rate of telling the inputs apart", real, PAIR, POINT,
                        c->false_positive));
    return add_variable(t, "true_positive_rate", "true positive rate of telling the inputs apart", real, PAIR, POINT,
                        c->true_positive);
}

static fb_status write_mechanisms(hid_t file, const fb_audit_report *report)
{
    const int pairs = report->row[0].result.pair_count;
    table t = {.count = {(hsize_t)report->row_count, (hsize_t)pairs, DIRECTIONS, FB_AUDIT_POINTS}};
    columns c = {0};
    FB_TRY(fb_h5_group_create(file, "mechanisms", FB_H5_ORDERED, FB_H5_ORDERED, &t.group));
    fb_status status = alloc_columns(&c, report->row_count, pairs);
    for (int r = 0; r < report->row_count && status == FB_OK; r++)
        fill_row(&c, r, pairs, &report->row[r]);
    if (status == FB_OK)
        status = write_columns(&t, &c);
    free_columns(&c);
    close_table(&t);
    return status;
}

/* --- trainings --- */

enum { TRAININGS_MAX = 4 };

static fb_status write_training_table(table *t, const fb_audit_report *report)
{
    const char *subject[TRAININGS_MAX];
    double real[4][TRAININGS_MAX], rate[2][TRAININGS_MAX][FB_AUDIT_POINTS];
    int64_t integer[4][TRAININGS_MAX];
    static const char *const real_name[4][2] = {{"epsilon_claimed", "claimed privacy budget of the run"},
                                                {"delta", "claimed delta"},
                                                {"epsilon_bound", "lower bound on epsilon"},
                                                {"epsilon_ceiling", "largest lower bound that all guesses right give"}};
    static const char *const integer_name[4][2] = {{"canaries", "canaries, or samples"},
                                                   {"guesses", "guesses made"},
                                                   {"right", "guesses that are right"},
                                                   {"refuted", "1 when the bound exceeds the claim"}};
    for (int r = 0; r < report->training_count; r++) {
        const fb_audit_training_row *row = &report->training[r];
        subject[r] = row->subject;
        real[0][r] = row->result.epsilon;
        real[1][r] = row->result.delta;
        real[2][r] = row->result.bound;
        real[3][r] = row->result.ceiling;
        integer[0][r] = row->result.canaries;
        integer[1][r] = row->result.guesses;
        integer[2][r] = row->result.right;
        integer[3][r] = row->result.refuted;
        memcpy(rate[0][r], row->result.false_positive, sizeof rate[0][r]);
        memcpy(rate[1][r], row->result.true_positive, sizeof rate[1][r]);
    }
    FB_TRY(add_text_scale(t, SUBJECT, "subject", "audited training", subject));
    FB_TRY(add_points(t));
    for (int k = 0; k < 4; k++) {
        FB_TRY(add_variable(t, real_name[k][0], real_name[k][1], H5T_NATIVE_DOUBLE, AXES, AXES, real[k]));
        FB_TRY(add_variable(t, integer_name[k][0], integer_name[k][1], H5T_NATIVE_INT64, AXES, AXES, integer[k]));
    }
    FB_TRY(add_variable(t, "false_positive_rate", "false positive rate of telling in from out", H5T_NATIVE_DOUBLE,
                        POINT, AXES, rate[0]));
    return add_variable(t, "true_positive_rate", "true positive rate of telling in from out", H5T_NATIVE_DOUBLE, POINT,
                        AXES, rate[1]);
}

static fb_status write_trainings(hid_t file, const fb_audit_report *report)
{
    table t = {.count = {[SUBJECT] = (hsize_t)report->training_count, [POINT] = FB_AUDIT_POINTS}};
    FB_ASSERT(report->training_count <= TRAININGS_MAX);
    FB_TRY(fb_h5_group_create(file, "training", FB_H5_ORDERED, FB_H5_ORDERED, &t.group));
    const fb_status status = write_training_table(&t, report);
    close_table(&t);
    return status;
}

static fb_status fill(hid_t file, const fb_audit_report *report)
{
    FB_TRY(fb_h5_attribute_text(file, "title", "FedBraTS privacy audit"));
    FB_TRY(fb_h5_attribute_text(file, "schema_version", "1"));
    FB_TRY(fb_h5_attribute_text(file, "note",
                                "bounds are lower bounds from samples: they can refute a claim and prove nothing about "
                                "inputs, events and faults that were not tried"));
    FB_TRY(fb_h5_attribute_text(file, "version", fb_build_version()));
    FB_TRY(fb_h5_attribute_text(file, "revision", fb_build_revision()));
    FB_TRY(fb_h5_attribute_text(file, "settings", report->settings));
    FB_TRY(fb_h5_attribute_value(file, "seed", H5T_NATIVE_INT64, &report->seed));
    FB_TRY(fb_h5_attribute_value(file, "confidence", H5T_NATIVE_DOUBLE, &report->confidence));
    if (report->row_count > 0)
        FB_TRY(write_mechanisms(file, report));
    return report->training_count > 0 ? write_trainings(file, report) : FB_OK;
}

/* HDF5 may report success on a full disk: the flush and the close that count are checked. */
static fb_status write_temporary(const char *path, const fb_audit_report *report)
{
    hid_t access = fb_h5_file_access();
    const hid_t made = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    fb_status status = fb_h5_check_file(made, path, "make");
    fb_h5_close(&access);
    FB_TRY(status);
    status = fill(made, report);
    if (status == FB_OK)
        status = fb_h5_check(H5Fflush(made, H5F_SCOPE_GLOBAL), made, NULL, "flush");
    const fb_status closed = fb_h5_check_file(H5Fclose(made), path, "close");
    return fb_error_first(status, closed);
}

fb_status fb_audit_file_write(const char *path, const fb_audit_report *report)
{
    char temporary[FB_PATH_CHARS];
    if (fb_file_exists(path))
        return FB_FAIL("%s exists already, and results are never overwritten; remove it, or choose another "
                       "audit.output",
                       path);
    const int chars = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (chars < 0 || (size_t)chars >= sizeof temporary)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 5);
    fb_status status = write_temporary(temporary, report);
    if (status == FB_OK)
        status = fb_file_commit(temporary, path);
    if (status != FB_OK)
        (void)unlink(temporary);
    return status;
}
