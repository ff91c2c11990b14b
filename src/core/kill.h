/* SPDX-License-Identifier: Apache-2.0
 *
 * A test hook: the process harms itself where it is told to, so that tests can interrupt a run at any step of its
 * writing, sending and computing. FEDBRATS_KILL=POINT:COUNT[:HOW[:AFTER_S]] in the environment: at the COUNT-th pass of
 * the named point, AFTER_S seconds later (0). HOW: kill (SIGKILL, the default), stop (SIGSTOP), stall (the thread, and
 * no other, sleeps for ever). The variable itself holds how many passes are left. Without it a pass costs a look at the
 * environment.
 */
#pragma once

void fb_kill_point(const char *name);
