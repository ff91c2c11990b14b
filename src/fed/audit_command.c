/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/audit_command.h"

#include "config/options.h"
#include "core/file.h"
#include "core/log.h"
#include "core/mem.h"
#include "io/audit_file.h"
#include "privacy/audit_bound.h"
#include "privacy/audit_release.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double CLIP = 0x1p-38; /* four steps of the finest grid: small numbers make small, quick tables */

enum { GAUSSIAN_SHARE = 10 }; /* a release makes the tables of its noise anew, 30 times the cost of another's */

typedef struct settings {
    int mechanism, mutant, training_fault;
    double epsilon, threshold, threshold_share, answer_share;
    int64_t coordinates, count, samples, seed;
    double confidence, noise_multiplier, delta;
    int64_t canaries, epochs;
    double rate;
    char output[FB_TEXT_CHARS];
} settings;

#define FIELD(name) offsetof(settings, name)

static const fb_option table[] = {
    {"audit", "mechanism", FB_OPTION_CHOICE, "", "every", 0, 0,
     "every|svt+laplace|exponential+laplace|random+laplace|all+laplace|random+gaussian|all+gaussian|dpsgd",
     "what to audit (sharing.select + privacy.mechanism)", FIELD(mechanism)},
    {"audit", "epsilon", FB_OPTION_REAL, "", "1", 1e-3, 100, NULL, "claimed by a laplace mechanism for one release",
     FIELD(epsilon)},
    {"audit", "coordinates", FB_OPTION_INT, "", "8", 1, FB_AUDIT_COORDINATES_MAX, NULL, "of an update",
     FIELD(coordinates)},
    {"audit", "count", FB_OPTION_INT, "", "1", 1, FB_AUDIT_COORDINATES_MAX, NULL, "coordinates that are shared, c",
     FIELD(count)},
    {"audit", "threshold", FB_OPTION_REAL, "clip", "0.75", 0, 1, NULL, "of svt", FIELD(threshold)},
    {"audit", "threshold_share", FB_OPTION_REAL, "", "0.25", 0.001, 0.998, NULL, "of epsilon, for the threshold of svt",
     FIELD(threshold_share)},
    {"audit", "answer_share", FB_OPTION_REAL, "", "0.01", 0.001, 0.998, NULL,
     "of epsilon, for the answers after svt or exponential; what is left is for the selection", FIELD(answer_share)},
    {"audit", "noise_multiplier", FB_OPTION_REAL, "", "4", 0.01, 1e6, NULL, "of gaussian and dpsgd",
     FIELD(noise_multiplier)},
    {"audit", "delta", FB_OPTION_REAL, "", "1e-5", 1e-12, 0.1, NULL, "at which gaussian and dpsgd claim their epsilon",
     FIELD(delta)},
    {"audit", "samples", FB_OPTION_INT, "", "250000", 100, 1e8, NULL,
     "releases of each input of a pair, and a quarter as many, up to 250000, before to choose the event; of gaussian, "
     "which makes its tables anew for each, a tenth",
     FIELD(samples)},
    {"audit", "canaries", FB_OPTION_INT, "", "2000", 100, 1e6, NULL, "of the training with dpsgd", FIELD(canaries)},
    {"audit", "rate", FB_OPTION_REAL, "", "0.1", 1e-4, 1, NULL, "dpsgd: probability of a canary to be in a step",
     FIELD(rate)},
    {"audit", "epochs", FB_OPTION_INT, "", "10", 1, 1000, NULL, "dpsgd: epochs / rate steps are made", FIELD(epochs)},
    {"audit", "confidence", FB_OPTION_REAL, "", "0.999", 0.5, 0.999999999, NULL,
     "that no bound of one mechanism exceeds its true epsilon, pairs and directions together", FIELD(confidence)},
    {"audit", "seed", FB_OPTION_INT, "", "1", 0, 9007199254740992.0, NULL, "of all random numbers", FIELD(seed)},
    {"audit", "mutant", FB_OPTION_CHOICE, "", "none", 0, 0, FB_MUTANT_NAMES,
     "audit svt+laplace with this fault planted instead, to see it refuted", FIELD(mutant)},
    {"audit", "training_fault", FB_OPTION_CHOICE, "", "none", 0, 0, "none|no-noise|no-clip|wrong-rate",
     "audit dpsgd with this fault planted: it should be refuted", FIELD(training_fault)},
    {"audit", "output", FB_OPTION_TEXT, "", "", 0, 0, NULL, "HDF5 file to write; empty: none", FIELD(output)},
};
enum { TABLE_COUNT = sizeof table / sizeof *table };

