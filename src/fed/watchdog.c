/* SPDX-License-Identifier: Apache-2.0
 *
 * The main thread's part of the watchdog: start, the meeting of the ranks, the end. */
#include "fed/watchdog.h"

#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "fed/watchdog_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Together with the launcher's second for the rest these leave room in the 10 s: a step that was made just before a
 * beat, the beat, the reading, the slack. */
static const double BEAT_MOST_S = 3.0, READ_LEAST_S = 0.1, READ_MOST_S = 1.0;

enum { LEFT_SHOWN = 16 };

static fb_status rank_path(const fb_watchdog *dog, int rank, char path[FB_PATH_CHARS])
{
    char name[32];
    snprintf(name, sizeof name, "rank_%04d.txt", rank);
    return fb_path_join(path, dog->folder, name);
}

/* Containers of one machine may have processes of the same number, unless they share the namespace. */
static void describe_self(fb_watchdog *dog)
{
    char boot[64] = "", space[64] = "";
    const int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    const ssize_t chars = file < 0 ? 0 : read(file, boot, sizeof boot - 1);
    if (file >= 0)
        close(file);
    boot[chars > 0 ? strcspn(boot, "\n") : 0] = '\0';
    const ssize_t length = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    memset(&dog->self, 0, sizeof dog->self);
    if (boot[0] && length > 0) /* otherwise no process counts as one of this machine */
        snprintf(dog->self.pid_space, sizeof dog->self.pid_space, "%s %s", boot, space);
    gethostname(dog->self.host, sizeof dog->self.host - 1);
    dog->self.pid = getpid();
    dog->sign = (fb_sign){.rank = dog->rank, .pid = dog->self.pid};
    memcpy(dog->sign.host, dog->self.host, sizeof dog->sign.host);
}

/* An error number. */
static int start_threads(fb_watchdog *dog)
{
    sigset_t all, before;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&dog->lock, NULL);
    pthread_cond_init(&dog->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&dog->threads[0], NULL, fb_watchdog_watch, dog);
    dog->running += code == 0;
    if (code == 0)
        code = pthread_create(&dog->threads[1], NULL, fb_watchdog_guard, dog);
    dog->running += code == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static fb_status start(int rank, int size, double limit_s, fb_watchdog *dog)
{
    dog->rank = rank;
    dog->size = size;
    dog->limit_s = limit_s;
    dog->beat_every_s = fmin(fmax(limit_s / 10.0, FB_BEAT_LEAST_S), BEAT_MOST_S);
    dog->read_every_s = fmin(fmax(limit_s / 20.0, READ_LEAST_S), READ_MOST_S);
    dog->clock = (fb_watch_clock){0.0, fb_time_s()};
    describe_self(dog);
    FB_TRY(FB_ALLOC(dog->ranks, size, "watchdog"));
    FB_TRY(FB_ALLOC(dog->local, size, "watchdog"));
    const int code = start_threads(dog);
    if (code != 0)
        fb_log_warn("watchdog: %d of its 2 threads run on this rank: %s", dog->running, strerror(code));
    return FB_OK;
}

fb_status fb_watchdog_create(int rank, int size, double limit_s, fb_watchdog **out)
{
    fb_watchdog *dog = NULL;
    *out = NULL;
    if (limit_s <= 0.0)
        return FB_OK;
    FB_TRY(FB_ALLOC(dog, 1, "watchdog"));
    const fb_status status = start(rank, size, limit_s, dog);
    if (status != FB_OK) {
        fb_watchdog_destroy(&dog);
        return status;
    }
    *out = dog;
    return FB_OK;
}

