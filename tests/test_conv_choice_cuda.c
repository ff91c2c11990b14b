/* SPDX-License-Identifier: Apache-2.0
 *
 * By what the GPU backend computes its convolutions, on the emulated GPU and with a cuDNN of ours (cudnn_stub.h) whose
 * engines are slow, wrong, unsteady or fail as the test wants: what is chosen, that it is computed right, the choice as
 * text, and every call failing once. The emulated clock counts kernels, the stub's engines take the time that it says.
 */
#include "arrays.h"
#include "cudnn_stub_emulated.h"

#include "core/log.h"
#include "nn/conv_choice.h"
#include "nn/op_cuda.h"
#include "nn/segresnet.h"

#include <stdio.h>
#include <unistd.h>

/* --- what is chosen ------------------------------------------------------------------------------------------------
 */

static const fb_conv_shape typical = {{3, 4, 2}, 8, 16, 3, 2};

#define TITLE "convolutions of fedbrats, format 1, bf16\n"
#define TYPICAL "conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 2, "
#define ENGINE_3 "cudnn 9.19.0 engine 3 knobs 2=16,12=-1 workspace 64"
#define ENGINE_4 "cudnn 9.19.0 engine 4 knobs 25=1 workspace 4096"
#define ENGINE_13 "cudnn 9.19.0 engine 13 knobs - workspace 0"
#define ENGINE_20 "cudnn 9.19.0 engine 20 knobs 17=1 workspace 32"

/* The default but for memory, which the emulated device clears slowly. */
static const fb_conv_tuning usual = {.workspace_bytes = 4096, .repeats = 5};

static fb_ops *make_ops(fb_act_type act)
{
    fb_cuda_device device;
    fb_ops *ops = NULL;
    must(fb_cuda_use(0, &device));
    must(fb_ops_cuda_create(act, &ops));
    return ops;
}

static fb_status tune(const fb_ops *ops, const fb_conv_shape *shape, const fb_conv_tuning *how)
{
    fb_conv *conv = NULL;
    FB_TRY(fb_ops_cuda_tune_begin(ops, how));
    const fb_status status = ops->conv_create(ops, shape, &conv);
    fb_ops_cuda_tune_end(ops);
    ops->conv_destroy(&conv);
    return status;
}

static void assert_table(const fb_ops *ops, int with_times, const char *expected_text)
{
    char *text = NULL;
    must(fb_ops_cuda_choices_print(ops, with_times, &text));
    assert_string_equal(text, expected_text);
    FB_FREE(text);
}

/* Measures the typical convolution; `expected_text` is its table but for the title. */
static void check_choice(fb_act_type act, const fb_conv_tuning *how, const char *expected_text)
{
    char text[4096];
    fb_ops *ops = make_ops(act);
    must(tune(ops, &typical, how));
    snprintf(text, sizeof text, "%s%s", act == FB_ACT_BF16 ? TITLE : "convolutions of fedbrats, format 1, f32\n",
             expected_text);
    assert_table(ops, 0, text);
    fb_ops_cuda_destroy(&ops);
}

/* The weight gradient of our own kernels takes two, cuDNN's one behind the plan. */
static void test_takes_the_fastest(void **state)
{
    (void)state;
    begin(6);
    fb_ops *ops = make_ops(FB_ACT_BF16);
    must(tune(ops, &typical, &usual));
    assert_table(ops, 1,
                 TITLE TYPICAL "forward: bf16 " ENGINE_4 " # 2.0000 ms, own 6.0000 ms\n" TYPICAL
                               "backward data: bf16 " ENGINE_4 " # 2.0000 ms, own 6.0000 ms\n" TYPICAL
                               "backward weights: bf16-gradient-f32 " ENGINE_20 " # 11.0000 ms, own 12.0000 ms\n");
    int all = 0, cudnn = 0;
    fb_ops_cuda_choices_count(ops, &all, &cudnn);
    assert_int_equal(all, 3);
    assert_int_equal(cudnn, 3);
    const int64_t runs = stub.runs;
    must(tune(ops, &typical, &usual)); /* known by now */
    assert_int_equal(stub.runs, runs);
    fb_ops_cuda_destroy(&ops);
    end();
}

