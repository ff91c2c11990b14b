/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger: what was appended is there after reopening, and every change to the file is refused.
 */
#include "privacy/ledger.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ENTRIES = 4 };
static const char IDENTITY[] = "mechanism=1 clip=4096 data=0";

typedef struct scratch {
    char folder[64], path[128];
    char *text; /* the intact file */
    int64_t size_bytes;
} scratch;

static fb_ledger_entry make_entry(uint32_t round)
{
    fb_ledger_entry entry = {1, round, 7, 36, 117685, ""};
    fb_sha256(&round, sizeof round, entry.message_sha256);
    return entry;
}

static int setup(void **state)
{
    static scratch s;
    fb_ledger *ledger = NULL;
    snprintf(s.folder, sizeof s.folder, "/tmp/test_ledger.XXXXXX");
    assert_non_null(mkdtemp(s.folder));
    snprintf(s.path, sizeof s.path, "%s/hospital-7.ledger", s.folder);
    must(fb_ledger_open(s.path, IDENTITY, 0, &ledger));
    for (uint32_t round = 0; round < ENTRIES; round++) {
        const fb_ledger_entry entry = make_entry(round);
        must(fb_ledger_append(ledger, &entry));
    }
    fb_ledger_close(&ledger);
    must(fb_file_read(s.path, 1 << 16, &s.text, &s.size_bytes));
    *state = &s;
    return 0;
}

static int teardown(void **state)
{
    scratch *s = *state;
    FB_FREE(s->text);
    unlink(s->path);
    return rmdir(s->folder);
}

static fb_status open_with(const scratch *s, const char *text, int64_t size_bytes)
{
    fb_ledger *ledger = NULL;
    FILE *file = fopen(s->path, "wb"); /* not flushed to disk, for speed */
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, (size_t)size_bytes, file), size_bytes);
    assert_int_equal(fclose(file), 0);
    const fb_status status = fb_ledger_open(s->path, IDENTITY, 0, &ledger);
    fb_ledger_close(&ledger);
    return status;
}

static void test_reopen_adds_up(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    must(fb_ledger_open(s->path, IDENTITY, 0, &ledger));
    assert_int_equal(fb_ledger_releases(ledger), ENTRIES);
    assert_int_equal(fb_ledger_releases_until(ledger, 1), 2);
    fb_ledger_entry more = make_entry(1);
    more.attempt = 2;
    must(fb_ledger_append(ledger, &more)); /* the chain goes on after reopening */
    fb_ledger_close(&ledger);
    must(fb_ledger_open(s->path, IDENTITY, 0, &ledger));
    assert_int_equal(fb_ledger_releases(ledger), ENTRIES + 1);
    assert_int_equal(fb_ledger_releases_until(ledger, 0), 1);
    assert_int_equal(fb_ledger_releases_until(ledger, 1), 3);
    assert_int_equal(fb_ledger_last(ledger, 1)->attempt, 2);
    assert_int_equal(fb_ledger_last(ledger, 2)->attempt, 1);
    assert_string_equal(fb_ledger_last(ledger, 1)->message_sha256, more.message_sha256);
    assert_null(fb_ledger_last(ledger, ENTRIES));
    fb_ledger_close(&ledger);
    assert_null(ledger);
}

/* Every position that the ledger was at, and none of another ledger with the same entries. */
static void test_positions(void **state)
{
    const scratch *s = *state;
    const fb_ledger_position nowhere[] = {{.releases = -1}, {.releases = 0}, {.releases = 1}};
    fb_ledger_position positions[ENTRIES + 1];
    char path[FB_PATH_CHARS], longer[64];
    fb_ledger *ledger = NULL, *other = NULL;
    snprintf(longer, sizeof longer, "%s1", IDENTITY);
    snprintf(path, sizeof path, "%s.other", s->path);
    must(fb_ledger_open(s->path, IDENTITY, 0, &ledger));
    must(fb_ledger_open(path, longer, 0, &other));
    for (int64_t i = 0; i <= ENTRIES; i++) {
        positions[i] = fb_ledger_where(other);
        assert_int_equal(positions[i].releases, i);
        const fb_ledger_entry entry = make_entry((uint32_t)i);
        must(fb_ledger_append(other, &entry));
    }
    for (int64_t i = 0; i <= ENTRIES; i++) {
        assert_true(fb_ledger_was_at(other, &positions[i]));
        assert_false(fb_ledger_was_at(ledger, &positions[i]));
    }
    for (size_t i = 0; i < sizeof nowhere / sizeof nowhere[0]; i++)
        assert_false(fb_ledger_was_at(other, &nowhere[i]));
    const fb_ledger_position ahead = fb_ledger_where(other), here = fb_ledger_where(ledger);
    assert_false(fb_ledger_was_at(ledger, &ahead)); /* by one entry */
    assert_true(fb_ledger_was_at(ledger, &here));
    fb_ledger_close(&other);
    must(fb_ledger_open(path, longer, 1, &other));
    assert_true(fb_ledger_was_at(other, &ahead));
    assert_true(fb_ledger_was_at(other, &positions[0]));
    fb_ledger_close(&other);
    fb_ledger_close(&ledger);
    assert_int_equal(unlink(path), 0);
}

