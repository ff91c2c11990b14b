/* SPDX-License-Identifier: Apache-2.0
 *
 * A plan as text and back. Knows nothing of cuDNN but how it numbers its versions.
 */
#include "nn/conv_cudnn.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Appends to text[*at], as far as it fits. */
static void append(size_t chars, char *text, size_t *at, const char *format, ...) FB_PRINTF(4, 5);

static void append(size_t chars, char *text, size_t *at, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int wanted = *at < chars ? vsnprintf(text + *at, chars - *at, format, args) : 0;
    va_end(args);
    *at += wanted > 0 ? (size_t)wanted : 0;
}

void fb_cudnn_choice_print(const fb_cudnn_choice *choice, size_t chars, char *text)
{
    size_t at = 0;
    append(chars, text, &at, "cudnn %lld.%lld.%lld engine %lld knobs ", (long long)(choice->version / 10000),
           (long long)(choice->version / 100 % 100), (long long)(choice->version % 100), (long long)choice->engine);
    for (int64_t i = 0; i < choice->knob_count; i++)
        append(chars, text, &at, "%s%lld=%lld", i > 0 ? "," : "", (long long)choice->knobs[i].type,
               (long long)choice->knobs[i].value);
    append(chars, text, &at, "%s workspace %lld", choice->knob_count > 0 ? "" : "-",
           (long long)choice->workspace_bytes);
}

/* --- parsing: each step moves *at on and returns whether it found what it looked for --------------------------- */

static int word(const char **at, const char *expected)
{
    const size_t length = strlen(expected);
    if (strncmp(*at, expected, length) != 0)
        return 0;
    *at += length;
    return 1;
}

static int number(const char **at, int64_t most, int64_t *out)
{
    char *end = NULL;
    if (**at < '0' || **at > '9')
        return 0;
    errno = 0;
    const long long value = strtoll(*at, &end, 10);
    if (errno != 0 || value > most)
        return 0;
    *out = value;
    *at = end;
    return 1;
}

static int version(const char **at, int64_t *out)
{
    int64_t major = 0, minor = 0, patch = 0;
    if (!number(at, 9999, &major) || !word(at, ".") || !number(at, 99, &minor) || !word(at, ".") ||
        !number(at, 99, &patch))
        return 0;
    *out = major * 10000 + minor * 100 + patch;
    return 1;
}

static int knobs(const char **at, fb_cudnn_choice *choice)
{
    if (word(at, "-"))
        return 1;
    do {
        if (choice->knob_count == FB_CUDNN_KNOBS_MAX)
            return 0;
        fb_cudnn_knob *knob = &choice->knobs[choice->knob_count];
        if (!number(at, INT32_MAX, &knob->type) || !word(at, "="))
            return 0;
        const int64_t sign = word(at, "-") ? -1 : 1; /* -1 stands for "off" or "by default" in some knobs */
        if (!number(at, INT64_MAX, &knob->value))
            return 0;
        knob->value *= sign;
        choice->knob_count++;
    } while (word(at, ","));
    return 1;
}

fb_status fb_cudnn_choice_parse(const char *text, fb_cudnn_choice *out)
{
    const char *at = text;
    fb_cudnn_choice choice = {0};
    if (!word(&at, "cudnn ") || !version(&at, &choice.version) || !word(&at, " engine ") ||
        !number(&at, INT64_MAX, &choice.engine) || !word(&at, " knobs ") || !knobs(&at, &choice) ||
        !word(&at, " workspace ") || !number(&at, INT64_MAX, &choice.workspace_bytes) || *at != '\0')
        return FB_FAIL("\"%s\" is not a plan of cuDNN: not understood from character %lld on; expected \"cudnn 9.19.0 "
                       "engine 34 knobs 2=1,5=0 workspace 1048576\"",
                       text, (long long)(at - text) + 1);
    *out = choice;
    return FB_OK;
}

int fb_cudnn_choice_equal(const fb_cudnn_choice *a, const fb_cudnn_choice *b)
{
    if (a->version != b->version || a->engine != b->engine || a->knob_count != b->knob_count)
        return 0;
    for (int64_t i = 0; i < a->knob_count; i++)
        if (a->knobs[i].type != b->knobs[i].type || a->knobs[i].value != b->knobs[i].value)
            return 0;
    return 1;
}
