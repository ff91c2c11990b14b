/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of the CUDA runtime that fake_nccl.h stands in for; a part of it. */
#pragma once

cudaError_t cudaSetDevice(int device)
{
    if (fake_enters("cudaSetDevice"))
        return cudaErrorNoDevice;
    fake.device = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *bus_id, int chars, int device)
{
    if (fake_enters("cudaDeviceGetPCIBusId"))
        return cudaErrorNoDevice;
    snprintf(bus_id, (size_t)chars, "0000:%02X:00.0", 0x3b + device + (fake.shares_gpu ? 0 : fake_rank()));
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "a fake CUDA error";
}

cudaError_t cudaHostAlloc(void **host, size_t bytes, unsigned int flags)
{
    (void)flags;
    return fake_enters("cudaHostAlloc") ? cudaErrorMemoryAllocation : fake_allocate(host, bytes, 0);
}

cudaError_t cudaFreeHost(void *host)
{
    return fake_release(host, 0);
}

cudaError_t cudaMalloc(void **device, size_t bytes)
{
    return fake_enters("cudaMalloc") ? cudaErrorMemoryAllocation : fake_allocate(device, bytes, 1);
}

cudaError_t cudaFree(void *device)
{
    return fake_release(device, 1);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    if (fake_enters("cudaStreamCreateWithFlags"))
        return cudaErrorMemoryAllocation;
    FAKE_REQUIRE(flags == cudaStreamNonBlocking && fake.device >= 0);
    for (int i = 0; i < FAKE_STREAMS; i++)
        if (!fake.streams[i]) {
            *stream = fake.streams[i] = calloc(1, sizeof **stream);
            fake.live_streams++;
            return cudaSuccess;
        }
    abort();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    for (int i = 0; i < FAKE_STREAMS; i++)
        if (fake.streams[i] == stream)
            fake.streams[i] = NULL;
    free(stream);
    fake.live_streams--;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    (void)flags;
    if (fake_enters("cudaStreamWaitEvent"))
        return cudaErrorIllegalAddress;
    fake_enqueue(stream, &(fake_op){.kind = FAKE_WAIT, .event = event, .ticket = event->recorded});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    (void)flags;
    if (fake_enters("cudaEventCreateWithFlags"))
        return cudaErrorMemoryAllocation;
    *event = calloc(1, sizeof **event);
    fake.live_events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    fake.live_events--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (fake_enters("cudaEventRecord"))
        return cudaErrorIllegalAddress;
    event->recorded = ++fake.tickets;
    fake_enqueue(stream, &(fake_op){.kind = FAKE_RECORD, .event = event, .ticket = event->recorded});
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    if (fake_enters("cudaEventQuery"))
        return cudaErrorIllegalAddress;
    fake_tick();
    return event->done >= event->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    const int in = kind == cudaMemcpyHostToDevice;
    if (fake_enters("cudaMemcpyAsync"))
        return cudaErrorIllegalAddress;
    FAKE_REQUIRE(in || kind == cudaMemcpyDeviceToHost);
    FAKE_REQUIRE(fake_is(to, bytes, in) && fake_is(from, bytes, !in));
    const fake_op op = {.kind = in ? FAKE_COPY_IN : FAKE_COPY_OUT,
                        .device = (uint8_t *)(uintptr_t)(in ? to : from),
                        .host = (uint8_t *)(uintptr_t)(in ? from : to),
                        .bytes = bytes};
    fake_enqueue(stream, &op);
    return cudaSuccess;
}
