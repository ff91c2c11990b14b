/* SPDX-License-Identifier: Apache-2.0 */
#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct fb_error {
    int exit_code;
    char *message; /* owned, in the same allocation */
};

/* What is returned when there is no memory for an error; never freed. */
static struct fb_error no_memory = {FB_EXIT_FAILED, "out of memory while reporting an error"};

static fb_status make(int exit_code, const char *context, const char *format, va_list args)
{
    va_list copy;
    va_copy(copy, args);
    const int context_chars = context ? snprintf(NULL, 0, ": %s", context) : 0;
    const int chars = vsnprintf(NULL, 0, format, copy);
    va_end(copy);
    if (chars < 0 || context_chars < 0)
        return &no_memory;
    const size_t size_bytes = (size_t)chars + (size_t)context_chars + 1;
    struct fb_error *error = malloc(sizeof *error + size_bytes);
    if (!error)
        return &no_memory;
    error->exit_code = exit_code;
    error->message = (char *)(error + 1);
    vsnprintf(error->message, size_bytes, format, args);
    if (context)
        snprintf(error->message + chars, size_bytes - (size_t)chars, ": %s", context);
    return error;
}

fb_status fb_error_make(int exit_code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fb_status status = make(exit_code, NULL, format, args);
    va_end(args);
    return status;
}

fb_status fb_error_context(fb_status status, const char *format, ...)
{
    if (status == FB_OK)
        return FB_OK;
    va_list args;
    va_start(args, format);
    fb_status wrapped = make(status->exit_code, status->message, format, args);
    va_end(args);
    fb_error_free(&status);
    return wrapped;
}

const char *fb_error_message(fb_status status)
{
    return status == FB_OK ? "" : status->message;
}

int fb_error_exit_code(fb_status status)
{
    return status == FB_OK ? FB_EXIT_OK : status->exit_code;
}

void fb_error_free(fb_status *status)
{
    if (*status != FB_OK && *status != &no_memory)
        free(*status);
    *status = FB_OK;
}

fb_status fb_error_first(fb_status first, fb_status second)
{
    if (first == FB_OK)
        return second;
    fb_error_free(&second);
    return first;
}

void fb_assert_failed(const char *file, int line, const char *function, const char *condition)
{
    fprintf(stderr, "fedbrats: bug: %s:%d: %s: %s does not hold; please report it\n", file, line, function, condition);
    fflush(NULL);
    abort();
}
