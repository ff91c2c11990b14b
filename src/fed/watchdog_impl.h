/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to watchdog*.c: what the main thread, which starts the watchdog and lets the ranks meet, and the watchdog's
 * own threads share.
 */
#pragma once

#include "core/file.h"
#include "fed/watch.h"
#include "fed/watchdog.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FB_WATCHERS = 2 /* the ranks that read all signs, and whose signs all read */ };

static const double FB_BEAT_LEAST_S = 0.2; /* between two signs of a rank */

enum { FB_DOG_STARTING = 0, FB_DOG_ALONE, FB_DOG_MET };

/* A rank as the others have to know it; zeroed, so that it can be sent as it is. */
typedef struct fb_peer {
    char host[FB_SIGN_HOST_CHARS];
    char pid_space[128]; /* boot and pid namespace: within one, a number is one process */
    int64_t pid;
    char problem[160]; /* why it gives no signs; "": it does */
} fb_peer;

/* The first part is the main thread's until `stage` becomes FB_DOG_MET, and then the first thread's, as the second
 * always is. */
struct fb_watchdog {
    int running; /* threads */
    int rank, size;
    double limit_s, beat_every_s, read_every_s;
    pthread_t threads[2];
    pthread_mutex_t lock; /* of stopping */
    pthread_cond_t wake;
    int stopping;
    atomic_int stage;
    fb_peer self;
    char folder[FB_PATH_CHARS], own_path[FB_PATH_CHARS], verdict_path[FB_PATH_CHARS], log_path[FB_PATH_CHARS];
    fb_watched *ranks; /* (size) owned */
    int *local;        /* (size) owned: whether its pid is one of this machine */
    fb_sign sign;      /* this rank's, as it was written last */

    atomic_llong ticks;
    int watching; /* the others, since they met */
    fb_watch_clock clock;
    fb_progress at;
    double moved_s, written_s, beat_due_s, read_due_s; /* by the clock */
};

/* Opened and closed each time, so that NFS shows it to others. 0: not written, errno says why. */
int fb_watchdog_write_sign(fb_watchdog *dog, const fb_progress *at, double idle_s);

/* 1: read into *sign; 0: there is none any more; -1: there is one that cannot be read now, or not of this run. */
int fb_watchdog_read_sign(const fb_watchdog *dog, int rank, fb_sign *sign);

/* The threads: one watches, the other sees to it that the first is not held up. Both take the fb_watchdog. */
void *fb_watchdog_watch(void *watchdog);
void *fb_watchdog_guard(void *watchdog);