typedef struct mechanism {
    const char *name;
    fb_select select;
    fb_mechanism mechanism;
} mechanism;

/* In the order of audit.mechanism, after `every`. */
static const mechanism mechanisms[] = {{"svt+laplace", FB_SELECT_SVT, FB_MECHANISM_LAPLACE},
                                       {"exponential+laplace", FB_SELECT_EXPONENTIAL, FB_MECHANISM_LAPLACE},
                                       {"random+laplace", FB_SELECT_RANDOM, FB_MECHANISM_LAPLACE},
                                       {"all+laplace", FB_SELECT_ALL, FB_MECHANISM_LAPLACE},
                                       {"random+gaussian", FB_SELECT_RANDOM, FB_MECHANISM_GAUSSIAN},
                                       {"all+gaussian", FB_SELECT_ALL, FB_MECHANISM_GAUSSIAN},
                                       {"dpsgd", FB_SELECT_ALL, FB_MECHANISM_DPSGD}};
enum { MECHANISMS = sizeof mechanisms / sizeof *mechanisms };

typedef struct audit {
    settings set;
    int row_count, training_count;
    fb_audit_row *row;               /* (MECHANISMS) owned */
    fb_audit_training_row *training; /* (MECHANISMS) owned */
    int refuted;
} audit;

static void print_help(void)
{
    printf(
        "fedbrats audit: lower bounds, from samples, on the epsilon that the mechanisms spend, against what they "
        "claim.\n\n"
        "  fedbrats audit [FILE.ini] [--audit.key=value ...]\n\n"
        "Runs the code of a release on pairs of neighbouring updates that are hard for it. A first stage looks for\n"
        "the event that tells a pair apart best, a second one counts it in fresh samples (Clopper-Pearson, corrected\n"
        "for the number of pairs and directions). A bound above the claim refutes the claim. A bound below proves\n"
        "nothing about inputs, events and faults that were not tried: the guarantee is the proof, not the audit.\n"
        "Exit status: 0 no claim refuted, 1 refuted or failed, 2 usage.\n\n"
        "The defaults bring the bounds of svt and exponential to 0.8 of the claim and more in about a minute: one\n"
        "coordinate is shared, nearly all of epsilon is spent on choosing it, and the pair that shows it has the\n"
        "coordinate that svt tests last against all others. More coordinates could show more, of which more samples\n"
        "are needed; so are for a smaller epsilon (0.1: 1e7). With count > 1 and with all+laplace, which share out\n"
        "epsilon among coordinates, bounds stay further below. A planted fault (audit.mutant) may need settings at\n"
        "which it shows: no factor c needs count > 1, a fault of the answers an answer_share that is not small.\n\n");
    fb_options_help(stdout, table, TABLE_COUNT);
}

static fb_status read_settings(int argc, char **argv, settings *set, fb_options **options)
{
    const char *file = NULL;
    int files = 0;
    FB_TRY(fb_options_create(table, TABLE_COUNT, set, options));
    FB_TRY(fb_options_read_args(*options, argc, argv, &file, 1, &files));
    if (files > 0)
        FB_TRY(fb_options_read_ini(*options, file));
    FB_TRY(fb_options_complete(*options));
    if (set->count > set->coordinates)
        return FB_USAGE("audit.count = %lld: is more than audit.coordinates = %lld; lower it", (long long)set->count,
                        (long long)set->coordinates);
    if (set->threshold_share + set->answer_share >= 1.0)
        return FB_USAGE("audit.threshold_share = %g and audit.answer_share = %g leave nothing of epsilon for the "
                        "tests; lower one",
                        set->threshold_share, set->answer_share);
    return FB_OK;
}

