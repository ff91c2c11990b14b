/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolution plans of the cuDNN that is installed, for a GPU that need not be: cuDNN makes plans from a description of
 * the device. Every layer of SegResNet in every direction must have a deterministic engine on an H100, and a plan's
 * text must give the same plan back. Nothing is computed here.
 */
#include "nn/conv_cudnn.h"
#include "segresnet_layers.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>

/* An H100 SXM under a driver for CUDA 13.0, in the words of CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION. */
static const char *const h100 =
    "{\"deviceVer\":900,\"multiProcessorCount\":132,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
    "\"maxSharedMemoryPerBlockOptin\":232448,\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,"
    "\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"regsPerBlock\":65536,"
    "\"totalGlobalMem\":85028765696,\"smClockRateKHz\":1980000,\"l2CacheSize\":52428800,"
    "\"maxBlockSize\":[1024,1024,64],\"memClockRateKHz\":2619000,\"maxGridSize\":[2147483647,65535,65535],"
    "\"supportCoopLaunch\":1,\"pciDeviceId\":0,\"isTccDriver\":0,\"cudaDeviceId\":0,\"driverVer\":13000,"
    "\"deviceName\":\"NVIDIA H100\"}";

static const char *const directions[] = {"forward", "backward data", "backward weights"};

static fb_cudnn *device(void)
{
    fb_cudnn *cudnn = NULL;
    must(fb_cudnn_create_deviceless(h100, &cudnn));
    return cudnn;
}

/* The first candidate's text gives that candidate back; with FB_CUDNN_SHOW set, prints what there is. */
static void check_plans(fb_cudnn *cudnn, const char *name, const fb_conv_shape *shape, fb_cudnn_direction direction,
                        fb_cudnn_precision precision)
{
    fb_cudnn_conv *conv = NULL, *again = NULL;
    char text[FB_CUDNN_CHOICE_CHARS], same[FB_CUDNN_CHOICE_CHARS];
    fb_cudnn_choice choice;
    must(fb_cudnn_conv_create(cudnn, shape, direction, precision, NULL, &conv));
    assert_true(fb_cudnn_conv_count(conv) >= 1);
    fb_cudnn_conv_describe(conv, sizeof text, text);
    must(fb_cudnn_choice_parse(text, &choice));
    must(fb_cudnn_conv_create(cudnn, shape, direction, precision, &choice, &again));
    assert_int_equal(fb_cudnn_conv_count(again), 1);
    fb_cudnn_conv_describe(again, sizeof same, same);
    assert_string_equal(same, text);
    if (getenv("FB_CUDNN_SHOW")) {
        const fb_cudnn_listing l = fb_cudnn_conv_listing(conv);
        int64_t most_bytes = 0;
        for (int64_t i = 0; i < fb_cudnn_conv_count(conv); i++)
            if (fb_cudnn_conv_choice(conv, i)->workspace_bytes > most_bytes)
                most_bytes = fb_cudnn_conv_choice(conv, i)->workspace_bytes;
        printf("# %-8s %3lld^3 %3lld -> %3lld k%d s%d %-16s precision %d: %2lld of %2lld, %lld repeated, %lld not "
               "deterministic, %lld imprecise, %lld unsupported, %lld failed; up to %lld bytes; %s\n",
               name, (long long)shape->in[0], (long long)shape->c_in, (long long)shape->c_out, shape->kernel,
               shape->stride, directions[direction], precision, (long long)fb_cudnn_conv_count(conv),
               (long long)l.listed, (long long)l.repeated, (long long)l.nondeterministic, (long long)l.imprecise,
               (long long)l.unsupported, (long long)l.failed, (long long)most_bytes, text);
    }
    fb_cudnn_conv_destroy(&again);
    fb_cudnn_conv_destroy(&conv);
    assert_null(conv);
}

/* The first layer's 4 channels are padded to 8; its input needs no gradient. */
static void check_network(int64_t filters, fb_cudnn_precision precision)
{
    fb_cudnn *cudnn = device();
    conv_layer layers[CONV_LAYERS];
    list_conv_layers((const int64_t[3]){128, 128, 128}, filters, layers);
    for (int i = 0; i < CONV_LAYERS; i++)
        for (fb_cudnn_direction dir = FB_CUDNN_FORWARD; dir <= FB_CUDNN_BACKWARD_WEIGHTS; dir++) {
            fb_conv_shape shape = layers[i].shape;
            if (shape.c_in == 4 && dir == FB_CUDNN_BACKWARD_DATA)
                continue;
            shape.c_in = shape.c_in == 4 ? 8 : shape.c_in;
            check_plans(cudnn, layers[i].name, &shape, dir, precision);
        }
    fb_cudnn_destroy(&cudnn);
    assert_null(cudnn);
}

