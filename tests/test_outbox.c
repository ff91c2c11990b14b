/* SPDX-License-Identifier: Apache-2.0
 *
 * The outbox after every way in which a run can have ended: what is sent again, what is made anew, what is charged.
 */
#include "fed/outbox.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct scratch {
    char folder[64], ledger[128];
    fb_outbox *outbox;
} scratch;

static const char IDENTITY[] = "mechanism=1";
static const fb_frame_info FRAME = {3, 7, 36, {1, 2, 3}};

static int setup(void **state)
{
    static scratch s;
    snprintf(s.folder, sizeof s.folder, "/tmp/test_outbox.XXXXXX");
    assert_non_null(mkdtemp(s.folder));
    snprintf(s.ledger, sizeof s.ledger, "%s/ledger/hospital_07.txt", s.folder);
    must(fb_outbox_open(s.folder, "hospital_07", IDENTITY, 0, &s.outbox));
    *state = &s;
    return 0;
}

static int teardown(void **state)
{
    scratch *s = *state;
    char command[128];
    fb_outbox_close(&s->outbox);
    snprintf(command, sizeof command, "rm -r %s", s->folder);
    return system(command);
}

static void message_path(const scratch *s, uint32_t attempt, char path[192])
{
    snprintf(path, 192, "%s/outbox/hospital_07/0000003_%u.msg", s->folder, attempt);
}

/* The run ends and another begins. */
static void restart(scratch *s)
{
    fb_outbox_close(&s->outbox);
    must(fb_outbox_open(s->folder, "hospital_07", IDENTITY, 0, &s->outbox));
}

/* A letter whose message is this one number. */
static void write_letter(const fb_frame_info *frame, float value, fb_letter *letter)
{
    fb_update update = {0};
    must(fb_update_reserve(&update, 4, 4, FB_VALUES_F32));
    for (int i = 0; i < 4; i++)
        update.f32[i] = value;
    must(fb_frame_encode(frame, &update, 0, &letter->bytes, &letter->size_bytes));
    fb_update_free(&update);
}

static void send(scratch *s, uint32_t attempt, float value)
{
    fb_letter letter = {.attempt = attempt};
    write_letter(&FRAME, value, &letter);
    must(fb_outbox_post(s->outbox, &FRAME, &letter));
    fb_letter_free(&letter);
}

static int64_t charged(const scratch *s)
{
    return fb_ledger_releases(fb_outbox_ledger(s->outbox));
}

/* What the next run finds: the message of `value`, or nothing to be sent; and under which number. */
static void expect(scratch *s, const fb_frame_info *frame, uint32_t first_attempt, int found, float value,
                   uint32_t attempt)
{
    fb_letter letter = {0}, wanted = {0};
    must(fb_outbox_find(s->outbox, frame, first_attempt, &letter));
    assert_int_equal(letter.attempt, attempt);
    assert_int_equal(letter.bytes != NULL, found);
    if (found) {
        write_letter(frame, value, &wanted);
        assert_int_equal(letter.size_bytes, wanted.size_bytes);
        assert_memory_equal(letter.bytes, wanted.bytes, (size_t)wanted.size_bytes);
    }
    fb_letter_free(&letter);
    fb_letter_free(&wanted);
}

static void sent_again_and_not_charged(void **state)
{
    scratch *s = *state;
    fb_letter letter = {0};
    expect(s, &FRAME, 0, 0, 0, 0);
    send(s, 0, 1.5f);
    assert_int_equal(charged(s), 1);
    restart(s);
    expect(s, &FRAME, 0, 1, 1.5f, 0);
    must(fb_outbox_find(s->outbox, &FRAME, 0, &letter));
    assert_true(letter.charged && letter.stored);
    must(fb_outbox_post(s->outbox, &FRAME, &letter));
    assert_int_equal(charged(s), 1);
    assert_int_equal(fb_ledger_last(fb_outbox_ledger(s->outbox), 3)->count, 4);
    fb_letter_free(&letter);
}

