/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/run.h"

#include "core/build_info.h"
#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/range.h"
#include "core/timer.h"
#include "fed/convolutions.h"
#include "fed/federation.h"
#include "fed/provenance.h"
#include "fed/report.h"
#include "fed/resume.h"
#include "io/results.h"
#include "io/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    const fb_config *config;      /* borrowed */
    const fb_options *options;    /* borrowed */
    fb_comm *comm;                /* borrowed */
    const fb_ops *ops;            /* borrowed */
    fb_convolutions convolutions; /* owned, as everything below */
    fb_federation *federation;
    fb_results *results;         /* rank 0 */
    fb_hospital_report *reports; /* (hospital_count) of the present round; rank 0 */
    fb_report *report;           /* turns them into records and lines; rank 0 */
    double start_s;
    int stopped; /* by privacy.stop_at_epsilon */
    char stop_reason[256];
    char model_sha256[FB_SHA256_CHARS];
    char results_path[FB_PATH_CHARS];
} run;

static int is_root(const run *r)
{
    return fb_comm_rank(r->comm) == 0;
}

/* --- the folder --- */

static fb_status refuse_used_folder(const char *path)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    if (!folder && errno == ENOTDIR)
        return FB_USAGE("run.output = %s: %s", path, strerror(errno));
    if (!folder)
        return errno == ENOENT ? FB_OK : FB_FAIL("%s: cannot open the folder: %s", path, strerror(errno));
    fb_status status = FB_OK;
    errno = 0;
    while (status == FB_OK && (entry = readdir(folder)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = FB_USAGE("run.output = %s: the folder is not empty; choose another or remove it", path);
    if (status == FB_OK && errno != 0)
        status = FB_FAIL("%s: cannot list the folder: %s", path, strerror(errno));
    closedir(folder);
    return status;
}

/* The options as an INI file, allocated by the system's library; run.resume is left out, since the file repeats the
 * whole run. NULL: out of memory. */
static char *print_options(const run *r)
{
    static const char resume[] = "\nresume = true\n";
    char *text = NULL, *whole = NULL;
    size_t size_bytes = 0;
    FILE *stream = open_memstream(&text, &size_bytes);
    if (!stream)
        return NULL;
    fb_options_print_used(r->options, stream);
    fclose(stream);
    char *at = strstr(text, resume), *rest = at ? at + sizeof resume - 2 : text;
    stream = open_memstream(&whole, &size_bytes);
    if (stream) {
        fprintf(stream, "; fedbrats %s (%s): fedbrats train used.ini --run.output=NEW repeats this run\n",
                fb_build_version(), fb_build_revision());
        fprintf(stream, "%.*s%s", at ? (int)(at - text) : 0, text, rest);
        fclose(stream);
    }
    free(text);
    return whole;
}

static fb_status write_used_options(const run *r)
{
    char path[FB_PATH_CHARS];
    FB_TRY(fb_path_join(path, r->config->run_output, "used.ini"));
    char *text = print_options(r);
    if (!text)
        return FB_FAIL("%s: %s", path, strerror(errno));
    const fb_status status = fb_file_write_atomic(path, text, (int64_t)strlen(text));
    free(text);
    return status;
}

static fb_status make_folder(run *r)
{
    char path[FB_PATH_CHARS];
    FB_TRY(r->config->run_resume ? fb_resume_check(r->config) : refuse_used_folder(r->config->run_output));
    FB_TRY(fb_folder_make(r->config->run_output));
    FB_TRY(fb_path_join(path, r->config->run_output, "log.txt"));
    FB_TRY(fb_log_open(path));
    return write_used_options(r);
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

static fb_status create_results(run *r, int argc, char **argv)
{
    const fb_federation *federation = r->federation;
    fb_records config = {0}, provenance = {0};
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
    status = fb_results_create(r->results_path, &spec, &r->results);
done:
    FB_FREE(names);
    fb_records_free(&config);
    fb_records_free(&provenance);
    return status;
}

static fb_status finish_results(run *r, int complete)
{
    fb_records summary = {0};
    if (!r->results)
        return FB_OK;
    fb_status status = fb_report_summary_records(r->report, complete, r->model_sha256, &summary);
    if (status == FB_OK && r->stopped)
        status = fb_records_add(&summary, "stopped_at_epsilon", "%s", r->stop_reason);
    status = fb_error_first(
        status, fb_results_finish(&r->results, complete ? "complete" : "failed", summary.items, summary.count));
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

/* Rank 0's book-keeping of a round: record, line, checkpoint. */
static fb_status commit_round(run *r, int64_t round, const fb_round_figures *figures)
{
    char sha256[FB_SHA256_CHARS];
    const int64_t every = r->config->run_checkpoint_every;
    const fb_round_record *record = NULL;
    FB_TRY(fb_report_record(r->report, r->reports, figures, &record));
    fb_kill_point("round.done");
    FB_TRY(fb_results_write_round(r->results, round, record));
    fb_kill_point("round.committed");
    fb_report_line(r->report, round, figures, fb_time_s() - r->start_s);
    if (every > 0 && (round + 1) % every == 0 && r->config->run_mode != FB_MODE_LOCAL)
        FB_TRY(write_model(r, "checkpoint.safetensors", r->federation->w, sha256));
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
        return FB_USAGE("the first round alone spends epsilon %.6g, more than privacy.stop_at_epsilon = %g: raise it, "
                        "or add noise",
                        most, r->config->privacy_stop_at_epsilon);
    if (r->stopped)
        fb_log_info("%s", r->stop_reason);
    return FB_OK;
}

static fb_status evaluate(const run *r, fb_round_figures *figures)
{
    fb_range_begin("evaluate");
    const fb_status status = fb_score_run(r->federation, &figures->validation, &figures->test);
    fb_range_end();
    return status;
}

static fb_status run_round(run *r, int64_t round)
{
    fb_round_figures figures;
    memset(&figures, 0, sizeof figures);
    const double start_s = fb_time_s();
    FB_TRY(fb_round_run(r->federation, (uint32_t)round, r->reports, &figures.times));
    const int planned_last = round + 1 == r->config->federation_rounds;
    FB_TRY(planned_last ? FB_OK : ask_for_round(r, round + 1));
    const int last = planned_last || r->stopped;
    const double eval_start_s = fb_time_s();
    fb_score_clear(&figures.validation);
    fb_score_clear(&figures.test);
    if ((round + 1) % r->config->eval_every == 0 || last)
        FB_TRY(evaluate(r, &figures));
    figures.eval_s = fb_time_s() - eval_start_s;
    figures.round_s = fb_time_s() - start_s;
    return fb_status_agree(r->comm, is_root(r) ? commit_round(r, round, &figures) : FB_OK);
}

static fb_status start(run *r, int argc, char **argv)
{
    const fb_ops *ops = r->ops;
    FB_TRY(fb_identity_check(r->config, ops, r->comm));
    FB_TRY(fb_status_agree(r->comm, is_root(r) ? make_folder(r) : FB_OK));
    FB_TRY(fb_convolutions_settle(r->config, ops, r->comm, &r->convolutions));
    FB_TRY(fb_federation_create(r->config, ops, r->comm, r->config->run_output, &r->federation));
    fb_status status = FB_ALLOC(r->reports, r->federation->hospital_count, "reports");
    if (status == FB_OK && is_root(r))
        status = fb_report_create(r->federation, &r->report);
    if (status == FB_OK && is_root(r))
        status = fb_resume_identity(r->config, ops, r->convolutions.sha256, r->federation->cohort->sha256);
    if (status == FB_OK && is_root(r))
        status = fb_resume_committed(r->config, &r->federation->committed);
    if (status == FB_OK && is_root(r) && r->config->run_resume)
        status = fb_resume_move_results(r->config);
    if (status == FB_OK && is_root(r))
        status = create_results(r, argc, argv);
    fb_kill_point("run.created");
    if (status == FB_OK && is_root(r))
        status = fb_report_plan(r->report);
    status = fb_status_agree(r->comm, status);
    if (status == FB_OK)
        status = fb_comm_broadcast(r->comm, &r->federation->committed, sizeof r->federation->committed);
    return status == FB_OK ? ask_for_round(r, 0) : status;
}

fb_status fb_run(const fb_config *config, const fb_options *options, const fb_ops *ops, fb_comm *comm, int argc,
                 char **argv)
{
    run r = {.config = config, .options = options, .ops = ops, .comm = comm, .start_s = fb_time_s()};
    fb_status status = start(&r, argc, argv);
    for (int64_t round = 0; round < config->federation_rounds && status == FB_OK && !r.stopped; round++)
        status = run_round(&r, round);
    if (status == FB_OK)
        status = fb_status_agree(comm, write_final_model(&r));
    const fb_status finished = is_root(&r) ? finish_results(&r, status == FB_OK) : FB_OK;
    status = status == FB_OK ? fb_status_agree(comm, finished) : fb_error_first(status, finished);
    if (status == FB_OK && is_root(&r))
        status = fb_report_result(r.report, r.model_sha256, r.results_path);
    fb_report_destroy(&r.report);
    FB_FREE(r.reports);
    fb_federation_destroy(&r.federation);
    fb_convolutions_free(&r.convolutions);
    return status;
}
