/* SPDX-License-Identifier: Apache-2.0 */
#include "shards.h"

#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "data/checksums.h"
#include "data/shard.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FAULTS_SHOWN = 20, FILE_CHARS = 24 };

typedef struct split_job {
    char folder[FB_PATH_CHARS]; /* the temporary one */
    fb_cases *cases;
    const fb_partition *partition;
    fb_on_duplicate on_duplicate;
    uint8_t (*image_hash)[FB_IMAGE_HASH_BYTES]; /* (cases->count) owned */
    FILE *manifest;                             /* in memory; owned */
    int64_t done, fault_count;
    fb_status faults[FAULTS_SHOWN]; /* owned */
    double start_s;
} split_job;

/* --- the folder
 * -------------------------------------------------------------------------------------------------------- */

static fb_status temporary_path(char path[FB_PATH_CHARS], const char *output)
{
    const int chars = snprintf(path, FB_PATH_CHARS, "%s.tmp", output);
    if (chars < 0 || chars >= FB_PATH_CHARS)
        return FB_FAIL("%s: the path is longer than %d characters", output, FB_PATH_CHARS - 5);
    return FB_OK;
}

/* Names in `path` other than . and ..; with `remove` they are deleted. */
static int count_entries(const char *path, int remove)
{
    int count = 0;
    DIR *stream = opendir(path);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (remove)
            unlinkat(dirfd(stream), entry->d_name, 0);
    }
    if (stream)
        closedir(stream);
    return count;
}

static void remove_folder(const char *path)
{
    count_entries(path, 1);
    if (rmdir(path) != 0)
        fb_log_warn("%s: cannot remove the unfinished output: %s", path, strerror(errno));
}

static fb_status make_parent(const char *output)
{
    char parent[FB_PATH_CHARS];
    snprintf(parent, sizeof parent, "%s", output);
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent)
        return FB_OK;
    *slash = '\0';
    return fb_folder_make(parent);
}

fb_status fb_shards_prepare(const char *output)
{
    char path[FB_PATH_CHARS];
    struct stat info;
    FB_TRY(temporary_path(path, output));
    if (stat(output, &info) == 0 && (!S_ISDIR(info.st_mode) || count_entries(output, 0) > 0))
        return FB_FAIL("%s: exists and is not an empty folder; name another --output or remove it", output);
    FB_TRY(make_parent(output));
    if (mkdir(path, 0777) == 0)
        return FB_OK;
    if (errno == EEXIST)
        return FB_FAIL("%s: exists: another brats-split is writing it, or one was killed; remove it if none is running",
                       path);
    return FB_FAIL("%s: cannot make the folder: %s", path, strerror(errno));
}

/* --- cases
 * ------------------------------------------------------------------------------------------------------------- */

static void note_fault(split_job *job, fb_status fault)
{
    if (job->fault_count < FAULTS_SHOWN)
        job->faults[job->fault_count] = fault;
    else
        fb_error_free(&fault);
    job->fault_count++;
}

static fb_status write_case(split_job *job, fb_shard_writer *writer, int64_t index, const fb_volume *volume)
{
    char sha256[FB_SHA256_CHARS];
    const fb_case *item = &job->cases->list[index];
    const fb_assignment *owner = &job->partition->of_case[index];
    fb_duplicates_hash(volume, job->image_hash[index]);
    FB_TRY(fb_shard_writer_add(writer, volume, owner->split, item->grade, item->site, sha256));
    fprintf(job->manifest, "%s,%s,%s,%s,%s,%lld,%lld,%lld,%s\n", item->subject, item->site, item->grade,
            job->partition->hospital[owner->hospital], fb_split_name(owner->split), (long long)volume->shape[0],
            (long long)volume->shape[1], (long long)volume->shape[2], sha256);
    return FB_OK;
}

/* After the first unusable case the others are only checked. */
static fb_status process_case(split_job *job, fb_shard_writer **writer, int64_t index)
{
    fb_case *item = &job->cases->list[index];
    fb_volume *volume = NULL;
    fb_status status = FB_OK, fault = item->fault;
    item->fault = FB_OK;
    if (fault == FB_OK)
        fault = fb_case_read(item, &volume);
    if (fault != FB_OK)
        note_fault(job, fault);
    if (job->fault_count > 0)
        fb_shard_writer_abort(writer);
    else
        status = write_case(job, *writer, index, volume);
    fb_volume_destroy(&volume);
    if (status == FB_OK)
        fb_log_progress("cases", ++job->done, job->cases->count, job->start_s);
    return status;
}

/* Cases of `split`, of one hospital or (hospital < 0) of all, hospital by hospital. */
static fb_status process_split(split_job *job, fb_shard_writer **writer, int hospital, fb_split split)
{
    const fb_partition *partition = job->partition;
    const int first = hospital < 0 ? 0 : hospital, last = hospital < 0 ? partition->hospital_count - 1 : hospital;
    for (int h = first; h <= last; h++)
        for (int64_t i = 0; i < partition->case_count; i++)
            if (partition->of_case[i].hospital == h && partition->of_case[i].split == split)
                FB_TRY(process_case(job, writer, i));
    return FB_OK;
}

