/* SPDX-License-Identifier: Apache-2.0
 *
 * The chain starts from SHA-256 of the label below. It shows edited, removed and reordered lines; whole lines cut off
 * at the end are for whoever holds the expected last chain value or length (a checkpoint) to notice.
 */
#include "privacy/ledger.h"

#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_CHARS = 512 };
static const char CHAIN_LABEL[] = "fedbrats privacy ledger 1";
static const int64_t SIZE_MAX_BYTES = INT64_C(1) << 30;

struct fb_ledger {
    int file; /* open for appending; -1: closed */
    int64_t size_bytes;
    double epsilon, delta;
    char chain[FB_SHA256_CHARS]; /* of the last line */
    char path[FB_PATH_CHARS];
};

/* chain = SHA-256(chain, line so far) as hexadecimal text */
static void extend_chain(char chain[FB_SHA256_CHARS], const char *line, size_t chars)
{
    char joined[FB_SHA256_CHARS + LINE_CHARS];
    const size_t chain_chars = FB_SHA256_CHARS - 1;
    FB_ASSERT(chars <= LINE_CHARS);
    memcpy(joined, chain, chain_chars);
    memcpy(joined + chain_chars, line, chars);
    fb_sha256(joined, (int64_t)(chain_chars + chars), chain);
}

static int is_sha256(const char *text)
{
    return strspn(text, "0123456789abcdef") == FB_SHA256_CHARS - 1 && text[FB_SHA256_CHARS - 1] == '\0';
}

static int is_spending(double value)
{
    return !isnan(value) && value >= 0.0;
}

/* The line up to its last space, without the chain. Returns its length, 0 when it does not fit. */
static size_t format_entry(const fb_ledger_entry *entry, char line[LINE_CHARS])
{
    const int chars =
        snprintf(line, LINE_CHARS, "%" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRId64 " %" PRId64 " %.17g %.17g %s ",
                 entry->attempt, entry->round, entry->hospital, entry->steps, entry->count, entry->epsilon_round,
                 entry->delta_round, entry->message_sha256);
    return chars > 0 && chars < LINE_CHARS ? (size_t)chars : 0;
}

/* Reads the entry back from a line without its line feed. Returns 1 when writing it again gives the same text, which
 * rules out every other spelling of a number. */
static int parse_entry(const char *line, fb_ledger_entry *entry, char chain[FB_SHA256_CHARS])
{
    char again[LINE_CHARS];
    if (sscanf(line, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNd64 " %" SCNd64 " %lf %lf %64s %64s", &entry->attempt,
               &entry->round, &entry->hospital, &entry->steps, &entry->count, &entry->epsilon_round,
               &entry->delta_round, entry->message_sha256, chain) != 9)
        return 0;
    const size_t chars = format_entry(entry, again);
    return chars != 0 && strncmp(line, again, chars) == 0 && strcmp(line + chars, chain) == 0 &&
           is_sha256(entry->message_sha256) && is_sha256(chain) && is_spending(entry->epsilon_round) &&
           is_spending(entry->delta_round);
}

static void add_spending(fb_ledger *ledger, const fb_ledger_entry *entry)
{
    ledger->epsilon += entry->epsilon_round;
    ledger->delta += entry->delta_round;
}

static fb_status replay_line(fb_ledger *ledger, const char *line, size_t chars, int64_t number)
{
    fb_ledger_entry entry;
    char chain[FB_SHA256_CHARS];
    if (chars >= LINE_CHARS || strlen(line) != chars || !parse_entry(line, &entry, chain))
        return FB_FAIL("%s: line %lld is not an entry of a privacy ledger; restore the file", ledger->path,
                       (long long)number);
    extend_chain(ledger->chain, line, chars - (FB_SHA256_CHARS - 1));
    if (strcmp(ledger->chain, chain) != 0)
        return FB_FAIL(
            "%s: line %lld breaks the chain: this line was edited or one before it removed; restore the file",
            ledger->path, (long long)number);
    add_spending(ledger, &entry);
    return FB_OK;
}

