/* SPDX-License-Identifier: Apache-2.0
 *
 * A test hook: the process kills itself (SIGKILL) where it is told to, so that tests can interrupt a run at any step of
 * its writing and sending. FEDBRATS_KILL=POINT:COUNT in the environment: at the COUNT-th pass of the named point. The
 * variable itself holds how many passes are left. Without it a pass costs a look at the environment.
 */
#pragma once

void fb_kill_point(const char *name);
