/* SPDX-License-Identifier: Apache-2.0
 *
 * The cuDNN convolutions over a cuDNN of ours (cudnn_stub.h), which computes on the host and complains about every
 * misuse: results against the reference, which engines are used, plans as text, and every call failing once.
 */
#include "conv_problem.h"
#include "cudnn_stub_cuda.h"

static void *const stream = (void *)0x1230;

static void stub_reset(void)
{
    stub = (stub_state){.version = 91900, .failing_engine = -1};
}

/* Nothing of cuDNN's is left and nothing was misused. */
static void assert_stub_is_clean(void)
{
    assert_string_equal(stub.complaint, "");
    assert_int_equal(stub.descriptors, 0);
    assert_int_equal(stub.memory, 0);
    assert_int_equal(stub.handles, 0);
    assert_int_equal(stub.events, 0);
}

static const fb_conv_shape typical = {{5, 4, 6}, 8, 16, 3, 2};

static const fb_conv_shape shapes[] = {
    {{5, 4, 6}, 8, 16, 3, 2}, {{4, 5, 3}, 8, 8, 3, 1}, {{3, 6, 5}, 16, 8, 1, 1},
    {{7, 2, 5}, 3, 5, 1, 2},  {{1, 1, 1}, 4, 3, 3, 1}, {{2, 1, 3}, 5, 4, 3, 2},
};

static fb_status run_problem(fb_cudnn_conv *conv, int64_t i, const problem *p)
{
    return fb_cudnn_conv_run(conv, i, p->image[0], p->image[1], p->image[2],
                             fb_cudnn_conv_choice(conv, i)->workspace_bytes > 0 ? p->space : NULL);
}

/* --- results --------------------------------------------------------------------------------------------------- */

static fb_cudnn *open_stub(void)
{
    fb_cudnn *cudnn = NULL;
    must(fb_cudnn_create(stream, &cudnn));
    return cudnn;
}

static void check_direction(fb_cudnn *cudnn, const problem *p, fb_cudnn_direction direction)
{
    const int written = written_by(direction);
    /* a rounding to bfloat16 of the largest element, or float32 sums */
    const double bound = is_bf16(p, written, direction) ? 1.0 / 256.0 : 1e-6;
    float *want = expected(p, direction);
    fb_cudnn_conv *conv = NULL;
    must(fb_cudnn_conv_create(cudnn, &p->shape, direction, p->precision, NULL, &conv));
    for (int64_t i = 0; i < fb_cudnn_conv_count(conv); i++) {
        fill_images(p, direction);
        must(run_problem(conv, i, p));
        assert_int_equal(stub.ran_engine, fb_cudnn_conv_choice(conv, i)->engine);
        float *got = read_image(p, written, direction);
        assert_close("direction", p->counts[written], got, want, bound);
        FB_FREE(got);
    }
    fb_cudnn_conv_destroy(&conv);
    assert_null(conv);
    FB_FREE(want);
}

static void test_results(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (fb_cudnn_precision precision = FB_CUDNN_BF16; precision <= FB_CUDNN_F32; precision++) {
            problem p = make_problem(&shapes[s], precision);
            for (fb_cudnn_direction dir = FB_CUDNN_FORWARD; dir <= FB_CUDNN_BACKWARD_WEIGHTS; dir++)
                check_direction(cudnn, &p, dir);
            free_problem(&p);
        }
    fb_cudnn_destroy(&cudnn);
    assert_null(cudnn);
    assert_stub_is_clean();
}

/* The comparison must see one weight of 3,456 that is off by a twentieth of the range. */
static void test_results_notice_one_wrong_weight(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    fb_cudnn_conv *conv = NULL;
    problem p = make_problem(&typical, FB_CUDNN_F32);
    float *want = expected(&p, FB_CUDNN_FORWARD);
    p.values[1][321] += 0.1F;
    fill_images(&p, FB_CUDNN_FORWARD);
    must(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_FORWARD, FB_CUDNN_F32, NULL, &conv));
    must(run_problem(conv, 0, &p));
    float *got = read_image(&p, 2, FB_CUDNN_FORWARD);
    assert_true(error_of(p.counts[2], got, want) > 1e-3);
    FB_FREE(got);
    FB_FREE(want);
    free_problem(&p);
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
    assert_stub_is_clean();
}

