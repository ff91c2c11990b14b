/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/run.h"

#include "core/build_info.h"
#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/progress.h"
#include "core/range.h"
#include "core/stop.h"
#include "core/timer.h"
#include "fed/checkpoint.h"
#include "fed/convolutions.h"
#include "fed/federation.h"
#include "fed/provenance.h"
#include "fed/report.h"
#include "fed/resume.h"
#include "io/results.h"
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run {
    const fb_config *config;      /* borrowed */
    const fb_options *options;    /* borrowed */
    fb_comm *comm;                /* borrowed */
    const fb_ops *ops;            /* borrowed */
    fb_watchdog *watchdog;        /* borrowed; NULL: none */
    fb_convolutions convolutions; /* owned, as everything below */
    fb_federation *federation;
    fb_results *results;         /* rank 0 */
    fb_hospital_report *reports; /* (hospital_count) of the present round; rank 0 */
    fb_report *report;           /* turns them into records and lines; rank 0 */
    fb_checkpoint checkpoint;    /* from which the run goes on */
    double start_s;
    int64_t rounds_done, rounds_before; /* by this run; by those that it goes on from */
    int64_t rounds_saved;               /* in the last checkpoint */
    int folder_lock;                    /* rank 0: a file descriptor */
    int stopped;                        /* by privacy.stop_at_epsilon */
    char stop_reason[256];
    char model_sha256[FB_SHA256_CHARS];
    char results_path[FB_PATH_CHARS], stop_path[FB_PATH_CHARS];
} run;

static int is_root(const run *r)
{
    return fb_comm_rank(r->comm) == 0;
}

/* --- the folder --- */

/* The options as an INI file. *text is malloc's. */
static fb_status print_options(const run *r, const char *path, char **text)
{
    size_t size_bytes = 0;
    FILE *stream = open_memstream(text, &size_bytes);
    if (!stream)
        return FB_FAIL("%s: out of memory", path);
    fprintf(stream, "; fedbrats %s (%s): fedbrats train used.ini --run.output=NEW repeats this run\n",
            fb_build_version(), fb_build_revision());
    fb_options_print_used(r->options, stream);
    return fb_text_close(stream, text, path);
}

static fb_status write_used_options(const run *r)
{
    char path[FB_PATH_CHARS], *text = NULL;
    FB_TRY(fb_path_join(path, r->config->run_output, "used.ini"));
    FB_TRY(print_options(r, path, &text));
    const fb_status status = fb_file_write_atomic(path, text, (int64_t)strlen(text));
    free(text);
    return status;
}

/* Two runs in one folder would each undo what the other writes. */
static fb_status lock_folder(run *r, const char *path)
{
    int taken = 0;
    r->folder_lock = open(path, O_WRONLY | O_APPEND | O_CLOEXEC); /* NFS locks only what is open for writing */
    if (r->folder_lock < 0)
        return FB_FAIL("%s: cannot open: %s", path, strerror(errno));
    FB_TRY(fb_fd_lock(r->folder_lock, path, &taken));
    if (!taken)
        return FB_FAIL("run.output = %s: another run is at work in this folder: wait for its end, or choose another "
                       "folder",
                       r->config->run_output);
    return FB_OK;
}

/* A wish to stop that the last run has fulfilled is no wish to stop this one. */
static fb_status remove_stop_file(const run *r)
{
    if (unlink(r->stop_path) != 0 && errno != ENOENT)
        return FB_FAIL("%s: cannot be removed: %s", r->stop_path, strerror(errno));
    return FB_OK;
}

static fb_status open_folder(run *r, fb_folder *folder)
{
    char path[FB_PATH_CHARS];
    FB_TRY(fb_resume_look(r->config, folder));
    if (*folder == FB_FOLDER_COMPLETE)
        return FB_OK;
    fb_kill_point("run.looked");
    FB_TRY(fb_folder_make(r->config->run_output));
    FB_TRY(fb_path_join(path, r->config->run_output, "log.txt"));
    FB_TRY(fb_log_open(path));
    FB_TRY(lock_folder(r, path));
    FB_TRY(fb_resume_look(r->config, folder)); /* again: until now another run may have been at work */
    if (*folder == FB_FOLDER_COMPLETE)
        return FB_OK;
    FB_TRY(remove_stop_file(r));
    return *folder == FB_FOLDER_BEGUN ? fb_checkpoint_find(r->config, &r->checkpoint) : write_used_options(r);
}

