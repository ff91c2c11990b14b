/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn_stub.h beside the emulated GPU (tests/emulator): the stub's plans are queued on its streams, may be captured,
 * and take the time that their engines state. One program includes this file once.
 */
#pragma once

#include "arrays.h"
#include "cudnn_stub.h"

int64_t fb_emulator_live_blocks(void);
void fb_emulator_fail_after(int64_t calls);
void fb_emulator_kernel_ms(int64_t ms);

/* --- the stub's plans run when the stream comes to them ------------------------------------------------------------
 */

enum { JOBS_MAX = 1 << 16 };
static stub_job *jobs[JOBS_MAX]; /* a recording may run them again */
static int job_count;

static void compute_job(void *job)
{
    stub_compute(job);
}

static void pass_time(void *unused)
{
    (void)unused;
}

static cudnnStatus_t stub_submit(stub_job *job, cudaStream_t stream)
{
    assert_true(job_count < JOBS_MAX);
    jobs[job_count++] = job;
    cudaError_t error = cudaLaunchHostFunc(stream, compute_job, job);
    for (int ms = 1; ms < (int)stub_engine_of(job->engine)->ms && error == cudaSuccess; ms++)
        error = cudaLaunchHostFunc(stream, pass_time, NULL);
    return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER;
}

static void begin(int64_t kernel_ms)
{
    stub = (stub_state){.version = 91900, .failing_engine = -1};
    fb_emulator_kernel_ms(kernel_ms);
}

/* Nothing of cuDNN's or of the device is left and nothing was misused. */
static void end(void)
{
    assert_string_equal(stub.complaint, "");
    assert_int_equal(stub.descriptors, 0);
    assert_int_equal(stub.memory, 0);
    assert_int_equal(stub.handles, 0);
    assert_int_equal(fb_emulator_live_blocks(), 0);
    while (job_count > 0)
        free(jobs[--job_count]);
}
