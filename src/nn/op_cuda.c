/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU backend: everything is queued on one stream, so that calls follow each other as on the CPU. Convolutions are
 * by nn/kernels_conv_cuda, the rest by nn/kernels_cuda.
 */
#include "nn/op_cuda.h"

#include "core/mem.h"
#include "nn/kernels_conv_cuda.h"
#include "nn/kernels_cuda.h"

#include <stdio.h>
#include <string.h>

static const int64_t MIB = 1 << 20;

#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        const cudaError_t cuda_try_error_ = (call);                                                                    \
        if (cuda_try_error_ != cudaSuccess)                                                                            \
            return cuda_failed(#call, cuda_try_error_);                                                                \
    } while (0)

typedef struct allocation {
    const void *memory;
    int64_t bytes;
    char subject[48];
} allocation;

/* Large uploads go through page-locked memory in two halves, one of which the device reads while the other is filled.
 */
enum { STAGE_BYTES = 8 << 20, STAGES = 2 };

typedef struct stage {
    void *memory;     /* owned, page-locked; NULL before the first use */
    cudaEvent_t sent; /* owned: the device has read it */
} stage;

/* Partial sums of weight gradients: serve one convolution after the other. */
typedef struct gradient_sums {
    void *memory; /* owned */
    size_t bytes;
    int convolutions; /* that use it: the last one frees it */
} gradient_sums;

typedef struct backend {
    fb_cuda_queue queue;
    cudaStream_t side; /* owned: uploads beside the queued work */
    stage stages[STAGES];
    cudaEvent_t turned, arrived; /* owned: the last turn of the queue; the last upload beside it */
    char description[256];
    gradient_sums *sums; /* the largest; NULL without convolutions */
    int count, capacity;
    allocation *allocations; /* (count) owned: for the table that an error shows */
} backend;

struct fb_conv {
    const fb_ops *ops; /* borrowed */
    fb_conv_shape shape;
    void *packed;        /* weights, owned */
    gradient_sums *sums; /* shared */
};

static backend *state_of(const fb_ops *ops)
{
    return ops->state;
}

static fb_status cuda_failed(const char *call, cudaError_t error)
{
    return FB_FAIL("CUDA: %s: %s (%s)", call, cudaGetErrorString(error), cudaGetErrorName(error));
}

/* Keeps the first failure of a queued call for the next download. */
static void note(const fb_ops *ops, const char *what, cudaError_t error)
{
    fb_cuda_queue *queue = &state_of(ops)->queue;
    if (error == cudaSuccess || queue->error != cudaSuccess)
        return;
    queue->error = error;
    queue->failed = what;
}

/* --- devices --------------------------------------------------------------------------------------- */

int fb_cuda_count(size_t chars, char *why)
{
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0)
        return count;
    (void)cudaGetLastError(); /* does not stay for the next call */
    snprintf(why, chars, "CUDA: %s", error == cudaSuccess ? "no device is visible" : cudaGetErrorString(error));
    return 0;
}

fb_status fb_cuda_use(int device, fb_cuda_device *out)
{
    struct cudaDeviceProp properties;
    size_t free_bytes = 0, total_bytes = 0;
    CUDA_TRY(cudaSetDevice(device));
    CUDA_TRY(cudaGetDeviceProperties(&properties, device));
    CUDA_TRY(cudaDeviceGetPCIBusId(out->bus_id, sizeof out->bus_id, device));
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes));
    snprintf(out->name, sizeof out->name, "%.*s", FB_CUDA_NAME_CHARS - 1, properties.name);
    out->major = properties.major;
    out->minor = properties.minor;
    out->free_bytes = (int64_t)free_bytes;
    out->total_bytes = (int64_t)total_bytes;
    return FB_OK;
}

void fb_cuda_versions(size_t chars, char *text)
{
    int driver = 0;
    (void)cudaDriverGetVersion(&driver); /* 0 without a driver */
    (void)cudaGetLastError();
    snprintf(text, chars, "CUDA %d.%d, driver for %d.%d", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
             driver / 1000, driver % 1000 / 10);
}