/* What is charged is the identity's mechanism, so another one may not add to it. */
static void test_identity(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    must_fail(fb_ledger_open(s->path, "mechanism=1 clip=8192 data=0", 0, &ledger), "\"clip=4096\"", "\"clip=8192\"");
    must_fail(fb_ledger_open(s->path, "mechanism=1 clip=4096", 0, &ledger), "\"data=0\"", "\"\"");
    must_fail(fb_ledger_open(s->path, "mechanism=1 clip=4096 data=01", 0, &ledger), "\"data=0\"", "\"data=01\"");
    assert_null(ledger);
}

/* The first two lines, recomputed here as documented: chain = SHA-256(previous chain, line so far). */
static size_t first_lines(const char *identity, const char *entry, char text[1024])
{
    char chain[FB_SHA256_CHARS], line[512], input[640];
    snprintf(line, sizeof line, "fedbrats privacy ledger 2: %s ", identity);
    fb_sha256(line, (int64_t)strlen(line), chain);
    const int chars = snprintf(text, 1024, "%s%s\n", line, chain);
    snprintf(input, sizeof input, "%s%s", chain, entry);
    fb_sha256(input, (int64_t)strlen(input), chain);
    return (size_t)(chars + snprintf(text + chars, (size_t)(1024 - chars), "%s%s\n", entry, chain));
}

static void test_form(void **state)
{
    const scratch *s = *state;
    char line[512], wanted[1024];
    snprintf(line, sizeof line, "1 0 7 36 117685 %s ", make_entry(0).message_sha256);
    assert_memory_equal(s->text, wanted, first_lines(IDENTITY, line, wanted));
}

/* Another spelling of the same numbers is refused even under a right chain. */
static void test_one_spelling(void **state)
{
    const scratch *s = *state;
    const char *const steps[] = {"36", "036", "+36"};
    for (int i = 0; i < 3; i++) {
        char line[512], text[1024];
        snprintf(line, sizeof line, "1 0 7 %s 117685 %s ", steps[i], make_entry(0).message_sha256);
        const size_t chars = first_lines(IDENTITY, line, text);
        const fb_status status = open_with(s, text, (int64_t)chars);
        if (i == 0)
            must(status);
        else
            must_fail(status, "line 2 is not an entry");
    }
}

static void test_every_edit_is_refused(void **state)
{
    const scratch *s = *state;
    char *edited = NULL;
    must(FB_ALLOC(edited, s->size_bytes, "copy"));
    for (int64_t i = 0; i < s->size_bytes - 1; i++) { /* without its end, the last line counts as torn */
        memcpy(edited, s->text, (size_t)s->size_bytes);
        edited[i] = (char)(edited[i] ^ 1);
        must_fail(open_with(s, edited, s->size_bytes), ": line ");
    }
    FB_FREE(edited);
}