/* --- engines --------------------------------------------------------------------------------------------------- */

static void assert_plan(const fb_cudnn_conv *conv, int64_t i, const char *expected_text)
{
    char text[FB_CUDNN_CHOICE_CHARS];
    assert_true(i < fb_cudnn_conv_count(conv));
    fb_cudnn_choice_print(fb_cudnn_conv_choice(conv, i), sizeof text, text);
    assert_string_equal(text, expected_text);
}

static fb_cudnn_conv *typical_conv(fb_cudnn *cudnn, fb_cudnn_precision precision)
{
    fb_cudnn_conv *conv = NULL;
    must(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_BACKWARD_WEIGHTS, precision, NULL, &conv));
    return conv;
}

static void test_engines(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    fb_cudnn_conv *conv = typical_conv(cudnn, FB_CUDNN_BF16);
    assert_int_equal(fb_cudnn_conv_count(conv), 5);
    assert_plan(conv, 0, "cudnn 9.19.0 engine 3 knobs 2=16,12=-1 workspace 64");
    assert_plan(conv, 1, "cudnn 9.19.0 engine 3 knobs 2=4,12=63 workspace 64");
    assert_plan(conv, 2, "cudnn 9.19.0 engine 4 knobs 25=1 workspace 4096");
    assert_plan(conv, 3, "cudnn 9.19.0 engine 13 knobs - workspace 0");
    assert_plan(conv, 4, "cudnn 9.19.0 engine 0 knobs - workspace 0");
    const fb_cudnn_listing l = fb_cudnn_conv_listing(conv);
    assert_int_equal(l.listed, 11 + 2 * STUB_UNDELIVERED);
    assert_int_equal(l.nondeterministic, 1);
    assert_int_equal(l.imprecise, 2);
    assert_int_equal(l.repeated, 1);
    assert_int_equal(l.unsupported, 1 + 2 * STUB_UNDELIVERED);
    assert_int_equal(l.failed, 1);
    fb_cudnn_conv_destroy(&conv);
    conv = typical_conv(cudnn, FB_CUDNN_F32);
    assert_int_equal(fb_cudnn_conv_count(conv), 1);
    assert_plan(conv, 0, "cudnn 9.19.0 engine 0 knobs - workspace 0");
    fb_cudnn_conv_destroy(&conv);
    conv = typical_conv(cudnn, FB_CUDNN_BF16_GRADIENT_F32); /* no heuristics know it */
    assert_int_equal(fb_cudnn_conv_count(conv), 2);
    assert_plan(conv, 0, "cudnn 9.19.0 engine 20 knobs 17=1 workspace 32");
    assert_plan(conv, 1, "cudnn 9.19.0 engine 20 knobs 17=16 workspace 32");
    fb_cudnn_conv_destroy(&conv);
    stub.refuse_mode_a = CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN; /* the fallback then has to do */
    conv = typical_conv(cudnn, FB_CUDNN_TF32);
    assert_plan(conv, 0, "cudnn 9.19.0 engine 3 knobs 2=16,12=-1 workspace 64");
    assert_int_equal(fb_cudnn_conv_count(conv), 3);
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
    assert_stub_is_clean();
}

static fb_status tune(fb_cudnn_conv *conv, const problem *p, size_t workspace_bytes, fb_cudnn_tuning *tuning)
{
    return fb_cudnn_conv_tune(conv, p->image[0], p->image[1], p->image[2], p->space, workspace_bytes, 5, tuning);
}

