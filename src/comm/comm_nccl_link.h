/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to comm_nccl.c: a NCCL communicator and the buffers of its transfers, without a type of NCCL or CUDA.
 * Nothing here waits longer than timeout_s without progress: what fails
 * or stands still is aborted, and the error names machine, GPU, call and NCCL's own words; the rank is named by
 * who prints it (log, fb_status_agree).
 */
#pragma once

#include "comm/comm_impl.h"

enum { FB_NCCL_ID_BYTES = 128 };

typedef struct fb_nccl_link fb_nccl_link;

typedef enum fb_nccl_call { FB_NCCL_BROADCAST, FB_NCCL_SEND, FB_NCCL_RECEIVE } fb_nccl_call;

typedef struct fb_nccl_transfer {
    fb_nccl_call call;
    int peer;            /* the rank at the other end; of a broadcast 0 */
    const uint8_t *from; /* (size_bytes) to go out, host memory, or NULL */
    uint8_t *to;         /* (size_bytes) to come in, host memory, or NULL */
    int64_t size_bytes;
} fb_nccl_transfer;

typedef enum fb_nccl_start { FB_NCCL_STARTING, FB_NCCL_STARTED, FB_NCCL_FAILED, FB_NCCL_LATE } fb_nccl_start;

/* All that needs no other rank: streams, page-locked and device buffers. */
fb_status fb_nccl_link_create(int rank, int size, int cuda_device, double timeout_s, fb_nccl_link **out) FB_MUST_USE;

/* On rank 0, for the others. */
fb_status fb_nccl_link_make_id(fb_nccl_link *link, uint8_t id[FB_NCCL_ID_BYTES]) FB_MUST_USE;

/* Begins to connect the ranks and returns at once. poll looks after it for up to slice_s seconds; with FB_NCCL_FAILED
 * it sets *status. */
fb_status fb_nccl_link_start(fb_nccl_link *link, const uint8_t id[FB_NCCL_ID_BYTES]) FB_MUST_USE;
fb_nccl_start fb_nccl_link_poll(fb_nccl_link *link, double slice_s, fb_status *status);

/* Moves the bytes and waits for them. Every rank of a broadcast, both of a send and a receive call it. */
fb_status fb_nccl_link_transfer(fb_nccl_link *link, const fb_nccl_transfer *transfer) FB_MUST_USE;

int fb_nccl_link_is_up(const fb_nccl_link *link); /* 0 after an error: it can only be destroyed */
const fb_comm_gpu *fb_nccl_link_gpu(const fb_nccl_link *link);

/* Aborts the communicator and makes the error; `call` says during what, `why` NULL: it was late. */
fb_status fb_nccl_link_give_up(fb_nccl_link *link, const char *call, const char *why) FB_MUST_USE;

void fb_nccl_link_destroy(fb_nccl_link **link);
