/* SPDX-License-Identifier: Apache-2.0 */
#include "config/config.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* Reads a configuration from the bytes of a file and further arguments. */
static fb_status read_bytes(const char *ini, size_t size, const char *first, const char *second, fb_config *config)
{
    char path[] = "/tmp/fb_options_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, ini, size), (ssize_t)size);
    close(fd);
    char *argv[] = {"train", path, "--run.output=out", "--data.shards=shards", (char *)first, (char *)second};
    const int argc = 4 + (first != NULL) + (second != NULL);
    fb_options *options = NULL;
    const fb_status status = fb_config_read(argc, argv, config, &options);
    fb_options_destroy(&options);
    unlink(path);
    return status;
}

/* The same with a file that is text; "" for none. */
static fb_status read_config(const char *ini, const char *first, const char *second, fb_config *config)
{
    return read_bytes(ini, strlen(ini), first, second, config);
}

static void expect_ok(const char *ini, const char *first, const char *second, fb_config *config)
{
    must(read_config(ini, first, second, config));
}

/* The message must name each of the parts. */
static void expect_refused(const char *ini, const char *first, const char *second, const char *part_a,
                           const char *part_b)
{
    fb_config config;
    fb_status status = read_config(ini, first, second, &config);
    assert_int_equal(fb_error_exit_code(status), FB_EXIT_USAGE);
    must_fail(status, part_a, part_b);
}

static void defaults_file_and_arguments(void **state)
{
    (void)state;
    fb_config config;
    expect_ok("[train]\nlearning_rate = 3e-3 ; comment\nepochs=2\n[data]\npatch = 32x40x48\n", "--train.epochs=5", NULL,
              &config);
    assert_true(config.train_learning_rate == 3e-3);
    assert_int_equal(config.train_epochs, 5);
    assert_int_equal(config.data_patch[0], 32);
    assert_int_equal(config.data_patch[1], 40);
    assert_int_equal(config.data_patch[2], 48);
    assert_int_equal(config.model_blocks_down.count, 4);
    assert_int_equal(config.model_blocks_down.value[3], 4);
    assert_true(isinf(config.privacy_clip));
    assert_int_equal(config.train_momentum, FB_MOMENTUM_RESTART);
}

static void preset_yields_to_explicit_options(void **state)
{
    (void)state;
    fb_config config;
    char select[FB_TEXT_CHARS];
    expect_ok("[run]\npreset = percentile\n", "--sharing.fraction=0.25", NULL, &config);
    fb_config_text(&config, "sharing", "select", select);
    assert_string_equal(select, "topk");
    assert_true(config.sharing_fraction == 0.25);
    assert_true(config.privacy_clip == 1e-4);
}

static void faults_are_named(void **state)
{
    (void)state;
    expect_refused("[train]\nlearning_rat = 1e-3\n", NULL, NULL, ":2", "did you mean \"train.learning_rate\"");
    expect_refused("[train]\nepochs = 1\nepochs = 2\n", NULL, NULL, ":3", "given twice");
    expect_refused("", "--train.epochs=1", "--train.epochs=2", "train.epochs", "given twice");
    expect_refused("[train]\nepochs = 2.5\n", NULL, NULL, ":2", "junk");
    expect_refused("[train]\nepochs = 0\n", NULL, NULL, ":2", "outside 1");
    expect_refused("[train]\nepochs = 99999999999999999999\n", NULL, NULL, ":2", "whole number");
    expect_refused("[train]\nlearning_rate = nan\n", NULL, NULL, ":2", "not a number");
    expect_refused("[train]\nlearning_rate = inf\n", NULL, NULL, ":2", "outside");
    expect_refused("[train]\nlearning_rate = 1e-3x\n", NULL, NULL, ":2", "not a number");
    expect_refused("[train]\nlearning_rate = 0x1p-3\n", NULL, NULL, ":2", "not a number");
    expect_refused("[train]\nlearning_rate = 0,001\n", NULL, NULL, ":2", "not a number");
    expect_refused("[train]\nlearning_rate =\n", NULL, NULL, ":2", "not a number");
    expect_refused("[train]\nlearning_rate = 1e999\n", NULL, NULL, ":2", "outside");
    expect_refused("[privacy]\nclip = 1e999\n", NULL, NULL, ":2", "outside");
    expect_refused("[train]\nepochs = 0\n", "--train.epochs=3", NULL, ":2", "outside 1");
    expect_refused("[train]\nepochs = 1\nepochs = 2\n", "--train.epochs=3", NULL, ":3", "given twice");
    expect_refused("[sharing]\nselect = top\n", NULL, NULL, ":2", "all|topk|random|svt");
    expect_refused("[data]\npatch = 32x32\n", NULL, NULL, ":2", "DxHxW");
    expect_refused("[data]\npatch = 32x32x33\n", NULL, NULL, "data.patch", "multiple of 8");
    expect_refused("[model]\nfilters = 12\n", NULL, NULL, "model.filters", "12");
    expect_refused("[model]\nblocks_down = 1,1\n", NULL, NULL, "model.blocks_up", "1 entries");
    expect_refused("[privacy]\nclip_answers = maybe\n", NULL, NULL, ":2", "true or false");
    expect_refused("[train\nepochs = 2\n", NULL, NULL, ":1", "neither");
    expect_refused("", "--train.epochs", NULL, "train.epochs", "needs a value");
    expect_refused("", "-x", NULL, "-x", "two dashes");
    expect_refused("", "second.ini", NULL, "second.ini", "not expected");
}

