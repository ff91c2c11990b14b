/* SPDX-License-Identifier: Apache-2.0
 *
 * Time of every operation of SegResNet on one backend, layer by layer: bench_ops [SIZE [THREADS [dnnl|ref]]], defaults
 * 64, 1, dnnl. Convolutions in GFLOP/s (2 operations a multiply-add), the others in GB/s (each operand counted once),
 * beside the copy bandwidth of an array of the largest activation's size. Medians over repeats, and the best one (on a
 * machine with other work the median says more about that); random input.
 */
#include "core/mem.h"
#include "core/rng.h"
#include "core/timer.h"
#include "nn/op.h"
#include "segresnet_layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 15, BUFFERS = 4 };

typedef struct bench {
    const fb_ops *ops;
    int64_t size, filters;
    float *buffer[BUFFERS]; /* each as large as the largest activation */
    float *weights, *gradient;
    double median_s, best_s; /* sums over a training step, by how often it runs each operation */
} bench;

/* What is timed: one operation on the arrays of `b`. */
typedef struct job {
    bench *b;
    fb_conv *conv;
    fb_conv_shape shape;
    int64_t voxels, channels;
} job;

typedef fb_status job_fn(const job *j);

static fb_status run_fwd(const job *j)
{
    return j->b->ops->conv_fwd(j->conv, j->b->buffer[0], j->b->buffer[1]);
}

static fb_status run_bwd_data(const job *j)
{
    return j->b->ops->conv_bwd_data(j->conv, j->b->buffer[2], j->b->buffer[1]);
}

static fb_status run_bwd_weights(const job *j)
{
    return j->b->ops->conv_bwd_weights(j->conv, j->b->buffer[0], j->b->buffer[2], j->b->gradient);
}

static fb_status run_load(const job *j)
{
    return j->b->ops->conv_load(j->conv, j->b->weights);
}

/* The affine parameters and statistics of the norm lie in `weights`: gamma, beta, stats, dgamma, dbeta. */
static fb_status run_norm_fwd(const job *j)
{
    const bench *b = j->b;
    float *w = b->weights;
    const int64_t c = j->channels;
    b->ops->norm_relu_fwd(ops, j->voxels, c, b->buffer[0], w, w + c, b->buffer[1], w + 2 * c);
    return FB_OK;
}

static fb_status run_norm_bwd(const job *j)
{
    const bench *b = j->b;
    float *w = b->weights;
    const int64_t c = j->channels;
    b->ops->norm_relu_bwd(ops, j->voxels, c, b->buffer[0], w, w + c, w + 2 * c, b->buffer[2], b->buffer[3], w + 4 * c,
                          w + 5 * c);
    return FB_OK;
}

static fb_status run_upsample(const job *j)
{
    j->b->ops->upsample_add_fwd(ops, j->shape.in, j->channels, j->b->buffer[0], j->b->buffer[2], j->b->buffer[1]);
    return FB_OK;
}

static fb_status run_upsample_bwd(const job *j)
{
    j->b->ops->upsample_bwd(ops, j->shape.in, j->channels, j->b->buffer[0], j->b->buffer[1]);
    return FB_OK;
}

static fb_status run_add(const job *j)
{
    j->b->ops->add(ops, j->voxels * j->channels, j->b->buffer[0], j->b->buffer[2], j->b->buffer[1]);
    return FB_OK;
}

