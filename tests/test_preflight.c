/* SPDX-License-Identifier: Apache-2.0
 *
 * What --dry-run rests on: sizes that are told before memory is taken are those that are taken, limits of the host are
 * read as the kernel writes them, and the flag is read.
 */
#include "core/host.h"
#include "core/rng.h"
#include "fed/aggregate.h"
#include "fed/evaluate.h"
#include "fed/preflight.h"
#include "fed/trainer.h"
#include "io/results.h"
#include "nn/op_count.h"
#include "privacy/mechanism.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KIB = 1024 };

static const fb_net_spec spec = {
    .filters = 8, .levels = 3, .blocks_down = {1, 2, 1}, .blocks_up = {1, 1}, .dropout = 0.2};

/* --- counted against taken --- */

typedef struct setting {
    fb_config config;
    fb_options *options;
    fb_params *params;
    fb_subset *subset;
} setting;

static void open_setting(setting *s)
{
    char *argv[] = {"test",
                    "--data.shards=none",
                    "--run.output=none",
                    "--data.patch=24x16x32",
                    "--model.blocks_down=1,2,1",
                    "--model.blocks_up=1,1"};
    memset(s, 0, sizeof *s);
    must(fb_config_read(sizeof argv / sizeof *argv, argv, &s->config, &s->options));
    must(fb_params_create(&spec, &s->params));
    must(fb_subset_create(s->params, "", &s->subset));
}

static void close_setting(setting *s)
{
    fb_subset_destroy(&s->subset);
    fb_params_destroy(&s->params);
    fb_options_destroy(&s->options);
}

/* The objects themselves, with their lists of layers and convolutions, are not counted; blocks are rounded up. */
static void assert_about(int64_t taken, int64_t counted)
{
    if (taken >= counted && taken <= counted + 128 * KIB)
        return;
    print_error("counted %lld bytes, taken %lld\n", (long long)counted, (long long)taken);
    fail();
}

static void check_trainer(const fb_ops *ops)
{
    setting s;
    fb_trainer *trainer = NULL;
    fb_trainer_size size;
    open_setting(&s);
    const int64_t before = fb_mem_live_bytes(), blocks = fb_mem_live_blocks();
    must(fb_trainer_count(&s.config, &spec, s.params, s.subset, ops, &size));
    assert_int_equal(fb_mem_live_bytes(), before);
    assert_int_equal(fb_mem_live_blocks(), blocks);
    must(fb_trainer_create(&s.config, &spec, s.params, s.subset, ops, &trainer));
    assert_about(fb_mem_live_bytes() - before, size.bytes);
    assert_true(size.activation_bytes > 0 && size.activation_bytes < size.bytes);
    int64_t levels = 0;
    for (int level = 0; level < FB_LEVELS_MAX; level++)
        levels += size.level_bytes[level];
    assert_int_equal(levels, size.activation_bytes);
    assert_true(size.level_bytes[0] > size.level_bytes[1] && size.level_bytes[2] > 0 && size.level_bytes[3] == 0);
    fb_trainer_destroy(&trainer);
    close_setting(&s);
}

static void a_trainer_takes_what_was_counted(void **state)
{
    (void)state;
    check_trainer(&fb_ops_dnnl);
    check_trainer(&fb_ops_ref);
}

static void check_evaluator(const int64_t window[3], const int64_t shape[3])
{
    setting s;
    fb_evaluator *evaluator = NULL;
    fb_evaluator_size size;
    fb_volume *volume = NULL;
    fb_counts counts;
    float *w = NULL;
    open_setting(&s);
    must(FB_ALLOC(w, s.params->count, "model"));
    must(fb_volume_create("case", shape, &volume));
    const int64_t before = fb_mem_live_bytes();
    must(fb_evaluator_count(&spec, s.params, &fb_ops_dnnl, window, 0.5, shape, &size));
    assert_int_equal(fb_mem_live_bytes(), before);
    must(fb_evaluator_create(&spec, s.params, &fb_ops_dnnl, window, 0.5, &evaluator));
    must(fb_evaluator_case(evaluator, w, volume, &counts));
    assert_about(fb_mem_live_bytes() - before, size.bytes + size.host_bytes);
    fb_evaluator_destroy(&evaluator);
    fb_volume_destroy(&volume);
    FB_FREE(w);
    close_setting(&s);
}

