/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/resume.h"

#include "core/build_info.h"
#include "core/file.h"
#include "core/log.h"
#include "core/mem.h"
#include "fed/schedule.h"
#include "io/results.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { IDENTITY_CHARS = 4096 };

/* What changes neither a bit of the models nor what was promised: how loud, how long, where, on how many ranks. */
static int may_change(const fb_option *option)
{
    static const char *const names[] = {"run.resume",     "run.checkpoint_every",   "run.grace_s",  "run.verbosity",
                                        "run.output",     "data.cache_bytes",       "comm.backend", "comm.timeout_s",
                                        "run.watchdog_s", "data.device_cache_bytes"};
    char name[128];
    snprintf(name, sizeof name, "%s.%s", option->section, option->key);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return strcmp(option->section, "plan") == 0;
}

static int is_option(const fb_option *option, const char *section, const char *key)
{
    return strcmp(option->section, section) == 0 && strcmp(option->key, key) == 0;
}

/* Where a run ends. More rounds are fine, unless they decided how much noise there is. */
static int moves_end(const fb_option *option, const fb_config *was, const fb_config *now)
{
    if (is_option(option, "privacy", "stop_at_epsilon"))
        return 1;
    return is_option(option, "federation", "rounds") && now->federation_rounds > was->federation_rounds &&
           now->privacy_epsilon_total == 0.0;
}

/* same: nothing but what never matters differs. */
static fb_status compare_options(const char *path, const fb_config *was, const fb_config *now, int *same)
{
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    char before[FB_TEXT_CHARS], after[FB_TEXT_CHARS];
    *same = 1;
    for (int i = 0; i < count; i++) {
        fb_options_format(&table[i], was, before);
        fb_options_format(&table[i], now, after);
        if (strcmp(before, after) == 0 || may_change(&table[i]))
            continue;
        *same = 0;
        if (!moves_end(&table[i], was, now))
            return FB_USAGE("%s.%s is %s, but %s has %s: a run goes on with its own options; start anew in another "
                            "run.output to change them",
                            table[i].section, table[i].key, after, path, before);
    }
    return FB_OK;
}

static fb_status compare_used(const fb_config *config, const char *path, int *same)
{
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    fb_config *was = NULL;
    fb_options *options = NULL;
    FB_TRY(FB_ALLOC(was, 1, "options of the interrupted run"));
    fb_status status = fb_options_create(table, count, was, &options);
    if (status == FB_OK)
        status = fb_options_read_ini(options, path);
    if (status == FB_OK)
        status = compare_options(path, was, config, same);
    fb_options_destroy(&options);
    FB_FREE(was);
    return status;
}

/* --- the folder --- */