static void check_tuning(fb_cudnn *cudnn, const problem *p, size_t workspace_bytes, int64_t winner, double best_ms)
{
    char text[FB_CUDNN_CHOICE_CHARS];
    fb_cudnn_tuning t;
    fb_cudnn_conv *conv = typical_conv(cudnn, p->precision);
    must(tune(conv, p, workspace_bytes, &t));
    assert_int_equal(fb_cudnn_conv_count(conv), 1);
    assert_int_equal(fb_cudnn_conv_choice(conv, 0)->engine, winner);
    assert_true(t.best_ms > best_ms - 0.01 && t.best_ms < best_ms + 0.01);
    assert_int_equal(t.timed + t.too_large + t.failed, 5);
    assert_int_equal(t.failed, fb_cudnn_conv_listing(conv).failed - 1);
    fb_cudnn_conv_describe(conv, sizeof text, text);
    must(run_problem(conv, 0, p));
    assert_int_equal(stub.ran_engine, winner);
    fb_cudnn_conv_destroy(&conv);
}

static void test_tuning(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    problem p = make_problem(&typical, FB_CUDNN_BF16);
    fill_images(&p, FB_CUDNN_BACKWARD_WEIGHTS);
    check_tuning(cudnn, &p, 4096, 4, 2.0);
    check_tuning(cudnn, &p, 4095, 3, 3.0);
    check_tuning(cudnn, &p, 0, 13, 4.0);
    stub.failing_engine = 4;
    check_tuning(cudnn, &p, 4096, 3, 3.0);
    free_problem(&p);
    fb_cudnn_destroy(&cudnn);
    assert_stub_is_clean();
}

static void test_tuning_refuses(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    problem p = make_problem(&typical, FB_CUDNN_F32);
    fb_cudnn_tuning t;
    fb_cudnn_conv *conv = typical_conv(cudnn, FB_CUDNN_F32);
    stub.failing_engine = 0;
    must_fail(tune(conv, &p, 4096, &t), "no plan could be timed", "1 did not run", "this engine does not run",
              "5 x 4 x 6", "cudnnBackendExecute");
    assert_int_equal(fb_cudnn_conv_count(conv), 1); /* as before */
    stub.failing_engine = -1;
    must(tune(conv, &p, 4096, NULL));
    fb_cudnn_conv_destroy(&conv);
    free_problem(&p);
    fb_cudnn_destroy(&cudnn);
    assert_stub_is_clean();
}

/* --- plans as text --------------------------------------------------------------------------------------------- */

static void test_text(void **state)
{
    (void)state;
    static const char *const good[] = {"cudnn 9.19.0 engine 34 knobs 2=1,5=0 workspace 1048576",
                                       "cudnn 9.15.1 engine 0 knobs - workspace 0",
                                       "cudnn 10.2.33 engine 7 knobs 12=-1 workspace 9223372036854775807"};
    static const char *const bad[] = {"",
                                      "cudnn",
                                      "cudnn 9.19 engine 34 knobs - workspace 0",
                                      "cudnn 9.19.0 engine 34 knobs workspace 0",
                                      "cudnn 9.19.0 engine -1 knobs - workspace 0",
                                      "cudnn 9.19.0 engine 34 knobs 2=1, workspace 0",
                                      "cudnn 9.19.0 engine 34 knobs 2=1;3=1 workspace 0",
                                      "cudnn 9.19.0 engine 34 knobs 2 workspace 0",
                                      "cudnn 9.19.0 engine 34 knobs - workspace 0 ",
                                      "cudnn 9.19.0 engine 99999999999999999999 knobs - workspace 0",
                                      "cudnn 9.19.100 engine 3 knobs - workspace 0"};
    char text[FB_CUDNN_CHOICE_CHARS], cut[8];
    fb_cudnn_choice choice, other;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        must(fb_cudnn_choice_parse(good[i], &choice));
        fb_cudnn_choice_print(&choice, sizeof text, text);
        assert_string_equal(text, good[i]);
        must(fb_cudnn_choice_parse(text, &other));
        assert_true(fb_cudnn_choice_equal(&choice, &other));
        other.workspace_bytes = 5;
        assert_true(fb_cudnn_choice_equal(&choice, &other));
        other.engine++;
        assert_false(fb_cudnn_choice_equal(&choice, &other));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        must_fail(fb_cudnn_choice_parse(bad[i], &choice), bad[i], "not a plan of cuDNN", "from character");
    fb_cudnn_choice_print(&choice, sizeof cut, cut);
    assert_string_equal(cut, "cudnn 1");
}

