/* SPDX-License-Identifier: Apache-2.0
 *
 * The log: one line per message, UTC time first, to standard error and, when set, to the run's log file.
 * Only rank 0 prints messages; warnings and errors come from any rank, with the rank named.
 * Progress on long work is a bar on a terminal and sparse lines elsewhere.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef enum fb_log_level { FB_LOG_QUIET = 0, FB_LOG_INFO = 1, FB_LOG_VERBOSE = 2 } fb_log_level;

void fb_log_set_rank(int rank, int size); /* of this process; 0 of 1 until called */
void fb_log_set_level(fb_log_level level);

/* Appends every message to `path` from now on; NULL closes the file. Rank 0 only. Errors: cannot open, named. A file
 * that cannot be written any more ends with one warning, not with an error: standard error has every message too. */
fb_status fb_log_open(const char *path) FB_MUST_USE;

/* What was just printed to standard output has left the program. Errors: it has not, for example on a full disk. */
fb_status fb_output_flush(void) FB_MUST_USE;

void fb_log_info(const char *format, ...) FB_PRINTF(1, 2);    /* rank 0 only */
void fb_log_verbose(const char *format, ...) FB_PRINTF(1, 2); /* rank 0 only */
void fb_log_warn(const char *format, ...) FB_PRINTF(1, 2);
void fb_log_error(const char *format, ...) FB_PRINTF(1, 2);

/* Shows `done` of `total` pieces of work named `what`, with the time left, on rank 0. Call as often as you like:
 * a terminal is redrawn at most ten times a second, a file gets a line per tenth of the work. `start_s` is fb_time_s()
 * at the beginning. The call with done == total ends the bar. */
void fb_log_progress(const char *what, int64_t done, int64_t total, double start_s);
