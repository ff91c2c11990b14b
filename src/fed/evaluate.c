/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/evaluate.h"

#include "core/mem.h"
#include "core/progress.h"
#include "data/augment.h"
#include "nn/op_count.h"
#include "nn/segresnet.h"

#include <string.h>

/* The backend's memory that only grows: cases differ in size, and the largest decides. */
typedef struct buffer {
    void *data; /* owned */
    int64_t bytes;
} buffer;

struct fb_evaluator {
    fb_net_spec spec;
    const fb_params *params; /* borrowed */
    const fb_ops *ops;       /* borrowed */
    int64_t limit[3];        /* the configured window */
    int64_t window[3];       /* of the present case: the limit, or less where the padded case is smaller */
    int64_t multiple;
    double overlap;
    fb_segresnet *net;  /* owned; for the window; NULL before the first case */
    buffer x, logits;   /* of one window: (window, FB_MODALITIES), (window, FB_REGIONS) */
    buffer image, sum;  /* of the padded case: (padded, FB_MODALITIES), and logits summed over windows */
    buffer raw, sample; /* the case as it is, (shape, FB_MODALITIES), and what is made of it: a fb_sample */
    buffer w;           /* (params->count); unused on the host */

    const fb_ops *host; /* of ordinary memory; borrowed */
    buffer average;     /* float (padded, FB_REGIONS), later (shape, FB_REGIONS) */
    buffer cover;       /* float (padded[0] + padded[1] + padded[2]) */
    buffer target;      /* uint8_t (voxels) region bits */
};

fb_status fb_evaluator_create(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                              const int64_t window[3], double overlap, fb_evaluator **out)
{
    if (!(overlap >= 0.0 && overlap < 1.0))
        return FB_USAGE("eval.overlap: %g is outside [0, 1)", overlap);
    const int64_t multiple = (int64_t)1 << (spec->levels - 1);
    for (int axis = 0; axis < 3; axis++)
        if (window[axis] < multiple || window[axis] % multiple != 0)
            return FB_USAGE("eval.window: extent %lld in direction %c is not a positive multiple of %lld",
                            (long long)window[axis], "DHW"[axis], (long long)multiple);
    fb_evaluator *e = NULL;
    FB_TRY(FB_ALLOC(e, 1, "evaluator"));
    e->spec = *spec;
    e->params = params;
    e->ops = ops;
    e->host = &fb_ops_ref;
    e->multiple = multiple;
    e->overlap = overlap;
    memcpy(e->limit, window, sizeof e->limit);
    *out = e;
    return FB_OK;
}

void fb_evaluator_destroy(fb_evaluator **evaluator)
{
    fb_evaluator *e = *evaluator;
    if (!e)
        return;
    buffer *const buffers[] = {&e->x, &e->logits, &e->image, &e->sum, &e->raw, &e->sample, &e->w};
    fb_segresnet_destroy(&e->net);
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        e->ops->release(e->ops, &buffers[i]->data);
    e->host->release(e->host, &e->average.data);
    e->host->release(e->host, &e->cover.data);
    e->host->release(e->host, &e->target.data);
    FB_FREE(*evaluator);
}

static fb_status reserve(const fb_ops *ops, buffer *b, int64_t bytes, const char *subject)
{
    if (bytes <= b->bytes)
        return FB_OK;
    ops->release(ops, &b->data);
    b->bytes = 0;
    FB_TRY(ops->alloc(ops, bytes, subject, &b->data));
    b->bytes = bytes;
    return FB_OK;
}

static int64_t window_step(int64_t window, double overlap)
{
    const int64_t step = (int64_t)((double)window * (1.0 - overlap));
    return step > 0 ? step : 1;
}

int64_t fb_window_count(int64_t extent, int64_t window, double overlap)
{
    FB_ASSERT(window > 0 && window <= extent);
    const int64_t step = window_step(window, overlap);
    return (extent - window + step - 1) / step + 1;
}

int64_t fb_window_start(int64_t extent, int64_t window, double overlap, int64_t index)
{
    const int64_t start = index * window_step(window, overlap);
    return start < extent - window ? start : extent - window;
}

/* For each position of each axis the number of windows over it: padded[0], then padded[1], then padded[2] numbers. */
static void count_cover(const fb_evaluator *e, const int64_t padded[3])
{
    float *cover = e->cover.data;
    for (int axis = 0; axis < 3; axis++) {
        const int64_t extent = padded[axis], window = e->window[axis];
        memset(cover, 0, (size_t)extent * sizeof *cover);
        for (int64_t i = 0; i < fb_window_count(extent, window, e->overlap); i++) {
            const int64_t start = fb_window_start(extent, window, e->overlap, i);
            for (int64_t at = start; at < start + window; at++)
                cover[at] += 1.0F;
        }
        cover += extent;
    }
}