static void test_layers_bf16(void **state)
{
    (void)state;
    for (int64_t filters = 8; filters <= 32; filters *= 2)
        check_network(filters, FB_CUDNN_BF16);
}

static void test_layers_tf32(void **state)
{
    (void)state;
    check_network(8, FB_CUDNN_TF32);
    check_network(16, FB_CUDNN_TF32);
}

static void test_layers_f32(void **state)
{
    (void)state;
    check_network(8, FB_CUDNN_F32);
    check_network(16, FB_CUDNN_F32);
}

static const fb_conv_shape typical = {{32, 32, 32}, 16, 16, 3, 1};

/* Engine 69 of 9.19 does it, but is compiled at run time, for which cuDNN wants the driver's library even here. */
static void test_gradient_f32(void **state)
{
    (void)state;
    fb_cudnn *cudnn = device();
    fb_cudnn_conv *conv = NULL;
    fb_status status =
        fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_BACKWARD_WEIGHTS, FB_CUDNN_BF16_GRADIENT_F32, NULL, &conv);
    if (status == FB_OK)
        check_plans(cudnn, "gradient", &typical, FB_CUDNN_BACKWARD_WEIGHTS, FB_CUDNN_BF16_GRADIENT_F32);
    else
        must_fail(status, "none of", "0 failed", "bf16 with a float32 gradient", "take the weight gradient in bf16");
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
}

/* Of the configurations that are listed, no candidate is one that the engine's notes speak against; some are. */
static void test_some_are_dropped(void **state)
{
    (void)state;
    fb_cudnn *cudnn = device();
    fb_cudnn_conv *conv = NULL;
    must(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_BACKWARD_WEIGHTS, FB_CUDNN_BF16, NULL, &conv));
    const fb_cudnn_listing l = fb_cudnn_conv_listing(conv);
    assert_true(l.nondeterministic >= 1);
    assert_int_equal(l.failed, 0);
    assert_int_equal(l.listed,
                     fb_cudnn_conv_count(conv) + l.nondeterministic + l.imprecise + l.repeated + l.unsupported);
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
}

static void assert_choice_refused(fb_cudnn *cudnn, const fb_cudnn_choice *choice, const char *reason)
{
    fb_cudnn_conv *conv = NULL;
    must_fail(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_FORWARD, FB_CUDNN_BF16, choice, &conv), reason,
              "forward of 32 x 32 x 32, channels 16 to 16", "tune anew");
    assert_null(conv);
}

static void test_choices_refused(void **state)
{
    (void)state;
    fb_cudnn *cudnn = device();
    fb_cudnn_conv *conv = NULL;
    must(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_FORWARD, FB_CUDNN_BF16, NULL, &conv));
    fb_cudnn_choice choice = *fb_cudnn_conv_choice(conv, 0);
    fb_cudnn_conv_destroy(&conv);
    choice.version++;
    assert_choice_refused(cudnn, &choice, "another version");
    choice.version--;
    choice.engine = 100000;
    assert_choice_refused(cudnn, &choice, "CUDNN_STATUS_");
    choice.engine = 22;
    choice.knob_count = 1;
    choice.knobs[0] = (fb_cudnn_knob){2, 100000};
    assert_choice_refused(cudnn, &choice, "CUDNN_STATUS_");
    fb_cudnn_destroy(&cudnn);
}

static void test_device_refused(void **state)
{
    (void)state;
    fb_cudnn *cudnn = NULL;
    must_fail(fb_cudnn_create_deviceless("{\"deviceVer\":", &cudnn), "device properties", "CUDNN_STATUS_");
    assert_null(cudnn);
    must_fail(fb_cudnn_create_deviceless("{}", &cudnn), "device properties", "CUDNN_STATUS_");
    assert_null(cudnn);
}

static void test_plans_cannot_be_run(void **state)
{
    (void)state;
    fb_cudnn *cudnn = device();
    fb_cudnn_conv *conv = NULL;
    _Alignas(16) char data[16];
    must(fb_cudnn_conv_create(cudnn, &typical, FB_CUDNN_FORWARD, FB_CUDNN_BF16, NULL, &conv));
    must_fail(fb_cudnn_conv_run(conv, 0, data, data, data, data), "without a device");
    fb_cudnn_conv_destroy(&conv);
    fb_cudnn_destroy(&cudnn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers_bf16),          cmocka_unit_test(test_layers_tf32),
        cmocka_unit_test(test_layers_f32),           cmocka_unit_test(test_gradient_f32),
        cmocka_unit_test(test_some_are_dropped),     cmocka_unit_test(test_choices_refused),
        cmocka_unit_test(test_device_refused),       cmocka_unit_test(test_plans_cannot_be_run),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
