/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/resume.h"

#include "core/build_info.h"
#include "core/file.h"
#include "core/log.h"
#include "core/mem.h"
#include "io/results.h"
#include "privacy/mechanism.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { IDENTITY_CHARS = 4096 };

static fb_status check_kind(const fb_config *config)
{
    if (config->run_mode != FB_MODE_FEDERATED || config->privacy_mechanism == FB_MECHANISM_NONE)
        return FB_USAGE("run.resume: nothing to resume from: only run.mode = federated with a privacy.mechanism keeps "
                        "its messages; start anew in another run.output");
    if (config->train_momentum != FB_MOMENTUM_RESTART)
        return FB_USAGE(
            "run.resume needs train.momentum = restart: Adam's moments of earlier rounds are in no message; "
            "start anew in another run.output");
    return FB_OK;
}

/* What changes neither a bit of the models nor what was promised: how loud, how long, where, on how many ranks. */
static int may_change(const fb_option *option)
{
    static const char *const names[] = {
        "run.resume",       "run.verbosity", "run.output",     "privacy.stop_at_epsilon",
        "data.cache_bytes", "comm.backend",  "comm.timeout_s", "data.device_cache_bytes",
        "run.watchdog_s"};
    char name[128];
    snprintf(name, sizeof name, "%s.%s", option->section, option->key);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return strcmp(option->section, "plan") == 0;
}

/* More rounds are fine, unless they decided how much noise there is. */
static int only_grows(const fb_option *option, const fb_config *was, const fb_config *now)
{
    return strcmp(option->section, "federation") == 0 && strcmp(option->key, "rounds") == 0 &&
           now->federation_rounds > was->federation_rounds && now->privacy_epsilon_total == 0.0;
}

static fb_status compare_options(const char *path, const fb_config *was, const fb_config *now)
{
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    char before[FB_TEXT_CHARS], after[FB_TEXT_CHARS];
    for (int i = 0; i < count; i++) {
        fb_options_format(&table[i], was, before);
        fb_options_format(&table[i], now, after);
        if (strcmp(before, after) != 0 && !may_change(&table[i]) && !only_grows(&table[i], was, now))
            return FB_USAGE("run.resume: %s.%s is %s, but %s has %s: a run goes on with its own options; start anew in "
                            "another run.output to change them",
                            table[i].section, table[i].key, after, path, before);
    }
    return FB_OK;
}

fb_status fb_resume_check(const fb_config *config)
{
    char path[FB_PATH_CHARS];
    int count = 0;
    const fb_option *table = fb_config_table(&count);
    fb_config *was = NULL;
    fb_options *options = NULL;
    FB_TRY(check_kind(config));
    FB_TRY(fb_path_join(path, config->run_output, "used.ini"));
    if (!fb_file_exists(path))
        return FB_USAGE("run.resume: %s is missing: no run has begun there; start it without run.resume", path);
    FB_TRY(FB_ALLOC(was, 1, "options of the interrupted run"));
    fb_status status = fb_options_create(table, count, was, &options);
    if (status == FB_OK)
        status = fb_options_read_ini(options, path);
    if (status == FB_OK)
        status = compare_options(path, was, config);
    fb_options_destroy(&options);
    FB_FREE(was);
    return status;
}

int fb_resume_has_begun(const fb_config *config, const char *folder)
{
    char path[FB_PATH_CHARS];
    fb_status status = fb_path_join(path, folder, "identity.txt");
    const int known = status == FB_OK;
    fb_error_free(&status);
    return config->run_resume && known && fb_file_exists(path);
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
        status =
            FB_USAGE("run.resume: the run began with \"%.*s\" (%s), now it is \"%.*s\": other bits would come out; "
                     "use the same program, processor, conv-plans.txt and shards",
                     (int)strcspn(a, "\n"), a, path, (int)strcspn(b, "\n"), b);
    FB_FREE(was);
    return status;
}

fb_status fb_resume_identity(const fb_config *config, const fb_ops *ops, const char *convolutions_sha256,
                             const char *data_sha256)
{
    char path[FB_PATH_CHARS], text[IDENTITY_CHARS], operations[256];
    const int gpu = convolutions_sha256[0] != '\0';
    ops->describe(ops, sizeof operations, operations);
    FB_TRY(fb_path_join(path, config->run_output, "identity.txt"));
    const int chars = snprintf(text, sizeof text, "revision: %s\nflags: %s\noperations: %s\n%s%s%sdata: %s\n",
                               fb_build_revision(), fb_build_flags(), operations, gpu ? "convolutions: " : "",
                               convolutions_sha256, gpu ? "\n" : "", data_sha256);
    if (config->run_resume && fb_file_exists(path))
        return compare_identity(path, text);
    return fb_file_write_atomic(path, text, chars < (int)sizeof text ? chars : (int64_t)sizeof text - 1);
}

/* The results that the number-th resume has set aside; 0: results.h5. */
static fb_status results_path(const fb_config *config, int number, char path[FB_PATH_CHARS])
{
    char name[64] = "results.h5";
    if (number > 0)
        snprintf(name, sizeof name, "results.h5.before-resume-%d", number);
    return fb_path_join(path, config->run_output, name);
}

fb_status fb_resume_committed(const fb_config *config, int64_t *rounds)
{
    char path[FB_PATH_CHARS];
    *rounds = 0;
    for (int number = 0; config->run_resume; number++) { /* a refused resume must not make the next one forget */
        int64_t committed = 0;
        FB_TRY(results_path(config, number, path));
        if (!fb_file_exists(path) && number > 0)
            return FB_OK;
        fb_status status = fb_file_exists(path) ? fb_results_committed(path, &committed) : FB_OK;
        if (status != FB_OK)
            fb_log_warn("%s: cannot be read, so the ledgers are not compared with it", path);
        fb_error_free(&status);
        *rounds = committed > *rounds ? committed : *rounds;
    }
    return FB_OK;
}

fb_status fb_resume_move_results(const fb_config *config)
{
    char path[FB_PATH_CHARS], aside[FB_PATH_CHARS];
    FB_TRY(fb_path_join(path, config->run_output, "results.h5.tmp"));
    if (unlink(path) != 0 && errno != ENOENT)
        return FB_FAIL("%s: cannot be removed: %s", path, strerror(errno));
    FB_TRY(results_path(config, 0, path));
    if (!fb_file_exists(path))
        return FB_OK;
    for (int number = 1;; number++) {
        FB_TRY(results_path(config, number, aside));
        if (!fb_file_exists(aside))
            break;
    }
    fb_log_info("resume: the results so far are in %s; all rounds are evaluated again", aside);
    return fb_file_commit(path, aside);
}
