/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/update.h"

#include "core/mem.h"

#include <string.h>

void fb_update_free(fb_update *update)
{
    FB_FREE(update->index);
    FB_FREE(update->f32);
    FB_FREE(update->grid);
    memset(update, 0, sizeof *update);
}

static fb_status reserve(fb_update *update)
{
    if (update->count != update->n)
        FB_TRY(FB_ALLOC_RAW(update->index, update->count, "indices of an update"));
    if (update->kind == FB_VALUES_F32)
        return FB_ALLOC_RAW(update->f32, update->count, "values of an update");
    return FB_ALLOC_RAW(update->grid, update->count, "values of an update");
}

fb_status fb_update_reserve(fb_update *update, int64_t n, int64_t count, fb_value_kind kind)
{
    FB_ASSERT(0 <= count && count <= n);
    fb_update_free(update);
    update->n = n;
    update->count = count;
    update->kind = kind;
    const fb_status status = reserve(update);
    if (status != FB_OK)
        fb_update_free(update);
    return status;
}

int64_t fb_update_bytes(int64_t n, int64_t count, fb_value_kind kind)
{
    const size_t value_bytes = kind == FB_VALUES_F32 ? sizeof(float) : sizeof(int64_t);
    return count * (int64_t)(value_bytes + (count < n ? sizeof(uint32_t) : 0));
}
