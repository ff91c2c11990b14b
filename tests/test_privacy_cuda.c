/* SPDX-License-Identifier: Apache-2.0
 *
 * Releases on the (emulated) GPU against those of the processor: the same bytes and the same report for every selection
 * with every mechanism, nothing secret left in the device's memory, and a clean error whichever call fails.
 */
#include "nn/op_cuda.h"
#include "privacy/device.h"
#include "privacy/kernels_privacy.h"
#include "privacy/select.h"
#include "testing.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { STEPS = 3, ATTEMPT = 1, ROUND = 2 };

static const double CLIP = 1e-4;
static const fb_rng public_rng = {.seed = 3, .purpose = FB_RNG_SELECT, .hospital = 2, .round = 7};

/* --- what is released --------------------------------------------------------------------------------------- */

typedef enum shape { ROUNDED, ALL_EQUAL, ZEROS, WILD, SHAPES } shape;

/* Rounded: with ties, some beyond the clip. Wild: of all magnitudes, with what is not finite. Owned by the caller. */
static float *make_dw(int64_t n, shape of)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST, .round = (uint32_t)of};
    float *dw = NULL;
    must(FB_ALLOC(dw, n, "dw"));
    for (uint32_t i = 0; i < n; i++) {
        const double x = fb_rng_normal(&rng, i);
        dw[i] = of == ZEROS       ? (i % 2 ? -0.0f : 0.0f)
                : of == ALL_EQUAL ? (float)(i % 3 ? 0.3 * CLIP * STEPS : -0.3 * CLIP * STEPS)
                : of == ROUNDED   ? (float)(0.5 * CLIP * STEPS * nearbyint(100.0 * x) / 100.0)
                                  : (float)(ldexp(x, (int)(i % 250) - 135) * CLIP);
        if (of == WILD && i % 97 == 5)
            dw[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    }
    return dw;
}

static fb_release_spec make_spec(fb_select select, fb_mechanism mechanism)
{
    return (fb_release_spec){.select = select,
                             .fraction = select == FB_SELECT_ALL ? 1.0 : 0.3,
                             .mechanism = mechanism,
                             .clip = mechanism == FB_MECHANISM_NONE ? 1.5 * CLIP : CLIP,
                             .threshold = 0.25 * CLIP,
                             .epsilon_threshold = 1.0,
                             .epsilon_query = select == FB_SELECT_EXPONENTIAL ? 1e3 : 0.0,
                             .epsilon_answer = 1.0,
                             .answer_budget = FB_ANSWER_PER_PARAMETER,
                             .clip_norm = 0.005,
                             .noise_multiplier = 1.0,
                             .clip_answers = 1,
                             .participants = 4};
}

typedef struct released {
    fb_update update;
    fb_release_report report;
} released;

static fb_noise *make_noise(void)
{
    uint8_t key[FB_KEY_BYTES];
    fb_noise *noise = NULL;
    must(fb_key_make(FB_KEY_SEED, 4, NULL, 0, key));
    must(fb_noise_create(key, &noise));
    return noise;
}

static fb_status try_release(const fb_release_spec *spec, const fb_budget *budget, const float *dw,
                             fb_privacy_device *device, released *out)
{
    uint32_t *mask = NULL;
    fb_noise *noise = make_noise();
    must(FB_ALLOC(mask, budget->count, "public mask"));
    must(fb_select_public(&public_rng, budget->n, NULL, budget->count, mask));
    const fb_release_input in = {.public_rng = &public_rng,
                                 .public_index = spec->select == FB_SELECT_PUBLIC ? mask : NULL,
                                 .noise = noise,
                                 .attempt = ATTEMPT,
                                 .round = ROUND,
                                 .steps = STEPS,
                                 .dw = dw,
                                 .device = device};
    memset(out, 0, sizeof *out);
    const fb_status status = fb_release(spec, budget, &in, &out->update, &out->report);
    fb_noise_destroy(&noise);
    FB_FREE(mask);
    return status;
}

