/* SPDX-License-Identifier: Apache-2.0
 *
 * Every operation of a backend once, as in a step of training, for the tests of repetition, recordings and failures:
 * all that is read and written lies in one piece of the backend's memory, so that its bits are compared in one go.
 */
#pragma once

#include "core/mem.h"
#include "core/rng.h"
#include "nn/op.h"

#include <string.h>

enum { WORK_CHANNELS = 16, WORK_ALIGNMENT = 256 };
static const int64_t work_shape[3] = {14, 13, 12}, work_patch[3] = {12, 12, 12}, work_low[3] = {6, 6, 6};
static const int64_t work_start[3] = {4, 0, 2}, work_window[3] = {8, 12, 9};

typedef enum work_part {
    WORK_IMAGE,
    WORK_LABEL,
    WORK_SAMPLE,
    WORK_X,
    WORK_TARGET,
    WORK_W,
    WORK_A,
    WORK_SCALE,
    WORK_GAMMA,
    WORK_BETA,
    WORK_STATS,
    WORK_B,
    WORK_LOW,
    WORK_W_LAST,
    WORK_BIAS,
    WORK_LOGITS,
    WORK_DLOGITS,
    WORK_LOSS,
    WORK_DBIAS,
    WORK_DW_LAST,
    WORK_DB,
    WORK_DLOW,
    WORK_DA,
    WORK_DGAMMA,
    WORK_DBETA,
    WORK_DW,
    WORK_STEP,
    WORK_M,
    WORK_V,
    WORK_TAKEN,
    WORK_SUM,
    WORK_PARTS
} work_part;

typedef struct device_work {
    const fb_ops *ops; /* borrowed */
    fb_conv *conv, *last;
    char *initial;              /* ordinary memory (bytes): what everything is at first */
    void *memory;               /* the backend's (bytes) */
    int64_t at[WORK_PARTS + 1]; /* bytes from the start; the last is their number */
    int64_t bytes;
} device_work;

/* Elements and bytes of each in the order of work_part; 0 bytes: of an activation. */
static inline void lay_out_work(device_work *w)
{
    const int64_t voxels = 12 * 12 * 12, whole = 14 * 13 * 12, c = WORK_CHANNELS, weights = c * FB_IMAGE_CHANNELS * 27;
    const int64_t part[WORK_PARTS][2] = {{whole * FB_IMAGE_CHANNELS, 4},
                                         {whole, 1},
                                         {1, sizeof(fb_sample)},
                                         {voxels * FB_IMAGE_CHANNELS, 0},
                                         {voxels, 1},
                                         {weights, 4},
                                         {voxels * c, 0},
                                         {c, 4},
                                         {c, 4},
                                         {c, 4},
                                         {2 * FB_NORM_GROUPS, 4},
                                         {voxels * c, 0},
                                         {voxels / 8 * c, 0},
                                         {FB_REGIONS * c, 4},
                                         {FB_REGIONS, 4},
                                         {voxels * FB_REGIONS, 4},
                                         {voxels * FB_REGIONS, 4},
                                         {1, 8},
                                         {FB_REGIONS, 4},
                                         {FB_REGIONS * c, 4},
                                         {voxels * c, 0},
                                         {voxels / 8 * c, 0},
                                         {voxels * c, 0},
                                         {c, 4},
                                         {c, 4},
                                         {weights, 4},
                                         {1, 8},
                                         {weights, 4},
                                         {weights, 4},
                                         {voxels / 2 * FB_IMAGE_CHANNELS, 0},
                                         {voxels * FB_REGIONS, 4}};
    for (int p = 0; p < WORK_PARTS; p++) {
        const int64_t bytes = part[p][0] * (part[p][1] ? part[p][1] : w->ops->act_bytes);
        w->at[p + 1] = w->at[p] + (bytes + WORK_ALIGNMENT - 1) / WORK_ALIGNMENT * WORK_ALIGNMENT;
    }
    w->bytes = w->at[WORK_PARTS];
}

static inline void *work_at(const device_work *w, work_part part)
{
    return (char *)w->memory + w->at[part];
}