/* text is followed by '\0'; its line feeds are overwritten. */
static fb_status replay(fb_ledger *ledger, char *text, int64_t size_bytes)
{
    char *line = text, *const end = text + size_bytes;
    for (int64_t number = 1; line < end; number++) {
        char *feed = memchr(line, '\n', (size_t)(end - line));
        if (!feed)
            return FB_FAIL("%s: line %lld has no end: writing it was interrupted, its message was not sent; remove the "
                           "line to go on",
                           ledger->path, (long long)number);
        *feed = '\0';
        FB_TRY(replay_line(ledger, line, (size_t)(feed - line), number));
        line = feed + 1;
    }
    return FB_OK;
}

static fb_status open_and_replay(fb_ledger *ledger)
{
    char *text = NULL;
    if (access(ledger->path, F_OK) != 0)
        FB_TRY(fb_file_write_atomic(ledger->path, "", 0)); /* flushes the folder too */
    FB_TRY(fb_file_read(ledger->path, SIZE_MAX_BYTES, &text, &ledger->size_bytes));
    fb_sha256(CHAIN_LABEL, sizeof CHAIN_LABEL - 1, ledger->chain);
    const fb_status status = replay(ledger, text, ledger->size_bytes);
    FB_FREE(text);
    if (status != FB_OK)
        return status;
    ledger->file = open(ledger->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (ledger->file < 0)
        return FB_FAIL("%s: the privacy ledger cannot be opened for writing: %s", ledger->path, strerror(errno));
    return FB_OK;
}

fb_status fb_ledger_open(const char *path, fb_ledger **out)
{
    fb_ledger *ledger = NULL;
    if (strlen(path) >= FB_PATH_CHARS)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 1);
    FB_TRY(FB_ALLOC(ledger, 1, "privacy ledger"));
    ledger->file = -1;
    memcpy(ledger->path, path, strlen(path) + 1);
    const fb_status status = open_and_replay(ledger);
    if (status != FB_OK) {
        fb_ledger_close(&ledger);
        return status;
    }
    *out = ledger;
    return FB_OK;
}

void fb_ledger_close(fb_ledger **ledger)
{
    if (*ledger && (*ledger)->file >= 0)
        close((*ledger)->file);
    FB_FREE(*ledger);
}

/* Whole and flushed, or taken back as well as can be. A failure is final, the ledger takes no more lines: after a
 * failed fsync nobody knows what is on disk. */
static fb_status write_line(fb_ledger *ledger, const char *line, size_t chars)
{
    errno = 0;
    const ssize_t written = write(ledger->file, line, chars);
    if (written == (ssize_t)chars && fsync(ledger->file) == 0)
        return FB_OK;
    const int reason = errno ? errno : ENOSPC;
    const int taken_back = written == (ssize_t)chars || ftruncate(ledger->file, (off_t)ledger->size_bytes) == 0;
    close(ledger->file);
    ledger->file = -1;
    return FB_FAIL("%s: the privacy ledger cannot be written: %s%s; nothing was sent", ledger->path, strerror(reason),
                   taken_back ? "" : " (and its last line is incomplete)");
}

fb_status fb_ledger_append(fb_ledger *ledger, const fb_ledger_entry *entry)
{
    char line[LINE_CHARS + FB_SHA256_CHARS], chain[FB_SHA256_CHARS];
    FB_ASSERT(is_sha256(entry->message_sha256) && is_spending(entry->epsilon_round) && is_spending(entry->delta_round));
    const size_t chars = format_entry(entry, line);
    FB_ASSERT(chars != 0 && chars + FB_SHA256_CHARS < LINE_CHARS);
    memcpy(chain, ledger->chain, sizeof chain);
    extend_chain(chain, line, chars);
    memcpy(line + chars, chain, FB_SHA256_CHARS - 1);
    line[chars + FB_SHA256_CHARS - 1] = '\n';
    FB_TRY(write_line(ledger, line, chars + FB_SHA256_CHARS));
    memcpy(ledger->chain, chain, sizeof chain);
    ledger->size_bytes += (int64_t)(chars + FB_SHA256_CHARS);
    add_spending(ledger, entry);
    return FB_OK;
}

double fb_ledger_epsilon(const fb_ledger *ledger)
{
    return ledger->epsilon;
}

double fb_ledger_delta(const fb_ledger *ledger)
{
    return ledger->delta;
}
