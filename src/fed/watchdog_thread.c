/* SPDX-License-Identifier: Apache-2.0
 *
 * The watchdog's threads. They run while the main thread may hang in malloc, in stdio or in MPI, so that they use
 * system calls and their own memory only. */
#include "fed/watchdog_impl.h"

#include "core/timer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double TICK_S = 0.1, GUARD_TICK_S = 0.5;
static const double SLACK_S = 1.0;      /* of ranks 0 and 1, so that a slow rank speaks for itself */
static const double SLACK_LATE_S = 3.0; /* of the others, which watch those two */
static const double CLOCK_STEP_S = 2.0; /* longer without a tick: the process did not run */

/* --- signs --- */

/* Where the main thread is, and for how long it has been there. */
static double look_at_self(fb_watchdog *dog)
{
    const int64_t before = dog->at.steps;
    fb_progress_read(&dog->at);
    if (dog->at.steps != before)
        dog->moved_s = dog->clock.now_s;
    return dog->clock.now_s - dog->moved_s;
}

int fb_watchdog_write_sign(fb_watchdog *dog, const fb_progress *at, double idle_s)
{
    char text[FB_SIGN_BYTES];
    dog->sign.at = *at;
    dog->sign.idle_s = idle_s;
    dog->sign.beat++;
    dog->sign.utc_s = (int64_t)time(NULL);
    fb_sign_print(&dog->sign, text);
    const int file = open(dog->own_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return 0;
    const int written = pwrite(file, text, sizeof text, 0) == (ssize_t)sizeof text;
    return close(file) == 0 && written;
}

int fb_watchdog_read_sign(const fb_watchdog *dog, int rank, fb_sign *sign)
{
    char path[FB_PATH_CHARS], text[FB_SIGN_BYTES];
    snprintf(path, sizeof path, "%.*s/rank_%04d.txt", FB_PATH_CHARS - 32, dog->folder, rank);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT ? 0 : -1;
    const int whole = pread(file, text, sizeof text, 0) == (ssize_t)sizeof text;
    close(file);
    return whole && fb_sign_parse(text, sign) && sign->run == dog->sign.run && sign->rank == rank ? 1 : -1;
}

static void read_rank(fb_watchdog *dog, int rank)
{
    fb_watched *one = &dog->ranks[rank];
    fb_sign sign;
    const int found = rank == dog->rank ? 1 : fb_watchdog_read_sign(dog, rank, &sign);
    if (rank == dog->rank)
        sign = dog->sign;
    one->left = found == 0;
    if (found != 1)
        return;
    if (sign.beat != one->sign.beat || rank == dog->rank)
        one->heard_s = dog->clock.now_s;
    one->sign = sign;
}

/* Processes of this machine that are no more. A rank that ends in order takes its sign away before. */
static void look_for_gone(fb_watchdog *dog)
{
    for (int rank = 0; rank < dog->size; rank++) {
        if (!dog->local[rank] || rank == dog->rank || kill((pid_t)dog->ranks[rank].sign.pid, 0) == 0 || errno != ESRCH)
            continue;
        read_rank(dog, rank);
        dog->ranks[rank].gone = !dog->ranks[rank].left;
    }
}

/* --- the end of the job --- */

static void write_all(int file, const char *text, size_t size_bytes)
{
    while (size_bytes > 0) {
        const ssize_t written = write(file, text, size_bytes);
        if (written <= 0)
            return;
        text += written;
        size_bytes -= (size_t)written;
    }
}

/* Each line with the time and, for standard error, the rank in front, as the log writes them. */
static void write_lines(const fb_watchdog *dog, int file, int with_rank, const char *text)
{
    char line[4096], utc[24];
    fb_sign_utc((int64_t)time(NULL), utc);
    for (; *text; text += strcspn(text, "\n") + 1) {
        const int chars = (int)strcspn(text, "\n");
        if (with_rank && dog->size > 1)
            snprintf(line, sizeof line, "%s rank %d: error: %.*s\n", utc, dog->rank, chars, text);
        else
            snprintf(line, sizeof line, "%s error: %.*s\n", utc, chars, text);
        write_all(file, line, strlen(line));
    }
}

/* A full pipe that nobody reads must not keep this process alive. */
static void write_stderr(const fb_watchdog *dog, const char *text)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 1000) == 1)
        write_lines(dog, STDERR_FILENO, 1, text);
}

_Noreturn static void follow_verdict(const fb_watchdog *dog)
{
    const struct timespec pause = {0, 500000000}; /* the one who tells should be heard first */
    nanosleep(&pause, NULL);
    write_stderr(dog, "watchdog: another rank ended the job, as ranks/verdict.txt and log.txt in run.output say\n");
    _exit(FB_EXIT_FAILED);
}

/* The story on standard error, whatever else hangs. */
_Noreturn static void tell_and_exit(const fb_watchdog *dog, const fb_finding *finding, int count,
                                    const fb_watched *ranks, double now_s)
{
    char story[FB_SIGN_STORY_BYTES];
    fb_watch_story(finding, count, ranks, now_s, dog->limit_s, story);
    write_stderr(dog, story);
    _exit(FB_EXIT_FAILED);
}

