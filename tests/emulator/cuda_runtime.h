/* SPDX-License-Identifier: Apache-2.0
 *
 * A GPU made of the CPU, for tests: the part of the CUDA runtime and of the CUDA C++ language that FedBraTS uses. With
 * this folder before CUDA's on the include path the sources of the GPU backend compile with a plain C and C++ compiler,
 * and what they compute, and how they handle memory, streams and barriers, is tested (and sanitized) without a GPU.
 *
 * What it is strict about, beyond a GPU:
 *   - Device memory cannot be touched by the host: such an access is a segmentation fault. A kernel that is given the
 *     address of host memory ends the program. Every allocation ends at a page that nobody can touch, and starts with
 *     bytes that are NaN as bfloat16, float and double.
 *   - Work on a stream begins only when somebody waits for it, so that a host buffer that changes too early shows.
 *   - The threads of a block run in an order that changes from barrier to barrier, so that a missing barrier shows;
 *     shared memory starts as NaN for every block. A barrier that not all threads reach ends the program.
 *
 * What it does not model: speed, memory ordering between blocks, registers and other limits of a launch but for the
 * number of threads and 48 KiB of static shared memory (which the compiler checks, by fb_emulator_shared).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CUDART_VERSION 13000

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorUnknown = 999
} cudaError_t;
enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
typedef struct fb_emulated_stream *cudaStream_t;
typedef struct fb_emulated_event *cudaEvent_t;
typedef struct fb_emulated_graph *cudaGraph_t;
typedef struct fb_emulated_graph *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
cudaError_t cudaGetDeviceCount(int *count); /* FB_EMULATED_DEVICES of the environment, 1 without it */
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char *id, int chars, int device);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *argument);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

/* For tests. */
int64_t fb_emulator_live_blocks(void);          /* device allocations not yet freed */
void fb_emulator_limit(int64_t bytes);          /* of device memory in use; the default is 4 GiB */
int64_t fb_emulator_fail_after(int64_t calls);  /* the call after so many fails once; negative: none. Returns how many
                                                 * were still to come before the last one that was chosen. */
int64_t fb_emulator_launches(void);             /* kernels queued so far, those of replayed graphs included */
void fb_emulator_kernel_ms(int64_t ms);         /* what events say that a kernel takes; all else takes 1 ms, as it
                                                    does without this call */
int64_t fb_emulator_conflicts(void);            /* matrices of fb_load_*, so far, of which two rows share banks */

#ifdef __cplusplus
}

/* --- the language --- */

#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx; /* of the thread that runs now */
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* Static shared memory: one object for all threads, as blocks run one after the other. It is registered at its first
 * use, so that every block finds it filled with NaN. */
void fb_emulator_register_shared(void *memory, size_t bytes);
template <typename T> struct fb_emulator_shared {
    T memory;
    fb_emulator_shared()
    {
        static_assert(sizeof(T) <= 48 * 1024, "more than 48 KiB of static shared memory");
        fb_emulator_register_shared(&memory, sizeof memory);
    }
};
/* FB_SHARED(float, tile, [8][32]); declares __shared__ float tile[8][32]; see src/nn/gpu.cuh for the device's form. */
#define FB_SHARED(type, name, extent)                                                                                  \
    typedef type name##_shared_type extent;                                                                            \
    static fb_emulator_shared<name##_shared_type> name##_shared_memory;                                                \
    auto &name = name##_shared_memory.memory

void __syncthreads(void);
void __syncwarp(unsigned mask = 0xffffffffu);
int __syncthreads_or(int predicate);
unsigned __ballot_sync(unsigned mask, int predicate);

/* All lanes of the warp leave 8 bytes each and get those of another lane. */
uint64_t fb_emulator_exchange(uint64_t value, int lane);
template <typename T> T fb_emulator_shuffle(T value, int lane)
{
    static_assert(sizeof(T) <= 8, "shuffle of more than 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = fb_emulator_exchange(bits, lane);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
int fb_emulator_lane(void);

/* All lanes leave `count` words and see those of all; before the next exchange each calls __syncwarp. */
enum { FB_EMULATOR_WORDS = 8 };
const unsigned (*fb_emulator_share(const unsigned *words, int count))[FB_EMULATOR_WORDS];

/* Asynchronous copies into shared memory, and checks of what the matrix loads read; see nn/gpu.cuh. */
void fb_emulator_check_shared(const void *memory, size_t bytes); /* aligned to its size, all of it shared */
void fb_emulator_count_conflicts(const void *const rows[8]);     /* of 16 bytes */
void fb_emulator_copy(void *shared, const void *global, int bytes, bool inside);
void fb_emulator_copy_wait(void);

template <typename T> T __shfl_sync(unsigned, T value, int lane) { return fb_emulator_shuffle(value, lane & 31); }
template <typename T> T __shfl_xor_sync(unsigned, T value, int bits)
{
    return fb_emulator_shuffle(value, fb_emulator_lane() ^ bits);
}
template <typename T> T __shfl_down_sync(unsigned, T value, unsigned distance)
{
    const int from = fb_emulator_lane() + (int)distance;
    return fb_emulator_shuffle(value, from < 32 ? from : fb_emulator_lane());
}
template <typename T> T __shfl_up_sync(unsigned, T value, unsigned distance)
{
    const int from = fb_emulator_lane() - (int)distance;
    return fb_emulator_shuffle(value, from >= 0 ? from : fb_emulator_lane());
}
template <typename T> T atomicAdd(T *place, T value)
{
    const T before = *place;
    *place = before + value;
    return before;
}
template <typename T> T atomicMin(T *place, T value)
{
    const T before = *place;
    *place = value < before ? value : before;
    return before;
}
static inline void __threadfence(void) {}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
static inline float __uint_as_float(unsigned bits)
{
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
template <typename T> T __ldg(const T *place) { return *place; }
template <typename T> T __ldcg(const T *place) { return *place; }

/* --- launches --- */

struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};
cudaError_t fb_emulator_launch(dim3 grid, dim3 block, cudaStream_t stream, std::function<void()> thread);

/* Pointers that a kernel gets must be the device's, or nullptr; what lies in structures is not looked at. */
void fb_emulator_check_argument(const void *memory);
template <typename T> void fb_emulator_check(const T &) {}
template <typename T> void fb_emulator_check(T *memory) { fb_emulator_check_argument(memory); }

template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Expected...), Actual &&...arguments)
{
    std::tuple<Expected...> kept(static_cast<Expected>(arguments)...);
    (fb_emulator_check(static_cast<Expected>(arguments)), ...);
    return fb_emulator_launch(config->gridDim, config->blockDim, config->stream,
                              [kernel, kept]() { std::apply(kernel, kept); });
}
#endif
