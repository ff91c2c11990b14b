/* RANKS: 1 2 */
/* SPDX-License-Identifier: Apache-2.0
 *
 * The NCCL backend against a stand-in for NCCL and CUDA (fake_nccl.h), between real ranks. A rank left waiting ends the
 * job by alarm(). */
#include "comm_conformance.h"
#include "fake_nccl.h"
#include "lent_comm.h"

#include "comm/comm_nccl.c"
#include "comm/comm_nccl_link.c"

enum { LIMIT_S = 120, LARGE_SIZES = 6 };

static const double PATIENCE_S = 0.5, LONG_S = 60.0;
static const int64_t large_bytes[LARGE_SIZES] = {
    SMALL_BYTES,     SMALL_BYTES + 1,     CHUNK_BYTES,
    CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5, /* an odd count: both slots
                                               end in use */
    5 * CHUNK_BYTES,
};

static fb_comm *make_nccl(fb_comm *mpi, double timeout_s)
{
    fb_comm *comm = NULL;
    must(fb_comm_nccl_create(lend(mpi), 0, timeout_s, &comm));
    return comm;
}

/* --- what arrives --- */

static void test_library(void **state)
{
    fb_comm *mpi = *state;
    fake_reset();
    fb_comm *comm = make_nccl(mpi, LONG_S);
    int64_t faults = 0;
    char expected[128];
    snprintf(expected, sizeof expected, "NCCL 2.28.9 over %s", fb_comm_library(mpi));
    EXPECT(faults, strcmp(fb_comm_library(comm), expected) == 0);
    EXPECT(faults, strcmp(fb_comm_backend(comm), "nccl") == 0);
    fb_comm_destroy(&comm);
    EXPECT(faults, fake.finalizes == 1 && fake.destroys == 1 && fake.aborts == 0);
    EXPECT(faults, fake_live() == 0);
    assert_no_faults(mpi, faults);
}

static void test_conformance(void **state)
{
    fake_reset();
    fb_comm *comm = make_nccl(*state, LONG_S);
    void *argument = comm;
    test_broadcast(&argument);
    test_gather(&argument);
    test_messages(&argument);
    test_agree(&argument);
    leave_with_pending_sends(&comm);
    assert_no_faults(*state, fake_live() != 0);
}

static void fill(uint8_t *bytes, int64_t n, int64_t source, int64_t k)
{
    for (int64_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(pattern(source, 0, k, i) ^ (i / CHUNK_BYTES * 29));
}

static int64_t count_wrong(const uint8_t *bytes, int64_t n, int64_t source, int64_t k)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++)
        wrong += bytes[i] != (uint8_t)(pattern(source, 0, k, i) ^ (i / CHUNK_BYTES * 29));
    return wrong;
}

/* Many chunks, to the byte; what is small does not touch NCCL. */
static void test_large_broadcasts(void **state)
{
    fb_comm *mpi = *state;
    fake_reset();
    fb_comm *comm = make_nccl(mpi, LONG_S);
    int64_t faults = 0;
    for (int s = 0; s < LARGE_SIZES; s++) {
        const int64_t n = large_bytes[s], before = fake.nccl_bytes;
        uint8_t *buffer = calloc(1, (size_t)n + 1);
        if (fb_comm_rank(comm) == 0)
            fill(buffer, n, 0, s);
        must(fb_comm_broadcast(comm, buffer, n));
        EXPECT(faults, count_wrong(buffer, n, 0, s) == 0);
        EXPECT(faults, buffer[n] == 0);
        EXPECT(faults, fake.nccl_bytes - before == (fb_comm_size(comm) > 1 && n > SMALL_BYTES ? n : 0));
        free(buffer);
    }
    fb_comm_destroy(&comm);
    assert_no_faults(mpi, faults);
}

/* The rank whose pattern this is. */
static int source_of(const uint8_t *bytes, int k, int size)
{
    int rank = 0;
    while (rank < size && count_wrong(bytes, 1, rank, k) != 0)
        rank++;
    return rank;
}

