/* SPDX-License-Identifier: Apache-2.0
 *
 * Compares a backend with the golden files of tests/golden/make_golden.py (PyTorch and MONAI in float64). Shared by the
 * float and the double test; the weights and images come from a hash, the same as in that script.
 */
#pragma once

#include "core/file.h"
#include "nn/loss.h"
#include "nn/optim.h"
#include "nn/segresnet.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { GOLDEN_SAMPLES = 64, GOLDEN_STEPS = 10, GOLDEN_HEADER_BYTES = 32 };

typedef struct golden_case {
    const char *path;
    fb_net_spec spec;
    int64_t shape[3], logit_stride;
    const fb_real *mask; /* (filters) or NULL */
    int empty_et;
} golden_case;

/* Everything one comparison owns. */
typedef struct golden_run {
    const golden_case *of;
    char *file;
    int64_t file_bytes, voxels;
    fb_params *params;
    fb_segresnet *net;
    fb_real *w, *gradient;         /* (params->count) */
    fb_real *x, *logits, *dlogits; /* (voxels, 4), (voxels, 3), (voxels, 3) */
    uint8_t *target;               /* (voxels) */
} golden_run;

static const fb_real golden_mask[8] = {1.25, 0, 1.25, 1.25, 1.25, 0, 1.25, 1.25};
static const fb_net_spec golden_small_spec = {.filters = 8, .levels = 2, .blocks_down = {1, 2}, .blocks_up = {1}};
static const fb_net_spec golden_full_spec = {
    .filters = 8, .levels = 4, .blocks_down = {1, 2, 2, 4}, .blocks_up = {1, 1, 1}};

static inline golden_case golden_small(void)
{
    return (golden_case){
        .path = "tests/golden/small.bin", .spec = golden_small_spec, .shape = {8, 8, 16}, .logit_stride = 1};
}

static inline golden_case golden_masked(void)
{
    return (golden_case){.path = "tests/golden/mask.bin",
                         .spec = golden_small_spec,
                         .shape = {8, 8, 16},
                         .logit_stride = 5,
                         .mask = golden_mask,
                         .empty_et = 1};
}

static inline golden_case golden_full(void)
{
    return (golden_case){
        .path = "tests/golden/full.bin", .spec = golden_full_spec, .shape = {16, 16, 16}, .logit_stride = 5};
}

/* --- inputs -------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) of (seed, index), as a number in [-1, 1). */
static inline double golden_uniform(uint64_t seed, int64_t index)
{
    uint64_t z = ((seed << 32) + (uint64_t)index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-52 - 1.0;
}

static inline void golden_fill_weights(const fb_params *params, fb_real *w)
{
    for (int t = 0; t < params->tensor_count; t++) {
        const fb_tensor_info *tensor = &params->tensors[t];
        const int is_conv = tensor->rank == 5, is_scale = !is_conv && strstr(tensor->name, "weight") != NULL;
        const double bound = is_conv ? 1.5 / sqrt((double)(tensor->count / tensor->shape[0])) : 0.2;
        for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++)
            w[i] = (fb_real)(golden_uniform(1, i) * bound + (is_scale ? 1.0 : 0.0));
    }
}

static inline void golden_fill_target(const int64_t shape[3], int empty_et, uint8_t *target)
{
    int64_t extent = shape[0] < shape[1] ? shape[0] : shape[1];
    extent = extent < shape[2] ? extent : shape[2];
    const int64_t tc = extent * extent * 8 / 16, wt = extent * extent * 14 / 16,
                  et = empty_et ? 0 : extent * extent * 4 / 16;
    for (int64_t z = 0; z < shape[0]; z++)
        for (int64_t y = 0; y < shape[1]; y++)
            for (int64_t x = 0; x < shape[2]; x++) {
                const int64_t dz = 2 * z - shape[0] + 1, dy = 2 * y - shape[1] + 1, dx = 2 * x - shape[2] + 1;
                const int64_t r2 = dz * dz + dy * dy + dx * dx;
                target[(z * shape[1] + y) * shape[2] + x] =
                    (uint8_t)((r2 < tc) << FB_REGION_TC | (r2 < wt) << FB_REGION_WT | (r2 < et) << FB_REGION_ET);
            }
}

/* --- files --------------------------------------------------------------------------------------- */

static inline void golden_ok(fb_status status)
{
    if (status != FB_OK)
        fail_msg("%s", fb_error_message(status));
}