/* --- memory ----------------------------------------------------------------------------------------- */

static void room(const fb_ops *ops, int64_t *free_bytes, int64_t *total_bytes)
{
    size_t is_free = 0, total = 0;
    note(ops, "cudaMemGetInfo", cudaMemGetInfo(&is_free, &total));
    *free_bytes = (int64_t)is_free;
    *total_bytes = (int64_t)total;
}

/* Bytes of all allocations with the subject of allocation i; 0 if an earlier one has it. */
static int64_t bytes_of_subject(const backend *b, int i)
{
    int64_t bytes = 0;
    for (int k = 0; k < b->count; k++) {
        if (strcmp(b->allocations[k].subject, b->allocations[i].subject) != 0)
            continue;
        if (k < i)
            return 0;
        bytes += b->allocations[k].bytes;
    }
    return bytes;
}

/* What this process holds: "  812 MiB activations of the network" a line. */
static void list_allocations(const backend *b, size_t chars, char *text)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < b->count; i++) {
        const int64_t bytes = bytes_of_subject(b, i);
        if (bytes >= MIB && used < chars)
            used += (size_t)snprintf(text + used, chars - used, "\n  %8lld MiB %s", (long long)(bytes / MIB),
                                     b->allocations[i].subject);
    }
}

static fb_status no_memory(const fb_ops *ops, int64_t bytes, const char *subject)
{
    char held[2048];
    int64_t free_bytes = 0, total_bytes = 0;
    room(ops, &free_bytes, &total_bytes);
    list_allocations(state_of(ops), sizeof held, held);
    return FB_FAIL("GPU memory: %lld MiB for %s do not fit: %lld of %lld MiB are free; choose a smaller data.patch, "
                   "eval.window, model.filters or data.device_cache_bytes, or fewer ranks on this GPU. This process "
                   "holds:%s",
                   (long long)((bytes + MIB - 1) / MIB), subject, (long long)(free_bytes / MIB),
                   (long long)(total_bytes / MIB), held[0] ? held : " nothing");
}

static fb_status remember(backend *b, const void *memory, int64_t bytes, const char *subject)
{
    if (b->count == b->capacity) {
        const int capacity = b->capacity ? 2 * b->capacity : 64;
        FB_TRY(fb_mem_resize(&b->allocations, capacity, sizeof *b->allocations, "list of GPU memory"));
        b->capacity = capacity;
    }
    allocation *a = &b->allocations[b->count++];
    a->memory = memory;
    a->bytes = bytes;
    snprintf(a->subject, sizeof a->subject, "%s", subject);
    return FB_OK;
}

static void forget(backend *b, const void *memory)
{
    for (int i = 0; i < b->count; i++)
        if (b->allocations[i].memory == memory) {
            b->allocations[i] = b->allocations[--b->count];
            return;
        }
}

static void zero(const fb_ops *ops, void *memory, int64_t bytes)
{
    note(ops, "cudaMemsetAsync", cudaMemsetAsync(memory, 0, (size_t)bytes, state_of(ops)->queue.stream));
}

static fb_status alloc(const fb_ops *ops, int64_t bytes, const char *subject, void **out)
{
    void *memory = NULL;
    const cudaError_t error = cudaMalloc(&memory, (size_t)bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return no_memory(ops, bytes, subject);
    }
    if (error != cudaSuccess)
        return cuda_failed("cudaMalloc", error);
    const fb_status status = remember(state_of(ops), memory, bytes, subject);
    if (status != FB_OK) {
        (void)cudaFree(memory);
        return status;
    }
    zero(ops, memory, bytes);
    *out = memory;
    return FB_OK;
}

static void release(const fb_ops *ops, void **memory)
{
    if (!*memory)
        return;
    forget(state_of(ops), *memory);
    note(ops, "cudaFree", cudaFree(*memory));
    *memory = NULL;
}

static void copy(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    note(ops, "copy on the device",
         cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, state_of(ops)->queue.stream));
}

