/* SPDX-License-Identifier: Apache-2.0
 *
 * The NCCL communicator is a non-blocking one: a call only starts something, ncclCommGetAsyncError says when the
 * communicator takes the next, and a CUDA event when the data are through. */
#include "comm/comm_nccl_link.h"

#include "core/mem.h"
#include "core/timer.h"

#include <cuda_runtime.h>
#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 14, 0), "non-blocking communicators came with NCCL 2.14");
_Static_assert(sizeof(ncclUniqueId) == FB_NCCL_ID_BYTES, "an id travels as bytes");

enum {
    SLOTS = 2,
    CHUNK_BYTES = 4 << 20, /* a model of 16 filters is five chunks: copies and network overlap */
    FINALIZE_LIMIT_S = 30, /* all data are delivered by then: no reason for patience */
    ABORT_LIMIT_S = 10,
    CALL_CHARS = 96
};

typedef struct chunk_slot {
    uint8_t *host;   /* (CHUNK_BYTES) page-locked */
    uint8_t *device; /* (CHUNK_BYTES) */
    cudaEvent_t copied, moved;
} chunk_slot;

/* Lives on its own: where ncclCommAbort does not return, its thread keeps it. */
typedef struct abort_job {
    ncclComm_t nccl;
    int device;
    atomic_int done;
} abort_job;

struct fb_nccl_link {
    ncclComm_t nccl; /* NULL before the start and after an error */
    int rank, size, device;
    double timeout_s;
    fb_comm_gpu gpu;
    cudaStream_t copies, network;
    chunk_slot slots[SLOTS];
    abort_job *abort; /* owned; NULL when its thread was left to itself */
};

/* --- giving up --- */