/* Sum -> average. The windows form a grid, so the number of them over a voxel is the product over the axes. */
static void divide_by_cover(const fb_evaluator *e, const int64_t padded[3])
{
    const float *cover_d = e->cover.data, *cover_h = cover_d + padded[0], *cover_w = cover_h + padded[1];
    float *sum = e->average.data;
    for (int64_t d = 0; d < padded[0]; d++) {
        for (int64_t h = 0; h < padded[1]; h++) {
            for (int64_t w = 0; w < padded[2]; w++, sum += FB_REGIONS) {
                for (int r = 0; r < FB_REGIONS; r++)
                    sum[r] /= cover_d[d] * cover_h[h] * cover_w[w];
            }
        }
    }
}

static fb_status slide(fb_evaluator *e, const float *w, const int64_t padded[3])
{
    const fb_ops *ops = e->ops;
    int64_t count[3];
    for (int axis = 0; axis < 3; axis++)
        count[axis] = fb_window_count(padded[axis], e->window[axis], e->overlap);
    ops->zero(ops, e->sum.data, fb_volume_voxels(padded) * FB_REGIONS * (int64_t)sizeof(float));
    for (int64_t i = 0; i < count[0] * count[1] * count[2]; i++) {
        const int64_t index[3] = {i / (count[1] * count[2]), i / count[2] % count[1], i % count[2]};
        int64_t start[3];
        fb_progress_step();
        for (int axis = 0; axis < 3; axis++)
            start[axis] = fb_window_start(padded[axis], e->window[axis], e->overlap, index[axis]);
        ops->take_window(ops, e->image.data, padded, start, e->window, e->x.data);
        FB_TRY(i == 0 ? fb_segresnet_forward(e->net, w, e->x.data, NULL, e->logits.data)
                      : fb_segresnet_forward_again(e->net, e->x.data, NULL, e->logits.data));
        ops->add_window(ops, e->logits.data, padded, start, e->window, e->sum.data);
    }
    return FB_OK;
}

/* (padded, FB_REGIONS) -> (shape, FB_REGIONS) in place: rows only move towards the front. */
static void crop_padding(float *logits, const int64_t padded[3], const int64_t shape[3])
{
    for (int64_t d = 0; d < shape[0]; d++) {
        for (int64_t h = 0; h < shape[1]; h++) {
            float *to = logits + (d * shape[1] + h) * shape[2] * FB_REGIONS;
            const float *from = logits + (d * padded[1] + h) * padded[2] * FB_REGIONS;
            memmove(to, from, (size_t)(shape[2] * FB_REGIONS) * sizeof *to);
        }
    }
}

/* The window for a case of this padded shape, and the network for that window: made anew only when the shape changes.
 */
static fb_status fit_window(fb_evaluator *e, const int64_t padded[3])
{
    int64_t window[3];
    for (int axis = 0; axis < 3; axis++)
        window[axis] = padded[axis] < e->limit[axis] ? padded[axis] : e->limit[axis];
    if (e->net && memcmp(window, e->window, sizeof window) == 0)
        return FB_OK;
    fb_segresnet_destroy(&e->net);
    memcpy(e->window, window, sizeof window);
    const int64_t voxels = fb_volume_voxels(window);
    FB_TRY(reserve(e->ops, &e->x, voxels * FB_MODALITIES * e->ops->act_bytes, "evaluation window"));
    FB_TRY(reserve(e->ops, &e->logits, voxels * FB_REGIONS * (int64_t)sizeof(float), "evaluation logits"));
    return fb_segresnet_create(&e->spec, e->params, e->ops, window, 0, &e->net);
}

/* The volume's shape, padded. */
static void pad(const fb_evaluator *e, const int64_t shape[3], int64_t padded[3])
{
    for (int axis = 0; axis < 3; axis++)
        padded[axis] = (shape[axis] + e->multiple - 1) / e->multiple * e->multiple;
}