/* More knobs than there is room for are refused, as many as there is room for are not. */
static void test_text_of_many_knobs(void **state)
{
    (void)state;
    char text[FB_CUDNN_CHOICE_CHARS];
    fb_cudnn_choice choice;
    for (int knobs = FB_CUDNN_KNOBS_MAX; knobs <= FB_CUDNN_KNOBS_MAX + 1; knobs++) {
        size_t at = (size_t)snprintf(text, sizeof text, "cudnn 9.19.0 engine 1 knobs 0=0");
        for (int i = 1; i < knobs; i++)
            at += (size_t)snprintf(text + at, sizeof text - at, ",%d=%d", i, i);
        snprintf(text + at, sizeof text - at, " workspace 1");
        if (knobs == FB_CUDNN_KNOBS_MAX)
            must(fb_cudnn_choice_parse(text, &choice));
        else
            must_fail(fb_cudnn_choice_parse(text, &choice), "not understood");
    }
}

static fb_status create_from(fb_cudnn *cudnn, const char *text, fb_cudnn_precision precision, fb_cudnn_conv **out)
{
    fb_cudnn_choice choice;
    must(fb_cudnn_choice_parse(text, &choice));
    return fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_BACKWARD_DATA, precision, &choice, out);
}

static void test_choice(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    fb_cudnn_conv *conv = NULL;
    problem p = make_problem(&typical, FB_CUDNN_BF16);
    fill_images(&p, FB_CUDNN_BACKWARD_DATA);
    must(create_from(cudnn, "cudnn 9.19.0 engine 3 knobs 2=4,12=63 workspace 7", FB_CUDNN_BF16, &conv));
    assert_int_equal(fb_cudnn_conv_count(conv), 1);
    assert_plan(conv, 0, "cudnn 9.19.0 engine 3 knobs 2=4,12=63 workspace 64");
    must(run_problem(conv, 0, &p));
    fb_cudnn_conv_destroy(&conv);
    free_problem(&p);
    static const struct {
        const char *text, *reason;
        fb_cudnn_precision precision;
    } refused[] = {
        {"cudnn 9.20.0 engine 3 knobs 2=4,12=63 workspace 7", "of another version than cuDNN 91900", FB_CUDNN_BF16},
        {"cudnn 9.19.0 engine 99 knobs - workspace 0", "no such engine", FB_CUDNN_BF16},
        {"cudnn 9.19.0 engine 5 knobs - workspace 0", "1 not deterministic", FB_CUDNN_BF16},
        {"cudnn 9.19.0 engine 7 knobs - workspace 0", "1 not precise", FB_CUDNN_BF16},
        {"cudnn 9.19.0 engine 3 knobs - workspace 0", "1 not precise", FB_CUDNN_F32},
        {"cudnn 9.19.0 engine 9 knobs - workspace 0", "this engine cannot", FB_CUDNN_BF16},
        {"cudnn 9.19.0 engine 10 knobs - workspace 0", "1 failed", FB_CUDNN_BF16},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        must_fail(create_from(cudnn, refused[i].text, refused[i].precision, &conv), refused[i].text, refused[i].reason,
                  "backward data of 5 x 4 x 6, channels 8 to 16, kernel 3, stride 2", "tune anew");
        assert_null(conv);
    }
    stub.forgets_knobs = 1;
    must_fail(create_from(cudnn, "cudnn 9.19.0 engine 3 knobs 2=4,12=63 workspace 7", FB_CUDNN_BF16, &conv),
              "other knobs than those asked for");
    fb_cudnn_destroy(&cudnn);
    assert_stub_is_clean();
}

