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
    resident *cases; /* (count) owned; the oldest first */
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
        volumes->limit_bytes = total_bytes / 2;
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

static const resident *find(const fb_volumes *volumes, const fb_shard *shard, fb_split split, int64_t index)
{
    for (int64_t i = 0; i < volumes->count; i++) {
        const resident *r = &volumes->cases[i];
        if (r->shard == shard && r->split == split && r->index == index)
            return r;
    }
    return NULL;
}

static void make_room(fb_volumes *volumes, int64_t bytes)
{
    int64_t gone = 0;
    while (gone < volumes->count && volumes->used_bytes + bytes > volumes->limit_bytes)
        release(volumes, &volumes->cases[gone++]);
    volumes->count -= gone;
    if (gone > 0)
        memmove(volumes->cases, volumes->cases + gone, (size_t)volumes->count * sizeof *volumes->cases);
}

static fb_status upload(fb_volumes *volumes, const fb_volume *volume, resident *r)
{
    const fb_ops *ops = volumes->ops;
    const int64_t voxels = fb_volume_voxels(volume->shape);
    const int64_t image_bytes = voxels * FB_MODALITIES * (int64_t)sizeof *volume->image;
    FB_TRY(ops->alloc(ops, image_bytes, volume->subject, &r->image));
    const fb_status status = ops->alloc(ops, voxels, volume->subject, &r->label);
    if (status != FB_OK) {
        ops->release(ops, &r->image);
        return status;
    }
    ops->upload(ops, r->image, volume->image, image_bytes);
    ops->upload(ops, r->label, volume->label, voxels);
    r->bytes = image_bytes + voxels;
    volumes->used_bytes += r->bytes;
    return FB_OK;
}

static fb_status bring(fb_volumes *volumes, resident r, const fb_volume *volume, const resident **out)
{
    make_room(volumes, fb_volume_voxels(volume->shape) * (FB_MODALITIES * (int64_t)sizeof(float) + 1));
    if (volumes->count == volumes->capacity) {
        const int64_t capacity = volumes->capacity ? 2 * volumes->capacity : 16;
        FB_TRY(fb_mem_resize(&volumes->cases, capacity, sizeof *volumes->cases, "volumes on the device"));
        volumes->capacity = capacity;
    }
    memcpy(r.shape, volume->shape, sizeof r.shape);
    FB_TRY(upload(volumes, volume, &r));
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
