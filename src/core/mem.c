/* SPDX-License-Identifier: Apache-2.0 */
#include "core/mem.h"

#include <limits.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* In front of every block, one alignment unit long, so that the block itself stays aligned. */
typedef struct header {
    size_t size_bytes;
} header;

static atomic_llong live_blocks, live_bytes, peak_bytes;

static void count_in(size_t size_bytes)
{
    atomic_fetch_add(&live_blocks, 1);
    const long long now = atomic_fetch_add(&live_bytes, (long long)size_bytes) + (long long)size_bytes;
    long long peak = atomic_load(&peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) {
    }
}

static header *header_of(void *block)
{
    return (header *)((char *)block - FB_MEM_ALIGNMENT_BYTES);
}

fb_status fb_mem_alloc_raw(void *out, int64_t count, size_t element_bytes, const char *what)
{
    size_t size_bytes = 0;
    const size_t limit_bytes = SIZE_MAX / 2;
    if (count < 0 || element_bytes == 0 || (uint64_t)count > limit_bytes / element_bytes)
        return FB_FAIL("%s: cannot allocate %lld elements of %zu bytes", what, (long long)count, element_bytes);
    size_bytes = (size_t)count * element_bytes;
    const size_t padded = (size_bytes + FB_MEM_ALIGNMENT_BYTES - 1) / FB_MEM_ALIGNMENT_BYTES * FB_MEM_ALIGNMENT_BYTES;
    void *raw = aligned_alloc(FB_MEM_ALIGNMENT_BYTES, padded + FB_MEM_ALIGNMENT_BYTES);
    if (!raw)
        return FB_FAIL("%s: out of memory: %.1f MiB wanted, %.1f MiB in use by this process", what,
                       (double)size_bytes / 1048576.0, (double)fb_mem_live_bytes() / 1048576.0);
    void *block = (char *)raw + FB_MEM_ALIGNMENT_BYTES;
    header_of(block)->size_bytes = size_bytes;
    count_in(size_bytes);
    memcpy(out, &block, sizeof block);
    return FB_OK;
}

fb_status fb_mem_alloc(void *out, int64_t count, size_t element_bytes, const char *what)
{
    void *block = NULL;
    FB_TRY(fb_mem_alloc_raw(&block, count, element_bytes, what));
    memset(block, 0, header_of(block)->size_bytes);
    memcpy(out, &block, sizeof block);
    return FB_OK;
}

fb_status fb_mem_resize(void *inout, int64_t count, size_t element_bytes, const char *what)
{
    void *old = NULL, *block = NULL;
    memcpy(&old, inout, sizeof old);
    FB_TRY(fb_mem_alloc(&block, count, element_bytes, what));
    if (old) {
        const size_t old_bytes = header_of(old)->size_bytes, new_bytes = header_of(block)->size_bytes;
        memcpy(block, old, old_bytes < new_bytes ? old_bytes : new_bytes);
        fb_mem_free(&old);
    }
    memcpy(inout, &block, sizeof block);
    return FB_OK;
}

void fb_mem_free(void *inout)
{
    void *block = NULL;
    memcpy(&block, inout, sizeof block);
    if (!block)
        return;
    atomic_fetch_sub(&live_blocks, 1);
    atomic_fetch_sub(&live_bytes, (long long)header_of(block)->size_bytes);
    free(header_of(block));
    block = NULL;
    memcpy(inout, &block, sizeof block);
}

int64_t fb_mem_live_blocks(void)
{
    return atomic_load(&live_blocks);
}

int64_t fb_mem_live_bytes(void)
{
    return atomic_load(&live_bytes);
}

int64_t fb_mem_peak_bytes(void)
{
    return atomic_load(&peak_bytes);
}

void fb_mem_keep_freed(void)
{
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
}