#define ALL_OWN TYPICAL "forward: own\n" TYPICAL "backward data: own\n" TYPICAL "backward weights: own\n"
#define CHOICE(forward, data, weights)                                                                                 \
    TYPICAL "forward: " forward "\n" TYPICAL "backward data: " data "\n" TYPICAL "backward weights: " weights "\n"

/* Of equally fast ones the first, and our own before all. */
static void test_ties(void **state)
{
    (void)state;
    fb_conv_tuning how = usual;
    begin(2);
    check_choice(FB_ACT_BF16, &how, ALL_OWN);
    how.prefer_cudnn = 1;
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_4, "bf16 " ENGINE_4, "bf16-gradient-f32 " ENGINE_20));
    begin(3); /* both of engine 3 take 3 ms, engine 4 now fails */
    how.workspace_bytes = 64;
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_3, "bf16 " ENGINE_3, "bf16-gradient-f32 " ENGINE_20));
    how.prefer_cudnn = 0;
    check_choice(FB_ACT_BF16, &how, ALL_OWN);
    end();
}

static void test_workspace_limit(void **state)
{
    (void)state;
    fb_conv_tuning how = usual;
    begin(6);
    assert_int_equal(fb_conv_tuning_default.workspace_bytes, 256 << 20);
    assert_int_equal(fb_conv_tuning_default.repeats, 5);
    assert_false(fb_conv_tuning_default.bf16_gradient);
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_4, "bf16 " ENGINE_4, "bf16-gradient-f32 " ENGINE_20));
    how.workspace_bytes = 4095;
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_3, "bf16 " ENGINE_3, "bf16-gradient-f32 " ENGINE_20));
    how.workspace_bytes = 31;
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_13, "bf16 " ENGINE_13, "own"));
    end();
}

static void test_rounded_gradient_only_if_asked(void **state)
{
    (void)state;
    fb_conv_tuning how = usual;
    begin(6);
    stub.failing_engine = 20; /* the only one that writes float32 */
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_4, "bf16 " ENGINE_4, "own"));
    how.bf16_gradient = 1;
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_4, "bf16 " ENGINE_4, "bf16 " ENGINE_4));
    stub.failing_engine = -1;
    check_choice(FB_ACT_BF16, &how, CHOICE("bf16 " ENGINE_4, "bf16 " ENGINE_4, "bf16-gradient-f32 " ENGINE_20));
    end();
}

static void test_float32(void **state)
{
    (void)state;
    begin(10);
    check_choice(FB_ACT_F32, &usual,
                 CHOICE("f32 cudnn 9.19.0 engine 0 knobs - workspace 0",
                        "f32 cudnn 9.19.0 engine 0 knobs - workspace 0",
                        "f32 cudnn 9.19.0 engine 0 knobs - workspace 0"));
    end();
}

static void test_first_layer_and_logits_are_own(void **state)
{
    (void)state;
    begin(100);
    fb_ops *ops = make_ops(FB_ACT_BF16);
    must(tune(ops, &(fb_conv_shape){{2, 2, 2}, 4, 8, 3, 1}, &usual));
    must(tune(ops, &(fb_conv_shape){{2, 2, 2}, 8, 3, 1, 1}, &usual));
    int all = 0, cudnn = 0;
    fb_ops_cuda_choices_count(ops, &all, &cudnn);
    assert_int_equal(all, 6);
    assert_int_equal(cudnn, 0);
    assert_int_equal(stub.runs, 0);
    fb_ops_cuda_destroy(&ops);
    end();
}

/* --- what is dropped -----------------------------------------------------------------------------------------------
 */

/* What was logged while the typical convolution was measured; static, valid until the next call. */
static const char *log_of_choice(const char *expected_text)
{
    static char text[1 << 16];
    char path[] = "/tmp/fb_conv_choice_XXXXXX";
    const int file = mkstemp(path);
    assert_true(file >= 0);
    must(fb_log_open(path));
    check_choice(FB_ACT_BF16, &usual, expected_text);
    must(fb_log_open(NULL));
    const ssize_t chars = read(file, text, sizeof text - 1);
    assert_true(chars >= 0);
    text[chars] = '\0';
    close(file);
    unlink(path);
    return text;
}

