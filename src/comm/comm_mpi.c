/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/comm_impl.h"
#include "core/mem.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_TAG = 1 };

typedef struct mpi_comm {
    fb_comm base;
    MPI_Comm world;        /* our duplicate of MPI_COMM_WORLD, which returns errors instead of aborting */
    MPI_Request *requests; /* owned, (request_count): sends not yet flushed */
    int request_count;
} mpi_comm;

static mpi_comm *as_mpi(fb_comm *comm)
{
    return (mpi_comm *)comm;
}

static fb_status check(int code, const char *what)
{
    if (code == MPI_SUCCESS)
        return FB_OK;
    char text[MPI_MAX_ERROR_STRING];
    int chars = 0;
    if (MPI_Error_string(code, text, &chars) != MPI_SUCCESS)
        return FB_FAIL("%s: MPI error %d", what, code);
    return FB_FAIL("%s: %s", what, text);
}

/* MPI counts are int. The largest message is a dense model, 75 MB at 32 filters: refusing more is enough. */
static fb_status count_of(int64_t size_bytes, const char *what, int *count)
{
    if (size_bytes < 0 || size_bytes > INT_MAX)
        return FB_FAIL("%s: %lld bytes exceed MPI's limit of %d bytes for one message", what, (long long)size_bytes,
                       INT_MAX);
    *count = (int)size_bytes;
    return FB_OK;
}

static void mpi_destroy(fb_comm *comm)
{
    mpi_comm *self = as_mpi(comm);
    /* Left over only after an error: rank 0 will not ask for these messages any more. */
    for (int i = 0; i < self->request_count; i++)
        (void)MPI_Request_free(&self->requests[i]);
    FB_FREE(self->requests);
    fb_comm_queue_clear(comm);
    if (self->world != MPI_COMM_NULL)
        (void)MPI_Comm_free(&self->world);
    FB_FREE(self);
    (void)MPI_Finalize();
}

static void mpi_abort(fb_comm *comm, int exit_code)
{
    (void)MPI_Abort(as_mpi(comm)->world, exit_code);
    exit(exit_code);
}

static fb_status mpi_broadcast(fb_comm *comm, void *buffer, int64_t size_bytes)
{
    int count = 0;
    FB_TRY(count_of(size_bytes, "broadcast", &count));
    return check(MPI_Bcast(buffer, count, MPI_BYTE, 0, as_mpi(comm)->world), "broadcast");
}

static fb_status mpi_gather(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out)
{
    int count = 0;
    FB_TRY(count_of(size_bytes, "gather", &count));
    return check(MPI_Gather(buffer, count, MPI_BYTE, out, count, MPI_BYTE, 0, as_mpi(comm)->world), "gather");
}

static fb_status mpi_send(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    mpi_comm *self = as_mpi(comm);
    int count = 0;
    FB_TRY(count_of(size_bytes, "send to rank 0", &count));
    if (comm->rank == 0)
        return fb_comm_queue_put(comm, bytes, size_bytes);
    FB_TRY(fb_mem_resize(&self->requests, self->request_count + 1, sizeof *self->requests, "pending sends"));
    FB_TRY(check(MPI_Isend(bytes, count, MPI_BYTE, 0, MESSAGE_TAG, self->world, &self->requests[self->request_count]),
                 "send to rank 0"));
    self->request_count++;
    return FB_OK;
}

static fb_status mpi_flush(fb_comm *comm)
{
    mpi_comm *self = as_mpi(comm);
    fb_status status = FB_OK;
    for (int i = 0; i < self->request_count; i++) {
        const int code = MPI_Wait(&self->requests[i], MPI_STATUS_IGNORE);
        status = fb_error_first(status, check(code, "send to rank 0"));
    }
    self->request_count = 0;
    return status;
}

static fb_status mpi_hand_over(fb_comm *comm, const void *bytes, int64_t size_bytes)
{
    int count = 0;
    FB_TRY(count_of(size_bytes, "send to rank 0", &count));
    return check(MPI_Ssend(bytes, count, MPI_BYTE, 0, MESSAGE_TAG, as_mpi(comm)->world), "send to rank 0");
}

