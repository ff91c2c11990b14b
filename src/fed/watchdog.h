/* SPDX-License-Identifier: Apache-2.0
 *
 * The watchdog: a thread on every rank that ends the job when a rank is dead, stopped or very slow or a collective
 * hangs, within run.watchdog_s + 10 s, and says which rank, host, hospital, round and phase it was. Rank 0 is watched
 * as well.
 *
 * MPI (4.1, MPI_THREAD_FUNNELED) neither survives a dead rank nor notices a stopped one, so the thread never calls it.
 * It looks at three things:
 *   - its own main thread, by core/progress.h: no step for run.watchdog_s, while it waits for nobody;
 *   - the processes of this machine, ten times a second: one that ends in the middle of the run is named before the
 *     launcher kills the rest, about a second later;
 *   - the signs of life that every rank writes into run.output/ranks/rank_0003.txt. Ranks 0 and 1 read those of all,
 *     the others those of ranks 0 and 1.
 * Who finds something creates ranks/verdict.txt, which only one can; that one writes the story there, into log.txt and
 * to standard error, and ends its process with status 1. The others see the file and end too, for launchers that do not
 * see to it. (mpirun and srun --kill-on-bad-exit=1 end what is left, also what is stopped.)
 *
 * It ends the process by _exit: nothing in it can be left in order. Where ranks/ cannot be written, or rank 0 does not
 * see what the others wrote there, each rank has only its own check, and rank 0 warns.
 */
#pragma once

#include "comm/comm.h"

typedef struct fb_watchdog fb_watchdog;

/* Starts the thread; limit_s 0: *out is NULL, which the other calls accept. Until the ranks have met, one that waits
 * for others for limit_s ends the job too, without knowing for whom. All signals are left to the other threads. A
 * thread that cannot be started is a warning. Errors: memory. */
fb_status fb_watchdog_create(int rank, int size, double limit_s, fb_watchdog **out) FB_MUST_USE;

/* From now on the ranks watch each other by way of folder/ranks; `folder` exists. What an earlier run that ended badly
 * left there is logged and removed. Collective. Errors: of comm, memory. */
fb_status fb_watchdog_meet(fb_watchdog *watchdog, fb_comm *comm, const char *folder) FB_MUST_USE;

/* Ends the thread and takes this rank's sign away: the run ended in order. After fb_comm_destroy, where ranks may hang
 * as well. */
void fb_watchdog_destroy(fb_watchdog **watchdog);
