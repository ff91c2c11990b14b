/* SPDX-License-Identifier: Apache-2.0 */
#include "config/options.h"

#include "config/option_value.h"
#include "core/mem.h"

#include <errno.h>
#include <ini.h>
#include <string.h>
#include <strings.h>

/* Where a value came from; a later source overrides an earlier one, the same source twice is an error. */
typedef enum source { FROM_DEFAULT = 0, FROM_PRESET, FROM_FILE, FROM_ARGUMENT, SOURCES } source;

enum { WHERE_CHARS = 256, NAME_CHARS = 128, COMMENT_CHARS = 150 };

struct fb_options {
    const fb_option *table; /* (count) borrowed */
    int count;
    void *values;                        /* borrowed */
    char (*where)[SOURCES][WHERE_CHARS]; /* (count) owned: "experiment.ini:12"; "" where a source says nothing */
};

static void full_name(const fb_option *option, char name[NAME_CHARS])
{
    snprintf(name, NAME_CHARS, "%s%s%s", option->section, option->section[0] ? "." : "", option->key);
}

fb_status fb_options_create(const fb_option *table, int count, void *values, fb_options **out)
{
    fb_options *options = NULL;
    fb_status status = FB_OK;
    FB_TRY(FB_ALLOC(options, 1, "options"));
    options->table = table;
    options->count = count;
    options->values = values;
    FB_TRY_GOTO(status, FB_ALLOC(options->where, count, "options"), failed);
    for (int i = 0; i < count; i++) {
        snprintf(options->where[i][FROM_DEFAULT], WHERE_CHARS, "default");
        if (!table[i].fallback)
            continue;
        FB_TRY_GOTO(status, fb_option_parse(&table[i], table[i].fallback, values), failed);
    }
    *out = options;
    return FB_OK;
failed:
    fb_options_destroy(&options);
    return status;
}

void fb_options_destroy(fb_options **options)
{
    if (*options) {
        FB_FREE((*options)->where);
    }
    FB_FREE(*options);
}

/* Levenshtein distance of two short names, for "did you mean". */
static int distance(const char *a, const char *b)
{
    int row[NAME_CHARS];
    const int a_chars = (int)strlen(a), b_chars = (int)strlen(b);
    if (a_chars >= NAME_CHARS || b_chars >= NAME_CHARS)
        return NAME_CHARS;
    for (int j = 0; j <= b_chars; j++)
        row[j] = j;
    for (int i = 1; i <= a_chars; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= b_chars; j++) {
            const int replaced = diagonal + (a[i - 1] != b[j - 1]);
            const int inserted = row[j - 1] + 1, deleted = row[j] + 1;
            diagonal = row[j];
            row[j] = replaced < inserted ? replaced : inserted;
            row[j] = row[j] < deleted ? row[j] : deleted;
        }
    }
    return row[b_chars];
}

static fb_status unknown(const fb_options *options, const char *name, const char *where)
{
    char candidate[NAME_CHARS], best[NAME_CHARS] = "";
    int best_distance = NAME_CHARS;
    for (int i = 0; i < options->count; i++) {
        full_name(&options->table[i], candidate);
        int d = distance(name, candidate);
        const int key_only = distance(name, options->table[i].key);
        d = d < key_only + 1 ? d : key_only + 1;
        if (d < best_distance) {
            best_distance = d;
            memcpy(best, candidate, sizeof best);
        }
    }
    if (best_distance <= 1 + (int)strlen(name) / 3)
        return FB_USAGE("%s: unknown option \"%s\"; did you mean \"%s\"?", where, name, best);
    return FB_USAGE("%s: unknown option \"%s\"; --help lists all", where, name);
}

static int find(const fb_options *options, const char *name)
{
    char candidate[NAME_CHARS];
    for (int i = 0; i < options->count; i++) {
        full_name(&options->table[i], candidate);
        if (strcmp(candidate, name) == 0)
            return i;
    }
    return -1;
}

/* The source that decides the present value. */
static source strongest(const fb_options *options, int i)
{
    source from = FROM_ARGUMENT;
    while (from > FROM_DEFAULT && !options->where[i][from][0])
        from--;
    return from;
}