/* The ledger loses its line: whole, or a part of it. */
static void stored_but_not_charged(void **state)
{
    scratch *s = *state;
    for (int cut = 0; cut < 2; cut++) {
        fb_letter letter = {0};
        char *text = NULL;
        int64_t size_bytes = 0;
        if (cut == 0)
            send(s, 0, 2.5f);
        must(fb_file_read(s->ledger, 1 << 16, &text, &size_bytes));
        const int64_t title = strchr(text, '\n') - text + 1;
        assert_int_equal(truncate(s->ledger, cut ? title + 20 : title), 0);
        FB_FREE(text);
        restart(s);
        assert_int_equal(charged(s), 0);
        must(fb_outbox_find(s->outbox, &FRAME, 0, &letter));
        assert_true(letter.bytes && letter.stored && !letter.charged);
        must(fb_outbox_post(s->outbox, &FRAME, &letter));
        assert_int_equal(charged(s), 1);
        fb_letter_free(&letter);
        restart(s);
        expect(s, &FRAME, 0, 1, 2.5f, 0);
    }
}

static void missing_is_a_new_attempt(void **state)
{
    scratch *s = *state;
    char path[192];
    for (uint32_t attempt = 0; attempt < 3; attempt++) {
        expect(s, &FRAME, 0, 0, 0, attempt);
        send(s, attempt, (float)attempt);
        assert_int_equal(charged(s), attempt + 1);
        message_path(s, attempt, path);
        assert_int_equal(unlink(path), 0);
        restart(s);
    }
}

/* An attempt that was stored but never charged has its number too, even when the one before it is gone. */
static void uncharged_second_attempt_is_sent(void **state)
{
    scratch *s = *state;
    char path[192];
    fb_letter letter = {0};
    send(s, 0, 1.0f);
    message_path(s, 0, path);
    assert_int_equal(unlink(path), 0);
    write_letter(&FRAME, 8.0f, &letter);
    message_path(s, 1, path);
    must(fb_file_write_atomic(path, letter.bytes, letter.size_bytes));
    fb_letter_free(&letter);
    restart(s);
    expect(s, &FRAME, 0, 1, 8.0f, 1);
    assert_int_equal(charged(s), 1);
}

static void changed_is_a_new_attempt(void **state)
{
    scratch *s = *state;
    char path[192];
    fb_letter other = {0};
    send(s, 0, 1.0f);
    write_letter(&FRAME, 2.0f, &other); /* a whole message, but not the one that was charged */
    message_path(s, 0, path);
    must(fb_file_write_atomic(path, other.bytes, other.size_bytes));
    restart(s);
    expect(s, &FRAME, 0, 0, 0, 1);
    must(fb_file_write_atomic(path, other.bytes, other.size_bytes - 1));
    expect(s, &FRAME, 0, 0, 0, 1);
    fb_letter_free(&other);
}

/* Damaged before it was charged: not what the hospital meant to send. */
static void damaged_is_not_sent(void **state)
{
    scratch *s = *state;
    char path[192];
    message_path(s, 0, path);
    must(fb_file_write_atomic(path, "FBU1", 4));
    expect(s, &FRAME, 0, 0, 0, 1);
    assert_int_equal(charged(s), 0);
}

/* Writes `size` bytes as the stored message and expects a new attempt. */
static void assert_not_sent(scratch *s, const char *path, const uint8_t *bytes, int64_t size)
{
    fb_letter letter = {0};
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, (size_t)size, file), size);
    assert_int_equal(fclose(file), 0);
    must(fb_outbox_find(s->outbox, &FRAME, 0, &letter));
    assert_null(letter.bytes);
    assert_int_equal(letter.attempt, 1);
}

