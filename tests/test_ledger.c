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

typedef struct scratch {
    char folder[64], path[128];
    char *text; /* the intact file */
    int64_t size_bytes;
} scratch;

static fb_ledger_entry make_entry(uint32_t round)
{
    fb_ledger_entry entry = {1, round, 7, 36, 117685, 0.1 * (round + 1), 1e-9 / (round + 1), ""};
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
    must(fb_ledger_open(s.path, &ledger));
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
    const fb_status status = fb_ledger_open(s->path, &ledger);
    fb_ledger_close(&ledger);
    return status;
}

static void test_reopen_adds_up(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    double epsilon = 0.0, delta = 0.0;
    for (uint32_t round = 0; round < ENTRIES; round++) {
        epsilon += make_entry(round).epsilon_round;
        delta += make_entry(round).delta_round;
    }
    must(fb_ledger_open(s->path, &ledger));
    assert_true(fb_ledger_epsilon(ledger) == epsilon && fb_ledger_delta(ledger) == delta);
    const fb_ledger_entry more = make_entry(ENTRIES);
    must(fb_ledger_append(ledger, &more)); /* the chain goes on after reopening */
    assert_true(fb_ledger_epsilon(ledger) == epsilon + more.epsilon_round);
    fb_ledger_close(&ledger);
    must(fb_ledger_open(s->path, &ledger));
    assert_true(fb_ledger_epsilon(ledger) == epsilon + more.epsilon_round);
    fb_ledger_close(&ledger);
    assert_null(ledger);
}

/* The documented form, recomputed here: fields and chain = SHA-256(previous chain, line so far). */
static void test_form(void **state)
{
    const scratch *s = *state;
    const fb_ledger_entry entry = make_entry(0);
    const char label[] = "fedbrats privacy ledger 1";
    char chain[FB_SHA256_CHARS], line[512], input[640], wanted[640];
    fb_sha256(label, sizeof label - 1, chain);
    snprintf(line, sizeof line, "1 0 7 36 117685 %.17g %.17g %s ", entry.epsilon_round, entry.delta_round,
             entry.message_sha256);
    snprintf(input, sizeof input, "%s%s", chain, line);
    fb_sha256(input, (int64_t)strlen(input), chain);
    snprintf(wanted, sizeof wanted, "%s%s\n", line, chain);
    assert_memory_equal(s->text, wanted, strlen(wanted));
}

/* Another spelling of the same numbers is refused even under a right chain. */
static void test_one_spelling(void **state)
{
    const scratch *s = *state;
    const fb_ledger_entry entry = make_entry(0);
    const char label[] = "fedbrats privacy ledger 1";
    const char *const epsilons[] = {"0.5", "0.50", "+.5"};
    for (int i = 0; i < 3; i++) {
        char chain[FB_SHA256_CHARS], line[512], input[640], text[640];
        fb_sha256(label, sizeof label - 1, chain);
        snprintf(line, sizeof line, "1 0 7 36 117685 %s 0.25 %s ", epsilons[i], entry.message_sha256);
        snprintf(input, sizeof input, "%s%s", chain, line);
        fb_sha256(input, (int64_t)strlen(input), chain);
        snprintf(text, sizeof text, "%s%s\n", line, chain);
        const fb_status status = open_with(s, text, (int64_t)strlen(text));
        if (i == 0)
            must(status);
        else
            must_fail(status, "line 1 is not an entry");
    }
}

static void test_no_guarantee_is_infinite(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    fb_ledger_entry entry = make_entry(ENTRIES);
    entry.epsilon_round = strtod("inf", NULL);
    must(fb_ledger_open(s->path, &ledger));
    must(fb_ledger_append(ledger, &entry));
    fb_ledger_close(&ledger);
    must(fb_ledger_open(s->path, &ledger));
    assert_true(fb_ledger_epsilon(ledger) == entry.epsilon_round);
    fb_ledger_close(&ledger);
}

static void test_every_edit_is_refused(void **state)
{
    const scratch *s = *state;
    char *edited = NULL;
    must(FB_ALLOC(edited, s->size_bytes, "copy"));
    for (int64_t i = 0; i < s->size_bytes; i++) {
        memcpy(edited, s->text, (size_t)s->size_bytes);
        edited[i] = (char)(edited[i] ^ 1);
        must_fail(open_with(s, edited, s->size_bytes), ": line ");
    }
    FB_FREE(edited);
}

static void test_truncation(void **state)
{
    const scratch *s = *state;
    const char *last = s->text + s->size_bytes - 1;
    while (last[-1] != '\n')
        last--;
    for (int64_t size = last - s->text + 1; size < s->size_bytes; size++)
        must_fail(open_with(s, s->text, size), "line 4 has no end");
}

static void test_removed_line(void **state)
{
    const scratch *s = *state;
    char *cut = NULL;
    must(FB_ALLOC(cut, s->size_bytes, "copy"));
    const char *line = s->text;
    for (int k = 0; k < ENTRIES - 1; k++) { /* any but the last */
        const char *next = strchr(line, '\n') + 1;
        const size_t before = (size_t)(line - s->text), after = (size_t)(s->text + s->size_bytes - next);
        char wanted[64];
        memcpy(cut, s->text, before);
        memcpy(cut + before, next, after);
        snprintf(wanted, sizeof wanted, "line %d breaks the chain", k + 1);
        must_fail(open_with(s, cut, (int64_t)(before + after)), wanted);
        line = next;
    }
    FB_FREE(cut);
}

static void test_not_usable(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    must_fail(fb_ledger_open("/nowhere/at/all/ledger", &ledger), "/nowhere/at/all/ledger");
    must_fail(fb_ledger_open(s->folder, &ledger), "not a regular file");
    must_fail(open_with(s, "attempt round\n", 14), "line 1 is not an entry");
    assert_null(ledger);
}

/* /dev/full stands for a full disk: the append fails, says so, and nothing is counted as spent. */
static void test_full_disk(void **state)
{
    const scratch *s = *state;
    fb_ledger *ledger = NULL;
    const fb_ledger_entry entry = make_entry(0);
    must(fb_ledger_open(s->path, &ledger));
    const double before = fb_ledger_epsilon(ledger);
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
    assert_true(fb_ledger_epsilon(ledger) == before);
    fclose(full);
    fb_ledger_close(&ledger);
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FILE(test_reopen_adds_up),
        WITH_FILE(test_form),
        WITH_FILE(test_no_guarantee_is_infinite),
        WITH_FILE(test_every_edit_is_refused),
        WITH_FILE(test_truncation),
        WITH_FILE(test_one_spelling),
        WITH_FILE(test_removed_line),
        WITH_FILE(test_not_usable),
        WITH_FILE(test_full_disk),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
