/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/checkpoint.h"

#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"
#include "io/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char MODEL[] = "model.safetensors", SERVER[] = "server.state";

enum { ROUND_CHARS = 7, NAME_CHARS = 64 };

/* A line of the section "files": SHA-256, blank, name, line feed. */
typedef struct file_line {
    char sha256[FB_SHA256_CHARS], name[NAME_CHARS];
} file_line;

/* --- paths --- */

static fb_status folder_path(const fb_config *config, int64_t rounds, char path[FB_PATH_CHARS])
{
    char name[NAME_CHARS];
    snprintf(name, sizeof name, "checkpoint/%0*lld", ROUND_CHARS, (long long)rounds);
    return fb_path_join(path, config->run_output, name);
}

static fb_status file_path(const fb_config *config, int64_t rounds, const char *name, char path[FB_PATH_CHARS])
{
    char folder[FB_PATH_CHARS];
    FB_TRY(folder_path(config, rounds, folder));
    return fb_path_join(path, folder, name);
}

static void hospital_name(int hospital, char name[NAME_CHARS])
{
    snprintf(name, NAME_CHARS, "hospital_%02d.state", hospital);
}

/* The number that the name of a checkpoint's folder is; -1: it is another name. */
static int64_t rounds_of(const char *name)
{
    const size_t digits = strspn(name, "0123456789");
    return digits >= ROUND_CHARS && name[digits] == '\0' ? strtoll(name, NULL, 10) : -1;
}

/* The newest checkpoint of fewer than `below` rounds; 0: there is none. whole: only one that has its server.state. */
static fb_status newest(const fb_config *config, int64_t below, int whole, int64_t *rounds)
{
    char path[FB_PATH_CHARS];
    const struct dirent *entry;
    *rounds = 0;
    FB_TRY(fb_path_join(path, config->run_output, "checkpoint"));
    DIR *folder = opendir(path);
    if (!folder)
        return errno == ENOENT ? FB_OK : FB_FAIL("%s: cannot open the folder: %s", path, strerror(errno));
    fb_status status = FB_OK;
    errno = 0;
    while (status == FB_OK && (entry = readdir(folder)) != NULL) {
        const int64_t found = rounds_of(entry->d_name);
        if (found <= *rounds || found >= below)
            continue;
        int has = !whole;
        status = file_path(config, found, SERVER, path);
        if (status == FB_OK && whole)
            status = fb_file_find(path, &has);
        if (status == FB_OK && has)
            *rounds = found;
        errno = 0;
    }
    const int reason = entry ? 0 : errno;
    closedir(folder);
    if (status == FB_OK && reason != 0)
        status = FB_FAIL("%s/checkpoint: cannot list the folder: %s", config->run_output, strerror(reason));
    return status;
}

/* --- finding --- */

/* Compares the files that the state names with their hashes. */
static fb_status check_files(const fb_config *config, const fb_checkpoint *checkpoint)
{
    char path[FB_PATH_CHARS], sha256[FB_SHA256_CHARS];
    const fb_section *files = fb_state_find(&checkpoint->state, "files");
    const int64_t count = files ? files->size_bytes / (int64_t)sizeof(file_line) : 0;
    for (int64_t i = 0; i < count; i++) {
        file_line line;
        memcpy(&line, (const char *)files->data + i * (int64_t)sizeof line, sizeof line);
        line.name[NAME_CHARS - 1] = line.sha256[FB_SHA256_CHARS - 1] = '\0';
        FB_TRY(file_path(config, checkpoint->rounds, line.name, path));
        FB_TRY(fb_file_sha256(path, sha256));
        if (strcmp(sha256, line.sha256) != 0)
            return FB_FAIL("%s: the file was changed or cut off", path);
    }
    return FB_OK;
}

static fb_status take(const fb_config *config, int64_t rounds, fb_checkpoint *out)
{
    char path[FB_PATH_CHARS];
    int64_t said = -1;
    out->rounds = rounds;
    FB_TRY(folder_path(config, rounds, out->folder));
    FB_TRY(file_path(config, rounds, SERVER, path));
    FB_TRY(fb_state_read(path, &out->state));
    FB_TRY(fb_state_get(&out->state, "rounds", &said, sizeof said));
    if (said != rounds)
        return FB_FAIL("%s: it is the checkpoint of %lld rounds", path, (long long)said);
    return check_files(config, out);
}