/* --- results --- */

/* The epsilon axis of a sweep: what was asked for, or what the planned rounds spend. */
static fb_status configured_total(const fb_federation *federation, double *total)
{
    fb_spent spent;
    FB_TRY(
        fb_privacy_plan_spent(federation->privacy, federation->privacy->worst, federation->privacy->releases, &spent));
    const double asked = federation->config->privacy_epsilon_total;
    *total = asked > 0.0 ? asked : spent.epsilon;
    return FB_OK;
}

/* New, or with the rounds that the checkpoint knows. */
static fb_status create_results(run *r, int argc, char **argv)
{
    const fb_federation *federation = r->federation;
    fb_records config = {0}, provenance = {0};
    fb_results_sums sums;
    const char **names = NULL;
    double total = INFINITY;
    char select[FB_TEXT_CHARS], mechanism[FB_TEXT_CHARS], algorithm[FB_TEXT_CHARS], mode[FB_TEXT_CHARS];
    fb_status status = FB_OK;
    fb_config_text(r->config, "sharing", "select", select);
    fb_config_text(r->config, "privacy", "mechanism", mechanism);
    fb_config_text(r->config, "federation", "algorithm", algorithm);
    fb_config_text(r->config, "run", "mode", mode);
    FB_TRY_GOTO(status, fb_path_join(r->results_path, r->config->run_output, "results.h5"), done);
    FB_TRY_GOTO(status, fb_records_config(r->config, &config), done);
    const char *data =
        federation->privacy->guarantee->formal ? "in identity.txt, not for release" : federation->cohort->sha256;
    FB_TRY_GOTO(status,
                fb_records_provenance(r->config, r->comm, r->ops, r->convolutions.table, argc, argv, data, &provenance),
                done);
    FB_TRY_GOTO(status, fb_report_privacy_records(federation, &provenance), done);
    FB_TRY_GOTO(status, configured_total(federation, &total), done);
    FB_TRY_GOTO(status, FB_ALLOC(names, federation->hospital_count, "hospital names"), done);
    for (int h = 0; h < federation->hospital_count; h++)
        names[h] = fb_hospital_name(federation, h);
    const fb_results_spec spec = {.share_fraction = r->config->sharing_fraction,
                                  .epsilon = total,
                                  .seed = r->config->run_seed,
                                  .select = select,
                                  .mechanism = mechanism,
                                  .algorithm = algorithm,
                                  .mode = mode,
                                  .rounds = r->config->federation_rounds,
                                  .hospital_count = federation->hospital_count,
                                  .hospital_names = names,
                                  .config = config.items,
                                  .config_count = config.count,
                                  .provenance = provenance.items,
                                  .provenance_count = provenance.count};
    FB_TRY_GOTO(status, fb_checkpoint_results(&r->checkpoint, &sums), done);
    status = fb_results_continue(r->results_path, &spec, r->checkpoint.rounds, &sums, &r->results);
done:
    FB_FREE(names);
    fb_records_free(&config);
    fb_records_free(&provenance);
    return status;
}

/* text: "complete", "stopped" or "failed". */
static fb_status finish_results(run *r, const char *text)
{
    const int complete = strcmp(text, "complete") == 0;
    fb_records summary = {0};
    if (!r->results)
        return FB_OK;
    fb_status status = fb_report_summary_records(r->report, complete, r->model_sha256, &summary);
    if (status == FB_OK && r->stopped)
        status = fb_records_add(&summary, "stopped_at_epsilon", "%s", r->stop_reason);
    status = fb_error_first(status, fb_results_finish(&r->results, text, summary.items, summary.count));
    fb_records_free(&summary);
    return status;
}

