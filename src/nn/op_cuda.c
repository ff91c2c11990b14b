/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU backend: everything is queued on one stream, so that calls follow each other as on the CPU. Convolutions are
 * in nn/conv_cuda.c, the rest are by nn/kernels_cuda.
 */
#include "nn/op_cuda.h"

#include "core/mem.h"
#include "nn/op_cuda_impl.h"

#include <stdio.h>
#include <string.h>

static const int64_t MIB = 1 << 20;

fb_cuda_backend *fb_cuda_state(const fb_ops *ops)
{
    return ops->state;
}

fb_status fb_cuda_failed(const char *call, cudaError_t error)
{
    return FB_FAIL("CUDA: %s: %s (%s)", call, cudaGetErrorString(error), cudaGetErrorName(error));
}

void fb_cuda_note(const fb_ops *ops, const char *what, cudaError_t error)
{
    fb_cuda_queue *queue = &fb_cuda_state(ops)->queue;
    if (error == cudaSuccess || queue->error != cudaSuccess)
        return;
    queue->error = error;
    queue->failed = what;
}

static int has_failed(const fb_ops *ops)
{
    return fb_cuda_state(ops)->queue.error != cudaSuccess;
}

/* The first failure since the last time, forgotten now. */
static fb_status take_failure(const fb_ops *ops)
{
    fb_cuda_queue *queue = &fb_cuda_state(ops)->queue;
    const cudaError_t error = queue->error;
    queue->error = cudaSuccess;
    return error == cudaSuccess ? FB_OK : fb_cuda_failed(queue->failed, error);
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
    fb_cuda_note(ops, "cudaMemGetInfo", cudaMemGetInfo(&is_free, &total));
    *free_bytes = (int64_t)is_free;
    *total_bytes = (int64_t)total;
}

/* Bytes of all allocations with the subject of allocation i; 0 if an earlier one has it. */
static int64_t bytes_of_subject(const fb_cuda_backend *b, int i)
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
static void list_allocations(const fb_cuda_backend *b, size_t chars, char *text)
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
    list_allocations(fb_cuda_state(ops), sizeof held, held);
    return FB_FAIL("GPU memory: %lld MiB for %s do not fit: %lld of %lld MiB are free; choose a smaller data.patch, "
                   "eval.window, model.filters or data.device_cache_bytes, or fewer ranks on this GPU. This process "
                   "holds:%s",
                   (long long)((bytes + MIB - 1) / MIB), subject, (long long)(free_bytes / MIB),
                   (long long)(total_bytes / MIB), held[0] ? held : " nothing");
}

static fb_status remember(fb_cuda_backend *b, const void *memory, int64_t bytes, const char *subject)
{
    if (b->count == b->capacity) {
        const int capacity = b->capacity ? 2 * b->capacity : 64;
        FB_TRY(fb_mem_resize(&b->allocations, capacity, sizeof *b->allocations, "list of GPU memory"));
        b->capacity = capacity;
    }
    fb_cuda_allocation *a = &b->allocations[b->count++];
    a->memory = memory;
    a->bytes = bytes;
    snprintf(a->subject, sizeof a->subject, "%s", subject);
    return FB_OK;
}

static void forget(fb_cuda_backend *b, const void *memory)
{
    for (int i = 0; i < b->count; i++)
        if (b->allocations[i].memory == memory) {
            b->allocations[i] = b->allocations[--b->count];
            return;
        }
}

static void zero(const fb_ops *ops, void *memory, int64_t bytes)
{
    if (has_failed(ops))
        return;
    fb_cuda_note(ops, "cudaMemsetAsync", cudaMemsetAsync(memory, 0, (size_t)bytes, fb_cuda_state(ops)->queue.stream));
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
        return fb_cuda_failed("cudaMalloc", error);
    const fb_status status = remember(fb_cuda_state(ops), memory, bytes, subject);
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
    forget(fb_cuda_state(ops), *memory);
    fb_cuda_note(ops, "cudaFree", cudaFree(*memory));
    *memory = NULL;
}

static void copy(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    if (has_failed(ops))
        return;
    fb_cuda_note(ops, "copy on the device",
                 cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, fb_cuda_state(ops)->queue.stream));
}

static cudaError_t start_stages(fb_cuda_backend *b)
{
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < FB_CUDA_STAGES && error == cudaSuccess; i++) {
        if (b->stages[i].memory)
            continue;
        error = cudaHostAlloc(&b->stages[i].memory, FB_CUDA_STAGE_BYTES, cudaHostAllocDefault);
        if (error == cudaSuccess)
            error = cudaEventRecord(b->stages[i].sent, b->side);
    }
    return error;
}