static int64_t receive_large(fb_comm *comm, int s)
{
    const int size = fb_comm_size(comm);
    int64_t faults = 0;
    unsigned seen = 0;
    for (int i = 0; i < size; i++) {
        uint8_t *bytes = NULL;
        int64_t n = 0;
        must(fb_comm_receive(comm, &bytes, &n));
        EXPECT(faults, n == large_bytes[s]);
        const int source = source_of(bytes, s, size);
        EXPECT(faults, n == large_bytes[s] && count_wrong(bytes, n, source, s) == 0);
        seen |= 1u << source;
        FB_FREE(bytes);
    }
    EXPECT(faults, seen == (1u << size) - 1);
    return faults;
}

static void test_large_messages(void **state)
{
    fb_comm *mpi = *state;
    fake_reset();
    fb_comm *comm = make_nccl(mpi, LONG_S);
    const int rank = fb_comm_rank(comm), over_nccl = fb_comm_size(comm) > 1;
    int64_t faults = 0;
    for (int s = 0; s < LARGE_SIZES; s++) {
        const int64_t n = large_bytes[s], before = fake.nccl_bytes;
        uint8_t *buffer = malloc((size_t)n);
        fill(buffer, n, rank, s);
        must(fb_comm_send(comm, buffer, n));
        if (rank == 0)
            faults += receive_large(comm, s);
        must(fb_comm_flush(comm));
        EXPECT(faults, fake.nccl_bytes - before ==
                           (n > SMALL_BYTES ? n * (rank == 0 ? fb_comm_size(comm) - 1 : over_nccl) : 0));
        free(buffer);
    }
    fb_comm_destroy(&comm);
    assert_no_faults(mpi, faults);
}

/* --- what is not possible --- */

/* Expects that NCCL is refused with `text` in the reason: an error when required, MPI otherwise. */
static int64_t expect_refused(fb_comm *mpi, int device, const char *text)
{
    fb_comm *comm = lend(mpi);
    int64_t faults = 0;
    fb_status status = fb_comm_use_nccl(&comm, 1, device, PATIENCE_S);
    EXPECT(faults, strstr(fb_error_message(status), text));
    EXPECT(faults, strstr(fb_error_message(status), "comm.backend = auto or mpi"));
    EXPECT(faults, fb_error_exit_code(status) == FB_EXIT_USAGE);
    if (faults)
        fprintf(stderr, "\"%s\" is not in: %s\n", text, fb_error_message(status));
    fb_error_free(&status);
    must(fb_comm_use_nccl(&comm, 0, device, PATIENCE_S));
    EXPECT(faults, strcmp(fb_comm_backend(comm), "mpi") == 0);
    EXPECT(faults, fake_live() == 0 && fake.destroys == 0 && fake.aborts == 0);
    fb_comm_destroy(&comm);
    return faults;
}

static void test_impossible(void **state)
{
    fb_comm *mpi = *state;
    const int rank = fb_comm_rank(mpi), last = fb_comm_size(mpi) - 1;
    int64_t faults = 0;
    char text[64];
    fake_reset();
    snprintf(text, sizeof text, "rank %d on ", last);
    faults += expect_refused(mpi, rank == last ? -1 : 0, text);
    faults += expect_refused(mpi, rank == last ? -1 : 0, "without a GPU");
    if (rank == last)
        fake.version = NCCL_VERSION_CODE - 100;
    faults += expect_refused(mpi, 0, text);
    faults += expect_refused(mpi, 0, "is too old for a build with 2.28.9");
    if (rank == last)
        fake.version = 2803; /* 2.8.3 was counted otherwise */
    faults += expect_refused(mpi, 0, "NCCL 2.8.3 is too old");
    fake.version = NCCL_VERSION_CODE;
    if (rank == last)
        fake_break("cudaDeviceGetPCIBusId", 1, FAKE_FAILS);
    faults += expect_refused(mpi, 0, "no CUDA-capable device is detected");
    assert_no_faults(mpi, faults);
}

static void test_impossible_together(void **state)
{
    fb_comm *mpi = *state;
    int64_t faults = 0;
    fake_reset();
    if (fb_comm_rank(mpi) == 1)
        fake.version = NCCL_VERSION_CODE + 100;
    faults += expect_refused(mpi, 0, "rank 1 on ");
    faults += expect_refused(mpi, 0, "has NCCL 2.29.9, rank 0 on ");
    fake_reset();
    fake.shares_gpu = 1;
    faults += expect_refused(mpi, 0, "ranks 0 and 1 share the GPU 0000:3B:00.0 of ");
    assert_no_faults(mpi, faults);
}

