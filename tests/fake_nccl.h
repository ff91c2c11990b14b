/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for NCCL and the CUDA runtime, strict where the real ones are and late where they may be:
 *  - device memory cannot be touched from outside (PROT_NONE); copies want the kind of memory they name;
 *  - a stream's work runs only while somebody polls, one piece at a time, of a stream drawn at random, and reads and
 *    writes memory then, not when it was asked for: what is reused too early arrives wrong;
 *  - a call of a non-blocking communicator enters the stream a few polls later, and until then the communicator is in
 *    progress and refuses others: an event recorded before stands in front of the work;
 *  - data go from rank to rank as messages of MPI_COMM_WORLD, to send waits for the receiver, and a communicator is up
 *    when all ranks have come;
 *  - one call can be told to fail, at once or later, or never to end.
 * Only ncclCommAbort may come from another thread, while the first one waits for it.
 */
#pragma once

#include <cuda_runtime.h>
#include <mpi.h>
#include <nccl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FAKE_OPS = 64, FAKE_BLOCKS = 32, FAKE_STREAMS = 8, FAKE_PEERS = 8, FAKE_PAGE = 4096 };

#define FAKE_REQUIRE(condition)                                                                                        \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: fake NCCL: %s\n", __FILE__, __LINE__, #condition);                                 \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* What the named call does from its `nth` use on (1 is the first). */
typedef enum fake_fault {
    FAKE_FAILS,   /* returns an error */
    FAKE_LATER,   /* is in progress, then the communicator is in error */
    FAKE_PENDING, /* stays in progress for ever */
    FAKE_STUCK,   /* is launched, but its work never ends */
    FAKE_DYING,   /* is launched, then the communicator is in error */
    FAKE_SPOILS   /* delivers a wrong byte */
} fake_fault;

typedef enum fake_kind {
    FAKE_COPY_IN,
    FAKE_COPY_OUT,
    FAKE_RECORD,
    FAKE_WAIT,
    FAKE_BCAST,
    FAKE_SEND,
    FAKE_RECV
} fake_kind;

typedef struct fake_op {
    fake_kind kind;
    uint8_t *device, *host; /* borrowed, (bytes) */
    size_t bytes;
    cudaEvent_t event;
    int64_t ticket;
    ncclComm_t comm;
    int peer, started, stuck, spoils;
    uint8_t *bounce; /* owned, (bytes): what is under way */
    MPI_Request requests[FAKE_PEERS];
    int request_count;
} fake_op;

struct CUstream_st {
    fake_op ops[FAKE_OPS];
    int count;
};

struct CUevent_st {
    int64_t recorded, done; /* tickets */
};

struct ncclComm {
    int rank, size, id;
    ncclResult_t state, next; /* now, and after so many polls (below 0: never) */
    int polls;
    int starting, hello_count;
    MPI_Request hellos[FAKE_PEERS];
    char hello;
    int pending;
    fake_op op; /* that enters the stream with the next state */
    cudaStream_t stream;
    int finalized;
};

typedef struct fake_block {
    uint8_t *start;
    size_t bytes;
    int on_device;
} fake_block;

typedef struct fake_state {
    /* what a test sets */
    const char *fault_call;
    int fault_nth;
    fake_fault fault;
    int version, shares_gpu;
    volatile int abort_hangs;
    /* what it may look at */
    volatile int aborts;
    int calls, finalizes, destroys, live_comms, live_events, live_streams, live_blocks;
    int64_t nccl_bytes;
    /* private */
    int fault_count, ids, device;
    int64_t tickets;
    uint32_t draws;
    fake_block blocks[FAKE_BLOCKS];
    cudaStream_t streams[FAKE_STREAMS];
} fake_state;

static fake_state fake;

