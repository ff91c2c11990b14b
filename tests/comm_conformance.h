/* SPDX-License-Identifier: Apache-2.0
 *
 * What every backend of comm.h has to do, for the tests of each. Every rank runs every test and counts its own faults;
 * the verdict is summed on rank 0, which alone prints. */
#pragma once

#include "comm/comm.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SIZES = 8, ROUNDS = 6, DELAY_US_MAX = 3000, HEADER_BYTES = 12 };

static const int64_t message_bytes[SIZES] = {0, 12, 13, 4095, 4097, 65537, 1 << 20, (1 << 20) + 3};

#define EXPECT(faults, condition)                                                                                      \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            (faults)++;                                                                                                \
        }                                                                                                              \
    } while (0)

/* A communication error leaves nothing to test: the whole job stops with it. */
static void must(fb_status status)
{
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message(status));
    abort();
}

static void assert_no_faults(fb_comm *comm, int64_t faults)
{
    int64_t *all = calloc((size_t)fb_comm_size(comm), sizeof *all);
    must(fb_comm_gather(comm, &faults, (int64_t)sizeof faults, all));
    for (int r = 0; r < fb_comm_size(comm) && fb_comm_rank(comm) == 0; r++)
        if (all[r] != 0)
            fail_msg("rank %d: %lld faults", r, (long long)all[r]);
    free(all);
}

static void delay(const fb_comm *comm, uint32_t round)
{
    const fb_rng rng = {.seed = 5, .purpose = FB_RNG_TEST, .hospital = (uint32_t)fb_comm_rank(comm), .round = round};
    usleep(fb_rng_below(&rng, 0, DELAY_US_MAX));
}

static uint8_t pattern(int64_t source, int64_t round, int64_t k, int64_t i)
{
    return (uint8_t)(source * 131 + round * 17 + k * 7 + i + (i >> 8) * 3);
}

static void test_broadcast(void **state)
{
    fb_comm *comm = *state;
    int64_t faults = 0;
    for (int s = 0; s < SIZES; s++) {
        uint8_t *buffer = calloc(1, (size_t)message_bytes[s] + 1);
        for (int64_t i = 0; fb_comm_rank(comm) == 0 && i < message_bytes[s]; i++)
            buffer[i] = pattern(0, s, 0, i);
        delay(comm, (uint32_t)s);
        must(fb_comm_broadcast(comm, buffer, message_bytes[s]));
        for (int64_t i = 0; i < message_bytes[s]; i++)
            if (buffer[i] != pattern(0, s, 0, i))
                faults++;
        EXPECT(faults, buffer[message_bytes[s]] == 0);
        free(buffer);
    }
    assert_no_faults(comm, faults);
}

static void test_gather(void **state)
{
    fb_comm *comm = *state;
    const int size = fb_comm_size(comm), rank = fb_comm_rank(comm);
    int64_t faults = 0;
    for (int s = 0; s < SIZES; s++) {
        const int64_t n = message_bytes[s];
        uint8_t *mine = calloc(1, (size_t)n + 1), *all = NULL;
        if (rank == 0)
            all = calloc((size_t)size, (size_t)n + 1);
        for (int64_t i = 0; i < n; i++)
            mine[i] = pattern(rank, s, 1, i);
        delay(comm, (uint32_t)s + 100);
        must(fb_comm_gather(comm, mine, n, all));
        for (int64_t r = 0; rank == 0 && r < size; r++)
            for (int64_t i = 0; i < n; i++)
                if (all[r * n + i] != pattern(r, s, 1, i))
                    faults++;
        free(mine);
        free(all);
    }
    assert_no_faults(comm, faults);
}

/* Rank r sends r % 3 + 2 messages a round, of sizes that differ by rank, round and number. */
static int64_t messages_of(int64_t rank)
{
    return rank % 3 + 2;
}

static int64_t bytes_of(int64_t rank, int64_t round, int64_t k)
{
    return message_bytes[(rank + round * 3 + k * 5) % SIZES];
}

static void send_all(fb_comm *comm, int round, uint8_t *buffers[])
{
    const int32_t rank = fb_comm_rank(comm);
    for (int32_t k = 0; k < messages_of(rank); k++) {
        const int64_t n = bytes_of(rank, round, k);
        const int32_t header[3] = {rank, round, k};
        buffers[k] = calloc(1, (size_t)n + 1);
        for (int64_t i = 0; i < n; i++)
            buffers[k][i] = pattern(rank, round, k, i);
        if (n >= HEADER_BYTES)
            memcpy(buffers[k], header, HEADER_BYTES);
        must(fb_comm_send(comm, buffers[k], n));
        delay(comm, (uint32_t)(round * 10 + k));
    }
}

