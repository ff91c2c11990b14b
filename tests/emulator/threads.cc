/* SPDX-License-Identifier: Apache-2.0
 *
 * The threads of a block are coroutines with stacks of their own on one processor; each runs up to a barrier of its
 * warp or its block, where the next one goes on. See cuda_runtime.h.
 */
#include "emulator.h"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

static const size_t PAGE = 4096;

void fb_emulator_give_up(const char *why)
{
    fprintf(stderr, "emulator: block (%u, %u, %u) thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, threadIdx.y, threadIdx.z, why);
    abort();
}

/* --- threads ---------------------------------------------------------------------------------------- */

static const size_t STACK_BYTES = 128 << 10;
static const int THREADS_MAX = FB_EMULATOR_THREADS_MAX, WARP = 32;

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
    fb_emulator_give_up("a finished thread went on");
}

static void prepare(coroutine *c)
{
    if (!c->stack) {
        c->stack =
            (char *)mmap(nullptr, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (c->stack == MAP_FAILED || mprotect(c->stack, PAGE, PROT_NONE) != 0)
            fb_emulator_give_up("no memory for stacks");
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
            fb_emulator_give_up(threads[i].at != FINISHED ? "waits at a barrier that other threads do not reach"
                                                          : "ends before its copies have landed");
        }
}

void fb_emulator_run_grid(dim3 grid, dim3 block, const std::function<void()> &thread)
{
    gridDim = grid;
    blockDim = block;
    body = &thread;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                run_block((int)(block.x * block.y * block.z));
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
        fb_emulator_give_up("only whole warps are emulated");
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
        fb_emulator_give_up("misaligned access to shared memory");
    for (const auto &known : shared_memory)
        if ((const char *)memory >= (char *)known.first &&
            (const char *)memory + bytes <= (char *)known.first + known.second)
            return;
    fb_emulator_give_up("a matrix load or an asynchronous copy outside shared memory");
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
    if ((uintptr_t)global % (uintptr_t)bytes != 0 || !fb_emulator_is_device(global))
        fb_emulator_give_up("an asynchronous copy from a misaligned address or from what is not device memory");
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