static void an_evaluator_takes_what_was_counted(void **state)
{
    (void)state;
    check_evaluator((int64_t[]){32, 32, 32}, (int64_t[]){30, 21, 26}); /* one window, padded */
    check_evaluator((int64_t[]){16, 16, 16}, (int64_t[]){30, 21, 26}); /* that slides */
    assert_int_equal(fb_evaluator_voxels(3, (int64_t[]){32, 32, 32}, 0.5, (int64_t[]){30, 21, 26}), 32 * 24 * 28);
    assert_int_equal(fb_evaluator_voxels(3, (int64_t[]){16, 16, 16}, 0.5, (int64_t[]){30, 21, 26}),
                     3 * 2 * 3 * 16 * 16 * 16);
}

static void sums_take_what_was_counted(void **state)
{
    (void)state;
    const int64_t n = 100000, before = fb_mem_live_bytes();
    fb_aggregate *aggregate = NULL;
    must(fb_aggregate_create(n, FB_WEIGHT_BITS, &aggregate));
    assert_about(fb_mem_live_bytes() - before, fb_aggregate_bytes(n));
    fb_aggregate_destroy(&aggregate);
}

/* The peak only grows, so each release is larger than all before. */
static void check_release(fb_release_spec how, int64_t n)
{
    fb_budget budget;
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    fb_update update = {0};
    fb_release_report report;
    float *dw = NULL;
    const fb_rng rng = {.seed = 3, .purpose = FB_RNG_SELECT};
    must(fb_budget_plan(&how, n, &budget));
    must(fb_key_make(FB_KEY_SEED, 5, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    must(FB_ALLOC(dw, n, "change"));
    for (int64_t i = 0; i < n; i++)
        dw[i] = 1e-5F * (float)(i % 17 - 8);
    const fb_release_input in = {.public_rng = &rng, .noise = noise, .steps = 2, .dw = dw};
    const int64_t before = fb_mem_live_bytes(), counted = fb_release_bytes(&how, &budget);
    assert_true(before + counted > fb_mem_peak_bytes());
    must(fb_release(&how, &budget, &in, &update, &report));
    const int64_t taken = fb_mem_peak_bytes() - before;
    if (taken > counted + 64 * KIB || taken < counted - counted / 20) {
        print_error("select %d, mechanism %d: counted %lld bytes, taken %lld\n", (int)how.select, (int)how.mechanism,
                    (long long)counted, (long long)taken);
        fail();
    }
    fb_update_free(&update);
    fb_noise_destroy(&noise);
    FB_FREE(dw);
}

static void releases_take_what_was_counted(void **state)
{
    (void)state;
    const fb_release_spec plain = {
        .select = FB_SELECT_ALL, .fraction = 1.0, .mechanism = FB_MECHANISM_NONE, .clip = INFINITY, .participants = 1};
    fb_release_spec how = plain;
    int64_t n = 1 << 20;
    check_release(how, n);
    how.select = FB_SELECT_TOPK;
    how.fraction = 0.5;
    check_release(how, n *= 2);
    how = (fb_release_spec){.select = FB_SELECT_ALL,
                            .fraction = 1.0,
                            .mechanism = FB_MECHANISM_LAPLACE,
                            .clip = 1e-3,
                            .epsilon_threshold = 1.0,
                            .epsilon_query = 1e6,
                            .epsilon_answer = 1e6,
                            .clip_answers = 1,
                            .participants = 1};
    check_release(how, n);
    how.select = FB_SELECT_RANDOM;
    how.fraction = 0.75;
    check_release(how, n += 1 << 19);
    how.select = FB_SELECT_SVT;
    how.fraction = 0.05;
    check_release(how, n *= 2);
    how.select = FB_SELECT_EXPONENTIAL;
    check_release(how, n += n / 4);
}

/* --- results --- */

static void the_size_of_results_is_told(void **state)
{
    (void)state;
    char folder[] = "/tmp/fb_preflight_XXXXXX", path[64];
    static const char *const names[] = {"A", "a longer name", "C"};
    static const fb_attribute config[] = {{"run.seed", "1"}, {"data.patch", "32x32x32"}};
    struct stat info;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/results.h5", folder);
    for (int64_t rounds = 1; rounds < 2000; rounds *= 37) {
        const fb_results_spec results_spec = {.select = "all",
                                              .mechanism = "none",
                                              .algorithm = "fedavg",
                                              .mode = "federated",
                                              .rounds = rounds,
                                              .hospital_count = 3,
                                              .hospital_names = names,
                                              .config = config,
                                              .config_count = 2};
        int64_t told = 0;
        fb_results *results = NULL;
        must(fb_results_bytes(&results_spec, &told));
        must(fb_results_create(path, &results_spec, &results));
        must(fb_results_finish(&results, "complete", NULL, 0));
        assert_int_equal(stat(path, &info), 0);
        assert_in_range(info.st_size, told - told / 50 - 4 * KIB, told + told / 50 + 4 * KIB);
        unlink(path);
    }
    rmdir(folder);
}

/* --- the host --- */

typedef struct fake_root {
    char folder[64];
} fake_root;

static void put(const fake_root *root, const char *path, const char *text)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", root->folder, path);
    for (char *c = whole + strlen(root->folder) + 1; (c = strchr(c, '/')) != NULL; c++) {
        *c = '\0';
        (void)mkdir(whole, 0700);
        *c = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static fake_root make_root(void)
{
    fake_root root = {"/tmp/fb_root_XXXXXX"};
    assert_non_null(mkdtemp(root.folder));
    put(&root, "/proc/meminfo", "MemTotal:       100 kB\nMemFree:  10 kB\nMemAvailable:    2000 kB\n");
    put(&root, "/proc/self/status", "Name:\tx\nVmSize:\t 50 kB\nVmHWM:\t 40 kB\nVmRSS:\t    30 kB\n");
    return root;
}

static void remove_root(const fake_root *root)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root->folder);
    assert_int_equal(system(command), 0);
}

static void free_memory_is_read(void **state)
{
    (void)state;
    fb_host_memory memory;
    const fake_root root = make_root();
    fb_host_memory_read(root.folder, &memory);
    assert_int_equal(memory.free_bytes, 2000 * KIB);
    assert_int_equal(memory.resident_bytes, 30 * KIB);
    assert_int_equal(memory.most_resident_bytes, 40 * KIB);
    assert_int_equal(memory.cgroup_bytes, FB_HOST_UNKNOWN);
    remove_root(&root);
    fb_host_memory_read("", &memory);
    assert_in_range(memory.free_bytes, 1 << 20, (int64_t)1 << 48);
    assert_in_range(memory.resident_bytes, 1 << 20, memory.most_resident_bytes);
}

static void limits_of_control_groups_are_read(void **state)
{
    (void)state;
    fb_host_memory memory;
    fake_root root = make_root();
    put(&root, "/proc/self/cgroup", "0::/slurm/job_7/step_0\n");
    put(&root, "/sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n");
    put(&root, "/sys/fs/cgroup/slurm/job_7/step_0/memory.current", "70000\n");
    fb_host_memory_read(root.folder, &memory);
    assert_int_equal(memory.cgroup_bytes, FB_HOST_UNKNOWN);
    put(&root, "/sys/fs/cgroup/slurm/job_7/memory.max", "1000000\n"); /* of the group above */
    put(&root, "/sys/fs/cgroup/slurm/job_7/memory.current", "900000\n");
    put(&root, "/sys/fs/cgroup/slurm/job_7/memory.stat", "anon 5\ninactive_file 300000\nactive_file 7\n");
    fb_host_memory_read(root.folder, &memory);
    assert_int_equal(memory.cgroup_bytes, 400000);
    put(&root, "/sys/fs/cgroup/memory.max", "200000\n"); /* a container's own root */
    put(&root, "/sys/fs/cgroup/memory.current", "250000\n");
    fb_host_memory_read(root.folder, &memory);
    assert_int_equal(memory.cgroup_bytes, 0);
    remove_root(&root);
    root = make_root();
    put(&root, "/proc/self/cgroup", "12:cpu,cpuacct:/a\n7:memory:/slurm/job\n1:name=systemd:/memory\n");
    put(&root, "/sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes", "5000000\n");
    put(&root, "/sys/fs/cgroup/memory/slurm/job/memory.usage_in_bytes", "1000000\n");
    put(&root, "/sys/fs/cgroup/memory/slurm/job/memory.stat", "total_inactive_file 500000\n");
    fb_host_memory_read(root.folder, &memory);
    assert_int_equal(memory.cgroup_bytes, 4500000);
    remove_root(&root);
}

static void a_folder_that_can_be_made_is_left_unmade(void **state)
{
    (void)state;
    char folder[] = "/tmp/fb_preflight_XXXXXX", path[128], parent[FB_PATH_CHARS];
    int64_t free_bytes = 0;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a/b/c", folder);
    must(fb_folder_can_be_made(path, parent));
    assert_string_equal(parent, folder);
    must(fb_disk_free(parent, &free_bytes));
    assert_true(free_bytes > 0);
    assert_int_equal(rmdir(folder), 0); /* it is empty */
    must_fail(fb_folder_can_be_made("/dev/null/run", parent), "/dev/null", "Not a directory");
    must_fail(fb_folder_can_be_made("/proc/nowhere/run", parent), "/proc", "nothing can be written");
    must(fb_folder_can_be_made("in/the/present/folder", parent));
    assert_string_equal(parent, ".");
}

/* --- the flag --- */

static void the_flag_is_taken_out(void **state)
{
    (void)state;
    char *plain[] = {"fedbrats", "train", "a.ini", "--run.seed=2", NULL};
    char *dry[] = {"fedbrats", "train", "--dry-run", "a.ini", "--run.seed=2", NULL};
    char *ranks[] = {"fedbrats", "train", "a.ini", "--dry-run=13", NULL};
    char *longer[] = {"fedbrats", "train", "--dry-runs", NULL};
    int count = 4, wanted = -1, number = -1;
    must(fb_preflight_read_flag(&count, plain, &wanted, &number));
    assert_true(count == 4 && !wanted && number == 0);
    count = 5;
    must(fb_preflight_read_flag(&count, dry, &wanted, &number));
    assert_true(count == 4 && wanted && number == 0);
    assert_string_equal(dry[2], "a.ini");
    assert_null(dry[4]);
    count = 4;
    must(fb_preflight_read_flag(&count, ranks, &wanted, &number));
    assert_true(count == 3 && wanted && number == 13);
    count = 3;
    must(fb_preflight_read_flag(&count, longer, &wanted, &number));
    assert_true(count == 3 && !wanted);
}

static void a_wrong_flag_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"--dry-run=", "--dry-run=0", "--dry-run=x", "--dry-run=3x",
                                        "--dry-run=9999999"};
    int count = 0, wanted = 0, ranks = 0;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[32];
        char *argv[] = {"fedbrats", text, NULL};
        snprintf(text, sizeof text, "%s", wrong[i]);
        count = 2;
        must_fail(fb_preflight_read_flag(&count, argv, &wanted, &ranks), wrong[i], "RANKS");
    }
    char *twice[] = {"fedbrats", "--dry-run", "--dry-run", NULL};
    count = 3;
    must_fail(fb_preflight_read_flag(&count, twice, &wanted, &ranks), "given twice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(releases_take_what_was_counted), /* first: of the largest memory */
        cmocka_unit_test(a_trainer_takes_what_was_counted),
        cmocka_unit_test(an_evaluator_takes_what_was_counted),
        cmocka_unit_test(sums_take_what_was_counted),
        cmocka_unit_test(the_size_of_results_is_told),
        cmocka_unit_test(free_memory_is_read),
        cmocka_unit_test(limits_of_control_groups_are_read),
        cmocka_unit_test(a_folder_that_can_be_made_is_left_unmade),
        cmocka_unit_test(the_flag_is_taken_out),
        cmocka_unit_test(a_wrong_flag_is_refused),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