static int count_of(const char *text, const char *what)
{
    int count = 0;
    for (const char *at = strstr(text, what); at; at = strstr(at + 1, what))
        count++;
    return count;
}

#define WITHOUT_4 CHOICE("bf16 " ENGINE_3, "bf16 " ENGINE_3, "bf16-gradient-f32 " ENGINE_20)
#define IN_LOG "convolution 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 2, "

static void test_drops_wrong_results(void **state)
{
    (void)state;
    static const float factors[] = {1.02F, -1.0F, NAN, INFINITY, 1e-30F};
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        begin(6);
        stub.wrong_engine = 4;
        stub.wrong_factor = factors[i];
        const char *log = log_of_choice(WITHOUT_4);
        assert_int_equal(count_of(log, "is not used"), 2);
        assert_non_null(strstr(log, IN_LOG "forward: \"" ENGINE_4 "\" is not used: it computes another result than our "
                                           "own kernels in float32: off by "));
        assert_non_null(strstr(log, IN_LOG "backward data: \"" ENGINE_4 "\" is not used: it computes another"));
    }
    begin(6);
    stub.wrong_engine = 20; /* a float32 result may be off by less */
    stub.wrong_factor = 1.001F;
    assert_int_equal(count_of(log_of_choice(CHOICE("bf16 " ENGINE_4, "bf16 " ENGINE_4, "own")), "is not used"), 2);
    end();
}

static void test_drops_what_does_not_repeat(void **state)
{
    (void)state;
    begin(6);
    stub.unsteady_engine = 4;
    const char *log = log_of_choice(WITHOUT_4);
    assert_int_equal(count_of(log, "is not used: it does not repeat its bits"), 2);
    end();
}

static void test_drops_what_does_not_run(void **state)
{
    (void)state;
    begin(6);
    stub.failing_engine = 4;
    const char *log = log_of_choice(WITHOUT_4);
    assert_int_equal(count_of(log, "\"" ENGINE_4 "\" is not used: it does not run: "), 2);
    assert_non_null(strstr(log, "this engine does not run"));
    begin(6);
    stub.no_engines = 2;
    assert_string_equal(log_of_choice(ALL_OWN), "");
    end();
}

static void test_no_cudnn(void **state)
{
    (void)state;
    begin(6);
    stub.no_device = 1;
    fb_ops *ops = make_ops(FB_ACT_BF16);
    must_fail(fb_ops_cuda_start_cudnn(ops), "cuDNN does not start");
    must_fail(fb_ops_cuda_tune_begin(ops, &usual), "cuDNN does not start");
    must(fb_ops_cuda_choices_set(ops, TITLE ALL_OWN)); /* needs none */
    must_fail(fb_ops_cuda_choices_set(ops, TITLE TYPICAL "forward: bf16 " ENGINE_4 "\n"), "has plans of cuDNN",
              "does not start");
    assert_table(ops, 0, TITLE ALL_OWN); /* as before */
    stub.no_device = 0;
    stub.version = 0; /* what nn/conv_cudnn_load.c says without a library */
    snprintf(stub.last_error, sizeof stub.last_error, "libcudnn.so.9: no such file");
    must_fail(fb_ops_cuda_start_cudnn(ops), "cuDNN cannot be loaded: libcudnn.so.9: no such file");
    fb_ops_cuda_destroy(&ops);
    end();
}

/* --- text ----------------------------------------------------------------------------------------------------------
 */

static void test_text(void **state)
{
    (void)state;
    begin(6);
    fb_ops *ops = make_ops(FB_ACT_BF16), *other = make_ops(FB_ACT_BF16);
    char *text = NULL, *again = NULL;
    must(tune(ops, &typical, &usual));
    must(tune(ops, &(fb_conv_shape){{2, 2, 2}, 8, 8, 1, 1}, &usual));
    must(fb_ops_cuda_choices_print(ops, 1, &text));
    must(fb_ops_cuda_choices_set(other, text));
    must(fb_ops_cuda_choices_print(ops, 0, &again));
    assert_table(other, 0, again);
    assert_table(other, 1, again); /* the times are not kept */
    must(fb_ops_cuda_choices_set(ops, again));
    assert_table(ops, 1, again);
    must(fb_ops_cuda_choices_set(ops, TITLE));
    assert_table(ops, 1, TITLE);
    FB_FREE(text);
    FB_FREE(again);
    fb_ops_cuda_destroy(&other);
    fb_ops_cuda_destroy(&ops);
    end();
}

