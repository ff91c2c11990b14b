/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread runs while the main thread may hang in malloc, in stdio or in MPI, so that it uses system calls and its
 * own memory only. */
#include "fed/watchdog.h"

#include "core/file.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "fed/watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Together with the launcher's second for the rest these leave room in the 10 s: a step that was made just before a
 * beat, the beat, the reading, the slack. */
static const double TICK_S = 0.1, GUARD_TICK_S = 0.5, BEAT_LEAST_S = 0.2, BEAT_MOST_S = 3.0, READ_LEAST_S = 0.1,
                    READ_MOST_S = 1.0;
static const double SLACK_S = 1.0;      /* of ranks 0 and 1, so that a slow rank speaks for itself */
static const double SLACK_LATE_S = 3.0; /* of the others, which watch those two */
static const double CLOCK_STEP_S = 2.0; /* longer without a tick: the process did not run */

enum { WATCHERS = 2 /* the ranks that read all signs, and whose signs all read */, LEFT_SHOWN = 16 };

typedef enum stage { STARTING, ALONE, MET } stage;

/* A rank as the others have to know it; zeroed, so that it can be sent as it is. */
typedef struct peer {
    char host[FB_SIGN_HOST_CHARS];
    char pid_space[128]; /* boot and pid namespace: within one, a number is one process */
    int64_t pid;
    char problem[160]; /* why it gives no signs; "": it does */
} peer;

/* The first part is the main thread's until `stage` becomes MET, and then the thread's, as the second always is. */
static struct {
    int running; /* threads */
    int rank, size;
    double limit_s, beat_every_s, read_every_s;
    pthread_t threads[2];
    pthread_mutex_t lock; /* of stopping */
    pthread_cond_t wake;
    int stopping;
    atomic_int stage;
    peer self;
    char folder[FB_PATH_CHARS], own_path[FB_PATH_CHARS], verdict_path[FB_PATH_CHARS], log_path[FB_PATH_CHARS];
    fb_watched *ranks; /* (size) owned */
    int *local;        /* (size) owned: whether its pid is one of this machine */
    fb_sign sign;      /* this rank's, as it was written last */

    atomic_llong ticks;
    int watching; /* the others, since they met */
    fb_watch_clock clock;
    fb_progress at;
    double moved_s, written_s, beat_due_s, read_due_s; /* by the clock */
} dog = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* --- signs --- */

static fb_status rank_path(int rank, char path[FB_PATH_CHARS])
{
    char name[32];
    snprintf(name, sizeof name, "rank_%04d.txt", rank);
    return fb_path_join(path, dog.folder, name);
}

/* Where the main thread is, and for how long it has been there. */
static double look_at_self(void)
{
    const int64_t before = dog.at.steps;
    fb_progress_read(&dog.at);
    if (dog.at.steps != before)
        dog.moved_s = dog.clock.now_s;
    return dog.clock.now_s - dog.moved_s;
}