/* Before hours of sampling, not after. */
static fb_status check_output(const char *path)
{
    char folder[FB_TEXT_CHARS];
    const char *slash = strrchr(path, '/');
    if (!path[0])
        return FB_OK;
    if (fb_file_exists(path))
        return FB_FAIL("%s exists already, and results are never overwritten; remove it, or choose another "
                       "audit.output",
                       path);
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    if (!fb_folder_exists(folder))
        return FB_FAIL("audit.output = %s: there is no folder %s; make it", path, folder);
    return FB_OK;
}

static fb_release_spec spec_of(const settings *set, const mechanism *m)
{
    const int selects = m->select == FB_SELECT_SVT || m->select == FB_SELECT_EXPONENTIAL;
    const double answer = selects ? set->answer_share : 1.0;
    const double threshold = m->select == FB_SELECT_SVT ? set->threshold_share : 0.0;
    const int gaussian = m->mechanism == FB_MECHANISM_GAUSSIAN;
    return (fb_release_spec){.select = m->select,
                             .fraction =
                                 m->select == FB_SELECT_ALL ? 1.0 : (double)set->count / (double)set->coordinates,
                             .mechanism = m->mechanism,
                             .clip = gaussian ? INFINITY : CLIP,
                             .threshold = threshold > 0.0 ? set->threshold * CLIP : 0.0,
                             .epsilon_threshold = threshold * set->epsilon,
                             .epsilon_query = selects ? (1.0 - threshold - answer) * set->epsilon : 0.0,
                             .epsilon_answer = answer * set->epsilon,
                             .clip_norm = 1.0,
                             .noise_multiplier = set->noise_multiplier,
                             .participants = 1};
}

/* --- verdicts --- */

static void print_verdict(audit *a, const char *name, double bound, double claimed, double ceiling, const char *detail)
{
    const int refuted = bound > claimed;
    printf("%-22s %s: bound %.4f %s claimed %.4f; at most %.2f could be shown; %s\n", name,
           refuted ? "REFUTED" : "holds", bound, refuted ? ">" : "<=", claimed, ceiling, detail);
    a->refuted |= refuted;
}

static fb_status run_subject(audit *a, const fb_audit_subject *subject, const char *name, const fb_audit_pair *pairs,
                             int pair_count)
{
    const fb_audit_settings audit_settings = {a->set.samples, a->set.confidence, (uint64_t)a->set.seed};
    fb_audit_row *row = &a->row[a->row_count];
    char detail[200];
    row->subject = name;
    row->epsilon = subject->epsilon;
    row->delta = subject->delta;
    fb_audit_subject named = *subject;
    named.name = name;
    FB_TRY(fb_audit_run(&named, pairs, pair_count, &audit_settings, &row->result));
    a->row_count++;
    snprintf(detail, sizeof detail, "%lld samples, best pair: %s", (long long)row->result.samples,
             row->result.finding[row->result.best].pair);
    print_verdict(a, name, row->result.bound, row->epsilon, row->result.ceiling, detail);
    return FB_OK;
}

static fb_status audit_release(audit *a, const mechanism *m)
{
    const fb_release_spec spec = spec_of(&a->set, m);
    const int64_t n = a->set.coordinates, count = m->select == FB_SELECT_ALL ? n : a->set.count;
    const fb_audit_mutant mutant = (fb_audit_mutant)a->set.mutant;
    fb_audit_pair pairs[FB_AUDIT_PAIRS_MAX];
    uint32_t last[FB_AUDIT_COORDINATES_MAX];
    fb_audit_release *release = NULL;
    fb_audit_broken *broken = NULL;
    fb_status status = FB_OK;
    FB_TRY(fb_audit_release_create(&spec, n, (uint64_t)a->set.seed, 0, &release));
    if (mutant != FB_MUTANT_NONE)
        FB_TRY_GOTO(status, fb_audit_broken_create(mutant, &spec, n, (uint64_t)a->set.seed, &broken), done);
    fb_audit_release_last(release, last);
    const int pair_count = fb_audit_make_pairs(n, count, spec.clip, last, pairs);
    status = run_subject(a, broken ? fb_audit_broken_subject(broken) : fb_audit_release_subject(release),
                         broken ? fb_audit_mutant_name(mutant) : m->name, pairs, pair_count);
done:
    fb_audit_release_destroy(&release);
    fb_audit_broken_destroy(&broken);
    return status;
}