/* --- refusals -------------------------------------------------------------------------------------------------- */

static void test_handle_refuses(void **state)
{
    (void)state;
    fb_cudnn *cudnn = NULL;
    stub_reset();
    stub.version = 91400;
    must_fail(fb_cudnn_create(stream, &cudnn), "cuDNN 9.14.0 is too old", "install 9.15");
    assert_null(cudnn);
    must_fail(fb_cudnn_create_deviceless("{}", &cudnn), "cuDNN 9.14.0 is too old");
    stub.version = 91500;
    stub.no_device = 1;
    must_fail(fb_cudnn_create(stream, &cudnn), "cuDNN does not start", "nvidia-smi", "cudnnCreate");
    assert_null(cudnn);
    assert_stub_is_clean();
}

static void assert_shape_refused(fb_cudnn *cudnn, const fb_conv_shape *s, const char *reason)
{
    fb_cudnn_conv *conv = NULL;
    must_fail(fb_cudnn_conv_create(cudnn, s, FB_CUDNN_FORWARD, FB_CUDNN_BF16, NULL, &conv), reason, "forward of");
    assert_null(conv);
}

static void test_convolution_refuses(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    fb_cudnn_conv *conv = NULL;
    assert_shape_refused(cudnn, &(fb_conv_shape){{4, 4, 4}, 8, 8, 5, 1}, "kernel 5");
    assert_shape_refused(cudnn, &(fb_conv_shape){{4, 4, 4}, 8, 8, 3, 3}, "stride 3");
    assert_shape_refused(cudnn, &(fb_conv_shape){{4, 0, 4}, 8, 8, 3, 1}, "at least 1");
    assert_shape_refused(cudnn, &(fb_conv_shape){{4, 4, 4}, -8, 8, 3, 1}, "at least 1");
    assert_shape_refused(cudnn, &(fb_conv_shape){{1024, 1024, 1024}, 1, 2, 3, 1}, "2^31 elements");
    assert_shape_refused(cudnn, &(fb_conv_shape){{INT64_MAX, 2, 2}, 1, 2, 3, 2}, "2^31 elements");
    stub.no_engines = 1;
    must_fail(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_FORWARD, FB_CUDNN_TF32, NULL, &conv),
              "none of 0 configurations", "train on the CPU backend");
    must_fail(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_FORWARD, FB_CUDNN_F32, NULL, &conv), "allow tf32");
    stub.no_engines = 2;
    must_fail(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_BACKWARD_WEIGHTS, FB_CUDNN_BF16_GRADIENT_F32, NULL, &conv),
              "none of 0 configurations", "take the weight gradient in bf16");
    fb_cudnn_destroy(&cudnn);
    assert_stub_is_clean();
}

static void test_run_refuses(void **state)
{
    (void)state;
    stub_reset();
    fb_cudnn *cudnn = open_stub();
    fb_cudnn_conv *conv = typical_conv(cudnn, FB_CUDNN_BF16);
    problem p = make_problem(&typical, FB_CUDNN_BF16);
    char *x = p.image[0];
    must_fail(fb_cudnn_conv_run(conv, 0, x + 2, p.image[1], p.image[2], p.space), "x is at", "16 bytes");
    must_fail(fb_cudnn_conv_run(conv, 0, x, NULL, p.image[2], p.space), "w is at");
    must_fail(fb_cudnn_conv_run(conv, 0, x, p.image[1], p.image[2], NULL), "the plan needs 64 bytes");
    must_fail(fb_cudnn_conv_run(conv, 0, x, p.image[1], p.image[2], p.space + 8), "the plan needs 64 bytes");
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
    must(fb_cudnn_create_deviceless("{\"deviceVer\":900}", &cudnn));
    conv = typical_conv(cudnn, FB_CUDNN_BF16);
    assert_int_equal(fb_cudnn_conv_count(conv), 5);
    must_fail(run_problem(conv, 0, &p), "without a device");
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
    free_problem(&p);
    assert_stub_is_clean();
}