/* Checks a value that a stronger source overrides: a fault in a file is a fault even then. */
static fb_status check_only(const fb_option *option, const char *text)
{
    union {
        double real;
        fb_list list;
        char text[FB_TEXT_CHARS];
    } unused;
    fb_option here = *option;
    here.offset = 0;
    return fb_option_parse(&here, text, &unused);
}

static fb_status set(fb_options *options, const char *name, const char *text, source from, const char *where)
{
    const int i = find(options, name);
    if (i < 0)
        return unknown(options, name, where);
    if (options->where[i][from][0] && from != FROM_PRESET)
        return FB_USAGE("%s: option \"%s\" is given twice, first at %s; keep one", where, name,
                        options->where[i][from]);
    fb_status status = strongest(options, i) > from ? check_only(&options->table[i], text)
                                                    : fb_option_parse(&options->table[i], text, options->values);
    if (status != FB_OK)
        return fb_error_context(status, "%s", where);
    snprintf(options->where[i][from], WHERE_CHARS, "%s", where);
    return FB_OK;
}

fb_status fb_options_preset(fb_options *options, const char *name, const char *text, const char *where)
{
    return set(options, name, text, FROM_PRESET, where);
}

/* What libinih's callbacks need: in Debian's build they are told neither the file nor the line. */
typedef struct file_reader {
    fb_options *options;
    const char *path;
    FILE *file;
    int line, failed_line;
    fb_status status;
} file_reader;

static char *read_line(char *buffer, int chars, void *stream)
{
    file_reader *reader = stream;
    int used = 0, c = 0, zeros = 0;
    while (used < chars - 1 && c != '\n' && (c = getc(reader->file)) != EOF) {
        zeros += c == '\0';
        buffer[used++] = (char)c;
    }
    if (used == 0)
        return NULL;
    buffer[used] = '\0';
    reader->line++;
    if (reader->status == FB_OK && zeros > 0)
        reader->status = FB_USAGE("%s:%d: not a text file: it holds a zero byte", reader->path, reader->line);
    else if (reader->status == FB_OK && used == chars - 1 && c != '\n')
        reader->status =
            FB_USAGE("%s:%d: the line is longer than %d characters", reader->path, reader->line, chars - 2);
    return buffer;
}

static int on_value(void *user, const char *section, const char *key, const char *text)
{
    file_reader *reader = user;
    char name[2 * NAME_CHARS], where[WHERE_CHARS];
    if (reader->status != FB_OK)
        return 1;
    snprintf(name, sizeof name, "%s%s%s", section, section[0] ? "." : "", key);
    snprintf(where, sizeof where, "%s:%d", reader->path, reader->line);
    reader->status = set(reader->options, name, text ? text : "", FROM_FILE, where);
    reader->failed_line = reader->line;
    return 1;
}

/* A wrong path is the user's, a disk that fails is not. */
static int exit_code(int reason)
{
    const int wrong_path = reason == ENOENT || reason == ENOTDIR || reason == EISDIR || reason == EACCES ||
                           reason == ENAMETOOLONG || reason == ELOOP;
    return wrong_path ? FB_EXIT_USAGE : FB_EXIT_FAILED;
}

fb_status fb_options_read_ini(fb_options *options, const char *path)
{
    file_reader reader = {options, path, fopen(path, "r"), 0, 0, FB_OK};
    if (!reader.file)
        return fb_error_make(exit_code(errno),
                             "%s: cannot open the configuration: %s; give the path of an existing INI file", path,
                             strerror(errno));
    const int bad_line = ini_parse_stream(read_line, &reader, on_value, &reader);
    const int unreadable = ferror(reader.file), reason = errno;
    fclose(reader.file);
    if (unreadable) {
        fb_error_free(&reader.status);
        return fb_error_make(exit_code(reason), "%s: cannot read the configuration: %s", path, strerror(reason));
    }
    if (bad_line != 0 && (reader.status == FB_OK || bad_line < reader.failed_line)) {
        fb_error_free(&reader.status);
        return FB_USAGE("%s:%d: neither [section] nor key = value nor a comment", path, bad_line);
    }
    return reader.status;
}