/* --- faults at the start --- */

/* Creates with a fault on the last rank, and expects that all ranks report it, soon, and keep nothing but MPI. */
static int64_t expect_no_start(fb_comm *mpi, const char *call, int nth, fake_fault fault, const char *text)
{
    fb_comm *lent = lend(mpi), *comm = NULL;
    const int last = fb_comm_size(mpi) - 1;
    int64_t faults = 0;
    char named[32] = ""; /* an only rank is not */
    fake_reset();
    if (fb_comm_rank(mpi) == last)
        fake_break(call, nth, fault);
    const double start_s = fb_time_s();
    fb_status status = fb_comm_nccl_create(lent, 0, PATIENCE_S, &comm);
    EXPECT(faults, fb_time_s() - start_s < 3 * PATIENCE_S + 1);
    if (last > 0)
        snprintf(named, sizeof named, "rank %d: ", last);
    EXPECT(faults, status != FB_OK && comm == NULL);
    EXPECT(faults, strstr(fb_error_message(status), text) && strstr(fb_error_message(status), named));
    EXPECT(faults, fake_live() == 0);
    if (faults)
        fprintf(stderr, "%s, %d, %d: \"%s\" is not in: %s\n", call, nth, fault, text, fb_error_message(status));
    fb_error_free(&status);
    fb_comm_destroy(&lent);
    return faults;
}

static void test_start_fails(void **state)
{
    fb_comm *mpi = *state;
    int64_t faults = 0;
    faults += expect_no_start(mpi, "ncclCommInitRankConfig", 1, FAKE_FAILS, "ncclCommInitRankConfig: a fake system");
    faults += expect_no_start(mpi, "ncclCommInitRankConfig", 1, FAKE_LATER, "ncclCommInitRankConfig: a fake system");
    faults += expect_no_start(mpi, "ncclCommInitRankConfig", 1, FAKE_LATER, "(NCCL: the fake's last words);");
    faults += expect_no_start(mpi, "ncclCommGetAsyncError", 1, FAKE_FAILS, "ncclCommInitRankConfig: a fake system");
    if (fb_comm_size(mpi) == 1)
        faults += expect_no_start(mpi, "ncclGetUniqueId", 1, FAKE_FAILS, "ncclGetUniqueId: a fake system error");
    assert_no_faults(mpi, faults);
}

/* A rank whose start never ends keeps the others waiting, too; all are late, so the lowest is named. */
static void test_start_hangs(void **state)
{
    fb_comm *mpi = *state, *lent = lend(mpi), *comm = NULL;
    int64_t faults = 0;
    fake_reset();
    if (fb_comm_rank(mpi) == fb_comm_size(mpi) - 1)
        fake_break("ncclCommInitRankConfig", 1, FAKE_PENDING);
    fb_status status = fb_comm_nccl_create(lent, 0, PATIENCE_S, &comm);
    EXPECT(faults, strstr(fb_error_message(status), "rank 0: ") || fb_comm_size(mpi) == 1);
    EXPECT(faults, strstr(fb_error_message(status), "ncclCommInitRankConfig: no progress for 0.5 s (comm.timeout_s)"));
    EXPECT(faults, fake.aborts == 1 && fake_live() == 0);
    fb_error_free(&status);
    fb_comm_destroy(&lent);
    assert_no_faults(mpi, faults);
}

/* Every call of the CUDA runtime on the way fails once. */
static void test_start_without_memory(void **state)
{
    fb_comm *mpi = *state;
    int64_t faults = 0;
    enum { CALLS = 12 }; /* bus id, device, two streams, two slots of two buffers and two events */
    for (int nth = 1; nth <= CALLS; nth++)
        faults += expect_no_start(mpi, "*", nth, FAKE_FAILS, nth == 1 ? "no CUDA-capable" : "GPU 0 (0000:");
    assert_no_faults(mpi, faults);
}

/* auto goes on over MPI when the start fails. */
static void test_start_falls_back(void **state)
{
    fb_comm *mpi = *state, *comm = lend(mpi);
    int64_t faults = 0;
    fake_reset();
    fake_break("ncclCommInitRankConfig", 1, FAKE_FAILS);
    must(fb_comm_use_nccl(&comm, 0, 0, PATIENCE_S));
    EXPECT(faults, strcmp(fb_comm_backend(comm), "mpi") == 0);
    fake_reset();
    must(fb_comm_use_nccl(&comm, 0, 0, PATIENCE_S));
    EXPECT(faults, strcmp(fb_comm_backend(comm), "nccl") == 0);
    fb_comm_destroy(&comm);
    EXPECT(faults, fake_live() == 0);
    assert_no_faults(mpi, faults);
}