static fb_status mpi_receive(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes)
{
    mpi_comm *self = as_mpi(comm);
    if (fb_comm_queue_take(comm, bytes, size_bytes))
        return FB_OK;
    if (comm->size == 1)
        return FB_FAIL("receive: the only rank has sent itself no message; it would wait for ever");
    MPI_Message message;
    MPI_Status envelope;
    int count = 0;
    FB_TRY(check(MPI_Mprobe(MPI_ANY_SOURCE, MESSAGE_TAG, self->world, &message, &envelope), "receive"));
    FB_TRY(check(MPI_Get_count(&envelope, MPI_BYTE, &count), "receive"));
    uint8_t *buffer = NULL; /* (count) */
    FB_TRY(FB_ALLOC_RAW(buffer, count, "received message"));
    const int code = MPI_Mrecv(buffer, count, MPI_BYTE, &message, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS) {
        FB_FREE(buffer);
        return fb_error_context(check(code, "receive"), "from rank %d", envelope.MPI_SOURCE);
    }
    *bytes = buffer;
    *size_bytes = count;
    return FB_OK;
}

/* "Open MPI v4.1.4": what stands before the first comma of the library's own text. */
static void take_library_name(char *name, size_t chars)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "unknown";
    int length = 0;
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] = '\0';
    snprintf(name, chars, "%.*s", (int)chars - 1, text);
}

/* Launchers disagree on the variables that would say so: mpirun over two hosts leaves SLURM_LOCALID 0 everywhere. */
static fb_status find_local_rank(mpi_comm *self)
{
    MPI_Comm host = MPI_COMM_NULL;
    FB_TRY(check(MPI_Comm_split_type(self->world, MPI_COMM_TYPE_SHARED, self->base.rank, MPI_INFO_NULL, &host),
                 "MPI_Comm_split_type"));
    const fb_status status = check(MPI_Comm_rank(host, &self->base.local_rank), "MPI_Comm_rank");
    (void)MPI_Comm_free(&host);
    return status;
}

static fb_status start(mpi_comm *self)
{
    int provided = MPI_THREAD_SINGLE;
    FB_TRY(check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread"));
    if (provided < MPI_THREAD_FUNNELED)
        return FB_FAIL("MPI gives thread level %d, but OpenMP threads beside it need MPI_THREAD_FUNNELED (%d); use an "
                       "MPI built with threads",
                       provided, MPI_THREAD_FUNNELED);
    FB_TRY(check(MPI_Comm_dup(MPI_COMM_WORLD, &self->world), "MPI_Comm_dup"));
    FB_TRY(check(MPI_Comm_set_errhandler(self->world, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    take_library_name(self->base.library, sizeof self->base.library);
    FB_TRY(check(MPI_Comm_rank(self->world, &self->base.rank), "MPI_Comm_rank"));
    FB_TRY(check(MPI_Comm_size(self->world, &self->base.size), "MPI_Comm_size"));
    return find_local_rank(self);
}

fb_status fb_comm_mpi_create(fb_comm **out)
{
    static const fb_comm_ops ops = {.name = "mpi",
                                    .destroy = mpi_destroy,
                                    .abort = mpi_abort,
                                    .broadcast = mpi_broadcast,
                                    .gather = mpi_gather,
                                    .send = mpi_send,
                                    .flush = mpi_flush,
                                    .receive = mpi_receive,
                                    .hand_over = mpi_hand_over};
    mpi_comm *self = NULL;
    FB_TRY(FB_ALLOC(self, 1, "communicator"));
    self->base.ops = &ops;
    self->world = MPI_COMM_NULL;
    fb_status status = start(self);
    if (status != FB_OK) {
        mpi_destroy(&self->base);
        return status;
    }
    *out = &self->base;
    return FB_OK;
}

/* Under Slurm a batch script and an interactive step (whose numbers begin at 0xfffffff0) are no launch; a step is, also
 * one of a single task and one that srun started without PMI: MPI_Init then says what is wrong, instead of as many
 * separate simulations as there are tasks. */
static int is_slurm_step(void)
{
    const char *step = getenv("SLURM_STEP_ID");
    return step && getenv("SLURM_PROCID") && strtoull(step, NULL, 10) < 0xfffffff0u;
}

int fb_comm_mpi_launched(void)
{
    /* Open MPI's mpirun; PMIx (prterun, srun --mpi=pmix); PMI-1 and PMI-2 (MPICH, srun) */
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return 1;
    return is_slurm_step();
}