static int fake_rank(void)
{
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

/* Between tests; communicators and buffers are gone by then. */
static void fake_reset(void)
{
    const fake_state kept = fake;
    memset(&fake, 0, sizeof fake);
    fake.version = NCCL_VERSION_CODE;
    fake.device = -1;
    fake.ids = kept.ids;
    fake.draws = kept.draws + 1;
}

static void fake_break(const char *call, int nth, fake_fault fault)
{
    fake.fault_call = call;
    fake.fault_nth = nth;
    fake.fault = fault;
    fake.fault_count = 0;
}

static int fake_live(void)
{
    return fake.live_comms + fake.live_events + fake.live_streams + fake.live_blocks;
}

static int fake_hit(const char *call, fake_fault fault)
{
    return fake.fault_call && strcmp(fake.fault_call, call) == 0 && fake.fault == fault &&
           fake.fault_count >= fake.fault_nth;
}

/* Counts the call and says whether it fails at once. "*" is any call of the CUDA runtime. */
static int fake_enters(const char *call)
{
    const int any = fake.fault_call && strcmp(fake.fault_call, "*") == 0 && strncmp(call, "cuda", 4) == 0;
    fake.calls++;
    if (fake.fault_call && (any || strcmp(fake.fault_call, call) == 0))
        fake.fault_count++;
    return fake.fault == FAKE_FAILS && fake.fault_count >= fake.fault_nth && (any || fake_hit(call, FAKE_FAILS));
}

static uint32_t fake_draw(uint32_t below)
{
    fake.draws = fake.draws * 1664525u + 1013904223u;
    return (fake.draws >> 16) % below;
}

/* --- memory --- */

static fake_block *fake_find(const void *pointer, size_t bytes)
{
    const uint8_t *p = pointer;
    for (int i = 0; i < FAKE_BLOCKS; i++)
        if (fake.blocks[i].start && p >= fake.blocks[i].start &&
            p + bytes <= fake.blocks[i].start + fake.blocks[i].bytes)
            return &fake.blocks[i];
    return NULL;
}

static int fake_is(const void *pointer, size_t bytes, int on_device)
{
    const fake_block *block = fake_find(pointer, bytes);
    return block && block->on_device == on_device;
}

static cudaError_t fake_allocate(void **out, size_t bytes, int on_device)
{
    fake_block *free_block = NULL;
    for (int i = 0; i < FAKE_BLOCKS && !free_block; i++)
        if (!fake.blocks[i].start)
            free_block = &fake.blocks[i];
    FAKE_REQUIRE(free_block);
    void *start = mmap(NULL, bytes, on_device ? PROT_NONE : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAKE_REQUIRE(start != MAP_FAILED);
    *free_block = (fake_block){start, bytes, on_device};
    fake.live_blocks++;
    *out = start;
    return cudaSuccess;
}

static cudaError_t fake_release(void *pointer, int on_device)
{
    fake_block *block = fake_find(pointer, 1);
    FAKE_REQUIRE(block && block->start == pointer && block->on_device == on_device);
    munmap(block->start, block->bytes);
    memset(block, 0, sizeof *block);
    fake.live_blocks--;
    return cudaSuccess;
}

/* The one way to device memory. */
static void fake_device_copy(uint8_t *device, uint8_t *host, size_t bytes, int to_device)
{
    const fake_block *block = fake_find(device, bytes);
    FAKE_REQUIRE(block && block->on_device && mprotect(block->start, block->bytes, PROT_READ | PROT_WRITE) == 0);
    memcpy(to_device ? device : host, to_device ? host : device, bytes);
    FAKE_REQUIRE(mprotect(block->start, block->bytes, PROT_NONE) == 0);
}

/* --- what runs in a stream --- */

static void fake_post(fake_op *op, int peer, int sends)
{
    MPI_Request *request = &op->requests[op->request_count++];
    FAKE_REQUIRE(op->request_count <= FAKE_PEERS);
    const int tag = op->comm->id * 2 + (op->kind == FAKE_BCAST);
    if (sends)
        MPI_Issend(op->bounce, (int)op->bytes, MPI_BYTE, peer, tag, MPI_COMM_WORLD, request);
    else
        MPI_Irecv(op->bounce, (int)op->bytes, MPI_BYTE, peer, tag, MPI_COMM_WORLD, request);
}

static int fake_sends(const fake_op *op)
{
    return op->kind == FAKE_SEND || (op->kind == FAKE_BCAST && op->comm->rank == op->peer);
}

static void fake_start(fake_op *op)
{
    op->started = 1;
    op->bounce = calloc(1, op->bytes);
    FAKE_REQUIRE(op->bounce);
    if (fake_sends(op))
        fake_device_copy(op->device, op->bounce, op->bytes, 0);
    if (op->kind != FAKE_BCAST || !fake_sends(op))
        fake_post(op, op->peer, fake_sends(op));
    for (int peer = 0; op->kind == FAKE_BCAST && fake_sends(op) && peer < op->comm->size; peer++)
        if (peer != op->comm->rank)
            fake_post(op, peer, 1);
}

/* 1 when the bytes are through. */
static int fake_run_nccl(fake_op *op)
{
    int done = 0;
    if (op->stuck)
        return 0;
    if (!op->started)
        fake_start(op);
    MPI_Testall(op->request_count, op->requests, &done, MPI_STATUSES_IGNORE);
    if (!done)
        return 0;
    if (op->spoils)
        op->bounce[op->bytes / 2] ^= 1;
    if (!fake_sends(op))
        fake_device_copy(op->device, op->bounce, op->bytes, 1);
    fake.nccl_bytes += (int64_t)op->bytes;
    free(op->bounce);
    return 1;
}

static int fake_run(fake_op *op)
{
    switch (op->kind) {
    case FAKE_COPY_IN:
        fake_device_copy(op->device, op->host, op->bytes, 1);
        return 1;
    case FAKE_COPY_OUT:
        fake_device_copy(op->device, op->host, op->bytes, 0);
        return 1;
    case FAKE_RECORD:
        op->event->done = op->ticket;
        return 1;
    case FAKE_WAIT:
        return op->event->done >= op->ticket;
    default:
        return fake_run_nccl(op);
    }
}

/* One piece of work, perhaps. */
static void fake_tick(void)
{
    cudaStream_t stream = fake.streams[fake_draw(FAKE_STREAMS)];
    if (!stream || stream->count == 0 || fake_draw(4) == 0 || !fake_run(&stream->ops[0]))
        return;
    stream->count--;
    memmove(&stream->ops[0], &stream->ops[1], (size_t)stream->count * sizeof stream->ops[0]);
}

static void fake_enqueue(cudaStream_t stream, const fake_op *op)
{
    FAKE_REQUIRE(stream && stream->count < FAKE_OPS);
    stream->ops[stream->count++] = *op;
}

#include "fake_cuda.h"

/* --- NCCL --- */

ncclResult_t ncclGetVersion(int *version)
{
    *version = fake.version;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclSystemError ? "a fake system error" : result == ncclRemoteError ? "a fake remote error" : "?";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "the fake's last words\nand a second line";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    if (fake_enters("ncclGetUniqueId"))
        return ncclSystemError;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%d", ++fake.ids);
    return ncclSuccess;
}

/* From now `result` after some polls; `call` names the fault that changes this. */
static ncclResult_t fake_progress(ncclComm_t comm, const char *call)
{
    comm->state = ncclInProgress;
    comm->next = fake_hit(call, FAKE_LATER) ? ncclSystemError : ncclSuccess;
    comm->polls = fake_hit(call, FAKE_PENDING) ? -1 : (int)fake_draw(4);
    return ncclInProgress;
}

/* The ranks report to rank 0, which answers when all have. */
static void fake_say_hello(ncclComm_t comm)
{
    for (int peer = 0; peer < comm->size; peer++)
        if (peer != comm->rank && (comm->rank == 0 || peer == 0)) {
            if (comm->rank == 0)
                MPI_Irecv(&comm->hello, 1, MPI_BYTE, peer, comm->id * 2, MPI_COMM_WORLD,
                          &comm->hellos[comm->hello_count++]);
            else
                MPI_Send(&comm->hello, 1, MPI_BYTE, 0, comm->id * 2, MPI_COMM_WORLD);
        }
    if (comm->rank != 0)
        MPI_Irecv(&comm->hello, 1, MPI_BYTE, 0, comm->id * 2, MPI_COMM_WORLD, &comm->hellos[comm->hello_count++]);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    *out = NULL;
    FAKE_REQUIRE(config->blocking == 0 && fake.device >= 0 && ranks <= FAKE_PEERS);
    if (fake_enters("ncclCommInitRankConfig"))
        return ncclSystemError;
    ncclComm_t comm = calloc(1, sizeof *comm);
    *comm = (struct ncclComm){.rank = rank, .size = ranks, .id = (int)strtol(id.internal, NULL, 10)};
    fake.live_comms++;
    fake_progress(comm, "ncclCommInitRankConfig");
    comm->starting = comm->next == ncclSuccess && comm->polls >= 0;
    if (comm->starting)
        fake_say_hello(comm);
    *out = comm;
    return ncclInProgress;
}

/* 1 when all ranks have come. */
static int fake_has_started(ncclComm_t comm)
{
    int done = 0;
    MPI_Testall(comm->hello_count, comm->hellos, &done, MPI_STATUSES_IGNORE);
    for (int peer = 1; done && comm->rank == 0 && peer < comm->size; peer++)
        MPI_Send(&comm->hello, 1, MPI_BYTE, peer, comm->id * 2, MPI_COMM_WORLD);
    return done;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    if (fake_enters("ncclCommGetAsyncError"))
        return ncclSystemError;
    FAKE_REQUIRE(comm);
    fake_tick();
    if (comm->state == ncclInProgress && comm->starting)
        comm->starting = !fake_has_started(comm);
    if (comm->state == ncclInProgress && !comm->starting && comm->polls >= 0 && comm->polls-- == 0) {
        comm->state = comm->next;
        if (comm->pending && comm->state == ncclSuccess)
            fake_enqueue(comm->stream, &comm->op);
        comm->pending = 0;
    } else if (comm->state == ncclSuccess && (fake_hit("ncclBroadcast", FAKE_DYING) ||
                                              fake_hit("ncclSend", FAKE_DYING) || fake_hit("ncclRecv", FAKE_DYING))) {
        comm->state = ncclRemoteError;
    }
    *error = comm->state;
    return ncclSuccess;
}

static ncclResult_t fake_call(const char *call, fake_kind kind, const void *device, size_t bytes, int peer,
                              ncclComm_t comm, cudaStream_t stream)
{
    if (comm->state != ncclSuccess)
        return ncclInvalidArgument; /* as the real one: used before the last call was through */
    if (fake_enters(call))
        return ncclSystemError;
    FAKE_REQUIRE(fake_is(device, bytes, 1) && peer >= 0 && peer < comm->size && !comm->finalized);
    const int endless = fake_hit(call, FAKE_STUCK) || fake_hit(call, FAKE_DYING);
    comm->op = (fake_op){.kind = kind,
                         .device = (uint8_t *)(uintptr_t)device,
                         .bytes = bytes,
                         .comm = comm,
                         .peer = peer,
                         .stuck = endless,
                         .spoils = fake_hit(call, FAKE_SPOILS)};
    comm->stream = stream;
    comm->pending = 1;
    return fake_progress(comm, call);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream)
{
    FAKE_REQUIRE(type == ncclUint8 && from == to);
    return fake_call("ncclBroadcast", FAKE_BCAST, from, count, root, comm, stream);
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    FAKE_REQUIRE(type == ncclUint8);
    return fake_call("ncclSend", FAKE_SEND, from, count, peer, comm, stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    FAKE_REQUIRE(type == ncclUint8);
    return fake_call("ncclRecv", FAKE_RECV, to, count, peer, comm, stream);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    if (fake_enters("ncclCommFinalize"))
        return ncclSystemError;
    FAKE_REQUIRE(comm->state == ncclSuccess && !comm->finalized);
    comm->finalized = 1;
    fake.finalizes++;
    return fake_progress(comm, "ncclCommFinalize");
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    FAKE_REQUIRE(comm->finalized && comm->state == ncclSuccess);
    free(comm);
    fake.destroys++;
    fake.live_comms--;
    return ncclSuccess;
}

/* What is under way stays with MPI, for ever unmatched: no later communicator has the same id. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    while (fake.abort_hangs)
        usleep(1000);
    for (int i = 0; i < FAKE_STREAMS; i++)
        if (fake.streams[i])
            fake.streams[i]->count = 0;
    (void)comm; /* not freed: a hello may still arrive in it */
    fake.aborts++;
    fake.live_comms--;
    return ncclSuccess;
}
