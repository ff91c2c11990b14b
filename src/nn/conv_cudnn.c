/* SPDX-License-Identifier: Apache-2.0
 *
 * Handles, and plans at work: run, timed, described.
 */
#include "nn/conv_cudnn.h"

#include "nn/conv_cudnn_impl.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST = 91500 };

#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        const cudaError_t cuda_try_status_ = (call);                                                                   \
        if (cuda_try_status_ != cudaSuccess)                                                                           \
            return FB_FAIL("%s: %s", #call, cudaGetErrorString(cuda_try_status_));                                     \
    } while (0)

/* --- the handle ------------------------------------------------------------------------------------------------ */

static fb_status check_version(fb_cudnn *cudnn)
{
    char why[FB_CUDNN_ERROR_CHARS] = "";
    cudnn->version = (int64_t)cudnnGetVersion();
    if (cudnn->version == 0) { /* nn/conv_cudnn_load.c says so */
        cudnnGetLastErrorString(why, sizeof why);
        return FB_FAIL("cuDNN cannot be loaded: %s; install cuDNN 9.15 or newer, or set LD_LIBRARY_PATH to its folder",
                       why);
    }
    if (cudnn->version < OLDEST)
        return FB_FAIL("cuDNN %lld.%lld.%lld is too old: before 9.15, 3-D convolutions in bfloat16 are slow, take "
                       "several times the memory, and 9.10.2 computed large ones wrongly; install 9.15 or newer",
                       (long long)(cudnn->version / 10000), (long long)(cudnn->version / 100 % 100),
                       (long long)(cudnn->version % 100));
    return FB_OK;
}

static fb_status bind_stream(fb_cudnn *cudnn, void *stream)
{
    FB_TRY(check_version(cudnn));
    cudnnStatus_t status = cudnnCreate(&cudnn->handle);
    if (status != CUDNN_STATUS_SUCCESS) {
        cudnn->handle = NULL;
        return fb_error_context(fb_cudnn_failed(status, "cudnnCreate", "handle"),
                                "cuDNN does not start; see whether nvidia-smi lists a GPU and its driver");
    }
    cudnn->stream = (cudaStream_t)stream;
    status = cudnnSetStream(cudnn->handle, cudnn->stream);
    return status == CUDNN_STATUS_SUCCESS ? FB_OK : fb_cudnn_failed(status, "cudnnSetStream", "stream");
}

static fb_status describe_device(fb_cudnn *cudnn, const char *json)
{
    FB_TRY(check_version(cudnn));
    FB_TRY(MAKE(&cudnn->device_bag, DEVICEPROP, &cudnn->device));
    SET(cudnn->device, DEVICEPROP_JSON_REPRESENTATION, CHAR, (int64_t)strlen(json), json);
    return fb_cudnn_finalize(cudnn->device, "DEVICEPROP");
}

fb_status fb_cudnn_create(void *stream, fb_cudnn **out)
{
    fb_cudnn *cudnn = NULL;
    FB_TRY(FB_ALLOC(cudnn, 1, "cuDNN handle"));
    fb_status status = bind_stream(cudnn, stream);
    if (status != FB_OK)
        fb_cudnn_destroy(&cudnn);
    *out = cudnn;
    return status;
}

fb_status fb_cudnn_create_deviceless(const char *json, fb_cudnn **out)
{
    fb_cudnn *cudnn = NULL;
    FB_TRY(FB_ALLOC(cudnn, 1, "cuDNN device"));
    fb_status status = describe_device(cudnn, json);
    if (status != FB_OK)
        fb_cudnn_destroy(&cudnn);
    *out = cudnn;
    return fb_error_context(status, "cuDNN device properties \"%s\"", json);
}

void fb_cudnn_destroy(fb_cudnn **cudnn)
{
    fb_cudnn *c = *cudnn;
    if (!c)
        return;
    fb_cudnn_bag_empty(&c->device_bag);
    if (c->handle)
        (void)cudnnDestroy(c->handle);
    FB_FREE(*cudnn);
}

int64_t fb_cudnn_version(const fb_cudnn *cudnn)
{
    return cudnn->version;
}

/* --- a convolution --------------------------------------------------------------------------------------------- */

static const char *direction_name(fb_cudnn_direction direction)
{
    static const char *const names[] = {"forward", "backward data", "backward weights"};
    return names[direction];
}

static const char *precision_name(fb_cudnn_precision precision)
{
    static const char *const names[] = {"bf16", "bf16 with a float32 gradient", "tf32", "float32"};
    return names[precision];
}

static fb_status with_context(const fb_cudnn_conv *conv, fb_status status)
{
    const fb_conv_shape *s = &conv->shape;
    return fb_error_context(status,
                            "cuDNN convolution %s of %lld x %lld x %lld, channels %lld to %lld, kernel %d, stride %d, "
                            "%s",
                            direction_name(conv->direction), (long long)s->in[0], (long long)s->in[1],
                            (long long)s->in[2], (long long)s->c_in, (long long)s->c_out, s->kernel, s->stride,
                            precision_name(conv->precision));
}