/* The record called `name`: its data (borrowed, unaligned) and size. Fails the test when it is not there. */
static inline const char *golden_record(const golden_run *run, const char *name, int64_t element_bytes, int64_t *count)
{
    int64_t header[2];
    for (int64_t at = 0; at + GOLDEN_HEADER_BYTES <= run->file_bytes;) {
        const char *record = run->file + at;
        memcpy(header, record + 16, sizeof header);
        at += GOLDEN_HEADER_BYTES + header[0] * header[1];
        if (strncmp(record, name, 16) != 0)
            continue;
        assert_true(at <= run->file_bytes && header[0] == element_bytes);
        *count = header[1];
        return record + GOLDEN_HEADER_BYTES;
    }
    fail_msg("%s: no record '%s'", run->of->path, name);
    return NULL;
}

static inline double golden_double(const char *record, int64_t i)
{
    double value;
    memcpy(&value, record + i * (int64_t)sizeof value, sizeof value);
    return value;
}

static inline double golden_float(const char *record, int64_t i)
{
    float value;
    memcpy(&value, record + i * (int64_t)sizeof value, sizeof value);
    return (double)value;
}

static inline void golden_open(const golden_case *of, const fb_ops *ops, golden_run *run)
{
    *run = (golden_run){.of = of, .voxels = of->shape[0] * of->shape[1] * of->shape[2]};
    golden_ok(fb_file_read(of->path, 1 << 20, &run->file, &run->file_bytes));
    golden_ok(fb_params_create(&of->spec, &run->params));
    golden_ok(fb_segresnet_create(&of->spec, run->params, ops, of->shape, 1, &run->net));
    golden_ok(FB_ALLOC(run->w, run->params->count, "weights"));
    golden_ok(FB_ALLOC(run->gradient, run->params->count, "gradient"));
    golden_ok(FB_ALLOC(run->x, run->voxels * FB_IMAGE_CHANNELS, "image"));
    golden_ok(FB_ALLOC(run->logits, run->voxels * FB_REGIONS, "logits"));
    golden_ok(FB_ALLOC(run->dlogits, run->voxels * FB_REGIONS, "dlogits"));
    golden_ok(FB_ALLOC(run->target, run->voxels, "target"));
    golden_fill_weights(run->params, run->w);
    golden_fill_target(of->shape, of->empty_et, run->target);
    for (int64_t i = 0; i < run->voxels * FB_IMAGE_CHANNELS; i++)
        run->x[i] = (fb_real)golden_uniform(2, i);
}

static inline void golden_close(golden_run *run)
{
    fb_segresnet_destroy(&run->net);
    fb_params_destroy(&run->params);
    FB_FREE(run->file);
    FB_FREE(run->w);
    FB_FREE(run->gradient);
    FB_FREE(run->x);
    FB_FREE(run->logits);
    FB_FREE(run->dlogits);
    FB_FREE(run->target);
}

static inline double golden_step(golden_run *run)
{
    golden_ok(fb_segresnet_forward(run->net, run->w, run->x, run->of->mask, run->logits));
    const double loss = fb_dice_loss(run->voxels, run->logits, run->target, run->dlogits);
    golden_ok(fb_segresnet_backward(run->net, run->dlogits, run->gradient));
    return loss;
}

/* --- comparisons: each returns the largest error, relative as its comment says ------------------- */

/* Relative to the largest logit. */
static inline double golden_logit_error(const golden_run *run)
{
    int64_t count = 0;
    const char *want = golden_record(run, "logits", sizeof(double), &count);
    double error = 0.0, largest = 0.0;
    assert_true(count == (run->voxels * FB_REGIONS + run->of->logit_stride - 1) / run->of->logit_stride);
    for (int64_t i = 0; i < count; i++) {
        error = fmax(error, fabs((double)run->logits[i * run->of->logit_stride] - golden_double(want, i)));
        largest = fmax(largest, fabs(golden_double(want, i)));
    }
    return error / largest;
}

/* Samples, sum, L2 norm and largest element of one gradient tensor against want[], which is moved behind them. Samples
 * and largest relative to the largest, the norm to the norm, the sum to sqrt(count) * norm (its bound). */
