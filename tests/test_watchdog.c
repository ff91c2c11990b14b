/* SPDX-License-Identifier: Apache-2.0
 *
 * What the watchdog judges and says: signs of life and halves of them, every combination of states of three ranks
 * against a second opinion, the limits to the tenth of a second, the lines that name the culprit, the clock that stands
 * still.
 */
#include "fed/watch.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>

enum { RANKS = 3 };
static const double LIMIT_S = 600.0, SLACK_S = 1.0, NOW_S = 5000.0;

static fb_sign sample_sign(void)
{
    return (fb_sign){.rank = 3,
                     .host = "node07",
                     .pid = 4711,
                     .run = UINT64_C(0xfedcba9876543210),
                     .beat = 17,
                     .utc_s = 1795581772,
                     .at = {FB_PHASE_TRAIN, 4, 2, "TCIA 05, ward (B)", 123456789012, 1},
                     .idle_s = 12.5};
}

/* --- signs --- */

static void a_sign_is_read_as_it_was_written(void **state)
{
    char text[FB_SIGN_BYTES];
    fb_sign sign = sample_sign(), read;
    (void)state;
    fb_sign_print(&sign, text);
    assert_true(fb_sign_parse(text, &read));
    assert_int_equal(read.rank, 3);
    assert_string_equal(read.host, "node07");
    assert_int_equal(read.pid, 4711);
    assert_true(read.run == sign.run);
    assert_int_equal(read.beat, 17);
    assert_int_equal(read.at.phase, FB_PHASE_TRAIN);
    assert_int_equal(read.at.round, 4);
    assert_int_equal(read.at.hospital, 2);
    assert_string_equal(read.at.hospital_name, "TCIA 05, ward (B)");
    assert_int_equal(read.at.steps, 123456789012);
    assert_int_equal(read.at.waiting, 1);
    assert_true(fabs(read.idle_s - 12.5) < 0.051);
    assert_non_null(strstr(text, "round: 5\n")); /* people count from 1 */
    assert_non_null(strstr(text, "utc: 2026-11-25T"));
}

static void a_sign_of_the_start_is_read(void **state)
{
    char text[FB_SIGN_BYTES];
    fb_sign sign = {.host = "h", .beat = 1, .at = {.round = -1, .hospital = -1}}, read;
    (void)state;
    fb_sign_print(&sign, text);
    assert_true(fb_sign_parse(text, &read));
    assert_int_equal(read.at.round, -1);
    assert_int_equal(read.at.hospital, -1);
    assert_string_equal(read.at.hospital_name, "");
}

/* The longest of everything fits; a name with a line in it does not make one. */
static void names_cannot_break_a_sign(void **state)
{
    char text[FB_SIGN_BYTES];
    fb_sign sign = sample_sign(), read;
    (void)state;
    sign.pid = sign.beat = sign.at.steps = sign.at.round = INT64_MAX - 1;
    sign.idle_s = 1e6;
    memset(sign.host, 'h', sizeof sign.host - 1);
    memset(sign.at.hospital_name, 'n', FB_PROGRESS_NAME_CHARS - 1);
    memcpy(sign.at.hospital_name, "a\nrank: 9\n", 10);
    fb_sign_print(&sign, text);
    assert_true(fb_sign_parse(text, &read));
    assert_int_equal(read.rank, 3);
    assert_int_equal(read.at.steps, INT64_MAX - 1);
    assert_int_equal(strlen(read.at.hospital_name), FB_PROGRESS_NAME_CHARS - 1);
    assert_int_equal(strlen(read.host), FB_SIGN_HOST_CHARS - 1);
}

/* Any first part of a newer sign over an older one is refused, or reads as one of the two. */
static void half_a_sign_is_none(void **state)
{
    char old[FB_SIGN_BYTES], new[FB_SIGN_BYTES], mixed[FB_SIGN_BYTES];
    fb_sign sign = sample_sign(), read;
    int refused = 0;
    (void)state;
    fb_sign_print(&sign, old);
    sign.at.phase = FB_PHASE_EVALUATE;
    sign.at.steps += 900;
    sign.beat++;
    fb_sign_print(&sign, new);
    for (int cut = 0; cut <= FB_SIGN_BYTES; cut++) {
        memcpy(mixed, old, sizeof mixed);
        memcpy(mixed, new, (size_t)cut);
        if (!fb_sign_parse(mixed, &read)) {
            refused++;
            continue;
        }
        const int is_new = read.beat == sign.beat;
        assert_int_equal(read.at.phase, is_new ? FB_PHASE_EVALUATE : FB_PHASE_TRAIN);
        assert_int_equal(read.at.steps, sign.at.steps - (is_new ? 0 : 900));
    }
    assert_true(refused > 50);
}