static void assert_same(const char *what, const released *got, const released *want)
{
    const fb_update *a = &got->update, *b = &want->update;
    const fb_release_report *r = &got->report, *s = &want->report;
    if (r->tests != s->tests || r->passes != s->passes || r->clipped != s->clipped || r->non_finite != s->non_finite ||
        memcmp(&r->norm_scale, &s->norm_scale, sizeof r->norm_scale) != 0)
        fail_msg("%s: report %lld %lld %lld %lld %g, on the processor %lld %lld %lld %lld %g", what,
                 (long long)r->tests, (long long)r->passes, (long long)r->clipped, (long long)r->non_finite,
                 r->norm_scale, (long long)s->tests, (long long)s->passes, (long long)s->clipped,
                 (long long)s->non_finite, s->norm_scale);
    if (a->n != b->n || a->count != b->count || a->kind != b->kind || a->grid_log2 != b->grid_log2 ||
        a->least_bits != b->least_bits || !a->index != !b->index || !a->f32 != !b->f32 || !a->grid != !b->grid)
        fail_msg("%s: %lld values, on the processor %lld, or another kind", what, (long long)a->count,
                 (long long)b->count);
    if (a->index && memcmp(a->index, b->index, (size_t)a->count * sizeof *a->index) != 0)
        fail_msg("%s: other indices", what);
    if (a->f32 && memcmp(a->f32, b->f32, (size_t)a->count * sizeof *a->f32) != 0)
        fail_msg("%s: other values", what);
    if (a->grid && memcmp(a->grid, b->grid, (size_t)a->count * sizeof *a->grid) != 0)
        fail_msg("%s: other values", what);
}

/* --- the device ----------------------------------------------------------------------------------------------- */

/* A backend that knows its arrays, and looks for keys in what is about to be zeroed. */
enum { ARRAYS_MAX = 16, KEYS_MAX = 8 };
static struct {
    fb_ops ops;
    const fb_ops *real;
    void *memory[ARRAYS_MAX];
    int64_t bytes[ARRAYS_MAX];
    uint8_t key[KEYS_MAX][FB_KEY_BYTES];
    int keys, looked_at;
} spy;

static fb_ops *open_device(void)
{
    fb_cuda_device described;
    fb_ops *ops = NULL;
    must(fb_cuda_use(0, &described));
    must(fb_ops_cuda_create(FB_ACT_F32, &ops));
    return ops;
}

static fb_status spy_alloc(const fb_ops *ops, int64_t bytes, const char *subject, void **out)
{
    FB_TRY(spy.real->alloc(ops, bytes, subject, out));
    for (int i = 0; i < ARRAYS_MAX; i++)
        if (!spy.memory[i]) {
            spy.memory[i] = *out;
            spy.bytes[i] = bytes;
            return FB_OK;
        }
    fail_msg("more arrays than the test knows");
    return FB_OK;
}

static void spy_release(const fb_ops *ops, void **memory)
{
    for (int i = 0; *memory && i < ARRAYS_MAX; i++)
        if (spy.memory[i] == *memory)
            spy.memory[i] = NULL;
    spy.real->release(ops, memory);
}

static uint8_t *fetch(const void *memory, int64_t bytes)
{
    uint8_t *copy = NULL;
    must(FB_ALLOC(copy, bytes, "copy of the device's memory"));
    must(spy.real->download(spy.real, copy, memory, bytes));
    return copy;
}

static void spy_zero(const fb_ops *ops, void *memory, int64_t bytes)
{
    uint8_t *copy = fetch(memory, bytes);
    for (int64_t at = 0; at + FB_KEY_BYTES <= bytes; at += 4)
        for (int k = 0; k < spy.keys; k++)
            if (memcmp(copy + at, spy.key[k], 8) == 0)
                fail_msg("key %d lies in the device's memory", k);
    FB_FREE(copy);
    spy.looked_at++;
    spy.real->zero(ops, memory, bytes);
}

static void start_spying(const fb_ops *real)
{
    memset(&spy, 0, sizeof spy);
    spy.real = real;
    spy.ops = *real;
    spy.ops.alloc = spy_alloc;
    spy.ops.release = spy_release;
    spy.ops.zero = spy_zero;
    must(fb_key_make(FB_KEY_SEED, 4, NULL, 0, spy.key[spy.keys++]));
    for (uint16_t purpose = FB_NOISE_THRESHOLD; purpose <= FB_NOISE_GUMBEL; purpose++) {
        const fb_noise_address address = {.attempt = ATTEMPT, .round = ROUND, .purpose = purpose};
        fb_noise_address_key(spy.key[0], &address, spy.key[spy.keys++]);
    }
}

