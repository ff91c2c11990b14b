/* SPDX-License-Identifier: Apache-2.0
 *
 * Large broadcasts and messages over NCCL, the rest and every arrangement over MPI. */
#include "comm/comm_nccl_link.h"
#include "core/mem.h"
#include "core/timer.h"

#include <stdio.h>
#include <string.h>

enum {
    SMALL_BYTES = 64 << 10, /* and less goes over MPI, which is faster than two copies and a kernel */
    CHECK_BYTES = 4096,
    ENVELOPE_MAGIC = 0x4c43434e
};

static const double SLICE_S = 0.1; /* between two exchanges of the ranks that wait for the start */

/* In front of every message, over MPI; the bytes of a small one follow. */
typedef struct envelope {
    int32_t magic, rank;
    int64_t size_bytes;
} envelope;

typedef struct outgoing {
    const uint8_t *bytes; /* borrowed until the flush */
    int64_t size_bytes;
} outgoing;

typedef struct nccl_comm {
    fb_comm base;
    fb_comm *control;   /* MPI; owned once the creation succeeded */
    fb_nccl_link *link; /* owned */
    double timeout_s;
    outgoing *pending; /* owned, (pending_count) */
    int pending_count;
    uint8_t *letter; /* owned, (sizeof(envelope) + SMALL_BYTES) */
    int64_t *words;  /* owned, (size) one of each rank, rank 0 only */
} nccl_comm;

static nccl_comm *as_nccl(fb_comm *comm)
{
    return (nccl_comm *)comm;
}

/* --- from rank 0 to all --- */

static fb_status judge_arrivals(const nccl_comm *self)
{
    for (int rank = 0; rank < self->base.size; rank++) {
        if (self->words[rank] < 0)
            return FB_FAIL("broadcast: rank %d has given NCCL up after an error", rank);
        if (self->words[rank] != self->words[0])
            return FB_FAIL("broadcast: rank %d expects %lld bytes, rank 0 sends %lld", rank,
                           (long long)self->words[rank], (long long)self->words[0]);
    }
    return FB_OK;
}

/* Over MPI, until all ranks are here: the time a rank takes to arrive is no fault of NCCL's and does not count against
 * its limit, and no GPU waits in a kernel. That they agree on the size is found on the way. */
static fb_status meet(nccl_comm *self, int64_t size_bytes)
{
    const int64_t word = fb_nccl_link_is_up(self->link) ? size_bytes : -1;
    FB_TRY(fb_comm_gather(self->control, &word, (int64_t)sizeof word, self->words));
    return fb_status_agree(self->control, self->base.rank == 0 ? judge_arrivals(self) : FB_OK);
}

static fb_status broadcast_large(nccl_comm *self, uint8_t *buffer, int64_t size_bytes)
{
    const int root = self->base.rank == 0;
    const fb_nccl_transfer t = {
        .call = FB_NCCL_BROADCAST, .from = root ? buffer : NULL, .to = root ? NULL : buffer, .size_bytes = size_bytes};
    return fb_nccl_link_transfer(self->link, &t);
}

static fb_status nccl_broadcast(fb_comm *comm, void *buffer, int64_t size_bytes)
{
    nccl_comm *self = as_nccl(comm);
    FB_ASSERT(self->pending_count == 0);
    if (comm->size == 1 || size_bytes <= SMALL_BYTES)
        return fb_comm_broadcast(self->control, buffer, size_bytes);
    FB_TRY(meet(self, size_bytes));
    return broadcast_large(self, buffer, size_bytes);
}

static fb_status nccl_gather(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out)
{
    FB_ASSERT(as_nccl(comm)->pending_count == 0);
    return fb_comm_gather(as_nccl(comm)->control, buffer, size_bytes, out);
}

/* --- to rank 0 --- */

static fb_status nccl_send(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    nccl_comm *self = as_nccl(comm);
    if (size_bytes < 0)
        return FB_FAIL("send to rank 0: %lld bytes", (long long)size_bytes);
    if (comm->rank == 0)
        return fb_comm_queue_put(comm, bytes, size_bytes);
    FB_TRY(fb_mem_resize(&self->pending, self->pending_count + 1, sizeof *self->pending, "pending sends"));
    self->pending[self->pending_count++] = (outgoing){bytes, size_bytes};
    return FB_OK;
}

static fb_status deliver(nccl_comm *self, const outgoing *message)
{
    const int64_t inside = message->size_bytes <= SMALL_BYTES ? message->size_bytes : 0;
    const envelope front = {ENVELOPE_MAGIC, self->base.rank, message->size_bytes};
    const fb_nccl_transfer t = {.call = FB_NCCL_SEND, .from = message->bytes, .size_bytes = message->size_bytes};
    memcpy(self->letter, &front, sizeof front);
    if (inside > 0)
        memcpy(self->letter + sizeof front, message->bytes, (size_t)inside);
    /* Only then NCCL: while it waits MPI would move nothing, and how late rank 0 is does not count against its limit.
     */
    FB_TRY(self->control->ops->hand_over(self->control, self->letter, (int64_t)sizeof front + inside));
    return inside == message->size_bytes ? FB_OK : fb_nccl_link_transfer(self->link, &t);
}