static void a_damaged_sign_is_none(void **state)
{
    char text[FB_SIGN_BYTES], damaged[FB_SIGN_BYTES];
    const fb_sign sign = sample_sign();
    fb_sign read;
    (void)state;
    fb_sign_print(&sign, text);
    const size_t chars = (size_t)(strstr(text, "check: ") - text) + 15;
    for (size_t i = 0; i < chars; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(damaged, text, sizeof damaged);
            damaged[i] = (char)(damaged[i] ^ (1 << bit));
            if (i + 9 < chars || bit != 5) /* the checksum may be written in capitals */
                assert_false(fb_sign_parse(damaged, &read));
        }
    memset(damaged, 0, sizeof damaged);
    assert_false(fb_sign_parse(damaged, &read));
    memset(damaged, ' ', sizeof damaged);
    assert_false(fb_sign_parse(damaged, &read));
}

/* --- the verdict --- */

typedef enum shape {
    WORKS,
    WAITS,
    STOPPED,
    STOPPED_WAITING,
    SLOW,
    STUCK_WAITING,
    GONE,
    LEFT,
    UNFOLLOWED,
    SHAPES
} shape;

static fb_watched make(shape kind)
{
    fb_watched one = {.followed = 1, .heard_s = NOW_S - 0.5, .sign = {.beat = 5, .idle_s = 2.0}};
    one.sign.at.waiting = kind == WAITS || kind == STOPPED_WAITING || kind == STUCK_WAITING;
    if (kind == STOPPED || kind == STOPPED_WAITING)
        one.heard_s = NOW_S - LIMIT_S - 5.0;
    if (kind == SLOW || kind == STUCK_WAITING)
        one.sign.idle_s = LIMIT_S + 5.0;
    one.gone = kind == GONE || kind == LEFT;
    one.left = kind == LEFT;
    one.followed = kind != UNFOLLOWED;
    if (kind == LEFT || kind == UNFOLLOWED) { /* whatever else is known of them */
        one.heard_s = 0.0;
        one.sign.idle_s = NOW_S;
        one.sign.at.waiting = kind == UNFOLLOWED;
    }
    return one;
}

/* The same by counting, which is not how fb_watch_judge does it. */
static fb_trouble second_opinion(const int counts[SHAPES])
{
    if (counts[GONE] > 0)
        return FB_TROUBLE_GONE;
    if (counts[STOPPED] + counts[STOPPED_WAITING] > 0)
        return FB_TROUBLE_SILENT;
    if (counts[SLOW] > 0)
        return FB_TROUBLE_SLOW;
    return counts[STUCK_WAITING] > 0 && counts[STUCK_WAITING] + counts[LEFT] == RANKS ? FB_TROUBLE_HUNG
                                                                                      : FB_TROUBLE_NONE;
}

static int is_culprit(fb_trouble trouble, shape kind)
{
    switch (trouble) {
    case FB_TROUBLE_GONE:
        return kind == GONE;
    case FB_TROUBLE_SILENT:
        return kind == STOPPED || kind == STOPPED_WAITING;
    case FB_TROUBLE_SLOW:
        return kind == SLOW;
    default:
        return kind == STUCK_WAITING;
    }
}

static void every_combination_of_three_ranks(void **state)
{
    int seen[6] = {0};
    (void)state;
    for (int code = 0; code < SHAPES * SHAPES * SHAPES; code++) {
        const shape kinds[RANKS] = {(shape)(code % SHAPES), (shape)(code / SHAPES % SHAPES),
                                    (shape)(code / SHAPES / SHAPES)};
        fb_watched ranks[RANKS];
        int counts[SHAPES] = {0};
        for (int rank = 0; rank < RANKS; rank++) {
            ranks[rank] = make(kinds[rank]);
            counts[kinds[rank]]++;
        }
        const fb_finding found = fb_watch_judge(RANKS, ranks, NOW_S, LIMIT_S, SLACK_S);
        assert_int_equal(found.trouble, second_opinion(counts));
        seen[found.trouble]++;
        if (found.trouble != FB_TROUBLE_NONE)
            assert_true(is_culprit(found.trouble, kinds[found.rank]));
    }
    for (int trouble = FB_TROUBLE_NONE; trouble <= FB_TROUBLE_HUNG; trouble++)
        assert_true(seen[trouble] > 0);
}

