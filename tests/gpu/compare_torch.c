/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of the network against PyTorch's: logits, loss and gradient of the file that torch_step.py --export wrote.
 *   compare_torch FILE [--reference]     the GPU in float32 and bfloat16; --reference: op_ref on the CPU instead
 * Prints TAP. Errors are ||ours - PyTorch's|| / ||PyTorch's||.
 */
#include "core/mem.h"
#include "nn/loss.h"
#include "nn/op_cuda.h"
#include "nn/segresnet.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct exported {
    int64_t filters, shape[3], parameters, voxels;
    float *w, *image, *target, *logits, *gradient; /* owned; (voxels, 4), (voxels), (voxels, 3) */
    float loss;
} exported;

/* The backend's memory. */
typedef struct step_memory {
    const fb_ops *ops;
    fb_params *params;
    fb_segresnet *net;
    fb_real *w, *gradient, *logits, *dlogits;
    fb_act *x;
    uint8_t *target;
    double *loss;
} step_memory;

/* Of float32 sums in another order through some 30 layers, and of bfloat16 activations. */
typedef struct bounds {
    double logits, gradient, loss;
} bounds;
static const bounds of_f32 = {1e-4, 1e-3, 1e-5}, of_bf16 = {0.03, 0.1, 3e-3};

/* --- the file ----------------------------------------------------------------------------------------------------- */

static fb_status read_floats(FILE *file, int64_t count, float **out)
{
    FB_TRY(FB_ALLOC(*out, count, "exported step"));
    return fread(*out, sizeof **out, (size_t)count, file) == (size_t)count ? FB_OK : FB_FAIL("the file is too short");
}

static fb_status read_parts(FILE *file, exported *e)
{
    int64_t header[5];
    float *loss = NULL;
    if (fread(header, sizeof header, 1, file) != 1)
        return FB_FAIL("no header");
    e->filters = header[0];
    e->voxels = 1;
    for (int axis = 0; axis < 3; axis++) {
        e->shape[axis] = header[1 + axis];
        e->voxels *= e->shape[axis];
    }
    e->parameters = header[4];
    FB_TRY(read_floats(file, e->parameters, &e->w));
    FB_TRY(read_floats(file, e->voxels * FB_IMAGE_CHANNELS, &e->image));
    FB_TRY(read_floats(file, e->voxels, &e->target));
    FB_TRY(read_floats(file, e->voxels * FB_REGIONS, &e->logits));
    FB_TRY(read_floats(file, e->parameters, &e->gradient));
    const fb_status status = read_floats(file, 1, &loss);
    if (status == FB_OK)
        e->loss = loss[0];
    FB_FREE(loss);
    return status;
}

static fb_status read_export(const char *path, exported *e)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return FB_FAIL("%s: %s", path, strerror(errno));
    const fb_status status = fb_error_context(read_parts(file, e), "%s", path);
    fclose(file);
    return status;
}

static void free_export(exported *e)
{
    float **const owned[] = {&e->w, &e->image, &e->target, &e->logits, &e->gradient};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        FB_FREE(*owned[i]);
}

/* --- the step -------------------------------------------------------------------------------------------------------
 */

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static fb_status upload_image(const step_memory *d, const exported *e)
{
    const int64_t count = e->voxels * FB_IMAGE_CHANNELS;
    uint16_t *half = NULL;
    FB_TRY(FB_ALLOC(half, count, "exported step"));
    for (int64_t i = 0; i < count; i++)
        half[i] = bf16_of(e->image[i]);
    d->ops->upload(d->ops, d->x, d->ops->act_bytes == 2 ? (const void *)half : e->image, count * d->ops->act_bytes);
    FB_FREE(half);
    return FB_OK;
}

static fb_status upload_target(const step_memory *d, const exported *e)
{
    uint8_t *bits = NULL;
    FB_TRY(FB_ALLOC(bits, e->voxels, "exported step"));
    for (int64_t v = 0; v < e->voxels; v++)
        bits[v] = (uint8_t)e->target[v];
    d->ops->upload(d->ops, d->target, bits, e->voxels);
    FB_FREE(bits);
    return FB_OK;
}

static fb_status make(step_memory *d, const exported *e)
{
    const fb_net_spec spec = {
        .filters = e->filters, .levels = 4, .blocks_down = {1, 2, 2, 4}, .blocks_up = {1, 1, 1}, .dropout = 0.0};
    const fb_ops *ops = d->ops;
    const struct {
        void *place;
        int64_t bytes;
    } parts[] = {{&d->w, 4 * e->parameters},
                 {&d->gradient, 4 * e->parameters},
                 {&d->logits, 4 * FB_REGIONS * e->voxels},
                 {&d->dlogits, 4 * FB_REGIONS * e->voxels},
                 {&d->x, ops->act_bytes * FB_IMAGE_CHANNELS * e->voxels},
                 {&d->target, e->voxels},
                 {&d->loss, sizeof *d->loss}};
    FB_TRY(fb_params_create(&spec, &d->params));
    if (d->params->count != e->parameters)
        return FB_FAIL("PyTorch's network has %lld parameters, ours %lld", (long long)e->parameters,
                       (long long)d->params->count);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        FB_TRY(ops->alloc(ops, parts[i].bytes, "exported step", parts[i].place));
    ops->upload(ops, d->w, e->w, 4 * e->parameters);
    FB_TRY(upload_image(d, e));
    FB_TRY(upload_target(d, e));
    return fb_segresnet_create(&spec, d->params, ops, e->shape, 1, &d->net);
}