/* Opened and closed each time, so that NFS shows it to others. 0: not written, errno says why. */
static int write_sign(const fb_progress *at, double idle_s)
{
    char text[FB_SIGN_BYTES];
    dog.sign.at = *at;
    dog.sign.idle_s = idle_s;
    dog.sign.beat++;
    dog.sign.utc_s = (int64_t)time(NULL);
    fb_sign_print(&dog.sign, text);
    const int file = open(dog.own_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return 0;
    const int written = pwrite(file, text, sizeof text, 0) == (ssize_t)sizeof text;
    return close(file) == 0 && written;
}

/* 1: read into *sign; 0: there is none any more; -1: there is one that cannot be read now, or not of this run. */
static int read_sign(int rank, fb_sign *sign)
{
    char path[FB_PATH_CHARS], text[FB_SIGN_BYTES];
    snprintf(path, sizeof path, "%.*s/rank_%04d.txt", FB_PATH_CHARS - 32, dog.folder, rank);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT ? 0 : -1;
    const int whole = pread(file, text, sizeof text, 0) == (ssize_t)sizeof text;
    close(file);
    return whole && fb_sign_parse(text, sign) && sign->run == dog.sign.run && sign->rank == rank ? 1 : -1;
}

static void read_rank(int rank)
{
    fb_watched *one = &dog.ranks[rank];
    fb_sign sign;
    const int found = rank == dog.rank ? 1 : read_sign(rank, &sign);
    if (rank == dog.rank)
        sign = dog.sign;
    one->left = found == 0;
    if (found != 1)
        return;
    if (sign.beat != one->sign.beat || rank == dog.rank)
        one->heard_s = dog.clock.now_s;
    one->sign = sign;
}

/* Processes of this machine that are no more. A rank that ends in order takes its sign away before. */
static void look_for_gone(void)
{
    for (int rank = 0; rank < dog.size; rank++) {
        if (!dog.local[rank] || rank == dog.rank || kill((pid_t)dog.ranks[rank].sign.pid, 0) == 0 || errno != ESRCH)
            continue;
        read_rank(rank);
        dog.ranks[rank].gone = !dog.ranks[rank].left;
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
static void write_lines(int file, int with_rank, const char *text)
{
    char line[4096], utc[24];
    fb_sign_utc((int64_t)time(NULL), utc);
    for (; *text; text += strcspn(text, "\n") + 1) {
        const int chars = (int)strcspn(text, "\n");
        if (with_rank && dog.size > 1)
            snprintf(line, sizeof line, "%s rank %d: error: %.*s\n", utc, dog.rank, chars, text);
        else
            snprintf(line, sizeof line, "%s error: %.*s\n", utc, chars, text);
        write_all(file, line, strlen(line));
    }
}

/* A full pipe that nobody reads must not keep this process alive. */
static void write_stderr(const char *text)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 1000) == 1)
        write_lines(STDERR_FILENO, 1, text);
}

_Noreturn static void follow_verdict(void)
{
    const struct timespec pause = {0, 500000000}; /* the one who tells should be heard first */
    nanosleep(&pause, NULL);
    write_stderr("watchdog: another rank ended the job, as ranks/verdict.txt and log.txt in run.output say\n");
    _exit(FB_EXIT_FAILED);
}

/* The story on standard error, whatever else hangs. */
_Noreturn static void tell_and_exit(const fb_finding *finding, int count, const fb_watched *ranks, double now_s)
{
    char story[FB_SIGN_STORY_BYTES];
    fb_watch_story(finding, count, ranks, now_s, dog.limit_s, story);
    write_stderr(story);
    _exit(FB_EXIT_FAILED);
}