/* One piece, by way of a stage that the device has done with. */
static cudaError_t send_piece(fb_cuda_stage *s, cudaStream_t stream, void *to, const void *from, size_t bytes)
{
    cudaError_t error = cudaEventSynchronize(s->sent);
    if (error != cudaSuccess)
        return error;
    memcpy(s->memory, from, bytes);
    error = cudaMemcpyAsync(to, s->memory, bytes, cudaMemcpyHostToDevice, stream);
    return error == cudaSuccess ? cudaEventRecord(s->sent, stream) : error;
}

static cudaError_t send_pieces(fb_cuda_backend *b, cudaStream_t stream, char *to, const char *from, int64_t bytes)
{
    cudaError_t error = start_stages(b);
    for (int64_t at = 0, i = 0; at < bytes && error == cudaSuccess; at += FB_CUDA_STAGE_BYTES, i++) {
        const int64_t rest = bytes - at, piece = rest < FB_CUDA_STAGE_BYTES ? rest : FB_CUDA_STAGE_BYTES;
        error = send_piece(&b->stages[i % FB_CUDA_STAGES], stream, to + at, from + at, (size_t)piece);
    }
    return error;
}

/* Never from the caller's own memory: CUDA does not promise to have read that when the call returns. */
static void upload(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    fb_cuda_backend *b = fb_cuda_state(ops);
    if (has_failed(ops))
        return;
    if (bytes <= FB_CUDA_STORE_BYTES_MAX && bytes % 4 == 0)
        fb_cuda_store(&b->queue, to, from, bytes);
    else
        fb_cuda_note(ops, "copy to the device", send_pieces(b, b->queue.stream, to, from, bytes));
}

static cudaError_t send_beside(fb_cuda_backend *b, void *to, const void *from, int64_t bytes)
{
    cudaError_t error = cudaStreamWaitEvent(b->side, b->turned, 0);
    if (error == cudaSuccess)
        error = send_pieces(b, b->side, to, from, bytes);
    if (error == cudaSuccess)
        error = cudaEventRecord(b->arrived, b->side);
    return error == cudaSuccess ? cudaStreamWaitEvent(b->queue.stream, b->arrived, 0) : error;
}

static void upload_beside(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    if (!has_failed(ops))
        fb_cuda_note(ops, "copy to the device", send_beside(fb_cuda_state(ops), to, from, bytes));
}

static void turn(const fb_ops *ops)
{
    fb_cuda_note(ops, "cudaEventRecord", cudaEventRecord(fb_cuda_state(ops)->turned, fb_cuda_state(ops)->queue.stream));
}

/* One piece, by way of a stage: what fails may leave the copy in progress, which must not find the caller's memory
 * gone. */
static void fetch_piece(const fb_ops *ops, fb_cuda_stage *s, void *to, const void *from, size_t bytes)
{
    fb_cuda_queue *queue = &fb_cuda_state(ops)->queue;
    if (!has_failed(ops))
        fb_cuda_note(ops, "page-locked memory", cudaEventSynchronize(s->sent));
    if (!has_failed(ops))
        fb_cuda_note(ops, "copy from the device",
                     cudaMemcpyAsync(s->memory, from, bytes, cudaMemcpyDeviceToHost, queue->stream));
    if (!has_failed(ops))
        fb_cuda_note(ops, "cudaEventRecord", cudaEventRecord(s->sent, queue->stream));
    if (!has_failed(ops))
        fb_cuda_note(ops, "work on the device", cudaStreamSynchronize(queue->stream));
    if (!has_failed(ops))
        memcpy(to, s->memory, bytes);
}

static fb_status download(const fb_ops *ops, void *to, const void *from, int64_t bytes)
{
    fb_cuda_backend *b = fb_cuda_state(ops);
    if (!has_failed(ops))
        fb_cuda_note(ops, "page-locked memory", start_stages(b));
    for (int64_t at = 0; at < bytes && !has_failed(ops); at += FB_CUDA_STAGE_BYTES) {
        const int64_t rest = bytes - at, piece = rest < FB_CUDA_STAGE_BYTES ? rest : FB_CUDA_STAGE_BYTES;
        fetch_piece(ops, &b->stages[0], (char *)to + at, (const char *)from + at, (size_t)piece);
    }
    return take_failure(ops);
}

/* --- recordings --------------------------------------------------------------------------------------- */

