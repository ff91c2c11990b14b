/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kill.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char VARIABLE[] = "FEDBRATS_KILL";

/* What to do at a point, as the variable says it. */
typedef struct order {
    long count; /* passes left */
    char how[8];
    double after_s;
} order;

static void pause_s(double seconds)
{
    const struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

/* Says when, for those who measure what follows. */
static void do_harm(const order *what)
{
    struct timespec now;
    char line[128];
    unsetenv(VARIABLE); /* a stopped process that is woken goes on */
    pause_s(what->after_s);
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(line, sizeof line, "%s: %s at %.3f s since 1970\n", VARIABLE, what->how,
             (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    (void)!write(STDERR_FILENO, line, strlen(line));
    while (strcmp(what->how, "stall") == 0)
        pause();
    kill(getpid(), strcmp(what->how, "stop") == 0 ? SIGSTOP : SIGKILL);
}

void fb_kill_point(const char *name)
{
    const char *wanted = getenv(VARIABLE);
    const size_t chars = strlen(name);
    char left[128];
    if (!wanted || strncmp(wanted, name, chars) != 0 || wanted[chars] != ':')
        return;
    order what = {1, "kill", 0.0};
    (void)sscanf(wanted + chars + 1, "%ld:%7[a-z]:%lf", &what.count, what.how, &what.after_s);
    if (what.count <= 1) {
        do_harm(&what);
        return;
    }
    snprintf(left, sizeof left, "%s:%ld:%s:%g", name, what.count - 1, what.how, what.after_s);
    setenv(VARIABLE, left, 1);
}
