/* SPDX-License-Identifier: Apache-2.0
 *
 * Who plays which hospital, and which hospitals take part in a round. Pure functions of public figures.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

/* Largest-first packing (Graham 1969): hospitals by falling number of steps, each to the rank with the least so far.
 * steps (hospital_count) -> rank_of (hospital_count). With ranks <= hospital_count no rank is left empty. */
void fb_schedule_assign(int hospital_count, const int64_t *steps, int ranks, int *rank_of);

/* The hospitals of a round: max(1, round(fraction * hospital_count)) of them, a uniformly random subset drawn from
 * (seed, round). participates (hospital_count) receives 0 or 1. */
fb_status fb_schedule_participants(uint64_t seed, uint32_t round, int hospital_count, double fraction,
                                   int64_t *participates) FB_MUST_USE;

/* Mean over the participants of their local steps (hospital_count), weighted by the steps themselves or, if uniform,
 * all alike, rounded to the nearest: by so much the averaged moments of Adam have aged in the round. */
int64_t fb_schedule_mean_steps(int hospital_count, const int64_t *participates, const int64_t *steps, int uniform);
