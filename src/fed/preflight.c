/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/preflight.h"

#include "core/log.h"
#include "core/mem.h"
#include "fed/checkpoint.h"
#include "fed/preflight_impl.h"
#include "fed/privacy_text.h"
#include "fed/provenance.h"
#include "fed/report.h"
#include "fed/resume.h"
#include "privacy/ledger.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double MIB = 1048576.0;
enum { FLAG_RANKS_MAX = 1000000 };

fb_status fb_preflight_read_flag(int *argc, char **argv, int *wanted, int *ranks)
{
    static const char flag[] = "--dry-run";
    const size_t chars = sizeof flag - 1;
    int kept = 0;
    *wanted = *ranks = 0;
    for (int i = 0; i < *argc; i++) {
        const char *rest = argv[i] + chars;
        if (strncmp(argv[i], flag, chars) != 0 || (*rest != '\0' && *rest != '=')) {
            argv[kept++] = argv[i];
            continue;
        }
        char *end = NULL;
        const long number = *rest ? strtol(rest + 1, &end, 10) : 0;
        if (*wanted)
            return FB_USAGE("argument --dry-run: given twice; keep one");
        if (*rest && (end == rest + 1 || *end || number < 1 || number > FLAG_RANKS_MAX))
            return FB_USAGE("argument %s: RANKS must be a number of ranks from 1 to %d", argv[i], FLAG_RANKS_MAX);
        *wanted = 1;
        *ranks = (int)number;
    }
    argv[kept] = NULL;
    *argc = kept;
    return FB_OK;
}

/* --- problems --- */

void fb_problems_add(fb_problems *problems, fb_status status)
{
    if (status == FB_OK)
        return;
    problems->count++;
    problems->usage += fb_error_exit_code(status) == FB_EXIT_USAGE;
    const size_t left = sizeof problems->text - problems->chars;
    const int chars = snprintf(problems->text + problems->chars, left, "%s\n", fb_error_message(status));
    if (chars > 0 && (size_t)chars < left)
        problems->chars += (size_t)chars;
    problems->text[problems->chars] = '\0'; /* no part of one */
    fb_error_free(&status);
}

/* What the ranks agreed on is one problem, not one of each. */
static void note_on_root(fb_preflight_state *s, fb_status status)
{
    if (s->root)
        fb_problems_add(&s->problems, status);
    else
        fb_error_free(&status);
}

static void print_problems(const fb_problems *problems, int *number)
{
    const char *line = problems->text;
    int printed = 0;
    for (const char *end; (end = strchr(line, '\n')) != NULL; line = end + 1, printed++)
        fb_log_error("problem %d: %.*s", ++*number, (int)(end - line), line);
    if (printed < problems->count)
        fb_log_error("and %d problems more of this kind", problems->count - printed);
    *number += problems->count - printed;
}

/* Every rank's problems on rank 0, printed; the sums of the numbers on all. */
static fb_status gather_problems(fb_preflight_state *s, int *count, int *usage)
{
    const int ranks = fb_comm_size(s->comm);
    fb_problems *all = NULL;
    int sums[2] = {0, 0}, number = 0;
    FB_TRY(fb_status_agree(s->comm, FB_ALLOC(all, s->root ? ranks : 0, "problems of the ranks")));
    fb_status status = fb_comm_gather(s->comm, &s->problems, sizeof s->problems, all);
    for (int rank = 0; status == FB_OK && s->root && rank < ranks; rank++) {
        sums[0] += all[rank].count;
        sums[1] += all[rank].usage;
        print_problems(&all[rank], &number);
    }
    FB_FREE(all);
    if (status == FB_OK)
        status = fb_comm_broadcast(s->comm, sums, sizeof sums);
    *count = sums[0];
    *usage = sums[1];
    return status;
}

/* Whether no rank has found anything since `before`. */
static fb_status is_clean(fb_preflight_state *s, int before, int *clean)
{
    const int ranks = fb_comm_size(s->comm);
    int64_t own = s->problems.count - before, *all = NULL;
    *clean = 1;
    FB_TRY(fb_status_agree(s->comm, FB_ALLOC(all, s->root ? ranks : 0, "problems of the ranks")));
    fb_status status = fb_comm_gather(s->comm, &own, sizeof own, all);
    for (int rank = 0; status == FB_OK && s->root && rank < ranks; rank++)
        *clean = *clean && all[rank] == 0;
    FB_FREE(all);
    return status == FB_OK ? fb_comm_broadcast(s->comm, clean, sizeof *clean) : status;
}

/* --- what needs no data --- */