static fb_status read_arg(fb_options *options, int argc, char **argv, int *position)
{
    const char *argument = argv[*position];
    char name[NAME_CHARS], where[WHERE_CHARS];
    const char *equals = strchr(argument, '=');
    const size_t chars = equals ? (size_t)(equals - argument) - 2 : strlen(argument) - 2;
    if (chars == 0 || chars >= sizeof name)
        return FB_USAGE("argument \"%s\": not an option; --help lists all", argument);
    memcpy(name, argument + 2, chars);
    name[chars] = '\0';
    snprintf(where, sizeof where, "argument --%s", name);
    if (find(options, name) < 0)
        return unknown(options, name, where);
    if (!equals && *position + 1 >= argc)
        return FB_USAGE("%s: needs a value: --%s=VALUE", where, name);
    const char *text = equals ? equals + 1 : argv[++*position];
    return set(options, name, text, FROM_ARGUMENT, where);
}

fb_status fb_options_read_args(fb_options *options, int argc, char **argv, const char **positional, int positional_max,
                               int *positional_count)
{
    *positional_count = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) {
            FB_TRY(read_arg(options, argc, argv, &i));
        } else if (argv[i][0] == '-') {
            return FB_USAGE("argument \"%s\": options begin with two dashes; --help lists all", argv[i]);
        } else if (*positional_count == positional_max) {
            return FB_USAGE("argument \"%s\": not expected here; --help shows the usage", argv[i]);
        } else {
            positional[(*positional_count)++] = argv[i];
        }
    }
    return FB_OK;
}

fb_status fb_options_complete(const fb_options *options)
{
    char missing[FB_TEXT_CHARS] = "", name[NAME_CHARS];
    for (int i = 0; i < options->count; i++) {
        if (options->table[i].fallback || strongest(options, i) != FROM_DEFAULT)
            continue;
        full_name(&options->table[i], name);
        const size_t used = strlen(missing);
        snprintf(missing + used, sizeof missing - used, " --%s=VALUE", name);
    }
    if (missing[0])
        return FB_USAGE("missing:%s; --help explains each", missing);
    return FB_OK;
}

static void print_help(FILE *stream, const fb_option *option)
{
    char name[NAME_CHARS], range[128] = "";
    full_name(option, name);
    if (option->type == FB_OPTION_CHOICE)
        snprintf(range, sizeof range, "%s", option->choices);
    else if (option->type == FB_OPTION_BOOL)
        snprintf(range, sizeof range, "true|false");
    else if (option->type != FB_OPTION_TEXT)
        snprintf(range, sizeof range, "%.16g to %.16g%s%s", option->min, option->max, option->unit[0] ? " " : "",
                 option->unit);
    fprintf(stream, "  --%s=%s\n", name, option->fallback ? option->fallback : "(required)");
    fprintf(stream, "        %s%s%s%s\n", option->help, range[0] ? " [" : "", range, range[0] ? "]" : "");
}

void fb_options_help(FILE *stream, const fb_option *table, int count)
{
    const char *section = "";
    for (int i = 0; i < count; i++) {
        if (strcmp(section, table[i].section) != 0)
            fprintf(stream, "\n[%s]\n", section = table[i].section);
        print_help(stream, &table[i]);
    }
}

void fb_options_print_used(const fb_options *options, FILE *stream)
{
    const char *section = "";
    char text[FB_TEXT_CHARS];
    for (int i = 0; i < options->count; i++) {
        const fb_option *option = &options->table[i];
        if (strcmp(section, option->section) != 0)
            fprintf(stream, "%s[%s]\n", i > 0 ? "\n" : "", section = option->section);
        fb_options_format(option, options->values, text);
        fprintf(stream, "; %.*s%s%s\n%s = %s\n", COMMENT_CHARS, options->where[i][strongest(options, i)],
                option->unit[0] ? ", unit: " : "", option->unit, option->key, text);
    }
}

int fb_options_wants(int argc, char **argv, const char *flag)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], flag) == 0)
            return 1;
    return 0;
}
