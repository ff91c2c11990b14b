/* SPDX-License-Identifier: Apache-2.0
 *
 * Without arguments: the tests. As `test_results generate FOLDER` it writes the files that check_results.py reads with
 * the values that value() defines.
 */
#include "core/file.h"
#include "core/h5.h"
#include "core/timer.h"
#include "io/results.h"
#include "testing.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HOSPITALS = 3, ROUNDS = 5, KILL_ROUNDS = 60, KILLS = 16, VARIABLES = 27 };

static const char *const hospital_names[HOSPITALS] = {"CBICA", "TCIA01", "Zürich"};
static char folder[FB_PATH_CHARS]; /* of this run of the tests */

/* Field number `field` of a record; `run` tells files apart. Exact in binary. */
static double value(int run, int64_t round, int field, int k)
{
    return run * 1000.0 + (double)round + field / 64.0 + k / 8.0;
}

typedef struct sample {
    fb_round_record record;
    int64_t integers[4][HOSPITALS];
    double reals[12][HOSPITALS];
} sample;

static void fill(sample *s, int run, int64_t round)
{
    fb_round_record *r = &s->record;
    double *const scalars[] = {&r->dice_mean,         &r->dice_validation_mean, &r->comm_seconds,     &r->eval_seconds,
                               &r->train_seconds_max, &r->round_seconds,        &r->simulated_seconds};
    for (int i = 0; i < FB_REGIONS; i++) {
        r->dice[i] = value(run, round, 0, i);
        r->dice_validation[i] = value(run, round, 1, i);
        r->dice_cases[i] = (int64_t)value(run, round, 0, 8 * i);
    }
    r->dice[FB_REGIONS - 1] = round == 1 ? NAN : r->dice[FB_REGIONS - 1]; /* not evaluated */
    for (int i = 0; i < 7; i++)
        *scalars[i] = value(run, round, 2 + i, 0);
    r->bytes_dense = 4000000000 + run;
    r->sum_cosine = value(run, round, 30, 0);
    for (int h = 0; h < HOSPITALS; h++) {
        for (int i = 0; i < 4; i++)
            s->integers[i][h] = (int64_t)value(run, round, 64 * i, 8 * h);
        for (int i = 0; i < 12; i++)
            s->reals[i][h] = value(run, round, 10 + i, h);
    }
    s->reals[1][0] = INFINITY; /* epsilon_round of a hospital without noise */
    r->steps = s->integers[0], r->participated = s->integers[1], r->bytes_sent = s->integers[2];
    r->svt_tests = s->integers[3];
    r->shared_fraction_achieved = s->reals[0], r->epsilon_round = s->reals[1], r->epsilon_total = s->reals[2];
    r->update_cosine = s->reals[3], r->update_snr = s->reals[4], r->clip_rate = s->reals[5];
    r->train_loss = s->reals[6], r->train_seconds = s->reals[7], r->privacy_seconds = s->reals[8];
    r->epsilon_per_parameter = s->reals[9], r->selection_overlap = s->reals[10], r->norm_scale = s->reals[11];
}

static const fb_attribute config[] = {{"sharing.select", "topk"}, {"sharing.fraction", "0.1"}, {"data.note", ""}};
static const fb_attribute provenance[] = {{"version", "0.1.0"}, {"revision", "unknown"}};
static const fb_attribute summary[] = {{"model_sha256", "00ff"}, {"dice_mean_last", "0.5"}};

static fb_results_spec spec_of(int64_t rounds)
{
    return (fb_results_spec){.share_fraction = 0.1,
                             .epsilon = INFINITY,
                             .seed = 7,
                             .select = "topk",
                             .mechanism = "none",
                             .algorithm = "fedavg",
                             .mode = "federated",
                             .rounds = rounds,
                             .hospital_count = HOSPITALS,
                             .hospital_names = hospital_names,
                             .config = config,
                             .config_count = 3,
                             .provenance = provenance,
                             .provenance_count = 2};
}

static void path_of(char path[FB_PATH_CHARS], const char *name)
{
    must(fb_path_join(path, folder, name));
}

static fb_status write_run(const char *path, int run, int64_t rounds)
{
    fb_results *results = NULL;
    const fb_results_spec spec = spec_of(ROUNDS);
    FB_TRY(fb_results_create(path, &spec, &results));
    fb_status status = FB_OK;
    for (int64_t round = 0; round < rounds && status == FB_OK; round++) {
        sample s;
        fill(&s, run, round);
        status = fb_results_write_round(results, round, &s.record);
    }
    return fb_error_first(status, fb_results_finish(&results, rounds == ROUNDS ? "complete" : "failed", summary, 2));
}