static void test_text_refuses(void **state)
{
    (void)state;
    static const char *const third[][2] = {
        {"", "not of the form"},
        {"# own", "not of the form"},
        {"conv", "not of the form"},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1", "not of the form"},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, sideways: own", "none of the directions"},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward:own", "neither \"own\""},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: own ", "neither \"own\""},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: half " ENGINE_4, "neither \"own\""},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: " ENGINE_4, "neither \"own\""},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: bf16 " ENGINE_4 " 5", "not a plan of cuDNN"},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: f32 " ENGINE_4, "f32 is not possible"},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, backward data: bf16-gradient-f32 " ENGINE_4,
         "bf16-gradient-f32 is not possible"},
        {"conv 3 x 4 x 2, 4 to 16 channels, kernel 3, stride 1, forward: bf16 " ENGINE_4, "own kernels only"},
        {"conv 3 x 4 x 2, 8 to 3 channels, kernel 1, stride 1, forward: bf16 " ENGINE_4, "own kernels only"},
        {"conv  3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: own", "not as this program writes it"},
        {"conv +3 x 4 x 2, 8 to 16 channels, kernel 3, stride 1, forward: own", "not as this program writes it"},
        {"conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 2, forward: own", "a second line"},
    };
    begin(1);
    fb_ops *ops = make_ops(FB_ACT_BF16);
    char text[2048];
    for (size_t i = 0; i < sizeof third / sizeof *third; i++) {
        snprintf(text, sizeof text, "%s%s%s\n%s\n", TITLE, TYPICAL "forward: own\n", third[i][0],
                 "conv 3 x 4 x 2, 8 to 16 channels, kernel 3, stride 2, backward data: own");
        must_fail(fb_ops_cuda_choices_set(ops, text), third[i][1], "line 3 of the table", third[i][0]);
    }
    must_fail(fb_ops_cuda_choices_set(ops, ""), "line 1", "expected \"convolutions of fedbrats, format 1, bf16\"");
    must_fail(fb_ops_cuda_choices_set(ops, "convolutions of fedbrats, format 1, f32\n"), "line 1", "format 1, bf16");
    must_fail(fb_ops_cuda_choices_set(ops, "convolutions of fedbrats, format 2, bf16\n"), "line 1", "format 1, bf16");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    must_fail(fb_ops_cuda_choices_set(ops, text), "line 1 of the table", "expected");
    assert_table(ops, 0, TITLE);
    must_fail(fb_ops_cuda_choices_set(ops, TITLE TYPICAL "forward: bf16 cudnn 9.20.1 engine 4 knobs - workspace 0\n"),
              "was made with cuDNN 9.20.1, but here is 9.19.0", "use that version");
    fb_ops_cuda_destroy(&ops);
    end();
}

/* Another rank, or a resumed run: exactly the plans of the text, or an error. */
static void test_builds_what_the_text_says(void **state)
{
    (void)state;
    static const char *const refused[][2] = {
        {"cudnn 9.19.0 engine 9 knobs - workspace 0", "this engine cannot"},
        {"cudnn 9.19.0 engine 99 knobs - workspace 0", "no such engine"},
        {"cudnn 9.19.0 engine 5 knobs - workspace 0", "1 not deterministic"},
        {"cudnn 9.19.0 engine 3 knobs 2=16,12=-1 workspace 63", "wants 64 bytes of workspace, 63 where"},
    };
    char text[1024];
    fb_conv *conv = NULL, *twin = NULL;
    begin(1);
    fb_ops *ops = make_ops(FB_ACT_BF16);
    must(fb_ops_cuda_choices_set(ops, TITLE TYPICAL "backward data: bf16 " ENGINE_13 "\n"));
    must(ops->conv_create(ops, &typical, &conv));
    assert_int_equal(stub.ran_engine, 13); /* once, so that its code is there */
    assert_int_equal(stub.runs, 1);
    must(ops->conv_create(ops, &typical, &twin));
    assert_int_equal(stub.runs, 1);
    ops->conv_destroy(&conv);
    ops->conv_destroy(&twin);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(text, sizeof text, "%s%sforward: bf16 %s\n", TITLE, TYPICAL, refused[i][0]);
        must(fb_ops_cuda_choices_set(ops, text));
        must_fail(ops->conv_create(ops, &typical, &conv), refused[i][1]);
        assert_null(conv);
    }
    stub.failing_engine = 3;
    must(fb_ops_cuda_choices_set(ops, TITLE TYPICAL "forward: bf16 " ENGINE_3 "\n"));
    must_fail(ops->conv_create(ops, &typical, &conv), "this engine does not run");
    fb_ops_cuda_destroy(&ops);
    end();
}