static fb_status record_begin(const fb_ops *ops)
{
    FB_TRY(take_failure(ops)); /* after which nothing would be recorded */
    CUDA_TRY(cudaStreamBeginCapture(fb_cuda_state(ops)->queue.stream, cudaStreamCaptureModeThreadLocal));
    return FB_OK;
}

static fb_status record_end(const fb_ops *ops, void **recording)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    fb_cuda_note(ops, "cudaStreamEndCapture", cudaStreamEndCapture(fb_cuda_state(ops)->queue.stream, &graph));
    const fb_status status = take_failure(ops); /* of a call that was to be recorded */
    if (status != FB_OK) {
        (void)cudaGetLastError();
        if (graph)
            (void)cudaGraphDestroy(graph);
        return status;
    }
    const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
    CUDA_TRY(cudaGraphDestroy(graph));
    if (error != cudaSuccess)
        return fb_cuda_failed("cudaGraphInstantiate", error);
    *recording = executable;
    return FB_OK;
}

static void record_replay(const fb_ops *ops, void *recording)
{
    if (!has_failed(ops))
        fb_cuda_note(ops, "cudaGraphLaunch", cudaGraphLaunch(recording, fb_cuda_state(ops)->queue.stream));
}

static void record_free(const fb_ops *ops, void **recording)
{
    if (*recording)
        fb_cuda_note(ops, "cudaGraphExecDestroy", cudaGraphExecDestroy(*recording));
    *recording = NULL;
}

/* --- memory that convolutions share --------------------------------------------------------------------- */

fb_status fb_cuda_share(const fb_ops *ops, fb_cuda_shared **largest, size_t bytes, const char *subject,
                        fb_cuda_shared **out)
{
    fb_cuda_shared *shared = *largest;
    if (!shared || shared->bytes < bytes) {
        FB_TRY(FB_ALLOC(shared, 1, subject));
        const fb_status status = alloc(ops, (int64_t)bytes, subject, &shared->memory);
        if (status != FB_OK) {
            FB_FREE(shared);
            return status;
        }
        shared->bytes = bytes;
        *largest = shared;
    }
    shared->convolutions++;
    *out = shared;
    return FB_OK;
}

void fb_cuda_leave(const fb_ops *ops, fb_cuda_shared **largest, fb_cuda_shared **shared)
{
    fb_cuda_shared *s = *shared;
    *shared = NULL;
    if (!s || --s->convolutions > 0)
        return;
    if (*largest == s)
        *largest = NULL;
    release(ops, &s->memory);
    FB_FREE(s);
}

/* --- the rest: one kernel each ------------------------------------------------------------------------------ */

static void sample(const fb_ops *ops, const fb_sample *from, const int64_t patch[3], fb_act *x, uint8_t *target)
{
    fb_cuda_sample(&fb_cuda_state(ops)->queue, from, patch, x, target);
}

static void norm_relu_fwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const float *gamma,
                          const float *beta, fb_act *y, float *stats)
{
    fb_cuda_norm_relu_fwd(&fb_cuda_state(ops)->queue, voxels, channels, x, gamma, beta, y, stats);
}

static void norm_relu_bwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const float *gamma,
                          const float *beta, const float *stats, const fb_act *dy, fb_act *dx, float *dgamma,
                          float *dbeta)
{
    fb_cuda_norm_relu_bwd(&fb_cuda_state(ops)->queue, voxels, channels, x, gamma, beta, stats, dy, dx, dgamma, dbeta);
}

static void upsample_add_fwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *x,
                             const fb_act *skip, fb_act *y)
{
    fb_cuda_upsample_add_fwd(&fb_cuda_state(ops)->queue, in, channels, x, skip, y);
}

static void upsample_bwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *dy, fb_act *dx)
{
    fb_cuda_upsample_bwd(&fb_cuda_state(ops)->queue, in, channels, dy, dx);
}

static void add(const fb_ops *ops, int64_t count, const fb_act *a, const fb_act *b, fb_act *y)
{
    fb_cuda_add(&fb_cuda_state(ops)->queue, count, a, b, y);
}

static void scale_channels(const fb_ops *ops, int64_t voxels, int64_t channels, const float *scale, fb_act *x)
{
    fb_cuda_scale_channels(&fb_cuda_state(ops)->queue, voxels, channels, scale, x);
}

static void bias_add(const fb_ops *ops, int64_t voxels, const float *bias, float *y)
{
    fb_cuda_bias_add(&fb_cuda_state(ops)->queue, voxels, bias, y);
}

