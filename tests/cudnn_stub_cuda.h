/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA runtime for cudnn_stub.h, where there is not even an emulated GPU: plans compute at once.
 */
#pragma once

#include "cudnn_stub.h"

static cudnnStatus_t stub_submit(stub_job *job, cudaStream_t stream)
{
    (void)stream;
    stub_compute(job);
    free(job);
    return CUDNN_STATUS_SUCCESS;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess ? "no error" : "injected failure";
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    if (flags != cudaEventDefault)
        stub_wrong(CUDNN_STATUS_BAD_PARAM, "an event that keeps no time");
    if (stub_injected("cudaEventCreateWithFlags"))
        return cudaErrorMemoryAllocation;
    *event = malloc(1);
    stub.events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    stub.events--;
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (!event || stream != stub.stream)
        stub_wrong(CUDNN_STATUS_BAD_PARAM_STREAM_MISMATCH, "an event on another stream");
    return stub_injected("cudaEventRecord") ? cudaErrorLaunchFailure : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    (void)event;
    return stub_injected("cudaEventSynchronize") ? cudaErrorLaunchFailure : cudaSuccess;
}

/* The engine's time; every third one is an outlier, which a median does not see and a mean does. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop)
{
    (void)start;
    (void)stop;
    *ms = stub_engine_of(stub.ran_engine)->ms + (stub.runs % 3 == 0 ? 100.0F / (float)(1 + stub.ran_engine) : 0.0F);
    return stub_injected("cudaEventElapsedTime") ? cudaErrorLaunchFailure : cudaSuccess;
}
