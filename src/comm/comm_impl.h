/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to comm*.c: what a backend provides. A backend's object begins with fb_comm.
 */
#pragma once

#include "comm/comm.h"

typedef struct fb_comm_ops {
    const char *name;
    void (*destroy)(fb_comm *comm);
    void (*abort)(fb_comm *comm, int exit_code); /* does not return */
    fb_status (*broadcast)(fb_comm *comm, void *buffer, int64_t size_bytes);
    fb_status (*gather)(fb_comm *comm, const void *buffer, int64_t size_bytes, void *out);
    fb_status (*send)(fb_comm *comm, const void *bytes, int64_t size_bytes);
    fb_status (*flush)(fb_comm *comm);
    fb_status (*receive)(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes);
    /* MPI, for what goes on top of it: a message to rank 0 as by send, but it returns when rank 0 is about to take it
     */
    fb_status (*hand_over)(fb_comm *comm, const void *bytes, int64_t size_bytes);
} fb_comm_ops;

struct fb_comm {
    const fb_comm_ops *ops;
    int rank, size;
    int local_rank;                       /* among the ranks of this host */
    char library[64];                     /* name and version, "NCCL x over MPI y", "none" */
    struct fb_comm_message *first, *last; /* owned: what rank 0 sent to itself, in order */
};

/* The queue of rank 0's messages to itself. put copies the bytes, so such a send is delivered at once; take hands them
 * over and returns 0 when the queue is empty. */
fb_status fb_comm_queue_put(fb_comm *comm, const void *bytes, int64_t size_bytes) FB_MUST_USE;
int fb_comm_queue_take(fb_comm *comm, uint8_t **bytes, int64_t *size_bytes);
void fb_comm_queue_clear(fb_comm *comm);

/* This rank's GPU as the others have to know it; zeroed, so that records can be sent as they are. */
typedef struct fb_comm_gpu {
    char host[64];
    char
        machine[64]; /* the boot id where there is one: containers of one machine have other host names, but its GPUs */
    char pci[32];    /* bus id; MIG's parts of a GPU have the same one, and NCCL does not join them either */
    char version[16]; /* of NCCL */
    char problem[160];
} fb_comm_gpu;

/* Fills the record, and its problem when NCCL cannot use the device. Local. */
void fb_nccl_find_gpu(int cuda_device, fb_comm_gpu *gpu);