static fb_status nccl_flush(fb_comm *comm)
{
    nccl_comm *self = as_nccl(comm);
    fb_status status = FB_OK;
    for (int i = 0; i < self->pending_count && status == FB_OK; i++)
        status = deliver(self, &self->pending[i]);
    self->pending_count = 0;
    return status;
}

static int is_announcement(const nccl_comm *self, const envelope *front, int64_t arrived_bytes)
{
    const int64_t inside = front->size_bytes <= SMALL_BYTES ? front->size_bytes : 0;
    return front->magic == ENVELOPE_MAGIC && front->rank > 0 && front->rank < self->base.size && inside >= 0 &&
           arrived_bytes == (int64_t)sizeof *front + inside;
}

/* Makes the message (size_bytes) of the letter (arrived_bytes) that announced or holds it. */
static fb_status open_letter(nccl_comm *self, uint8_t **letter, int64_t arrived_bytes, int64_t *size_bytes)
{
    envelope front = {0};
    uint8_t *message = NULL; /* (size_bytes) */
    if (arrived_bytes >= (int64_t)sizeof front)
        memcpy(&front, *letter, sizeof front);
    if (!is_announcement(self, &front, arrived_bytes))
        return FB_FAIL("receive: %lld bytes that announce no message; does every rank run the same program?",
                       (long long)arrived_bytes);
    *size_bytes = front.size_bytes;
    if (front.size_bytes <= SMALL_BYTES) {
        memmove(*letter, *letter + sizeof front, (size_t)front.size_bytes);
        return FB_OK;
    }
    FB_TRY(FB_ALLOC_RAW(message, front.size_bytes, "received message"));
    FB_FREE(*letter);
    *letter = message;
    const fb_nccl_transfer t = {
        .call = FB_NCCL_RECEIVE, .peer = front.rank, .to = message, .size_bytes = front.size_bytes};
    return fb_nccl_link_transfer(self->link, &t);
}

static fb_status nccl_receive(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes)
{
    nccl_comm *self = as_nccl(comm);
    uint8_t *letter = NULL;
    int64_t arrived_bytes = 0;
    if (fb_comm_queue_take(comm, bytes, size_bytes))
        return FB_OK;
    FB_TRY(fb_comm_receive(self->control, &letter, &arrived_bytes));
    const fb_status status = open_letter(self, &letter, arrived_bytes, size_bytes);
    if (status == FB_OK)
        *bytes = letter;
    else
        FB_FREE(letter);
    return status;
}

/* --- beginning and end --- */

/* Everything but MPI. Accepts a half-made object. */
static void release(nccl_comm *self)
{
    if (!self)
        return;
    fb_nccl_link_destroy(&self->link);
    fb_comm_queue_clear(&self->base);
    FB_FREE(self->pending);
    FB_FREE(self->letter);
    FB_FREE(self->words);
    FB_FREE(self);
}

static void nccl_destroy(fb_comm *comm)
{
    fb_comm *control = as_nccl(comm)->control;
    release(as_nccl(comm));
    fb_comm_destroy(&control);
}

static void nccl_abort(fb_comm *comm, int exit_code)
{
    fb_comm_abort(as_nccl(comm)->control, exit_code);
}

static const fb_comm_ops *nccl_ops(void)
{
    static const fb_comm_ops ops = {.name = "nccl",
                                    .destroy = nccl_destroy,
                                    .abort = nccl_abort,
                                    .broadcast = nccl_broadcast,
                                    .gather = nccl_gather,
                                    .send = nccl_send,
                                    .flush = nccl_flush,
                                    .receive = nccl_receive};
    return &ops;
}

/* All that needs no other rank. */
static fb_status prepare(fb_comm *mpi, int cuda_device, double timeout_s, nccl_comm **out, uint8_t *id)
{
    nccl_comm *self = NULL;
    FB_TRY(FB_ALLOC(self, 1, "communicator"));
    *out = self;
    self->base = *mpi; /* who is who */
    self->base.ops = nccl_ops();
    self->base.first = self->base.last = NULL;
    self->control = mpi;
    self->timeout_s = timeout_s;
    FB_TRY(FB_ALLOC(self->letter, (int64_t)sizeof(envelope) + SMALL_BYTES, "envelope"));
    FB_TRY(FB_ALLOC(self->words, mpi->rank == 0 ? mpi->size : 0, "words of the ranks"));
    FB_TRY(fb_nccl_link_create(mpi->rank, mpi->size, cuda_device, timeout_s, &self->link));
    snprintf(self->base.library, sizeof self->base.library, "NCCL %s over %.36s", fb_nccl_link_gpu(self->link)->version,
             mpi->library);
    return mpi->rank == 0 ? fb_nccl_link_make_id(self->link, id) : FB_OK;
}