_Noreturn static void end_job(const fb_finding *finding, int count, const fb_watched *ranks)
{
    char story[FB_SIGN_STORY_BYTES];
    const stage now = (stage)atomic_load(&dog.stage);
    const int verdict = now == MET ? open(dog.verdict_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : -1;
    if (now == MET && verdict < 0 && errno == EEXIST)
        follow_verdict();
    fb_watch_story(finding, count, ranks, dog.clock.now_s, dog.limit_s, story);
    if (verdict >= 0)
        write_lines(verdict, 0, story);
    const int log = now == STARTING ? -1 : open(dog.log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log >= 0)
        write_lines(log, 0, story);
    tell_and_exit(finding, count, ranks, dog.clock.now_s);
}

/* --- the thread --- */

static double slack(void)
{
    return dog.rank < WATCHERS ? SLACK_S : SLACK_LATE_S;
}

static void judge_self(double idle_s, int met)
{
    const fb_finding own = fb_watch_judge_own(0, &dog.at, idle_s, met, dog.limit_s, slack());
    if (own.trouble == FB_TROUBLE_NONE)
        return;
    fb_watched self = {.sign = {.rank = dog.rank, .pid = dog.self.pid, .at = dog.at, .idle_s = idle_s},
                       .heard_s = dog.clock.now_s};
    memcpy(self.sign.host, dog.self.host, sizeof self.sign.host);
    end_job(&own, 1, &self);
}

static void judge_ranks(void)
{
    const fb_finding found = fb_watch_judge(dog.size, dog.ranks, dog.clock.now_s, dog.limit_s, slack());
    if (found.trouble != FB_TROUBLE_NONE)
        end_job(&found, dog.size, dog.ranks);
}

static void look_at_signs(void)
{
    const int verdict = open(dog.verdict_path, O_RDONLY | O_CLOEXEC);
    if (verdict >= 0)
        follow_verdict();
    for (int rank = 0; rank < dog.size; rank++)
        if (dog.ranks[rank].followed)
            read_rank(rank);
}

static void begin_watching(void)
{
    for (int rank = 0; rank < dog.size; rank++)
        dog.ranks[rank].heard_s = dog.clock.now_s;
    dog.watching = 1;
}

/* The signs follow the phases, so that one of a dead rank tells where it was. */
static int has_moved(const fb_progress *now, const fb_progress *then)
{
    return now->phase != then->phase || now->hospital != then->hospital || now->round != then->round;
}

static void tick(void)
{
    const stage now = (stage)atomic_load(&dog.stage);
    const double now_s = fb_watch_clock_read(&dog.clock, fb_time_s(), CLOCK_STEP_S), idle_s = look_at_self();
    judge_self(idle_s, now != STARTING);
    if (now != MET)
        return;
    if (!dog.watching)
        begin_watching();
    if (now_s >= dog.beat_due_s || (has_moved(&dog.at, &dog.sign.at) && now_s >= dog.written_s + BEAT_LEAST_S)) {
        (void)write_sign(&dog.at, idle_s); /* if it fails: the old one stays, and the next is due soon */
        dog.written_s = now_s;
        dog.beat_due_s = now_s + dog.beat_every_s;
    }
    look_for_gone();
    if (now_s >= dog.read_due_s) {
        look_at_signs();
        dog.read_due_s = now_s + dog.read_every_s;
    }
    judge_ranks();
}

/* 0: the end. */
static int sleep_s(double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(seconds * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&dog.lock);
    while (!dog.stopping && pthread_cond_timedwait(&dog.wake, &dog.lock, &until) == 0)
        ;
    const int stopping = dog.stopping;
    pthread_mutex_unlock(&dog.lock);
    return !stopping;
}

static void *watch(void *unused)
{
    (void)unused;
    while (sleep_s(TICK_S)) {
        tick();
        atomic_fetch_add(&dog.ticks, 1);
    }
    return NULL;
}

/* A file system that does not answer holds the thread above in a system call, and with it all that it could notice. It
 * is a reason to end once the main thread stands still as well. */
static void *guard(void *unused)
{
    fb_watch_clock clock = {0.0, fb_time_s()};
    fb_watched self = {.sign = {.rank = dog.rank, .pid = dog.self.pid}};
    double moved_s = 0.0;
    int64_t ticks = -1, steps = -1;
    (void)unused;
    memcpy(self.sign.host, dog.self.host, sizeof self.sign.host);
    while (sleep_s(GUARD_TICK_S)) {
        const int64_t now = atomic_load(&dog.ticks);
        fb_watch_clock_read(&clock, fb_time_s(), CLOCK_STEP_S);
        fb_progress_read(&self.sign.at);
        if (now != ticks || self.sign.at.steps != steps)
            moved_s = clock.now_s;
        ticks = now;
        steps = self.sign.at.steps;
        const fb_finding stuck = {FB_TROUBLE_STUCK, 0, clock.now_s - moved_s};
        if (stuck.for_s >= dog.limit_s + SLACK_S)
            tell_and_exit(&stuck, 1, &self, clock.now_s);
    }
    return NULL;
}

/* --- start, meeting, stop: by the main thread --- */

/* Containers of one machine may have processes of the same number, unless they share the namespace. */
static void describe_self(void)
{
    char boot[64] = "", space[64] = "";
    const int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    const ssize_t chars = file < 0 ? 0 : read(file, boot, sizeof boot - 1);
    if (file >= 0)
        close(file);
    boot[chars > 0 ? strcspn(boot, "\n") : 0] = '\0';
    const ssize_t length = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    memset(&dog.self, 0, sizeof dog.self);
    if (boot[0] && length > 0) /* otherwise no process counts as one of this machine */
        snprintf(dog.self.pid_space, sizeof dog.self.pid_space, "%s %s", boot, space);
    gethostname(dog.self.host, sizeof dog.self.host - 1);
    dog.self.pid = getpid();
    dog.sign = (fb_sign){.rank = dog.rank, .pid = dog.self.pid};
    memcpy(dog.sign.host, dog.self.host, sizeof dog.sign.host);
}

/* An error number. */
static int start_threads(void)
{
    sigset_t all, before;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&dog.wake, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&dog.threads[0], NULL, watch, NULL);
    dog.running += code == 0;
    if (code == 0)
        code = pthread_create(&dog.threads[1], NULL, guard, NULL);
    dog.running += code == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

void fb_watchdog_start(int rank, int size, double limit_s)
{
    if (limit_s <= 0.0)
        return;
    dog.rank = rank;
    dog.size = size;
    dog.limit_s = limit_s;
    dog.beat_every_s = fmin(fmax(limit_s / 10.0, BEAT_LEAST_S), BEAT_MOST_S);
    dog.read_every_s = fmin(fmax(limit_s / 20.0, READ_LEAST_S), READ_MOST_S);
    dog.clock = (fb_watch_clock){0.0, fb_time_s()};
    describe_self();
    const int code = start_threads();
    if (code != 0)
        fb_log_warn("watchdog: %d of its 2 threads run on this rank: %s", dog.running, strerror(code));
}

/* What the last run left: why it ended or, where nobody lived to say so, where its ranks were. Rank 0. */
static void report_left(void)
{
    char *text = NULL;
    int64_t size_bytes = 0;
    fb_status status = fb_file_exists(dog.verdict_path)
                           ? fb_file_read(dog.verdict_path, 2 * FB_SIGN_STORY_BYTES, &text, &size_bytes)
                           : FB_OK;
    if (text)
        fb_log_info("the last run in this folder: %.*s", (int)strcspn(text, "\n"), text);
    const int told = text != NULL;
    fb_error_free(&status);
    FB_FREE(text);
    for (int rank = 0; rank < LEFT_SHOWN && !told; rank++) {
        char path[FB_PATH_CHARS], when[24];
        fb_sign sign;
        status = rank_path(rank, path);
        if (status == FB_OK && fb_file_exists(path))
            status = fb_file_read(path, FB_SIGN_BYTES, &text, &size_bytes);
        if (text && size_bytes == FB_SIGN_BYTES && fb_sign_parse(text, &sign)) {
            fb_sign_utc(sign.utc_s, when);
            fb_log_info("the last run in this folder was cut off: rank %d on %s was in round %lld, hospital %d (%s), "
                        "phase %s",
                        rank, sign.host, (long long)sign.at.round + 1, sign.at.hospital, sign.at.hospital_name,
                        fb_phase_name(sign.at.phase));
        }
        fb_error_free(&status);
        FB_FREE(text);
    }
}

/* An empty folder ranks/. Rank 0. */
static fb_status clear_folder(void)
{
    const struct dirent *entry;
    FB_TRY(fb_folder_make(dog.folder));
    report_left();
    DIR *folder = opendir(dog.folder);
    if (!folder)
        return FB_FAIL("%s: %s", dog.folder, strerror(errno));
    fb_status status = FB_OK;
    while (status == FB_OK && (entry = readdir(folder)) != NULL) {
        const int ours = strncmp(entry->d_name, "rank_", 5) == 0 || strcmp(entry->d_name, "verdict.txt") == 0;
        if (ours && unlinkat(dirfd(folder), entry->d_name, 0) != 0 && errno != ENOENT)
            status = FB_FAIL("%s/%s: cannot be removed: %s", dog.folder, entry->d_name, strerror(errno));
    }
    closedir(folder);
    return status;
}

static fb_status set_paths(const char *folder)
{
    FB_TRY(fb_path_join(dog.folder, folder, "ranks"));
    FB_TRY(fb_path_join(dog.log_path, folder, "log.txt"));
    FB_TRY(fb_path_join(dog.verdict_path, dog.folder, "verdict.txt"));
    return rank_path(dog.rank, dog.own_path);
}

/* Rank 0: an empty folder and a new number for the run. What fails is a problem of rank 0's, not an error. */
static void prepare(void)
{
    struct timespec now;
    fb_status status = clear_folder();
    snprintf(dog.self.problem, sizeof dog.self.problem, "%s", fb_error_message(status));
    fb_error_free(&status);
    clock_gettime(CLOCK_REALTIME, &now);
    dog.sign.run = ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) ^ ((uint64_t)dog.self.pid << 40);
}