/* From pageable memory, which CUDA reads before the call returns. */
static void upload(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    if (bytes <= FB_CUDA_STORE_BYTES_MAX && bytes % 4 == 0) { /* CUDA may wait for the queue before it reads */
        fb_cuda_store(&state_of(ops)->queue, to, from, bytes);
        return;
    }
    note(ops, "copy to the device",
         cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyHostToDevice, state_of(ops)->queue.stream));
}

static cudaError_t start_stages(backend *b)
{
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < STAGES && error == cudaSuccess; i++) {
        if (b->stages[i].memory)
            continue;
        error = cudaHostAlloc(&b->stages[i].memory, STAGE_BYTES, cudaHostAllocDefault);
        if (error == cudaSuccess)
            error = cudaEventRecord(b->stages[i].sent, b->side);
    }
    return error;
}

/* One piece, by way of a stage that the device has done with. */
static cudaError_t send_piece(backend *b, stage *s, void *to, const void *from, size_t bytes)
{
    cudaError_t error = cudaEventSynchronize(s->sent);
    if (error != cudaSuccess)
        return error;
    memcpy(s->memory, from, bytes);
    error = cudaMemcpyAsync(to, s->memory, bytes, cudaMemcpyHostToDevice, b->side);
    return error == cudaSuccess ? cudaEventRecord(s->sent, b->side) : error;
}

static cudaError_t send_pieces(backend *b, char *to, const char *from, int64_t bytes)
{
    cudaError_t error = cudaStreamWaitEvent(b->side, b->turned, 0);
    for (int64_t at = 0, i = 0; at < bytes && error == cudaSuccess; at += STAGE_BYTES, i++) {
        const int64_t rest = bytes - at, piece = rest < STAGE_BYTES ? rest : STAGE_BYTES;
        error = send_piece(b, &b->stages[i % STAGES], to + at, from + at, (size_t)piece);
    }
    if (error == cudaSuccess)
        error = cudaEventRecord(b->arrived, b->side);
    return error == cudaSuccess ? cudaStreamWaitEvent(b->queue.stream, b->arrived, 0) : error;
}

static void upload_beside(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    backend *b = state_of(ops);
    const cudaError_t error = start_stages(b);
    note(ops, "page-locked memory for uploads", error);
    if (error == cudaSuccess)
        note(ops, "copy to the device", send_pieces(b, to, from, bytes));
}

static void turn(const fb_ops *ops)
{
    note(ops, "cudaEventRecord", cudaEventRecord(state_of(ops)->turned, state_of(ops)->queue.stream));
}

static fb_status download(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    fb_cuda_queue *queue = &state_of(ops)->queue;
    if (queue->error == cudaSuccess)
        note(ops, "copy from the device",
             cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToHost, queue->stream));
    if (queue->error == cudaSuccess)
        note(ops, "work on the device", cudaStreamSynchronize(queue->stream));
    const cudaError_t error = queue->error;
    queue->error = cudaSuccess;
    return error == cudaSuccess ? FB_OK : cuda_failed(queue->failed, error);
}

/* --- recordings --------------------------------------------------------------------------------------- */

static fb_status record_begin(const fb_ops *ops)
{
    CUDA_TRY(cudaStreamBeginCapture(state_of(ops)->queue.stream, cudaStreamCaptureModeThreadLocal));
    return FB_OK;
}