/* The first bytes through a new communicator are compared: of the broadcast on rank 1, of the message on rank 0. */
static void test_start_finds_wrong_bytes(void **state)
{
    fb_comm *mpi = *state;
    int64_t faults = 0;
    faults += expect_no_start(mpi, "ncclBroadcast", 1, FAKE_SPOILS, "other bytes arrived");
    fake_reset();
    fb_comm *lent = lend(mpi), *comm = NULL;
    if (fb_comm_rank(mpi) == 0)
        fake_break("ncclRecv", 1, FAKE_SPOILS);
    fb_status status = fb_comm_nccl_create(lent, 0, PATIENCE_S, &comm);
    EXPECT(faults, strstr(fb_error_message(status), "rank 0: "));
    EXPECT(faults, strstr(fb_error_message(status), "other bytes arrived"));
    EXPECT(faults, fake_live() == 0);
    fb_error_free(&status);
    fb_comm_destroy(&lent);
    assert_no_faults(mpi, faults);
}

/* --- faults on the way --- */

typedef struct trouble {
    const char *call;
    fake_fault fault;
    const char *text;
} trouble;

static int64_t check_trouble(fb_status *status, int rank, const char *what, const char *why)
{
    int64_t faults = 0;
    char gpu[64];
    snprintf(gpu, sizeof gpu, "GPU 0 (0000:%02X:00.0)", 0x3b + rank);
    EXPECT(faults, strstr(fb_error_message(*status), gpu));
    EXPECT(faults, strstr(fb_error_message(*status), what) && strstr(fb_error_message(*status), why));
    EXPECT(faults, strstr(fb_error_message(*status), "(NCCL: the fake's last words)"));
    EXPECT(faults, fake.aborts == 1 && fake.live_comms == 0);
    if (faults)
        fprintf(stderr, "%s, %s, not in: %s\n", what, why, fb_error_message(*status));
    fb_error_free(status);
    return faults;
}

/* Rank 1 is in trouble; rank 0 then waits for it in vain. Nothing after that waits again. */
static int64_t broadcast_in_trouble(fb_comm *mpi, const trouble *fault)
{
    fake_reset();
    fb_comm *comm = make_nccl(mpi, PATIENCE_S);
    const int64_t n = 3 * CHUNK_BYTES;
    uint8_t *buffer = calloc(1, (size_t)n);
    int64_t faults = 0;
    if (fb_comm_rank(mpi) == 1)
        fake_break(fault->call, 2, fault->fault);
    fb_status status = fb_comm_broadcast(comm, buffer, n);
    faults += check_trouble(&status, fb_comm_rank(mpi), "ncclBroadcast of 12582912 bytes from rank 0: ",
                            fb_comm_rank(mpi) == 1 ? fault->text : "no progress for 0.5 s (comm.timeout_s)");
    const double start_s = fb_time_s();
    status = fb_comm_broadcast(comm, buffer, n);
    EXPECT(faults, strstr(fb_error_message(status), "rank 0 has given NCCL up after an error"));
    fb_error_free(&status);
    fb_comm_destroy(&comm);
    EXPECT(faults, fb_comm_rank(mpi) == 1 || fb_time_s() - start_s < PATIENCE_S); /* rank 1 waited for rank 0 */
    EXPECT(faults, fake_live() == 0);
    free(buffer);
    return faults;
}

