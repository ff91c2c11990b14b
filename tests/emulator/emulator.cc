/* SPDX-License-Identifier: Apache-2.0
 *
 * The threads of a block are coroutines with stacks of their own on one processor; each runs up to a barrier of its
 * warp or its block, where the next one goes on. See cuda_runtime.h.
 */
#include "cuda_runtime.h"

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

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define START_SWITCH(fake, bottom, size) __sanitizer_start_switch_fiber(fake, bottom, size)
#define FINISH_SWITCH(fake) __sanitizer_finish_switch_fiber(fake, nullptr, nullptr)
#else
#define START_SWITCH(fake, bottom, size) ((void)(fake))
#define FINISH_SWITCH(fake) ((void)(fake))
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

static void give_up(const char *why)
{
    fprintf(stderr, "emulator: block (%u, %u, %u) thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, threadIdx.y, threadIdx.z, why);
    abort();
}

/* --- device memory -------------------------------------------------------------------------------- */

/* One range of addresses, which only running work may touch. */
static const size_t SPACE_BYTES = (size_t)64 << 30, PAGE = 4096;
static char *space;
static size_t space_used;
static std::map<char *, size_t> blocks; /* begin -> bytes */
static int64_t limit_bytes = (int64_t)4 << 30, used_bytes, fail_after = -1, launches;
static cudaError_t last_error = cudaSuccess;
static int current_device, open_count;

static cudaError_t fail(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
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
            give_up("mprotect failed");
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

static bool is_device(const void *memory)
{
    return space && (const char *)memory >= space && (const char *)memory < space + SPACE_BYTES;
}

/* Ends the program when a copy leaves the block it begins in. */
static void check_range(const void *memory, size_t bytes, bool device, const char *what)
{
    if (is_device(memory) != device)
        give_up(device ? "a copy's device side is host memory" : "a copy's host side is device memory");
    if (!device || bytes == 0)
        return;
    auto after = blocks.upper_bound((char *)memory);
    if (after == blocks.begin())
        give_up(what);
    --after;
    if ((char *)memory + bytes > after->first + after->second)
        give_up(what);
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
            give_up("no address space");
        space = (char *)range;
    }
    const size_t pages = round_up(bytes);
    if (space_used + pages + PAGE > SPACE_BYTES)
        give_up("device address space is used up: addresses are not given twice");
    char *first = space + space_used, *begin = first + (pages - bytes) / 256 * 256;
    if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0)
        give_up("mprotect failed");
    memset(first, 0xff, pages);
    if (open_count == 0 && mprotect(first, pages, PROT_NONE) != 0)
        give_up("mprotect failed");
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
        give_up("cudaFree of what cudaMalloc did not give");
    finish_all(); /* as the real one waits */
    const size_t pages = round_up(block->second);
    char *first = (char *)((uintptr_t)memory / PAGE * PAGE);
    used_bytes -= (int64_t)block->second;
    blocks.erase(block);
    if (mprotect(first, pages, PROT_NONE) != 0 || madvise(first, pages, MADV_DONTNEED) != 0)
        give_up("the pages of freed memory cannot be given back");
    return cudaSuccess;
}

/* Page-locked memory, from which copies are made later; from other memory they are made at once. */
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
    int64_t queued = 0, reached = 0;
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
        give_up("a stream waits for an event that is never reached");
}

