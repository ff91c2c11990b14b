/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/comm_impl.h"
#include "core/mem.h"

#include <stdlib.h>
#include <string.h>

static void self_destroy(fb_comm *comm)
{
    fb_comm_queue_clear(comm);
    FB_FREE(comm);
}

static void self_abort(fb_comm *comm, int exit_code)
{
    (void)comm;
    exit(exit_code);
}

static fb_status self_broadcast(fb_comm *comm, void *buffer, int64_t size_bytes)
{
    (void)comm, (void)buffer, (void)size_bytes;
    return FB_OK;
}

static fb_status self_gather(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out)
{
    (void)comm;
    if (size_bytes > 0)
        memcpy(out, buffer, (size_t)size_bytes);
    return FB_OK;
}

static fb_status self_flush(fb_comm *comm)
{
    (void)comm;
    return FB_OK;
}

static fb_status self_receive(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes)
{
    if (!fb_comm_queue_take(comm, bytes, size_bytes))
        return FB_FAIL("receive: this single process has sent itself no message; it would wait for ever");
    return FB_OK;
}

fb_status fb_comm_self_create(fb_comm **out)
{
    static const fb_comm_ops ops = {.name = "self",
                                    .destroy = self_destroy,
                                    .abort = self_abort,
                                    .broadcast = self_broadcast,
                                    .gather = self_gather,
                                    .send = fb_comm_queue_put,
                                    .flush = self_flush,
                                    .receive = self_receive};
    fb_comm *comm = NULL;
    FB_TRY(FB_ALLOC(comm, 1, "communicator"));
    *comm = (fb_comm){.ops = &ops, .rank = 0, .size = 1, .library = "none"};
    *out = comm;
    return FB_OK;
}