/* What the last run left: why it ended or, where nobody lived to say so, where its ranks were. Rank 0. */
static void report_left(const fb_watchdog *dog)
{
    char *text = NULL;
    int64_t size_bytes = 0;
    fb_status status = fb_file_exists(dog->verdict_path)
                           ? fb_file_read(dog->verdict_path, 2 * FB_SIGN_STORY_BYTES, &text, &size_bytes)
                           : FB_OK;
    if (text)
        fb_log_info("the last run in this folder: %.*s", (int)strcspn(text, "\n"), text);
    const int told = text != NULL;
    fb_error_free(&status);
    FB_FREE(text);
    for (int rank = 0; rank < LEFT_SHOWN && !told; rank++) {
        char path[FB_PATH_CHARS], when[24];
        fb_sign sign;
        status = rank_path(dog, rank, path);
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
static fb_status clear_folder(const fb_watchdog *dog)
{
    const struct dirent *entry;
    FB_TRY(fb_folder_make(dog->folder));
    report_left(dog);
    DIR *folder = opendir(dog->folder);
    if (!folder)
        return FB_FAIL("%s: %s", dog->folder, strerror(errno));
    fb_status status = FB_OK;
    while (status == FB_OK && (entry = readdir(folder)) != NULL) {
        const int ours = strncmp(entry->d_name, "rank_", 5) == 0 || strcmp(entry->d_name, "verdict.txt") == 0;
        if (ours && unlinkat(dirfd(folder), entry->d_name, 0) != 0 && errno != ENOENT)
            status = FB_FAIL("%s/%s: cannot be removed: %s", dog->folder, entry->d_name, strerror(errno));
    }
    closedir(folder);
    return status;
}

static fb_status set_paths(fb_watchdog *dog, const char *folder)
{
    FB_TRY(fb_path_join(dog->folder, folder, "ranks"));
    FB_TRY(fb_path_join(dog->log_path, folder, "log.txt"));
    FB_TRY(fb_path_join(dog->verdict_path, dog->folder, "verdict.txt"));
    return rank_path(dog, dog->rank, dog->own_path);
}

/* Rank 0: an empty folder and a new number for the run. What fails is a problem of rank 0's, not an error. */
static void prepare(fb_watchdog *dog)
{
    struct timespec now;
    fb_status status = clear_folder(dog);
    snprintf(dog->self.problem, sizeof dog->self.problem, "%s", fb_error_message(status));
    fb_error_free(&status);
    clock_gettime(CLOCK_REALTIME, &now);
    dog->sign.run = ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) ^ ((uint64_t)dog->self.pid << 40);
}

static void give_first_sign(fb_watchdog *dog)
{
    if (!dog->running)
        snprintf(dog->self.problem, sizeof dog->self.problem, "it has no watchdog");
    if (dog->self.problem[0])
        return;
    fb_progress at;
    fb_progress_read(&at);
    if (!fb_watchdog_write_sign(dog, &at, 0.0))
        snprintf(dog->self.problem, sizeof dog->self.problem, "its sign of life cannot be written: %s",
                 strerror(errno));
}

/* Rank 0: whether all ranks give signs that can be seen here; warns if not. */
static int64_t all_are_seen(const fb_watchdog *dog, const fb_peer *peers)
{
    fb_sign sign;
    for (int rank = 0; rank < dog->size; rank++) {
        const char *problem = peers[rank].problem;
        if (!problem[0] && fb_watchdog_read_sign(dog, rank, &sign) != 1)
            problem = "its sign of life cannot be seen from rank 0: is the folder on a shared file system?";
        if (problem[0]) {
            fb_log_warn("watchdog: %s: rank %d: %s; each rank can only watch itself", dog->folder, rank, problem);
            return 0;
        }
    }
    return 1;
}

static void know(fb_watchdog *dog, const fb_peer *peers)
{
    for (int rank = 0; rank < dog->size; rank++) {
        fb_watched *one = &dog->ranks[rank];
        one->sign = (fb_sign){.rank = rank, .pid = peers[rank].pid, .at = {.round = -1, .hospital = -1}};
        memcpy(one->sign.host, peers[rank].host, sizeof one->sign.host);
        one->followed = dog->rank < FB_WATCHERS || rank < FB_WATCHERS;
        dog->local[rank] = dog->self.pid_space[0] && strcmp(peers[rank].pid_space, dog->self.pid_space) == 0;
    }
}

static fb_status meet(fb_watchdog *dog, fb_comm *comm, const char *folder, fb_peer *peers)
{
    const int root = dog->rank == 0;
    int64_t seen = 0;
    FB_TRY(fb_status_agree(comm, set_paths(dog, folder)));
    if (root)
        prepare(dog);
    FB_TRY(fb_comm_broadcast(comm, &dog->sign.run, sizeof dog->sign.run));
    give_first_sign(dog);
    FB_TRY(fb_comm_gather(comm, &dog->self, sizeof dog->self, peers));
    if (root)
        seen = all_are_seen(dog, peers);
    FB_TRY(fb_comm_broadcast(comm, &seen, sizeof seen));
    FB_TRY(fb_comm_broadcast(comm, peers, dog->size * (int64_t)sizeof *peers));
    know(dog, peers);
    if (!seen)
        (void)unlink(dog->own_path);
    atomic_store(&dog->stage, seen ? FB_DOG_MET : FB_DOG_ALONE);
    return FB_OK;
}

fb_status fb_watchdog_meet(fb_watchdog *dog, fb_comm *comm, const char *folder)
{
    fb_peer *peers = NULL; /* (size) */
    if (!dog)
        return FB_OK;
    fb_status status = fb_status_agree(comm, FB_ALLOC(peers, dog->size, "watchdog"));
    if (status == FB_OK)
        status = meet(dog, comm, folder, peers);
    FB_FREE(peers);
    return status;
}

void fb_watchdog_destroy(fb_watchdog **watchdog)
{
    fb_watchdog *dog = *watchdog;
    if (!dog)
        return;
    if (dog->running > 0) {
        pthread_mutex_lock(&dog->lock);
        dog->stopping = 1;
        pthread_cond_broadcast(&dog->wake);
        pthread_mutex_unlock(&dog->lock);
    }
    for (int i = 0; i < dog->running; i++)
        pthread_join(dog->threads[i], NULL);
    if (atomic_load(&dog->stage) == FB_DOG_MET) {
        (void)unlink(dog->own_path);
        (void)rmdir(dog->folder); /* the last rank succeeds */
    }
    FB_FREE(dog->ranks);
    FB_FREE(dog->local);
    FB_FREE(*watchdog);
}
