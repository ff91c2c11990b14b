/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/watch.h"

#include "core/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- a sign as text --- */

static const char CHECK[] = "check: ";

void fb_sign_utc(int64_t utc_s, char text[24])
{
    const time_t when = (time_t)utc_s;
    struct tm utc;
    gmtime_r(&when, &utc);
    strftime(text, 24, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

/* Names come from files of the user: a line stays a line. */
static void print_name(const char *name, char out[FB_PROGRESS_NAME_CHARS])
{
    size_t i = 0;
    for (; name[i] && i + 1 < FB_PROGRESS_NAME_CHARS; i++)
        out[i] = (unsigned char)name[i] < ' ' ? '?' : name[i];
    out[i] = '\0';
}

void fb_sign_print(const fb_sign *sign, char text[FB_SIGN_BYTES])
{
    char utc[24], name[FB_PROGRESS_NAME_CHARS], all[FB_SIGN_BYTES + 1];
    fb_sign_utc(sign->utc_s, utc);
    print_name(sign->at.hospital_name, name);
    int chars = snprintf(
        all, sizeof all,
        "rank: %d\nhost: %s\npid: %" PRId64 "\nround: %" PRId64 "\nhospital: %d %s\nphase: %s\n"
        "steps: %" PRId64 "\nwaits_for_others: %d\nidle_s: %.1f\nbeat: %" PRId64 "\nutc: %s\nrun: %016" PRIx64 "\n",
        sign->rank, sign->host, sign->pid, sign->at.round + 1, sign->at.hospital, name, fb_phase_name(sign->at.phase),
        sign->at.steps, sign->at.waiting, sign->idle_s, sign->beat, utc, sign->run);
    const uint32_t sum = fb_crc32c(0, all, chars);
    chars += snprintf(all + chars, sizeof all - (size_t)chars, "%s%08x\n", CHECK, sum);
    memset(all + chars, ' ', (size_t)(FB_SIGN_BYTES - chars));
    all[FB_SIGN_BYTES - 1] = '\n';
    memcpy(text, all, FB_SIGN_BYTES);
}

/* What stands behind "key: " at the beginning of a line, up to its end; NULL: no such line. */
static const char *value_of(const char *text, const char *key, char out[128])
{
    const size_t key_chars = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, key, key_chars) == 0 && strncmp(line + key_chars, ": ", 2) == 0) {
            const char *value = line + key_chars + 2;
            snprintf(out, 128, "%.*s", (int)strcspn(value, "\n"), value);
            return out;
        }
    return NULL;
}

static int64_t number_of(const char *text, const char *key, int *found)
{
    char value[128];
    *found = *found && value_of(text, key, value);
    return *found ? strtoll(value, NULL, 10) : 0;
}

static int parse_phase(const char *text, fb_phase *phase)
{
    char value[128];
    if (!value_of(text, "phase", value))
        return 0;
    for (int i = 0; i < FB_PHASES; i++)
        if (strcmp(value, fb_phase_name((fb_phase)i)) == 0) {
            *phase = (fb_phase)i;
            return 1;
        }
    return 0;
}

/* "3 Name of it" */
static int parse_hospital(const char *text, fb_progress *at)
{
    char value[128], *name = value;
    if (!value_of(text, "hospital", value))
        return 0;
    at->hospital = (int)strtol(value, &name, 10);
    snprintf(at->hospital_name, sizeof at->hospital_name, "%.*s", FB_PROGRESS_NAME_CHARS - 1, name + (*name == ' '));
    return 1;
}

int fb_sign_parse(const char text[FB_SIGN_BYTES], fb_sign *sign)
{
    char all[FB_SIGN_BYTES + 1], value[128];
    int found = 1;
    memcpy(all, text, FB_SIGN_BYTES);
    all[FB_SIGN_BYTES] = '\0';
    const char *check = strstr(all, CHECK);
    if (!check || strtoul(check + strlen(CHECK), NULL, 16) != fb_crc32c(0, all, check - all))
        return 0;
    memset(sign, 0, sizeof *sign);
    sign->rank = (int)number_of(all, "rank", &found);
    sign->pid = number_of(all, "pid", &found);
    sign->beat = number_of(all, "beat", &found);
    sign->at.round = number_of(all, "round", &found) - 1;
    sign->at.steps = number_of(all, "steps", &found);
    sign->at.waiting = (int)number_of(all, "waits_for_others", &found);
    if (!found || !parse_phase(all, &sign->at.phase) || !parse_hospital(all, &sign->at) || !value_of(all, "run", value))
        return 0;
    sign->run = strtoull(value, NULL, 16);
    if (!value_of(all, "idle_s", value))
        return 0;
    sign->idle_s = strtod(value, NULL);
    if (!value_of(all, "host", value))
        return 0;
    snprintf(sign->host, sizeof sign->host, "%.*s", FB_SIGN_HOST_CHARS - 1, value);
    return 1;
}

/* --- the verdict --- */

static void take_graver(fb_finding *worst, fb_trouble trouble, int rank, double for_s)
{
    const int graver = worst->trouble == FB_TROUBLE_NONE || trouble < worst->trouble;
    if (graver || (trouble == worst->trouble && for_s > worst->for_s))
        *worst = (fb_finding){trouble, rank, for_s};
}

