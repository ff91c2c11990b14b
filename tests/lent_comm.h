/* SPDX-License-Identifier: Apache-2.0
 *
 * MPI that outlives the communicators which are made on top of it and own it: to destroy a lent one is no end. */
#pragma once

#include "comm/comm_impl.h"
#include "core/mem.h"

#include <stdlib.h>

typedef struct lent_comm {
    fb_comm base;
    fb_comm *mpi; /* borrowed */
} lent_comm;

static fb_comm *mpi_of(fb_comm *comm)
{
    return ((lent_comm *)comm)->mpi;
}

static void lent_destroy(fb_comm *comm)
{
    FB_FREE(comm);
}

static void lent_abort(fb_comm *comm, int exit_code)
{
    fb_comm_abort(mpi_of(comm), exit_code);
}

static fb_status lent_broadcast(fb_comm *comm, void *buffer, int64_t size_bytes)
{
    return fb_comm_broadcast(mpi_of(comm), buffer, size_bytes);
}

static fb_status lent_gather(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out)
{
    return fb_comm_gather(mpi_of(comm), buffer, size_bytes, out);
}

static fb_status lent_send(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    return fb_comm_send(mpi_of(comm), bytes, size_bytes);
}

static fb_status lent_flush(fb_comm *comm)
{
    return fb_comm_flush(mpi_of(comm));
}

static fb_status lent_hand_over(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    return mpi_of(comm)->ops->hand_over(mpi_of(comm), bytes, size_bytes);
}

static fb_status lent_receive(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes)
{
    return fb_comm_receive(mpi_of(comm), bytes, size_bytes);
}

static fb_comm *lend(fb_comm *mpi)
{
    static const fb_comm_ops ops = {.name = "mpi",
                                    .destroy = lent_destroy,
                                    .abort = lent_abort,
                                    .broadcast = lent_broadcast,
                                    .gather = lent_gather,
                                    .send = lent_send,
                                    .flush = lent_flush,
                                    .receive = lent_receive,
                                    .hand_over = lent_hand_over};
    lent_comm *lent = NULL;
    if (FB_ALLOC(lent, 1, "test") != FB_OK)
        abort();
    lent->base = *mpi;
    lent->base.ops = &ops;
    lent->base.first = lent->base.last = NULL;
    lent->mpi = mpi;
    return &lent->base;
}
