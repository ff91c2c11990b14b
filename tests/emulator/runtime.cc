/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory, streams, recordings and devices of the emulated GPU. See cuda_runtime.h.
 */
#include "emulator.h"

#include <algorithm>
#include <deque>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

/* --- device memory -------------------------------------------------------------------------------- */

/* One range of addresses, which only running work may touch. */
static const size_t SPACE_BYTES = (size_t)64 << 30, PAGE = 4096;
static char *space;
static size_t space_used;
static std::map<char *, size_t> blocks; /* begin -> bytes */
static int64_t limit_bytes = (int64_t)4 << 30, used_bytes, fail_after = -1, launches;
static cudaError_t last_error = cudaSuccess;
static bool failed_since_capture;
static int current_device, open_count;

static cudaError_t fail(cudaError_t error)
{
    if (error != cudaSuccess) {
        last_error = error;
        failed_since_capture = true;
    }
    return error;
}

static bool is_chosen_to_fail(void)
{
    return fail_after >= 0 && fail_after-- == 0;
}

#define MAY_FAIL()                                                                                                     \
    do {                                                                                                               \
        if (is_chosen_to_fail())                                                                                       \
            return fail(cudaErrorUnknown);                                                                             \
    } while (0)

static size_t round_up(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static void finish_all(void); /* does all queued work */

/* Allocations lie at the ends of their pages, 256 bytes aligned where they can be, and a page is left after each. */
static void protect_all(int protection)
{
    for (const auto &block : blocks) {
        char *first = (char *)((uintptr_t)block.first / PAGE * PAGE);
        if (mprotect(first, (size_t)(block.first + round_up(block.second) - first) / PAGE * PAGE, protection) != 0)
            fb_emulator_give_up("mprotect failed");
    }
}

/* While an object of this lives, device memory can be touched. */
struct unlocked {
    unlocked()
    {
        if (open_count++ == 0)
            protect_all(PROT_READ | PROT_WRITE);
    }
    ~unlocked()
    {
        if (--open_count == 0)
            protect_all(PROT_NONE);
    }
};

bool fb_emulator_is_device(const void *memory)
{
    return space && (const char *)memory >= space && (const char *)memory < space + SPACE_BYTES;
}

/* Ends the program when a copy leaves the block it begins in. */
static void check_range(const void *memory, size_t bytes, bool device, const char *what)
{
    if (fb_emulator_is_device(memory) != device)
        fb_emulator_give_up(device ? "a copy's device side is host memory" : "a copy's host side is device memory");
    if (!device || bytes == 0)
        return;
    auto after = blocks.upper_bound((char *)memory);
    if (after == blocks.begin())
        fb_emulator_give_up(what);
    --after;
    if ((char *)memory + bytes > after->first + after->second)
        fb_emulator_give_up(what);
}

extern "C" cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    MAY_FAIL();
    if (bytes == 0) {
        *memory = nullptr;
        return cudaSuccess;
    }
    if (used_bytes + (int64_t)bytes > limit_bytes)
        return fail(cudaErrorMemoryAllocation);
    if (!space) {
        void *range = mmap(nullptr, SPACE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED)
            fb_emulator_give_up("no address space");
        space = (char *)range;
    }
    const size_t pages = round_up(bytes);
    if (space_used + pages + PAGE > SPACE_BYTES)
        fb_emulator_give_up("device address space is used up: addresses are not given twice");
    char *first = space + space_used, *begin = first + (pages - bytes) / 256 * 256;
    if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0)
        fb_emulator_give_up("mprotect failed");
    memset(first, 0xff, pages);
    if (open_count == 0 && mprotect(first, pages, PROT_NONE) != 0)
        fb_emulator_give_up("mprotect failed");
    space_used += pages + PAGE;
    blocks[begin] = bytes;
    used_bytes += (int64_t)bytes;
    *memory = begin;
    return cudaSuccess;
}

extern "C" cudaError_t cudaFree(void *memory)
{
    if (!memory)
        return cudaSuccess;
    auto block = blocks.find((char *)memory);
    if (block == blocks.end())
        fb_emulator_give_up("cudaFree of what cudaMalloc did not give");
    finish_all(); /* as the real one waits */
    const size_t pages = round_up(block->second);
    char *first = (char *)((uintptr_t)memory / PAGE * PAGE);
    used_bytes -= (int64_t)block->second;
    blocks.erase(block);
    if (mprotect(first, pages, PROT_NONE) != 0 || madvise(first, pages, MADV_DONTNEED) != 0)
        fb_emulator_give_up("the pages of freed memory cannot be given back");
    return cudaSuccess;
}