static inline double golden_tensor_error(const fb_real *g, int64_t count, const char *record, int64_t *at)
{
    const int64_t stride = (count + GOLDEN_SAMPLES - 1) / GOLDEN_SAMPLES, samples = (count + stride - 1) / stride;
    const double sum = golden_double(record, *at + samples), norm = golden_double(record, *at + samples + 1),
                 largest = golden_double(record, *at + samples + 2);
    double my_sum = 0.0, my_squares = 0.0, my_largest = 0.0, error = 0.0;
    for (int64_t i = 0; i < count; i++) {
        my_sum += (double)g[i];
        my_squares += (double)g[i] * (double)g[i];
        my_largest = fmax(my_largest, fabs((double)g[i]));
    }
    for (int64_t i = 0; i < samples; i++)
        error = fmax(error, fabs((double)g[i * stride] - golden_double(record, *at + i)) / largest);
    error = fmax(error, fabs(my_largest - largest) / largest);
    error = fmax(error, fabs(sqrt(my_squares) - norm) / norm);
    error = fmax(error, fabs(my_sum - sum) / (sqrt((double)count) * norm));
    *at += samples + 3;
    return isfinite(my_squares) ? error : INFINITY;
}

static inline double golden_gradient_error(const golden_run *run)
{
    int64_t count = 0, at = 0;
    const char *want = golden_record(run, "gradient", sizeof(double), &count);
    double error = 0.0;
    for (int t = 0; t < run->params->tensor_count; t++) {
        const fb_tensor_info *tensor = &run->params->tensors[t];
        error = fmax(error, golden_tensor_error(run->gradient + tensor->offset, tensor->count, want, &at));
    }
    assert_true(at == count);
    return error;
}

/* Every element, relative to the largest of its tensor; the file has them as floats. */
static inline double golden_all_gradient_error(const golden_run *run)
{
    int64_t count = 0;
    const char *want = golden_record(run, "gradient_all", sizeof(float), &count);
    double worst = 0.0;
    assert_true(count == run->params->count);
    for (int t = 0; t < run->params->tensor_count; t++) {
        const fb_tensor_info *tensor = &run->params->tensors[t];
        double error = 0.0, largest = 0.0;
        for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
            error = fmax(error, fabs((double)run->gradient[i] - golden_float(want, i)));
            largest = fmax(largest, fabs(golden_float(want, i)));
        }
        worst = fmax(worst, error / largest);
    }
    return worst;
}

static inline double golden_loss_error(const golden_run *run, double loss)
{
    int64_t count = 0;
    const double want = golden_double(golden_record(run, "loss", sizeof(double), &count), 0);
    return fabs(loss - want) / want;
}

/* Losses of GOLDEN_STEPS steps of Adam, relative. */
static inline double golden_adam_error(golden_run *run)
{
    const fb_adam_spec adam = {1e-3, 0.9, 0.999, 1e-8, 1e-5};
    int64_t count = 0;
    const char *want = golden_record(run, "adam", sizeof(double), &count);
    fb_real *m = NULL, *v = NULL;
    double error = 0.0;
    golden_ok(FB_ALLOC(m, run->params->count, "moments"));
    golden_ok(FB_ALLOC(v, run->params->count, "moments"));
    assert_true(count == GOLDEN_STEPS);
    for (int64_t step = 1; step <= count; step++) {
        const double loss = golden_step(run), wanted = golden_double(want, step - 1);
        error = fmax(error, fabs(loss - wanted) / wanted);
        fb_adam_step(&adam, run->params->count, step, run->w, run->gradient, m, v);
    }
    FB_FREE(m);
    FB_FREE(v);
    return error;
}

/* --- the whole comparison ------------------------------------------------------------------------ */

static inline void golden_within(const char *path, const char *backend, const char *what, double error, double limit)
{
    if (!(error <= limit))
        fail_msg("%s, %s: relative error of the %s is %.3g, the limit %.3g", path, backend, what, error, limit);
    if (getenv("FB_VERBOSE"))
        print_message("%-24s %-5s %-10s %.2e (limit %.0e)\n", path, backend, what, error, limit);
}

static inline void golden_check(golden_case of, const fb_ops *ops, double limit)
{
    golden_run run;
    golden_open(&of, ops, &run);
    golden_within(of.path, ops->name, "loss", golden_loss_error(&run, golden_step(&run)), limit);
    golden_within(of.path, ops->name, "logits", golden_logit_error(&run), limit);
    golden_within(of.path, ops->name, "gradient", golden_gradient_error(&run), limit);
    golden_close(&run);
}

/* golden_check's rest for the case that stores everything. */
static inline void golden_check_steps(golden_case of, const fb_ops *ops, double gradient_limit, double loss_limit)
{
    golden_run run;
    golden_open(&of, ops, &run);
    golden_step(&run);
    golden_within(of.path, ops->name, "all of the gradient", golden_all_gradient_error(&run), gradient_limit);
    golden_within(of.path, ops->name, "losses of Adam steps", golden_adam_error(&run), loss_limit);
    golden_close(&run);
}