static void check_output(fb_preflight_state *s)
{
    char parent[FB_PATH_CHARS];
    fb_folder folder = FB_FOLDER_NEW;
    fb_status status = fb_resume_look(s->config, &folder);
    if (status == FB_OK && folder != FB_FOLDER_NEW)
        fb_log_info("run.output = %s holds a run that %s; what follows is of a whole run", s->config->run_output,
                    folder == FB_FOLDER_COMPLETE ? "is complete: it would only print its RESULT again"
                                                 : "would go on from its newest checkpoint");
    if (status == FB_OK)
        status = fb_error_context(fb_folder_can_be_made(s->config->run_output, parent),
                                  "run.output = %s cannot be made; choose another", s->config->run_output);
    fb_problems_add(&s->problems, status);
}

static fb_status look_at_own_rank(fb_preflight_state *s, const fb_device *device)
{
    int64_t total_bytes = 0;
    (void)gethostname(s->own.host, sizeof s->own.host - 1);
    s->own.gpu = device ? fb_device_number(device) : -1;
    s->own.device_free_bytes = FB_HOST_UNKNOWN;
    if (s->ops && s->ops->room)
        s->ops->room(s->ops, &s->own.device_free_bytes, &total_bytes);
    fb_host_memory_read("", &s->own.memory);
    FB_TRY(fb_status_agree(s->comm, FB_ALLOC(s->all, s->root ? fb_comm_size(s->comm) : 0, "figures of the ranks")));
    return fb_comm_gather(s->comm, &s->own, sizeof s->own, s->all);
}

/* --- what needs the cohort --- */

static void describe(fb_preflight_state *s)
{
    const int hospitals = s->cohort->hospital_count;
    const fb_status status = fb_federation_describe(s->config, s->ops, s->comm, s->ranks, &s->federation);
    const int too_many = status != FB_OK && s->ranks > hospitals;
    note_on_root(s, status);
    if (!too_many)
        return;
    s->ranks = hospitals; /* to look at the rest */
    note_on_root(s, fb_federation_describe(s->config, s->ops, s->comm, s->ranks, &s->federation));
}

static fb_status count_results(fb_preflight_state *s)
{
    const fb_federation *f = s->federation;
    fb_records config = {0};
    const char **names = NULL;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, fb_records_config(s->config, &config), done);
    FB_TRY_GOTO(status, FB_ALLOC(names, f->hospital_count, "hospital names"), done);
    for (int h = 0; h < f->hospital_count; h++)
        names[h] = fb_hospital_name(f, h);
    const fb_results_spec spec = {.select = "",
                                  .mechanism = "",
                                  .algorithm = "",
                                  .mode = "",
                                  .rounds = s->config->federation_rounds,
                                  .hospital_count = f->hospital_count,
                                  .hospital_names = names,
                                  .config = config.items,
                                  .config_count = config.count};
    status = fb_results_bytes(&spec, &s->results_bytes);
done:
    FB_FREE(names);
    fb_records_free(&config);
    return status;
}

/* What the folder holds at its fullest. Messages and ledgers are kept only with a mechanism. */
static void check_disk(fb_preflight_state *s)
{
    const fb_federation *f = s->federation;
    const fb_privacy_plan *plan = f->privacy;
    const int charged = plan->guarantee->mechanism != FB_MECHANISM_NONE;
    const int sends = s->config->run_mode == FB_MODE_FEDERATED, central = plan->release.trust == FB_TRUST_CENTRAL;
    const double model = (double)f->params->count * sizeof(float);
    const double models = s->config->run_mode == FB_MODE_LOCAL ? f->hospital_count : 1.0;
    const double releases = charged ? (double)plan->rounds * (plan->participants + central) : 0.0;
    const double outbox = sends ? releases * fb_privacy_message_bytes(plan) : 0.0;
    const double ledger = releases * FB_LEDGER_LINE_BYTES, results = 2.0 * (double)s->results_bytes;
    const double states = (double)fb_checkpoint_bytes(f);
    char parent[FB_PATH_CHARS];
    int64_t free_bytes = 0;
    const double need = results + models * model + states + outbox + ledger;
    s->disk_bytes = (int64_t)need;
    fb_status status = fb_folder_can_be_made(s->config->run_output, parent);
    if (status == FB_OK)
        status = fb_disk_free(parent, &free_bytes);
    if (status != FB_OK) { /* was said before */
        fb_error_free(&status);
        return;
    }
    fb_log_info("disk: %.1f MiB in %s: results %.1f, model %.1f, checkpoints %.1f, messages %.1f, ledgers %.1f; "
                "%.0f MiB are free",
                need / MIB, s->config->run_output, results / MIB, models * model / MIB, states / MIB, outbox / MIB,
                ledger / MIB, (double)free_bytes / MIB);
    if (need > (double)free_bytes)
        fb_problems_add(
            &s->problems,
            FB_FAIL("disk: the run needs %.1f MiB, but the file system of %s has %.1f MiB free; free space, "
                    "choose another run.output, or lower federation.rounds",
                    need / MIB, parent, (double)free_bytes / MIB));
}