/* Page-locked memory. Copies from other memory are made as late, since CUDA does not promise that they are not. */
static std::map<const char *, size_t> pinned;

static bool is_pinned(const void *memory)
{
    auto after = pinned.upper_bound((const char *)memory);
    return after != pinned.begin() && (const char *)memory < (--after)->first + after->second;
}

extern "C" cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    MAY_FAIL();
    *memory = malloc(bytes);
    if (!*memory)
        return fail(cudaErrorMemoryAllocation);
    pinned[(const char *)*memory] = bytes;
    return cudaSuccess;
}

extern "C" cudaError_t cudaFreeHost(void *memory)
{
    finish_all();
    pinned.erase((const char *)memory);
    free(memory);
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = (size_t)(limit_bytes - used_bytes);
    *total_bytes = (size_t)limit_bytes;
    return cudaSuccess;
}

/* --- streams: work is done when somebody waits ------------------------------------------------------- */

struct fb_emulated_graph {
    std::vector<std::function<void()>> work;
    int64_t launches = 0;
};

/* An event counts its recordings: a wait is for those that were queued before it. */
struct fb_emulated_event {
    int64_t queued = 0, reached = 0, ms = 0;
};

/* What a stream does next: some work, or the recording of an event, or a wait until one was recorded so often. */
struct task {
    std::function<void()> work;
    cudaEvent_t record = nullptr, wait = nullptr;
    int64_t count = 0;
};
struct fb_emulated_stream {
    fb_emulated_graph *capture = nullptr;
    std::deque<task> tasks;
};
static std::vector<cudaStream_t> streams;
static bool last_stream_first;
static int64_t clock_ms, kernel_ms = 1; /* the clock counts what was queued */

/* All that a stream can do before it has to wait for another. Returns whether it did anything. */
static bool run_stream(cudaStream_t stream)
{
    bool ran = false;
    while (!stream->tasks.empty()) {
        const task next = stream->tasks.front();
        if (next.wait && next.wait->reached < next.count)
            return ran;
        stream->tasks.pop_front();
        ran = true;
        if (next.work)
            next.work();
        if (next.record)
            next.record->reached++;
    }
    return ran;
}

static bool is_idle(void)
{
    return std::all_of(streams.begin(), streams.end(), [](cudaStream_t stream) { return stream->tasks.empty(); });
}

/* One stream as far as it comes, then the next: sometimes the first begins, sometimes the last, so that a missing wait
 * shows. */
static void finish_all(void)
{
    if (is_idle())
        return;
    unlocked open;
    last_stream_first = !last_stream_first;
    for (bool ran = true; ran;) {
        ran = false;
        for (size_t k = 0; k < streams.size() && !ran; k++)
            ran = run_stream(streams[last_stream_first ? streams.size() - 1 - k : k]);
    }
    if (!is_idle())
        fb_emulator_give_up("a stream waits for an event that is never reached");
}

static cudaError_t submit(cudaStream_t stream, std::function<void()> work)
{
    if (!stream)
        fb_emulator_give_up("work on the default stream: it cannot be captured");
    if (stream->capture)
        stream->capture->work.push_back(work);
    else
        stream->tasks.push_back({work, nullptr, nullptr, 0});
    clock_ms++;
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                       cudaStream_t stream)
{
    MAY_FAIL();
    check_range(to, bytes, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, "copy past the end");
    check_range(from, bytes, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, "copy past the end");
    if (kind == cudaMemcpyHostToDevice && stream && stream->capture && !is_pinned(from))
        fb_emulator_give_up("a recording reads pageable memory");
    return submit(stream, [=]() {
        if (bytes > 0 && (const char *)to < (const char *)from + bytes && (const char *)from < (const char *)to + bytes)
            fb_emulator_give_up("the two sides of a copy overlap");
        memcpy(to, from, bytes);
    });
}

extern "C" cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    MAY_FAIL();
    check_range(memory, bytes, true, "memset past the end");
    return submit(stream, [=]() { memset(memory, value, bytes); });
}

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    MAY_FAIL();
    *stream = new fb_emulated_stream;
    streams.push_back(*stream);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    finish_all();
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    MAY_FAIL();
    if (stream->capture)
        return fail(cudaErrorStreamCaptureUnsupported);
    finish_all();
    return cudaSuccess; /* what a call returned before is not returned again */
}