/* A line that was being written is cut off, whatever of it is on disk; the file goes on after the line before. */
static void test_torn_line(void **state)
{
    const scratch *s = *state;
    const char *last = s->text + s->size_bytes - 1;
    while (last[-1] != '\n')
        last--;
    const fb_ledger_entry entry = make_entry(ENTRIES - 1);
    for (int64_t size = last - s->text; size < s->size_bytes; size += 17) {
        fb_ledger *ledger = NULL;
        char *text = NULL;
        int64_t size_bytes = 0;
        must(open_with(s, s->text, size));
        must(fb_ledger_open(s->path, IDENTITY, 0, &ledger));
        assert_int_equal(fb_ledger_releases(ledger), ENTRIES - 1);
        must(fb_ledger_append(ledger, &entry));
        fb_ledger_close(&ledger);
        must(fb_file_read(s->path, 1 << 16, &text, &size_bytes));
        assert_int_equal(size_bytes, s->size_bytes);
        assert_memory_equal(text, s->text, (size_t)size_bytes);
        FB_FREE(text);
    }
    must_fail(open_with(s, "", 0), "line 1 is not the title");
    must_fail(open_with(s, s->text, 20), "line 1 is not the title");
}

static void test_removed_line(void **state)
{
    const scratch *s = *state;
    char *cut = NULL;
    must(FB_ALLOC(cut, s->size_bytes, "copy"));
    const char *line = s->text;
    for (int k = 0; k < ENTRIES; k++) { /* any but the last */
        const char *next = strchr(line, '\n') + 1;
        const size_t before = (size_t)(line - s->text), after = (size_t)(s->text + s->size_bytes - next);
        char wanted[64];
        memcpy(cut, s->text, before);
        memcpy(cut + before, next, after);
        snprintf(wanted, sizeof wanted, k == 0 ? "line %d is not the title" : "line %d breaks the chain", k + 1);
        must_fail(open_with(s, cut, (int64_t)(before + after)), wanted);
        line = next;
    }
    FB_FREE(cut);
}

static void test_not_usable(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    must_fail(fb_ledger_open("/nowhere/at/all/ledger", IDENTITY, 0, &ledger), "/nowhere/at/all/ledger");
    must_fail(fb_ledger_open(s->folder, IDENTITY, 0, &ledger), "Is a directory");
    must_fail(open_with(s, "attempt round\n", 14), "line 1 is not the title");
    assert_null(ledger);
}

/* /dev/full stands for a full disk: the append fails, says so, and nothing is counted as spent. */
static void test_full_disk(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    const fb_ledger_entry entry = make_entry(0);
    must(fb_ledger_open(s->path, IDENTITY, 0, &ledger));
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    for (int file = 3; file < 64;
         file++) { /* the ledger's descriptor is private: replace the one that is append-only */
        char link[64], target[256];
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        const ssize_t chars = readlink(link, target, sizeof target - 1);
        if (chars > 0 && strlen(s->path) == (size_t)chars && memcmp(target, s->path, (size_t)chars) == 0)
            assert_int_not_equal(dup2(fileno(full), file), -1);
    }
    must_fail(fb_ledger_append(ledger, &entry), "cannot be written");
    must_fail(fb_ledger_append(ledger, &entry), "cannot be written"); /* final */
    assert_int_equal(fb_ledger_releases(ledger), ENTRIES);
    fclose(full);
    fb_ledger_close(&ledger);
}

/* A run has begun: its ledger must be there. And one process at a time has it. */
static void test_missing_or_in_use(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL, *other = NULL;
    char missing[256];
    snprintf(missing, sizeof missing, "%s.missing", s->path);
    must_fail(fb_ledger_open(missing, IDENTITY, 1, &ledger), "missing", "though the run has begun");
    assert_false(fb_file_exists(missing));
    must(fb_ledger_open(s->path, IDENTITY, 1, &ledger));
    must_fail(fb_ledger_open(s->path, IDENTITY, 1, &other), "another process has this privacy ledger open");
    fb_ledger_close(&ledger);
    must(fb_ledger_open(s->path, IDENTITY, 1, &other));
    assert_int_equal(fb_ledger_releases(other), ENTRIES);
    fb_ledger_close(&other);
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FILE(test_missing_or_in_use), WITH_FILE(test_reopen_adds_up), WITH_FILE(test_positions),
        WITH_FILE(test_identity),          WITH_FILE(test_form),           WITH_FILE(test_every_edit_is_refused),
        WITH_FILE(test_torn_line),         WITH_FILE(test_one_spelling),   WITH_FILE(test_removed_line),
        WITH_FILE(test_not_usable),        WITH_FILE(test_full_disk),      cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
