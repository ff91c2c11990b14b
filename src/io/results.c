/* SPDX-License-Identifier: Apache-2.0
 *
 * HDF5 makes the structure in memory; it is written to PATH.tmp, renamed, and from then on only raw values are put into
 * their fixed places by pwrite, never metadata: that is what makes the file survive a kill, and a full disk shows as an
 * ordinary error. The closing attributes are added to a copy, PATH.tmp again, which is read back through HDF5 and
 * renamed over PATH.
 */
#include "io/results.h"

#include "core/file.h"
#include "core/mem.h"
#include "io/results_schema.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TIME_CHARS = 32, NAME_CHARS = 64, VALUE_BYTES = 8 };

struct fb_results {
    char path[FB_PATH_CHARS], temporary[FB_PATH_CHARS];
    int fd; /* of path; -1 while closed */
    int hospital_count;
    int64_t rounds, committed;
    int64_t offset[FB_RESULT_VARIABLES]; /* of each variable's values in the file */
    int64_t offset_committed;
    uint32_t crc[FB_RESULT_VARIABLES]; /* CRC-32C of each variable's committed rounds */
};

static void utc_now(char text[TIME_CHARS])
{
    const time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(text, TIME_CHARS, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static void hdf5_path_of(const fb_result_variable *variable, char path[NAME_CHARS])
{
    snprintf(path, NAME_CHARS, "%s%s", variable->diagnostic ? "diagnostics/" : "", variable->name);
}

/* The number of values of `rounds` rounds; a variable's rounds follow each other in the file. */
static int64_t count_of(const fb_results *results, const fb_result_variable *variable, int64_t rounds)
{
    hsize_t extent[FB_RESULT_AXES_MAX];
    const int axes = fb_result_extent(variable, rounds, results->hospital_count, extent);
    int64_t count = 1;
    for (int k = 0; k < axes; k++)
        count *= (int64_t)extent[k];
    return count;
}

/* --- images: on a full disk HDF5 reports success from H5Dwrite and H5Fclose, so it never meets one --- */

enum { GROW_BYTES = 1 << 20 };

/* A new file. `path` is for messages; HDF5 wants that there is no such file. */
static fb_status image_create(const char *path, hid_t *file)
{
    const hid_t access = fb_h5_file_access(), creation = access < 0 ? access : H5Pcreate(H5P_FILE_CREATE);
    hid_t made = creation;
    if (made >= 0)
        made = H5Pset_fapl_core(access, GROW_BYTES, 0);
    if (made >= 0)
        made = H5Pset_link_creation_order(creation, FB_H5_ORDERED);
    if (made >= 0)
        made = H5Pset_attr_creation_order(creation, FB_H5_ORDERED);
    if (made >= 0)
        made = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    fb_status status = fb_h5_check_file(made, path, "make");
    (void)H5Pclose(creation);
    (void)H5Pclose(access);
    if (status == FB_OK)
        *file = made;
    return status;
}

/* Opens bytes (size_bytes), copied, for changes. */
static fb_status image_open(const char *path, const void *bytes, int64_t size_bytes, hid_t *file)
{
    const hid_t access = fb_h5_file_access();
    void *not_changed = NULL; /* HDF5 asks for a pointer to non-const, but copies */
    memcpy(&not_changed, &bytes, sizeof bytes);
    hid_t opened = access;
    if (opened >= 0)
        opened = H5Pset_fapl_core(access, GROW_BYTES, 0);
    if (opened >= 0)
        opened = H5Pset_file_image(access, not_changed, (size_t)size_bytes);
    if (opened >= 0)
        opened = H5Fopen(path, H5F_ACC_RDWR, access);
    fb_status status = fb_h5_check_file(opened, path, "open");
    (void)H5Pclose(access);
    if (status == FB_OK)
        *file = opened;
    return status;
}

/* The image as bytes, owned by the caller. */
static fb_status image_bytes(hid_t file, char **bytes, int64_t *size_bytes)
{
    char *buffer = NULL; /* (size) */
    FB_TRY(fb_h5_check(H5Fflush(file, H5F_SCOPE_GLOBAL), file, NULL, "complete the image"));
    const ssize_t size = H5Fget_file_image(file, NULL, 0);
    FB_TRY(fb_h5_check(size, file, NULL, "take the image"));
    FB_TRY(FB_ALLOC(buffer, size, "image of an HDF5 file"));
    fb_status status = fb_h5_check(H5Fget_file_image(file, buffer, (size_t)size), file, NULL, "take the image");
    if (status != FB_OK) {
        FB_FREE(buffer);
        return status;
    }
    *bytes = buffer;
    *size_bytes = size;
    return FB_OK;
}

/* Writes the image to PATH.tmp, which must not exist. */
static fb_status write_temporary(const fb_results *results, hid_t file)
{
    char *bytes = NULL;
    int64_t size_bytes = 0;
    FB_TRY(image_bytes(file, &bytes, &size_bytes));
    fb_status status = FB_OK;
    FILE *stream = fopen(results->temporary, "wbx");
    if (!stream) {
        status = FB_FAIL("%s: cannot create: %s%s", results->temporary, strerror(errno),
                         errno == EEXIST ? "; another run is beginning there, or one was killed while it began: remove "
                                           "it, or choose another output"
                                         : "");
        goto done;
    }
    int reason = 0;
    if (fwrite(bytes, 1, (size_t)size_bytes, stream) != (size_t)size_bytes || fflush(stream) != 0)
        reason = errno;
    if (fclose(stream) != 0 && reason == 0)
        reason = errno;
    if (reason != 0) {
        status =
            FB_FAIL("%s: cannot write %lld bytes: %s", results->temporary, (long long)size_bytes, strerror(reason));
        (void)unlink(results->temporary);
    }
done:
    FB_FREE(bytes);
    return status;
}

/* --- create --- */

/* Where in the file the values of a contiguous dataset lie. */
static fb_status dataset_offset(hid_t file, const char *path, int64_t *offset_bytes)
{
    hid_t dataset = 0;
    FB_TRY(fb_h5_dataset_open(file, path, &dataset));
    const haddr_t address = H5Dget_offset(dataset);
    fb_status status = fb_h5_check(address == HADDR_UNDEF ? -1 : 0, file, path, "find the values");
    fb_h5_close(&dataset);
    *offset_bytes = (int64_t)address;
    return status;
}

static fb_status fill_image(fb_results *results, const fb_results_spec *spec, hid_t file)
{
    char now[TIME_CHARS], path[NAME_CHARS];
    utc_now(now);
    FB_TRY(fb_result_make_structure(file, spec));
    FB_TRY(fb_h5_attribute_text(file, "status", "running"));
    FB_TRY(fb_h5_attribute_text(file, "start_time_utc", now));
    for (int v = 0; v < FB_RESULT_VARIABLES; v++) {
        hdf5_path_of(&fb_result_variables[v], path);
        FB_TRY(dataset_offset(file, path, &results->offset[v]));
    }
    return dataset_offset(file, fb_result_rounds_committed.name, &results->offset_committed);
}

static fb_status check_absent(const char *path)
{
    int found = 0;
    FB_TRY(fb_file_find(path, &found));
    if (found)
        return FB_FAIL("%s exists already, and results are never overwritten; remove it, or choose another output",
                       path);
    return FB_OK;
}

/* PATH is checked again while PATH.tmp is ours: of two runs that begin at once, one is refused. */
static fb_status commit_new(const fb_results *results)
{
    fb_status status = check_absent(results->path);
    if (status == FB_OK)
        status = fb_file_commit(results->temporary, results->path);
    if (status != FB_OK)
        (void)unlink(results->temporary);
    return status;
}

static fb_status open_for_rounds(fb_results *results, const char *path)
{
    results->fd = open(path, O_WRONLY | O_CLOEXEC);
    return results->fd >= 0 ? FB_OK : FB_FAIL("%s: cannot open: %s", path, strerror(errno));
}

/* The structure of a run without rounds in PATH.tmp. */
static fb_status make_temporary(fb_results *results, const fb_results_spec *spec)
{
    hid_t file = 0;
    FB_TRY(image_create(results->temporary, &file));
    fb_status status = fill_image(results, spec, file);
    if (status == FB_OK)
        status = write_temporary(results, file);
    fb_h5_close(&file);
    return status;
}

static fb_status create(fb_results *results, const fb_results_spec *spec)
{
    FB_TRY(check_absent(results->path));
    FB_TRY(make_temporary(results, spec));
    FB_TRY(commit_new(results));
    return open_for_rounds(results, results->path);
}

static fb_status prepare(const char *path, const fb_results_spec *spec, fb_results *results)
{
    FB_ASSERT(spec->rounds > 0 && spec->hospital_count > 0);
    results->fd = -1;
    results->rounds = spec->rounds;
    results->hospital_count = spec->hospital_count;
    const int chars = snprintf(results->temporary, sizeof results->temporary, "%s.tmp", path);
    if (chars < 0 || (size_t)chars >= sizeof results->temporary)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 5);
    snprintf(results->path, sizeof results->path, "%s", path);
    return FB_OK;
}

/* The size of a new file of so many rounds, made in memory. */
static fb_status measure(fb_results_spec spec, int64_t rounds, int64_t *size_bytes)
{
    char *bytes = NULL;
    hid_t file = 0;
    spec.rounds = rounds;
    FB_TRY(image_create("results.h5", &file));
    fb_status status = fb_result_make_structure(file, &spec);
    if (status == FB_OK)
        status = image_bytes(file, &bytes, size_bytes);
    FB_FREE(bytes);
    fb_h5_close(&file);
    return status;
}

fb_status fb_results_bytes(const fb_results_spec *spec, int64_t *size_bytes)
{
    const int64_t few = 16, more = 272;
    int64_t few_bytes = 0, more_bytes = 0;
    FB_TRY(measure(*spec, few, &few_bytes));
    FB_TRY(measure(*spec, more, &more_bytes));
    *size_bytes =
        few_bytes + (int64_t)((double)(more_bytes - few_bytes) / (double)(more - few) * (double)(spec->rounds - few));
    return FB_OK;
}

fb_status fb_results_create(const char *path, const fb_results_spec *spec, fb_results **out)
{
    fb_results *results = NULL;
    FB_TRY(FB_ALLOC(results, 1, "results"));
    fb_status status = prepare(path, spec, results);
    if (status == FB_OK)
        status = create(results, spec);
    if (status != FB_OK) {
        FB_FREE(results);
        return status;
    }
    *out = results;
    return FB_OK;
}

/* --- rounds --- */

static fb_status put(const fb_results *results, const char *name, int64_t offset_bytes, const void *values,
                     int64_t count)
{
    const size_t size_bytes = (size_t)count * VALUE_BYTES;
    if (fb_fd_write(results->fd, values, size_bytes, offset_bytes) != 0)
        return FB_FAIL("%s: /%s: cannot write %zu bytes: %s", results->path, name, size_bytes, strerror(errno));
    return FB_OK;
}

static fb_status flush(const fb_results *results)
{
    if (fb_fd_flush(results->fd) != 0)
        return FB_FAIL("%s: cannot flush to disk: %s", results->path, strerror(errno));
    return FB_OK;
}

static const void *values_of(const fb_round_record *record, const fb_result_variable *variable)
{
    const char *field = (const char *)record + variable->offset;
    if (variable->shape != FB_PER_HOSPITAL)
        return field;
    const void *values = NULL;
    memcpy(&values, field, sizeof values);
    FB_ASSERT(values);
    return values;
}

fb_status fb_results_write_round(fb_results *results, int64_t round, const fb_round_record *record)
{
    uint32_t crc[FB_RESULT_VARIABLES];
    const int64_t committed = round + 1;
    FB_ASSERT(round == results->committed && round < results->rounds);
    for (int v = 0; v < FB_RESULT_VARIABLES; v++) {
        const fb_result_variable *variable = &fb_result_variables[v];
        const int64_t count = count_of(results, variable, 1);
        const void *values = values_of(record, variable); /* (count) */
        FB_TRY(put(results, variable->name, results->offset[v] + round * count * VALUE_BYTES, values, count));
        crc[v] = fb_crc32c(results->crc[v], values, count * VALUE_BYTES);
    }
    FB_TRY(flush(results));
    FB_TRY(put(results, fb_result_rounds_committed.name, results->offset_committed, &committed, 1));
    FB_TRY(flush(results));
    memcpy(results->crc, crc, sizeof crc);
    results->committed = committed;
    return FB_OK;
}

/* --- going on --- */

/* Copies a variable's first `rounds` rounds from another run's file. */
static fb_status copy_rounds(fb_results *results, hid_t from, int v, int64_t rounds)
{
    const fb_result_variable *variable = &fb_result_variables[v];
    char path[NAME_CHARS];
    int64_t *values = NULL, stored = 0; /* of all its rounds and of either type */
    const int64_t count = count_of(results, variable, rounds);
    hdf5_path_of(variable, path);
    FB_TRY(fb_h5_dataset_count(from, path, &stored));
    if (stored < count)
        return FB_FAIL("%s: /%s: it has %lld values, but %lld rounds of this run have %lld", results->path, path,
                       (long long)stored, (long long)rounds, (long long)count);
    FB_TRY(FB_ALLOC(values, stored, variable->name));
    fb_status status = fb_h5_dataset_read(from, path, fb_result_type(variable), values);
    if (status == FB_OK && fb_crc32c(0, values, count * VALUE_BYTES) != results->crc[v])
        status = FB_FAIL("%s: /%s: its first %lld rounds are not those that the run wrote: the file was changed or "
                         "damaged; put it back, or remove the folder checkpoint beside it: then all rounds are "
                         "computed again, and messages that are on disk are sent again",
                         results->path, path, (long long)rounds);
    if (status == FB_OK)
        status = put(results, variable->name, results->offset[v], values, count);
    FB_FREE(values);
    return status;
}

static fb_status copy_all(fb_results *results, int64_t rounds)
{
    hid_t from = 0;
    FB_TRY(fb_h5_file_open(results->path, &from));
    fb_status status = FB_OK;
    for (int v = 0; v < FB_RESULT_VARIABLES && status == FB_OK; v++)
        status = copy_rounds(results, from, v, rounds);
    fb_h5_close(&from);
    if (status == FB_OK)
        status = put(results, fb_result_rounds_committed.name, results->offset_committed, &rounds, 1);
    results->committed = rounds;
    return status;
}

static fb_status go_on(fb_results *results, const fb_results_spec *spec, int64_t rounds)
{
    if (unlink(results->temporary) != 0 && errno != ENOENT)
        return FB_FAIL("%s: cannot be removed: %s", results->temporary, strerror(errno));
    FB_TRY(make_temporary(results, spec));
    FB_TRY(open_for_rounds(results, results->temporary));
    if (rounds > 0)
        FB_TRY(copy_all(results, rounds));
    return fb_file_commit(results->temporary, results->path);
}

fb_status fb_results_continue(const char *path, const fb_results_spec *spec, int64_t rounds,
                              const fb_results_sums *sums, fb_results **out)
{
    fb_results *results = NULL;
    FB_ASSERT(rounds <= spec->rounds);
    FB_TRY(FB_ALLOC(results, 1, "results"));
    memcpy(results->crc, sums->crc, sizeof results->crc);
    fb_status status = prepare(path, spec, results);
    if (status == FB_OK)
        status = go_on(results, spec, rounds);
    if (status != FB_OK) {
        if (results->fd >= 0)
            close(results->fd);
        (void)unlink(results->temporary);
        FB_FREE(results);
        return status;
    }
    *out = results;
    return FB_OK;
}

fb_results_sums fb_results_take_sums(const fb_results *results)
{
    fb_results_sums sums = {{0}};
    _Static_assert(sizeof sums.crc >= sizeof results->crc, "a sum for every variable");
    memcpy(sums.crc, results->crc, sizeof results->crc);
    return sums;
}

/* --- finish --- */

static fb_status verify_variable(const fb_results *results, hid_t file, int v)
{
    const fb_result_variable *variable = &fb_result_variables[v];
    char path[NAME_CHARS];
    int64_t *values = NULL; /* of all rounds and of either type */
    hdf5_path_of(variable, path);
    FB_TRY(FB_ALLOC(values, count_of(results, variable, results->rounds), variable->name));
    fb_status status = fb_h5_dataset_read(file, path, fb_result_type(variable), values);
    const int64_t size_bytes = count_of(results, variable, results->committed) * VALUE_BYTES;
    if (status == FB_OK && fb_crc32c(0, values, size_bytes) != results->crc[v])
        status = FB_FAIL("%s: /%s: what was read back differs from what was written; the file was changed, or the disk "
                         "is faulty",
                         results->temporary, path);
    FB_FREE(values);
    return status;
}

static fb_status verify(const fb_results *results, hid_t file)
{
    int64_t committed = -1;
    FB_TRY(fb_h5_dataset_read(file, fb_result_rounds_committed.name, H5T_NATIVE_INT64, &committed));
    if (committed != results->committed)
        return FB_FAIL("%s: %lld rounds are counted as written instead of %lld; the file was changed, or the disk is "
                       "faulty",
                       results->temporary, (long long)committed, (long long)results->committed);
    for (int v = 0; v < FB_RESULT_VARIABLES; v++)
        FB_TRY(verify_variable(results, file, v));
    return FB_OK;
}

static fb_status add_summary(hid_t file, const char *text, const fb_attribute *summary, int summary_count)
{
    char now[TIME_CHARS];
    utc_now(now);
    FB_TRY(fb_h5_check(H5Adelete(file, "status"), file, "status", "replace the attribute"));
    FB_TRY(fb_h5_attribute_text(file, "status", text));
    FB_TRY(fb_h5_attribute_text(file, "end_time_utc", now));
    for (int i = 0; i < summary_count; i++)
        FB_TRY(fb_h5_attribute_text(file, summary[i].name, summary[i].text));
    return FB_OK;
}

static fb_status write_finished(const fb_results *results, const char *text, const fb_attribute *summary,
                                int summary_count)
{
    char *bytes = NULL;
    int64_t size_bytes = 0;
    hid_t file = 0;
    FB_TRY(fb_file_read(results->path, INT64_MAX - 1, &bytes, &size_bytes));
    fb_status status = image_open(results->temporary, bytes, size_bytes, &file);
    FB_FREE(bytes);
    if (status == FB_OK)
        status = add_summary(file, text, summary, summary_count);
    if (status == FB_OK)
        status = write_temporary(results, file);
    fb_h5_close(&file);
    return status;
}

static fb_status commit_finished(const fb_results *results)
{
    hid_t file = 0;
    fb_status status = fb_h5_file_open(results->temporary, &file);
    if (status == FB_OK)
        status = verify(results, file);
    fb_h5_close(&file);
    if (status == FB_OK)
        status = fb_file_commit(results->temporary, results->path);
    if (status != FB_OK)
        (void)unlink(results->temporary);
    return status;
}

fb_status fb_results_finish(fb_results **results, const char *status, const fb_attribute *summary, int summary_count)
{
    fb_results *self = *results;
    if (!self)
        return FB_OK;
    FB_ASSERT(strcmp(status, "complete") == 0 || strcmp(status, "stopped") == 0 || strcmp(status, "failed") == 0);
    (void)close(self->fd); /* every round was flushed */
    fb_status outcome = write_finished(self, status, summary, summary_count);
    if (outcome == FB_OK)
        outcome = commit_finished(self);
    outcome = fb_error_context(outcome, "%s keeps its %lld rounds and the status \"running\"", self->path,
                               (long long)self->committed);
    FB_FREE(*results);
    return outcome;
}

fb_status fb_results_committed(const char *path, int64_t *rounds)
{
    hid_t file = 0;
    FB_TRY(fb_h5_file_open(path, &file));
    const fb_status status = fb_h5_dataset_read(file, fb_result_rounds_committed.name, H5T_NATIVE_INT64, rounds);
    fb_h5_close(&file);
    return status;
}