static void destroy(step_memory *d)
{
    const fb_ops *ops = d->ops;
    void **const memory[] = {(void **)&d->w, (void **)&d->gradient, (void **)&d->logits, (void **)&d->dlogits,
                             &d->x,          (void **)&d->target,   (void **)&d->loss};
    fb_segresnet_destroy(&d->net);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        ops->release(ops, memory[i]);
    fb_params_destroy(&d->params);
}

static double error_of(int64_t count, const float *got, const float *want)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double d = (double)got[i] - (double)want[i];
        difference += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(difference / norm);
}

static void judge(const char *name, const char *what, double error, double bound, int *number, int *failed)
{
    const int ok = error <= bound; /* not for NaN */
    printf("%sok %d - %s: %s is off by %.2e, at most %.0e\n", ok ? "" : "not ", ++*number, name, what, error, bound);
    fflush(stdout);
    *failed += !ok;
}

/* got: (the larger of parameters and voxels * 3) */
static fb_status step(step_memory *d, const exported *e, const char *name, const bounds *most, float *got, int *number,
                      int *failed)
{
    const fb_ops *ops = d->ops;
    double loss = NAN;
    FB_TRY(make(d, e));
    FB_TRY(fb_segresnet_forward(d->net, d->w, d->x, NULL, d->logits));
    FB_TRY(ops->download(ops, got, d->logits, 4 * FB_REGIONS * e->voxels));
    judge(name, "logits", error_of(FB_REGIONS * e->voxels, got, e->logits), most->logits, number, failed);
    ops->dice_loss(ops, e->voxels, d->logits, d->target, d->dlogits, d->loss);
    FB_TRY(ops->download(ops, &loss, d->loss, sizeof loss));
    judge(name, "loss", fabs(loss - (double)e->loss) / (double)e->loss, most->loss, number, failed);
    FB_TRY(fb_segresnet_backward(d->net, d->dlogits, d->gradient));
    FB_TRY(ops->download(ops, got, d->gradient, 4 * e->parameters));
    judge(name, "gradient", error_of(e->parameters, got, e->gradient), most->gradient, number, failed);
    return FB_OK;
}

static fb_status compare(const fb_ops *ops, const exported *e, const char *name, const bounds *most, int *number,
                         int *failed)
{
    const int64_t logits = FB_REGIONS * e->voxels;
    step_memory d = {.ops = ops};
    float *got = NULL;
    FB_TRY(FB_ALLOC(got, logits > e->parameters ? logits : e->parameters, "exported step"));
    const fb_status status = step(&d, e, name, most, got, number, failed);
    destroy(&d);
    FB_FREE(got);
    return status;
}

static fb_status compare_on_gpu(const exported *e, int *number, int *failed)
{
    fb_cuda_device device;
    char why[256];
    fb_status status = FB_OK;
    if (fb_cuda_count(sizeof why, why) == 0)
        return FB_FAIL("there is no GPU here: %s", why);
    FB_TRY(fb_cuda_use(0, &device));
    for (int type = FB_ACT_F32; type <= FB_ACT_BF16 && status == FB_OK; type++) {
        fb_ops *ops = NULL;
        FB_TRY(fb_ops_cuda_create((fb_act_type)type, &ops));
        status = compare(ops, e, type == FB_ACT_F32 ? "float32" : "bfloat16", type == FB_ACT_F32 ? &of_f32 : &of_bf16,
                         number, failed);
        fb_ops_cuda_destroy(&ops);
    }
    return status;
}

int main(int argc, char **argv)
{
    exported e = {0};
    int number = 0, failed = 0;
    const int reference = argc == 3 && strcmp(argv[2], "--reference") == 0;
    fb_status status =
        argc == 2 || reference ? read_export(argv[1], &e) : FB_USAGE("usage: compare_torch FILE [--reference]");
    if (status == FB_OK)
        status = reference ? compare(&fb_ops_ref, &e, "reference", &of_f32, &number, &failed)
                           : compare_on_gpu(&e, &number, &failed);
    printf("1..%d\n", number);
    free_export(&e);
    const int exit_code = status == FB_OK ? failed > 0 : fb_error_exit_code(status);
    if (status != FB_OK)
        fprintf(stderr, "compare_torch: %s\n", fb_error_message(status));
    fb_error_free(&status);
    return exit_code;
}