/* Every flipped bit and every length of a stored message, before and after it was charged. */
static void no_damaged_message_is_sent(void **state)
{
    scratch *s = *state;
    char path[192];
    message_path(s, 0, path);
    for (int is_charged = 0; is_charged < 2; is_charged++) {
        fb_letter letter = {0};
        write_letter(&FRAME, 1.0f, &letter);
        if (is_charged)
            send(s, 0, 1.0f);
        for (int64_t bit = 0; bit < 8 * letter.size_bytes; bit++) {
            letter.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_not_sent(s, path, letter.bytes, letter.size_bytes);
            letter.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        for (int64_t size = 0; size < letter.size_bytes; size++)
            assert_not_sent(s, path, letter.bytes, size);
        fb_letter_free(&letter);
        unlink(path);
    }
    assert_int_equal(charged(s), 1);
}

static void another_model_is_a_new_attempt(void **state)
{
    scratch *s = *state;
    fb_frame_info other = FRAME, later = FRAME, slower = FRAME, neighbour = FRAME;
    other.model_hash[15] ^= 1;
    later.round++;
    slower.steps++;
    neighbour.hospital++;
    send(s, 0, 1.0f);
    expect(s, &other, 0, 0, 0, 1);
    expect(s, &slower, 0, 0, 0, 1);
    expect(s, &neighbour, 0, 0, 0, 1);
    expect(s, &later, 0, 0, 0, 0);
    expect(s, &FRAME, 0, 1, 1.0f, 0);
}

/* Once others had to make a later attempt, the earlier message is not sent again. */
static void earlier_attempts_stay(void **state)
{
    scratch *s = *state;
    send(s, 0, 1.0f);
    expect(s, &FRAME, 2, 0, 0, 2);
    send(s, 2, 3.0f);
    restart(s);
    expect(s, &FRAME, 0, 1, 3.0f, 2);
    expect(s, &FRAME, 2, 1, 3.0f, 2);
    assert_int_equal(charged(s), 2);
}

/* Once something was charged, or the run has begun; a ledger of a run that never began is made anew. */
static void another_mechanism_is_refused(void **state)
{
    scratch *s = *state;
    fb_outbox *outbox = NULL;
    fb_outbox_close(&s->outbox);
    must_fail(fb_outbox_open(s->folder, "hospital_07", "mechanism=2", 1, &outbox), "mechanism=1", "mechanism=2");
    must(fb_outbox_open(s->folder, "hospital_07", "mechanism=2", 0, &outbox));
    fb_outbox_close(&outbox);
    must(fb_outbox_open(s->folder, "hospital_07", IDENTITY, 0, &s->outbox));
    send(s, 0, 1.0f);
    fb_outbox_close(&s->outbox);
    must_fail(fb_outbox_open(s->folder, "hospital_07", "mechanism=2", 0, &outbox), "mechanism=1", "mechanism=2");
    must_fail(fb_outbox_open("/proc/nowhere", "hospital_07", IDENTITY, 0, &outbox), "/proc/nowhere");
    assert_null(outbox);
}

/* A message that cannot be stored is not charged, one that cannot be charged is not to be sent. */
static void failures_come_before_sending(void **state)
{
    scratch *s = *state;
    fb_letter letter = {0};
    char command[192];
    write_letter(&FRAME, 1.0f, &letter);
    snprintf(command, sizeof command, "rmdir %s/outbox/hospital_07", s->folder);
    assert_int_equal(system(command), 0);
    must_fail(fb_outbox_post(s->outbox, &FRAME, &letter), "0000003_0.msg");
    assert_int_equal(charged(s), 0);
    assert_true(!letter.stored && !letter.charged);
    fb_letter_free(&letter);
}

/* Attempts of all have one number, so that the first of a hospital need not be 0. */
static void any_attempt_is_a_message(void **state)
{
    scratch *s = *state;
    int has = 1;
    must(fb_outbox_has(s->outbox, 3, &has));
    assert_false(has);
    send(s, 1, 1.5f);
    must(fb_outbox_has(s->outbox, 3, &has));
    assert_true(has);
    must(fb_outbox_has(s->outbox, 2, &has));
    assert_false(has);
}

static void given_up_is_a_new_attempt(void **state)
{
    scratch *s = *state;
    fb_letter letter = {0};
    send(s, 0, 1.5f);
    must(fb_outbox_find(s->outbox, &FRAME, 0, &letter));
    fb_outbox_give_up(&letter, "is of no use");
    assert_int_equal(letter.attempt, 1);
    assert_true(!letter.bytes && !letter.stored && !letter.charged);
    write_letter(&FRAME, 2.5f, &letter);
    must(fb_outbox_post(s->outbox, &FRAME, &letter));
    assert_int_equal(charged(s), 2);
    expect(s, &FRAME, 0, 1, 2.5f, 1);
    fb_letter_free(&letter);
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(sent_again_and_not_charged),     WITH_FOLDER(stored_but_not_charged),
        WITH_FOLDER(missing_is_a_new_attempt),       WITH_FOLDER(uncharged_second_attempt_is_sent),
        WITH_FOLDER(changed_is_a_new_attempt),       WITH_FOLDER(damaged_is_not_sent),
        WITH_FOLDER(another_model_is_a_new_attempt), WITH_FOLDER(earlier_attempts_stay),
        WITH_FOLDER(another_mechanism_is_refused),   WITH_FOLDER(failures_come_before_sending),
        WITH_FOLDER(no_damaged_message_is_sent),     WITH_FOLDER(any_attempt_is_a_message),
        WITH_FOLDER(given_up_is_a_new_attempt),      cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("outbox", tests, NULL, NULL);
}
