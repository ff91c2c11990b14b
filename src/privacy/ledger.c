/* SPDX-License-Identifier: Apache-2.0
 *
 * The chain starts from the empty text. It shows edited, removed and reordered lines; whole lines cut off at the end
 * are for whoever holds the messages (fed/outbox.h) to notice.
 */
#include "privacy/ledger.h"

#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_CHARS = FB_LEDGER_IDENTITY_CHARS + 256 };
static const char TITLE[] = "fedbrats privacy ledger 2: ";
static const int64_t SIZE_MAX_BYTES = INT64_C(1) << 30;

typedef struct ledger_line {
    fb_ledger_entry entry;
    char chain[FB_SHA256_CHARS]; /* after it */
} ledger_line;

struct fb_ledger {
    int file; /* open for appending; -1: closed */
    int64_t size_bytes;
    int64_t count, capacity;
    ledger_line *lines;          /* owned; without the title */
    char title[FB_SHA256_CHARS]; /* the chain after the title */
    char chain[FB_SHA256_CHARS]; /* of the last line */
    char path[FB_PATH_CHARS];
};

/* chain = SHA-256(chain, line so far) as hexadecimal text */
static void extend_chain(char chain[FB_SHA256_CHARS], const char *line, size_t chars)
{
    char joined[FB_SHA256_CHARS + LINE_CHARS];
    const size_t chain_chars = strlen(chain);
    FB_ASSERT(chars <= LINE_CHARS);
    memcpy(joined, chain, chain_chars);
    memcpy(joined + chain_chars, line, chars);
    fb_sha256(joined, (int64_t)(chain_chars + chars), chain);
}

static int is_sha256(const char *text)
{
    return strspn(text, "0123456789abcdef") == FB_SHA256_CHARS - 1 && text[FB_SHA256_CHARS - 1] == '\0';
}

/* Appends the chain and a line feed to the line's first `chars` characters; returns the length of all. */
static size_t close_line(char chain[FB_SHA256_CHARS], char line[LINE_CHARS], size_t chars)
{
    FB_ASSERT(chars != 0 && chars + FB_SHA256_CHARS < LINE_CHARS);
    extend_chain(chain, line, chars);
    memcpy(line + chars, chain, FB_SHA256_CHARS - 1);
    line[chars + FB_SHA256_CHARS - 1] = '\n';
    return chars + FB_SHA256_CHARS;
}

/* The line up to its last space, without the chain. Returns its length, 0 when it does not fit. */
static size_t format_entry(const fb_ledger_entry *entry, char line[LINE_CHARS])
{
    const int chars =
        snprintf(line, LINE_CHARS, "%" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRId64 " %" PRId64 " %s ", entry->attempt,
                 entry->round, entry->hospital, entry->steps, entry->count, entry->message_sha256);
    return chars > 0 && chars < LINE_CHARS ? (size_t)chars : 0;
}

/* Reads the entry back from a line without its line feed. Returns 1 when writing it again gives the same text, which
 * rules out every other spelling of a number. */
static int parse_entry(const char *line, fb_ledger_entry *entry)
{
    char again[LINE_CHARS];
    if (sscanf(line, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNd64 " %" SCNd64 " %64s", &entry->attempt, &entry->round,
               &entry->hospital, &entry->steps, &entry->count, entry->message_sha256) != 6)
        return 0;
    const size_t chars = format_entry(entry, again);
    return chars != 0 && strncmp(line, again, chars) == 0 && is_sha256(line + chars) &&
           is_sha256(entry->message_sha256);
}

static fb_status remember(fb_ledger *ledger, const fb_ledger_entry *entry, const char chain[FB_SHA256_CHARS])
{
    if (ledger->count == ledger->capacity) {
        const int64_t capacity = ledger->capacity ? 2 * ledger->capacity : 64;
        FB_TRY(fb_mem_resize(&ledger->lines, capacity, sizeof *ledger->lines, "privacy ledger"));
        ledger->capacity = capacity;
    }
    ledger_line *line = &ledger->lines[ledger->count++];
    line->entry = *entry;
    memcpy(line->chain, chain, sizeof line->chain);
    return FB_OK;
}

/* --- opening --- */

/* Moves the chain over a line and compares it with the one that the line ends with. */
static fb_status check_chain(fb_ledger *ledger, const char *line, size_t chars, int64_t number)
{
    const size_t before = chars - (FB_SHA256_CHARS - 1);
    extend_chain(ledger->chain, line, before);
    if (strcmp(ledger->chain, line + before) == 0)
        return FB_OK;
    return FB_FAIL("%s: line %lld breaks the chain: this line was edited or one before it removed; restore the file",
                   ledger->path, (long long)number);
}

