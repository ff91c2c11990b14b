/* SPDX-License-Identifier: Apache-2.0
 *
 * The record of where the run is: what a reader in another thread sees, and what a call costs.
 */
#include "comm/comm.h"
#include "core/progress.h"
#include "core/timer.h"
#include "testing.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

static fb_progress now(void)
{
    fb_progress at;
    fb_progress_read(&at);
    return at;
}

static void begins_before_the_first_round(void **state)
{
    (void)state;
    const fb_progress at = now();
    assert_int_equal(at.phase, FB_PHASE_START);
    assert_int_equal(at.round, -1);
    assert_int_equal(at.hospital, -1);
    assert_int_equal(at.steps, 0);
    assert_false(at.waiting);
}

static void every_call_is_a_step(void **state)
{
    (void)state;
    const int64_t steps = now().steps;
    fb_progress_step();
    assert_int_equal(now().steps, steps + 1);
    fb_progress_enter(FB_PHASE_TRAIN);
    fb_progress_round(3);
    fb_progress_hospital(7, "CBICA");
    assert_int_equal(now().steps, steps + 4);
    fb_progress_wait_begin();
    fb_progress_wait_end();
    assert_int_equal(now().steps, steps + 6);
    assert_int_equal(now().phase, FB_PHASE_TRAIN);
    assert_int_equal(now().round, 3);
    assert_int_equal(now().hospital, 7);
    assert_string_equal(now().hospital_name, "CBICA");
}

static void waiting_nests(void **state)
{
    (void)state;
    fb_progress_wait_begin();
    fb_progress_wait_begin();
    fb_progress_wait_end();
    assert_true(now().waiting);
    fb_progress_wait_end();
    assert_false(now().waiting);
}

static void long_names_are_cut(void **state)
{
    char name[200];
    (void)state;
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    fb_progress_hospital(1, name);
    assert_int_equal(strlen(now().hospital_name), FB_PROGRESS_NAME_CHARS - 1);
}

static void phases_have_names_of_one_word(void **state)
{
    (void)state;
    for (int i = 0; i < FB_PHASES; i++) {
        assert_true(strlen(fb_phase_name((fb_phase)i)) > 3);
        assert_null(strchr(fb_phase_name((fb_phase)i), ' '));
        for (int other = 0; other < i; other++)
            assert_string_not_equal(fb_phase_name((fb_phase)i), fb_phase_name((fb_phase)other));
    }
}

/* Communication says that it waits, and no longer, whatever came of it. */
static void communication_counts(void **state)
{
    fb_comm *comm = NULL;
    uint8_t *bytes = NULL, word = 1;
    int64_t size_bytes = 0;
    (void)state;
    must(fb_comm_self_create(&comm));
    int64_t steps = now().steps;
    must(fb_comm_send(comm, &word, 1));
    assert_int_equal(now().steps, steps + 2);
    must(fb_comm_flush(comm));
    must(fb_comm_receive(comm, &bytes, &size_bytes));
    must(fb_comm_broadcast(comm, &word, 1));
    must(fb_comm_gather(comm, &word, 1, &word));
    assert_int_equal(now().steps, steps + 10);
    must_fail(fb_comm_receive(comm, &bytes, &size_bytes), "wait for ever");
    assert_false(now().waiting);
    FB_FREE(bytes);
    steps = now().steps;
    fb_comm_destroy(&comm);
    assert_int_equal(now().steps, steps + 2);
}

/* Hospital and name belong together for every reader, and steps never go back. */
static atomic_int reads, stop;

static void *read_places(void *unused)
{
    int64_t steps = 0;
    (void)unused;
    while (!atomic_load(&stop)) {
        char name[FB_PROGRESS_NAME_CHARS];
        const fb_progress at = now();
        snprintf(name, sizeof name, "hospital number %d", at.hospital);
        if (at.steps < steps || (at.hospital >= 1000 && strcmp(name, at.hospital_name) != 0)) {
            atomic_store(&reads, INT_MAX);
            return "torn";
        }
        steps = at.steps;
        atomic_fetch_add(&reads, 1);
    }
    return NULL;
}

static void readers_see_whole_places(void **state)
{
    pthread_t thread;
    void *torn = NULL;
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, read_places, NULL), 0);
    const double end_s = fb_time_s() + 20.0; /* of a machine that gives the thread no time */
    for (int i = 0; atomic_load(&reads) < 200000 && fb_time_s() < end_s; i++) {
        char name[FB_PROGRESS_NAME_CHARS];
        snprintf(name, sizeof name, "hospital number %d", 1000 + i % 7919);
        fb_progress_hospital(1000 + i % 7919, name);
    }
    atomic_store(&stop, 1);
    pthread_join(thread, &torn);
    assert_null(torn);
}

/* A training step takes milliseconds. The limit is a hundred times what was measured (1 to 2 ns). */
static void a_step_costs_nanoseconds(void **state)
{
    enum { COUNT = 2000000 };
    (void)state;
    const double start_s = fb_time_s();
    for (int i = 0; i < COUNT; i++)
        fb_progress_step();
    const double step_s = (fb_time_s() - start_s) / COUNT;
    print_message("# %.1f ns a step\n", 1e9 * step_s);
    assert_true(step_s < 200e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_before_the_first_round),
        cmocka_unit_test(every_call_is_a_step),
        cmocka_unit_test(waiting_nests),
        cmocka_unit_test(long_names_are_cut),
        cmocka_unit_test(phases_have_names_of_one_word),
        cmocka_unit_test(communication_counts),
        cmocka_unit_test(readers_see_whole_places),
        cmocka_unit_test(a_step_costs_nanoseconds),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("progress", tests, NULL, NULL);
}