/* Since when nobody moved; negative: somebody may, or somebody is not followed. */
static fb_finding judge_all(int count, const fb_watched *ranks)
{
    fb_finding all = {FB_TROUBLE_HUNG, -1, INFINITY};
    for (int rank = 0; rank < count; rank++) {
        const fb_watched *one = &ranks[rank];
        if (one->left)
            continue;
        if (!one->followed || !one->sign.at.waiting)
            return (fb_finding){FB_TROUBLE_NONE, -1, 0.0};
        if (one->sign.idle_s < all.for_s)
            all = (fb_finding){FB_TROUBLE_HUNG, rank, one->sign.idle_s};
    }
    return all;
}

fb_finding fb_watch_judge(int count, const fb_watched *ranks, double now_s, double limit_s, double slack_s)
{
    fb_finding worst = {FB_TROUBLE_NONE, -1, 0.0};
    for (int rank = 0; rank < count; rank++) {
        const fb_watched *one = &ranks[rank];
        const double silent_s = now_s - one->heard_s;
        if (one->left)
            continue;
        if (one->gone)
            take_graver(&worst, FB_TROUBLE_GONE, rank, silent_s);
        else if (one->followed && silent_s >= limit_s + slack_s)
            take_graver(&worst, FB_TROUBLE_SILENT, rank, silent_s);
        else if (one->followed && !one->sign.at.waiting && one->sign.idle_s >= limit_s + slack_s)
            take_graver(&worst, FB_TROUBLE_SLOW, rank, one->sign.idle_s);
    }
    const fb_finding all = judge_all(count, ranks);
    if (all.trouble == FB_TROUBLE_HUNG && all.rank >= 0 && all.for_s >= limit_s + slack_s)
        take_graver(&worst, FB_TROUBLE_HUNG, all.rank, all.for_s);
    return worst;
}

fb_finding fb_watch_judge_own(int rank, const fb_progress *at, double idle_s, int met, double limit_s, double slack_s)
{
    if (!at->waiting && idle_s >= limit_s)
        return (fb_finding){FB_TROUBLE_SLOW, rank, idle_s};
    if (at->waiting && !met && idle_s >= limit_s + slack_s)
        return (fb_finding){FB_TROUBLE_UNMET, rank, idle_s};
    return (fb_finding){FB_TROUBLE_NONE, -1, 0.0};
}

/* --- the lines --- */

typedef struct page {
    char *text;
    size_t used, size;
} page;

static void add(page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(page *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int chars = vsnprintf(p->text + p->used, p->size - p->used, format, args);
    va_end(args);
    if (chars > 0)
        p->used += (size_t)chars < p->size - p->used ? (size_t)chars : p->size - p->used - 1;
}

static void add_place(page *p, const fb_progress *at)
{
    if (at->round < 0)
        add(p, "before round 1");
    else
        add(p, "round %" PRId64, at->round + 1);
    if (at->hospital < 0)
        add(p, ", no hospital yet");
    else
        add(p, ", hospital %d (%s)", at->hospital, at->hospital_name);
    add(p, ", phase %s", fb_phase_name(at->phase));
}

static void add_finding(page *p, const fb_finding *finding, const fb_sign *sign, double limit_s)
{
    add(p, "watchdog: ");
    if (finding->trouble == FB_TROUBLE_HUNG)
        add(p, "every rank has waited for the others for %.0f s, the last to move was ", finding->for_s);
    add(p, "rank %d on %s (pid %" PRId64 ")", sign->rank, sign->host, sign->pid);
    if (finding->trouble == FB_TROUBLE_GONE)
        add(p, " has ended in the middle of the run; an earlier line may say why. It was ");
    else if (finding->trouble == FB_TROUBLE_SILENT)
        add(p, " has given no sign of life for %.0f s: dead, stopped or cut off. It was ", finding->for_s);
    else if (finding->trouble == FB_TROUBLE_SLOW)
        add(p, " has made no step for %.0f s and waits for nobody: it hangs or is very slow. It is ", finding->for_s);
    else if (finding->trouble == FB_TROUBLE_UNMET)
        add(p, " has waited for other ranks for %.0f s, and they have not come. It is ", finding->for_s);
    else if (finding->trouble == FB_TROUBLE_STUCK)
        add(p, " has had no answer from the file system of run.output for %.0f s. It is ", finding->for_s);
    else
        add(p, ", ");
    add(p, "%s", sign->at.round < 0 ? "" : "in ");
    add_place(p, &sign->at);
    add(p, "; run.watchdog_s = %g. The job ends; the same command goes on from the last checkpoint\n", limit_s);
}

void fb_watch_story(const fb_finding *finding, int count, const fb_watched *ranks, double now_s, double limit_s,
                    char text[FB_SIGN_STORY_BYTES])
{
    page p = {text, 0, FB_SIGN_STORY_BYTES};
    add_finding(&p, finding, &ranks[finding->rank].sign, limit_s);
    for (int rank = 0; rank < count && count > 1; rank++) {
        const fb_watched *one = &ranks[rank];
        if (!one->followed || one->left)
            continue;
        add(&p, "watchdog: rank %d on %s: ", rank, one->sign.host);
        add_place(&p, &one->sign.at);
        add(&p, ", %s %.1f s ago", one->sign.at.waiting ? "waits for others, last step" : "last step",
            one->sign.idle_s + now_s - one->heard_s);
        add(&p, ", last sign %.1f s ago\n", now_s - one->heard_s);
    }
}

/* --- the clock --- */

double fb_watch_clock_read(fb_watch_clock *clock, double monotonic_s, double step_s)
{
    const double since_s = monotonic_s - clock->last_s;
    clock->now_s += since_s < 0.0 ? 0.0 : fmin(since_s, step_s);
    clock->last_s = monotonic_s;
    return clock->now_s;
}