/* Reads `count` values of 8 bytes from the beginning of a dataset. */
static void read_values(hid_t file, const char *name, hid_t type, int64_t count, void *values)
{
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
    assert_true(dataset >= 0 && H5Sget_simple_extent_npoints(space) >= count);
    double *all = malloc((size_t)H5Sget_simple_extent_npoints(space) * 8);
    assert_true(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, all) >= 0);
    memcpy(values, all, (size_t)count * 8);
    free(all);
    H5Sclose(space);
    H5Dclose(dataset);
}

static void assert_status_is(hid_t file, const char *expected)
{
    char text[16] = "";
    must(fb_h5_attribute_read_text(file, "status", text, sizeof text));
    assert_string_equal(text, expected);
}

/* Every committed round of the file holds what fill() wrote; returns how many there are. status NULL: any. */
static int64_t check_file(const char *path, int run, const char *status)
{
    hid_t file = 0;
    int64_t committed = -1;
    must(fb_h5_file_open(path, &file));
    if (status)
        assert_status_is(file, status);
    read_values(file, "rounds_committed", H5T_NATIVE_INT64, 1, &committed);
    double *dice = malloc((size_t)committed * FB_REGIONS * 8), *loss = malloc((size_t)committed * HOSPITALS * 8);
    int64_t *sent = malloc((size_t)committed * HOSPITALS * 8);
    read_values(file, "dice", H5T_NATIVE_DOUBLE, committed * FB_REGIONS, dice);
    read_values(file, "bytes_sent", H5T_NATIVE_INT64, committed * HOSPITALS, sent);
    read_values(file, "diagnostics/train_loss", H5T_NATIVE_DOUBLE, committed * HOSPITALS, loss);
    for (int64_t round = 0; round < committed; round++) {
        sample s;
        fill(&s, run, round);
        assert_memory_equal(dice + round * FB_REGIONS, s.record.dice, sizeof s.record.dice);
        assert_memory_equal(sent + round * HOSPITALS, s.record.bytes_sent, sizeof s.integers[0]);
        assert_memory_equal(loss + round * HOSPITALS, s.record.train_loss, sizeof s.reals[0]);
    }
    free(dice);
    free(loss);
    free(sent);
    fb_h5_close(&file);
    return committed;
}

static void test_round_trip(void **state)
{
    (void)state;
    char path[FB_PATH_CHARS], temporary[FB_PATH_CHARS];
    path_of(path, "run.h5");
    path_of(temporary, "run.h5.tmp");
    must(write_run(path, 1, ROUNDS));
    assert_int_equal(check_file(path, 1, "complete"), ROUNDS);
    assert_int_equal(fb_file_exists(temporary), 0);
}

static void test_failed_run(void **state)
{
    (void)state;
    char path[FB_PATH_CHARS];
    double next = 0;
    hid_t file = 0;
    path_of(path, "failed.h5");
    must(write_run(path, 2, 2));
    assert_int_equal(check_file(path, 2, "failed"), 2);
    must(fb_h5_file_open(path, &file));
    double mean[3];
    read_values(file, "dice_mean", H5T_NATIVE_DOUBLE, 3, mean);
    next = mean[2];
    assert_true(isnan(next));
    fb_h5_close(&file);
}

static void test_refuses_existing(void **state)
{
    (void)state;
    char path[FB_PATH_CHARS], temporary[FB_PATH_CHARS], before[FB_SHA256_CHARS], after[FB_SHA256_CHARS];
    fb_results *results = NULL;
    const fb_results_spec spec = spec_of(ROUNDS);
    path_of(path, "existing.h5");
    path_of(temporary, "existing.h5.tmp");
    must(write_run(path, 3, 1));
    must(fb_file_sha256(path, before));
    must_fail(fb_results_create(path, &spec, &results), "existing.h5 exists already");
    must(fb_file_sha256(path, after));
    assert_string_equal(before, after);
    assert_int_equal(fb_file_exists(temporary), 0);

    path_of(path, "begun.h5");
    path_of(temporary, "begun.h5.tmp");
    must(fb_file_write_atomic(temporary, "x", 1));
    must_fail(fb_results_create(path, &spec, &results), "begun.h5.tmp: cannot create: File exists");
    assert_int_equal(fb_file_exists(temporary), 1);
    assert_null(results);
}