static fb_status audit_training(audit *a, const mechanism *m)
{
    const settings *set = &a->set;
    fb_audit_training_row *row = &a->training[a->training_count];
    char detail[200];
    row->subject = m->name;
    if (m->mechanism == FB_MECHANISM_DPSGD) {
        const fb_canary_spec spec = {.canaries = set->canaries,
                                     .rate = set->rate,
                                     .noise_multiplier = set->noise_multiplier,
                                     .epochs = set->epochs,
                                     .fault = (fb_canary_fault)set->training_fault,
                                     .seed = (uint64_t)set->seed,
                                     .confidence = set->confidence,
                                     .delta = set->delta};
        FB_TRY(fb_canary_dpsgd(&spec, &row->result));
    } else {
        const fb_release_spec spec = spec_of(set, m);
        FB_TRY(fb_canary_gaussian(&spec, set->coordinates, set->samples / GAUSSIAN_SHARE, (uint64_t)set->seed,
                                  set->confidence, set->delta, &row->result));
    }
    a->training_count++;
    snprintf(detail, sizeof detail, "%lld of %lld guesses right, delta %g", (long long)row->result.right,
             (long long)row->result.guesses, row->result.delta);
    print_verdict(a, m->name, row->result.bound, row->result.epsilon, row->result.ceiling, detail);
    return FB_OK;
}

static fb_status write_output(const audit *a, const fb_options *options)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    if (!stream)
        return FB_FAIL("no memory for the settings of the audit");
    fb_options_print_used(options, stream);
    fb_status status = fb_text_close(stream, &text, "settings of the audit");
    const fb_audit_report report = {.seed = a->set.seed,
                                    .confidence = a->set.confidence,
                                    .settings = text,
                                    .row_count = a->row_count,
                                    .training_count = a->training_count,
                                    .row = a->row,
                                    .training = a->training};
    if (status == FB_OK)
        status = fb_audit_file_write(a->set.output, &report);
    free(text);
    if (status == FB_OK)
        printf("wrote %s\n", a->set.output);
    return status;
}

/* A planted fault is audited alone. */
static int is_wanted(const settings *set, int m)
{
    if (set->mutant != 0)
        return mechanisms[m].select == FB_SELECT_SVT;
    if (set->training_fault != 0)
        return mechanisms[m].mechanism == FB_MECHANISM_DPSGD;
    return set->mechanism == 0 || set->mechanism == m + 1;
}

static fb_status run(audit *a, const fb_options *options)
{
    FB_TRY(check_output(a->set.output));
    FB_TRY(FB_ALLOC(a->row, MECHANISMS, "rows of an audit"));
    FB_TRY(FB_ALLOC(a->training, MECHANISMS, "rows of an audit"));
    omp_set_num_threads(1); /* a few coordinates: threads would only wait for each other */
    for (int m = 0; m < MECHANISMS; m++) {
        if (!is_wanted(&a->set, m))
            continue;
        const int trains = mechanisms[m].mechanism != FB_MECHANISM_LAPLACE;
        FB_TRY(trains ? audit_training(a, &mechanisms[m]) : audit_release(a, &mechanisms[m]));
        (void)fflush(stdout);
    }
    printf("confidence %g for each mechanism; a bound is a lower bound: it proves nothing about what was not tried\n",
           a->set.confidence);
    return a->set.output[0] ? write_output(a, options) : FB_OK;
}

int fb_audit_command(int argc, char **argv)
{
    audit a = {.refuted = 0};
    fb_options *options = NULL;
    if (fb_options_wants(argc, argv, "--help")) {
        print_help();
        return FB_EXIT_OK;
    }
    fb_status status = read_settings(argc, argv, &a.set, &options);
    if (status == FB_OK)
        status = run(&a, options);
    FB_FREE(a.row);
    FB_FREE(a.training);
    fb_options_destroy(&options);
    const int code = status != FB_OK ? fb_error_exit_code(status) : a.refuted ? FB_EXIT_FAILED : FB_EXIT_OK;
    if (status != FB_OK)
        fb_log_error("%s", fb_error_message(status));
    fb_error_free(&status);
    return code;
}