static fb_trouble judge_one(const fb_watched *one)
{
    const fb_watched ranks[RANKS] = {make(WORKS), *one, make(WAITS)};
    return fb_watch_judge(RANKS, ranks, NOW_S, LIMIT_S, SLACK_S).trouble;
}

static void limits_are_kept(void **state)
{
    fb_watched one = make(WAITS);
    (void)state;
    one.heard_s = NOW_S - LIMIT_S - SLACK_S + 0.1;
    assert_int_equal(judge_one(&one), FB_TROUBLE_NONE);
    one.heard_s = NOW_S - LIMIT_S - SLACK_S;
    assert_int_equal(judge_one(&one), FB_TROUBLE_SILENT);
    one = make(WORKS);
    one.sign.idle_s = LIMIT_S + SLACK_S - 0.1;
    assert_int_equal(judge_one(&one), FB_TROUBLE_NONE);
    one.sign.idle_s = LIMIT_S + SLACK_S;
    assert_int_equal(judge_one(&one), FB_TROUBLE_SLOW);
    one.sign.at.waiting = 1; /* for as long as it likes, while another works */
    one.sign.idle_s = 1e6;
    assert_int_equal(judge_one(&one), FB_TROUBLE_NONE);
    one = make(GONE); /* at once */
    one.heard_s = NOW_S;
    assert_int_equal(judge_one(&one), FB_TROUBLE_GONE);
}

/* All wait, but one came only now: a collective that is about to go on. */
static void the_last_to_move_decides_what_hangs(void **state)
{
    fb_watched ranks[RANKS] = {make(STUCK_WAITING), make(STUCK_WAITING), make(STUCK_WAITING)};
    (void)state;
    ranks[1].sign.idle_s = LIMIT_S + SLACK_S - 0.1;
    assert_int_equal(fb_watch_judge(RANKS, ranks, NOW_S, LIMIT_S, SLACK_S).trouble, FB_TROUBLE_NONE);
    ranks[1].sign.idle_s = LIMIT_S + SLACK_S;
    const fb_finding found = fb_watch_judge(RANKS, ranks, NOW_S, LIMIT_S, SLACK_S);
    assert_int_equal(found.trouble, FB_TROUBLE_HUNG);
    assert_int_equal(found.rank, 1);
}

/* Of several that are in the same trouble, the first to be. */
static void the_first_culprit_is_named(void **state)
{
    fb_watched ranks[RANKS] = {make(WORKS), make(STOPPED), make(STOPPED)};
    (void)state;
    ranks[2].heard_s -= 3.0;
    assert_int_equal(fb_watch_judge(RANKS, ranks, NOW_S, LIMIT_S, SLACK_S).rank, 2);
    ranks[1].heard_s -= 4.0;
    assert_int_equal(fb_watch_judge(RANKS, ranks, NOW_S, LIMIT_S, SLACK_S).rank, 1);
}

/* One that is slow to start has its time from the meeting on, as heard_s says. */
static void a_late_rank_has_its_time(void **state)
{
    fb_watched one = {.followed = 1, .heard_s = NOW_S - 500.0};
    (void)state;
    assert_int_equal(judge_one(&one), FB_TROUBLE_NONE);
    one.heard_s = NOW_S - 601.0;
    assert_int_equal(judge_one(&one), FB_TROUBLE_SILENT);
}

static void own_check(void **state)
{
    fb_progress at = {.phase = FB_PHASE_TRAIN};
    (void)state;
    assert_int_equal(fb_watch_judge_own(2, &at, LIMIT_S - 0.1, 1, LIMIT_S, SLACK_S).trouble, FB_TROUBLE_NONE);
    const fb_finding slow = fb_watch_judge_own(2, &at, LIMIT_S, 1, LIMIT_S, SLACK_S);
    assert_int_equal(slow.trouble, FB_TROUBLE_SLOW);
    assert_int_equal(slow.rank, 2);
    assert_int_equal(fb_watch_judge_own(2, &at, LIMIT_S, 0, LIMIT_S, SLACK_S).trouble, FB_TROUBLE_SLOW);
    at.waiting = 1;
    assert_int_equal(fb_watch_judge_own(2, &at, 1e9, 1, LIMIT_S, SLACK_S).trouble, FB_TROUBLE_NONE);
    assert_int_equal(fb_watch_judge_own(2, &at, LIMIT_S + 0.5, 0, LIMIT_S, SLACK_S).trouble, FB_TROUBLE_NONE);
    assert_int_equal(fb_watch_judge_own(2, &at, LIMIT_S + 1.0, 0, LIMIT_S, SLACK_S).trouble, FB_TROUBLE_UNMET);
}

