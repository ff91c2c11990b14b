/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/comm.h"

#include "comm/comm_impl.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void fb_comm_destroy(fb_comm **comm)
{
    fb_progress_wait_begin();
    if (*comm)
        (*comm)->ops->destroy(*comm);
    fb_progress_wait_end();
    *comm = NULL;
}

_Noreturn void fb_comm_abort(fb_comm *comm, int exit_code)
{
    comm->ops->abort(comm, exit_code);
    abort(); /* a backend that returned */
}

int fb_comm_rank(const fb_comm *comm)
{
    return comm->rank;
}

int fb_comm_size(const fb_comm *comm)
{
    return comm->size;
}

int fb_comm_local_rank(const fb_comm *comm)
{
    return comm->local_rank;
}

const char *fb_comm_backend(const fb_comm *comm)
{
    return comm->ops->name;
}

const char *fb_comm_library(const fb_comm *comm)
{
    return comm->library;
}

/* --- what may wait for other ranks, and says so --- */

static fb_status waited(fb_status status)
{
    fb_progress_wait_end();
    return status;
}

fb_status fb_comm_broadcast(fb_comm *comm, void *buffer, int64_t size_bytes)
{
    fb_progress_wait_begin();
    return waited(comm->ops->broadcast(comm, buffer, size_bytes));
}

fb_status fb_comm_gather(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out)
{
    fb_progress_wait_begin();
    return waited(comm->ops->gather(comm, buffer, size_bytes, out));
}

static fb_status find_largest(fb_comm *comm, double *value, double *all)
{
    FB_TRY(fb_comm_gather(comm, value, sizeof *value, all));
    for (int rank = 0; all && rank < comm->size; rank++)
        *value = fmax(*value, all[rank]);
    return fb_comm_broadcast(comm, value, sizeof *value);
}

fb_status fb_comm_largest(fb_comm *comm, double *value)
{
    double *all = NULL; /* (size), rank 0 only */
    fb_status status =
        fb_status_agree(comm, comm->rank == 0 ? FB_ALLOC(all, comm->size, "values of the ranks") : FB_OK);
    if (status == FB_OK)
        status = find_largest(comm, value, all);
    FB_FREE(all);
    return status;
}

fb_status fb_comm_send(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    fb_progress_wait_begin();
    return waited(comm->ops->send(comm, bytes, size_bytes));
}

fb_status fb_comm_flush(fb_comm *comm)
{
    fb_progress_wait_begin();
    return waited(comm->ops->flush(comm));
}

fb_status fb_comm_receive(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes)
{
    FB_ASSERT(comm->rank == 0);
    fb_progress_wait_begin();
    return waited(comm->ops->receive(comm, bytes, size_bytes));
}

/* --- rank 0's messages to itself --- */

struct fb_comm_message {
    struct fb_comm_message *next;
    uint8_t *bytes; /* owned, (size_bytes) */
    int64_t size_bytes;
};

fb_status fb_comm_queue_put(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    struct fb_comm_message *message = NULL;
    FB_TRY(FB_ALLOC(message, 1, "message"));
    fb_status status = FB_ALLOC_RAW(message->bytes, size_bytes, "message");
    if (status != FB_OK) {
        FB_FREE(message);
        return status;
    }
    if (size_bytes > 0)
        memcpy(message->bytes, bytes, (size_t)size_bytes);
    message->size_bytes = size_bytes;
    if (comm->last)
        comm->last->next = message;
    else
        comm->first = message;
    comm->last = message;
    return FB_OK;
}

int fb_comm_queue_take(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes)
{
    struct fb_comm_message *message = comm->first;
    if (!message)
        return 0;
    comm->first = message->next;
    if (!comm->first)
        comm->last = NULL;
    *bytes = message->bytes;
    *size_bytes = message->size_bytes;
    FB_FREE(message);
    return 1;
}

