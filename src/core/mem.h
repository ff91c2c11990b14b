/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory: zeroed, aligned for vector loads, counted. The balance must be zero when a program ends (tests check it),
 * which finds our own leaks at any rank count without the noise of MPI's.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

enum { FB_MEM_ALIGNMENT_BYTES = 64 };

/* Allocates `count` elements of `element_bytes`, zeroed, and stores the pointer in *out, which must be the address of
 * an object pointer. Owned by the caller; release with FB_FREE. count 0 gives a valid pointer. Errors: negative count,
 * overflow, no memory (the message names `what` and the size). */
fb_status fb_mem_alloc(void *out, int64_t count, size_t element_bytes, const char *what) FB_MUST_USE;

/* The same without zeroing, for large blocks that are written completely at once. */
fb_status fb_mem_alloc_raw(void *out, int64_t count, size_t element_bytes, const char *what) FB_MUST_USE;

/* Grows or shrinks a block of fb_mem_alloc, keeping its contents; new bytes are zero. On error *inout is unchanged. */
fb_status fb_mem_resize(void *inout, int64_t count, size_t element_bytes, const char *what) FB_MUST_USE;

void fb_mem_free(void *inout); /* takes the address of the pointer, sets it to NULL; accepts NULL inside */

int64_t fb_mem_live_blocks(void);
int64_t fb_mem_live_bytes(void);
int64_t fb_mem_peak_bytes(void);

#define FB_ALLOC(pointer, count, what) fb_mem_alloc(&(pointer), (count), sizeof *(pointer), (what))
#define FB_ALLOC_RAW(pointer, count, what) fb_mem_alloc_raw(&(pointer), (count), sizeof *(pointer), (what))
#define FB_FREE(pointer) fb_mem_free(&(pointer))

/* For programs that allocate the same large blocks again and again: freed memory stays with the process instead of
 * going back to the system, which would have to clear every page anew. Call once, first thing in main(). */
void fb_mem_keep_freed(void);