static fb_status record_end(const fb_ops *ops, void **recording)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    CUDA_TRY(cudaStreamEndCapture(state_of(ops)->queue.stream, &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
    CUDA_TRY(cudaGraphDestroy(graph));
    if (error != cudaSuccess)
        return cuda_failed("cudaGraphInstantiate", error);
    *recording = executable;
    return FB_OK;
}

static void record_replay(const fb_ops *ops, void *recording)
{
    note(ops, "cudaGraphLaunch", cudaGraphLaunch(recording, state_of(ops)->queue.stream));
}

static void record_free(const fb_ops *ops, void **recording)
{
    if (*recording)
        note(ops, "cudaGraphExecDestroy", cudaGraphExecDestroy(*recording));
    *recording = NULL;
}

/* --- convolutions --------------------------------------------------------------------------------------- */

/* Sums for `bytes`: those of an earlier convolution where they are large enough. Smaller ones stay with the
 * convolutions that have them, as a recording may hold their address. */
static fb_status share_sums(const fb_ops *ops, size_t bytes, gradient_sums **out)
{
    backend *b = state_of(ops);
    gradient_sums *sums = b->sums;
    if (!sums || sums->bytes < bytes) {
        FB_TRY(FB_ALLOC(sums, 1, "sums of weight gradients"));
        const fb_status status = alloc(ops, (int64_t)bytes, "sums of weight gradients", &sums->memory);
        if (status != FB_OK) {
            FB_FREE(sums);
            return status;
        }
        sums->bytes = bytes;
        b->sums = sums;
    }
    sums->convolutions++;
    *out = sums;
    return FB_OK;
}

static void leave_sums(const fb_ops *ops, gradient_sums **sums)
{
    backend *b = state_of(ops);
    if (*sums && --(*sums)->convolutions == 0) {
        if (b->sums == *sums)
            b->sums = NULL;
        release(ops, &(*sums)->memory);
        FB_FREE(*sums);
    }
    *sums = NULL;
}

static void conv_destroy(fb_conv **conv)
{
    if (*conv) {
        release((*conv)->ops, &(*conv)->packed);
        leave_sums((*conv)->ops, &(*conv)->sums);
    }
    FB_FREE(*conv);
}

static fb_status conv_allocate(fb_conv *conv, size_t packed_bytes)
{
    const fb_act_type act = state_of(conv->ops)->queue.act;
    FB_TRY(share_sums(conv->ops, fb_cuda_conv_partial_bytes(&conv->shape, act), &conv->sums));
    return alloc(conv->ops, (int64_t)packed_bytes, "weights of a convolution", &conv->packed);
}

static fb_status conv_create(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out)
{
    const size_t packed_bytes = fb_cuda_conv_packed_bytes(shape, state_of(ops)->queue.act);
    fb_conv *conv = NULL;
    if (packed_bytes == 0)
        return FB_FAIL("convolution on the GPU: %lld x %lld x %lld voxels, channels %lld to %lld, kernel %d, stride %d "
                       "is not supported",
                       (long long)shape->in[0], (long long)shape->in[1], (long long)shape->in[2],
                       (long long)shape->c_in, (long long)shape->c_out, shape->kernel, shape->stride);
    FB_TRY(FB_ALLOC(conv, 1, "convolution"));
    conv->ops = ops;
    conv->shape = *shape;
    const fb_status status = conv_allocate(conv, packed_bytes);
    if (status != FB_OK)
        conv_destroy(&conv);
    *out = conv;
    return status;
}

/* Queues one of the convolution's kernels: the result of `call` is kept for the next download. */
#define QUEUE(conv, name, call)                                                                                        \
    do {                                                                                                               \
        if (state_of((conv)->ops)->queue.error == cudaSuccess)                                                         \
            note((conv)->ops, name, call);                                                                             \
    } while (0)

static fb_status conv_load(fb_conv *conv, const float *w)
{
    const fb_cuda_queue *q = &state_of(conv->ops)->queue;
    QUEUE(conv, "packing of weights", fb_cuda_conv_pack(&conv->shape, q->act, w, conv->packed, q->stream));
    return FB_OK;
}

static fb_status conv_fwd(fb_conv *conv, const fb_act *x, fb_act *y)
{
    const fb_cuda_queue *q = &state_of(conv->ops)->queue;
    QUEUE(conv, "convolution", fb_cuda_conv_fwd(&conv->shape, q->act, conv->packed, x, y, q->stream));
    return FB_OK;
}

static fb_status conv_bwd_data(fb_conv *conv, const fb_act *dy, fb_act *dx)
{
    const fb_cuda_queue *q = &state_of(conv->ops)->queue;
    QUEUE(conv, "input gradient", fb_cuda_conv_bwd_data(&conv->shape, q->act, conv->packed, dy, dx, q->stream));
    return FB_OK;
}

static fb_status conv_bwd_weights(fb_conv *conv, const fb_act *x, const fb_act *dy, float *dw)
{
    const fb_cuda_queue *q = &state_of(conv->ops)->queue;
    QUEUE(conv, "weight gradient",
          fb_cuda_conv_bwd_weights(&conv->shape, q->act, conv->sums->memory, x, dy, dw, q->stream));
    return FB_OK;
}

/* --- the rest: one kernel each ------------------------------------------------------------------------------ */

static void sample(const fb_ops *ops, const fb_sample *from, const int64_t patch[3], fb_act *x, uint8_t *target)
{
    fb_cuda_sample(&state_of(ops)->queue, from, patch, x, target);
}

static void norm_relu_fwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const float *gamma,
                          const float *beta, fb_act *y, float *stats)
{
    fb_cuda_norm_relu_fwd(&state_of(ops)->queue, voxels, channels, x, gamma, beta, y, stats);
}