/* --- the model --- */

static fb_status write_model(const run *r, const char *name, const float *w, char sha256[FB_SHA256_CHARS])
{
    char path[FB_PATH_CHARS];
    const char *const metadata[] = {"program",           fb_build_version(), "git_revision",
                                    fb_build_revision(), "data_sha256",      r->federation->cohort->sha256};
    const int entries = r->federation->privacy->guarantee->formal ? 2 : 3; /* no hash of the patients leaves with it */
    FB_TRY(fb_path_join(path, r->config->run_output, name));
    return fb_safetensors_write(path, r->federation->params, w, metadata, entries, sha256);
}

/* Mode local: each rank writes its hospitals' models. */
static fb_status write_local_models(const run *r)
{
    char name[64], sha256[FB_SHA256_CHARS];
    for (int h = 0; h < r->federation->hospital_count; h++)
        if (r->federation->hospitals[h].mine) {
            snprintf(name, sizeof name, "model_hospital_%02d.safetensors", h);
            FB_TRY(write_model(r, name, r->federation->hospitals[h].model, sha256));
        }
    return FB_OK;
}

static fb_status write_final_model(run *r)
{
    if (r->config->run_mode == FB_MODE_LOCAL) {
        snprintf(r->model_sha256, sizeof r->model_sha256, "none");
        return write_local_models(r);
    }
    return is_root(r) ? write_model(r, "model.safetensors", r->federation->w, r->model_sha256) : FB_OK;
}

/* --- rounds --- */

/* Rank 0's book-keeping of a round: record and line. */
static fb_status commit_round(run *r, int64_t round, const fb_round_figures *figures)
{
    const fb_round_record *record = NULL;
    FB_TRY(fb_report_record(r->report, r->reports, figures, &record));
    fb_kill_point("round.done");
    FB_TRY(fb_results_write_round(r->results, round, record));
    fb_kill_point("round.committed");
    fb_report_line(r->report, round, figures, (fb_time_s() - r->start_s) / (double)(round + 1 - r->rounds_before));
    return FB_OK;
}

static fb_status save(run *r)
{
    if (r->rounds_saved == r->rounds_done || r->rounds_done == 0)
        return FB_OK;
    FB_TRY(fb_checkpoint_write(r->federation, r->rounds_done, r->report, r->results));
    r->rounds_saved = r->rounds_done;
    return FB_OK;
}

/* Whether the budget allows the round; if not, the run ends before it. Every rank comes to the same answer. */
static fb_status ask_for_round(run *r, int64_t round)
{
    const fb_privacy_plan *plan = r->federation->privacy;
    double most = 0.0;
    int affordable = 1;
    FB_TRY(fb_round_affordable(r->federation, (uint32_t)round, &affordable, &most));
    r->stopped = !affordable;
    snprintf(r->stop_reason, sizeof r->stop_reason,
             "ended before round %lld, after which a hospital would have spent epsilon %.6g at delta %.3g, more than "
             "privacy.stop_at_epsilon = %g",
             (long long)round + 1, most, plan->delta, r->config->privacy_stop_at_epsilon);
    if (r->stopped && round == 0)
        return fb_round_check_first(r->config, most);
    if (r->stopped)
        fb_log_info("%s", r->stop_reason);
    return FB_OK;
}

static fb_status evaluate(const run *r, fb_round_figures *figures)
{
    fb_range_begin("evaluate");
    fb_progress_enter(FB_PHASE_EVALUATE);
    const fb_status status = fb_score_run(r->federation, &figures->validation, &figures->test);
    fb_range_end();
    return status;
}

/* A round that was given up on request has changed nothing, unless hospitals keep moments or models of their own: then
 * the last checkpoint must serve. */
static fb_status save_after_giving_up(run *r, fb_status status)
{
    const int intact = r->config->run_mode == FB_MODE_FEDERATED && r->config->train_momentum != FB_MOMENTUM_KEEP;
    if (fb_error_exit_code(status) != FB_EXIT_STOPPED || !intact)
        return status;
    const fb_status saved = save(r);
    if (saved == FB_OK)
        return status;
    fb_error_free(&status);
    return saved;
}

