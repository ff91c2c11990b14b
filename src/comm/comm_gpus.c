/* SPDX-License-Identifier: Apache-2.0
 *
 * Which GPUs the ranks have, and whether NCCL can join them; without a line of NCCL, so that ranks of builds with and
 * without it understand each other. */
#include "comm/comm_impl.h"
#include "core/log.h"
#include "core/mem.h"

#include <stdio.h>
#include <string.h>

static int is_same_gpu(const fb_comm_gpu *a, const fb_comm_gpu *b)
{
    return strcmp(a->machine, b->machine) == 0 && strcmp(a->pci, b->pci) == 0;
}

/* The first pair of ranks on one GPU; 0 when there is none. */
static int find_sharing(const fb_comm_gpu *all, int size, int pair[2])
{
    for (int a = 0; a < size; a++)
        for (int b = a + 1; b < size; b++)
            if (is_same_gpu(&all[a], &all[b])) {
                pair[0] = a;
                pair[1] = b;
                return 1;
            }
    return 0;
}

/* Why NCCL cannot join these ranks; empty when it can. */
static void find_obstacle(const fb_comm_gpu *all, int size, char reason[FB_COMM_REASON_CHARS])
{
    int pair[2];
    for (int rank = 0; rank < size; rank++)
        if (all[rank].problem[0]) {
            snprintf(reason, FB_COMM_REASON_CHARS, "rank %d on %s: %s", rank, all[rank].host, all[rank].problem);
            return;
        }
    for (int rank = 1; rank < size; rank++)
        if (strcmp(all[rank].version, all[0].version) != 0) {
            snprintf(reason, FB_COMM_REASON_CHARS,
                     "rank %d on %s has NCCL %s, rank 0 on %s has %s; use one library on every node", rank,
                     all[rank].host, all[rank].version, all[0].host, all[0].version);
            return;
        }
    if (find_sharing(all, size, pair))
        snprintf(reason, FB_COMM_REASON_CHARS,
                 "ranks %d and %d share the GPU %s of %s, but NCCL needs one for each rank; start a rank per GPU (a "
                 "rank can play several hospitals) and give each its own",
                 pair[0], pair[1], all[pair[0]].pci, all[pair[0]].host);
}

fb_status fb_comm_nccl_possible(fb_comm *comm, int cuda_device, int *possible, char reason[FB_COMM_REASON_CHARS])
{
    fb_comm_gpu own, *all = NULL; /* (size), rank 0 only */
    memset(&own, 0, sizeof own);
    memset(reason, 0, FB_COMM_REASON_CHARS);
    fb_nccl_find_gpu(cuda_device, &own);
    fb_status status = comm->rank == 0 ? FB_ALLOC(all, comm->size, "GPUs of the ranks") : FB_OK;
    status = fb_status_agree(comm, status);
    if (status == FB_OK)
        status = fb_comm_gather(comm, &own, (int64_t)sizeof own, all);
    if (status == FB_OK && comm->rank == 0)
        find_obstacle(all, comm->size, reason);
    FB_FREE(all);
    FB_TRY(status);
    FB_TRY(fb_comm_broadcast(comm, reason, FB_COMM_REASON_CHARS));
    *possible = reason[0] == '\0';
    return FB_OK;
}

fb_status fb_comm_use_nccl(fb_comm **comm, int required, int cuda_device, double timeout_s)
{
    int possible = 0;
    char reason[FB_COMM_REASON_CHARS];
    fb_comm *layered = NULL;
    FB_TRY(fb_comm_nccl_possible(*comm, cuda_device, &possible, reason));
    if (!possible && required)
        return FB_USAGE("comm.backend = nccl: %s; or use comm.backend = auto or mpi", reason);
    if (!possible) {
        /* without a GPU nobody expects it */
        (cuda_device < 0 ? fb_log_verbose : fb_log_info)("communication: %s; no NCCL: %s", (*comm)->library, reason);
        return FB_OK;
    }
    fb_status status = fb_comm_nccl_create(*comm, cuda_device, timeout_s, &layered);
    if (status != FB_OK && !required) {
        if ((*comm)->rank == 0) /* the ranks agreed on it */
            fb_log_warn("communication: %s alone: %s", (*comm)->library, fb_error_message(status));
        fb_error_free(&status);
        return FB_OK;
    }
    FB_TRY(status);
    *comm = layered;
    fb_log_info("communication: %s", layered->library);
    return FB_OK;
}