/* Network and buffers for a case of this shape. */
static fb_status fit(fb_evaluator *e, const int64_t shape[3], const char *subject)
{
    const fb_ops *ops = e->ops;
    int64_t padded[3];
    pad(e, shape, padded);
    const int64_t voxels = fb_volume_voxels(shape), padded_voxels = fb_volume_voxels(padded);
    const int64_t real = (int64_t)sizeof(float);
    FB_TRY(fit_window(e, padded));
    FB_TRY(reserve(ops, &e->sum, padded_voxels * FB_REGIONS * real, subject));
    FB_TRY(reserve(ops, &e->image, padded_voxels * FB_MODALITIES * ops->act_bytes, subject));
    FB_TRY(reserve(ops, &e->sample, sizeof(fb_sample), subject));
    if (!ops->on_host) {
        FB_TRY(reserve(ops, &e->w, e->params->count * real, "model"));
        FB_TRY(reserve(ops, &e->raw, voxels * FB_MODALITIES * real, subject));
    }
    FB_TRY(reserve(e->host, &e->average, padded_voxels * FB_REGIONS * real, subject));
    FB_TRY(reserve(e->host, &e->cover, (padded[0] + padded[1] + padded[2]) * real, subject));
    return reserve(e->host, &e->target, voxels, subject);
}

/* The z-scored, padded case -> e->image. */
static void normalise(fb_evaluator *e, const fb_volume *volume, const int64_t padded[3])
{
    const fb_ops *ops = e->ops;
    fb_sample sample = {.image = volume->image, .label = volume->label, .how = fb_augment_nothing()};
    memcpy(sample.shape, volume->shape, sizeof sample.shape);
    if (!ops->on_host) {
        ops->upload(ops, e->raw.data, volume->image,
                    fb_volume_voxels(volume->shape) * FB_MODALITIES * (int64_t)sizeof(float));
        sample.image = e->raw.data;
    }
    ops->upload(ops, e->sample.data, &sample, sizeof sample);
    ops->sample(ops, e->sample.data, padded, e->image.data, NULL);
}

/* The weights where the backend computes. */
static const float *bring_weights(fb_evaluator *e, const float *w)
{
    if (e->ops->on_host)
        return w;
    e->ops->upload(e->ops, e->w.data, w, e->params->count * (int64_t)sizeof *w);
    return e->w.data;
}

fb_status fb_evaluator_logits(fb_evaluator *e, const float *w, const fb_volume *volume, const float **logits)
{
    int64_t padded[3];
    pad(e, volume->shape, padded);
    FB_TRY(fit(e, volume->shape, volume->subject));
    const float *weights = bring_weights(e, w);
    normalise(e, volume, padded);
    const int slides = memcmp(padded, e->window, sizeof padded) != 0;
    FB_TRY(slides ? slide(e, weights, padded)
                  : fb_segresnet_forward(e->net, weights, e->image.data, NULL, e->sum.data));
    FB_TRY(e->ops->download(e->ops, e->average.data, e->sum.data,
                            fb_volume_voxels(padded) * FB_REGIONS * (int64_t)sizeof(float)));
    if (slides) {
        count_cover(e, padded);
        divide_by_cover(e, padded);
    }
    crop_padding(e->average.data, padded, volume->shape);
    *logits = e->average.data;
    return FB_OK;
}

fb_status fb_evaluator_case(fb_evaluator *e, const float *w, const fb_volume *volume, fb_counts *counts)
{
    const float *logits = NULL;
    const int64_t voxels = fb_volume_voxels(volume->shape);
    FB_TRY(fb_evaluator_logits(e, w, volume, &logits));
    uint8_t *target = e->target.data;
    for (int64_t v = 0; v < voxels; v++)
        target[v] = fb_region_bits(volume->label[v]);
    fb_count_case(voxels, logits, target, counts);
    return FB_OK;
}

fb_status fb_evaluator_count(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                             const int64_t window[3], double overlap, const int64_t shape[3], fb_evaluator_size *out)
{
    fb_count backend, host;
    fb_evaluator *e = NULL;
    fb_count_begin(ops, &backend);
    fb_count_begin(&fb_ops_ref, &host);
    FB_TRY(fb_evaluator_create(spec, params, &backend.ops, window, overlap, &e));
    e->host = &host.ops;
    const fb_status status = fit(e, shape, "evaluation");
    *out = (fb_evaluator_size){backend.bytes, backend.scratch_bytes, host.bytes, backend.convolutions};
    fb_evaluator_destroy(&e);
    return status;
}

int64_t fb_evaluator_voxels(int levels, const int64_t window[3], double overlap, const int64_t shape[3])
{
    const int64_t multiple = (int64_t)1 << (levels - 1);
    int64_t voxels = 1;
    for (int axis = 0; axis < 3; axis++) {
        const int64_t padded = (shape[axis] + multiple - 1) / multiple * multiple;
        const int64_t extent = padded < window[axis] ? padded : window[axis];
        voxels *= extent * fb_window_count(padded, extent, overlap);
    }
    return voxels;
}