static fb_status run_round(run *r)
{
    const int64_t round = r->rounds_done;
    fb_round_figures figures;
    memset(&figures, 0, sizeof figures);
    const double start_s = fb_time_s();
    const fb_status status = fb_round_run(r->federation, (uint32_t)round, r->reports, &figures.times);
    if (status != FB_OK)
        return save_after_giving_up(r, status);
    const int planned_last = round + 1 == r->config->federation_rounds;
    FB_TRY(planned_last ? FB_OK : ask_for_round(r, round + 1));
    const int last = planned_last || r->stopped;
    const double eval_start_s = fb_time_s();
    fb_score_clear(&figures.validation);
    fb_score_clear(&figures.test);
    if ((round + 1) % r->config->eval_every == 0 || last)
        FB_TRY(evaluate(r, &figures));
    fb_progress_enter(FB_PHASE_WRITE);
    figures.eval_s = fb_time_s() - eval_start_s;
    figures.round_s = fb_time_s() - start_s;
    FB_TRY(fb_status_agree(r->comm, is_root(r) ? commit_round(r, round, &figures) : FB_OK));
    r->rounds_done++;
    return FB_OK;
}

/* Whether a rank was asked to stop; the signal may have reached only some of them. */
static fb_status ask_ranks(const run *r, int *stop)
{
    double asked = fb_stop_requested() != NULL;
    FB_TRY(fb_comm_largest(r->comm, &asked));
    *stop = asked != 0.0;
    return FB_OK;
}

/* A checkpoint where one is due, and the end of the run where it is wanted. */
static fb_status settle_round(run *r)
{
    const int64_t every = r->config->run_checkpoint_every;
    const int last = r->rounds_done == r->config->federation_rounds || r->stopped;
    int stop = 0;
    FB_TRY(ask_ranks(r, &stop));
    if (stop || (every > 0 && (last || r->rounds_done % every == 0)))
        FB_TRY(save(r));
    if (!stop || last)
        return FB_OK;
    return fb_error_make(FB_EXIT_STOPPED, "stopped on request after round %lld of %lld, with a checkpoint",
                         (long long)r->rounds_done, (long long)r->config->federation_rounds);
}

static fb_status run_rounds(run *r)
{
    while (r->rounds_done < r->config->federation_rounds && !r->stopped) {
        FB_TRY(run_round(r));
        FB_TRY(settle_round(r));
    }
    return FB_OK;
}

/* --- the beginning and the end --- */

/* The federation where the last run left it, or as it begins; results to go on with. */
static fb_status restore(run *r, int argc, char **argv)
{
    fb_federation *federation = r->federation;
    fb_status status = is_root(r) ? fb_resume_identity(federation, r->convolutions.sha256) : FB_OK;
    FB_TRY(fb_status_agree(r->comm, status));
    FB_TRY(fb_resume_check_charged(federation));
    FB_TRY(fb_checkpoint_restore(federation, &r->checkpoint, r->report));
    r->rounds_done = r->rounds_before = r->rounds_saved = r->checkpoint.rounds;
    FB_TRY(fb_round_gather_reports(federation, r->reports));
    if (!is_root(r))
        return FB_OK;
    if (r->rounds_done > r->config->federation_rounds)
        return FB_USAGE("the checkpoint has %lld rounds, but federation.rounds is %lld", (long long)r->rounds_done,
                        (long long)r->config->federation_rounds);
    if (r->rounds_done > 0)
        fb_log_info("going on from %s after round %lld of %lld", r->checkpoint.folder, (long long)r->rounds_done,
                    (long long)r->config->federation_rounds);
    FB_TRY(fb_report_restore(r->report, r->reports));
    FB_TRY(fb_resume_remove_result(r->config)); /* it says that the results are complete */
    FB_TRY(create_results(r, argc, argv));
    return write_used_options(r); /* those of a run that was begun were good for it until here */
}

