/* SPDX-License-Identifier: Apache-2.0
 *
 * What test programs share: cmocka with the headers it wants before it, and checks of fb_status, which name the line of
 * the caller.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/mem.h"
#include "core/status.h"

#include <string.h>

/* Success. */
#define must(status) must_at(status, __FILE__, __LINE__)

/* An error whose message holds every one of the texts that follow; frees it. */
#define must_fail(status, ...) must_fail_at(status, (const char *const[]){__VA_ARGS__, NULL}, __FILE__, __LINE__)

static inline void must_at(fb_status status, const char *file, int line)
{
    if (status == FB_OK)
        return;
    print_error("%s\n", fb_error_message(status));
    _fail(file, line);
}

static inline void must_fail_at(fb_status status, const char *const *text, const char *file, int line)
{
    for (; *text; text++) {
        if (status != FB_OK && strstr(fb_error_message(status), *text))
            continue;
        print_error("\"%s\" is not in: %s\n", *text, fb_error_message(status));
        _fail(file, line);
    }
    fb_error_free(&status);
}

/* The last test of a program. */
static inline void nothing_is_left_allocated(void **state)
{
    (void)state;
    assert_int_equal(fb_mem_live_blocks(), 0);
}
