/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stop.h"

#include "core/file.h"
#include "core/timer.h"

#include <signal.h>
#include <string.h>

static const int SIGNALS[] = {SIGUSR1, SIGTERM};
enum { SIGNAL_COUNT = 2 };

/* The mutable state of the signals, of which a process has one set. */
static volatile sig_atomic_t received;
static struct {
    int listening;
    struct sigaction before[SIGNAL_COUNT];
    const char *file;
    double looked_s; /* when the file was last looked for */
    int found;
    double seen_s; /* when fb_stop_check first saw the wish */
    int seen;
} state;

static void take(int number)
{
    received = number;
}

void fb_stop_listen(const char *file)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = take;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    received = 0;
    memset(&state, 0, sizeof state);
    state.file = file;
    for (int i = 0; i < SIGNAL_COUNT; i++) {
        const int failed = sigaction(SIGNALS[i], &action, &state.before[i]);
        FB_ASSERT(!failed);
    }
    state.listening = 1;
}

void fb_stop_ignore(void)
{
    for (int i = 0; state.listening && i < SIGNAL_COUNT; i++)
        (void)sigaction(SIGNALS[i], &state.before[i], NULL);
    received = 0;
    memset(&state, 0, sizeof state);
}

const char *fb_stop_requested(void)
{
    if (received)
        return received == SIGUSR1 ? "SIGUSR1" : "SIGTERM";
    if (state.file && !state.found)
        state.found = fb_file_exists(state.file);
    return state.found ? state.file : NULL;
}

fb_status fb_stop_check(double grace_s)
{
    const double now_s = fb_time_s();
    if (!received && !state.found && (!state.file || now_s - state.looked_s < 1.0))
        return FB_OK;
    state.looked_s = now_s;
    const char *who = fb_stop_requested();
    if (!who)
        return FB_OK;
    if (!state.seen)
        state.seen_s = now_s;
    state.seen = 1;
    if (now_s - state.seen_s < grace_s)
        return FB_OK;
    return fb_error_make(FB_EXIT_STOPPED, "stopped by %s within a round, run.grace_s = %g s after it was seen", who,
                         grace_s);
}
