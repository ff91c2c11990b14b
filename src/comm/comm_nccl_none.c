/* SPDX-License-Identifier: Apache-2.0
 *
 * Linked instead of comm_nccl.c and comm_nccl_link.c where NCCL was not found. */
#include "comm/comm_impl.h"

#include <stdio.h>
#include <unistd.h>

static const char *const absent = "this build has no NCCL; build with make NCCL=1 NCCL_HOME=... CUDA_HOME=...";

void fb_nccl_find_gpu(int cuda_device, fb_comm_gpu *gpu)
{
    (void)cuda_device;
    (void)gethostname(gpu->host, sizeof gpu->host - 1);
    snprintf(gpu->problem, sizeof gpu->problem, "%s", absent);
}

fb_status fb_comm_nccl_create(fb_comm *mpi, int cuda_device, double timeout_s, fb_comm **out)
{
    (void)mpi, (void)cuda_device, (void)timeout_s, (void)out;
    return FB_USAGE("%s", absent);
}

void fb_comm_nccl_describe(size_t chars, char *text)
{
    snprintf(text, chars, "none: %s", absent);
}