/* Releases on both; returns whether the device did it. */
static bool compare(const fb_ops *ops, const char *what, const fb_release_spec *spec, int64_t n, const float *dw)
{
    fb_budget budget;
    fb_privacy_device *device = NULL;
    released expected, got, again;
    double overlap = 0.0;
    must(fb_budget_plan(spec, n, &budget));
    must(fb_privacy_device_create(ops, spec, &budget, &device));
    must(try_release(spec, &budget, dw, NULL, &expected));
    const int64_t launches = fb_emulator_launches();
    must(try_release(spec, &budget, dw, device, &got));
    const bool done = fb_emulator_launches() > launches;
    assert_true(done == (device != NULL));
    assert_same(what, &got, &expected);
    must(fb_release_overlap(&expected.update, dw, &overlap));
    assert_true(isnan(got.report.overlap) ? !done || !got.update.index || got.update.count == 0
                                          : done && got.report.overlap == overlap);
    if (n <= 5000) { /* repeated, in the same memory */
        must(try_release(spec, &budget, dw, device, &again));
        assert_same(what, &again, &expected);
        fb_update_free(&again.update);
    }
    fb_update_free(&expected.update);
    fb_update_free(&got.update);
    fb_privacy_device_destroy(&device);
    return done;
}

/* --- the same bytes ---------------------------------------------------------------------------------------------- */

static void test_every_combination(void **state)
{
    static const int64_t sizes[] = {1, 255, 256, 257, 5000, 40000};
    fb_ops *ops = open_device();
    int combinations = 0, on_device = 0;
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int of = ROUNDED; of < SHAPES; of++) {
            float *dw = make_dw(sizes[s], (shape)of);
            for (int select = FB_SELECT_ALL; select <= FB_SELECT_SVT_AS_PUBLISHED; select++)
                for (int mechanism = FB_MECHANISM_NONE; mechanism <= FB_MECHANISM_GAUSSIAN; mechanism++) {
                    const fb_release_spec spec = make_spec((fb_select)select, (fb_mechanism)mechanism);
                    char what[80];
                    if (!fb_guarantee_find(spec.select, spec.mechanism) ||
                        (mechanism == FB_MECHANISM_NONE && of == WILD) || (sizes[s] == 40000 && of != ROUNDED))
                        continue;
                    snprintf(what, sizeof what, "select %d, mechanism %d, n %lld, changes %d", select, mechanism,
                             (long long)sizes[s], of);
                    combinations++;
                    on_device += compare(ops, what, &spec, sizes[s], dw);
                }
            FB_FREE(dw);
        }
    assert_true(combinations > 200 && on_device > combinations * 2 / 3);
    fb_ops_cuda_destroy(&ops);
}

static void test_trust_and_clips(void **state)
{
    enum { N = 2100 };
    fb_ops *ops = open_device();
    float *dw = make_dw(N, ROUNDED);
    (void)state;
    for (int trust = FB_TRUST_LOCAL; trust <= FB_TRUST_CENTRAL; trust++)
        for (int mechanism = FB_MECHANISM_LAPLACE; mechanism <= FB_MECHANISM_GAUSSIAN; mechanism++)
            for (int select = FB_SELECT_ALL; select <= FB_SELECT_RANDOM; select += 2)
                for (int again = 0; again <= (trust == FB_TRUST_LOCAL); again++) {
                    fb_release_spec spec = make_spec((fb_select)select, (fb_mechanism)mechanism);
                    fb_budget budget;
                    spec.trust = (fb_trust)trust;
                    spec.clip_answers = again;
                    spec.clip_norm = select == FB_SELECT_ALL ? 0.005 : 0.05; /* beyond the norm, and within */
                    fb_status status = fb_budget_plan(&spec, N, &budget);
                    if (status != FB_OK) { /* Laplace has no shares */
                        fb_error_free(&status);
                        continue;
                    }
                    assert_true(compare(ops, "trust", &spec, N, dw));
                }
    FB_FREE(dw);
    fb_ops_cuda_destroy(&ops);
}