fb_status fb_checkpoint_find(const fb_config *config, fb_checkpoint *out)
{
    int damaged = 0;
    for (int64_t below = INT64_MAX, rounds;; below = rounds) {
        *out = (fb_checkpoint){0};
        FB_TRY(newest(config, below, 1, &rounds));
        if (rounds == 0)
            break;
        fb_status status = take(config, rounds, out);
        if (status == FB_OK)
            return FB_OK;
        fb_log_warn("checkpoint of %lld rounds: passed over: %s", (long long)rounds, fb_error_message(status));
        fb_error_free(&status);
        fb_checkpoint_free(out);
        damaged = 1;
    }
    if (!damaged)
        return FB_OK;
    return FB_FAIL("%s/checkpoint: no checkpoint is usable; put one back, or remove the folder: then all rounds are "
                   "computed again, and messages that are on disk are sent again",
                   config->run_output);
}

void fb_checkpoint_free(fb_checkpoint *checkpoint)
{
    fb_state_free(&checkpoint->state);
    *checkpoint = (fb_checkpoint){0};
}

fb_status fb_checkpoint_results(const fb_checkpoint *checkpoint, fb_results_sums *sums)
{
    *sums = (fb_results_sums){{0}};
    return checkpoint->rounds == 0 ? FB_OK : fb_state_get(&checkpoint->state, "results", sums, sizeof *sums);
}

/* --- what there is to keep --- */

static int64_t model_bytes(const fb_federation *federation)
{
    return federation->params->count * (int64_t)sizeof(float);
}

static int64_t moment_bytes(const fb_federation *federation)
{
    return federation->subset->count * (int64_t)sizeof(float);
}

static int has_own_state(const fb_hospital *hospital)
{
    return hospital->moments.m || hospital->model;
}

static int has_global_model(const fb_federation *federation)
{
    return federation->config->run_mode != FB_MODE_LOCAL;
}

/* --- removing --- */

/* Removes a folder with its files; what cannot be removed stays. */
static void remove_folder(const fb_config *config, int64_t rounds)
{
    char path[FB_PATH_CHARS], file[FB_PATH_CHARS];
    const struct dirent *entry;
    fb_status status = folder_path(config, rounds, path);
    DIR *folder = status == FB_OK ? opendir(path) : NULL;
    while (folder && status == FB_OK && (entry = readdir(folder)) != NULL) {
        status = fb_path_join(file, path, entry->d_name);
        if (status == FB_OK && entry->d_name[0] != '.')
            (void)unlink(file);
    }
    if (folder)
        closedir(folder);
    if (status == FB_OK && rmdir(path) != 0)
        fb_log_warn("%s: an old checkpoint cannot be removed: %s", path, strerror(errno));
    fb_error_free(&status);
}

/* server.state goes first, so that what is removed in part is no checkpoint. */
static fb_status remove_checkpoint(const fb_config *config, int64_t rounds)
{
    char path[FB_PATH_CHARS];
    FB_TRY(file_path(config, rounds, SERVER, path));
    (void)unlink(path);
    fb_kill_point("checkpoint.pruning");
    remove_folder(config, rounds);
    return FB_OK;
}

/* Of the checkpoints before `rounds` only the last whole one stays. */
static fb_status prune(const fb_config *config, int64_t rounds)
{
    int64_t kept = 0, old = 0;
    FB_TRY(newest(config, rounds, 1, &kept));
    for (int64_t below = rounds;; below = old) {
        FB_TRY(newest(config, below, 0, &old));
        if (old == 0)
            return FB_OK;
        if (old != kept)
            FB_TRY(remove_checkpoint(config, old));
    }
}

/* Those that were passed over: as their files are written anew, an old server.state would seem to belong to them, but
 * it knows results that are no more. */
static fb_status remove_later(const fb_config *config, int64_t rounds)
{
    int64_t later = 0;
    for (int64_t below = INT64_MAX;; below = later) {
        FB_TRY(newest(config, below, 0, &later));
        if (later <= rounds)
            return FB_OK;
        FB_TRY(remove_checkpoint(config, later));
    }
}

/* --- restoring --- */