/* A zero byte would hide the rest of its line. */
static void zero_bytes_are_refused(void **state)
{
    (void)state;
    static const char middle[] = "[train]\nepochs = 2\0 0\n", last[] = "[train]\nepochs = 2\0 0";
    fb_config config;
    must_fail(read_bytes(middle, sizeof middle - 1, NULL, NULL, &config), ":2", "zero byte");
    must_fail(read_bytes(last, sizeof last - 1, NULL, NULL, &config), ":2", "zero byte");
    must(read_bytes(last, strlen(last), NULL, NULL, &config));
}

/* Text that the file of the options used would not give back as it is. */
/* Whatever was accepted on the command line, from however deep a folder, can be read back. */
static void used_options_can_be_read_back(void **state)
{
    char argument[256] = "--train.init_from=", where[600];
    fb_config config, again;
    fb_options *options = NULL, *read = NULL;
    int count = 0;
    (void)state;
    memset(argument + strlen(argument), 'x', 180);
    memset(where, 'w', sizeof where - 1);
    where[sizeof where - 1] = '\0';
    const fb_option *table = fb_config_table(&count);
    must(fb_options_create(table, count, &config, &options));
    must(fb_options_preset(options, "train.init_from", argument + strlen("--train.init_from="), where));
    FILE *file = fopen("build/used_long.ini", "w");
    assert_non_null(file);
    fb_options_print_used(options, file);
    fclose(file);
    must(fb_options_create(table, count, &again, &read));
    must(fb_options_read_ini(read, "build/used_long.ini"));
    assert_string_equal(config.train_init_from, again.train_init_from);
    must_fail(fb_options_preset(options, "train.init_from", where, "here"), "train.init_from", "longer than the 180");
    fb_options_destroy(&options);
    fb_options_destroy(&read);
    remove("build/used_long.ini");
}

static void text_that_no_file_holds_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {" x", "x ", ";x", "x ;y", "x\ty", "x\n", "\n[run]\nseed = 2"};
    char argument[64];
    fb_config config;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        snprintf(argument, sizeof argument, "--train.init_from=%s", texts[i]);
        expect_refused("", argument, NULL, "train.init_from", "INI file");
    }
    expect_ok("", "--train.init_from=a b;c # d = e", NULL, &config);
    assert_string_equal(config.train_init_from, "a b;c # d = e");
}

static void missing_options_are_listed_together(void **state)
{
    (void)state;
    fb_config config;
    fb_options *options = NULL;
    char *argv[] = {"train"};
    must_fail(fb_config_read(1, argv, &config, &options), "--run.output", "--data.shards");
    char *missing_file[] = {"train", "/nonexistent/x.ini"};
    must_fail(fb_config_read(2, missing_file, &config, &options), "/nonexistent/x.ini");
}

/* What is recorded as used reads back to the same configuration. */
static void used_options_read_back(void **state)
{
    (void)state;
    fb_config first, second;
    fb_options *options = NULL;
    char *argv[] = {"train", "--run.output=out", "--data.shards=s", "--train.learning_rate=0.1234567890123",
                    "--privacy.clip=1e-3"};
    memset(&first, 0, sizeof first);
    assert_true(fb_config_read(5, argv, &first, &options) == FB_OK);
    char path[] = "/tmp/fb_used_XXXXXX";
    const int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    fb_options_print_used(options, file);
    fclose(file);
    fb_options_destroy(&options);
    char *again[] = {"train", path};
    memset(&second, 0, sizeof second);
    assert_true(fb_config_read(2, again, &second, &options) == FB_OK);
    fb_options_destroy(&options);
    unlink(path);
    assert_memory_equal(&first, &second, sizeof first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_file_and_arguments),
        cmocka_unit_test(preset_yields_to_explicit_options),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(zero_bytes_are_refused),
        cmocka_unit_test(text_that_no_file_holds_is_refused),
        cmocka_unit_test(used_options_can_be_read_back),
        cmocka_unit_test(missing_options_are_listed_together),
        cmocka_unit_test(used_options_read_back),
    };
    const int failed = cmocka_run_group_tests_name("options", tests, NULL, NULL);
    return failed || fb_mem_live_blocks() != 0;
}