void fb_comm_queue_clear(fb_comm *comm)
{
    uint8_t *bytes = NULL;
    int64_t size_bytes = 0;
    while (fb_comm_queue_take(comm, &bytes, &size_bytes))
        FB_FREE(bytes);
}

/* --- agreement --- */

fb_status fb_status_or_abort(fb_comm *comm, fb_status status)
{
    if (status != FB_OK && comm->size > 1) {
        fb_log_error("%s", fb_error_message(status));
        fb_comm_abort(comm, fb_error_exit_code(status));
    }
    return status;
}

typedef struct verdict {
    int64_t failed, rank, exit_code, chars;
} verdict;

/* A wish to stop must not hide a failure: the run would seem to be in order. */
static int severity(const verdict *one)
{
    return !one->failed ? 0 : one->exit_code == FB_EXIT_STOPPED ? 1 : 2;
}

/* Every rank's verdict to rank 0; the lowest failing rank's, or rank 0's pass, to all. */
static fb_status exchange_verdicts(fb_comm *comm, verdict *mine)
{
    verdict *all = NULL; /* (size), rank 0 only */
    if (comm->rank == 0)
        FB_TRY(FB_ALLOC(all, comm->size, "verdicts of the ranks"));
    fb_status status = fb_comm_gather(comm, mine, (int64_t)sizeof *mine, all);
    if (status == FB_OK && comm->rank == 0) {
        int lowest = 0;
        for (int rank = 1; rank < comm->size; rank++)
            if (severity(&all[rank]) > severity(&all[lowest]))
                lowest = rank;
        *mine = all[lowest];
    }
    FB_FREE(all);
    FB_TRY(status);
    return fb_comm_broadcast(comm, mine, (int64_t)sizeof *mine);
}

/* The message of rank `source` into text (chars + 1) on every rank. Only rank 0 can broadcast, so it fetches it first.
 */
static fb_status exchange_text(fb_comm *comm, int64_t source, int64_t chars, char *text)
{
    char *all = NULL; /* (size, chars), rank 0 only */
    if (comm->rank == 0)
        FB_TRY(FB_ALLOC(all, comm->size * chars, "messages of the ranks"));
    fb_status status = fb_comm_gather(comm, text, chars, all);
    if (status == FB_OK && comm->rank == 0)
        memcpy(text, all + source * chars, (size_t)chars);
    FB_FREE(all);
    FB_TRY(status);
    return fb_comm_broadcast(comm, text, chars);
}

/* *status becomes the common outcome; what is returned is a failure to find one. */
static fb_status agree(fb_comm *comm, fb_status *status)
{
    verdict common = {.failed = *status != FB_OK,
                      .rank = comm->rank,
                      .exit_code = fb_error_exit_code(*status),
                      .chars = (int64_t)strlen(fb_error_message(*status))};
    FB_TRY(exchange_verdicts(comm, &common));
    if (!common.failed)
        return FB_OK;
    char *text = NULL; /* (chars + 1) */
    FB_TRY(FB_ALLOC(text, common.chars + 1, "message of a failed rank"));
    if (common.rank == comm->rank)
        memcpy(text, fb_error_message(*status), (size_t)common.chars);
    fb_status failure = exchange_text(comm, common.rank, common.chars, text);
    if (failure == FB_OK) {
        fb_error_free(status);
        *status = fb_error_make((int)common.exit_code, "rank %d: %s", (int)common.rank, text);
    }
    FB_FREE(text);
    return failure;
}

fb_status fb_status_agree(fb_comm *comm, fb_status status)
{
    if (comm->size == 1)
        return status;
    fb_status failure = agree(comm, &status);
    if (failure != FB_OK) {
        /* The others may be inside a collective that this rank will never reach: nothing orderly is left to do. */
        fb_log_error("the ranks could not agree on an outcome: %s", fb_error_message(failure));
        if (status != FB_OK)
            fb_log_error("%s", fb_error_message(status));
        fb_comm_abort(comm, FB_EXIT_FAILED);
    }
    return status;
}
