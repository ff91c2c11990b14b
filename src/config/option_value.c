/* SPDX-License-Identifier: Apache-2.0 */
#include "config/option_value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static fb_status refuse(const fb_option *option, const char *text, const char *why)
{
    return FB_USAGE("%s%s%s = \"%s\": %s", option->section, option->section[0] ? "." : "", option->key, text, why);
}

static fb_status out_of_range(const fb_option *option, const char *text)
{
    char why[128];
    snprintf(why, sizeof why, "outside %.16g to %.16g%s%s", option->min, option->max, option->unit[0] ? " " : "",
             option->unit);
    return refuse(option, text, why);
}

/* Reads one integer; *end is set behind it. 0 on junk or overflow. */
static int read_int(const char *text, const char **end, int64_t *value)
{
    char *stop = NULL;
    if (*text == ' ' || *text == '+')
        return 0;
    errno = 0;
    const long long parsed = strtoll(text, &stop, 10);
    if (stop == text || errno == ERANGE)
        return 0;
    *end = stop;
    *value = parsed;
    return 1;
}

static fb_status parse_bool(const fb_option *option, const char *text, int *field)
{
    static const char *const names[2][4] = {{"false", "no", "off", "0"}, {"true", "yes", "on", "1"}};
    for (int value = 0; value < 2; value++)
        for (int i = 0; i < 4; i++)
            if (strcasecmp(text, names[value][i]) == 0) {
                *field = value;
                return FB_OK;
            }
    return refuse(option, text, "not true or false");
}

static fb_status parse_real(const fb_option *option, const char *text, double *field)
{
    char *end = NULL;
    const int plain = strspn(text, "0123456789.eE+-") == strlen(text);
    if (!plain && strcmp(text, "inf") != 0)
        return refuse(option, text, "not a number");
    const double value = strtod(text, &end);
    if (end == text || *end != '\0')
        return refuse(option, text, "not a number");
    if (!(value >= option->min && value <= option->max) || (plain && isinf(value)))
        return out_of_range(option, text);
    *field = value;
    return FB_OK;
}

/* Reads 1 to `max_count` integers with `separator` between them. */
static fb_status parse_ints(const fb_option *option, const char *text, char separator, int max_count, int64_t *values,
                            int *count)
{
    const char *at = text;
    for (*count = 0; *count < max_count; at++) {
        int64_t value = 0;
        if (!read_int(at, &at, &value))
            return refuse(option, text, separator ? "not a list of whole numbers" : "not a whole number");
        if ((double)value < option->min || (double)value > option->max)
            return out_of_range(option, text);
        values[(*count)++] = value;
        if (*at == '\0')
            return FB_OK;
        if (*at != separator)
            return refuse(option, text, "junk behind the number");
    }
    return refuse(option, text, "too many numbers");
}

static fb_status parse_shape(const fb_option *option, const char *text, int64_t *field)
{
    int64_t values[3] = {0};
    int count = 0;
    FB_TRY(parse_ints(option, text, 'x', 3, values, &count));
    if (count == 2)
        return refuse(option, text, "a shape is DxHxW or one number for a cube");
    for (int axis = 0; axis < 3; axis++)
        field[axis] = values[count == 1 ? 0 : axis];
    return FB_OK;
}

static fb_status parse_choice(const fb_option *option, const char *text, int *field)
{
    const size_t chars = strlen(text);
    int position = 0;
    for (const char *choice = option->choices; choice; position++) {
        const char *bar = strchr(choice, '|');
        const size_t choice_chars = bar ? (size_t)(bar - choice) : strlen(choice);
        if (chars == choice_chars && strncmp(choice, text, chars) == 0) {
            *field = position;
            return FB_OK;
        }
        choice = bar ? bar + 1 : NULL;
    }
    char why[256];
    snprintf(why, sizeof why, "not one of %s", option->choices);
    return refuse(option, text, why);
}

enum { LINE_TEXT_CHARS = 180 }; /* libinih reads lines of 198 characters; "trainable = " stands before the text */