static fb_status run_copy(const job *j)
{
    memcpy(j->b->buffer[1], j->b->buffer[0], (size_t)(j->voxels * j->channels) * sizeof(float));
    return FB_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static fb_status time_job(job_fn *fn, const job *j, double *median_s, double *best_s)
{
    double seconds[REPEATS];
    FB_TRY(fn(j));
    for (int i = 0; i < REPEATS; i++) {
        const double start = fb_time_s();
        FB_TRY(fn(j));
        seconds[i] = fb_time_s() - start;
    }
    qsort(seconds, REPEATS, sizeof *seconds, compare_doubles);
    *median_s = seconds[REPEATS / 2];
    *best_s = seconds[0];
    return FB_OK;
}

/* Times one operation and prints its line; `work` is its FLOP or bytes. */
static fb_status report(const job *j, const char *layer, const char *what, job_fn *fn, double work, const char *unit,
                        int times)
{
    double median_s = 0.0, best_s = 0.0;
    FB_TRY(time_job(fn, j, &median_s, &best_s));
    printf("%-8s %-16s %4lld -> %-4lld %9.3f ms %7.1f %-8s  best %9.3f ms %7.1f %-8s x%d\n", layer, what,
           (long long)j->shape.c_in, (long long)j->shape.c_out, median_s * 1e3, work / median_s * 1e-9, unit,
           best_s * 1e3, work / best_s * 1e-9, unit, times);
    j->b->median_s += median_s * times;
    j->b->best_s += best_s * times;
    return FB_OK;
}

static int64_t out_voxels(const fb_conv_shape *s)
{
    int64_t voxels = 1;
    for (int axis = 0; axis < 3; axis++)
        voxels *= (s->in[axis] + s->stride - 1) / s->stride;
    return voxels;
}

static fb_status bench_conv(bench *b, const conv_layer *layer)
{
    const fb_conv_shape *s = &layer->shape;
    const int64_t weights = s->c_in * s->c_out * s->kernel * s->kernel * s->kernel;
    const double flop = 2.0 * (double)(out_voxels(s) * weights), load_bytes = 8.0 * (double)weights;
    job j = {.b = b, .shape = *s};
    const double start = fb_time_s();
    FB_TRY(b->ops->conv_create(ops, s, &j.conv));
    printf("%-8s created in %.1f ms\n", layer->name, (fb_time_s() - start) * 1e3);
    fb_status status = report(&j, layer->name, "load", run_load, load_bytes, "GB/s", layer->times);
    if (status == FB_OK)
        status = report(&j, layer->name, "forward", run_fwd, flop, "GFLOP/s", layer->times);
    if (status == FB_OK && strcmp(layer->name, "init") != 0)
        status = report(&j, layer->name, "backward data", run_bwd_data, flop, "GFLOP/s", layer->times);
    if (status == FB_OK)
        status = report(&j, layer->name, "backward weights", run_bwd_weights, flop, "GFLOP/s", layer->times);
    b->ops->conv_destroy(&j.conv);
    return status;
}

static fb_status bench_level(bench *b, int level)
{
    static const char *const names[LEVELS] = {"level 0", "level 1", "level 2", "level 3"};
    const int64_t n = b->size >> level, c = b->filters << level;
    const int blocks = blocks_at_level[level], norms = 2 * blocks + (level == 0);
    const double bytes = 4.0 * (double)(n * n * n * c);
    const job j = {.b = b, .shape = {{n / 2, n / 2, n / 2}, c, c, 0, 0}, .voxels = n * n * n, .channels = c};
    FB_TRY(report(&j, names[level], "norm forward", run_norm_fwd, 3 * bytes, "GB/s", norms));
    FB_TRY(report(&j, names[level], "norm backward", run_norm_bwd, 6 * bytes, "GB/s", norms));
    FB_TRY(report(&j, names[level], "add", run_add, 3 * bytes, "GB/s", blocks));
    if (level < LEVELS - 1) {
        FB_TRY(report(&j, names[level], "upsample + add", run_upsample, 2.125 * bytes, "GB/s", 1));
        FB_TRY(report(&j, names[level], "upsample bwd", run_upsample_bwd, 1.125 * bytes, "GB/s", 1));
    }
    return FB_OK;
}

static fb_status bench_all(bench *b)
{
    conv_layer layers[CONV_LAYERS];
    list_conv_layers((const int64_t[3]){b->size, b->size, b->size}, b->filters, layers);
    const job copy = {.b = b, .voxels = b->size * b->size * b->size, .channels = b->filters};
    b->median_s = b->best_s = 0.0;
    printf("\nfilters %lld, %lld^3\n", (long long)b->filters, (long long)b->size);
    FB_TRY(report(&copy, "", "memcpy", run_copy, 8.0 * (double)(copy.voxels * copy.channels), "GB/s", 0));
    for (int i = 0; i < CONV_LAYERS; i++)
        FB_TRY(bench_conv(b, &layers[i]));
    for (int level = 0; level < LEVELS; level++)
        FB_TRY(bench_level(b, level));
    printf("sum over a training step: %.1f ms, best %.1f ms\n", b->median_s * 1e3, b->best_s * 1e3);
    return FB_OK;
}

static fb_status allocate(bench *b, int64_t max_filters)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    const int64_t count = b->size * b->size * b->size * max_filters, weights = 27 * 64 * max_filters * max_filters;
    for (int i = 0; i < BUFFERS; i++) {
        FB_TRY(FB_ALLOC(b->buffer[i], count, "activation"));
        for (int64_t e = 0; e < count; e++)
            b->buffer[i][e] = (float)fb_rng_range(&rng, (uint32_t)e, -1.0, 1.0);
    }
    FB_TRY(FB_ALLOC(b->gradient, weights, "weight gradient"));
    FB_TRY(FB_ALLOC(b->weights, weights, "weights"));
    for (int64_t e = 0; e < weights; e++)
        b->weights[e] = (float)fb_rng_range(&rng, (uint32_t)e, -0.1, 0.1);
    return FB_OK;
}

static fb_status run(int argc, char **argv)
{
    const long size = argc > 1 ? strtol(argv[1], NULL, 10) : 64, threads = argc > 2 ? strtol(argv[2], NULL, 10) : 1;
    if (size < 8 || size > 256 || size % 8 != 0 || threads < 1 || threads > 256)
        return FB_USAGE("bench_ops [SIZE [THREADS [dnnl|ref]]]: SIZE a multiple of 8 up to 256, THREADS 1 to 256");
    bench b = {.ops = argc > 3 && strcmp(argv[3], "ref") == 0 ? &fb_ops_ref : &fb_ops_dnnl, .size = size};
    fb_ops_set_threads((int)threads);
    printf("backend %s, threads %ld\n", b.ops->name, threads);
    fb_status status = allocate(&b, 16);
    for (b.filters = 8; b.filters <= 16 && status == FB_OK; b.filters *= 2)
        status = bench_all(&b);
    for (int i = 0; i < BUFFERS; i++)
        FB_FREE(b.buffer[i]);
    FB_FREE(b.gradient);
    FB_FREE(b.weights);
    return status;
}

int main(int argc, char **argv)
{
    fb_status status = run(argc, argv);
    const int exit_code = fb_error_exit_code(status);
    if (status != FB_OK)
        fprintf(stderr, "bench_ops: %s\n", fb_error_message(status));
    fb_error_free(&status);
    return exit_code;
}
