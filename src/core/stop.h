/* SPDX-License-Identifier: Apache-2.0
 *
 * The wish to stop: SIGUSR1 or SIGTERM, by which batch systems warn of the end, or a file that somebody makes. The
 * process goes on until its work asks here. One a process: signals are.
 */
#pragma once

#include "core/status.h"

/* From now on SIGUSR1 and SIGTERM only ask. file: its existence asks, too (looked for once a second, or on
 * fb_stop_requested); NULL: there is none. Borrowed, until fb_stop_ignore. */
void fb_stop_listen(const char *file);
void fb_stop_ignore(void); /* back to how signals were */

/* "SIGUSR1", "SIGTERM" or the path of the file; NULL: nobody asked. */
const char *fb_stop_requested(void);

/* For long work between two points where a run can stop in order: an error with FB_EXIT_STOPPED when grace_s seconds
 * have passed since the wish was first seen here. Costs a look at the clock. */
fb_status fb_stop_check(double grace_s) FB_MUST_USE;