fb_status fb_cudnn_conv_create(fb_cudnn *cudnn, const fb_conv_shape *shape, fb_cudnn_direction direction,
                               fb_cudnn_precision precision, const fb_cudnn_choice *choice, fb_cudnn_conv **out)
{
    fb_cudnn_conv *conv = NULL;
    *out = NULL;
    FB_ASSERT(direction <= FB_CUDNN_BACKWARD_WEIGHTS && precision <= FB_CUDNN_F32);
    FB_TRY(FB_ALLOC(conv, 1, "cuDNN convolution"));
    conv->cudnn = cudnn;
    conv->shape = *shape;
    conv->direction = direction;
    conv->precision = precision;
    fb_status status = fb_cudnn_make_graph(conv);
    if (status == FB_OK)
        status = fb_cudnn_list_plans(conv, choice);
    status = with_context(conv, status);
    if (status != FB_OK)
        fb_cudnn_conv_destroy(&conv);
    *out = conv;
    return status;
}

void fb_cudnn_conv_destroy(fb_cudnn_conv **conv)
{
    fb_cudnn_conv *c = *conv;
    if (!c)
        return;
    while (c->count > 0)
        fb_cudnn_candidate_free(&c->candidates[--c->count]);
    fb_cudnn_bag_empty(&c->graph_bag);
    FB_FREE(c->candidates);
    FB_FREE(*conv);
}

int64_t fb_cudnn_conv_count(const fb_cudnn_conv *conv)
{
    return conv->count;
}

const fb_cudnn_choice *fb_cudnn_conv_choice(const fb_cudnn_conv *conv, int64_t i)
{
    FB_ASSERT(i >= 0 && i < conv->count);
    return &conv->candidates[i].choice;
}

fb_cudnn_listing fb_cudnn_conv_listing(const fb_cudnn_conv *conv)
{
    return conv->listing;
}

void fb_cudnn_conv_describe(const fb_cudnn_conv *conv, size_t chars, char *text)
{
    fb_cudnn_choice_print(fb_cudnn_conv_choice(conv, 0), chars, text);
}

void fb_cudnn_conv_keep(fb_cudnn_conv *conv, int64_t i)
{
    FB_ASSERT(i >= 0 && i < conv->count);
    const candidate kept = conv->candidates[i];
    conv->candidates[i] = conv->candidates[0];
    conv->candidates[0] = kept;
    while (conv->count > 1)
        fb_cudnn_candidate_free(&conv->candidates[--conv->count]);
}

/* --- execution ------------------------------------------------------------------------------------------------- */

static fb_status check_pointers(const candidate *c, void *const data[TENSORS], const void *workspace)
{
    static const char *const names[TENSORS] = {"x", "w", "y"};
    for (tensor t = INPUT; t < TENSORS; t++)
        if (!data[t] || (uintptr_t)data[t] % FB_CUDNN_ALIGNMENT_BYTES != 0)
            return FB_FAIL("%s is at %p; it must be device memory aligned to %d bytes", names[t], data[t],
                           FB_CUDNN_ALIGNMENT_BYTES);
    if (c->choice.workspace_bytes > 0 && (!workspace || (uintptr_t)workspace % FB_CUDNN_ALIGNMENT_BYTES != 0))
        return FB_FAIL("the workspace is at %p; the plan needs %lld bytes aligned to %d", workspace,
                       (long long)c->choice.workspace_bytes, FB_CUDNN_ALIGNMENT_BYTES);
    return FB_OK;
}

static fb_status make_pack(bag *parts, void *const data[TENSORS], void *workspace, descriptor *out)
{
    static const int64_t ids[TENSORS] = {INPUT, WEIGHTS, OUTPUT};
    FB_TRY(MAKE(parts, VARIANT_PACK, out));
    SET(*out, VARIANT_PACK_UNIQUE_IDS, INT64, TENSORS, ids);
    SET(*out, VARIANT_PACK_DATA_POINTERS, VOID_PTR, TENSORS, data);
    SET(*out, VARIANT_PACK_WORKSPACE, VOID_PTR, 1, &workspace);
    return fb_cudnn_finalize(*out, "VARIANT_PACK");
}

static fb_status execute(fb_cudnn_conv *conv, const candidate *c, void *const data[TENSORS], void *workspace)
{
    bag parts = {0};
    descriptor pack = NULL;
    if (!conv->cudnn->handle)
        return FB_FAIL("plans made without a device cannot be run");
    FB_TRY(check_pointers(c, data, workspace));
    fb_status status = make_pack(&parts, data, workspace, &pack);
    if (status == FB_OK) {
        const cudnnStatus_t ran = cudnnBackendExecute(conv->cudnn->handle, c->plan, pack);
        if (ran != CUDNN_STATUS_SUCCESS)
            status = fb_cudnn_failed(ran, "cudnnBackendExecute", "EXECUTION_PLAN");
    }
    fb_cudnn_bag_empty(&parts);
    return status;
}