/* More than the blocks of one launch, and more tiles than one block adds up at a time. */
static void test_many(void **state)
{
    enum { N = 541001, FLAGS = 2200001 };
    const fb_release_spec spec = make_spec(FB_SELECT_TOPK, FB_MECHANISM_NONE);
    fb_ops *ops = open_device();
    float *dw = make_dw(N, ROUNDED);
    uint8_t *flag = NULL;
    uint32_t *listed = NULL, filled = 0;
    void *flags = NULL, *index = NULL, *tiles = NULL, *left = NULL;
    (void)state;
    assert_true(compare(ops, "many", &spec, N, dw));
    must(FB_ALLOC(flag, FLAGS, "flags"));
    must(FB_ALLOC(listed, FLAGS, "list"));
    must(ops->alloc(ops, FLAGS, "flags", &flags));
    must(ops->alloc(ops, FLAGS * 4, "list", &index));
    must(ops->alloc(ops, (FLAGS / FB_TILE + 1) * 8, "tiles", &tiles));
    must(ops->alloc(ops, sizeof(fb_privacy_state), "state", &left));
    for (uint32_t i = 0; i < FLAGS; i++)
        flag[i] = (uint8_t)(i * UINT32_C(2654435761) >> 30);
    ops->upload(ops, flags, flag, FLAGS);
    fb_privacy_list_flags(ops->state, FLAGS, flags, tiles, index, left);
    must(ops->download(ops, listed, index, FLAGS * 4));
    for (uint32_t i = 0; i < FLAGS; i++)
        if (flag[i] == 1)
            assert_true(listed[filled++] == i);
    assert_true(listed[filled] == 0);
    ops->release(ops, &flags);
    ops->release(ops, &index);
    ops->release(ops, &tiles);
    ops->release(ops, &left);
    FB_FREE(flag);
    FB_FREE(listed);
    FB_FREE(dw);
    fb_ops_cuda_destroy(&ops);
}

/* From one coordinate to all. */
static void test_fractions(void **state)
{
    static const double fractions[] = {1e-9, 0.001, 0.5, 0.999, 1.0};
    static const fb_select selects[] = {FB_SELECT_TOPK, FB_SELECT_RANDOM, FB_SELECT_SVT, FB_SELECT_EXPONENTIAL,
                                        FB_SELECT_PUBLIC};
    fb_ops *ops = open_device();
    (void)state;
    for (int of = ROUNDED; of <= ALL_EQUAL; of++) {
        float *dw = make_dw(4500, (shape)of);
        for (size_t f = 0; f < sizeof fractions / sizeof fractions[0]; f++)
            for (size_t s = 0; s < sizeof selects / sizeof selects[0]; s++) {
                fb_release_spec spec = make_spec(selects[s], FB_MECHANISM_LAPLACE);
                spec.fraction = fractions[f];
                assert_true(compare(ops, "fraction", &spec, 4500, dw));
                if (selects[s] == FB_SELECT_TOPK) {
                    spec.mechanism = FB_MECHANISM_NONE;
                    assert_true(compare(ops, "fraction", &spec, 4500, dw));
                }
            }
        FB_FREE(dw);
    }
    fb_ops_cuda_destroy(&ops);
}

static void test_small_and_large_noise(void **state)
{
    static const double epsilons[] = {20.0, 1e-3, 1e-9};
    static const double multipliers[] = {0x1p-28, 1e-3, 0x1p20};
    fb_ops *ops = open_device();
    float *dw = make_dw(3000, ROUNDED);
    (void)state;
    for (int i = 0; i < 3; i++) {
        fb_release_spec spec = make_spec(FB_SELECT_ALL, FB_MECHANISM_LAPLACE);
        spec.clip_answers = 0;
        spec.epsilon_answer = epsilons[i];
        assert_true(compare(ops, "noise", &spec, 3000, dw));
        spec.mechanism = FB_MECHANISM_GAUSSIAN;
        spec.noise_multiplier = multipliers[i];
        assert_true(compare(ops, "noise", &spec, 3000, dw));
        spec = make_spec(FB_SELECT_EXPONENTIAL, FB_MECHANISM_LAPLACE);
        spec.epsilon_query = ldexp(1.0, 20 * (1 - i));
        assert_true(compare(ops, "noise", &spec, 3000, dw));
    }
    FB_FREE(dw);
    fb_ops_cuda_destroy(&ops);
}