/* An INI file gives the text back as it is: blanks at its ends are cut there, and a ';' behind a blank is a comment. */
static int fits_ini(const char *text)
{
    const size_t chars = strlen(text);
    if (chars > 0 && (text[0] == ' ' || text[chars - 1] == ' ' || text[0] == ';'))
        return 0;
    for (size_t i = 0; i < chars; i++)
        if (iscntrl((unsigned char)text[i]) || (text[i] == ' ' && text[i + 1] == ';'))
            return 0;
    return 1;
}

static fb_status parse_text(const fb_option *option, const char *text, char *field)
{
    const size_t chars = strlen(text);
    if (chars > LINE_TEXT_CHARS)
        return refuse(option, text, "longer than the 180 characters that a line of an INI file has room for");
    if (!fits_ini(text))
        return refuse(option, text,
                      "the INI file of the options used could not hold blanks at its ends, a ';' at its start or "
                      "behind a blank, or control characters");
    memcpy(field, text, chars + 1);
    return FB_OK;
}

fb_status fb_option_parse(const fb_option *option, const char *text, void *values)
{
    void *field = (char *)values + option->offset;
    fb_list list = {0};
    int64_t value = 0;
    int count = 0;
    switch (option->type) {
    case FB_OPTION_BOOL:
        return parse_bool(option, text, field);
    case FB_OPTION_INT:
        FB_TRY(parse_ints(option, text, '\0', 1, &value, &count));
        *(int64_t *)field = value;
        return FB_OK;
    case FB_OPTION_REAL:
        return parse_real(option, text, field);
    case FB_OPTION_TEXT:
        return parse_text(option, text, field);
    case FB_OPTION_CHOICE:
        return parse_choice(option, text, field);
    case FB_OPTION_SHAPE:
        return parse_shape(option, text, field);
    case FB_OPTION_LIST:
        FB_TRY(parse_ints(option, text, ',', FB_LIST_MAX, list.value, &count));
        list.count = count;
        *(fb_list *)field = list;
        return FB_OK;
    }
    return refuse(option, text, "of no known type");
}

static void format_ints(char *text, const int64_t *values, int64_t count, char separator)
{
    size_t used = 0;
    text[0] = '\0';
    for (int64_t i = 0; i < count && used < FB_TEXT_CHARS - 24; i++)
        used += (size_t)snprintf(text + used, FB_TEXT_CHARS - used, "%s%lld", i ? (char[2]){separator, '\0'} : "",
                                 (long long)values[i]);
}

static void format_choice(char *text, const char *choices, int position)
{
    for (; position > 0; position--)
        choices = strchr(choices, '|') + 1;
    snprintf(text, FB_TEXT_CHARS, "%.*s", (int)strcspn(choices, "|"), choices);
}

/* The shortest decimal that reads back to the same double. */
static void format_real(char *text, double value)
{
    char number[32];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(number, sizeof number, "%.*g", digits, value);
        if (isinf(value) || strtod(number, NULL) == value)
            break;
    }
    memcpy(text, number, sizeof number);
}

void fb_options_format(const fb_option *option, const void *values, char text[FB_TEXT_CHARS])
{
    const void *field = (const char *)values + option->offset;
    switch (option->type) {
    case FB_OPTION_BOOL:
        snprintf(text, FB_TEXT_CHARS, "%s", *(const int *)field ? "true" : "false");
        break;
    case FB_OPTION_INT:
        format_ints(text, field, 1, ' ');
        break;
    case FB_OPTION_REAL:
        format_real(text, *(const double *)field);
        break;
    case FB_OPTION_TEXT:
        snprintf(text, FB_TEXT_CHARS, "%s", (const char *)field);
        break;
    case FB_OPTION_CHOICE:
        format_choice(text, option->choices, *(const int *)field);
        break;
    case FB_OPTION_SHAPE:
        format_ints(text, field, 3, 'x');
        break;
    case FB_OPTION_LIST:
        format_ints(text, ((const fb_list *)field)->value, ((const fb_list *)field)->count, ',');
        break;
    }
}
