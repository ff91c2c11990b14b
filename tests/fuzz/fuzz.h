/* SPDX-License-Identifier: Apache-2.0
 *
 * What the fuzz targets share. A target is one file fuzz_X.c with the function below: libFuzzer calls it with what it
 * invents (make fuzz), replay.c with every file of corpus/X (make check). A target asserts more than "no crash": input
 * that is accepted is written and read again to the same, input that is refused gets a message, and all is freed.
 */
#pragma once

#include "core/file.h"
#include "core/mem.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { FUZZ_INPUT_MAX = 4096 }; /* bytes; longer inputs show nothing new */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The path of a file in memory that holds `data`: always the same one, rewritten. */
static inline const char *fuzz_file(const void *data, size_t size)
{
    static int file = -1;
    static char path[32];
    if (file < 0) {
        file = memfd_create("fuzz", MFD_CLOEXEC);
        FB_ASSERT(file >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    FB_ASSERT(ftruncate(file, 0) == 0);
    FB_ASSERT(pwrite(file, data, size, 0) == (ssize_t)size);
    return path;
}

/* Frees an error, which must say something. */
static inline void fuzz_refused(fb_status *status)
{
    FB_ASSERT(*status != FB_OK && fb_error_message(*status)[0] != '\0');
    fb_error_free(status);
}

/* For what must succeed. */
static inline void fuzz_must(fb_status status)
{
    if (status == FB_OK)
        return;
    fprintf(stderr, "unexpected: %s\n", fb_error_message(status));
    abort();
}

/* Ends an input that began at clock() == start: all memory is freed, it never was more than limit_bytes, and it took
 * less than a second of this processor, however busy that is. Returns what libFuzzer wants. */
static inline int fuzz_end(clock_t start, int64_t limit_bytes)
{
    FB_ASSERT(fb_mem_live_blocks() == 0);
    FB_ASSERT(fb_mem_peak_bytes() <= limit_bytes);
    FB_ASSERT(clock() - start < CLOCKS_PER_SEC);
    return 0;
}