/* Ends in the middle of a block and of a stretch, several passes, several stretches, more passes than there may be. */
static void test_svt(void **state)
{
    static const double fractions[] = {0.01, 0.1, 0.37, 0.9, 0.05, 0.6};
    static const int64_t sizes[] = {300, 1000, 70000};
    fb_ops *ops = open_device();
    int64_t most_passes = 0, ends = 0, longest = 0;
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        float *dw = make_dw(sizes[s], ROUNDED);
        for (int f = 0; f < 6; f++) {
            fb_release_spec spec = make_spec(FB_SELECT_SVT, FB_MECHANISM_LAPLACE);
            fb_budget budget;
            released expected;
            if (sizes[s] > 1000 && f != 1 && f != 2)
                continue;
            spec.fraction = fractions[f];
            spec.threshold = f == 5 ? CLIP : 0.25 * CLIP; /* which few reach, however often they are tested */
            spec.epsilon_threshold = f == 5 ? 1e3 : 1.0;
            spec.epsilon_query = f == 5 ? 1e6 : f % 2 ? 1e3 : 0.0;
            if (sizes[s] > 1000) { /* one test in four passes: stretches after the first */
                spec.threshold = CLIP;
                spec.epsilon_threshold = 1e3;
                spec.epsilon_query = 2.0 * spec.fraction * (double)sizes[s];
            }
            must(fb_budget_plan(&spec, sizes[s], &budget));
            must(try_release(&spec, &budget, dw, NULL, &expected));
            most_passes = expected.report.passes > most_passes ? expected.report.passes : most_passes;
            longest = expected.report.tests > longest ? expected.report.tests : longest;
            ends += expected.update.count == budget.count && expected.report.tests % FB_NOISE_BLOCK != 0;
            fb_update_free(&expected.update);
            assert_true(compare(ops, "SVT", &spec, sizes[s], dw));
        }
        FB_FREE(dw);
    }
    assert_true(most_passes == FB_SVT_PASSES && ends > 5 && longest > 70000);
    fb_ops_cuda_destroy(&ops);
}

/* --- secrets and failures ------------------------------------------------------------------------------------------
 */

static const fb_release_spec *some_specs(int *count)
{
    static fb_release_spec specs[5];
    specs[0] = make_spec(FB_SELECT_SVT, FB_MECHANISM_LAPLACE);
    specs[1] = make_spec(FB_SELECT_EXPONENTIAL, FB_MECHANISM_LAPLACE);
    specs[2] = make_spec(FB_SELECT_RANDOM, FB_MECHANISM_GAUSSIAN);
    specs[3] = make_spec(FB_SELECT_TOPK, FB_MECHANISM_NONE);
    specs[4] = make_spec(FB_SELECT_ALL, FB_MECHANISM_LAPLACE);
    *count = 5;
    return specs;
}

/* Nothing of a release is left in the device's memory, and no key was ever there. */
static void test_memory_is_wiped(void **state)
{
    enum { N = 1500 };
    int count = 0;
    const fb_release_spec *specs = some_specs(&count);
    fb_ops *ops = open_device();
    float *dw = make_dw(N, ROUNDED);
    (void)state;
    for (int i = 0; i < count; i++) {
        fb_budget budget;
        fb_privacy_device *device = NULL;
        released got;
        start_spying(ops);
        must(fb_budget_plan(&specs[i], N, &budget));
        must(fb_privacy_device_create(&spy.ops, &specs[i], &budget, &device));
        must(try_release(&specs[i], &budget, dw, device, &got));
        fb_update_free(&got.update);
        assert_true(spy.looked_at >= 5);
        for (int a = 0; a < ARRAYS_MAX; a++) {
            uint8_t *copy = spy.memory[a] ? fetch(spy.memory[a], spy.bytes[a]) : NULL;
            for (int64_t at = 0; copy && at < spy.bytes[a]; at++)
                assert_int_equal(copy[at], 0);
            FB_FREE(copy);
        }
        fb_privacy_device_destroy(&device);
    }
    FB_FREE(dw);
    fb_ops_cuda_destroy(&ops);
}