/* --- a network -----------------------------------------------------------------------------------------------------
 */

typedef struct step {
    float *gradient;
    int64_t count;
} step;

static void *device_copy(const fb_ops *ops, const void *from, int64_t bytes)
{
    void *memory = NULL;
    must(ops->alloc(ops, bytes, "test array", &memory));
    ops->upload(ops, memory, from, bytes);
    return memory;
}

/* Gradient of a small network with the convolutions that the table says, recorded and replayed. */
static step run_step(const fb_ops *ops, int records)
{
    static const fb_net_spec spec = {.filters = 8, .levels = 2, .blocks_down = {1, 1}, .blocks_up = {1}};
    static const int64_t patch[3] = {4, 6, 4};
    const int64_t voxels = volume(patch);
    fb_params *params = NULL;
    fb_segresnet *net = NULL;
    must(fb_params_create(&spec, &params));
    must(fb_segresnet_create(&spec, params, ops, patch, 1, &net));
    float *w = make(params->count), *x = make_random(voxels * FB_IMAGE_CHANNELS, 1, -1.0, 1.0);
    float *dlogits = make_random(voxels * FB_REGIONS, 2, -1.0, 1.0);
    fb_params_init(params, 7, w);
    uint16_t *half = NULL;
    must(FB_ALLOC(half, voxels * FB_IMAGE_CHANNELS, "test array"));
    for (int64_t i = 0; i < voxels * FB_IMAGE_CHANNELS; i++)
        half[i] = to_bf16(x[i]);
    float *own_w = device_copy(ops, w, params->count * 4), *own_d = device_copy(ops, dlogits, voxels * FB_REGIONS * 4);
    void *own_x = device_copy(ops, half, voxels * FB_IMAGE_CHANNELS * 2);
    float *logits = device_copy(ops, dlogits, voxels * FB_REGIONS * 4),
          *gradient = device_copy(ops, w, params->count * 4);
    void *recording = NULL;
    if (records)
        must(ops->record_begin(ops));
    must(fb_segresnet_forward(net, own_w, own_x, NULL, logits));
    must(fb_segresnet_backward(net, own_d, gradient));
    if (records) {
        must(ops->record_end(ops, &recording));
        ops->record_replay(ops, recording);
        ops->record_replay(ops, recording);
    }
    step s = {make(params->count), params->count};
    must(ops->download(ops, s.gradient, gradient, s.count * 4));
    ops->record_free(ops, &recording);
    void *memory[] = {own_w, own_d, own_x, logits, gradient};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ops->release(ops, &memory[i]);
    fb_segresnet_destroy(&net);
    fb_params_destroy(&params);
    FB_FREE(w);
    FB_FREE(x);
    FB_FREE(dlogits);
    FB_FREE(half);
    return s;
}

/* Root mean square of the difference, relative to that of what is wanted. */
static double rms_error(const step *got, const step *want)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < want->count; i++) {
        const double a = (double)got->gradient[i], b = (double)want->gradient[i];
        difference += (a - b) * (a - b);
        norm += b * b;
    }
    return sqrt(difference / norm);
}

