/* SPDX-License-Identifier: Apache-2.0
 *
 * Options of all programs: one table of fb_option describes each key once (type, unit, default, range, help) and drives
 * the command line, the INI file, --help, the record of used options and the results' /config group.
 *
 * A value is refused, with the file and line or the argument named, when its key is unknown (with a "did you mean"),
 * repeated in the same source, out of range, not finite where it must be, or followed by junk. Values on the command
 * line override the file's.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>
#include <stdio.h>

enum { FB_TEXT_CHARS = 1024, FB_LIST_MAX = 64 };

typedef struct fb_list {
    int64_t count, value[FB_LIST_MAX];
} fb_list;

typedef enum fb_option_type {
    FB_OPTION_BOOL,   /* int: 0 or 1; "true/false", "yes/no", "on/off", "1/0" */
    FB_OPTION_INT,    /* int64_t */
    FB_OPTION_REAL,   /* double; "inf" only when max is INFINITY, "nan" never */
    FB_OPTION_TEXT,   /* char[FB_TEXT_CHARS] */
    FB_OPTION_CHOICE, /* int: position in `choices` */
    FB_OPTION_SHAPE,  /* int64_t[3], "DxHxW" or one number for a cube; min and max hold for each */
    FB_OPTION_LIST    /* fb_list, "1,2,2,4"; min and max hold for each */
} fb_option_type;

typedef struct fb_option {
    const char *section; /* "" in tools, whose options have no section: --key */
    const char *key;
    fb_option_type type;
    const char *unit;     /* "" when dimensionless; shown in --help */
    const char *fallback; /* the default, as text; NULL: the option is required */
    double min, max;      /* inclusive; for INT, REAL, SHAPE, LIST */
    const char *choices;  /* "a|b|c" for CHOICE, else NULL */
    const char *help;
    size_t offset; /* of the field in the program's struct */
} fb_option;

typedef struct fb_options fb_options;

/* `table` (count entries) and `values` (the program's struct) are borrowed and must outlive the object; every field
 * gets its default. */
fb_status fb_options_create(const fb_option *table, int count, void *values, fb_options **out) FB_MUST_USE;
void fb_options_destroy(fb_options **options);

/* Reads an INI file (libinih): [section], key = value, comments after ';' or '#'. Reports the first fault. */
fb_status fb_options_read_ini(fb_options *options, const char *path) FB_MUST_USE;

/* Applies --section.key=value, --section.key value (or --key for section ""). Arguments that do not begin with "--"
 * are collected in order into positional[0..*positional_count-1] (borrowed from argv), at most positional_max. */
fb_status fb_options_read_args(fb_options *options, int argc, char **argv, const char **positional, int positional_max,
                               int *positional_count) FB_MUST_USE;

/* Sets one value as if from `where` ("preset percentile"); a value set by a stronger source stays. */
fb_status fb_options_preset(fb_options *options, const char *name, const char *text, const char *where) FB_MUST_USE;

/* Fails, naming all of them, when required options have no value. Call last. */
fb_status fb_options_complete(const fb_options *options) FB_MUST_USE;

/* The present value as text that reads back to the same value. */
void fb_options_format(const fb_option *option, const void *values, char text[FB_TEXT_CHARS]);

/* Prints the table for --help: name, unit, default, range, help. */
void fb_options_help(FILE *stream, const fb_option *table, int count);

/* Prints every option with its present value and where it came from, as an INI file that reproduces the run. */
void fb_options_print_used(const fb_options *options, FILE *stream);

/* 1 when argv has --help or --version, which win over everything else. */
int fb_options_wants(int argc, char **argv, const char *flag);