/* Shows the first word in which two identities differ. */
static fb_status other_identity(const fb_ledger *ledger, const char *was, const char *now)
{
    size_t chars = strcspn(was, " ");
    while (chars > 0 && chars == strcspn(now, " ") && strncmp(was, now, chars) == 0) {
        was += chars + (was[chars] == ' ');
        now += chars + (now[chars] == ' ');
        chars = strcspn(was, " ");
    }
    return FB_USAGE("%s: this ledger charges another mechanism: it has \"%.*s\", this run \"%.*s\"; go on with the "
                    "options of that run, or start anew in another run.output",
                    ledger->path, (int)chars, was, (int)strcspn(now, " "), now);
}

static fb_status replay_title(fb_ledger *ledger, const char *line, size_t chars, const char *identity)
{
    char was[FB_LEDGER_IDENTITY_CHARS];
    const size_t title = sizeof TITLE - 1;
    if (chars >= LINE_CHARS || strlen(line) != chars || strncmp(line, TITLE, title) != 0 ||
        chars < title + FB_SHA256_CHARS || chars - title - FB_SHA256_CHARS >= sizeof was ||
        !is_sha256(line + chars - (FB_SHA256_CHARS - 1)))
        return FB_FAIL("%s: line 1 is not the title of a privacy ledger; restore the file", ledger->path);
    FB_TRY(check_chain(ledger, line, chars, 1));
    memcpy(ledger->title, ledger->chain, sizeof ledger->title);
    snprintf(was, sizeof was, "%.*s", (int)(chars - title - FB_SHA256_CHARS), line + title);
    return strcmp(was, identity) == 0 ? FB_OK : other_identity(ledger, was, identity);
}

static fb_status replay_line(fb_ledger *ledger, const char *line, size_t chars, int64_t number)
{
    fb_ledger_entry entry;
    if (chars >= LINE_CHARS || strlen(line) != chars || !parse_entry(line, &entry))
        return FB_FAIL("%s: line %lld is not an entry of a privacy ledger; restore the file", ledger->path,
                       (long long)number);
    FB_TRY(check_chain(ledger, line, chars, number));
    return remember(ledger, &entry, ledger->chain);
}

/* text is followed by '\0'; its line feeds are overwritten. ledger->size_bytes becomes that of the whole lines. */
static fb_status replay(fb_ledger *ledger, char *text, int64_t size_bytes, const char *identity)
{
    char *line = text, *const end = text + size_bytes, *feed;
    for (int64_t number = 1; (feed = memchr(line, '\n', (size_t)(end - line))) != NULL; number++) {
        *feed = '\0';
        FB_TRY(number == 1 ? replay_title(ledger, line, (size_t)(feed - line), identity)
                           : replay_line(ledger, line, (size_t)(feed - line), number));
        line = feed + 1;
    }
    ledger->size_bytes = line - text;
    if (line == text)
        return FB_FAIL("%s: line 1 is not the title of a privacy ledger; restore the file", ledger->path);
    return FB_OK;
}

/* Atomically, so that a title is never torn. */
static fb_status create(const char *path, const char *identity)
{
    char line[LINE_CHARS], chain[FB_SHA256_CHARS] = "";
    const int chars = snprintf(line, sizeof line, "%s%s ", TITLE, identity);
    FB_ASSERT(chars > 0 && strlen(identity) < FB_LEDGER_IDENTITY_CHARS && !strchr(identity, '\n'));
    return fb_file_write_atomic(path, line, (int64_t)close_line(chain, line, (size_t)chars));
}

/* What follows the last line feed was being written when the program ended. */
static fb_status cut_torn_line(const fb_ledger *ledger, int64_t file_bytes)
{
    if (file_bytes == ledger->size_bytes)
        return FB_OK;
    if (ftruncate(ledger->file, (off_t)ledger->size_bytes) != 0 || fb_fd_flush(ledger->file) != 0)
        return FB_FAIL("%s: its incomplete last line cannot be cut off: %s", ledger->path, strerror(errno));
    fb_log_warn("%s: writing the last line was interrupted, so its message was not sent: %lld bytes cut off",
                ledger->path, (long long)(file_bytes - ledger->size_bytes));
    return FB_OK;
}

