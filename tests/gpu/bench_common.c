/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include "core/timer.h"
#include "segresnet_layers.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

/* --- JSON ------------------------------------------------------------------------------------------------ */

static void separate(json *j, const char *key)
{
    fprintf(j->file, "%s\n%*s", j->count[j->depth]++ ? "," : "", 2 * j->depth, "");
    if (key)
        fprintf(j->file, "\"%s\": ", key);
}

void json_open(json *j, const char *key, char bracket)
{
    if (j->depth > 0)
        separate(j, key);
    fputc(bracket, j->file);
    FB_ASSERT(j->depth + 1 < JSON_DEPTH);
    j->count[++j->depth] = 0;
}

void json_close(json *j, char bracket)
{
    j->depth--;
    fprintf(j->file, "\n%*s%c%s", 2 * j->depth, "", bracket, j->depth == 0 ? "\n" : "");
    fflush(j->file);
}

void json_text(json *j, const char *key, const char *value)
{
    separate(j, key);
    fputc('"', j->file);
    for (const char *c = value; *c; c++)
        if (*c == '"' || *c == '\\')
            fprintf(j->file, "\\%c", *c);
        else
            fprintf(j->file, (unsigned char)*c < ' ' ? "\\u%04x" : "%c", *c);
    fputc('"', j->file);
}

void json_number(json *j, const char *key, double value)
{
    separate(j, key);
    fprintf(j->file, isfinite(value) ? "%.6g" : "null", value);
}

void json_integer(json *j, const char *key, int64_t value)
{
    separate(j, key);
    fprintf(j->file, "%lld", (long long)value);
}

/* --- the run --------------------------------------------------------------------------------------------- */

fb_status bench_cuda(cudaError_t error, const char *call)
{
    return error == cudaSuccess ? FB_OK
                                : FB_FAIL("%s: %s (%s)", call, cudaGetErrorString(error), cudaGetErrorName(error));
}

void bench_progress(const bench *b, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "bench_gpu: %6.1f s  ", fb_time_s() - b->begin_s);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

int bench_is_late(const bench *b)
{
    return fb_time_s() - b->begin_s > b->limit_s;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(int count, double *values)
{
    qsort(values, (size_t)count, sizeof *values, compare);
    return (values[(count - 1) / 2] + values[count / 2]) / 2.0;
}

static fb_status time_graph(bench *b, cudaGraphExec_t graph, int repeats, double *seconds_each)
{
    enum { MOST = 64 };
    double seconds[MOST];
    for (int i = 0; i < b->warm_up; i++)
        CUDA_OK(cudaGraphLaunch(graph, b->stream));
    for (int i = 0; i < b->replays; i++) {
        float ms = 0.0f;
        FB_ASSERT(i < MOST);
        CUDA_OK(cudaEventRecord(b->begin, b->stream));
        CUDA_OK(cudaGraphLaunch(graph, b->stream));
        CUDA_OK(cudaEventRecord(b->end, b->stream));
        CUDA_OK(cudaEventSynchronize(b->end));
        CUDA_OK(cudaEventElapsedTime(&ms, b->begin, b->end));
        seconds[i] = (double)ms * 1e-3 / repeats;
    }
    CUDA_OK(cudaStreamSynchronize(b->stream));
    *seconds_each = bench_median(b->replays, seconds);
    return FB_OK;
}

fb_status bench_time(bench *b, bench_work work, void *context, int repeats, double *seconds_each)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    fb_status status = FB_OK;
    CUDA_OK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < repeats && status == FB_OK; i++)
        status = work(b, context, i);
    const cudaError_t ended = cudaStreamEndCapture(b->stream, &graph);
    if (status != FB_OK)
        return status;
    CUDA_OK(ended);
    CUDA_OK(cudaGraphInstantiate(&executable, graph, 0));
    CUDA_OK(cudaGraphDestroy(graph));
    status = time_graph(b, executable, repeats, seconds_each);
    (void)cudaGraphExecDestroy(executable);
    return status;
}

/* --- counts ---------------------------------------------------------------------------------------------- */

fb_net_spec bench_spec(int64_t filters)
{
    return (fb_net_spec){
        .filters = filters, .levels = LEVELS, .blocks_down = {1, 2, 2, 4}, .blocks_up = {1, 1, 1}, .dropout = 0.2};
}

