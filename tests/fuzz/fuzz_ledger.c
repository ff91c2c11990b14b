/* SPDX-License-Identifier: Apache-2.0
 *
 * A privacy ledger. When the first byte of the input is '=', the rest is the file as it is; otherwise the chain of
 * every line is made right, so that what lies behind it is reached. What is accepted has lost at most a torn last line,
 * has its entries spelled as they are written, can be opened again to the same, by one at a time, and takes a release.
 * Without any file, a ledger is made or missed.
 */
#include "fuzz_folder.h"

#include "core/log.h"
#include "privacy/ledger.h"

enum { LIMIT_BYTES = 32 * FUZZ_INPUT_MAX, CHAIN_CHARS = FB_SHA256_CHARS - 1, ROUNDS = 4 };

static const char IDENTITY[] = "laplace n=100 count=40";

/* Overwrites the end of every line with its place in the chain. */
static void repair(char *text, size_t size)
{
    char joined[CHAIN_CHARS + FUZZ_INPUT_MAX], chain[FB_SHA256_CHARS];
    size_t chain_chars = 0;
    for (char *line = text, *feed; (feed = memchr(line, '\n', (size_t)(text + size - line))) != NULL; line = feed + 1) {
        const size_t chars = (size_t)(feed - line);
        if (chars < CHAIN_CHARS)
            continue;
        memcpy(joined, chain, chain_chars);
        memcpy(joined + chain_chars, line, chars - CHAIN_CHARS);
        fb_sha256(joined, (int64_t)(chain_chars + chars - CHAIN_CHARS), chain);
        chain_chars = CHAIN_CHARS;
        memcpy(feed - CHAIN_CHARS, chain, CHAIN_CHARS);
    }
}

/* The file is what was given, up to its last line feed, and text. */
static void check_file(const char *path, const char *text, size_t size)
{
    char *found = NULL;
    int64_t found_bytes = 0;
    while (size > 0 && text[size - 1] != '\n')
        size--;
    FB_ASSERT(memchr(text, '\0', size) == NULL);
    fuzz_must(fb_file_read(path, FUZZ_INPUT_MAX, &found, &found_bytes));
    FB_ASSERT(found_bytes == (int64_t)size && memcmp(found, text, size) == 0);
    FB_FREE(found);
}

/* The last attempt of each of the first rounds, as ledger.h describes a line, is one of the text. */
static void check_spelling(const fb_ledger *ledger, const char *text, size_t size)
{
    char line[256];
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const fb_ledger_entry *entry = fb_ledger_last(ledger, round);
        if (!entry)
            continue;
        const int chars =
            snprintf(line, sizeof line, "\n%u %u %u %lld %lld %s ", entry->attempt, entry->round, entry->hospital,
                     (long long)entry->steps, (long long)entry->count, entry->message_sha256);
        const char *found = memmem(text, size, line, (size_t)chars);
        FB_ASSERT(found != NULL && text + size - found > chars + CHAIN_CHARS && found[chars + CHAIN_CHARS] == '\n');
    }
}

/* It was at `position` before its `last` release. */
static void open_again(const char *path, const fb_ledger_position *position, const fb_ledger_entry *last)
{
    fb_ledger *ledger = NULL, *second = NULL;
    fuzz_must(fb_ledger_open(path, IDENTITY, 1, &ledger));
    fb_status status = fb_ledger_open(path, IDENTITY, 1, &second);
    fuzz_refused(&status);
    FB_ASSERT(fb_ledger_releases(ledger) == position->releases + 1 && fb_ledger_was_at(ledger, position));
    fb_ledger_position later = fb_ledger_where(ledger);
    later.releases++;
    FB_ASSERT(!fb_ledger_was_at(ledger, &later));
    const fb_ledger_entry *found = fb_ledger_last(ledger, last->round);
    FB_ASSERT(found != NULL && found->attempt == last->attempt && found->hospital == last->hospital);
    FB_ASSERT(found->steps == last->steps && found->count == last->count);
    FB_ASSERT(strcmp(found->message_sha256, last->message_sha256) == 0);
    fb_ledger_close(&ledger);
}

static void accepted(const char *path, fb_ledger *ledger)
{
    fb_ledger_entry entry = {.attempt = 7, .round = ROUNDS, .hospital = 2, .steps = INT64_MAX, .count = INT64_MIN};
    const int64_t releases = fb_ledger_releases(ledger);
    const fb_ledger_position position = fb_ledger_where(ledger);
    FB_ASSERT(fb_ledger_releases_until(ledger, UINT32_MAX) == releases);
    fb_sha256("message", 7, entry.message_sha256);
    fuzz_must(fb_ledger_append(ledger, &entry));
    FB_ASSERT(fb_ledger_releases(ledger) == releases + 1);
    fb_ledger_close(&ledger);
    open_again(path, &position, &entry);
}

static void begin(void)
{
    char path[FB_PATH_CHARS];
    fb_ledger *ledger = NULL;
    fuzz_must(fb_path_join(path, fuzz_folder(), "new"));
    fb_status status = fb_ledger_open(path, IDENTITY, 1, &ledger);
    fuzz_refused(&status);
    fuzz_must(fb_ledger_open(path, IDENTITY, 0, &ledger));
    accepted(path, ledger);
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    char text[FUZZ_INPUT_MAX];
    fb_ledger *ledger = NULL;
    if (size < 1 || size > FUZZ_INPUT_MAX)
        return 0;
    fb_log_set_level(FB_LOG_QUIET);
    if (size == 1)
        begin();
    const int repaired = data[0] != '=';
    memcpy(text, data + 1, --size);
    if (repaired)
        repair(text, size);
    const char *path = fuzz_file(text, size);
    fb_status status = fb_ledger_open(path, IDENTITY, 1, &ledger);
    if (status != FB_OK) {
        FB_ASSERT(ledger == NULL);
        fuzz_refused(&status);
    } else {
        check_file(path, text, size);
        check_spelling(ledger, text, size);
        accepted(path, ledger);
    }
    return fuzz_end(start, LIMIT_BYTES);
}
