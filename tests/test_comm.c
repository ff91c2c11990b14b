/* RANKS: 1 2 3 4 7 */
/* SPDX-License-Identifier: Apache-2.0
 *
 * One process runs the tests over comm_self too, only over that without a launcher. A rank left waiting ends the job by
 * alarm().
 */
#include "comm_conformance.h"

enum { LIMIT_S = 60 };

static void test_too_large(void **state)
{
    fb_comm *comm = *state;
    int64_t faults = 0;
    if (strcmp(fb_comm_backend(comm), "mpi") == 0) {
        uint8_t byte = 0;
        fb_status status = fb_comm_send(comm, &byte, (int64_t)1 << 31); /* refused before a byte is read */
        EXPECT(faults, strstr(fb_error_message(status), "2147483648 bytes"));
        fb_error_free(&status);
        status = fb_comm_broadcast(comm, &byte, (int64_t)1 << 31);
        EXPECT(faults, strstr(fb_error_message(status), "2147483648 bytes"));
        fb_error_free(&status);
    }
    assert_no_faults(comm, faults);
}

static void test_receive_nothing(void **state)
{
    fb_comm *comm = *state;
    uint8_t *bytes = NULL;
    int64_t n = 0;
    fb_status status = fb_comm_receive(comm, &bytes, &n);
    assert_non_null(strstr(fb_error_message(status), "wait for ever"));
    fb_error_free(&status);
}

static void test_launched(void **state)
{
    (void)state;
    const char *names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",   "PMI_RANK", "PMI_SIZE",
                           "SLURM_STEP_ID",        "SLURM_PROCID"};
    for (size_t i = 0; i < 6; i++)
        unsetenv(names[i]);
    assert_int_equal(fb_comm_mpi_launched(), 0);
    for (size_t i = 0; i < 4; i++) {
        setenv(names[i], "0", 1);
        assert_int_equal(fb_comm_mpi_launched(), 1);
        unsetenv(names[i]);
    }
    setenv("SLURM_PROCID", "0", 1); /* a batch script */
    assert_int_equal(fb_comm_mpi_launched(), 0);
    setenv("SLURM_STEP_ID", "4294967290", 1); /* salloc's interactive step */
    assert_int_equal(fb_comm_mpi_launched(), 0);
    setenv("SLURM_STEP_ID", "0", 1);
    assert_int_equal(fb_comm_mpi_launched(), 1);
    unsetenv("SLURM_STEP_ID");
    unsetenv("SLURM_PROCID");
}

static int run_all(fb_comm *comm)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_broadcast, comm), cmocka_unit_test_prestate(test_gather, comm),
        cmocka_unit_test_prestate(test_messages, comm),  cmocka_unit_test_prestate(test_too_large, comm),
        cmocka_unit_test_prestate(test_agree, comm),
    };
    const struct CMUnitTest tests_alone[] = {
        cmocka_unit_test_prestate(test_receive_nothing, comm),
        cmocka_unit_test(test_launched),
    };
    int failed = cmocka_run_group_tests_name(fb_comm_backend(comm), tests, NULL, NULL);
    if (fb_comm_size(comm) == 1)
        failed += cmocka_run_group_tests_name("alone", tests_alone, NULL, NULL);
    return failed;
}

int main(void)
{
    fb_comm *comm = NULL;
    int failed = 0, size = 1;
    alarm(LIMIT_S);
    if (fb_comm_mpi_launched()) {
        must(fb_comm_mpi_create(&comm));
        size = fb_comm_size(comm);
        if (fb_comm_rank(comm) != 0 && !freopen("/dev/null", "w", stdout))
            return 1;
        failed += run_all(comm);
        leave_with_pending_sends(&comm);
    }
    if (size == 1) {
        must(fb_comm_self_create(&comm));
        failed += run_all(comm);
        leave_with_pending_sends(&comm);
    }
    if (fb_mem_live_blocks() != 0) {
        fprintf(stderr, "%lld blocks of memory were not freed\n", (long long)fb_mem_live_blocks());
        failed++;
    }
    return failed != 0;
}