_Noreturn static void end_job(const fb_watchdog *dog, const fb_finding *finding, int count, const fb_watched *ranks)
{
    char story[FB_SIGN_STORY_BYTES];
    const int now = atomic_load(&dog->stage);
    const int verdict = now == FB_DOG_MET ? open(dog->verdict_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : -1;
    if (now == FB_DOG_MET && verdict < 0 && errno == EEXIST)
        follow_verdict(dog);
    fb_watch_story(finding, count, ranks, dog->clock.now_s, dog->limit_s, story);
    if (verdict >= 0)
        write_lines(dog, verdict, 0, story);
    const int log = now == FB_DOG_STARTING ? -1 : open(dog->log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log >= 0)
        write_lines(dog, log, 0, story);
    tell_and_exit(dog, finding, count, ranks, dog->clock.now_s);
}

/* --- the thread --- */

static double slack(const fb_watchdog *dog)
{
    return dog->rank < FB_WATCHERS ? SLACK_S : SLACK_LATE_S;
}

static void judge_self(const fb_watchdog *dog, double idle_s, int met)
{
    const fb_finding own = fb_watch_judge_own(0, &dog->at, idle_s, met, dog->limit_s, slack(dog));
    if (own.trouble == FB_TROUBLE_NONE)
        return;
    fb_watched self = {.sign = {.rank = dog->rank, .pid = dog->self.pid, .at = dog->at, .idle_s = idle_s},
                       .heard_s = dog->clock.now_s};
    memcpy(self.sign.host, dog->self.host, sizeof self.sign.host);
    end_job(dog, &own, 1, &self);
}

static void judge_ranks(const fb_watchdog *dog)
{
    const fb_finding found = fb_watch_judge(dog->size, dog->ranks, dog->clock.now_s, dog->limit_s, slack(dog));
    if (found.trouble != FB_TROUBLE_NONE)
        end_job(dog, &found, dog->size, dog->ranks);
}

static void look_at_signs(fb_watchdog *dog)
{
    const int verdict = open(dog->verdict_path, O_RDONLY | O_CLOEXEC);
    if (verdict >= 0)
        follow_verdict(dog);
    for (int rank = 0; rank < dog->size; rank++)
        if (dog->ranks[rank].followed)
            read_rank(dog, rank);
}

static void begin_watching(fb_watchdog *dog)
{
    for (int rank = 0; rank < dog->size; rank++)
        dog->ranks[rank].heard_s = dog->clock.now_s;
    dog->watching = 1;
}

/* The signs follow the phases, so that one of a dead rank tells where it was. */
static int has_moved(const fb_progress *now, const fb_progress *then)
{
    return now->phase != then->phase || now->hospital != then->hospital || now->round != then->round;
}

static void tick(fb_watchdog *dog)
{
    const int now = atomic_load(&dog->stage);
    const double now_s = fb_watch_clock_read(&dog->clock, fb_time_s(), CLOCK_STEP_S), idle_s = look_at_self(dog);
    judge_self(dog, idle_s, now != FB_DOG_STARTING);
    if (now != FB_DOG_MET)
        return;
    if (!dog->watching)
        begin_watching(dog);
    if (now_s >= dog->beat_due_s || (has_moved(&dog->at, &dog->sign.at) && now_s >= dog->written_s + FB_BEAT_LEAST_S)) {
        (void)fb_watchdog_write_sign(dog, &dog->at,
                                     idle_s); /* if it fails: the old one stays, and the next is due soon */
        dog->written_s = now_s;
        dog->beat_due_s = now_s + dog->beat_every_s;
    }
    look_for_gone(dog);
    if (now_s >= dog->read_due_s) {
        look_at_signs(dog);
        dog->read_due_s = now_s + dog->read_every_s;
    }
    judge_ranks(dog);
}

/* 0: the end. */
static int sleep_s(fb_watchdog *dog, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(seconds * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&dog->lock);
    while (!dog->stopping && pthread_cond_timedwait(&dog->wake, &dog->lock, &until) == 0)
        ;
    const int stopping = dog->stopping;
    pthread_mutex_unlock(&dog->lock);
    return !stopping;
}

void *fb_watchdog_watch(void *watchdog)
{
    fb_watchdog *dog = watchdog;
    while (sleep_s(dog, TICK_S)) {
        tick(dog);
        atomic_fetch_add(&dog->ticks, 1);
    }
    return NULL;
}

/* A file system that does not answer holds the thread above in a system call, and with it all that it could notice. It
 * is a reason to end once the main thread stands still as well. */
void *fb_watchdog_guard(void *watchdog)
{
    fb_watchdog *dog = watchdog;
    fb_watch_clock clock = {0.0, fb_time_s()};
    fb_watched self = {.sign = {.rank = dog->rank, .pid = dog->self.pid}};
    double moved_s = 0.0;
    int64_t ticks = -1, steps = -1;
    memcpy(self.sign.host, dog->self.host, sizeof self.sign.host);
    while (sleep_s(dog, GUARD_TICK_S)) {
        const int64_t now = atomic_load(&dog->ticks);
        fb_watch_clock_read(&clock, fb_time_s(), CLOCK_STEP_S);
        fb_progress_read(&self.sign.at);
        if (now != ticks || self.sign.at.steps != steps)
            moved_s = clock.now_s;
        ticks = now;
        steps = self.sign.at.steps;
        const fb_finding stuck = {FB_TROUBLE_STUCK, 0, clock.now_s - moved_s};
        if (stuck.for_s >= dog->limit_s + SLACK_S)
            tell_and_exit(dog, &stuck, 1, &self, clock.now_s);
    }
    return NULL;
}