static inline void draw_floats(const device_work *w, work_part part, double lo, double hi)
{
    const fb_rng rng = {.seed = 31, .purpose = FB_RNG_TEST, .round = (uint32_t)part};
    for (int64_t i = 0; i < (w->at[part + 1] - w->at[part]) / 4; i++) {
        const float value = (float)fb_rng_range(&rng, (uint32_t)i, lo, hi);
        memcpy(w->initial + w->at[part] + 4 * i, &value, sizeof value);
    }
}

/* Activations of one, which is the same number in both types when written twice. */
static inline void fill_activations(const device_work *w, work_part part)
{
    static const uint16_t ones[2] = {0x3f80, 0x3f80}; /* bfloat16, twice; as a float 1.0019 */
    for (int64_t i = 0; i < (w->at[part + 1] - w->at[part]) / 4; i++)
        memcpy(w->initial + w->at[part] + 4 * i, ones, sizeof ones);
}

/* What is written only stays NaN, which shows where it is not. */
static inline void fill_work(const device_work *w)
{
    fb_sample sample = {
        work_at(w, WORK_IMAGE), work_at(w, WORK_LABEL), {14, 13, 12}, {{2, 1, 0}, {1, 0, 1}, 1.05, -0.02}};
    memset(w->initial, 0xff, (size_t)w->bytes);
    draw_floats(w, WORK_IMAGE, 100.0, 200.0);
    for (int64_t v = 0; v < 14 * 13 * 12; v++)
        w->initial[w->at[WORK_LABEL] + v] = (char)(v % 5 == 3 ? 0 : v % 5);
    memcpy(w->initial + w->at[WORK_SAMPLE], &sample, sizeof sample);
    draw_floats(w, WORK_W, -0.1, 0.1);
    draw_floats(w, WORK_SCALE, 0.5, 1.5);
    draw_floats(w, WORK_GAMMA, -1.0, 1.0);
    draw_floats(w, WORK_BETA, -1.0, 1.0);
    fill_activations(w, WORK_LOW);
    draw_floats(w, WORK_W_LAST, -0.3, 0.3);
    draw_floats(w, WORK_BIAS, -0.3, 0.3);
    draw_floats(w, WORK_M, -0.1, 0.1);
    draw_floats(w, WORK_V, 0.0, 0.1);
    memset(w->initial + w->at[WORK_LOSS], 0, 8);
    memset(w->initial + w->at[WORK_STEP], 0, 8);
    draw_floats(w, WORK_SUM, -1.0, 1.0);
}

static inline void destroy_work(device_work *w)
{
    if (w->conv)
        w->ops->conv_destroy(&w->conv);
    if (w->last)
        w->ops->conv_destroy(&w->last);
    w->ops->release(w->ops, &w->memory);
    FB_FREE(w->initial);
}

static inline fb_status allocate_work(device_work *w)
{
    const fb_conv_shape first = {{12, 12, 12}, FB_IMAGE_CHANNELS, WORK_CHANNELS, 3, 1};
    const fb_conv_shape last = {{12, 12, 12}, WORK_CHANNELS, FB_REGIONS, 1, 1};
    FB_TRY(FB_ALLOC(w->initial, w->bytes, "work"));
    FB_TRY(w->ops->alloc(w->ops, w->bytes, "work", &w->memory));
    FB_TRY(w->ops->conv_create(w->ops, &first, &w->conv));
    return w->ops->conv_create(w->ops, &last, &w->last);
}

/* After an error nothing is left. */
static inline fb_status create_work(const fb_ops *ops, device_work *w)
{
    memset(w, 0, sizeof *w);
    w->ops = ops;
    lay_out_work(w);
    const fb_status status = allocate_work(w);
    if (status == FB_OK)
        fill_work(w);
    else
        destroy_work(w);
    return status;
}

static inline void reset_work(const device_work *w)
{
    w->ops->upload(w->ops, w->memory, w->initial, w->bytes);
}

/* What read_work fills; owned by the caller. NULL without memory. */
static inline char *make_room_for(const device_work *w)
{
    char *room = NULL;
    fb_status status = FB_ALLOC(room, w->bytes, "work");
    fb_error_free(&status);
    return room;
}

static inline fb_status read_work(const device_work *w, char *to)
{
    return w->ops->download(w->ops, to, w->memory, w->bytes);
}