/* --- every call fails once ------------------------------------------------------------------------------------- */

/* Everything once: listed, tuned, run, built anew from its own text. */
static fb_status whole_life(const problem *p, fb_cudnn_direction direction, int64_t *failed)
{
    fb_cudnn *cudnn = NULL;
    fb_cudnn_conv *conv = NULL, *again = NULL;
    char text[FB_CUDNN_CHOICE_CHARS];
    fb_cudnn_choice choice;
    fb_status status = fb_cudnn_create(stream, &cudnn);
    if (status == FB_OK)
        status = fb_cudnn_conv_create(cudnn, &p->shape, direction, p->precision, NULL, &conv);
    if (status == FB_OK)
        status = tune(conv, p, WORKSPACE_BYTES, NULL);
    if (status == FB_OK)
        status = run_problem(conv, 0, p);
    if (status == FB_OK) {
        fb_cudnn_conv_describe(conv, sizeof text, text);
        must(fb_cudnn_choice_parse(text, &choice));
        status = fb_cudnn_conv_create(cudnn, &p->shape, direction, p->precision, &choice, &again);
    }
    if (status == FB_OK)
        status = run_problem(again, 0, p);
    *failed = conv ? fb_cudnn_conv_listing(conv).failed : 0;
    fb_cudnn_conv_destroy(&again);
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
    return status;
}

/* Lets every call fail once. Where a candidate of several is built or runs first it is dropped and counted; all else is
 * an error that names the call. `survivals`: how often it went on; `dropped`: candidates that failed in those. */
static void check_failures(fb_cudnn_direction direction, fb_cudnn_precision precision, int64_t survivals,
                           int64_t dropped)
{
    problem p = make_problem(&typical, precision);
    int64_t survived = 0, total_failed = 0, n = 1;
    fill_images(&p, direction);
    for (;; n++) {
        int64_t failed = 0;
        stub_reset();
        stub.fail_at = n;
        fb_status status = whole_life(&p, direction, &failed);
        assert_stub_is_clean();
        if (!stub.failed_call)
            break;
        if (status == FB_OK) {
            survived++;
            total_failed += failed;
        } else {
            must_fail(status, stub.failed_call, "injected failure");
        }
    }
    assert_true(n > 1000);
    assert_int_equal(survived, survivals);
    assert_int_equal(total_failed, dropped);
    free_problem(&p);
}

static void test_failures(void **state)
{
    (void)state;
    /* 7 plans; 5 first runs of 6 calls each. One of the stub's engines fails always, and once it is the one. */
    check_failures(FB_CUDNN_FORWARD, FB_CUDNN_BF16, 7 + 5 * 6, 2 * (7 + 5 * 6) - 1);
}

static void test_failures_of_unlisted_engines(void **state)
{
    (void)state;
    /* 21 engine numbers but the one that serves, 9 configurations of others and 2 of it, 2 plans, 2 first runs */
    const int64_t survivals = 21 + 9 + 2 + 2 + 2 * 6;
    check_failures(FB_CUDNN_BACKWARD_WEIGHTS, FB_CUDNN_BF16_GRADIENT_F32, survivals, survivals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_results_notice_one_wrong_weight),
        cmocka_unit_test(test_engines),
        cmocka_unit_test(test_tuning),
        cmocka_unit_test(test_tuning_refuses),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_of_many_knobs),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_handle_refuses),
        cmocka_unit_test(test_convolution_refuses),
        cmocka_unit_test(test_run_refuses),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_failures_of_unlisted_engines),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