static fb_status restore_moments(const fb_state *state, int64_t size_bytes, fb_moments *moments)
{
    if (!moments->m)
        return FB_OK;
    FB_TRY(fb_state_get(state, "moments_m", moments->m, size_bytes));
    FB_TRY(fb_state_get(state, "moments_v", moments->v, size_bytes));
    return fb_state_get(state, "moments_step", &moments->step, sizeof moments->step);
}

static fb_status restore_server(fb_federation *federation, const fb_checkpoint *checkpoint, fb_report *report)
{
    const fb_state *state = &checkpoint->state;
    char path[FB_PATH_CHARS], run[FB_SHA256_CHARS];
    FB_TRY(fb_state_get(state, "run", run, sizeof run));
    if (strncmp(run, federation->run_sha256, sizeof run) != 0)
        return FB_USAGE("%s belongs to another run, with other options, program or data: put back the one of this run, "
                        "or remove it",
                        checkpoint->folder);
    FB_TRY(fb_state_get(state, "report", fb_report_sums(report), sizeof *fb_report_sums(report)));
    FB_TRY(restore_moments(state, moment_bytes(federation), &federation->moments));
    if (federation->change)
        FB_TRY(fb_state_get(state, "change", federation->change, moment_bytes(federation)));
    if (!has_global_model(federation))
        return FB_OK;
    FB_TRY(fb_path_join(path, checkpoint->folder, MODEL));
    return fb_safetensors_read(path, federation->params, federation->w);
}

static fb_status broadcast(fb_federation *federation)
{
    const int64_t size_bytes = moment_bytes(federation);
    fb_comm *comm = federation->comm;
    FB_TRY(fb_comm_broadcast(comm, federation->w, model_bytes(federation)));
    if (federation->change)
        FB_TRY(fb_comm_broadcast(comm, federation->change, size_bytes));
    if (!federation->moments.m)
        return FB_OK;
    FB_TRY(fb_comm_broadcast(comm, federation->moments.m, size_bytes));
    FB_TRY(fb_comm_broadcast(comm, federation->moments.v, size_bytes));
    return fb_comm_broadcast(comm, &federation->moments.step, sizeof federation->moments.step);
}

static fb_status check_ledger(const fb_ledger *ledger, const fb_ledger_position *position, const char *who)
{
    if (!ledger || fb_ledger_was_at(ledger, position))
        return FB_OK;
    return FB_FAIL(
        "the privacy ledger of %s is not the one of the checkpoint, which knows %lld releases: what was spent "
        "is not known any more; restore it, or start anew in another run.output and add what both spend",
        who, (long long)position->releases);
}

static fb_status restore_hospital(const fb_federation *federation, int64_t rounds, fb_hospital *hospital,
                                  const fb_ledger_position *position)
{
    char name[NAME_CHARS], path[FB_PATH_CHARS];
    fb_state state;
    FB_TRY(check_ledger(fb_hospital_ledger(hospital), position, fb_hospital_name(federation, hospital->index)));
    fb_hospital_report_releases(hospital, (uint32_t)(rounds - 1));
    if (!has_own_state(hospital))
        return FB_OK;
    hospital_name(hospital->index, name);
    FB_TRY(file_path(federation->config, rounds, name, path));
    FB_TRY(fb_state_read(path, &state));
    fb_status status = restore_moments(&state, moment_bytes(federation), &hospital->moments);
    if (status == FB_OK && hospital->model)
        status = fb_state_get(&state, "model", hospital->model, model_bytes(federation));
    fb_state_free(&state);
    return status;
}

/* positions (hospital_count + 1): the last is the server's. */
static fb_status restore_own(const fb_federation *federation, int64_t rounds, const fb_ledger_position *positions)
{
    for (int h = 0; h < federation->hospital_count; h++)
        if (federation->hospitals[h].mine)
            FB_TRY(restore_hospital(federation, rounds, &federation->hospitals[h], &positions[h]));
    if (!federation->server_outbox)
        return FB_OK;
    return check_ledger(fb_outbox_ledger(federation->server_outbox), &positions[federation->hospital_count],
                        "the server");
}

