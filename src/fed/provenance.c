/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/provenance.h"

#include "core/build_info.h"
#include "core/mem.h"
#include "data/shard.h"

#include <hdf5.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

/* The formatted text, however long; owned by the caller. */
static fb_status format_text(const char *format, va_list args, char **out) __attribute__((format(printf, 1, 0)));

static fb_status format_text(const char *format, va_list args, char **out)
{
    va_list again;
    va_copy(again, args);
    const int chars = vsnprintf(NULL, 0, format, again);
    va_end(again);
    FB_TRY(fb_mem_alloc(out, (chars > 0 ? chars : 0) + 1, 1, "provenance"));
    if (chars > 0)
        vsnprintf(*out, (size_t)chars + 1, format, args);
    return FB_OK;
}

static fb_status copy_text(const char *text, const char **out)
{
    char *copy = NULL;
    const size_t chars = strlen(text) + 1;
    FB_TRY(FB_ALLOC(copy, (int64_t)chars, "provenance"));
    memcpy(copy, text, chars);
    *out = copy;
    return FB_OK;
}

fb_status fb_records_add(fb_records *records, const char *name, const char *format, ...)
{
    va_list args;
    char *text = NULL;
    fb_attribute item = {NULL, NULL};
    if (records->count == records->capacity) {
        const int capacity = records->capacity ? 2 * records->capacity : 64;
        FB_TRY(fb_mem_resize(&records->items, capacity, sizeof *records->items, "provenance"));
        records->capacity = capacity;
    }
    FB_TRY(copy_text(name, &item.name));
    va_start(args, format);
    const fb_status status = format_text(format, args, &text);
    va_end(args);
    item.text = text;
    if (status != FB_OK)
        FB_FREE(item.name);
    else
        records->items[records->count++] = item;
    return status;
}

void fb_records_free(fb_records *records)
{
    for (int i = 0; i < records->count; i++) {
        FB_FREE(records->items[i].name);
        FB_FREE(records->items[i].text);
    }
    FB_FREE(records->items);
    records->count = records->capacity = 0;
}

fb_status fb_records_config(const fb_config *config, fb_records *records)
{
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    char name[128], text[FB_TEXT_CHARS];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s.%s", table[i].section, table[i].key);
        fb_options_format(&table[i], config, text);
        FB_TRY(fb_records_add(records, name, "%s", text));
    }
    return FB_OK;
}

static fb_status config_sha256(const fb_config *config, char hex[FB_SHA256_CHARS])
{
    fb_records records = {0};
    crypto_hash_sha256_state state;
    unsigned char digest[crypto_hash_sha256_BYTES];
    fb_status status = fb_records_config(config, &records);
    crypto_hash_sha256_init(&state);
    for (int i = 0; i < records.count; i++) {
        crypto_hash_sha256_update(&state, (const unsigned char *)records.items[i].name,
                                  strlen(records.items[i].name) + 1);
        crypto_hash_sha256_update(&state, (const unsigned char *)records.items[i].text,
                                  strlen(records.items[i].text) + 1);
    }
    crypto_hash_sha256_final(&state, digest);
    sodium_bin2hex(hex, FB_SHA256_CHARS, digest, sizeof digest);
    fb_records_free(&records);
    return status;
}

static fb_status add_build(const fb_comm *comm, const fb_ops *ops, fb_records *records)
{
    unsigned major = 0, minor = 0, release = 0;
    char operations[256];
    H5get_libversion(&major, &minor, &release);
    ops->describe(ops, sizeof operations, operations);
    FB_TRY(fb_records_add(records, "program", "fedbrats %s", fb_build_version()));
    FB_TRY(fb_records_add(records, "git_revision", "%s", fb_build_revision()));
    FB_TRY(fb_records_add(records, "compiler", "%s", fb_build_compiler()));
    FB_TRY(fb_records_add(records, "flags", "%s", fb_build_flags()));
    FB_TRY(fb_records_add(records, "operations", "%s", operations));
    FB_TRY(fb_records_add(records, "communication", "%s", fb_comm_library(comm)));
    FB_TRY(fb_records_add(records, "hdf5", "%u.%u.%u", major, minor, release));
    return fb_records_add(records, "sodium", "%s", sodium_version_string());
}

