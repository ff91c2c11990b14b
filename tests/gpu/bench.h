/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of bench_gpu: speed and memory of the GPU backend. Times are medians of device events, after a warm-up, on
 * random data. bench_gpu.c reads the command line and writes the report; the parts fill it.
 */
#pragma once

#include "core/status.h"
#include "nn/kernels_cuda.h"
#include "nn/params.h"

#include <stdio.h>

/* --- JSON: one value after the other, in the order of the calls --- */

enum { JSON_DEPTH = 8 };
typedef struct json {
    FILE *file;
    int depth;
    int count[JSON_DEPTH]; /* values so far at each depth */
} json;

void json_open(json *j, const char *key, char bracket); /* key NULL in an array; bracket { or [ */
void json_close(json *j, char bracket);
void json_text(json *j, const char *key, const char *value);
void json_number(json *j, const char *key, double value); /* null where not finite */
void json_integer(json *j, const char *key, int64_t value);

/* --- the run --- */

typedef struct bench {
    int smoke;            /* smallest sizes, few repetitions */
    int replays, warm_up; /* measured and unmeasured ones */
    double begin_s, limit_s;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    double copy_rate; /* bytes read and written a second, of this run */
    json out;
} bench;

#define CUDA_OK(call) FB_TRY(bench_cuda(call, #call))
fb_status bench_cuda(cudaError_t error, const char *call) FB_MUST_USE;

/* A line on standard error with the seconds since the start. */
void bench_progress(const bench *b, const char *format, ...) FB_PRINTF(2, 3);
int bench_is_late(const bench *b); /* no case may begin any more */

/* Median of the seconds in values (count), which it sorts. */
double bench_median(int count, double *values);

/* What is timed: `repeats` calls of queue, which only queues work on b->stream, recorded as a graph and replayed. */
typedef fb_status (*bench_work)(bench *b, void *context, int64_t repetition);
fb_status bench_time(bench *b, bench_work work, void *context, int repeats, double *seconds_each) FB_MUST_USE;

/* --- the parts --- */

/* An architecture of the study and an input. */
typedef struct bench_case {
    int64_t filters, shape[3];
} bench_case;

fb_net_spec bench_spec(int64_t filters);
const char *bench_type_name(fb_act_type type);

fb_status bench_floors(bench *b) FB_MUST_USE;                                            /* "floors" */
fb_status bench_kernels(bench *b, const bench_case *of, fb_act_type type) FB_MUST_USE;   /* one of "kernels" */
fb_status bench_training(bench *b, const bench_case *of, fb_act_type type) FB_MUST_USE;  /* one of "steps" */
fb_status bench_inference(bench *b, const bench_case *of, fb_act_type type) FB_MUST_USE; /* one of "inference" */
fb_status bench_one_step(bench *b, const bench_case *of, fb_act_type type) FB_MUST_USE;  /* for a profiler */

/* Counts of bench_case: FLOP of a forward pass, of forward and backward, and the bytes of the floor, as in
 * tests/gpu/README.md. */
double bench_forward_flop(const bench_case *of);
double bench_step_flop(const bench_case *of);
double bench_step_bytes(const bench_case *of);

/* --- bench_device.cu --- */

#ifdef __cplusplus
extern "C" {
#endif
/* bytes: a multiple of 16. */
cudaError_t bench_copy(const void *from, void *to, int64_t bytes, cudaStream_t stream);
/* bfloat16 numbers, uniform on [lo, 1), lo -1 or 0; pairs of them are floats of that range as well. */
cudaError_t bench_fill(void *to, int64_t bytes, int lo, unsigned seed, cudaStream_t stream);
/* Bytes, each `mask` of random bits. */
cudaError_t bench_fill_bytes(void *to, int64_t bytes, unsigned mask, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