static void test_broadcast_trouble(void **state)
{
    static const trouble troubles[] = {
        {"ncclBroadcast", FAKE_FAILS, "a fake system error"},
        {"ncclBroadcast", FAKE_LATER, "a fake system error"},
        {"ncclBroadcast", FAKE_PENDING, "no progress for 0.5 s (comm.timeout_s)"},
        {"ncclBroadcast", FAKE_STUCK, "no progress for 0.5 s (comm.timeout_s)"},
        {"ncclBroadcast", FAKE_DYING, "a fake remote error"},
        {"cudaMemcpyAsync", FAKE_FAILS, "a fake CUDA error"},
        {"cudaEventRecord", FAKE_FAILS, "a fake CUDA error"},
        {"cudaEventQuery", FAKE_FAILS, "a fake CUDA error"},
        {"cudaStreamWaitEvent", FAKE_FAILS, "a fake CUDA error"},
        {"ncclCommGetAsyncError", FAKE_FAILS, "a fake system error"},
    };
    int64_t faults = 0;
    for (size_t i = 0; i < sizeof troubles / sizeof *troubles; i++)
        faults += broadcast_in_trouble(*state, &troubles[i]);
    assert_no_faults(*state, faults);
}

/* Of a message that rank 1 cannot send, or that rank 0 cannot receive. */
static int64_t message_in_trouble(fb_comm *mpi, const trouble *fault, int troubled)
{
    fake_reset();
    fb_comm *comm = make_nccl(mpi, PATIENCE_S);
    const int rank = fb_comm_rank(mpi);
    static uint8_t message[SMALL_BYTES + 1];
    uint8_t *bytes = NULL;
    int64_t n = 0;
    if (rank == troubled)
        fake_break(fault->call, 1, fault->fault);
    fb_status status = rank == 0 ? fb_comm_receive(comm, &bytes, &n) : fb_comm_send(comm, message, sizeof message);
    if (rank == 1 && status == FB_OK)
        status = fb_comm_flush(comm);
    int64_t faults = check_trouble(
        &status, rank, rank == 0 ? "ncclRecv of 65537 bytes from rank 1: " : "ncclSend of 65537 bytes to rank 0: ",
        rank == troubled ? fault->text : "no progress for 0.5 s (comm.timeout_s)");
    EXPECT(faults, bytes == NULL);
    fb_comm_destroy(&comm);
    EXPECT(faults, fake_live() == 0);
    return faults;
}

static void test_message_trouble(void **state)
{
    static const trouble sends[] = {{"ncclSend", FAKE_FAILS, "a fake system error"},
                                    {"ncclSend", FAKE_LATER, "a fake system error"},
                                    {"ncclSend", FAKE_PENDING, "no progress"},
                                    {"ncclSend", FAKE_STUCK, "no progress"},
                                    {"ncclSend", FAKE_DYING, "a fake remote error"}};
    static const trouble receives[] = {{"ncclRecv", FAKE_FAILS, "a fake system error"},
                                       {"ncclRecv", FAKE_LATER, "a fake system error"},
                                       {"ncclRecv", FAKE_PENDING, "no progress"},
                                       {"ncclRecv", FAKE_STUCK, "no progress"},
                                       {"ncclRecv", FAKE_DYING, "a fake remote error"}};
    int64_t faults = 0;
    for (size_t i = 0; i < sizeof sends / sizeof *sends; i++)
        faults += message_in_trouble(*state, &sends[i], 1) + message_in_trouble(*state, &receives[i], 0);
    assert_no_faults(*state, faults);
}

/* A rank that comes late is waited for, longer than NCCL's patience: rank 1 to a broadcast, rank 0 to a message. */
static void test_late_rank(void **state)
{
    fb_comm *mpi = *state;
    fake_reset();
    fb_comm *comm = make_nccl(mpi, PATIENCE_S);
    static uint8_t buffer[SMALL_BYTES + 1];
    uint8_t *bytes = NULL;
    int64_t n = 0;
    const useconds_t late_us = (useconds_t)(2e6 * PATIENCE_S);
    if (fb_comm_rank(mpi) == 1)
        usleep(late_us);
    must(fb_comm_broadcast(comm, buffer, sizeof buffer));
    if (fb_comm_rank(mpi) == 1)
        must(fb_comm_send(comm, buffer, sizeof buffer));
    if (fb_comm_rank(mpi) == 0) {
        usleep(late_us);
        must(fb_comm_receive(comm, &bytes, &n));
    }
    must(fb_comm_flush(comm));
    fb_comm_destroy(&comm);
    assert_no_faults(mpi, fb_comm_rank(mpi) == 0 && n != (int64_t)sizeof buffer);
    FB_FREE(bytes);
}

