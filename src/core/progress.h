/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a run is: the phase, hospital and round at which the main thread works, how many steps it has made, and whether
 * it waits for other ranks. The main thread says so as it goes, in a few nanoseconds a call; the watchdog's thread
 * reads it (fed/watchdog.h).
 *
 * One record a process, as there is one log: every layer from comm up to fed makes steps, and a handle would have to go
 * through all of them for the sake of a thread that ends the whole process.
 */
#pragma once

#include <stdint.h>

typedef enum fb_phase {
    FB_PHASE_START = 0, /* from the options to the first round */
    FB_PHASE_PREPARE,   /* who takes part, what an earlier run has stored of the round */
    FB_PHASE_TRAIN,
    FB_PHASE_PROTECT, /* select, clip, noise, encode, store, charge */
    FB_PHASE_SEND,
    FB_PHASE_AGGREGATE, /* rank 0: receive, decode, sum */
    FB_PHASE_BROADCAST,
    FB_PHASE_EVALUATE,
    FB_PHASE_WRITE, /* results, checkpoint, models */
    FB_PHASE_END,   /* what is freed, the last meeting of the ranks */
    FB_PHASES
} fb_phase;

const char *fb_phase_name(fb_phase phase); /* "training": one word */

/* By the main thread only; each counts as a step. */
void fb_progress_enter(fb_phase phase);                    /* a kill point too (core/kill.h): "phase.training" */
void fb_progress_round(int64_t round);                     /* counted from 0 */
void fb_progress_hospital(int hospital, const char *name); /* stays until the next; the name is copied */
void fb_progress_step(void);                               /* a sample, a window, a case, a message */
void fb_progress_wait_begin(void);                         /* may wait for other ranks from here on; nests */
void fb_progress_wait_end(void);

enum { FB_PROGRESS_NAME_CHARS = 48 };

typedef struct fb_progress {
    fb_phase phase;
    int64_t round;                              /* -1: before the first */
    int hospital;                               /* the last one that was worked on; -1: none yet */
    char hospital_name[FB_PROGRESS_NAME_CHARS]; /* cut where it is longer */
    int64_t steps;                              /* only grows */
    int waiting;
} fb_progress;

void fb_progress_read(fb_progress *out); /* by any thread */
