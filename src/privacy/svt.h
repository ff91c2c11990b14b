/* SPDX-License-Identifier: Apache-2.0
 *
 * The sparse vector technique of mechanism.h on the grid.
 */
#pragma once

#include "privacy/mechanism.h"
#include "privacy/tail.h"

/* The tables of a budget's noise, for who releases many small updates. */
typedef struct fb_svt_tables {
    fb_tail threshold, query;
} fb_svt_tables;

fb_svt_tables fb_svt_tables_of(const fb_budget *budget);

/* Selects at most budget->count coordinates of grid (n) into index (count), ascending; *selected of them. The order of
 * the tests is public: pass p shuffles those left with the stream public_rng, epoch p. */
fb_status fb_svt_select(const fb_budget *budget, const fb_rng *public_rng, fb_noise *noise, uint32_t attempt,
                        uint32_t round, const int32_t *grid, uint32_t *index, int64_t *selected,
                        fb_release_report *report) FB_MUST_USE;

int64_t fb_svt_bytes(int64_t n); /* what it allocates meanwhile */

/* The same with tables that were made before. */
fb_status fb_svt_select_by(const fb_svt_tables *tables, const fb_budget *budget, const fb_rng *public_rng,
                           fb_noise *noise, uint32_t attempt, uint32_t round, const int32_t *grid, uint32_t *index,
                           int64_t *selected, fb_release_report *report) FB_MUST_USE;