const char *bench_type_name(fb_act_type type)
{
    return type == FB_ACT_BF16 ? "bf16" : "f32";
}

static double conv_flop(const fb_conv_shape *s)
{
    double voxels = 1.0;
    for (int axis = 0; axis < 3; axis++)
        voxels *= (double)((s->in[axis] + s->stride - 1) / s->stride);
    return 2.0 * voxels * (double)(s->c_in * s->c_out * s->kernel * s->kernel * s->kernel);
}

double bench_forward_flop(const bench_case *of)
{
    conv_layer layers[CONV_LAYERS];
    double flop = 0.0;
    list_conv_layers(of->shape, of->filters, layers);
    for (int i = 0; i < CONV_LAYERS; i++)
        flop += conv_flop(&layers[i].shape) * layers[i].times;
    return flop;
}

/* Backward is twice forward, without the input gradient of the first layer. */
double bench_step_flop(const bench_case *of)
{
    conv_layer layers[CONV_LAYERS];
    list_conv_layers(of->shape, of->filters, layers);
    return 3.0 * bench_forward_flop(of) - conv_flop(&layers[0].shape);
}

double bench_step_bytes(const bench_case *of)
{
    const double bytes_bf16 = 2.0, passes_a_block = 33.0, other_passes = 28.0, of_image_and_logits = 64.0;
    double blocks = 0.0;
    for (int level = 0; level < LEVELS; level++)
        blocks += blocks_at_level[level] * pow(0.25, level); /* a level has 1/4 of the bytes of the one above */
    return (double)(of->shape[0] * of->shape[1] * of->shape[2]) *
           (bytes_bf16 * (double)of->filters * (passes_a_block * blocks + other_passes) + of_image_and_logits);
}

/* --- floors ---------------------------------------------------------------------------------------------- */

typedef struct copying {
    char *from, *to;
    int64_t bytes;
    int by_kernel;
} copying;

static fb_status queue_copy(bench *b, void *context, int64_t repetition)
{
    const copying *c = context;
    (void)repetition;
    if (c->by_kernel)
        CUDA_OK(bench_copy(c->from, c->to, c->bytes, b->stream));
    else
        CUDA_OK(cudaMemcpyAsync(c->to, c->from, (size_t)c->bytes, cudaMemcpyDeviceToDevice, b->stream));
    return FB_OK;
}

static fb_status time_copies(bench *b, copying *c)
{
    double kernel_s = NAN, runtime_s = NAN;
    const int repeats = 4;
    CUDA_OK(bench_fill(c->from, c->bytes, -1, 1, b->stream));
    CUDA_OK(bench_fill(c->to, c->bytes, -1, 2, b->stream));
    c->by_kernel = 1;
    FB_TRY(bench_time(b, queue_copy, c, repeats, &kernel_s));
    c->by_kernel = 0;
    FB_TRY(bench_time(b, queue_copy, c, repeats, &runtime_s));
    const double kernel = 2.0 * (double)c->bytes / kernel_s, runtime = 2.0 * (double)c->bytes / runtime_s;
    b->copy_rate = fmax(kernel, runtime);
    json_open(&b->out, "floors", '{');
    json_integer(&b->out, "copied_bytes", c->bytes);
    json_number(&b->out, "copy_kernel_bytes_per_s", kernel);
    json_number(&b->out, "copy_runtime_bytes_per_s", runtime);
    json_number(&b->out, "copy_bytes_per_s", b->copy_rate);
    json_close(&b->out, '}');
    bench_progress(b, "copy: kernel %.0f GB/s, cudaMemcpyAsync %.0f GB/s, read and written", kernel * 1e-9,
                   runtime * 1e-9);
    return FB_OK;
}

fb_status bench_floors(bench *b)
{
    copying c = {.bytes = b->smoke ? 1 << 16 : (int64_t)1 << 30};
    void *from = NULL, *to = NULL;
    CUDA_OK(cudaMalloc(&from, (size_t)c.bytes));
    const cudaError_t error = cudaMalloc(&to, (size_t)c.bytes);
    c.from = from;
    c.to = to;
    const fb_status status = error == cudaSuccess ? time_copies(b, &c) : bench_cuda(error, "cudaMalloc");
    (void)cudaFree(from);
    (void)cudaFree(to);
    return status;
}
