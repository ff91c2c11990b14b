/* SPDX-License-Identifier: Apache-2.0
 *
 * For the build with libFuzzer: blocks of core/mem.h are padded to its alignment, which would hide a read of up to 63
 * bytes too far from the address sanitizer. These stand in front of its functions (ld --wrap) and forbid the padding.
 */
#include "core/mem.h"

#include <sanitizer/asan_interface.h>
#include <string.h>

fb_status __real_fb_mem_alloc(void *out, int64_t count, size_t element_bytes, const char *what);
fb_status __real_fb_mem_alloc_raw(void *out, int64_t count, size_t element_bytes, const char *what);
fb_status __real_fb_mem_resize(void *inout, int64_t count, size_t element_bytes, const char *what);
fb_status __wrap_fb_mem_alloc(void *out, int64_t count, size_t element_bytes, const char *what);
fb_status __wrap_fb_mem_alloc_raw(void *out, int64_t count, size_t element_bytes, const char *what);
fb_status __wrap_fb_mem_resize(void *inout, int64_t count, size_t element_bytes, const char *what);

static fb_status forbid_padding(fb_status status, const void *out, int64_t count, size_t element_bytes)
{
    const char *block = NULL;
    const size_t size_bytes = (size_t)count * element_bytes;
    if (status != FB_OK)
        return status;
    memcpy(&block, out, sizeof block);
    __asan_poison_memory_region(block + size_bytes, -size_bytes % FB_MEM_ALIGNMENT_BYTES);
    return FB_OK;
}

fb_status __wrap_fb_mem_alloc(void *out, int64_t count, size_t element_bytes, const char *what)
{
    return forbid_padding(__real_fb_mem_alloc(out, count, element_bytes, what), out, count, element_bytes);
}

fb_status __wrap_fb_mem_alloc_raw(void *out, int64_t count, size_t element_bytes, const char *what)
{
    return forbid_padding(__real_fb_mem_alloc_raw(out, count, element_bytes, what), out, count, element_bytes);
}

fb_status __wrap_fb_mem_resize(void *inout, int64_t count, size_t element_bytes, const char *what)
{
    return forbid_padding(__real_fb_mem_resize(inout, count, element_bytes, what), inout, count, element_bytes);
}