static void test_network(void **state)
{
    (void)state;
    int all = 0, cudnn = 0;
    fb_conv_tuning how = usual;
    begin(4);
    fb_ops *ops = make_ops(FB_ACT_BF16);
    step own = run_step(ops, 0);
    assert_int_equal(stub.runs, 0);
    how.prefer_cudnn = 1;
    must(fb_ops_cuda_tune_begin(ops, &how));
    step measured = run_step(ops, 0);
    fb_ops_cuda_tune_end(ops);
    fb_ops_cuda_choices_count(ops, &all, &cudnn);
    assert_int_equal(all, 3 * 6);
    assert_int_equal(cudnn, 3 * 4);
    char *text = NULL;
    must(fb_ops_cuda_choices_print(ops, 0, &text));
    must(fb_ops_cuda_choices_set(ops, text));
    const int64_t runs = stub.runs;
    step built = run_step(ops, 1);
    /* 12 plans are warmed up; 5 + 5 + 1 + 1 layers of 3 directions are recorded once */
    assert_true(stub.runs > runs + 12);
    assert_same_bits(own.count, measured.gradient, built.gradient);
    const double error = rms_error(&built, &own);
    if (!(error > 0.0 && error < 0.02))
        fail_msg("the gradient by cuDNN's convolutions is %.3g off", error);
    FB_FREE(text);
    FB_FREE(own.gradient);
    FB_FREE(measured.gradient);
    FB_FREE(built.gradient);
    fb_ops_cuda_destroy(&ops);
    end();
}

/* --- every call fails once -----------------------------------------------------------------------------------------
 */

/* Measured, printed, set again, built, run. */
static fb_status whole_life(void)
{
    static const fb_conv_shape tiny = {{1, 2, 1}, 8, 8, 1, 1};
    static const fb_conv_tuning how = {.workspace_bytes = 4096, .repeats = 1, .prefer_cudnn = 1};
    fb_cuda_device device;
    fb_ops *ops = NULL;
    fb_conv *conv = NULL;
    char *text = NULL;
    FB_TRY(fb_cuda_use(0, &device));
    FB_TRY(fb_ops_cuda_create(FB_ACT_BF16, &ops));
    fb_status status = tune(ops, &tiny, &how);
    if (status == FB_OK)
        status = fb_ops_cuda_choices_print(ops, 1, &text);
    if (status == FB_OK)
        status = fb_ops_cuda_choices_set(ops, text);
    if (status == FB_OK)
        status = ops->conv_create(ops, &tiny, &conv);
    float zeros[64] = {0.0F};
    void *w = NULL;
    if (status == FB_OK)
        status = ops->alloc(ops, sizeof zeros * 4, "weights", &w);
    if (status == FB_OK)
        status = ops->conv_load(conv, w);
    if (status == FB_OK)
        status = ops->download(ops, zeros, w, sizeof zeros);
    ops->release(ops, &w);
    ops->conv_destroy(&conv);
    FB_FREE(text);
    fb_ops_cuda_destroy(&ops);
    return status;
}

static void test_failures_of_cudnn(void **state)
{
    (void)state;
    fb_log_set_level(FB_LOG_QUIET);
    int failures = 0;
    for (int64_t n = 1;; n += 1 + n / 16) {
        begin(6);
        stub.fail_at = n;
        fb_status status = whole_life();
        failures += status != FB_OK;
        fb_error_free(&status);
        end();
        if (!stub.failed_call)
            break;
    }
    assert_true(failures > 0); /* most cost a candidate, not the run */
}

static void test_failures_of_the_device(void **state)
{
    (void)state;
    int failures = 0, passed = 0;
    for (int64_t n = 0; !passed; n += 1 + n / 16) {
        begin(6);
        fb_emulator_fail_after(n);
        fb_status status = whole_life();
        fb_emulator_fail_after(-1);
        passed = status == FB_OK && n > 400;
        failures += status != FB_OK;
        fb_error_free(&status);
        (void)cudaGetLastError();
        end();
    }
    assert_true(failures > 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_the_fastest),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_workspace_limit),
        cmocka_unit_test(test_rounded_gradient_only_if_asked),
        cmocka_unit_test(test_float32),
        cmocka_unit_test(test_first_layer_and_logits_are_own),
        cmocka_unit_test(test_drops_wrong_results),
        cmocka_unit_test(test_drops_what_does_not_repeat),
        cmocka_unit_test(test_drops_what_does_not_run),
        cmocka_unit_test(test_no_cudnn),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_refuses),
        cmocka_unit_test(test_builds_what_the_text_says),
        cmocka_unit_test(test_network),
        cmocka_unit_test(test_failures_of_cudnn),
        cmocka_unit_test(test_failures_of_the_device),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
