/* SPDX-License-Identifier: Apache-2.0
 *
 * fb_status: how every fallible function reports. NULL is success; anything else is an error object, owned by the
 * receiver, that says what happened, where, to which value, what the limit is and what to do next. It is built once, at
 * the source of the error, and passed up unchanged or with context put in front. Only main() ends the program.
 *
 *     fb_status load(const char *path)
 *     {
 *         if (size > limit)
 *             return FB_FAIL("%s: %lld bytes exceed the limit of %lld; raise data.cache_bytes", path, size, limit);
 *         FB_TRY(fb_file_read(path, ...));
 *         return FB_OK;
 *     }
 */
#pragma once

#include <stddef.h>

typedef struct fb_error fb_error;
typedef fb_error *fb_status;

#define FB_OK ((fb_status)NULL)
#define FB_MUST_USE __attribute__((warn_unused_result))
#define FB_PRINTF(format_index, first_arg) __attribute__((format(printf, format_index, first_arg)))

/* Exit codes of all programs; an error carries the one its program should end with. */
enum {
    FB_EXIT_OK = 0,
    FB_EXIT_FAILED = 1,
    FB_EXIT_USAGE = 2,   /* wrong option or configuration: nothing was started */
    FB_EXIT_STOPPED = 85 /* stopped on request, checkpoint written: start me again */
};

/* Makes an error. Never fails: without memory it returns a static error that says so. */
fb_status fb_error_make(int exit_code, const char *format, ...) FB_PRINTF(2, 3) FB_MUST_USE;

/* Puts "context: " in front of the message of `status`. FB_OK stays FB_OK. */
fb_status fb_error_context(fb_status status, const char *format, ...) FB_PRINTF(2, 3) FB_MUST_USE;

/* The message, borrowed until the error is freed; "" for FB_OK. */
const char *fb_error_message(fb_status status);
int fb_error_exit_code(fb_status status); /* FB_EXIT_OK for FB_OK */

/* Frees the error and sets *status to FB_OK. Accepts FB_OK. */
void fb_error_free(fb_status *status);

/* Of two outcomes keeps the first that failed and frees the other: for clean-up after an error. */
fb_status fb_error_first(fb_status first, fb_status second) FB_MUST_USE;

#define FB_FAIL(...) fb_error_make(FB_EXIT_FAILED, __VA_ARGS__)
#define FB_USAGE(...) fb_error_make(FB_EXIT_USAGE, __VA_ARGS__)

/* Returns from the calling function when `call` fails. */
#define FB_TRY(call)                                                                                                   \
    do {                                                                                                               \
        fb_status fb_try_status_ = (call);                                                                             \
        if (fb_try_status_ != FB_OK)                                                                                   \
            return fb_try_status_;                                                                                     \
    } while (0)

/* Jumps to `label` with the error in `status` when `call` fails: for functions that own something. */
#define FB_TRY_GOTO(status, call, label)                                                                               \
    do {                                                                                                               \
        (status) = (call);                                                                                             \
        if ((status) != FB_OK)                                                                                         \
            goto label;                                                                                                \
    } while (0)

/* For our own bugs only, in every build: prints file and line and aborts. Bad input is never an assertion. */
#define FB_ASSERT(condition)                                                                                           \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fb_assert_failed(__FILE__, __LINE__, __func__, #condition);                                                \
    } while (0)

void fb_assert_failed(const char *file, int line, const char *function, const char *condition)
    __attribute__((noreturn));