static void test_unwritable(void **state)
{
    (void)state;
    fb_results *results = NULL;
    const fb_results_spec spec = spec_of(ROUNDS);
    char path[FB_PATH_CHARS];
    path_of(path, "missing/run.h5");
    must_fail(fb_results_create(path, &spec, &results), "No such file or directory");
    must_fail(fb_results_create("/proc/run.h5", &spec, &results), "/proc/run.h5.tmp");
    assert_null(results);
}

static void test_repeated_attribute(void **state)
{
    (void)state;
    static const fb_attribute twice[] = {{"a.b", "1"}, {"a.b", "2"}};
    fb_results *results = NULL;
    fb_results_spec spec = spec_of(ROUNDS);
    char path[FB_PATH_CHARS];
    spec.config = twice, spec.config_count = 2;
    path_of(path, "twice.h5");
    must_fail(fb_results_create(path, &spec, &results), "/config/a.b");
    assert_int_equal(fb_file_exists(path), 0);
}

/* A reader with HDF5's default locking, and the writer goes on. */
static void test_reader_beside_writer(void **state)
{
    (void)state;
    fb_results *results = NULL;
    const fb_results_spec spec = spec_of(ROUNDS);
    char path[FB_PATH_CHARS];
    sample s;
    path_of(path, "live.h5");
    must(fb_results_create(path, &spec, &results));
    for (int64_t round = 0; round < ROUNDS; round++) {
        fill(&s, 4, round);
        must(fb_results_write_round(results, round, &s.record));
        const pid_t reader = fork();
        if (reader == 0) {
            /* Another process would start with an empty library; ours closes what it inherited. */
            H5close();
            int64_t committed = -1;
            const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
            if (file < 0)
                _exit(1);
            const hid_t dataset = H5Dopen2(file, "rounds_committed", H5P_DEFAULT);
            (void)H5Dread(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &committed);
            _exit(committed == round + 1 ? 0 : 2);
        }
        int code = -1;
        assert_int_equal(waitpid(reader, &code, 0), reader);
        assert_true(WIFEXITED(code));
        assert_int_equal(WEXITSTATUS(code), 0);
    }
    must(fb_results_finish(&results, "complete", summary, 2));
    assert_int_equal(check_file(path, 4, "complete"), ROUNDS);
}

/* Writes rounds as fast as it can, finishes, and tells by the pipe when the first is committed. */
static _Noreturn void write_until_killed(const char *path, int pipe_end)
{
    fb_results *results = NULL;
    const fb_results_spec spec = spec_of(KILL_ROUNDS);
    fb_status status = fb_results_create(path, &spec, &results);
    for (int64_t round = 0; round < KILL_ROUNDS && status == FB_OK; round++) {
        sample s;
        fill(&s, 5, round);
        status = fb_results_write_round(results, round, &s.record);
        if (round == 0 && write(pipe_end, "x", 1) != 1)
            _exit(2);
    }
    if (status == FB_OK)
        status = fb_results_finish(&results, "complete", summary, 2);
    for (;;)
        pause();
}

/* Kills at moments that step through the rounds and the end; what was committed is there. */
static void test_kill(void **state)
{
    (void)state;
    int64_t committed_sum = 0;
    for (int k = 0; k < KILLS; k++) {
        char path[FB_PATH_CHARS], name[32], byte = 0;
        int pipe_ends[2];
        snprintf(name, sizeof name, "kill%d.h5", k);
        path_of(path, name);
        assert_int_equal(pipe(pipe_ends), 0);
        const pid_t child = fork();
        if (child == 0)
            write_until_killed(path, pipe_ends[1]);
        close(pipe_ends[1]);
        assert_int_equal(read(pipe_ends[0], &byte, 1), 1);
        usleep((useconds_t)(k * 1500));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        close(pipe_ends[0]);
        const int64_t committed = check_file(path, 5, NULL);
        assert_in_range(committed, 1, KILL_ROUNDS);
        committed_sum += committed;
    }
    assert_true(committed_sum > KILLS); /* not all before the second round */
}

