/* SPDX-License-Identifier: Apache-2.0
 *
 * `fedbrats train --dry-run`: what would stop a run, before it waits for hours in a queue. Reads every case of every
 * shard once, compares memory and disk with what there is, takes a few real training steps, and prints the plan with
 * the bytes and seconds to expect. All that is wrong is listed, not only the first. Nothing is left behind.
 */
#pragma once

#include "fed/device.h"

/* ranks: of the run that is planned; 0: those of comm. device is NULL where what the options ask for cannot be had, and
 * `opened` says why (FB_OK otherwise); it is taken over. Prints on standard output, as its last line,
 *   DRY-RUN rounds= ranks= seconds_per_round= seconds= core_hours= gpu_hours= memory_bytes= disk_bytes= problems=
 * Collective. Errors, on every rank: how many problems there are; the exit status is that of a usage error when the run
 * itself would end with it. */
fb_status fb_preflight(const fb_config *config, const fb_device *device, fb_comm *comm, int ranks,
                       fb_status opened) FB_MUST_USE;

/* Takes --dry-run or --dry-run=RANKS out of the arguments. *wanted: whether it was there; *ranks: 0 without a number.
 * Errors (usage): RANKS is no number from 1 to a million, or the flag is given twice. */
fb_status fb_preflight_read_flag(int *argc, char **argv, int *wanted, int *ranks) FB_MUST_USE;