static fb_status check_budget(const fb_preflight_state *s)
{
    fb_spent spent = {0}, one;
    for (int h = 0; h < s->federation->hospital_count; h++) {
        FB_TRY(fb_privacy_plan_spent(s->federation->privacy, h, 1, &one));
        spent.epsilon = fmax(spent.epsilon, one.epsilon);
    }
    return s->federation->privacy->guarantee->formal ? fb_round_check_first(s->config, spent.epsilon) : FB_OK;
}

/* Rank 0's part once the options are known to go together. */
static void check_plan(fb_preflight_state *s)
{
    fb_problems_add(&s->problems, fb_report_plan(s->federation));
    fb_problems_add(&s->problems, count_results(s));
    fb_problems_add(&s->problems, fb_preflight_memory(s, 1));
}

/* Where nothing stands against it a rank is built and measured; otherwise what building would have read is read. */
static void measure(fb_preflight_state *s, int clean)
{
    fb_status status = clean ? fb_preflight_measure(s)
                             : fb_status_agree(s->comm, s->root ? fb_federation_check_files(s->federation) : FB_OK);
    if (status == FB_OK && s->root && clean)
        status = fb_preflight_memory(s, 0);
    if (status == FB_OK && s->root && clean)
        status = fb_preflight_time(s);
    note_on_root(s, status);
}

static fb_status look_at_data(fb_preflight_state *s)
{
    const int before = s->problems.count; /* nothing of what is measured hangs on them */
    int clean = 0;
    fb_status status = fb_status_agree(s->comm, fb_cohort_read(s->config->data_shards, &s->cohort));
    if (status == FB_OK)
        status = fb_identity_check(s->config, s->ops, s->comm);
    if (status != FB_OK) { /* ranks that see other data cannot go on together */
        note_on_root(s, status);
        return FB_OK;
    }
    FB_TRY(fb_preflight_shards(s));
    if (!s->ops)
        return FB_OK;
    describe(s);
    if (!s->federation)
        return FB_OK;
    if (s->root)
        check_plan(s);
    FB_TRY(is_clean(s, before, &clean));
    measure(s, clean);
    if (s->root) {
        fb_problems_add(&s->problems, check_budget(s));
        check_disk(s);
    }
    return FB_OK;
}

/* --- the whole --- */

static void print_result(const fb_preflight_state *s, int problems)
{
    const double hours = s->run_s / 3600.0 * s->ranks;
    const int on_gpu = s->ops && !s->ops->on_host;
    printf("DRY-RUN rounds=%lld ranks=%d seconds_per_round=%.6g seconds=%.6g core_hours=%.6g gpu_hours=%.6g "
           "memory_bytes=%lld disk_bytes=%lld problems=%d\n",
           (long long)s->config->federation_rounds, s->ranks, s->round_s, s->run_s,
           hours * (double)s->config->run_threads, on_gpu ? hours : 0.0, (long long)s->memory_bytes,
           (long long)s->disk_bytes, problems);
    fflush(stdout);
}

static void print_end(const fb_preflight_state *s, int problems)
{
    if (problems == 0)
        fb_log_info("estimate: %.0f rounds on %d rank%s take %.3g hours (%.4g core-hours%s)",
                    (double)s->config->federation_rounds, s->ranks, s->ranks == 1 ? "" : "s", s->run_s / 3600.0,
                    s->run_s / 3600.0 * s->ranks * (double)s->config->run_threads,
                    s->ops->on_host ? "" : "; as many GPU-hours as ranks");
    print_result(s, problems);
}

static fb_status verdict(fb_preflight_state *s)
{
    int problems = 0, usage = 0;
    FB_TRY(gather_problems(s, &problems, &usage));
    if (s->root)
        print_end(s, problems);
    if (problems == 0)
        return FB_OK;
    return fb_error_make(usage > 0 ? FB_EXIT_USAGE : FB_EXIT_FAILED, "dry run: %d problem%s: the run would fail",
                         problems, problems == 1 ? "" : "s");
}

fb_status fb_preflight(const fb_config *config, const fb_device *device, fb_comm *comm, int ranks, fb_status opened)
{
    fb_preflight_state *s = NULL;
    fb_status status = fb_status_agree(comm, FB_ALLOC(s, 1, "dry run"));
    if (status != FB_OK) {
        FB_FREE(s);
        return fb_error_first(status, opened);
    }
    s->config = config;
    s->ops = device ? fb_device_ops(device) : NULL;
    s->comm = comm;
    s->root = fb_comm_rank(comm) == 0;
    s->ranks = ranks > 0 ? ranks : fb_comm_size(comm);
    s->what_if = s->ranks != fb_comm_size(comm);
    s->round_s = s->run_s = NAN;
    note_on_root(s, opened);
    if (s->root)
        check_output(s);
    status = look_at_own_rank(s, device);
    if (status == FB_OK)
        status = look_at_data(s);
    if (status == FB_OK)
        status = verdict(s);
    fb_federation_destroy(&s->federation);
    fb_cohort_close(&s->cohort);
    FB_FREE(s->facts);
    FB_FREE(s->all);
    FB_FREE(s);
    return status;
}
