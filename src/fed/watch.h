/* SPDX-License-Identifier: Apache-2.0
 *
 * What the watchdog (fed/watchdog.h) knows, judges and says: a rank's sign of life as text, the verdict on all of them,
 * the lines that name the culprit. Nothing here has a clock, a file or a thread, or allocates: it runs while the main
 * thread may hang anywhere.
 */
#pragma once

#include "core/progress.h"

#include <stddef.h>
#include <stdint.h>

/* A rank's text has a fixed size and ends with a checksum, so that it is overwritten in place, needs no new space on a
 * full disk, and a reader recognises half of one. */
enum { FB_SIGN_BYTES = 1024, FB_SIGN_HOST_CHARS = 64, FB_SIGN_STORY_BYTES = 16384 };

typedef struct fb_sign {
    int rank;
    char host[FB_SIGN_HOST_CHARS];
    int64_t pid;
    uint64_t run;   /* the same on all ranks of a run, another in the next run of the folder */
    int64_t beat;   /* counts the signs, from 1; 0: none */
    int64_t utc_s;  /* since 1970 */
    fb_progress at; /* where the main thread was */
    double idle_s;  /* since its last step */
} fb_sign;

void fb_sign_print(const fb_sign *sign, char text[FB_SIGN_BYTES]); /* no '\0' at the end */
int fb_sign_parse(const char text[FB_SIGN_BYTES], fb_sign *sign);  /* 0: not a whole sign; *sign is undefined */
void fb_sign_utc(int64_t utc_s, char text[24]);                    /* "2026-11-25T03:25:52Z" */

/* What one rank knows of another. */
typedef struct fb_watched {
    fb_sign sign;   /* the last one that was read */
    double heard_s; /* the reader's clock when its beat last changed */
    int followed;   /* the reader reads its signs; otherwise only `gone` counts */
    int gone;       /* of the reader's machine, and its process does not exist any more */
    int left;       /* took its sign away: it ended in order */
} fb_watched;

typedef enum fb_trouble {
    FB_TROUBLE_NONE = 0,
    FB_TROUBLE_GONE,   /* the process has ended */
    FB_TROUBLE_SILENT, /* no sign for limit_s: stopped, dead, or cut off */
    FB_TROUBLE_SLOW,   /* signs, but no step for limit_s while it waited for nobody */
    FB_TROUBLE_HUNG,   /* every rank has waited for others for limit_s */
    FB_TROUBLE_UNMET,  /* before the ranks know of each other: this one has waited for limit_s */
    FB_TROUBLE_STUCK   /* neither the main thread nor the file system has moved for limit_s */
} fb_trouble;

typedef struct fb_finding {
    fb_trouble trouble;
    int rank;     /* the culprit; HUNG: the one that moved last */
    double for_s; /* how long */
} fb_finding;

/* The verdict of a reader whose clock shows now_s: the gravest trouble there is, in the order above, of the rank that
 * has been in it for longest. slack_s: how much longer than limit_s a reader lets a rank be silent or slow, so that
 * those who are nearer to it speak first. HUNG is judged only where every rank is followed. */
fb_finding fb_watch_judge(int count, const fb_watched *ranks, double now_s, double limit_s, double slack_s);

/* The verdict of a rank on itself. met: the ranks know of each other. */
fb_finding fb_watch_judge_own(int rank, const fb_progress *at, double idle_s, int met, double limit_s, double slack_s);

/* The finding in a line, then a line for every rank that is followed, each with '\n' and without the time. limit_s as
 * configured. */
void fb_watch_story(const fb_finding *finding, int count, const fb_watched *ranks, double now_s, double limit_s,
                    char text[FB_SIGN_STORY_BYTES]);

/* A clock that stands still while its process does not run: adds the time since the last reading, but at most step_s.
 * So a reader that was stopped with all the others (Slurm suspends whole jobs) does not count that time against them.
 */
typedef struct fb_watch_clock {
    double now_s, last_s; /* of this clock; the monotonic time at the last reading */
} fb_watch_clock;

double fb_watch_clock_read(fb_watch_clock *clock, double monotonic_s, double step_s);