static void norm_relu_bwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const float *gamma,
                          const float *beta, const float *stats, const fb_act *dy, fb_act *dx, float *dgamma,
                          float *dbeta)
{
    fb_cuda_norm_relu_bwd(&state_of(ops)->queue, voxels, channels, x, gamma, beta, stats, dy, dx, dgamma, dbeta);
}

static void upsample_add_fwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *x,
                             const fb_act *skip, fb_act *y)
{
    fb_cuda_upsample_add_fwd(&state_of(ops)->queue, in, channels, x, skip, y);
}

static void upsample_bwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *dy, fb_act *dx)
{
    fb_cuda_upsample_bwd(&state_of(ops)->queue, in, channels, dy, dx);
}

static void add(const fb_ops *ops, int64_t count, const fb_act *a, const fb_act *b, fb_act *y)
{
    fb_cuda_add(&state_of(ops)->queue, count, a, b, y);
}

static void scale_channels(const fb_ops *ops, int64_t voxels, int64_t channels, const float *scale, fb_act *x)
{
    fb_cuda_scale_channels(&state_of(ops)->queue, voxels, channels, scale, x);
}

static void bias_add(const fb_ops *ops, int64_t voxels, const float *bias, float *y)
{
    fb_cuda_bias_add(&state_of(ops)->queue, voxels, bias, y);
}

static void bias_bwd(const fb_ops *ops, int64_t voxels, const float *dy, float *dbias)
{
    fb_cuda_bias_bwd(&state_of(ops)->queue, voxels, dy, dbias);
}

static void dice_loss(const fb_ops *ops, int64_t voxels, const float *logits, const uint8_t *target, float *dlogits,
                      double *loss_sum)
{
    fb_cuda_dice_loss(&state_of(ops)->queue, voxels, logits, target, dlogits, loss_sum);
}

static void count_step(const fb_ops *ops, int64_t *step)
{
    fb_cuda_count_step(&state_of(ops)->queue, step);
}

static void adam_step(const fb_ops *ops, const fb_adam_spec *spec, int64_t count, const int64_t *step, float *w,
                      const float *g, float *m, float *v)
{
    fb_cuda_adam_step(&state_of(ops)->queue, spec, count, step, w, g, m, v);
}

static void sgd_step(const fb_ops *ops, double learning_rate, double weight_decay, int64_t count, float *w,
                     const float *g)
{
    fb_cuda_sgd_step(&state_of(ops)->queue, learning_rate, weight_decay, count, w, g);
}

static void take_window(const fb_ops *ops, const fb_act *image, const int64_t extent[3], const int64_t start[3],
                        const int64_t window[3], fb_act *x)
{
    fb_cuda_take_window(&state_of(ops)->queue, image, extent, start, window, x);
}

static void add_window(const fb_ops *ops, const float *logits, const int64_t extent[3], const int64_t start[3],
                       const int64_t window[3], float *sum)
{
    fb_cuda_add_window(&state_of(ops)->queue, logits, extent, start, window, sum);
}