fb_status fb_cudnn_conv_run(fb_cudnn_conv *conv, int64_t i, void *x, void *w, void *y, void *workspace)
{
    FB_ASSERT(i >= 0 && i < conv->count);
    void *const data[TENSORS] = {x, w, y};
    return with_context(conv, execute(conv, &conv->candidates[i], data, workspace));
}

/* --- tuning ---------------------------------------------------------------------------------------------------- */

typedef struct stopwatch {
    cudaEvent_t start, stop;
    float *ms; /* (repeats), owned */
    int repeats;
} stopwatch;

static fb_status stopwatch_init(stopwatch *watch, int repeats)
{
    watch->repeats = repeats;
    FB_TRY(FB_ALLOC(watch->ms, repeats, "timings"));
    CUDA_TRY(cudaEventCreateWithFlags(&watch->start, cudaEventDefault));
    CUDA_TRY(cudaEventCreateWithFlags(&watch->stop, cudaEventDefault));
    return FB_OK;
}

static void stopwatch_free(stopwatch *watch)
{
    if (watch->start)
        (void)cudaEventDestroy(watch->start);
    if (watch->stop)
        (void)cudaEventDestroy(watch->stop);
    FB_FREE(watch->ms);
}

static int compare_ms(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median time of a candidate that has run once. */
static fb_status measure_ms(fb_cudnn_conv *conv, const candidate *c, void *const data[TENSORS], void *workspace,
                            stopwatch *watch, double *median_ms)
{
    for (int i = 0; i < watch->repeats; i++) {
        CUDA_TRY(cudaEventRecord(watch->start, conv->cudnn->stream));
        FB_TRY(execute(conv, c, data, workspace));
        CUDA_TRY(cudaEventRecord(watch->stop, conv->cudnn->stream));
        CUDA_TRY(cudaEventSynchronize(watch->stop));
        CUDA_TRY(cudaEventElapsedTime(&watch->ms[i], watch->start, watch->stop));
    }
    qsort(watch->ms, (size_t)watch->repeats, sizeof *watch->ms, compare_ms);
    *median_ms = (double)watch->ms[watch->repeats / 2];
    return FB_OK;
}

/* Times every candidate; *best is the fastest, or -1. A candidate whose first run cuDNN refuses is counted and its
 * error kept in *refusal, owned by the caller; whatever goes wrong after that is an error. */
static fb_status race(fb_cudnn_conv *conv, void *const data[TENSORS], void *workspace, size_t workspace_bytes,
                      stopwatch *watch, fb_cudnn_tuning *t, int64_t *best, fb_status *refusal)
{
    for (int64_t i = 0; i < conv->count; i++) {
        const candidate *c = &conv->candidates[i];
        double ms = 0.0;
        if ((uint64_t)c->choice.workspace_bytes > workspace_bytes) {
            t->too_large++;
            continue;
        }
        fb_status ran = execute(conv, c, data, workspace);
        if (ran != FB_OK) {
            t->failed++;
            *refusal = fb_error_first(*refusal, ran);
            continue;
        }
        FB_TRY(measure_ms(conv, c, data, workspace, watch, &ms));
        t->timed++;
        if (i == 0)
            t->first_ms = ms;
        if (*best < 0 || ms < t->best_ms) {
            *best = i;
            t->best_ms = ms;
        }
    }
    return FB_OK;
}

static fb_status no_winner(const fb_cudnn_tuning *t, size_t workspace_bytes, fb_status *refusal)
{
    fb_status status =
        FB_FAIL("no plan could be timed: %lld need more than %zu bytes of workspace, %lld did not run%s%s",
                (long long)t->too_large, workspace_bytes, (long long)t->failed,
                *refusal != FB_OK ? "; the first: " : "", fb_error_message(*refusal));
    return status;
}

fb_status fb_cudnn_conv_tune(fb_cudnn_conv *conv, void *x, void *w, void *y, void *workspace, size_t workspace_bytes,
                             int repeats, fb_cudnn_tuning *tuning)
{
    FB_ASSERT(repeats >= 1 && repeats <= 1000);
    void *const data[TENSORS] = {x, w, y};
    stopwatch watch = {0};
    fb_cudnn_tuning t = {.best_ms = NAN, .first_ms = NAN};
    fb_status refusal = FB_OK;
    int64_t best = -1;
    fb_status status = stopwatch_init(&watch, repeats);
    if (status == FB_OK)
        status = race(conv, data, workspace, workspace_bytes, &watch, &t, &best, &refusal);
    if (status == FB_OK && best < 0)
        status = no_winner(&t, workspace_bytes, &refusal);
    stopwatch_free(&watch);
    fb_error_free(&refusal);
    if (status == FB_OK) {
        conv->listing.failed += t.failed;
        fb_cudnn_conv_keep(conv, best);
    }
    if (tuning)
        *tuning = t;
    return fb_error_context(with_context(conv, status), "tuning");
}