static void sleep_ms(long ms)
{
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static void *abort_main(void *argument)
{
    abort_job *job = argument;
    (void)cudaSetDevice(job->device);
    (void)ncclCommAbort(job->nccl);
    atomic_store(&job->done, 1);
    return NULL;
}

/* ncclCommAbort waits for kernels and threads, and may itself hang where a driver or a network does: a thread waits for
 * it. 0 when it was left behind; nothing of CUDA may be released then. */
static int abort_within_limit(fb_nccl_link *link)
{
    pthread_t thread;
    const double end_s = fb_time_s() + ABORT_LIMIT_S;
    link->abort->nccl = link->nccl;
    link->abort->device = link->device;
    if (pthread_create(&thread, NULL, abort_main, link->abort) != 0) {
        abort_main(link->abort);
        return 1;
    }
    while (!atomic_load(&link->abort->done) && fb_time_s() < end_s)
        sleep_ms(1);
    if (!atomic_load(&link->abort->done)) {
        (void)pthread_detach(thread);
        return 0;
    }
    (void)pthread_join(thread, NULL);
    return 1;
}

/* NCCL's own words about its last error, in brackets; empty when it has none. */
static void quote_nccl(const fb_nccl_link *link, size_t chars, char *text)
{
    const char *words = link->nccl ? ncclGetLastError(link->nccl) : NULL;
    text[0] = '\0';
    if (words && words[0])
        snprintf(text, chars, " (NCCL: %.*s)", (int)strcspn(words, "\n"), words);
}

fb_status fb_nccl_link_give_up(fb_nccl_link *link, const char *call, const char *why)
{
    char words[512], late[CALL_CHARS];
    int aborted = 1;
    snprintf(late, sizeof late, "no progress for %g s (comm.timeout_s)", link->timeout_s);
    quote_nccl(link, sizeof words, words);
    if (link->nccl)
        aborted = abort_within_limit(link);
    if (!aborted)
        link->abort = NULL;
    link->nccl = NULL;
    return FB_FAIL("%s, GPU %d (%s): %s: %s%s%s; NCCL_DEBUG=INFO shows more, comm.backend = mpi does without NCCL",
                   link->gpu.host, link->device, link->gpu.pci, call, why ? why : late, words,
                   aborted ? "" : "; ncclCommAbort does not return either");
}

static fb_status check_cuda(fb_nccl_link *link, cudaError_t code, const char *call)
{
    return code == cudaSuccess ? FB_OK : fb_nccl_link_give_up(link, call, cudaGetErrorString(code));
}

/* --- waiting --- */

/* Short waits cost no sleep; long ones leave the core to the rank's other threads. */
static void pause_between(int64_t polls)
{
    const struct timespec pause = {0, 20000};
    if (polls < 2000)
        sched_yield();
    else
        nanosleep(&pause, NULL);
}

/* The state of the communicator: ncclInProgress, ncclSuccess or what failed. */
static ncclResult_t poll_state(const fb_nccl_link *link)
{
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(link->nccl, &state);
    return asked == ncclSuccess ? state : asked;
}

/* Until the communicator has done or launched what was asked: a call before that is an error, and an event recorded
 * before that would stand in front of the work. */
static fb_status wait_ready(fb_nccl_link *link, const char *call)
{
    const double end_s = fb_time_s() + link->timeout_s;
    ncclResult_t state = poll_state(link);
    for (int64_t polls = 0; state == ncclInProgress; polls++, state = poll_state(link)) {
        if (fb_time_s() > end_s)
            return fb_nccl_link_give_up(link, call, NULL);
        pause_between(polls);
    }
    return state == ncclSuccess ? FB_OK : fb_nccl_link_give_up(link, call, ncclGetErrorString(state));
}

static fb_status wait_event(fb_nccl_link *link, cudaEvent_t event, const char *call)
{
    const double end_s = fb_time_s() + link->timeout_s;
    for (int64_t polls = 0;; polls++) {
        const cudaError_t code = cudaEventQuery(event);
        if (code == cudaSuccess)
            return FB_OK;
        if (code != cudaErrorNotReady)
            return fb_nccl_link_give_up(link, call, cudaGetErrorString(code));
        (void)cudaGetLastError(); /* "not ready" is no error that others should find */
        const ncclResult_t state = poll_state(link);
        if (state != ncclSuccess && state != ncclInProgress)
            return fb_nccl_link_give_up(link, call, ncclGetErrorString(state));
        if (fb_time_s() > end_s)
            return fb_nccl_link_give_up(link, call, NULL);
        pause_between(polls);
    }
}

/* --- one transfer, in chunks through two slots --- */

static void name_call(const fb_nccl_transfer *t, char text[CALL_CHARS])
{
    static const char *const names[] = {"ncclBroadcast", "ncclSend", "ncclRecv"};
    snprintf(text, CALL_CHARS, "%s of %lld bytes %s rank %d", names[t->call], (long long)t->size_bytes,
             t->call == FB_NCCL_SEND ? "to" : "from", t->peer);
}

static ncclResult_t start_call(fb_nccl_link *link, const fb_nccl_transfer *t, uint8_t *device, size_t bytes)
{
    switch (t->call) {
    case FB_NCCL_BROADCAST:
        return ncclBroadcast(device, device, bytes, ncclUint8, t->peer, link->nccl, link->network);
    case FB_NCCL_SEND:
        return ncclSend(device, bytes, ncclUint8, t->peer, link->nccl, link->network);
    default:
        return ncclRecv(device, bytes, ncclUint8, t->peer, link->nccl, link->network);
    }
}

/* NCCL's part of one chunk, and the event behind it. */
static fb_status move_chunk(fb_nccl_link *link, const fb_nccl_transfer *t, const char *call, chunk_slot *slot,
                            size_t bytes)
{
    const ncclResult_t code = start_call(link, t, slot->device, bytes);
    if (code != ncclSuccess && code != ncclInProgress)
        return fb_nccl_link_give_up(link, call, ncclGetErrorString(code));
    FB_TRY(wait_ready(link, call));
    return check_cuda(link, cudaEventRecord(slot->moved, link->network), call);
}

static int64_t chunks_of(const fb_nccl_transfer *t)
{
    return (t->size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
}

static size_t bytes_of_chunk(const fb_nccl_transfer *t, int64_t k)
{
    const int64_t rest = t->size_bytes - k * CHUNK_BYTES;
    return (size_t)(rest < CHUNK_BYTES ? rest : CHUNK_BYTES);
}

static fb_status push_chunk(fb_nccl_link *link, const fb_nccl_transfer *t, const char *call, int64_t k)
{
    chunk_slot *slot = &link->slots[k % SLOTS];
    const size_t bytes = bytes_of_chunk(t, k);
    memcpy(slot->host, t->from + k * CHUNK_BYTES, bytes);
    FB_TRY(
        check_cuda(link, cudaMemcpyAsync(slot->device, slot->host, bytes, cudaMemcpyHostToDevice, link->copies), call));
    FB_TRY(check_cuda(link, cudaEventRecord(slot->copied, link->copies), call));
    FB_TRY(check_cuda(link, cudaStreamWaitEvent(link->network, slot->copied, 0), call));
    return move_chunk(link, t, call, slot, bytes);
}

/* Chunk k is copied to the device while NCCL moves chunk k - 1. */
static fb_status push(fb_nccl_link *link, const fb_nccl_transfer *t, const char *call)
{
    const int64_t chunks = chunks_of(t);
    for (int64_t k = 0; k < chunks; k++) {
        if (k >= SLOTS)
            FB_TRY(wait_event(link, link->slots[k % SLOTS].moved, call));
        FB_TRY(push_chunk(link, t, call, k));
    }
    for (int64_t k = chunks > SLOTS ? chunks - SLOTS : 0; k < chunks; k++)
        FB_TRY(wait_event(link, link->slots[k % SLOTS].moved, call));
    return FB_OK;
}

static fb_status pull_chunk(fb_nccl_link *link, const fb_nccl_transfer *t, const char *call, int64_t k)
{
    chunk_slot *slot = &link->slots[k % SLOTS];
    const size_t bytes = bytes_of_chunk(t, k);
    FB_TRY(move_chunk(link, t, call, slot, bytes));
    FB_TRY(check_cuda(link, cudaStreamWaitEvent(link->copies, slot->moved, 0), call));
    FB_TRY(
        check_cuda(link, cudaMemcpyAsync(slot->host, slot->device, bytes, cudaMemcpyDeviceToHost, link->copies), call));
    return check_cuda(link, cudaEventRecord(slot->copied, link->copies), call);
}

static fb_status take_chunk(fb_nccl_link *link, const fb_nccl_transfer *t, const char *call, int64_t k)
{
    FB_TRY(wait_event(link, link->slots[k % SLOTS].copied, call));
    memcpy(t->to + k * CHUNK_BYTES, link->slots[k % SLOTS].host, bytes_of_chunk(t, k));
    return FB_OK;
}

/* Chunk k - 1 is copied to the host while NCCL moves chunk k. */
static fb_status pull(fb_nccl_link *link, const fb_nccl_transfer *t, const char *call)
{
    const int64_t chunks = chunks_of(t);
    for (int64_t k = 0; k < chunks; k++) {
        FB_TRY(pull_chunk(link, t, call, k));
        if (k > 0)
            FB_TRY(take_chunk(link, t, call, k - 1));
    }
    return chunks > 0 ? take_chunk(link, t, call, chunks - 1) : FB_OK;
}

fb_status fb_nccl_link_transfer(fb_nccl_link *link, const fb_nccl_transfer *transfer)
{
    char call[CALL_CHARS];
    name_call(transfer, call);
    if (!link->nccl)
        return FB_FAIL("%s: %s: NCCL was given up after an earlier error", link->gpu.host, call);
    FB_TRY(check_cuda(link, cudaSetDevice(link->device), call));
    return transfer->from ? push(link, transfer, call) : pull(link, transfer, call);
}

/* --- beginning and end --- */

static fb_status make_slot(fb_nccl_link *link, chunk_slot *slot)
{
    FB_TRY(check_cuda(link, cudaHostAlloc((void **)&slot->host, CHUNK_BYTES, cudaHostAllocDefault), "cudaHostAlloc"));
    FB_TRY(check_cuda(link, cudaMalloc((void **)&slot->device, CHUNK_BYTES), "cudaMalloc"));
    FB_TRY(check_cuda(link, cudaEventCreateWithFlags(&slot->copied, cudaEventDisableTiming), "cudaEventCreate"));
    return check_cuda(link, cudaEventCreateWithFlags(&slot->moved, cudaEventDisableTiming), "cudaEventCreate");
}

static fb_status make_buffers(fb_nccl_link *link)
{
    FB_TRY(FB_ALLOC(link->abort, 1, "NCCL link"));
    fb_nccl_find_gpu(link->device, &link->gpu);
    if (link->gpu.problem[0])
        return FB_FAIL("%s: %s", link->gpu.host, link->gpu.problem);
    FB_TRY(check_cuda(link, cudaSetDevice(link->device), "cudaSetDevice"));
    FB_TRY(check_cuda(link, cudaStreamCreateWithFlags(&link->copies, cudaStreamNonBlocking), "cudaStreamCreate"));
    FB_TRY(check_cuda(link, cudaStreamCreateWithFlags(&link->network, cudaStreamNonBlocking), "cudaStreamCreate"));
    for (int i = 0; i < SLOTS; i++)
        FB_TRY(make_slot(link, &link->slots[i]));
    return FB_OK;
}

fb_status fb_nccl_link_create(int rank, int size, int cuda_device, double timeout_s, fb_nccl_link **out)
{
    fb_nccl_link *link = NULL;
    FB_TRY(FB_ALLOC(link, 1, "NCCL link"));
    link->rank = rank;
    link->size = size;
    link->device = cuda_device;
    link->timeout_s = timeout_s;
    fb_status status = make_buffers(link);
    if (status != FB_OK)
        fb_nccl_link_destroy(&link);
    *out = link;
    return status;
}

fb_status fb_nccl_link_make_id(fb_nccl_link *link, uint8_t id[FB_NCCL_ID_BYTES])
{
    ncclUniqueId unique;
    const ncclResult_t code = ncclGetUniqueId(&unique);
    if (code != ncclSuccess)
        return fb_nccl_link_give_up(link, "ncclGetUniqueId", ncclGetErrorString(code));
    memcpy(id, &unique, sizeof unique);
    return FB_OK;
}

fb_status fb_nccl_link_start(fb_nccl_link *link, const uint8_t id[FB_NCCL_ID_BYTES])
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique;
    memcpy(&unique, id, sizeof unique);
    config.blocking = 0;
    const ncclResult_t code = ncclCommInitRankConfig(&link->nccl, link->size, unique, link->rank, &config);
    if ((code == ncclSuccess || code == ncclInProgress) && link->nccl)
        return FB_OK;
    return fb_nccl_link_give_up(link, "ncclCommInitRankConfig", ncclGetErrorString(code));
}

fb_nccl_start fb_nccl_link_poll(fb_nccl_link *link, double slice_s, fb_status *status)
{
    const double end_s = fb_time_s() + slice_s;
    ncclResult_t state = poll_state(link);
    for (int64_t polls = 0; state == ncclInProgress && fb_time_s() < end_s; polls++, state = poll_state(link))
        pause_between(polls);
    if (state == ncclInProgress)
        return FB_NCCL_STARTING;
    if (state != ncclSuccess)
        *status = fb_nccl_link_give_up(link, "ncclCommInitRankConfig", ncclGetErrorString(state));
    return state == ncclSuccess ? FB_NCCL_STARTED : FB_NCCL_FAILED;
}

int fb_nccl_link_is_up(const fb_nccl_link *link)
{
    return link->nccl != NULL;
}

const fb_comm_gpu *fb_nccl_link_gpu(const fb_nccl_link *link)
{
    return &link->gpu;
}

/* What is left to do is this rank's alone. Where it does not end, the others are gone, and their data arrived. */
static void finalize(fb_nccl_link *link)
{
    const ncclResult_t code = ncclCommFinalize(link->nccl);
    fb_status status = FB_OK;
    if (link->timeout_s > FINALIZE_LIMIT_S)
        link->timeout_s = FINALIZE_LIMIT_S;
    if (code == ncclSuccess || code == ncclInProgress)
        status = wait_ready(link, "ncclCommFinalize");
    else
        status = fb_nccl_link_give_up(link, "ncclCommFinalize", ncclGetErrorString(code));
    if (status == FB_OK)
        (void)ncclCommDestroy(link->nccl);
    link->nccl = NULL;
    fb_error_free(&status);
}

static void release_cuda(fb_nccl_link *link)
{
    for (int i = 0; i < SLOTS; i++) {
        if (link->slots[i].copied)
            (void)cudaEventDestroy(link->slots[i].copied);
        if (link->slots[i].moved)
            (void)cudaEventDestroy(link->slots[i].moved);
        if (link->slots[i].device)
            (void)cudaFree(link->slots[i].device);
        if (link->slots[i].host)
            (void)cudaFreeHost(link->slots[i].host);
    }
    if (link->copies)
        (void)cudaStreamDestroy(link->copies);
    if (link->network)
        (void)cudaStreamDestroy(link->network);
}

void fb_nccl_link_destroy(fb_nccl_link **link)
{
    fb_nccl_link *self = *link;
    if (!self)
        return;
    if (self->nccl)
        finalize(self);
    if (self->abort) /* otherwise a kernel may still run, for which cudaFree would wait */
        release_cuda(self);
    FB_FREE(self->abort);
    FB_FREE(*link);
}

/* --- what there is --- */

static void write_version(unsigned code, size_t chars, char *text)
{
    const unsigned scale = code < 10000 ? 1000 : 10000; /* 2.8 and before: 2803 */
    snprintf(text, chars, "%u.%u.%u", code / scale % 100, code % scale / 100, code % 100);
}

static void find_machine(const char *host, size_t chars, char *machine)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!file || !fgets(machine, (int)chars, file))
        snprintf(machine, chars, "%s", host);
    machine[strcspn(machine, "\n")] = '\0';
    if (file)
        (void)fclose(file);
}