static cudaError_t submit(cudaStream_t stream, std::function<void()> work)
{
    if (!stream)
        give_up("work on the default stream: it cannot be captured");
    if (stream->capture)
        stream->capture->work.push_back(work);
    else
        stream->tasks.push_back({work, nullptr, nullptr, 0});
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                       cudaStream_t stream)
{
    MAY_FAIL();
    check_range(to, bytes, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, "copy past the end");
    check_range(from, bytes, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, "copy past the end");
    if (kind == cudaMemcpyHostToDevice && !is_pinned(from) && !(stream && stream->capture)) {
        const std::string kept((const char *)from, bytes);
        return submit(stream, [=]() { memcpy(to, kept.data(), bytes); });
    }
    return submit(stream, [=]() {
        if (bytes > 0 && (const char *)to < (const char *)from + bytes && (const char *)from < (const char *)to + bytes)
            give_up("the two sides of a copy overlap");
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

extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (event->queued == 0)
        give_up("waits for an event that was never recorded");
    if (stream->capture)
        give_up("waits of a captured stream are not emulated");
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
        give_up("events of a captured stream are not emulated");
    event->queued++;
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
        give_up("the time between events that were not reached");
    *milliseconds = 1.0f; /* there is no clock */
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    MAY_FAIL();
    if (stream->capture)
        return fail(cudaErrorStreamCaptureUnsupported);
    stream->capture = new fb_emulated_graph;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = stream->capture;
    stream->capture = nullptr;
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
        give_up("a range of time ends that did not begin");
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

/* --- threads ---------------------------------------------------------------------------------------- */

static const size_t STACK_BYTES = 128 << 10;
static const int THREADS_MAX = 1024, WARP = 32;

enum state { READY, AT_WARP, AT_BLOCK, FINISHED };
struct coroutine {
    char *stack = nullptr; /* owned, with a page below that cannot be touched */
    void *saved = nullptr; /* stack pointer */
    void *fake = nullptr;  /* AddressSanitizer's */
    state at = FINISHED;
    uint3 index = {0, 0, 0};
};
static coroutine threads[THREADS_MAX];
static coroutine *running;
static void *scheduler_saved, *scheduler_fake;
static const std::function<void()> *body;
static uint64_t left_behind[THREADS_MAX / WARP][WARP]; /* values of a shuffle */
static int vote;                                       /* of the present __syncthreads_or */
static std::vector<std::pair<void *, size_t>> shared_memory;
struct pending_copy {
    void *to;
    const void *from; /* nullptr: zeros */
    size_t bytes;
};
static std::vector<pending_copy> pending[THREADS_MAX]; /* copies of each thread that have not landed */
static int64_t conflicts;

void fb_emulator_register_shared(void *memory, size_t bytes)
{
    shared_memory.push_back({memory, bytes});
    memset(memory, 0xff, bytes);
}

extern "C" void fb_emulator_switch(void **save, void *load);
__asm__(".text\n"
        ".globl fb_emulator_switch\n"
        ".type fb_emulator_switch, @function\n"
        "fb_emulator_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size fb_emulator_switch, . - fb_emulator_switch\n");

static void yield(state at)
{
    coroutine *me = running;
    me->at = at;
    START_SWITCH(at == FINISHED ? nullptr : &me->fake, nullptr, 0);
    fb_emulator_switch(&me->saved, scheduler_saved);
    FINISH_SWITCH(me->fake);
}

static void run_thread(void)
{
    FINISH_SWITCH(nullptr);
    (*body)();
    yield(FINISHED);
    give_up("a finished thread went on");
}

static void prepare(coroutine *c)
{
    if (!c->stack) {
        c->stack = (char *)mmap(nullptr, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (c->stack == MAP_FAILED || mprotect(c->stack, PAGE, PROT_NONE) != 0)
            give_up("no memory for stacks");
    }
    void **top = (void **)(c->stack + PAGE + STACK_BYTES);
    *--top = nullptr; /* keeps the alignment of a called function */
    *--top = (void *)run_thread;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    c->saved = top;
    c->at = READY;
}

static void resume(coroutine *c)
{
    running = c;
    threadIdx = c->index;
    START_SWITCH(&scheduler_fake, c->stack + PAGE, STACK_BYTES);
    fb_emulator_switch(&scheduler_saved, c->saved);
    FINISH_SWITCH(scheduler_fake);
}

static int count_at(int begin, int end, state at)
{
    int count = 0;
    for (int i = begin; i < end; i++)
        count += threads[i].at == at;
    return count;
}

/* Opens a barrier that all of these threads who are not finished have reached. Returns whether it was. */
static bool open_barrier(int begin, int end, state at)
{
    const int waiting = count_at(begin, end, at);
    if (waiting == 0 || waiting + count_at(begin, end, FINISHED) < end - begin)
        return false;
    for (int i = begin; i < end; i++)
        if (threads[i].at == at)
            threads[i].at = READY;
    return true;
}

/* One warp until all of its threads wait for the block, or are finished; then the next. */
static void run_warps(int count, bool *backwards)
{
    const int warps = (count + WARP - 1) / WARP;
    const bool last_first = *backwards;
    for (int k = 0; k < warps; k++) {
        const int begin = (last_first ? warps - 1 - k : k) * WARP, end = std::min(begin + WARP, count);
        do {
            for (int i = begin; i < end; i++) {
                coroutine *c = &threads[*backwards ? begin + end - 1 - i : i];
                if (c->at == READY)
                    resume(c);
            }
            *backwards = !*backwards;
        } while (open_barrier(begin, end, AT_WARP));
    }
}

static void run_block(int count)
{
    for (const auto &memory : shared_memory)
        memset(memory.first, 0xff, memory.second);
    for (int i = 0; i < count; i++) {
        threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        prepare(&threads[i]);
    }
    bool backwards = false;
    do {
        run_warps(count, &backwards);
        backwards = !backwards;
    } while (open_barrier(0, count, AT_BLOCK));
    for (int i = 0; i < count; i++)
        if (threads[i].at != FINISHED || !pending[i].empty()) {
            threadIdx = threads[i].index;
            give_up(threads[i].at != FINISHED ? "waits at a barrier that other threads do not reach"
                                              : "ends before its copies have landed");
        }
}

void fb_emulator_check_argument(const void *memory)
{
    if (memory && !is_device(memory))
        give_up("a kernel is given the address of host memory");
}

cudaError_t fb_emulator_launch(dim3 grid, dim3 block, cudaStream_t stream, std::function<void()> thread)
{
    const int64_t count = (int64_t)block.x * block.y * block.z;
    MAY_FAIL();
    if (count < 1 || count > THREADS_MAX || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration);
    if (stream->capture)
        stream->capture->launches++;
    else
        launches++;
    return submit(stream, [=]() {
        gridDim = grid;
        blockDim = block;
        body = &thread;
        for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
            for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
                for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                    run_block((int)count);
    });
}

/* --- what a kernel calls ------------------------------------------------------------------------------ */

static int thread_number(void)
{
    return (int)(running - threads);
}

int fb_emulator_lane(void)
{
    return thread_number() % WARP;
}

void __syncthreads(void)
{
    yield(AT_BLOCK);
}

int __syncthreads_or(int predicate)
{
    yield(AT_BLOCK);
    vote = 0;
    yield(AT_BLOCK);
    vote |= predicate != 0;
    yield(AT_BLOCK);
    return vote;
}

void __syncwarp(unsigned mask)
{
    if (mask != 0xffffffffu)
        give_up("only whole warps are emulated");
    yield(AT_WARP);
}

uint64_t fb_emulator_exchange(uint64_t value, int lane)
{
    uint64_t *values = left_behind[thread_number() / WARP];
    values[fb_emulator_lane()] = value;
    yield(AT_WARP);
    const uint64_t out = values[lane];
    yield(AT_WARP);
    return out;
}

const unsigned (*fb_emulator_share(const unsigned *words, int count))[FB_EMULATOR_WORDS]
{
    static unsigned shared[THREADS_MAX / WARP][WARP][FB_EMULATOR_WORDS];
    unsigned(*mine)[FB_EMULATOR_WORDS] = shared[thread_number() / WARP];
    memcpy(mine[fb_emulator_lane()], words, (size_t)count * sizeof *words);
    yield(AT_WARP);
    return mine;
}

unsigned __ballot_sync(unsigned, int predicate)
{
    unsigned bits = 0;
    const uint64_t *values = left_behind[thread_number() / WARP];
    left_behind[thread_number() / WARP][fb_emulator_lane()] = predicate != 0;
    yield(AT_WARP);
    for (int lane = 0; lane < WARP; lane++)
        bits |= (unsigned)values[lane] << lane;
    yield(AT_WARP);
    return bits;
}

/* --- asynchronous copies and matrix loads ------------------------------------------------------------- */

void fb_emulator_check_shared(const void *memory, size_t bytes)
{
    if ((uintptr_t)memory % bytes != 0)
        give_up("misaligned access to shared memory");
    for (const auto &known : shared_memory)
        if ((const char *)memory >= (char *)known.first &&
            (const char *)memory + bytes <= (char *)known.first + known.second)
            return;
    give_up("a matrix load or an asynchronous copy outside shared memory");
}

/* Eight rows of 16 bytes are read at once when each lies in four banks of its own. */
void fb_emulator_count_conflicts(const void *const rows[8])
{
    for (int r = 0; r < 8; r++)
        for (int other = 0; other < r; other++)
            if (rows[r] != rows[other] && ((uintptr_t)rows[r] - (uintptr_t)rows[other]) % 128 == 0) {
                conflicts++;
                return;
            }
}

extern "C" int64_t fb_emulator_conflicts(void)
{
    return conflicts;
}

void fb_emulator_copy(void *shared, const void *global, int bytes, bool inside)
{
    fb_emulator_check_shared(shared, (size_t)bytes);
    if ((uintptr_t)global % (uintptr_t)bytes != 0 || !is_device(global))
        give_up("an asynchronous copy from a misaligned address or from what is not device memory");
    memset(shared, 0xff, (size_t)bytes);
    pending[thread_number()].push_back({shared, inside ? global : nullptr, (size_t)bytes});
}

void fb_emulator_copy_wait(void)
{
    std::vector<pending_copy> &mine = pending[thread_number()];
    for (const pending_copy &copy : mine)
        copy.from ? memcpy(copy.to, copy.from, copy.bytes) : memset(copy.to, 0, copy.bytes);
    mine.clear();
}