/* What a run that ended before its used.ini may leave, and what others put there for it. */
static int is_harmless(const char *name)
{
    static const char *const names[] = {".", "..", "log.txt", "used.ini.tmp", "stop", "ranks"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return 0;
}

static fb_status find_foreign(const fb_config *config, char name[256])
{
    DIR *folder = opendir(config->run_output);
    const struct dirent *entry;
    name[0] = '\0';
    if (!folder && errno == ENOTDIR)
        return FB_USAGE("run.output = %s: %s", config->run_output, strerror(errno));
    if (!folder)
        return errno == ENOENT ? FB_OK : FB_FAIL("%s: cannot open the folder: %s", config->run_output, strerror(errno));
    errno = 0;
    while (!name[0] && (entry = readdir(folder)) != NULL)
        if (!is_harmless(entry->d_name))
            snprintf(name, 256, "%s", entry->d_name);
    const int reason = name[0] ? 0 : errno;
    closedir(folder);
    return reason == 0 ? FB_OK : FB_FAIL("%s: cannot list the folder: %s", config->run_output, strerror(reason));
}

static fb_status look_new(const fb_config *config, fb_folder *out)
{
    char foreign[256];
    FB_TRY(find_foreign(config, foreign));
    if (foreign[0])
        return FB_USAGE("run.output = %s: the folder has no used.ini, so no run was begun there, but it is not empty "
                        "(%s); choose another or remove it",
                        config->run_output, foreign);
    if (config->run_resume == FB_RESUME_REQUIRE)
        return FB_USAGE("run.resume = require: no run has begun in %s; start it with run.resume = auto",
                        config->run_output);
    *out = FB_FOLDER_NEW;
    return FB_OK;
}

fb_status fb_resume_look(const fb_config *config, fb_folder *out)
{
    char path[FB_PATH_CHARS], result[FB_PATH_CHARS];
    int same = 0, begun = 0, ended = 0, releases = 0;
    FB_TRY(fb_path_join(path, config->run_output, "used.ini"));
    FB_TRY(fb_path_join(result, config->run_output, "result.txt"));
    FB_TRY(fb_file_find(path, &begun));
    FB_TRY(fb_file_find(result, &ended));
    if (!begun)
        return look_new(config, out);
    if (config->run_resume == FB_RESUME_NEVER)
        return FB_USAGE("run.resume = never, but a run was begun in run.output = %s: choose another folder, or go on "
                        "with run.resume = auto",
                        config->run_output);
    FB_TRY(fb_resume_has_begun(config->run_output, &releases)); /* before, nothing depended on the options */
    if (releases)
        FB_TRY(compare_used(config, path, &same));
    *out = same && ended ? FB_FOLDER_COMPLETE : FB_FOLDER_BEGUN;
    return FB_OK;
}

fb_status fb_resume_write_result(const fb_config *config, const char *line)
{
    char path[FB_PATH_CHARS];
    FB_TRY(fb_path_join(path, config->run_output, "result.txt"));
    return fb_file_write_atomic(path, line, (int64_t)strlen(line));
}

fb_status fb_resume_print_result(const fb_config *config)
{
    char path[FB_PATH_CHARS], *line = NULL;
    int64_t size_bytes = 0;
    FB_TRY(fb_path_join(path, config->run_output, "result.txt"));
    FB_TRY(fb_file_read(path, 1 << 20, &line, &size_bytes));
    fb_log_info("%s: the run is complete; its result again", config->run_output);
    fputs(line, stdout);
    FB_FREE(line);
    return fb_output_flush();
}

fb_status fb_resume_remove_result(const fb_config *config)
{
    char path[FB_PATH_CHARS];
    FB_TRY(fb_path_join(path, config->run_output, "result.txt"));
    if (unlink(path) != 0 && errno != ENOENT)
        return FB_FAIL("%s: cannot be removed: %s", path, strerror(errno));
    return FB_OK;
}

/* --- identity --- */

fb_status fb_resume_has_begun(const char *folder, int *begun)
{
    char path[FB_PATH_CHARS];
    FB_TRY(fb_path_join(path, folder, "identity.txt"));
    return fb_file_find(path, begun);
}

fb_status fb_resume_nonce(const char *folder, uint64_t *nonce)
{
    char path[FB_PATH_CHARS], *text = NULL;
    int64_t size_bytes = 0;
    int begun = 0, has_results = 0;
    randombytes_buf(nonce, sizeof *nonce);
    FB_TRY(fb_path_join(path, folder, "results.h5"));
    FB_TRY(fb_file_find(path, &has_results));
    FB_TRY(fb_path_join(path, folder, "identity.txt"));
    FB_TRY(fb_file_find(path, &begun));
    if (!begun && has_results)
        return FB_FAIL(
            "%s is missing, though the run has begun: its noise cannot be drawn again; put the file back, or "
            "start anew in another run.output and add what both spend",
            path);
    if (!begun)
        return FB_OK;
    FB_TRY(fb_file_read(path, IDENTITY_CHARS, &text, &size_bytes));
    const int found = sscanf(text, "nonce: %16" SCNx64 "\n", nonce);
    FB_FREE(text);
    return found == 1 ? FB_OK : FB_FAIL("%s: it does not begin with the run's nonce; put the file back", path);
}

/* The options that must stay, as text. */
static fb_status hash_run(const fb_config *config, const char *identity, char sha256[FB_SHA256_CHARS])
{
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    char value[FB_TEXT_CHARS], *text = NULL;
    size_t size_bytes = 0;
    FILE *stream = open_memstream(&text, &size_bytes);
    if (!stream)
        return FB_FAIL("no memory for the run's identity");
    fputs(identity, stream);
    for (int i = 0; i < count; i++) {
        fb_options_format(&table[i], config, value);
        if (!may_change(&table[i]) && !is_option(&table[i], "federation", "rounds") &&
            !is_option(&table[i], "privacy", "stop_at_epsilon"))
            fprintf(stream, "%s.%s=%s\n", table[i].section, table[i].key, value);
    }
    FB_TRY(fb_text_close(stream, &text, "the run's identity"));
    fb_sha256(text, (int64_t)size_bytes, sha256);
    free(text);
    return FB_OK;
}

static fb_status compare_identity(const char *path, const char *now)
{
    char *was = NULL;
    int64_t size_bytes = 0;
    FB_TRY(fb_file_read(path, IDENTITY_CHARS, &was, &size_bytes));
    size_t line = 0;
    for (size_t i = 0; was[i] && was[i] == now[i]; i++)
        line = was[i] == '\n' ? i + 1 : line;
    const char *a = was + line, *b = now + line;
    fb_status status = FB_OK;
    if (strcmp(was, now) != 0)
        status = FB_USAGE("the run began with \"%.*s\" (%s), now it is \"%.*s\": other bits would come out; "
                          "use the same program, processor, conv-plans.txt, key file, initial model and shards",
                          (int)strcspn(a, "\n"), a, path, (int)strcspn(b, "\n"), b);
    FB_FREE(was);
    return status;
}

/* value: "" is left out. */
static void add_line(const char *name, const char *value, char text[IDENTITY_CHARS])
{
    const size_t used = strlen(text);
    if (value[0])
        snprintf(text + used, IDENTITY_CHARS - used, "%s: %s\n", name, value);
}

/* Another key or another model to begin with, under the same name, would give other noise for a round that was charged,
 * or the same noise for another one. */
static fb_status describe_run(const fb_federation *federation, const char *convolutions_sha256,
                              char text[IDENTITY_CHARS])
{
    char nonce[17], operations[256], key[FB_SHA256_CHARS], model[FB_SHA256_CHARS] = "";
    snprintf(nonce, sizeof nonce, "%016" PRIx64, federation->run_nonce);
    federation->ops->describe(federation->ops, sizeof operations, operations);
    FB_TRY(fb_federation_key_mark(federation, key));
    if (federation->config->train_init_from[0])
        fb_sha256(federation->w, federation->params->count * (int64_t)sizeof *federation->w, model);
    text[0] = '\0';
    add_line("nonce", nonce, text);
    add_line("revision", fb_build_revision(), text);
    add_line("flags", fb_build_flags(), text);
    add_line("operations", operations, text);
    add_line("convolutions", convolutions_sha256, text);
    add_line("key file", key, text);
    add_line("train.init_from", model, text);
    add_line("data", federation->cohort->sha256, text);
    return FB_OK;
}

fb_status fb_resume_identity(fb_federation *federation, const char *convolutions_sha256)
{
    const fb_config *config = federation->config;
    char path[FB_PATH_CHARS], text[IDENTITY_CHARS];
    int begun = 0;
    FB_TRY(describe_run(federation, convolutions_sha256, text));
    FB_TRY(fb_path_join(path, config->run_output, "identity.txt"));
    FB_TRY(hash_run(config, text, federation->run_sha256));
    FB_TRY(fb_file_find(path, &begun));
    return begun ? compare_identity(path, text) : fb_file_write_atomic(path, text, (int64_t)strlen(text));
}

/* --- what was charged --- */

/* The rounds that the interrupted run has in its results, which it flushed after their releases. */
static fb_status read_committed(const fb_config *config, int64_t *rounds)
{
    char path[FB_PATH_CHARS];
    int found = 0;
    *rounds = 0;
    FB_TRY(fb_path_join(path, config->run_output, "results.h5"));
    FB_TRY(fb_file_find(path, &found));
    fb_status status = found ? fb_results_committed(path, rounds) : FB_OK;
    if (status != FB_OK)
        fb_log_warn("%s: cannot be read, so the ledgers are not compared with it", path);
    fb_error_free(&status);
    return FB_OK;
}

static fb_status check_round(const fb_ledger *ledger, const fb_outbox *outbox, uint32_t round, const char *who)
{
    int has = 0;
    if (fb_ledger_last(ledger, round))
        return FB_OK;
    if (outbox)
        FB_TRY(fb_outbox_has(outbox, round, &has));
    if (has)
        return FB_OK;
    return FB_FAIL("round %" PRIu32
                   " of %s is in the results, but neither in its privacy ledger nor in its outbox: what "
                   "was spent is not known any more; restore both, or start anew in another run.output and add what "
                   "both spend",
                   round + 1, who);
}

/* participates (hospital_count) is scratch. */
static fb_status check_rounds(const fb_federation *federation, int64_t committed, int64_t *participates)
{
    const fb_config *config = federation->config;
    const int federated = config->run_mode == FB_MODE_FEDERATED;
    for (int64_t round = 0; round < committed; round++) {
        FB_TRY(fb_schedule_participants((uint64_t)config->run_seed, (uint32_t)round, federation->hospital_count,
                                        federated ? config->federation_participation : 1.0, participates));
        for (int h = 0; h < federation->hospital_count; h++) {
            const fb_hospital *hospital = &federation->hospitals[h];
            const fb_ledger *ledger = fb_hospital_ledger(hospital);
            if (ledger && participates[h])
                FB_TRY(check_round(ledger, hospital->outbox, (uint32_t)round, fb_hospital_name(federation, h)));
        }
        if (federation->server_outbox)
            FB_TRY(check_round(fb_outbox_ledger(federation->server_outbox), federation->server_outbox, (uint32_t)round,
                               "the server"));
    }
    return FB_OK;
}

fb_status fb_resume_check_charged(fb_federation *federation)
{
    fb_comm *comm = federation->comm;
    int64_t committed = 0, *participates = NULL;
    fb_status status = FB_ALLOC(participates, federation->hospital_count, "participants");
    if (status == FB_OK && fb_comm_rank(comm) == 0)
        status = read_committed(federation->config, &committed);
    status = fb_status_agree(comm, status);
    if (status == FB_OK)
        status = fb_comm_broadcast(comm, &committed, sizeof committed);
    if (status == FB_OK)
        status = fb_status_agree(comm, check_rounds(federation, committed, participates));
    FB_FREE(participates);
    return status;
}