static inline fb_status queue_forward(const device_work *w)
{
    const fb_ops *ops = w->ops;
    const int64_t voxels = 12 * 12 * 12;
    void *a = work_at(w, WORK_A), *b = work_at(w, WORK_B), *logits = work_at(w, WORK_LOGITS);
    ops->sample(ops, work_at(w, WORK_SAMPLE), work_patch, work_at(w, WORK_X), work_at(w, WORK_TARGET));
    FB_TRY(ops->conv_load(w->conv, work_at(w, WORK_W)));
    FB_TRY(ops->conv_fwd(w->conv, work_at(w, WORK_X), a));
    ops->scale_channels(ops, voxels, WORK_CHANNELS, work_at(w, WORK_SCALE), a);
    ops->norm_relu_fwd(ops, voxels, WORK_CHANNELS, a, work_at(w, WORK_GAMMA), work_at(w, WORK_BETA), b,
                       work_at(w, WORK_STATS));
    ops->upsample_add_fwd(ops, work_low, WORK_CHANNELS, work_at(w, WORK_LOW), b, b);
    ops->add(ops, voxels * WORK_CHANNELS, b, a, b);
    FB_TRY(ops->conv_load(w->last, work_at(w, WORK_W_LAST)));
    FB_TRY(ops->conv_fwd(w->last, b, logits));
    ops->bias_add(ops, voxels, work_at(w, WORK_BIAS), logits);
    ops->dice_loss(ops, voxels, logits, work_at(w, WORK_TARGET), work_at(w, WORK_DLOGITS), work_at(w, WORK_LOSS));
    return FB_OK;
}

static inline fb_status queue_backward(const device_work *w)
{
    const fb_ops *ops = w->ops;
    const int64_t voxels = 12 * 12 * 12;
    void *dlogits = work_at(w, WORK_DLOGITS), *db = work_at(w, WORK_DB), *da = work_at(w, WORK_DA);
    ops->bias_bwd(ops, voxels, dlogits, work_at(w, WORK_DBIAS));
    FB_TRY(ops->conv_bwd_weights(w->last, work_at(w, WORK_B), dlogits, work_at(w, WORK_DW_LAST)));
    FB_TRY(ops->conv_bwd_data(w->last, dlogits, db));
    ops->upsample_bwd(ops, work_low, WORK_CHANNELS, db, work_at(w, WORK_DLOW));
    ops->zero(ops, da, voxels * WORK_CHANNELS * ops->act_bytes);
    ops->norm_relu_bwd(ops, voxels, WORK_CHANNELS, work_at(w, WORK_A), work_at(w, WORK_GAMMA), work_at(w, WORK_BETA),
                       work_at(w, WORK_STATS), db, da, work_at(w, WORK_DGAMMA), work_at(w, WORK_DBETA));
    return ops->conv_bwd_weights(w->conv, work_at(w, WORK_X), da, work_at(w, WORK_DW));
}

static inline fb_status queue_work(const device_work *w)
{
    const fb_adam_spec adam = {1e-3, 0.9, 0.999, 1e-8, 1e-2};
    const fb_ops *ops = w->ops;
    FB_TRY(queue_forward(w));
    FB_TRY(queue_backward(w));
    ops->count_step(ops, work_at(w, WORK_STEP));
    ops->adam_step(ops, &adam, WORK_CHANNELS * FB_IMAGE_CHANNELS * 27, work_at(w, WORK_STEP), work_at(w, WORK_W),
                   work_at(w, WORK_DW), work_at(w, WORK_M), work_at(w, WORK_V));
    ops->sgd_step(ops, 0.1, 0.01, FB_REGIONS * WORK_CHANNELS, work_at(w, WORK_W_LAST), work_at(w, WORK_DW_LAST));
    ops->copy(ops, work_at(w, WORK_BIAS), work_at(w, WORK_DBIAS), FB_REGIONS * 4);
    ops->take_window(ops, work_at(w, WORK_X), work_patch, work_start, work_window, work_at(w, WORK_TAKEN));
    ops->add_window(ops, work_at(w, WORK_LOGITS), work_patch, work_start, work_window, work_at(w, WORK_SUM));
    return FB_OK;
}
