/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/op_count.h"

#include "core/mem.h"

/* What stands for a block: its size, to take it off again. */
typedef struct block {
    int64_t bytes;
} block;

struct fb_conv {
    fb_count *count; /* borrowed */
    int64_t bytes;
};

/* The counter that the table is part of: backends get their table as const, but this one is the caller's own. */
static fb_count *counter(const fb_ops *ops)
{
    return ops->state;
}

static fb_status alloc(const fb_ops *ops, int64_t bytes, const char *subject, void **out)
{
    block *b = NULL;
    FB_TRY(FB_ALLOC(b, 1, subject));
    b->bytes = bytes;
    counter(ops)->bytes += bytes;
    *out = b;
    return FB_OK;
}

static void release(const fb_ops *ops, void **memory)
{
    if (*memory)
        counter(ops)->bytes -= ((block *)*memory)->bytes;
    FB_FREE(*memory);
}

/* Half of what is free is asked about by the caller, who counts it himself. */
static void room(const fb_ops *ops, int64_t *free_bytes, int64_t *total_bytes)
{
    counter(ops)->like->room(counter(ops)->like, free_bytes, total_bytes);
}

static fb_status conv_create(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out)
{
    fb_count *count = counter(ops);
    int64_t own_bytes = 0, scratch_bytes = 0;
    fb_conv *conv = NULL;
    FB_TRY(count->like->conv_bytes(count->like, shape, &own_bytes, &scratch_bytes));
    FB_TRY(FB_ALLOC(conv, 1, "counted convolution"));
    *conv = (fb_conv){count, own_bytes};
    count->bytes += own_bytes;
    count->convolutions++;
    count->scratch_bytes = scratch_bytes > count->scratch_bytes ? scratch_bytes : count->scratch_bytes;
    *out = conv;
    return FB_OK;
}

static void conv_destroy(fb_conv **conv)
{
    if (*conv)
        (*conv)->count->bytes -= (*conv)->bytes;
    FB_FREE(*conv);
}

void fb_count_begin(const fb_ops *like, fb_count *count)
{
    *count = (fb_count){.ops = {.name = like->name,
                                .state = count,
                                .act_bytes = like->act_bytes,
                                .on_host = like->on_host,
                                .alloc = alloc,
                                .release = release,
                                .room = like->room ? room : NULL,
                                .conv_create = conv_create,
                                .conv_destroy = conv_destroy},
                        .like = like};
}
