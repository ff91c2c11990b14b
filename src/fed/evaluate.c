/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/evaluate.h"

#include "core/mem.h"
#include "data/augment.h"
#include "nn/segresnet.h"

#include <string.h>

/* A buffer that only grows: cases differ in size, and the largest decides. */
typedef struct buffer {
    float *data; /* owned */
    int64_t count;
} buffer;

struct fb_evaluator {
    fb_net_spec spec;
    const fb_params *params; /* borrowed */
    const fb_ops *ops;       /* borrowed */
    int64_t limit[3];        /* the configured window */
    int64_t window[3];       /* of the present case: the limit, or less where the padded case is smaller */
    int64_t multiple;
    double overlap;
    fb_segresnet *net;     /* owned; for the window; NULL before the first case */
    float *x, *logits;     /* owned; of one window: (window, FB_MODALITIES), (window, FB_REGIONS) */
    buffer image, average; /* of the padded case: (padded, FB_MODALITIES), (padded, FB_REGIONS) */
    buffer cover;          /* (padded[0] + padded[1] + padded[2]) */
    uint8_t *target;       /* owned; (voxels) region bits */
    int64_t target_count;
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
    fb_segresnet_destroy(&e->net);
    FB_FREE(e->x);
    FB_FREE(e->logits);
    FB_FREE(e->image.data);
    FB_FREE(e->average.data);
    FB_FREE(e->cover.data);
    FB_FREE(e->target);
    FB_FREE(*evaluator);
}

static fb_status reserve(buffer *b, int64_t count, const char *subject)
{
    if (count <= b->count)
        return FB_OK;
    FB_FREE(b->data);
    b->count = 0;
    FB_TRY(FB_ALLOC(b->data, count, subject));
    b->count = count;
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

/* Copies the window that begins at `start` out of the padded image. */
static void take_window(const fb_evaluator *e, const int64_t padded[3], const int64_t start[3])
{
    const int64_t *window = e->window;
    const int64_t row = window[2] * FB_MODALITIES;
    for (int64_t d = 0; d < window[0]; d++) {
        for (int64_t h = 0; h < window[1]; h++) {
            const int64_t from = ((start[0] + d) * padded[1] + start[1] + h) * padded[2] + start[2];
            memcpy(e->x + (d * window[1] + h) * row, e->image.data + from * FB_MODALITIES, (size_t)row * sizeof *e->x);
        }
    }
}

/* Adds the window's logits to the sum over windows. */
static void add_window(const fb_evaluator *e, const int64_t padded[3], const int64_t start[3])
{
    const int64_t *window = e->window;
    const int64_t row = window[2] * FB_REGIONS;
    for (int64_t d = 0; d < window[0]; d++) {
        for (int64_t h = 0; h < window[1]; h++) {
            const int64_t to = ((start[0] + d) * padded[1] + start[1] + h) * padded[2] + start[2];
            const float *from = e->logits + (d * window[1] + h) * row;
            float *sum = e->average.data + to * FB_REGIONS;
            for (int64_t i = 0; i < row; i++)
                sum[i] += from[i];
        }
    }
}

/* For each position of each axis the number of windows over it: padded[0], then padded[1], then padded[2] numbers. */
static fb_status count_cover(fb_evaluator *e, const int64_t padded[3], const char *subject)
{
    FB_TRY(reserve(&e->cover, padded[0] + padded[1] + padded[2], subject));
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
    return FB_OK;
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

static fb_status slide(fb_evaluator *e, const float *w, const int64_t padded[3], const char *subject)
{
    int64_t count[3];
    FB_TRY(count_cover(e, padded, subject));
    for (int axis = 0; axis < 3; axis++)
        count[axis] = fb_window_count(padded[axis], e->window[axis], e->overlap);
    memset(e->average.data, 0, (size_t)(fb_volume_voxels(padded) * FB_REGIONS) * sizeof(float));
    for (int64_t i = 0; i < count[0] * count[1] * count[2]; i++) {
        const int64_t index[3] = {i / (count[1] * count[2]), i / count[2] % count[1], i % count[2]};
        int64_t start[3];
        for (int axis = 0; axis < 3; axis++)
            start[axis] = fb_window_start(padded[axis], e->window[axis], e->overlap, index[axis]);
        take_window(e, padded, start);
        FB_TRY(fb_segresnet_forward(e->net, w, e->x, NULL, e->logits));
        add_window(e, padded, start);
    }
    divide_by_cover(e, padded);
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
    FB_FREE(e->x);
    FB_FREE(e->logits);
    memcpy(e->window, window, sizeof window);
    const int64_t voxels = fb_volume_voxels(window);
    FB_TRY(FB_ALLOC(e->x, voxels * FB_MODALITIES, "evaluation window"));
    FB_TRY(FB_ALLOC(e->logits, voxels * FB_REGIONS, "evaluation logits"));
    return fb_segresnet_create(&e->spec, e->params, e->ops, window, 0, &e->net);
}

fb_status fb_evaluator_logits(fb_evaluator *e, const float *w, const fb_volume *volume, const float **logits)
{
    int64_t padded[3];
    for (int axis = 0; axis < 3; axis++)
        padded[axis] = (volume->shape[axis] + e->multiple - 1) / e->multiple * e->multiple;
    FB_TRY(fit_window(e, padded));
    const int64_t voxels = fb_volume_voxels(padded);
    FB_TRY(reserve(&e->image, voxels * FB_MODALITIES, volume->subject));
    FB_TRY(reserve(&e->average, voxels * FB_REGIONS, volume->subject));
    fb_volume_normalise(volume, padded, e->image.data);
    if (memcmp(padded, e->window, sizeof padded) == 0)
        FB_TRY(fb_segresnet_forward(e->net, w, e->image.data, NULL, e->average.data));
    else
        FB_TRY(slide(e, w, padded, volume->subject));
    crop_padding(e->average.data, padded, volume->shape);
    *logits = e->average.data;
    return FB_OK;
}

fb_status fb_evaluator_case(fb_evaluator *e, const float *w, const fb_volume *volume, fb_counts *counts)
{
    const float *logits = NULL;
    const int64_t voxels = fb_volume_voxels(volume->shape);
    FB_TRY(fb_evaluator_logits(e, w, volume, &logits));
    if (voxels > e->target_count) {
        FB_FREE(e->target);
        e->target_count = 0;
        FB_TRY(FB_ALLOC(e->target, voxels, volume->subject));
        e->target_count = voxels;
    }
    for (int64_t v = 0; v < voxels; v++)
        e->target[v] = fb_region_bits(volume->label[v]);
    fb_count_case(voxels, logits, e->target, counts);
    return FB_OK;
}