/* Checks one message on rank 0; seen[source] has bit k set once message k came. Empty messages are counted only. */
static int64_t check_message(const uint8_t *bytes, int64_t n, int round, int size, unsigned *seen, int64_t *empty)
{
    int64_t faults = 0;
    int32_t header[3];
    if (n == 0) {
        ++*empty;
        return 0;
    }
    memcpy(header, bytes, HEADER_BYTES);
    EXPECT(faults, header[0] >= 0 && header[0] < size && header[1] == round);
    if (faults)
        return faults;
    EXPECT(faults, n == bytes_of(header[0], round, header[2]));
    EXPECT(faults, !(seen[header[0]] >> header[2] & 1u));
    EXPECT(faults, seen[header[0]] >> header[2] == 0); /* those of one rank come in the order of sending */
    seen[header[0]] |= 1u << header[2];
    for (int64_t i = HEADER_BYTES; i < n; i++)
        if (bytes[i] != pattern(header[0], round, header[2], i))
            faults++;
    return faults;
}

static int64_t receive_all(fb_comm *comm, int round)
{
    const int size = fb_comm_size(comm);
    unsigned *seen = calloc((size_t)size, sizeof *seen);
    int64_t faults = 0, empty = 0, empty_expected = 0;
    for (int r = 0; r < size; r++) {
        for (int64_t k = 0; k < messages_of(r); k++) {
            uint8_t *bytes = NULL;
            int64_t n = -1;
            empty_expected += bytes_of(r, round, k) == 0;
            must(fb_comm_receive(comm, &bytes, &n));
            faults += check_message(bytes, n, round, size, seen, &empty);
            FB_FREE(bytes);
        }
    }
    for (int r = 0; r < size; r++)
        for (int64_t k = 0; k < messages_of(r); k++)
            EXPECT(faults, (seen[r] >> k & 1u) == (bytes_of(r, round, k) != 0));
    EXPECT(faults, empty == empty_expected);
    free(seen);
    return faults;
}

static void test_messages(void **state)
{
    fb_comm *comm = *state;
    int64_t faults = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *buffers[4] = {NULL};
        send_all(comm, round, buffers);
        if (fb_comm_rank(comm) == 0 && round % 2 == 1)
            must(fb_comm_flush(comm)); /* rank 0 may flush before it receives */
        if (fb_comm_rank(comm) == 0)
            faults += receive_all(comm, round);
        must(fb_comm_flush(comm));
        for (int k = 0; k < 4; k++)
            free(buffers[k]);
        /* One number to all, so that no message of the next round overtakes: what the simulation does with the model.
         */
        must(fb_comm_broadcast(comm, &faults, 0));
        int64_t go = round;
        must(fb_comm_broadcast(comm, &go, (int64_t)sizeof go));
        EXPECT(faults, go == round);
    }
    assert_no_faults(comm, faults);
}

/* Of a length that differs by rank, with a format directive in it; even ranks only stop. */
static fb_status failure_of(int rank)
{
    return fb_error_make(rank % 2 ? FB_EXIT_USAGE : FB_EXIT_STOPPED, "100%%s of %0*d", 1 + rank * 997, rank);
}

/* Bit r of `failing`: rank r failed. */
static int64_t agree_once(fb_comm *comm, unsigned failing, uint32_t number)
{
    const int rank = fb_comm_rank(comm), size = fb_comm_size(comm);
    int lowest = 0;
    int64_t faults = 0;
    const unsigned odd = failing & 0xaaaaaaaau, first = odd ? odd : failing; /* a stop hides no failure */
    while (lowest < size && !(first >> lowest & 1u))
        lowest++;
    delay(comm, 1000 + number);
    fb_status status = fb_status_agree(comm, failing >> rank & 1u ? failure_of(rank) : FB_OK);
    if (lowest == size) {
        EXPECT(faults, status == FB_OK);
        return faults;
    }
    fb_status expected = failure_of(lowest);
    if (size > 1)
        expected = fb_error_context(expected, "rank %d", lowest);
    EXPECT(faults, strcmp(fb_error_message(status), fb_error_message(expected)) == 0);
    EXPECT(faults, fb_error_exit_code(status) == fb_error_exit_code(expected));
    fb_error_free(&expected);
    fb_error_free(&status);
    return faults;
}

static void test_agree(void **state)
{
    fb_comm *comm = *state;
    int64_t faults = 0;
    for (unsigned failing = 0; failing < 1u << fb_comm_size(comm); failing++)
        faults += agree_once(comm, failing, failing);
    assert_no_faults(comm, faults);
}

/* The way out after an error: messages that nobody will receive must not keep a rank from ending. */
static void leave_with_pending_sends(fb_comm **comm)
{
    static uint8_t bytes[1 << 20];
    for (int k = 0; k < 3; k++)
        must(fb_comm_send(*comm, bytes, (int64_t)sizeof bytes));
    fb_comm_destroy(comm);
}