fb_status fb_checkpoint_restore(fb_federation *federation, fb_checkpoint *checkpoint, fb_report *report)
{
    fb_comm *comm = federation->comm;
    const int root = fb_comm_rank(comm) == 0;
    const int64_t count = federation->hospital_count + 1;
    fb_ledger_position *positions = NULL;
    FB_TRY(fb_comm_broadcast(comm, &checkpoint->rounds, sizeof checkpoint->rounds));
    if (checkpoint->rounds == 0)
        return FB_OK;
    fb_status status = FB_ALLOC(positions, count, "positions of the ledgers");
    if (status == FB_OK && root)
        status = restore_server(federation, checkpoint, report);
    if (status == FB_OK && root)
        status = fb_state_get(&checkpoint->state, "ledgers", positions, count * (int64_t)sizeof *positions);
    if (status == FB_OK && root)
        status = remove_later(federation->config, checkpoint->rounds);
    status = fb_status_agree(comm, status);
    if (status == FB_OK)
        status = fb_status_or_abort(comm, broadcast(federation));
    if (status == FB_OK)
        status = fb_status_or_abort(comm, fb_comm_broadcast(comm, positions, count * (int64_t)sizeof *positions));
    if (status == FB_OK)
        status = fb_status_agree(comm, restore_own(federation, checkpoint->rounds, positions));
    FB_FREE(positions);
    return status;
}

/* --- writing --- */

/* What the ranks tell rank 0 about a hospital. */
typedef struct hospital_part {
    char sha256[FB_SHA256_CHARS]; /* of its state file; "": it has none */
    fb_ledger_position ledger;
} hospital_part;

static void add_moments(const fb_moments *moments, int64_t size_bytes, fb_state *state)
{
    if (!moments->m)
        return;
    fb_state_add(state, "moments_m", moments->m, size_bytes);
    fb_state_add(state, "moments_v", moments->v, size_bytes);
    fb_state_add(state, "moments_step", &moments->step, sizeof moments->step);
}

static fb_status write_hospital(const fb_federation *federation, int64_t rounds, const fb_hospital *hospital,
                                hospital_part *part)
{
    char name[NAME_CHARS], path[FB_PATH_CHARS];
    fb_state state = {0};
    if (fb_hospital_ledger(hospital))
        part->ledger = fb_ledger_where(fb_hospital_ledger(hospital));
    if (!has_own_state(hospital))
        return FB_OK;
    hospital_name(hospital->index, name);
    FB_TRY(file_path(federation->config, rounds, name, path));
    add_moments(&hospital->moments, moment_bytes(federation), &state);
    if (hospital->model)
        fb_state_add(&state, "model", hospital->model, model_bytes(federation));
    FB_TRY(fb_state_write(&state, path));
    memcpy(part->sha256, state.sha256, sizeof part->sha256);
    fb_kill_point("checkpoint.hospital");
    return FB_OK;
}

/* The hospitals of this rank. parts (hospital_count), zeroed. */
static fb_status write_own(const fb_federation *federation, int64_t rounds, hospital_part *parts)
{
    char folder[FB_PATH_CHARS];
    FB_TRY(folder_path(federation->config, rounds, folder));
    FB_TRY(fb_folder_make(folder));
    fb_kill_point("checkpoint.begun");
    for (int h = 0; h < federation->hospital_count; h++)
        if (federation->hospitals[h].mine)
            FB_TRY(write_hospital(federation, rounds, &federation->hospitals[h], &parts[h]));
    return FB_OK;
}

/* The model, read back into federation->w_local. */
static fb_status write_model(const fb_federation *federation, int64_t rounds, file_line *line)
{
    char path[FB_PATH_CHARS];
    FB_TRY(file_path(federation->config, rounds, MODEL, path));
    FB_TRY(fb_safetensors_write(path, federation->params, federation->w, NULL, 0, NULL));
    FB_TRY(fb_safetensors_read(path, federation->params, federation->w_local));
    if (memcmp(federation->w, federation->w_local, (size_t)model_bytes(federation)) != 0)
        return FB_FAIL("%s: what was read back differs from what was written: the disk is faulty", path);
    memcpy(line->name, MODEL, sizeof MODEL);
    fb_kill_point("checkpoint.model");
    return fb_file_sha256(path, line->sha256);
}

