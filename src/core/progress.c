/* SPDX-License-Identifier: Apache-2.0 */
#include "core/progress.h"

#include "core/kill.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

/* The counters change at every step and stand alone; the place changes a few times a round and is read as a whole. */
static atomic_llong steps;
static atomic_int waiting;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static fb_progress place = {.round = -1, .hospital = -1};

/* "phase." and the name: of the kill points. */
static const char *const PHASES[FB_PHASES] = {
    "phase.starting",    "phase.preparing",    "phase.training",   "phase.protecting", "phase.sending",
    "phase.aggregating", "phase.broadcasting", "phase.evaluating", "phase.writing",    "phase.ending"};

enum { PREFIX_CHARS = 6 };

const char *fb_phase_name(fb_phase phase)
{
    return PHASES[phase] + PREFIX_CHARS;
}

void fb_progress_step(void)
{
    /* One writer: no locked instruction is needed. */
    atomic_store_explicit(&steps, atomic_load_explicit(&steps, memory_order_relaxed) + 1, memory_order_release);
}

void fb_progress_enter(fb_phase phase)
{
    pthread_mutex_lock(&lock);
    place.phase = phase;
    pthread_mutex_unlock(&lock);
    fb_progress_step();
    fb_kill_point(PHASES[phase]);
}

void fb_progress_round(int64_t round)
{
    pthread_mutex_lock(&lock);
    place.round = round;
    pthread_mutex_unlock(&lock);
    fb_progress_step();
}

void fb_progress_hospital(int hospital, const char *name)
{
    pthread_mutex_lock(&lock);
    place.hospital = hospital;
    snprintf(place.hospital_name, sizeof place.hospital_name, "%s", name);
    pthread_mutex_unlock(&lock);
    fb_progress_step();
}

static void change_waiting(int by)
{
    fb_progress_step();
    atomic_store_explicit(&waiting, atomic_load_explicit(&waiting, memory_order_relaxed) + by, memory_order_release);
}

void fb_progress_wait_begin(void)
{
    change_waiting(1);
}

void fb_progress_wait_end(void)
{
    change_waiting(-1);
}

void fb_progress_read(fb_progress *out)
{
    pthread_mutex_lock(&lock);
    *out = place;
    pthread_mutex_unlock(&lock);
    out->waiting = atomic_load_explicit(&waiting, memory_order_acquire) > 0;
    out->steps = atomic_load_explicit(&steps, memory_order_acquire);
}
