/* SPDX-License-Identifier: Apache-2.0
 *
 * What a results file consists of: the table of its variables, and the making of all that is fixed when a run begins
 * (coordinates, preallocated variables, /config, /provenance). Private to results*.c.
 */
#pragma once

#include "core/h5.h"
#include "io/results.h"

enum {
    FB_RESULT_AXES_MAX = 9, /* 7 of the sweep, then those of the variable's shape */
    FB_RESULT_VARIABLES = 28
};

typedef enum fb_result_shape {
    FB_PER_RUN,      /* no further axis */
    FB_PER_ROUND,    /* (round) */
    FB_PER_REGION,   /* (round, region) */
    FB_PER_HOSPITAL, /* (round, hospital) */
} fb_result_shape;

typedef struct fb_result_variable {
    const char *name;
    fb_result_shape shape;
    int diagnostic; /* in the group /diagnostics */
    int integer;    /* int64, else double */
    const char *units, *long_name;
    size_t offset; /* in fb_round_record: of the values, or of the pointer to them when FB_PER_HOSPITAL */
} fb_result_variable;

extern const fb_result_variable fb_result_variables[FB_RESULT_VARIABLES];
extern const fb_result_variable fb_result_rounds_committed; /* FB_PER_RUN, in no record */

/* Extent of a variable -> extent[0..axes-1]; returns the number of axes. The last is the fastest. */
int fb_result_extent(const fb_result_variable *variable, int64_t rounds, int hospital_count,
                     hsize_t extent[FB_RESULT_AXES_MAX]);

hid_t fb_result_type(const fb_result_variable *variable); /* borrowed */

/* Fills the new, empty file. */
fb_status fb_result_make_structure(hid_t file, const fb_results_spec *spec) FB_MUST_USE;