static fb_status add_job(int argc, char **argv, fb_records *records)
{
    static const char *const variables[] = {"SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
                                            "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST"};
    char line[4096] = "", name[64];
    for (int i = 0; i < argc; i++) {
        const size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "%s%s", i ? " " : "", argv[i]);
    }
    FB_TRY(fb_records_add(records, "command_line", "%s", line));
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        const char *value = getenv(variables[i]);
        snprintf(name, sizeof name, "%s", variables[i]);
        for (char *c = name; *c; c++)
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        if (value)
            FB_TRY(fb_records_add(records, name, "%s", value));
    }
    return FB_OK;
}

fb_status fb_records_provenance(const fb_config *config, const fb_comm *comm, const fb_ops *ops,
                                const char *convolutions, int argc, char **argv, const char *data_sha256,
                                fb_records *records)
{
    char when[32], sha256[FB_SHA256_CHARS];
    struct utsname host;
    struct tm utc;
    const time_t now = time(NULL);
    gmtime_r(&now, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    memset(&host, 0, sizeof host);
    uname(&host);
    FB_TRY(config_sha256(config, sha256));
    FB_TRY(fb_records_add(records, "schema_version", "1"));
    FB_TRY(add_build(comm, ops, records));
    if (convolutions)
        FB_TRY(fb_records_add(records, "convolutions", "%s", convolutions));
    FB_TRY(fb_records_add(records, "host", "%s, %s %s, %s", host.nodename, host.sysname, host.release, host.machine));
    FB_TRY(fb_records_add(records, "ranks", "%d", fb_comm_size(comm)));
    FB_TRY(fb_records_add(records, "start_utc", "%s", when));
    FB_TRY(fb_records_add(records, "config_sha256", "%s", sha256));
    FB_TRY(fb_records_add(records, "data_sha256", "%s", data_sha256));
    return add_job(argc, argv, records);
}

/* The identity of a rank as text whose parts can be compared. */
typedef struct identity {
    char config[FB_SHA256_CHARS], data[FB_SHA256_CHARS], revision[64], operations[256], flags[512];
} identity;

static const char *difference(const identity *a, const identity *b)
{
    if (strcmp(a->config, b->config) != 0)
        return "options";
    if (strcmp(a->data, b->data) != 0)
        return "data (data.shards)";
    if (strcmp(a->revision, b->revision) != 0)
        return "program revision";
    if (strcmp(a->flags, b->flags) != 0)
        return "compiler flags";
    return strcmp(a->operations, b->operations) != 0 ? "oneDNN version, instruction set or GPU" : NULL;
}

static fb_status compare_ranks(int ranks, const identity *all)
{
    for (int rank = 1; rank < ranks; rank++)
        if (difference(&all[0], &all[rank]))
            return FB_FAIL("rank %d differs from rank 0 in its %s, so results could not be reproduced: use the same "
                           "program, arguments and shards on every rank, and one kind of processor (or set "
                           "ONEDNN_MAX_CPU_ISA)",
                           rank, difference(&all[0], &all[rank]));
    return FB_OK;
}

static fb_status read_data_identity(const fb_config *config, char hex[FB_SHA256_CHARS])
{
    fb_cohort *cohort = NULL;
    FB_TRY(fb_cohort_read(config->data_shards, &cohort));
    memcpy(hex, cohort->sha256, sizeof cohort->sha256);
    fb_cohort_close(&cohort);
    return FB_OK;
}

fb_status fb_identity_check(const fb_config *config, const fb_ops *ops, fb_comm *comm)
{
    const int root = fb_comm_rank(comm) == 0, ranks = fb_comm_size(comm);
    identity own, *all = NULL;
    memset(&own, 0, sizeof own);
    fb_status status = config_sha256(config, own.config);
    if (status == FB_OK)
        status = read_data_identity(config, own.data);
    snprintf(own.revision, sizeof own.revision, "%s", fb_build_revision());
    snprintf(own.flags, sizeof own.flags, "%s", fb_build_flags());
    if (ops)
        ops->describe(ops, sizeof own.operations, own.operations);
    if (status == FB_OK)
        status = FB_ALLOC(all, root ? ranks : 0, "identities");
    status = fb_status_agree(comm, status);
    if (status == FB_OK)
        status = fb_comm_gather(comm, &own, sizeof own, all);
    if (status == FB_OK && root)
        status = compare_ranks(ranks, all);
    FB_FREE(all);
    return fb_status_agree(comm, status);
}
