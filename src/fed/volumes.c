/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/volumes.h"

#include "core/mem.h"

#include <string.h>

typedef struct resident {
    const fb_shard *shard; /* borrowed */
    fb_split split;
    int64_t index;
    int64_t shape[3];
    void *image, *label; /* owned, the backend's memory */
    int64_t bytes;
} resident;

struct fb_volumes {
    const fb_ops *ops; /* borrowed */
    int64_t limit_bytes, used_bytes;
    int64_t count, capacity;
    resident *cases; /* (count) owned; the one that was used longest ago first */
};

fb_status fb_volumes_create(const fb_ops *ops, int64_t limit_bytes, fb_volumes **out)
{
    fb_volumes *volumes = NULL;
    FB_TRY(FB_ALLOC(volumes, 1, "volumes on the device"));
    volumes->ops = ops;
    volumes->limit_bytes = limit_bytes;
    if (ops->room && limit_bytes == 0) {
        int64_t free_bytes = 0, total_bytes = 0;
        ops->room(ops, &free_bytes, &total_bytes);
        volumes->limit_bytes = free_bytes / 2;
    }
    *out = volumes;
    return FB_OK;
}

static void release(fb_volumes *volumes, resident *r)
{
    volumes->ops->release(volumes->ops, &r->image);
    volumes->ops->release(volumes->ops, &r->label);
    volumes->used_bytes -= r->bytes;
}

void fb_volumes_destroy(fb_volumes **volumes)
{
    fb_volumes *v = *volumes;
    if (!v)
        return;
    for (int64_t i = 0; i < v->count; i++)
        release(v, &v->cases[i]);
    FB_FREE(v->cases);
    FB_FREE(*volumes);
}

/* The case, moved to the end: the one that is used last goes last. NULL: it is not here. */
static const resident *find(fb_volumes *volumes, const fb_shard *shard, fb_split split, int64_t index)
{
    for (int64_t i = 0; i < volumes->count; i++) {
        const resident r = volumes->cases[i];
        if (r.shard != shard || r.split != split || r.index != index)
            continue;
        memmove(&volumes->cases[i], &volumes->cases[i + 1], (size_t)(volumes->count - 1 - i) * sizeof r);
        volumes->cases[volumes->count - 1] = r;
        return &volumes->cases[volumes->count - 1];
    }
    return NULL;
}

static resident take_first(fb_volumes *volumes)
{
    const resident gone = volumes->cases[0];
    volumes->count--;
    memmove(volumes->cases, volumes->cases + 1, (size_t)volumes->count * sizeof gone);
    return gone;
}

static void drop_first(fb_volumes *volumes)
{
    resident gone = take_first(volumes);
    release(volumes, &gone);
}

static fb_status allocate(const fb_ops *ops, int64_t image_bytes, int64_t label_bytes, resident *r)
{
    FB_TRY(ops->alloc(ops, image_bytes, "cases", &r->image));
    const fb_status status = ops->alloc(ops, label_bytes, "cases", &r->label);
    if (status != FB_OK)
        ops->release(ops, &r->image);
    return status;
}

/* Memory for `bytes`: that of the case which was used longest ago, where it has just this size, but never that of the
 * last one, which work in progress may use. Where there is room: fresh memory. */
static fb_status make_room(fb_volumes *volumes, int64_t image_bytes, int64_t label_bytes, const char *subject,
                           resident *r)
{
    const fb_ops *ops = volumes->ops;
    r->bytes = image_bytes + label_bytes;
    while (volumes->count > 1 && volumes->used_bytes + r->bytes > volumes->limit_bytes) {
        resident gone = take_first(volumes);
        if (gone.bytes == r->bytes) {
            r->image = gone.image;
            r->label = gone.label;
            return FB_OK;
        }
        release(volumes, &gone);
    }
    fb_status status = allocate(ops, image_bytes, label_bytes, r);
    while (status != FB_OK && volumes->count > 1) { /* others use the device too: do with less */
        fb_error_free(&status);
        drop_first(volumes);
        status = allocate(ops, image_bytes, label_bytes, r);
    }
    if (status == FB_OK)
        volumes->used_bytes += r->bytes;
    ops->turn(ops); /* what comes to fresh memory waits until that was zeroed */
    return fb_error_context(status, "%s", subject);
}

static fb_status bring(fb_volumes *volumes, resident r, const fb_volume *volume, const resident **out)
{
    const fb_ops *ops = volumes->ops;
    const int64_t voxels = fb_volume_voxels(volume->shape);
    const int64_t image_bytes = voxels * FB_MODALITIES * (int64_t)sizeof *volume->image;
    if (volumes->count == volumes->capacity) {
        const int64_t capacity = volumes->capacity ? 2 * volumes->capacity : 16;
        FB_TRY(fb_mem_resize(&volumes->cases, capacity, sizeof *volumes->cases, "list of the cases on the device"));
        volumes->capacity = capacity;
    }
    FB_TRY(make_room(volumes, image_bytes, voxels, volume->subject, &r));
    ops->upload_beside(ops, r.image, volume->image, image_bytes);
    ops->upload_beside(ops, r.label, volume->label, voxels);
    memcpy(r.shape, volume->shape, sizeof r.shape);
    volumes->cases[volumes->count] = r;
    *out = &volumes->cases[volumes->count++];
    return FB_OK;
}

static void fill(fb_sample *sample, const int64_t shape[3], const void *image, const void *label)
{
    memcpy(sample->shape, shape, sizeof sample->shape);
    sample->image = image;
    sample->label = label;
}

fb_status fb_volumes_get(fb_volumes *volumes, fb_shard *shard, fb_split split, int64_t index, fb_sample *sample)
{
    const fb_volume *volume = NULL;
    const resident *r = find(volumes, shard, split, index);
    if (!r)
        FB_TRY(fb_shard_volume(shard, split, index, &volume));
    if (!r && volumes->ops->on_host) {
        fill(sample, volume->shape, volume->image, volume->label);
        return FB_OK;
    }
    if (!r)
        FB_TRY(bring(volumes, (resident){.shard = shard, .split = split, .index = index}, volume, &r));
    fill(sample, r->shape, r->image, r->label);
    return FB_OK;
}

int64_t fb_volumes_bytes(const fb_volumes *volumes)
{
    return volumes->used_bytes;
}