extern "C" cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *argument)
{
    MAY_FAIL();
    return submit(stream, [=]() { function(argument); });
}

extern "C" void fb_emulator_kernel_ms(int64_t ms)
{
    kernel_ms = ms;
}

extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (event->queued == 0)
        fb_emulator_give_up("waits for an event that was never recorded");
    if (stream->capture)
        fb_emulator_give_up("waits of a captured stream are not emulated");
    stream->tasks.push_back({nullptr, nullptr, event, event->queued});
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    MAY_FAIL();
    *event = new fb_emulated_event;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    finish_all();
    delete event;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (stream->capture)
        fb_emulator_give_up("events of a captured stream are not emulated");
    event->queued++;
    event->ms = clock_ms;
    stream->tasks.push_back({nullptr, event, nullptr, 0});
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (event->reached < event->queued)
        finish_all();
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    if (begin->reached == 0 || end->reached == 0)
        fb_emulator_give_up("the time between events that were not reached");
    *milliseconds = (float)(end->ms - begin->ms);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    MAY_FAIL();
    if (stream->capture)
        return fail(cudaErrorStreamCaptureUnsupported);
    stream->capture = new fb_emulated_graph;
    failed_since_capture = false;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = stream->capture;
    stream->capture = nullptr;
    if (*graph && failed_since_capture) { /* as the real one: no graph then */
        delete *graph;
        *graph = nullptr;
    }
    return *graph ? cudaSuccess : fail(cudaErrorStreamCaptureUnsupported);
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long)
{
    MAY_FAIL();
    *executable = new fb_emulated_graph(*graph);
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    MAY_FAIL();
    launches += executable->launches;
    for (const auto &work : executable->work)
        submit(stream, work);
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    finish_all();
    delete executable;
    return cudaSuccess;
}

/* --- devices and errors ----------------------------------------------------------------------------- */

extern "C" const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
           : error == cudaErrorNoDevice       ? "cudaErrorNoDevice"
           : error == cudaSuccess             ? "cudaSuccess"
                                              : "cudaErrorUnknown";
}

extern "C" const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory"
           : error == cudaErrorNoDevice       ? "no CUDA-capable device is detected"
           : error == cudaSuccess             ? "no error"
                                              : "unknown error";
}

extern "C" cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

extern "C" cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

extern "C" cudaError_t cudaGetDeviceCount(int *count)
{
    const char *text = getenv("FB_EMULATED_DEVICES");
    *count = text ? atoi(text) : 1;
    return *count > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count)
        return fail(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    memset(properties, 0, sizeof *properties);
    (void)device; /* all are alike */
    snprintf(properties->name, sizeof properties->name, "emulated GPU");
    properties->totalGlobalMem = (size_t)limit_bytes;
    properties->major = 9;
    properties->multiProcessorCount = 4;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceGetPCIBusId(char *id, int chars, int device)
{
    snprintf(id, (size_t)chars, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

extern "C" cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

extern "C" int fb_emulator_range(int begins)
{
    static int depth;
    if (!begins && depth == 0)
        fb_emulator_give_up("a range of time ends that did not begin");
    depth += begins ? 1 : -1;
    return depth;
}

extern "C" int64_t fb_emulator_live_blocks(void)
{
    return (int64_t)blocks.size();
}

extern "C" void fb_emulator_limit(int64_t bytes)
{
    limit_bytes = bytes;
}

extern "C" int64_t fb_emulator_fail_after(int64_t calls)
{
    const int64_t left = fail_after;
    fail_after = calls;
    return left;
}

extern "C" int64_t fb_emulator_launches(void)
{
    return launches;
}

/* --- launches --------------------------------------------------------------------------------------- */

void fb_emulator_check_argument(const void *memory)
{
    if (memory && !fb_emulator_is_device(memory))
        fb_emulator_give_up("a kernel is given the address of host memory");
}

cudaError_t fb_emulator_launch(dim3 grid, dim3 block, cudaStream_t stream, std::function<void()> thread)
{
    const int64_t count = (int64_t)block.x * block.y * block.z;
    MAY_FAIL();
    if (count < 1 || count > FB_EMULATOR_THREADS_MAX || grid.x < 1 || grid.y < 1 || grid.z < 1 ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration);
    if (stream->capture)
        stream->capture->launches++;
    else
        launches++;
    clock_ms += kernel_ms - 1;
    return submit(stream, [=]() { fb_emulator_run_grid(grid, block, thread); });
}