static void shard_file(char file[FILE_CHARS], int hospital)
{
    if (hospital < 0)
        snprintf(file, FILE_CHARS, FB_SHARD_TEST_FILE);
    else
        snprintf(file, FILE_CHARS, FB_SHARD_HOSPITAL_FILE, hospital);
}

/* hospital -1: the test shard. */
static fb_status write_shard(split_job *job, int hospital)
{
    char file[FILE_CHARS];
    fb_shard_writer *writer = NULL;
    fb_status status = FB_OK;
    shard_file(file, hospital);
    if (job->fault_count == 0) {
        const char *name = hospital < 0 ? "test" : job->partition->hospital[hospital];
        FB_TRY(fb_shard_writer_create(job->folder, file, name, hospital, &writer));
    }
    if (hospital < 0) {
        status = process_split(job, &writer, -1, FB_SPLIT_TEST);
    } else {
        status = process_split(job, &writer, hospital, FB_SPLIT_TRAIN);
        if (status == FB_OK)
            status = process_split(job, &writer, hospital, FB_SPLIT_VALIDATION);
    }
    if (status == FB_OK && writer)
        return fb_shard_writer_finish(&writer);
    fb_shard_writer_abort(&writer);
    return status;
}

static fb_status report_faults(split_job *job)
{
    for (int64_t i = 0; i < job->fault_count && i < FAULTS_SHOWN; i++)
        fb_log_error("%s", fb_error_message(job->faults[i]));
    if (job->fault_count > FAULTS_SHOWN)
        fb_log_error("and %lld more", (long long)(job->fault_count - FAULTS_SHOWN));
    if (job->fault_count == 0)
        return FB_OK;
    return FB_FAIL("%lld of %lld cases are unusable; nothing was written; mend them or take them out of the cohort",
                   (long long)job->fault_count, (long long)job->cases->count);
}

/* --- the rest of the folder
 * -------------------------------------------------------------------------------------------- */

static fb_status write_manifest(split_job *job, char **text, size_t *size_bytes)
{
    char path[FB_PATH_CHARS];
    if (fflush(job->manifest) != 0 || ferror(job->manifest))
        return FB_FAIL("manifest.csv: out of memory");
    FB_TRY(fb_path_join(path, job->folder, "manifest.csv"));
    return fb_file_write_atomic(path, *text, (int64_t)*size_bytes);
}

static fb_status write_checksums(const split_job *job)
{
    char(*names)[FILE_CHARS] = NULL;
    const char **files = NULL;
    const int hospitals = job->partition->hospital_count, count = hospitals + 2;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, FB_ALLOC(names, count, "file names"), done);
    FB_TRY_GOTO(status, FB_ALLOC(files, count, "file names"), done);
    for (int i = 0; i <= hospitals; i++)
        shard_file(names[i], i < hospitals ? i : -1);
    snprintf(names[hospitals + 1], FILE_CHARS, "manifest.csv");
    for (int i = 0; i < count; i++)
        files[i] = names[i];
    status = fb_checksums_write(job->folder, files, count);
done:
    FB_FREE(files);
    FB_FREE(names);
    return status;
}

static fb_status fill_folder(split_job *job, char **text, size_t *size_bytes)
{
    fprintf(job->manifest, "subject,site,grade,hospital,split,depth,height,width,sha256\n");
    for (int h = 0; h < job->partition->hospital_count; h++)
        FB_TRY(write_shard(job, h));
    FB_TRY(write_shard(job, -1));
    FB_TRY(report_faults(job));
    FB_TRY(fb_duplicates_check(job->cases, job->partition, job->image_hash, job->on_duplicate));
    FB_TRY(write_manifest(job, text, size_bytes));
    return write_checksums(job);
}

fb_status fb_shards_write(const char *output, fb_cases *cases, const fb_partition *partition,
                          fb_on_duplicate on_duplicate)
{
    split_job job = {.cases = cases, .partition = partition, .on_duplicate = on_duplicate, .start_s = fb_time_s()};
    char *text = NULL;
    size_t size_bytes = 0;
    FB_TRY(temporary_path(job.folder, output));
    FB_TRY(FB_ALLOC(job.image_hash, cases->count, "hashes of the images"));
    job.manifest = open_memstream(&text, &size_bytes);
    fb_status status = job.manifest ? fill_folder(&job, &text, &size_bytes) : FB_FAIL("manifest.csv: out of memory");
    if (job.manifest)
        fclose(job.manifest);
    free(text);
    FB_FREE(job.image_hash);
    if (status == FB_OK)
        status = fb_file_commit(job.folder, output);
    if (status != FB_OK)
        remove_folder(job.folder);
    for (int i = 0; i < FAULTS_SHOWN; i++)
        fb_error_free(&job.faults[i]);
    return status;
}