static void give_first_sign(void)
{
    if (!dog.running)
        snprintf(dog.self.problem, sizeof dog.self.problem, "it has no watchdog");
    if (dog.self.problem[0])
        return;
    fb_progress at;
    fb_progress_read(&at);
    if (!write_sign(&at, 0.0))
        snprintf(dog.self.problem, sizeof dog.self.problem, "its sign of life cannot be written: %s", strerror(errno));
}

/* Rank 0: whether all ranks give signs that can be seen here; warns if not. */
static int64_t all_are_seen(const peer *peers)
{
    fb_sign sign;
    for (int rank = 0; rank < dog.size; rank++) {
        const char *problem = peers[rank].problem;
        if (!problem[0] && read_sign(rank, &sign) != 1)
            problem = "its sign of life cannot be seen from rank 0: is the folder on a shared file system?";
        if (problem[0]) {
            fb_log_warn("watchdog: %s: rank %d: %s; each rank can only watch itself", dog.folder, rank, problem);
            return 0;
        }
    }
    return 1;
}

static void know(const peer *peers)
{
    for (int rank = 0; rank < dog.size; rank++) {
        fb_watched *one = &dog.ranks[rank];
        one->sign = (fb_sign){.rank = rank, .pid = peers[rank].pid, .at = {.round = -1, .hospital = -1}};
        memcpy(one->sign.host, peers[rank].host, sizeof one->sign.host);
        one->followed = dog.rank < WATCHERS || rank < WATCHERS;
        dog.local[rank] = dog.self.pid_space[0] && strcmp(peers[rank].pid_space, dog.self.pid_space) == 0;
    }
}