/* The file may grow to limit_bytes only: what a full disk or a quota does, with EFBIG instead of ENOSPC. */
static fb_status write_limited(const char *path, rlim_t limit_bytes)
{
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = (struct rlimit){.rlim_cur = limit_bytes, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    fb_status status = write_run(path, 6, ROUNDS);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    return status;
}

static void test_limited_size(void **state)
{
    (void)state;
    char path[FB_PATH_CHARS], temporary[FB_PATH_CHARS];
    int refused = 0;
    signal(SIGXFSZ, SIG_IGN);
    path_of(path, "limited.h5");
    path_of(temporary, "limited.h5.tmp");
    for (rlim_t limit_bytes = 1000; limit_bytes < 200000; limit_bytes += 9000) {
        fb_status status = write_limited(path, limit_bytes);
        assert_int_equal(fb_file_exists(temporary), 0);
        if (status == FB_OK) {
            assert_int_equal(check_file(path, 6, "complete"), ROUNDS);
        } else if (fb_file_exists(path)) { /* the room was enough to begin with, not for the closing attributes */
            assert_int_equal(check_file(path, 6, "running"), ROUNDS);
            refused++;
        } else {
            refused++;
        }
        fb_error_free(&status);
        (void)unlink(path);
    }
    assert_in_range(refused, 1, 20);
}

/* A real full disk: a tmpfs of 128 KiB. Where mounting is not allowed, the limit above stands for it. */
static void test_full_disk(void **state)
{
    (void)state;
    char mount_point[FB_PATH_CHARS], path[FB_PATH_CHARS], ballast[FB_PATH_CHARS];
    path_of(mount_point, "full");
    must(fb_folder_make(mount_point));
    if (mount("tmpfs", mount_point, "tmpfs", 0, "size=128k") != 0) {
        print_message("# SKIP test_full_disk: cannot mount a tmpfs: %s\n", strerror(errno));
        skip();
    }
    path_of(path, "full/run.h5");
    path_of(ballast, "full/ballast");
    fb_results *results = NULL;
    fb_results_spec spec = spec_of(4000);
    must_fail(fb_results_create(path, &spec, &results), "No space left on device");
    assert_int_equal(fb_file_exists(path), 0);

    spec.rounds = ROUNDS;
    must(fb_results_create(path, &spec, &results));
    FILE *file = fopen(ballast, "wb"); /* full from now on: preallocated rounds are still written */
    while (file && fputc('x', file) != EOF) {
    }
    fclose(file);
    for (int64_t round = 0; round < ROUNDS; round++) {
        sample s;
        fill(&s, 7, round);
        must(fb_results_write_round(results, round, &s.record));
    }
    must_fail(fb_results_finish(&results, "complete", summary, 2), "No space left on device");
    assert_null(results);
    assert_int_equal(check_file(path, 7, "running"), ROUNDS);
    assert_int_equal(umount(mount_point), 0);
}

/* Two runs of a sweep, a third that stopped early, one that still runs. */
static int generate(const char *into)
{
    static const double fraction[] = {0.1, 0.4, 0.4, 1.0};
    static const double epsilon[] = {INFINITY, 2.5, INFINITY, INFINITY};
    static const char *const select[] = {"topk", "svt", "topk", "all"};
    for (int run = 0; run < 4; run++) {
        char path[FB_PATH_CHARS], name[16];
        fb_results *results = NULL;
        fb_results_spec spec = spec_of(ROUNDS);
        spec.share_fraction = fraction[run], spec.epsilon = epsilon[run], spec.select = select[run];
        spec.mechanism = run == 1 ? "laplace" : "none";
        snprintf(name, sizeof name, "run%d.h5", run);
        fb_status status = fb_path_join(path, into, name);
        if (status == FB_OK)
            status = fb_results_create(path, &spec, &results);
        for (int64_t round = 0; round < (run < 2 ? ROUNDS : 2) && status == FB_OK; round++) {
            sample s;
            fill(&s, run, round);
            status = fb_results_write_round(results, round, &s.record);
        }
        if (run != 3 && status == FB_OK)
            status = fb_results_finish(&results, run < 2 ? "complete" : "failed", summary, 2);
        if (status != FB_OK) {
            fprintf(stderr, "%s\n", fb_error_message(status));
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "generate") == 0)
        return generate(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_failed_run),
        cmocka_unit_test(test_refuses_existing),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_repeated_attribute),
        cmocka_unit_test(test_reader_beside_writer),
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_limited_size),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    snprintf(folder, sizeof folder, "%s/test_results.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[2 * FB_PATH_CHARS + 64]; /* a failed test leaves its full disk mounted */
    snprintf(command, sizeof command, "umount -l '%s/full' 2> /dev/null; rm -rf '%s'", folder, folder);
    return system(command) != 0 || failed != 0;
}
