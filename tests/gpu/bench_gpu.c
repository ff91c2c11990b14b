/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed and memory of the GPU backend, as JSON (its fields: tests/gpu/README.md).
 *   bench_gpu --probe                       says which device there is; 1 and the reason where there is none
 *   bench_gpu [--output FILE] [--limit S]   everything; no case begins after S seconds (default 300)
 *   bench_gpu --smoke [--output FILE]       the same at a size that the emulated GPU of the tests can do
 *   bench_gpu --one-step FILTERS            one training step at 128^3 in bfloat16, for a profiler
 */
#include "bench.h"

#include "core/timer.h"
#include "nn/op_cuda.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct request {
    int probe, smoke;
    long one_step;
    const char *output;
    double limit_s;
} request;

typedef fb_status (*case_function)(bench *b, const bench_case *of, fb_act_type type);

/* One object of an array; a case that fails says so in it and the others go on. */
static void run_case(bench *b, const char *what, case_function measure, const bench_case *of, fb_act_type type,
                     int *failed)
{
    json_open(&b->out, NULL, '{');
    json_integer(&b->out, "filters", of->filters);
    json_open(&b->out, "shape", '[');
    for (int axis = 0; axis < 3; axis++)
        json_integer(&b->out, NULL, of->shape[axis]);
    json_close(&b->out, ']');
    json_text(&b->out, "type", bench_type_name(type));
    bench_progress(b, "%s, %lld filters, %lld x %lld x %lld, %s", what, (long long)of->filters, (long long)of->shape[0],
                   (long long)of->shape[1], (long long)of->shape[2], bench_type_name(type));
    const int depth = b->out.depth;
    fb_status status = bench_is_late(b) ? FB_FAIL("not run: out of time") : measure(b, of, type);
    while (b->out.depth > depth)
        json_close(&b->out, ']');
    if (status != FB_OK) {
        bench_progress(b, "%s", fb_error_message(status));
        json_text(&b->out, "error", fb_error_message(status));
        fb_error_free(&status);
        *failed = 1;
    }
    json_close(&b->out, '}');
}

/* The most wanted first. */
static int run_cases(bench *b)
{
    static const bench_case small[] = {{8, {8, 8, 8}}};
    static const bench_case cube[] = {{16, {128, 128, 128}}, {8, {128, 128, 128}}, {32, {128, 128, 128}}};
    static const bench_case step[] = {{16, {128, 128, 128}},
                                      {8, {128, 128, 128}},
                                      {32, {128, 128, 128}},
                                      {16, {224, 224, 144}},
                                      {8, {224, 224, 144}}};
    static const bench_case whole[] = {{16, {240, 240, 160}}, {8, {240, 240, 160}}, {32, {240, 240, 160}}};
    const struct {
        const char *key, *what;
        case_function measure;
        const bench_case *cases;
        int count[2]; /* in float32, which is the comparison path, and in bfloat16 */
    } parts[] = {{"steps", "step", bench_training, step, {2, 5}},
                 {"kernels", "kernels", bench_kernels, cube, {1, 3}},
                 {"inference", "inference", bench_inference, whole, {1, 3}}};
    int failed = 0;
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        json_open(&b->out, parts[p].key, '[');
        for (int type = FB_ACT_BF16; type >= (b->smoke ? FB_ACT_BF16 : FB_ACT_F32); type--)
            for (int i = 0; i < (b->smoke ? 1 : parts[p].count[type]); i++)
                run_case(b, parts[p].what, parts[p].measure, b->smoke ? &small[i] : &parts[p].cases[i],
                         (fb_act_type)type, &failed);
        json_close(&b->out, ']');
    }
    return failed;
}

static void describe(bench *b, const fb_cuda_device *device)
{
    char text[64];
    const time_t now = time(NULL);
    struct tm utc;
    json *j = &b->out;
    json_integer(j, "schema", 1);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    json_text(j, "date", text);
    json_text(j, "device", device->name);
    json_integer(j, "compute_capability", device->major * 10 + device->minor);
    json_integer(j, "memory_bytes", device->total_bytes);
    fb_cuda_versions(sizeof text, text);
    json_text(j, "versions", text);
    json_integer(j, "replays", b->replays);
    bench_progress(b, "%s, %s", device->name, text);
}

static fb_status measure_all(bench *b, const fb_cuda_device *device)
{
    json_open(&b->out, NULL, '{');
    describe(b, device);
    FB_TRY(bench_floors(b));
    const int failed = run_cases(b);
    json_number(&b->out, "seconds", fb_time_s() - b->begin_s);
    json_close(&b->out, '}');
    return failed ? FB_FAIL("not every case was measured: see \"error\" in the report") : FB_OK;
}

static fb_status run(const request *r)
{
    bench b = {.smoke = r->smoke,
               .replays = r->smoke ? 1 : 15,
               .warm_up = r->smoke ? 0 : 3,
               .limit_s = r->limit_s,
               .begin_s = fb_time_s()};
    const bench_case profiled = {r->one_step, {128, 128, 128}};
    fb_cuda_device device;
    char why[256];
    if (fb_cuda_count(sizeof why, why) == 0)
        return FB_FAIL("there is no GPU here: %s", why);
    FB_TRY(fb_cuda_use(0, &device));
    if (r->probe) {
        printf("%s, sm_%d%d, %lld MiB\n", device.name, device.major, device.minor,
               (long long)(device.total_bytes >> 20));
        return FB_OK;
    }
    CUDA_OK(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking));
    CUDA_OK(cudaEventCreateWithFlags(&b.begin, 0));
    CUDA_OK(cudaEventCreateWithFlags(&b.end, 0));
    if (r->one_step)
        return bench_one_step(&b, &profiled, FB_ACT_BF16);
    b.out.file = r->output ? fopen(r->output, "w") : stdout;
    if (!b.out.file)
        return FB_FAIL("%s: %s", r->output, strerror(errno));
    const fb_status status = measure_all(&b, &device);
    if (r->output && fclose(b.out.file) != 0)
        return fb_error_first(status, FB_FAIL("%s: %s", r->output, strerror(errno)));
    return status;
}

static fb_status parse(int argc, char **argv, request *r)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        char *end = NULL;
        if (strcmp(argv[i], "--probe") == 0) {
            r->probe = 1;
        } else if (strcmp(argv[i], "--smoke") == 0) {
            r->smoke = 1;
        } else if (value && strcmp(argv[i], "--output") == 0) {
            r->output = argv[++i];
        } else if (value && strcmp(argv[i], "--limit") == 0) {
            r->limit_s = strtod(argv[++i], &end);
        } else if (value && strcmp(argv[i], "--one-step") == 0) {
            r->one_step = strtol(argv[++i], &end, 10);
        } else {
            return FB_USAGE("%s: usage: bench_gpu [--probe] [--smoke] [--output FILE] [--limit SECONDS] "
                            "[--one-step FILTERS]",
                            argv[i]);
        }
        if (end && (*end != '\0' || end == value))
            return FB_USAGE("%s: not a number", value);
    }
    return FB_OK;
}

int main(int argc, char **argv)
{
    request r = {.limit_s = 300.0};
    fb_status status = parse(argc, argv, &r);
    if (status == FB_OK)
        status = run(&r);
    const int exit_code = fb_error_exit_code(status);
    if (status != FB_OK)
        fprintf(stderr, "bench_gpu: %s\n", fb_error_message(status));
    fb_error_free(&status);
    return exit_code;
}