static fb_status meet(fb_comm *comm, const char *folder, peer *peers)
{
    const int root = dog.rank == 0;
    int64_t seen = 0;
    FB_TRY(fb_status_agree(comm, set_paths(folder)));
    if (root)
        prepare();
    FB_TRY(fb_comm_broadcast(comm, &dog.sign.run, sizeof dog.sign.run));
    give_first_sign();
    FB_TRY(fb_comm_gather(comm, &dog.self, sizeof dog.self, peers));
    if (root)
        seen = all_are_seen(peers);
    FB_TRY(fb_comm_broadcast(comm, &seen, sizeof seen));
    FB_TRY(fb_comm_broadcast(comm, peers, dog.size * (int64_t)sizeof *peers));
    know(peers);
    if (!seen)
        (void)unlink(dog.own_path);
    atomic_store(&dog.stage, seen ? MET : ALONE);
    return FB_OK;
}

fb_status fb_watchdog_meet(fb_comm *comm, const char *folder)
{
    peer *peers = NULL; /* (size) */
    if (dog.limit_s <= 0.0)
        return FB_OK;
    fb_status status = FB_ALLOC(peers, dog.size, "watchdog");
    if (status == FB_OK)
        status = FB_ALLOC(dog.ranks, dog.size, "watchdog");
    if (status == FB_OK)
        status = FB_ALLOC(dog.local, dog.size, "watchdog");
    status = fb_status_agree(comm, status);
    if (status == FB_OK)
        status = meet(comm, folder, peers);
    FB_FREE(peers);
    return status;
}

void fb_watchdog_stop(void)
{
    if (dog.running) {
        pthread_mutex_lock(&dog.lock);
        dog.stopping = 1;
        pthread_cond_broadcast(&dog.wake);
        pthread_mutex_unlock(&dog.lock);
        for (int i = 0; i < dog.running; i++)
            pthread_join(dog.threads[i], NULL);
        pthread_cond_destroy(&dog.wake);
    }
    if (atomic_load(&dog.stage) == MET) {
        (void)unlink(dog.own_path);
        (void)rmdir(dog.folder); /* the last rank succeeds */
    }
    FB_FREE(dog.ranks);
    FB_FREE(dog.local);
    dog.running = 0;
    dog.limit_s = 0.0;
}
