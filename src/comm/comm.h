/* SPDX-License-Identifier: Apache-2.0
 *
 * Communication between the ranks, as one table per backend: comm_self (one process, no library), comm_mpi, and
 * comm_nccl, which takes what is large off MPI. "Collective": every rank calls it, in the same order. Messages to the
 * server arrive in any order. The same bytes arrive with every backend.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef struct fb_comm fb_comm;

/* One process: rank 0 of 1. */
fb_status fb_comm_self_create(fb_comm **out) FB_MUST_USE;

/* MPI: initialises it (MPI_Init_thread, FUNNELED) and takes a duplicate of MPI_COMM_WORLD. Collective over the job.
 * fb_comm_destroy finalises it. */
fb_status fb_comm_mpi_create(fb_comm **out) FB_MUST_USE;

/* 1 when a launcher (mpirun, srun, PMIx) started this process, so that MPI is wanted. */
int fb_comm_mpi_launched(void);

enum { FB_COMM_REASON_CHARS = 384 };

/* Whether NCCL can connect the ranks of `comm`: each on a GPU of its own, compared by machine and PCI bus id, with the
 * same, recent enough library. Otherwise *possible is 0 and `reason` says on every rank why not, naming the ranks.
 * cuda_device: this rank's CUDA ordinal, negative when it has none. Collective. Errors: of comm itself. */
fb_status fb_comm_nccl_possible(fb_comm *comm, int cuda_device, int *possible,
                                char reason[FB_COMM_REASON_CHARS]) FB_MUST_USE;

/* NCCL between ranks that each have a GPU: large broadcasts and messages go through it, staged from host memory by way
 * of page-locked buffers, all the rest through `mpi`. *out owns `mpi`; on error, which all ranks agree on, the caller
 * keeps it, and it works. Connects all ranks and proves it with a few bytes. Nothing waits longer than timeout_s
 * without progress: an operation that fails or stands still is aborted, the error names machine, GPU and call,
 * and the communicator can only be destroyed. The device becomes the calling thread's current one. Collective.
 *
 * There is no form for buffers in device memory: the server sums on the host and every rank hashes the model there, so
 * that each byte is needed in host memory anyway, and a copy of a model takes a millisecond of a round. */
fb_status fb_comm_nccl_create(fb_comm *mpi, int cuda_device, double timeout_s, fb_comm **out) FB_MUST_USE;

/* "2.28.9", or why this build has none. */
void fb_comm_nccl_describe(size_t chars, char *text);

/* Puts NCCL on top of *comm where that is possible, and says so in the log, or why not. With `required` that is a usage
 * error; otherwise *comm stays as it is. Arguments as above. Collective. */
fb_status fb_comm_use_nccl(fb_comm **comm, int required, int cuda_device, double timeout_s) FB_MUST_USE;

void fb_comm_destroy(fb_comm **comm); /* collective */

/* Ends every rank at once with this exit code; for errors that other ranks cannot learn of in order. */
_Noreturn void fb_comm_abort(fb_comm *comm, int exit_code);

int fb_comm_rank(const fb_comm *comm);
int fb_comm_size(const fb_comm *comm);
int fb_comm_local_rank(const fb_comm *comm);      /* among the ranks of this host, from 0 */
const char *fb_comm_backend(const fb_comm *comm); /* "self", "mpi", "nccl" */
const char *fb_comm_library(const fb_comm *comm); /* name and version of the library, "none" */

/* Rank 0's buffer to all. Collective. */
fb_status fb_comm_broadcast(fb_comm *comm, void *buffer, int64_t size_bytes) FB_MUST_USE;

/* `size_bytes` from every rank, in rank order, into out (size * size_bytes) on rank 0 (NULL elsewhere). Collective. */
fb_status fb_comm_gather(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out) FB_MUST_USE;

/* *value becomes the largest of the ranks' values. Collective. */
fb_status fb_comm_largest(fb_comm *comm, double *value) FB_MUST_USE;

/* A message of any size to rank 0; the buffer must stay unchanged until fb_comm_flush. Rank 0 may send to itself. A
 * message may travel in the flush only, so a rank that sent flushes before its next collective. */
fb_status fb_comm_send(fb_comm *comm, const void *bytes, int64_t size_bytes) FB_MUST_USE;
fb_status fb_comm_flush(fb_comm *comm) FB_MUST_USE; /* waits until all sends of this rank are delivered */

/* Rank 0: the next message, from whichever rank it comes first. *bytes is owned by the caller. */
fb_status fb_comm_receive(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes) FB_MUST_USE;

/* Turns one rank's failure into everyone's, so that no rank waits for one that gave up: FB_OK when all ranks passed
 * FB_OK; otherwise, on every rank, the error of the lowest failing rank with the rank named; one that only stops on
 * request (FB_EXIT_STOPPED) counts when no other failed. Takes ownership of status.
 * Collective: call it before any other collective that some rank may have failed to reach. */
fb_status fb_status_agree(fb_comm *comm, fb_status status) FB_MUST_USE;

/* For what can fail while other ranks already wait in a collective or for a message, where no agreement is possible:
 * prints the error and ends the job. With a single rank the error is returned instead. Takes and gives back ownership.
 */
fb_status fb_status_or_abort(fb_comm *comm, fb_status status) FB_MUST_USE;
