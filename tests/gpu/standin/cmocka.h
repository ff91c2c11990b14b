/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands in for cmocka where it is not installed, for tests/gpu only: runs a list of tests, each to its first failed
 * assertion, and prints TAP. What tests/test_*_cuda.c use of cmocka's interface, no mocks. One program, one file.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*CMFixtureFunction)(void **state);
struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    CMFixtureFunction setup_func, teardown_func;
    void *initial_state;
};

enum { CM_FAILED_ = 1, CM_SKIPPED_ = 2 };

/* Where the test that runs now goes on when it ends early. */
static jmp_buf cm_end_;

/* Each line a comment of TAP. */
__attribute__((format(printf, 1, 2), unused)) static void cm_print_(const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("# ");
    for (const char *c = text; *c; c++) {
        putchar(*c);
        if (*c == '\n' && c[1])
            printf("# ");
    }
    fflush(stdout);
}
#define print_message cm_print_
#define print_error cm_print_

__attribute__((noreturn, unused)) static void _fail(const char *file, int line)
{
    cm_print_("%s:%d: failed\n", file, line);
    longjmp(cm_end_, CM_FAILED_);
}

static inline void cm_check_(int holds, const char *what, const char *file, int line)
{
    if (holds)
        return;
    cm_print_("%s\n", what);
    _fail(file, line);
}

static inline void cm_equal_(uintmax_t a, uintmax_t b, int equal, const char *what, const char *file, int line)
{
    if ((a == b) == equal)
        return;
    cm_print_("%s: %jd %s %jd\n", what, (intmax_t)a, equal ? "!=" : "==", (intmax_t)b);
    _fail(file, line);
}

static inline double cm_distance_(double a, double b)
{
    return a < b ? b - a : a - b;
}

#define fail() _fail(__FILE__, __LINE__)
#define fail_msg(...)                                                                                                  \
    do {                                                                                                               \
        cm_print_(__VA_ARGS__);                                                                                        \
        printf("\n");                                                                                                  \
        _fail(__FILE__, __LINE__);                                                                                     \
    } while (0)
#define skip() longjmp(cm_end_, CM_SKIPPED_)
#define assert_true(c) cm_check_(!!(c), #c, __FILE__, __LINE__)
#define assert_false(c) cm_check_(!(c), "not " #c, __FILE__, __LINE__)
#define assert_null(p) cm_check_((p) == NULL, #p " is not NULL", __FILE__, __LINE__)
#define assert_non_null(p) cm_check_((p) != NULL, #p " is NULL", __FILE__, __LINE__)
#define assert_int_equal(a, b) cm_equal_((uintmax_t)(a), (uintmax_t)(b), 1, #a ", " #b, __FILE__, __LINE__)
#define assert_int_not_equal(a, b) cm_equal_((uintmax_t)(a), (uintmax_t)(b), 0, #a ", " #b, __FILE__, __LINE__)
#define assert_ptr_equal(a, b) cm_check_((const void *)(a) == (const void *)(b), #a " == " #b, __FILE__, __LINE__)
#define assert_ptr_not_equal(a, b) cm_check_((const void *)(a) != (const void *)(b), #a " != " #b, __FILE__, __LINE__)
#define assert_string_equal(a, b) cm_check_(strcmp(a, b) == 0, #a " is " #b, __FILE__, __LINE__)
#define assert_string_not_equal(a, b) cm_check_(strcmp(a, b) != 0, #a " is not " #b, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n) cm_check_(memcmp(a, b, n) == 0, #a " is " #b, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n) cm_check_(memcmp(a, b, n) != 0, #a " is not " #b, __FILE__, __LINE__)
#define assert_float_equal(a, b, e) cm_check_(cm_distance_(a, b) <= (double)(e), #a " is near " #b, __FILE__, __LINE__)
#define assert_double_equal assert_float_equal
#define assert_in_range(a, lo, hi)                                                                                     \
    cm_check_((uintmax_t)(a) >= (uintmax_t)(lo) && (uintmax_t)(a) <= (uintmax_t)(hi), #a " in " #lo ".." #hi,          \
              __FILE__, __LINE__)

#define cmocka_unit_test(f)                                                                                            \
    {                                                                                                                  \
#f, f, NULL, NULL, NULL                                                                                        \
    }
#define cmocka_unit_test_prestate(f, state)                                                                            \
    {                                                                                                                  \
#f, f, NULL, NULL, state                                                                                       \
    }
#define cmocka_unit_test_setup_teardown(f, setup, teardown)                                                            \
    {                                                                                                                  \
#f, f, setup, teardown, NULL                                                                                   \
    }
#define cmocka_run_group_tests(tests, setup, teardown) cm_run_(tests, sizeof(tests) / sizeof(tests)[0], setup, teardown)
#define cmocka_run_group_tests_name(name, tests, setup, teardown) cmocka_run_group_tests(tests, setup, teardown)

/* 0, CM_FAILED_ or CM_SKIPPED_ */
static inline int cm_run_one_(const struct CMUnitTest *test, void **state)
{
    const int end = setjmp(cm_end_);
    if (end == 0) {
        if (test->setup_func && test->setup_func(state) != 0)
            return CM_FAILED_;
        test->test_func(state);
    }
    const int torn = test->teardown_func ? test->teardown_func(state) : 0;
    return end == 0 && torn != 0 ? CM_FAILED_ : end;
}

static inline int cm_run_(const struct CMUnitTest *tests, size_t count, CMFixtureFunction setup,
                          CMFixtureFunction teardown)
{
    int failed = 0;
    void *group = NULL;
    printf("1..%zu\n", count);
    if (setup && setup(&group) != 0)
        return 1; /* fewer results than planned */
    for (size_t i = 0; i < count; i++) {
        void *state = tests[i].initial_state ? tests[i].initial_state : group;
        const int end = cm_run_one_(&tests[i], &state);
        printf("%sok %zu - %s%s\n", end == CM_FAILED_ ? "not " : "", i + 1, tests[i].name,
               end == CM_SKIPPED_ ? " # SKIP" : "");
        fflush(stdout);
        failed += end == CM_FAILED_;
    }
    return failed + (teardown && teardown(&group) != 0);
}
