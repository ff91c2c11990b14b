/* SPDX-License-Identifier: Apache-2.0
 *
 * The trained part of a model. Training, sharing, aggregation and noise work on the compact vector of the trained
 * parameters, in the arena's order; the frozen ones stay as they are, bit for bit.
 */
#pragma once

#include "nn/params.h"

typedef struct fb_range {
    int64_t offset, count; /* in elements of the arena */
} fb_range;

typedef struct fb_subset {
    int64_t count; /* elements of the compact vector */
    int range_count;
    fb_range *ranges; /* (range_count) owned; ascending, no two of them adjacent */
} fb_subset;

/* The tensors whose whole name matches the POSIX extended regular expression; "" stands for all of them. Errors
 * (usage): expression that cannot be read, or that matches nothing (some names are shown). */
fb_status fb_subset_create(const fb_params *params, const char *expression, fb_subset **out) FB_MUST_USE;
void fb_subset_destroy(fb_subset **subset);

/* compact (subset->count) = the trained elements of arena (params->count); compact may be the arena itself. */
void fb_subset_gather(const fb_subset *subset, const fb_real *arena, fb_real *compact);

/* compact = after - before, of the trained elements of two arenas. */
void fb_subset_difference(const fb_subset *subset, const fb_real *after, const fb_real *before, fb_real *compact);

/* The trained elements of arena = compact; the others are not touched. compact may not overlap the arena. */
void fb_subset_scatter(const fb_subset *subset, const fb_real *compact, fb_real *arena);
