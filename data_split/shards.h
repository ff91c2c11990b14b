/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a partitioned cohort as a shard folder (data/shard.h). One case is in memory at a time.
 */
#pragma once

#include "cases.h"
#include "duplicates.h"
#include "partition.h"

/* Fails early when `output` cannot be made: it exists and is not an empty folder, its parent is not writable, or
 * `output`.tmp exists (of another run, or left by one that was killed). Makes `output`.tmp, which fb_shards_write
 * renames or removes. */
fb_status fb_shards_prepare(const char *output) FB_MUST_USE;

/* Fills `output`.tmp and renames it to `output`, which thus appears complete or not at all. Unusable cases (the faults
 * move out of `cases`) are all looked for, logged, 20 at most, and make it fail; so do patients who are in the cohort
 * twice, as `on_duplicate` says. */
fb_status fb_shards_write(const char *output, fb_cases *cases, const fb_partition *partition,
                          fb_on_duplicate on_duplicate) FB_MUST_USE;