/* Headers are good for the library they came with and those after it. */
static int check_version(fb_comm_gpu *gpu)
{
    int code = 0;
    char built[16];
    if (ncclGetVersion(&code) != ncclSuccess)
        code = 0;
    write_version((unsigned)code, sizeof gpu->version, gpu->version);
    write_version(NCCL_VERSION_CODE, sizeof built, built);
    if (code / 100 >= NCCL_VERSION_CODE / 100)
        return 1;
    snprintf(gpu->problem, sizeof gpu->problem,
             "NCCL %s is too old for a build with %s; put the newer library in LD_LIBRARY_PATH", gpu->version, built);
    return 0;
}

void fb_nccl_find_gpu(int cuda_device, fb_comm_gpu *gpu)
{
    (void)gethostname(gpu->host, sizeof gpu->host - 1);
    find_machine(gpu->host, sizeof gpu->machine, gpu->machine);
    snprintf(gpu->pci, sizeof gpu->pci, "no bus id");
    if (cuda_device < 0) {
        snprintf(gpu->problem, sizeof gpu->problem, "it computes without a GPU");
        return;
    }
    if (!check_version(gpu))
        return;
    const cudaError_t code = cudaDeviceGetPCIBusId(gpu->pci, (int)sizeof gpu->pci, cuda_device);
    if (code != cudaSuccess)
        snprintf(gpu->problem, sizeof gpu->problem, "GPU %d: %s", cuda_device, cudaGetErrorString(code));
}

void fb_comm_nccl_describe(size_t chars, char *text)
{
    int code = 0;
    (void)ncclGetVersion(&code);
    write_version((unsigned)code, chars, text);
}