static void test_sizes_differ(void **state)
{
    fb_comm *mpi = *state;
    fake_reset();
    fb_comm *comm = make_nccl(mpi, PATIENCE_S);
    static uint8_t buffer[SMALL_BYTES + 2];
    int64_t faults = 0;
    fb_status status = fb_comm_broadcast(comm, buffer, SMALL_BYTES + 1 + fb_comm_rank(mpi));
    EXPECT(faults, strstr(fb_error_message(status), "rank 1 expects 65538 bytes, rank 0 sends 65537"));
    fb_error_free(&status);
    fb_comm_destroy(&comm);
    assert_no_faults(mpi, faults);
}

/* The end does not wait for a communicator that does not come to rest. */
static void test_end_hangs(void **state)
{
    static const fake_fault kinds[] = {FAKE_FAILS, FAKE_LATER, FAKE_PENDING};
    int64_t faults = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        fake_reset();
        fb_comm *comm = make_nccl(*state, PATIENCE_S);
        fake_break("ncclCommFinalize", 1, kinds[i]);
        fb_comm_destroy(&comm);
        EXPECT(faults, fake.aborts == 1 && fake.destroys == 0 && fake_live() == 0);
    }
    assert_no_faults(*state, faults);
}

/* Last: what ncclCommAbort would have released is lost. */
static void test_abort_hangs(void **state)
{
    fb_comm *mpi = *state;
    fake_reset();
    fb_comm *comm = make_nccl(mpi, PATIENCE_S);
    static uint8_t buffer[SMALL_BYTES + 1];
    int64_t faults = 0;
    fake.abort_hangs = 1;
    fake_break("ncclBroadcast", 1, FAKE_FAILS);
    const double start_s = fb_time_s();
    fb_status status = fb_comm_broadcast(comm, buffer, sizeof buffer);
    EXPECT(faults, strstr(fb_error_message(status), "a fake system error"));
    EXPECT(faults, strstr(fb_error_message(status), "; ncclCommAbort does not return either;"));
    EXPECT(faults, fb_time_s() - start_s < ABORT_LIMIT_S + 2);
    fb_error_free(&status);
    fb_comm_destroy(&comm);
    EXPECT(faults, fake.aborts == 0 && fake.live_blocks == 2 * SLOTS); /* kernels may still use them */
    fake.abort_hangs = 0;
    while (!fake.aborts)
        usleep(1000);
    assert_no_faults(mpi, faults);
}

int main(void)
{
    fb_comm *mpi = NULL;
    alarm(LIMIT_S);
    must(fb_comm_mpi_create(&mpi));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_library, mpi),
        cmocka_unit_test_prestate(test_conformance, mpi),
        cmocka_unit_test_prestate(test_large_broadcasts, mpi),
        cmocka_unit_test_prestate(test_large_messages, mpi),
        cmocka_unit_test_prestate(test_impossible, mpi),
        cmocka_unit_test_prestate(test_start_fails, mpi),
        cmocka_unit_test_prestate(test_start_hangs, mpi),
        cmocka_unit_test_prestate(test_start_without_memory, mpi),
        cmocka_unit_test_prestate(test_start_falls_back, mpi),
        cmocka_unit_test_prestate(test_end_hangs, mpi),
    };
    const struct CMUnitTest tests_together[] = {
        cmocka_unit_test_prestate(test_impossible_together, mpi),
        cmocka_unit_test_prestate(test_start_finds_wrong_bytes, mpi),
        cmocka_unit_test_prestate(test_broadcast_trouble, mpi),
        cmocka_unit_test_prestate(test_message_trouble, mpi),
        cmocka_unit_test_prestate(test_late_rank, mpi),
        cmocka_unit_test_prestate(test_sizes_differ, mpi),
        cmocka_unit_test_prestate(test_abort_hangs, mpi),
    };
    if (fb_comm_rank(mpi) != 0 && !freopen("/dev/null", "w", stdout))
        return 1;
    fb_log_set_level(FB_LOG_QUIET);
    int failed = cmocka_run_group_tests_name("nccl", tests, NULL, NULL);
    if (fb_comm_size(mpi) > 1)
        failed += cmocka_run_group_tests_name("nccl, together", tests_together, NULL, NULL);
    fb_comm_destroy(&mpi);
    if (fb_mem_live_blocks() > 1) { /* one is of the abort that did not return */
        fprintf(stderr, "%lld blocks of memory were not freed\n", (long long)fb_mem_live_blocks());
        failed++;
    }
    return failed != 0;
}