/* Before the folder is begun. */
static fb_status check_cohort(const fb_config *config)
{
    fb_cohort *cohort = NULL;
    FB_TRY(fb_cohort_open(config->data_shards, &cohort));
    fb_cohort_close(&cohort);
    return FB_OK;
}

static fb_status start(run *r, int argc, char **argv)
{
    FB_TRY(fb_watchdog_meet(r->watchdog, r->comm, r->config->run_output));
    FB_TRY(fb_convolutions_settle(r->config, r->ops, r->comm, &r->convolutions));
    FB_TRY(fb_federation_create(r->config, r->ops, r->comm, r->config->run_output, &r->federation));
    fb_status status = FB_ALLOC(r->reports, r->federation->hospital_count, "reports");
    if (status == FB_OK && is_root(r))
        status = fb_report_create(r->federation, &r->report);
    FB_TRY(fb_status_agree(r->comm, status));
    FB_TRY(fb_status_agree(r->comm, restore(r, argc, argv)));
    fb_kill_point("run.created");
    FB_TRY(fb_status_agree(r->comm, is_root(r) ? fb_report_plan(r->federation) : FB_OK));
    return r->rounds_done < r->config->federation_rounds ? ask_for_round(r, r->rounds_done) : FB_OK;
}

/* What is told at the end, and the exit status: of the run, or of what went wrong in telling. */
static fb_status finish(run *r, fb_status status)
{
    char *line = NULL;
    if (status == FB_OK)
        status = fb_status_agree(r->comm, write_final_model(r));
    const int code = fb_error_exit_code(status);
    const char *text = code == FB_EXIT_OK ? "complete" : code == FB_EXIT_STOPPED ? "stopped" : "failed";
    const fb_status finished = is_root(r) ? finish_results(r, text) : FB_OK;
    status = status == FB_OK ? fb_status_agree(r->comm, finished) : fb_error_first(status, finished);
    if (status != FB_OK || !is_root(r))
        return status;
    FB_TRY(fb_report_result(r->report, r->model_sha256, r->results_path, &line));
    status = fb_resume_write_result(r->config, line);
    if (status == FB_OK) {
        fputs(line, stdout);
        status = fb_output_flush();
    }
    free(line);
    return status;
}

static fb_status find_folder(run *r, fb_folder *folder)
{
    FB_TRY(fb_identity_check(r->config, r->ops, r->comm));
    FB_TRY(fb_status_agree(r->comm, check_cohort(r->config)));
    fb_status status = fb_path_join(r->stop_path, r->config->run_output, "stop");
    if (status == FB_OK && is_root(r))
        status = open_folder(r, folder);
    FB_TRY(fb_status_agree(r->comm, status));
    return fb_comm_broadcast(r->comm, folder, sizeof *folder);
}

static void free_run(run *r)
{
    fb_report_destroy(&r->report);
    FB_FREE(r->reports);
    fb_checkpoint_free(&r->checkpoint);
    fb_federation_destroy(&r->federation);
    fb_convolutions_free(&r->convolutions);
    if (r->folder_lock >= 0)
        close(r->folder_lock);
}

fb_status fb_run(const fb_config *config, const fb_options *options, const fb_ops *ops, fb_comm *comm,
                 fb_watchdog *watchdog, int argc, char **argv)
{
    run r = {.config = config,
             .options = options,
             .ops = ops,
             .comm = comm,
             .watchdog = watchdog,
             .start_s = fb_time_s(),
             .folder_lock = -1};
    fb_folder folder = FB_FOLDER_NEW;
    fb_status status = find_folder(&r, &folder);
    if (status == FB_OK && folder == FB_FOLDER_COMPLETE) {
        free_run(&r);
        return is_root(&r) ? fb_resume_print_result(config) : FB_OK;
    }
    fb_stop_listen(is_root(&r) ? r.stop_path : NULL);
    if (status == FB_OK)
        status = start(&r, argc, argv);
    if (status == FB_OK)
        status = run_rounds(&r);
    status = finish(&r, status);
    fb_progress_enter(FB_PHASE_END);
    free_run(&r);
    fb_stop_ignore();
    return status;
}