/* --- the lines --- */

static void the_story_names_the_culprit(void **state)
{
    static const char *const how[] = {[FB_TROUBLE_GONE] = "has ended in the middle",
                                      [FB_TROUBLE_SILENT] = "no sign of life for 605 s",
                                      [FB_TROUBLE_SLOW] = "no step for 605 s",
                                      [FB_TROUBLE_HUNG] = "every rank has waited for the others for 605 s",
                                      [FB_TROUBLE_UNMET] = "waited for other ranks for 605 s",
                                      [FB_TROUBLE_STUCK] = "no answer from the file system of run.output for 605 s"};
    char text[FB_SIGN_STORY_BYTES];
    fb_watched ranks[RANKS] = {make(WAITS), make(STOPPED), make(UNFOLLOWED)};
    (void)state;
    ranks[1].sign = sample_sign();
    for (int trouble = FB_TROUBLE_GONE; trouble <= FB_TROUBLE_STUCK; trouble++) {
        const fb_finding finding = {(fb_trouble)trouble, 1, 605.0};
        fb_watch_story(&finding, RANKS, ranks, NOW_S, LIMIT_S, text);
        const char *const wanted[] = {
            how[trouble],     "rank 3 on node07 (pid 4711)", "round 5, hospital 2 (TCIA 05, ward (B))",
            "phase training", "run.watchdog_s = 600",        "the same command goes on from the last checkpoint\n"};
        for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
            assert_true(strstr(text, wanted[i]) && strstr(text, wanted[i]) < strchr(text, '\n') + 1);
        assert_non_null(strstr(text, "\nwatchdog: rank 0 on "));
        assert_null(strstr(text, "\nwatchdog: rank 2 on ")); /* of which nothing is known */
    }
}

static void a_story_of_many_ranks_fits(void **state)
{
    enum { MANY = 2000 };
    static fb_watched ranks[MANY];
    char text[FB_SIGN_STORY_BYTES];
    (void)state;
    for (int rank = 0; rank < MANY; rank++) {
        ranks[rank] = make(WAITS);
        ranks[rank].sign = sample_sign();
    }
    const fb_finding finding = {FB_TROUBLE_SILENT, 1999, 605.0};
    fb_watch_story(&finding, MANY, ranks, NOW_S, LIMIT_S, text);
    assert_true(strlen(text) < sizeof text && strlen(text) > sizeof text - 200);
}

/* --- the clock --- */

static void the_clock_stands_still_with_its_process(void **state)
{
    fb_watch_clock clock = {0.0, 100.0};
    (void)state;
    assert_true(fabs(fb_watch_clock_read(&clock, 100.1, 2.0) - 0.1) < 1e-9);
    assert_true(fabs(fb_watch_clock_read(&clock, 101.1, 2.0) - 1.1) < 1e-9);
    assert_true(fabs(fb_watch_clock_read(&clock, 4701.1, 2.0) - 3.1) < 1e-9); /* suspended for an hour */
    assert_true(fabs(fb_watch_clock_read(&clock, 4701.2, 2.0) - 3.2) < 1e-9);
    assert_true(fabs(fb_watch_clock_read(&clock, 4700.0, 2.0) - 3.2) < 1e-9); /* never backwards */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sign_is_read_as_it_was_written),
        cmocka_unit_test(a_sign_of_the_start_is_read),
        cmocka_unit_test(names_cannot_break_a_sign),
        cmocka_unit_test(half_a_sign_is_none),
        cmocka_unit_test(a_damaged_sign_is_none),
        cmocka_unit_test(every_combination_of_three_ranks),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(the_last_to_move_decides_what_hangs),
        cmocka_unit_test(the_first_culprit_is_named),
        cmocka_unit_test(a_late_rank_has_its_time),
        cmocka_unit_test(own_check),
        cmocka_unit_test(the_story_names_the_culprit),
        cmocka_unit_test(a_story_of_many_ranks_fits),
        cmocka_unit_test(the_clock_stands_still_with_its_process),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("watchdog", tests, NULL, NULL);
}