/* parts (hospital_count, of all ranks); files, positions (hospital_count + 1) are scratch. */
static fb_status write_server(const fb_federation *federation, int64_t rounds, fb_report *report,
                              const fb_results *results, const hospital_part *parts, file_line *files,
                              fb_ledger_position *positions)
{
    char path[FB_PATH_CHARS];
    fb_state state = {0};
    int64_t count = 0;
    const fb_results_sums sums = fb_results_take_sums(results);
    for (int h = 0; h < federation->hospital_count; h++) {
        positions[h] = parts[h].ledger;
        if (!parts[h].sha256[0])
            continue;
        hospital_name(h, files[count].name);
        memcpy(files[count++].sha256, parts[h].sha256, FB_SHA256_CHARS);
    }
    if (federation->server_outbox)
        positions[federation->hospital_count] = fb_ledger_where(fb_outbox_ledger(federation->server_outbox));
    if (has_global_model(federation))
        FB_TRY(write_model(federation, rounds, &files[count++]));
    fb_state_add(&state, "rounds", &rounds, sizeof rounds);
    fb_state_add(&state, "run", federation->run_sha256, sizeof federation->run_sha256);
    fb_state_add(&state, "report", fb_report_sums(report), sizeof *fb_report_sums(report));
    fb_state_add(&state, "results", &sums, sizeof sums);
    fb_state_add(&state, "ledgers", positions, (federation->hospital_count + 1) * (int64_t)sizeof *positions);
    add_moments(&federation->moments, moment_bytes(federation), &state);
    if (federation->change)
        fb_state_add(&state, "change", federation->change, moment_bytes(federation));
    fb_state_add(&state, "files", files, count * (int64_t)sizeof *files);
    FB_TRY(file_path(federation->config, rounds, SERVER, path));
    FB_TRY(fb_state_write(&state, path));
    fb_kill_point("checkpoint.written");
    return FB_OK;
}

static fb_status write_root(fb_federation *federation, int64_t rounds, fb_report *report, const fb_results *results,
                            const hospital_part *all)
{
    const int hospitals = federation->hospital_count, ranks = fb_comm_size(federation->comm);
    hospital_part *parts = NULL;
    file_line *files = NULL;
    fb_ledger_position *positions = NULL;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, FB_ALLOC(parts, hospitals, "checkpoint"), done);
    FB_TRY_GOTO(status, FB_ALLOC(files, hospitals + 1, "checkpoint"), done);
    FB_TRY_GOTO(status, FB_ALLOC(positions, hospitals + 1, "checkpoint"), done);
    for (int h = 0; h < hospitals; h++) {
        FB_ASSERT(federation->rank_of[h] < ranks);
        parts[h] = all[federation->rank_of[h] * hospitals + h];
    }
    FB_TRY_GOTO(status, write_server(federation, rounds, report, results, parts, files, positions), done);
    status = prune(federation->config, rounds);
done:
    FB_FREE(parts);
    FB_FREE(files);
    FB_FREE(positions);
    return status;
}

fb_status fb_checkpoint_write(fb_federation *federation, int64_t rounds, fb_report *report, const fb_results *results)
{
    fb_comm *comm = federation->comm;
    const int root = fb_comm_rank(comm) == 0, hospitals = federation->hospital_count;
    hospital_part *own = NULL, *all = NULL;
    fb_status status = FB_ALLOC(own, hospitals, "checkpoint");
    if (status == FB_OK && root)
        status = FB_ALLOC(all, (int64_t)hospitals * fb_comm_size(comm), "checkpoint");
    if (status == FB_OK)
        status = write_own(federation, rounds, own);
    status = fb_status_agree(comm, status);
    if (status == FB_OK)
        status = fb_status_or_abort(comm, fb_comm_gather(comm, own, hospitals * (int64_t)sizeof *own, all));
    if (status == FB_OK)
        status = fb_status_agree(comm, root ? write_root(federation, rounds, report, results, all) : FB_OK);
    FB_FREE(own);
    FB_FREE(all);
    return fb_error_context(status, "checkpoint after round %lld", (long long)rounds);
}

int64_t fb_checkpoint_bytes(const fb_federation *federation)
{
    const int64_t generations = 3, headings = 16 << 10; /* names, sums, hashes */
    const int64_t hospital = sizeof(file_line) + sizeof(fb_ledger_position) + 1024;
    return generations * (fb_federation_state_bytes(federation) + headings + federation->hospital_count * hospital);
}