static void describe(const fb_ops *ops, size_t chars, char *text)
{
    snprintf(text, chars, "%s", state_of(ops)->description);
}

static const fb_ops table = {
    .name = "cuda",
    .describe = describe,
    .alloc = alloc,
    .release = release,
    .zero = zero,
    .copy = copy,
    .upload = upload,
    .upload_beside = upload_beside,
    .turn = turn,
    .download = download,
    .room = room,
    .record_begin = record_begin,
    .record_end = record_end,
    .record_replay = record_replay,
    .record_free = record_free,
    .sample = sample,
    .conv_create = conv_create,
    .conv_destroy = conv_destroy,
    .conv_load = conv_load,
    .conv_fwd = conv_fwd,
    .conv_bwd_data = conv_bwd_data,
    .conv_bwd_weights = conv_bwd_weights,
    .norm_relu_fwd = norm_relu_fwd,
    .norm_relu_bwd = norm_relu_bwd,
    .upsample_add_fwd = upsample_add_fwd,
    .upsample_bwd = upsample_bwd,
    .add = add,
    .scale_channels = scale_channels,
    .bias_add = bias_add,
    .bias_bwd = bias_bwd,
    .dice_loss = dice_loss,
    .count_step = count_step,
    .adam_step = adam_step,
    .sgd_step = sgd_step,
    .take_window = take_window,
    .add_window = add_window,
};

/* --- creation ------------------------------------------------------------------------------------------------- */

static fb_status start(fb_ops *ops, fb_act_type act)
{
    static const char *const act_name[] = {"float32", "bfloat16"};
    backend *b = state_of(ops);
    fb_cuda_device device;
    int chosen = 0;
    CUDA_TRY(cudaGetDevice(&chosen));
    FB_TRY(fb_cuda_use(chosen, &device));
    snprintf(b->description, sizeof b->description, "CUDA %d.%d, %s (sm_%d%d), %s", CUDART_VERSION / 1000,
             CUDART_VERSION % 1000 / 10, device.name, device.major, device.minor, act_name[act]);
    CUDA_TRY(cudaStreamCreateWithFlags(&b->queue.stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaStreamCreateWithFlags(&b->side, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&b->turned, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&b->arrived, cudaEventDisableTiming));
    for (int i = 0; i < STAGES; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&b->stages[i].sent, cudaEventDisableTiming));
    CUDA_TRY(cudaEventRecord(b->turned, b->queue.stream));
    return alloc(ops, FB_CUDA_SCRATCH_BYTES, "partial sums", &b->queue.scratch);
}

fb_status fb_ops_cuda_create(fb_act_type act, fb_ops **out)
{
    fb_ops *ops = NULL;
    backend *b = NULL;
    FB_TRY(FB_ALLOC(ops, 1, "GPU backend"));
    *ops = table;
    ops->act_bytes = act == FB_ACT_BF16 ? 2 : 4;
    fb_status status = FB_ALLOC(b, 1, "GPU backend");
    if (status != FB_OK) {
        FB_FREE(ops);
        return status;
    }
    ops->state = b;
    b->queue.act = act;
    status = start(ops, act);
    if (status != FB_OK)
        fb_ops_cuda_destroy(&ops);
    *out = ops;
    return status;
}

static void stop_streams(backend *b)
{
    const cudaEvent_t events[] = {b->turned, b->arrived, b->stages[0].sent, b->stages[1].sent};
    const cudaStream_t streams[] = {b->queue.stream, b->side};
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++)
        if (streams[i])
            (void)cudaStreamDestroy(streams[i]);
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
        if (events[i])
            (void)cudaEventDestroy(events[i]);
    for (int i = 0; i < STAGES; i++)
        if (b->stages[i].memory)
            (void)cudaFreeHost(b->stages[i].memory);
}

void fb_ops_cuda_destroy(fb_ops **ops)
{
    if (!*ops)
        return;
    backend *b = state_of(*ops);
    release(*ops, &b->queue.scratch);
    stop_streams(b);
    FB_FREE(b->allocations);
    FB_FREE(b);
    FB_FREE(*ops);
}