/* What the ranks' states make together; late once rank 0 has waited long enough for those that are not there. */
static fb_nccl_start judge_start(const nccl_comm *self, double end_s)
{
    fb_nccl_start common = FB_NCCL_STARTED;
    for (int rank = 0; rank < self->base.size; rank++) {
        if (self->words[rank] == FB_NCCL_FAILED)
            return FB_NCCL_FAILED;
        if (self->words[rank] == FB_NCCL_STARTING)
            common = fb_time_s() > end_s ? FB_NCCL_LATE : FB_NCCL_STARTING;
    }
    return common;
}

static fb_status exchange_states(nccl_comm *self, fb_nccl_start own, double end_s, fb_nccl_start *common)
{
    int64_t word = own;
    FB_TRY(fb_comm_gather(self->control, &word, (int64_t)sizeof word, self->words));
    if (self->base.rank == 0)
        word = judge_start(self, end_s);
    FB_TRY(fb_comm_broadcast(self->control, &word, (int64_t)sizeof word));
    *common = (fb_nccl_start)word;
    return FB_OK;
}

/* The ranks wait for the start of NCCL in step: that one fails there the others hear at once, over MPI, not only when
 * their patience ends. Takes and gives back ownership of status. */
static fb_status wait_start(nccl_comm *self, fb_status status)
{
    const double end_s = fb_time_s() + self->timeout_s;
    fb_nccl_start own = FB_NCCL_FAILED, common = FB_NCCL_STARTING;
    while (common == FB_NCCL_STARTING) {
        if (status == FB_OK)
            own = fb_nccl_link_poll(self->link, SLICE_S, &status);
        const fb_status exchanged = exchange_states(self, own, end_s, &common);
        if (exchanged != FB_OK)
            return fb_error_first(status, exchanged);
    }
    if (common == FB_NCCL_LATE && own == FB_NCCL_STARTING)
        return fb_nccl_link_give_up(self->link, "ncclCommInitRankConfig", NULL);
    return status;
}

static fb_status connect_ranks(nccl_comm *self, const uint8_t *id)
{
    const fb_status started = fb_nccl_link_start(self->link, id);
    return fb_status_agree(self->control, wait_start(self, started));
}

/* A pattern from rank 0 to all and back: what does not work is found before hours of training, not after. */
static fb_status prove_connection(nccl_comm *self)
{
    uint8_t pattern[CHECK_BYTES], bytes[CHECK_BYTES] = {0};
    const int root = self->base.rank == 0;
    for (int i = 0; i < CHECK_BYTES; i++)
        pattern[i] = (uint8_t)(i * 7 + (i >> 8) + 1);
    FB_TRY(broadcast_large(self, root ? pattern : bytes, CHECK_BYTES));
    int differs = !root && memcmp(bytes, pattern, CHECK_BYTES) != 0;
    for (int rank = 1; rank < self->base.size; rank++) {
        const fb_nccl_transfer out = {.call = FB_NCCL_SEND, .from = pattern, .size_bytes = CHECK_BYTES};
        const fb_nccl_transfer in = {.call = FB_NCCL_RECEIVE, .peer = rank, .to = bytes, .size_bytes = CHECK_BYTES};
        if (root || self->base.rank == rank)
            FB_TRY(fb_nccl_link_transfer(self->link, root ? &in : &out));
        differs |= root && memcmp(bytes, pattern, CHECK_BYTES) != 0;
    }
    return differs ? fb_nccl_link_give_up(self->link, "first transfer",
                                          "other bytes arrived than were sent: a faulty GPU, link, driver or library")
                   : FB_OK;
}

/* After an error that the ranks agreed on, which is the one to report: an orderly end needs all of them. */
static void drop(nccl_comm *self)
{
    if (self && self->link && fb_nccl_link_is_up(self->link)) {
        fb_status status = fb_nccl_link_give_up(self->link, "start", "another rank failed");
        fb_error_free(&status);
    }
    release(self);
}

fb_status fb_comm_nccl_create(fb_comm *mpi, int cuda_device, double timeout_s, fb_comm **out)
{
    nccl_comm *self = NULL;
    uint8_t id[FB_NCCL_ID_BYTES] = {0};
    fb_status status = fb_status_agree(mpi, prepare(mpi, cuda_device, timeout_s, &self, id));
    if (status == FB_OK)
        status = fb_comm_broadcast(mpi, id, FB_NCCL_ID_BYTES);
    if (status == FB_OK)
        status = connect_ranks(self, id);
    if (status == FB_OK && mpi->size > 1)
        status = fb_status_agree(mpi, prove_connection(self));
    if (status == FB_OK)
        *out = &self->base;
    else
        drop(self);
    return status;
}
