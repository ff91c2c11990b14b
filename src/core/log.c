/* SPDX-License-Identifier: Apache-2.0 */
#include "core/log.h"

#include "core/file.h"
#include "core/timer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One log a process: the only mutable state of its kind, with the memory counters. */
static struct {
    int rank, size;
    fb_log_level level;
    FILE *file;
    char path[FB_PATH_CHARS]; /* of file */
    int bar_open;             /* a progress bar stands on the terminal without a newline */
    double bar_s;             /* when it was last drawn */
} state = {.size = 1, .level = FB_LOG_INFO};

void fb_log_set_rank(int rank, int size)
{
    state.rank = rank;
    state.size = size;
}

void fb_log_set_level(fb_log_level level)
{
    state.level = level;
}

/* Of lines of the log file; errno says why. */
static void warn_of_loss(void)
{
    fprintf(stderr, "warning: %s: cannot write: %s; the log goes on here alone\n", state.path, strerror(errno));
}

fb_status fb_log_open(const char *path)
{
    if (state.file && fclose(state.file) != 0)
        warn_of_loss();
    state.file = NULL;
    if (!path)
        return FB_OK;
    state.file = fopen(path, "a");
    if (!state.file)
        return FB_FAIL("%s: cannot open the log: %s", path, strerror(errno));
    snprintf(state.path, sizeof state.path, "%s", path);
    setvbuf(state.file, NULL, _IOLBF, 0);
    return FB_OK;
}

fb_status fb_output_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return FB_OK;
    return FB_FAIL("standard output: cannot write: %s", errno ? strerror(errno) : "an earlier write failed");
}

static void write_line(const char *label, const char *format, va_list args)
{
    char line[4096], when[32];
    const time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    vsnprintf(line, sizeof line, format, args);
    if (state.bar_open)
        fputc('\n', stderr);
    state.bar_open = 0;
    if (state.size > 1 && label[0])
        fprintf(stderr, "%s rank %d: %s%s\n", when, state.rank, label, line);
    else
        fprintf(stderr, "%s %s%s\n", when, label, line);
    if (state.file && fprintf(state.file, "%s %s%s\n", when, label, line) < 0) {
        warn_of_loss();
        fclose(state.file);
        state.file = NULL;
    }
}

#define WRITE_LINE(label)                                                                                              \
    do {                                                                                                               \
        va_list args;                                                                                                  \
        va_start(args, format);                                                                                        \
        write_line(label, format, args);                                                                               \
        va_end(args);                                                                                                  \
    } while (0)

void fb_log_info(const char *format, ...)
{
    if (state.rank == 0 && state.level >= FB_LOG_INFO)
        WRITE_LINE("");
}

void fb_log_verbose(const char *format, ...)
{
    if (state.rank == 0 && state.level >= FB_LOG_VERBOSE)
        WRITE_LINE("");
}

void fb_log_warn(const char *format, ...)
{
    WRITE_LINE("warning: ");
}

void fb_log_error(const char *format, ...)
{
    WRITE_LINE("error: ");
}

void fb_log_progress(const char *what, int64_t done, int64_t total, double start_s)
{
    if (state.rank != 0 || state.level < FB_LOG_INFO || total <= 0)
        return;
    const double now_s = fb_time_s();
    const double left_s = done > 0 ? (now_s - start_s) * (double)(total - done) / (double)done : 0.0;
    if (!isatty(STDERR_FILENO)) {
        if (done == total || (done * 10 / total != (done - 1) * 10 / total && done > 1))
            fb_log_info("%s: %lld of %lld, %.0f s left", what, (long long)done, (long long)total, left_s);
        return;
    }
    if (done < total && now_s - state.bar_s < 0.1)
        return;
    enum { WIDTH = 30 };
    char bar[WIDTH + 1];
    const int filled = (int)(done * WIDTH / total);
    for (int i = 0; i < WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %lld/%lld, %.0f s left \033[K", what, bar, (long long)done, (long long)total, left_s);
    state.bar_s = now_s;
    state.bar_open = 1;
    if (done == total) {
        fputc('\n', stderr);
        state.bar_open = 0;
    }
}