/* Two processes that charge one ledger would each count half of what was released. */
static fb_status open_locked(fb_ledger *ledger)
{
    int taken = 0;
    ledger->file = open(ledger->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (ledger->file < 0)
        return FB_FAIL("%s: the privacy ledger cannot be opened for writing: %s", ledger->path, strerror(errno));
    FB_TRY(fb_fd_lock(ledger->file, ledger->path, &taken));
    if (!taken)
        return FB_FAIL("%s: another process has this privacy ledger open: wait for its end, or choose another "
                       "run.output",
                       ledger->path);
    return FB_OK;
}

/* A ledger that has charged nothing, of a run that was refused before it began. */
static fb_status has_only_title(const char *path, int *only)
{
    char *text = NULL;
    int64_t size_bytes = 0;
    FB_TRY(fb_file_read(path, SIZE_MAX_BYTES, &text, &size_bytes));
    *only = size_bytes > 0 && strncmp(text, TITLE, sizeof TITLE - 1) == 0 &&
            memchr(text, '\n', (size_t)size_bytes) == text + size_bytes - 1;
    FB_FREE(text);
    return FB_OK;
}

static fb_status make_or_find(const fb_ledger *ledger, const char *identity, int begun)
{
    int found = 0, only_title = 0;
    FB_TRY(fb_file_find(ledger->path, &found));
    if (found && !begun)
        FB_TRY(has_only_title(ledger->path, &only_title));
    if (found && !only_title)
        return FB_OK;
    if (begun)
        return FB_FAIL("%s: the privacy ledger is missing, though the run has begun: what it charged is not known any "
                       "more; restore the file, or start anew in another run.output and add what both spend",
                       ledger->path);
    return create(ledger->path, identity);
}

static fb_status open_and_replay(fb_ledger *ledger, const char *identity, int begun)
{
    char *text = NULL;
    int64_t file_bytes = 0;
    FB_TRY(make_or_find(ledger, identity, begun));
    FB_TRY(open_locked(ledger));
    FB_TRY(fb_file_read(ledger->path, SIZE_MAX_BYTES, &text, &file_bytes));
    const fb_status status = replay(ledger, text, file_bytes, identity);
    FB_FREE(text);
    return status == FB_OK ? cut_torn_line(ledger, file_bytes) : status;
}

fb_status fb_ledger_open(const char *path, const char *identity, int begun, fb_ledger **out)
{
    fb_ledger *ledger = NULL;
    if (strlen(path) >= FB_PATH_CHARS)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 1);
    FB_TRY(FB_ALLOC(ledger, 1, "privacy ledger"));
    ledger->file = -1;
    memcpy(ledger->path, path, strlen(path) + 1);
    const fb_status status = open_and_replay(ledger, identity, begun);
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
    if (*ledger)
        FB_FREE((*ledger)->lines);
    FB_FREE(*ledger);
}

/* --- appending --- */

/* Whole and flushed, or taken back as well as can be. A failure is final, the ledger takes no more lines: after a
 * failed fsync nobody knows what is on disk. */
static fb_status write_line(fb_ledger *ledger, const char *line, size_t chars)
{
    const int written = fb_fd_write(ledger->file, line, chars, -1) == 0;
    fb_kill_point("ledger.written");
    if (written && fb_fd_flush(ledger->file) == 0)
        return FB_OK;
    const int reason = errno;
    const int taken_back = written || ftruncate(ledger->file, (off_t)ledger->size_bytes) == 0;
    (void)close(ledger->file);
    ledger->file = -1;
    return FB_FAIL("%s: the privacy ledger cannot be written: %s%s; nothing was sent", ledger->path, strerror(reason),
                   taken_back ? "" : " (and its last line is incomplete)");
}

fb_status fb_ledger_append(fb_ledger *ledger, const fb_ledger_entry *entry)
{
    char line[LINE_CHARS], chain[FB_SHA256_CHARS];
    FB_ASSERT(is_sha256(entry->message_sha256));
    memcpy(chain, ledger->chain, sizeof chain);
    const size_t chars = close_line(chain, line, format_entry(entry, line));
    FB_TRY(remember(ledger, entry, chain));
    const fb_status status = write_line(ledger, line, chars);
    if (status != FB_OK) {
        ledger->count--;
        return status;
    }
    memcpy(ledger->chain, chain, sizeof chain);
    ledger->size_bytes += (int64_t)chars;
    return FB_OK;
}

int64_t fb_ledger_releases(const fb_ledger *ledger)
{
    return ledger->count;
}

int64_t fb_ledger_releases_until(const fb_ledger *ledger, uint32_t round)
{
    int64_t count = 0;
    for (int64_t i = 0; i < ledger->count; i++)
        count += ledger->lines[i].entry.round <= round;
    return count;
}

const fb_ledger_entry *fb_ledger_last(const fb_ledger *ledger, uint32_t round)
{
    for (int64_t i = ledger->count - 1; i >= 0; i--)
        if (ledger->lines[i].entry.round == round)
            return &ledger->lines[i].entry;
    return NULL;
}

fb_ledger_position fb_ledger_where(const fb_ledger *ledger)
{
    fb_ledger_position position = {.releases = ledger->count};
    memcpy(position.chain_sha256, ledger->chain, sizeof position.chain_sha256);
    return position;
}

int fb_ledger_was_at(const fb_ledger *ledger, const fb_ledger_position *position)
{
    if (position->releases < 0 || position->releases > ledger->count)
        return 0;
    const char *chain = position->releases == 0 ? ledger->title : ledger->lines[position->releases - 1].chain;
    return memcmp(chain, position->chain_sha256, FB_SHA256_CHARS) == 0;
}