static void bias_bwd(const fb_ops *ops, int64_t voxels, const float *dy, float *dbias)
{
    fb_cuda_bias_bwd(&fb_cuda_state(ops)->queue, voxels, dy, dbias);
}

static void dice_loss(const fb_ops *ops, int64_t voxels, const float *logits, const uint8_t *target, float *dlogits,
                      double *loss_sum)
{
    fb_cuda_dice_loss(&fb_cuda_state(ops)->queue, voxels, logits, target, dlogits, loss_sum);
}

static void count_step(const fb_ops *ops, int64_t *step)
{
    fb_cuda_count_step(&fb_cuda_state(ops)->queue, step);
}

static void adam_step(const fb_ops *ops, const fb_adam_spec *spec, int64_t count, const int64_t *step, float *w,
                      const float *g, float *m, float *v)
{
    fb_cuda_adam_step(&fb_cuda_state(ops)->queue, spec, count, step, w, g, m, v);
}

static void sgd_step(const fb_ops *ops, double learning_rate, double weight_decay, int64_t count, float *w,
                     const float *g)
{
    fb_cuda_sgd_step(&fb_cuda_state(ops)->queue, learning_rate, weight_decay, count, w, g);
}

static void take_window(const fb_ops *ops, const fb_act *image, const int64_t extent[3], const int64_t start[3],
                        const int64_t window[3], fb_act *x)
{
    fb_cuda_take_window(&fb_cuda_state(ops)->queue, image, extent, start, window, x);
}

static void add_window(const fb_ops *ops, const float *logits, const int64_t extent[3], const int64_t start[3],
                       const int64_t window[3], float *sum)
{
    fb_cuda_add_window(&fb_cuda_state(ops)->queue, logits, extent, start, window, sum);
}

static void describe(const fb_ops *ops, size_t chars, char *text)
{
    snprintf(text, chars, "%s", fb_cuda_state(ops)->description);
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
    .conv_create = fb_conv_create_cuda,
    .conv_destroy = fb_conv_destroy_cuda,
    .conv_bytes = fb_conv_bytes_cuda,
    .conv_load = fb_conv_load_cuda,
    .conv_fwd = fb_conv_fwd_cuda,
    .conv_bwd_data = fb_conv_bwd_data_cuda,
    .conv_bwd_weights = fb_conv_bwd_weights_cuda,
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
    fb_cuda_backend *b = fb_cuda_state(ops);
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
    for (int i = 0; i < FB_CUDA_STAGES; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&b->stages[i].sent, cudaEventDisableTiming));
    CUDA_TRY(cudaEventRecord(b->turned, b->queue.stream));
    return alloc(ops, FB_CUDA_SCRATCH_BYTES, "partial sums", &b->queue.scratch);
}

fb_status fb_ops_cuda_create(fb_act_type act, fb_ops **out)
{
    fb_ops *ops = NULL;
    fb_cuda_backend *b = NULL;
    FB_TRY(FB_ALLOC(ops, 1, "GPU backend"));
    *ops = table;
    ops->act_bytes = act == FB_ACT_BF16 ? 2 : 4;
    fb_status status = FB_ALLOC(b, 1, "GPU backend");
    if (status != FB_OK) {
        FB_FREE(ops);
        return status;
    }
    ops->state = b;
    b->queue.act = b->engines.choices.act = act;
    status = start(ops, act);
    if (status != FB_OK)
        fb_ops_cuda_destroy(&ops);
    *out = ops;
    return status;
}

static void stop_streams(fb_cuda_backend *b)
{
    const cudaEvent_t events[] = {b->turned, b->arrived, b->stages[0].sent, b->stages[1].sent};
    const cudaStream_t streams[] = {b->queue.stream, b->side};
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++)
        if (streams[i])
            (void)cudaStreamDestroy(streams[i]);
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
        if (events[i])
            (void)cudaEventDestroy(events[i]);
    for (int i = 0; i < FB_CUDA_STAGES; i++)
        if (b->stages[i].memory)
            (void)cudaFreeHost(b->stages[i].memory);
}

void fb_ops_cuda_destroy(fb_ops **ops)
{
    if (!*ops)
        return;
    fb_cuda_backend *b = fb_cuda_state(*ops);
    fb_cuda_engines_free(&b->engines);
    release(*ops, &b->queue.scratch);
    stop_streams(b);
    FB_FREE(b->allocations);
    FB_FREE(b);
    FB_FREE(*ops);
}