/* Whichever call fails: an error, or, where the failure cannot matter, the right bytes; nothing is leaked. */
static void fail_each_call(const fb_release_spec *spec, int64_t n, const float *dw)
{
    fb_budget budget;
    released expected, got;
    int64_t errors = 0;
    must(fb_budget_plan(spec, n, &budget));
    must(try_release(spec, &budget, dw, NULL, &expected));
    for (int64_t call = 0, quiet = 0; quiet < 40; call++) {
        fb_ops *ops = open_device();
        const int64_t live = fb_emulator_live_blocks();
        fb_privacy_device *device = NULL;
        uint8_t byte;
        fb_emulator_fail_after(call);
        fb_status status = fb_privacy_device_create(ops, spec, &budget, &device);
        memset(&got, 0, sizeof got);
        if (status == FB_OK) {
            status = try_release(spec, &budget, dw, device, &got);
            if (status == FB_OK)
                assert_same("failure", &got, &expected);
            else
                assert_true(!got.update.index && !got.update.grid && !got.update.f32);
            fb_update_free(&got.update);
        }
        errors += status != FB_OK;
        quiet = status != FB_OK ? 0 : quiet + 1;
        if (status != FB_OK)
            must_fail(status, "CUDA");
        fb_emulator_fail_after(-1);
        (void)cudaGetLastError();
        status = ops->download(ops, &byte, ((fb_cuda_queue *)ops->state)->scratch, 1); /* takes what the end has left */
        fb_error_free(&status);
        if (device) { /* it can still be used */
            must(try_release(spec, &budget, dw, device, &got));
            assert_same("after a failure", &got, &expected);
            fb_update_free(&got.update);
        }
        fb_privacy_device_destroy(&device);
        assert_int_equal(fb_emulator_live_blocks(), live);
        fb_ops_cuda_destroy(&ops);
    }
    assert_true(errors > 15);
    fb_update_free(&expected.update);
}

static void test_failures(void **state)
{
    int count = 0;
    const fb_release_spec *specs = some_specs(&count);
    float *dw = make_dw(300, ROUNDED);
    (void)state;
    for (int i = 0; i < count; i++)
        fail_each_call(&specs[i], 300, dw);
    FB_FREE(dw);
}

/* Without a mechanism an update that is not finite is the processor's to refuse. */
static void test_not_finite(void **state)
{
    const fb_release_spec spec = make_spec(FB_SELECT_TOPK, FB_MECHANISM_NONE);
    fb_ops *ops = open_device();
    fb_budget budget;
    fb_privacy_device *device = NULL;
    released got;
    float *dw = make_dw(500, WILD);
    (void)state;
    must(fb_budget_plan(&spec, 500, &budget));
    must(fb_privacy_device_create(ops, &spec, &budget, &device));
    must_fail(try_release(&spec, &budget, dw, device, &got), "coordinate 5", "not a finite number");
    fb_privacy_device_destroy(&device);
    fb_ops_cuda_destroy(&ops);
    FB_FREE(dw);
}

static void test_not_the_gpu(void **state)
{
    const fb_release_spec spec = make_spec(FB_SELECT_TOPK, FB_MECHANISM_NONE);
    fb_privacy_device *device = NULL;
    fb_budget budget;
    (void)state;
    must(fb_budget_plan(&spec, 500, &budget));
    must(fb_privacy_device_create(&fb_ops_ref, &spec, &budget, &device));
    assert_null(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_combination),
        cmocka_unit_test(test_trust_and_clips),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_fractions),
        cmocka_unit_test(test_small_and_large_noise),
        cmocka_unit_test(test_svt),
        cmocka_unit_test(test_memory_is_wiped),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_not_the_gpu),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("privacy_cuda", tests, NULL, NULL);
}
