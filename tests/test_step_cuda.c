/* SPDX-License-Identifier: Apache-2.0
 *
 * A step of training, local training and evaluation on the GPU backend against the reference and PyTorch. Runs on the
 * emulated GPU and on a real one.
 */
#include "device_arrays.h"
#include "fed/evaluate.h"
#include "fed/volumes.h"
#include "golden_check.h"
#include "hospital.h"

#include <math.h>

/* --- loss and gradient ------------------------------------------------------------------------------------- */

static const fb_net_spec two_levels = {.filters = 8, .levels = 2, .blocks_down = {1, 2}, .blocks_up = {1}};
static const fb_net_spec three_levels = {.filters = 8, .levels = 3, .blocks_down = {1, 1, 2}, .blocks_up = {1, 1}};

typedef struct step {
    int64_t voxels, parameters;
    fb_params *params;
    float *w, *x, *mask;                /* (parameters), (voxels, 4), (filters) or NULL: of the caller */
    uint8_t *target;                    /* (voxels) */
    float *logits, *dlogits, *gradient; /* results */
    double loss;
} step;

/* Forward, loss, backward on the device, of what *s holds. */
static void run_step(device *d, const fb_net_spec *spec, const int64_t shape[3], step *s)
{
    const fb_ops *ops = d->ops;
    const double none = 0.0;
    fb_segresnet *net = NULL;
    must(fb_segresnet_create(spec, s->params, ops, shape, 1, &net));
    const array w = put_floats(d, s->parameters, s->w), x = put_act(d, s->voxels * FB_IMAGE_CHANNELS, s->x);
    const array target = put_bytes(d, s->voxels, s->target), loss = put_bytes(d, sizeof none, &none);
    const array logits = reserve_array(d, s->voxels * FB_REGIONS, 4, 0);
    const array dlogits = reserve_array(d, s->voxels * FB_REGIONS, 4, 0), gradient = out_floats(d, s->parameters, NULL);
    const float *mask = s->mask ? (const float *)(void *)put_floats(d, spec->filters, s->mask).first : NULL;
    must(fb_segresnet_forward(net, (const float *)(void *)w.first, x.first, mask, (float *)(void *)logits.first));
    ops->dice_loss(ops, s->voxels, (const float *)(void *)logits.first, (const uint8_t *)target.first,
                   (float *)(void *)dlogits.first, (double *)(void *)loss.first);
    must(fb_segresnet_backward(net, (const float *)(void *)dlogits.first, (float *)(void *)gradient.first));
    get_bytes(d, &loss, &s->loss);
    get_bytes(d, &logits, s->logits);
    get_bytes(d, &dlogits, s->dlogits);
    float *got = get(d, &gradient);
    memcpy(s->gradient, got, (size_t)s->parameters * sizeof *got);
    FB_FREE(got);
    fb_segresnet_destroy(&net);
    release_arrays(d);
}

static void run_reference(const fb_net_spec *spec, const int64_t shape[3], step *s)
{
    fb_segresnet *net = NULL;
    must(fb_segresnet_create(spec, s->params, &fb_ops_ref, shape, 1, &net));
    must(fb_segresnet_forward(net, s->w, s->x, s->mask, s->logits));
    s->loss = fb_dice_loss(s->voxels, s->logits, s->target, s->dlogits);
    must(fb_segresnet_backward(net, s->dlogits, s->gradient));
    fb_segresnet_destroy(&net);
}

/* The image is bfloat16 already; the norms' weights and biases are not those they begin with. */
static void make_step(const fb_net_spec *spec, const int64_t shape[3], step *s)
{
    memset(s, 0, sizeof *s);
    must(fb_params_create(spec, &s->params));
    s->voxels = volume(shape);
    s->parameters = s->params->count;
    s->w = make(s->parameters);
    s->x = make_random(s->voxels * FB_IMAGE_CHANNELS, 1, -1.0, 1.0);
    s->logits = make_nan(s->voxels * FB_REGIONS);
    s->dlogits = make_nan(s->voxels * FB_REGIONS);
    s->gradient = make_nan(s->parameters);
    must(FB_ALLOC(s->target, s->voxels, "target"));
    golden_fill_weights(s->params, s->w);
    golden_fill_target(shape, 0, s->target);
    for (int64_t i = 0; i < s->voxels * FB_IMAGE_CHANNELS; i++)
        s->x[i] = float_of(bf16_of(s->x[i]));
}

static void free_step(step *s)
{
    fb_params_destroy(&s->params);
    FB_FREE(s->w);
    FB_FREE(s->x);
    FB_FREE(s->target);
    FB_FREE(s->logits);
    FB_FREE(s->dlogits);
    FB_FREE(s->gradient);
}

typedef struct likeness {
    double distance; /* |a - b| / |b| */
    double cosine;
    double length; /* |a| / |b| */
} likeness;

static likeness compare_vectors(int64_t count, const float *a, const float *b)
{
    double apart = 0.0, aa = 0.0, bb = 0.0, ab = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double x = (double)a[i], y = (double)b[i];
        apart += (x - y) * (x - y);
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    return (likeness){sqrt(apart / bb), ab / sqrt(aa * bb), sqrt(aa / bb)};
}

/* float rounds at 6e-8. bfloat16 at 2e-3: after some layers the argument of a ReLU is off by about 0.005 of its spread,
 * which turns the ReLU in 0.2 % of the places, and that is sqrt(0.002) of a gradient's length, at random: a step's
 * direction is off by 5 % or more, its length by far less, and the loss, a mean, by less still. */
static void check_step(fb_act_type act, const fb_net_spec *spec, const int64_t shape[3])
{
    const double of_loss = act == FB_ACT_BF16 ? 1e-3 : 2e-7, of_gradient = act == FB_ACT_BF16 ? 0.1 : 1e-5;
    device d;
    step got, want;
    open_device(act, &d);
    make_step(spec, shape, &got);
    make_step(spec, shape, &want);
    run_step(&d, spec, shape, &got);
    run_reference(spec, shape, &want);
    const likeness gradients = compare_vectors(want.parameters, got.gradient, want.gradient);
    if (getenv("FB_VERBOSE"))
        print_message("%s, %d levels: loss %.7f, off by %.2g; gradient off by %.2g, length %.4f, 1 - cosine %.2g\n",
                      act_name[act], spec->levels, want.loss, got.loss - want.loss, gradients.distance,
                      gradients.length, 1.0 - gradients.cosine);
    assert_true(fabs(got.loss - want.loss) <= of_loss);
    assert_true(gradients.distance <= of_gradient);
    assert_true(gradients.cosine > (act == FB_ACT_BF16 ? 0.995 : 1.0 - 1e-9));
    assert_true(fabs(gradients.length - 1.0) < of_gradient / 5.0);
    free_step(&got);
    free_step(&want);
    close_device(&d);
}

static void test_gradient(void **state)
{
    (void)state;
    for (int act = FB_ACT_F32; act <= FB_ACT_BF16; act++) {
        check_step((fb_act_type)act, &two_levels, (const int64_t[3]){16, 16, 16});
        check_step((fb_act_type)act, &three_levels, (const int64_t[3]){16, 16, 16});
        check_step((fb_act_type)act, &two_levels, (const int64_t[3]){4, 6, 10});
    }
}

/* PyTorch's loss, logits and gradient, in float to its roundings, in bfloat16 as a whole. */
static void check_golden(const golden_case *of)
{
    golden_run run;
    device d;
    float mask[8];
    open_device(FB_ACT_F32, &d);
    golden_open(of, &fb_ops_ref, &run);
    if (of->mask)
        memcpy(mask, of->mask, sizeof mask);
    step s = {.voxels = run.voxels,
              .parameters = run.params->count,
              .params = run.params,
              .w = run.w,
              .x = run.x,
              .mask = of->mask ? mask : NULL,
              .target = run.target,
              .logits = run.logits,
              .dlogits = run.dlogits,
              .gradient = run.gradient};
    run_step(&d, &of->spec, of->shape, &s);
    golden_within(of->path, "cuda", "loss", golden_loss_error(&run, s.loss), 1e-5);
    golden_within(of->path, "cuda", "logits", golden_logit_error(&run), 1e-4);
    golden_within(of->path, "cuda", "gradient", golden_gradient_error(&run), 1e-4);
    golden_close(&run);
    close_device(&d);
}

static void test_golden(void **state)
{
    (void)state;
    const golden_case small = golden_small(), masked = golden_masked(), full = golden_full();
    check_golden(&small);
    check_golden(&masked);
    check_golden(&full);
}

/* --- local training ---------------------------------------------------------------------------------------- */

/* The weights after a round from the start, owned by the caller. */
static float *train(const fb_ops *ops, const char *trainable, int optimizer, int64_t cache_bytes,
                    fb_train_report *report)
{
    bench b;
    open_bench(&b, trainable, ops, optimizer, 0.1);
    fb_trainer_destroy(&b.trainer);
    b.config.data_device_cache_bytes = cache_bytes;
    must(fb_trainer_create(&b.config, &b.spec, b.params, b.subset, ops, &b.trainer));
    must(fb_trainer_run(b.trainer, &b.shard, 1, HOSPITAL, ROUND, NULL, b.w, &b.moments, report));
    assert_int_equal(b.moments.step, CASES);
    for (int64_t i = 0; i < b.params->count; i++) { /* how it moved */
        assert_true(b.w[i] == b.start[i] || is_trained(b.subset, i));
        b.w[i] -= b.start[i];
    }
    float *moved = make_copy(b.params->count, b.w);
    close_bench(&b);
    return moved;
}

/* Six steps: roundings turn a ReLU here and there, and Adam divides by what is near zero for some parameters. */
static void check_training(const char *trainable, int optimizer, double bound)
{
    fb_train_report got_report, want_report;
    fb_params *params = NULL;
    device d;
    open_device(FB_ACT_F32, &d);
    float *got = train(d.ops, trainable, optimizer, 0, &got_report);
    float *want = train(&fb_ops_ref, trainable, optimizer, 0, &want_report);
    must(fb_params_create(&hospital_spec, &params));
    const likeness moved = compare_vectors(params->count, got, want);
    if (getenv("FB_VERBOSE"))
        print_message("'%s', optimizer %d: loss %.7f, off by %.2g; movement off by %.2g\n", trainable, optimizer,
                      want_report.loss_mean, got_report.loss_mean - want_report.loss_mean, moved.distance);
    assert_true(fabs(got_report.loss_mean - want_report.loss_mean) < 1e-5);
    assert_true(moved.distance < bound);
    assert_int_equal(got_report.steps, want_report.steps);
    fb_params_destroy(&params);
    FB_FREE(got);
    FB_FREE(want);
    close_device(&d);
}

static void test_training(void **state)
{
    (void)state;
    check_training("", FB_OPTIMIZER_SGD, 1e-5);
    check_training("", FB_OPTIMIZER_ADAM, 1e-4);
    check_training("conv_final.*|up_layers.*norm.*|convInit.*", FB_OPTIMIZER_SGD, 1e-5);
    check_training("conv_final.*|up_layers.*norm.*|convInit.*", FB_OPTIMIZER_ADAM, 1e-4);
}

/* One case at a time, some, or all on the device: the same bits. */
static void test_cache(void **state)
{
    (void)state;
    const int64_t one = SIDE * SIDE * SIDE * 17, limits[] = {1, one, 5 * one / 2};
    fb_train_report report;
    fb_params *params = NULL;
    device d;
    open_device(FB_ACT_F32, &d);
    must(fb_params_create(&hospital_spec, &params));
    float *want = train(d.ops, "", FB_OPTIMIZER_ADAM, 0, &report);
    const double loss = report.loss_mean;
    for (int i = 0; i < 3; i++) {
        float *got = train(d.ops, "", FB_OPTIMIZER_ADAM, limits[i], &report);
        assert_same_bits(params->count, got, want);
        assert_true(report.loss_mean == loss);
        FB_FREE(got);
    }
    FB_FREE(want);
    fb_params_destroy(&params);
    close_device(&d);
}

/* What the cache gives is the case that was asked for, whatever went before; never more than its limit. */
static void test_volumes(void **state)
{
    (void)state;
    static const int64_t order[] = {0, 1, 0, 2, 3, 1, 0, 5, 4, 5, 3, 3, 0};
    enum { BYTES = SIDE * SIDE * SIDE * FB_MODALITIES * 4, LIMIT = 5 * SIDE * SIDE * SIDE * 17 / 2 };
    char *image = NULL, label[SIDE * SIDE * SIDE];
    fb_volumes *volumes = NULL;
    device d;
    bench b;
    open_device(FB_ACT_F32, &d);
    open_bench(&b, "", d.ops, FB_OPTIMIZER_SGD, 0.0);
    must(FB_ALLOC(image, BYTES, "image"));
    must(fb_volumes_create(d.ops, LIMIT, &volumes));
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const fb_volume *volume = NULL;
        fb_sample sample;
        must(fb_volumes_get(volumes, b.shard, FB_SPLIT_TRAIN, order[i], &sample));
        must(d.ops->download(d.ops, image, sample.image, BYTES));
        must(d.ops->download(d.ops, label, sample.label, sizeof label));
        must(fb_shard_volume(b.shard, FB_SPLIT_TRAIN, order[i], &volume));
        assert_memory_equal(image, volume->image, BYTES);
        assert_memory_equal(label, volume->label, sizeof label);
        assert_memory_equal(sample.shape, volume->shape, sizeof sample.shape);
        assert_true(fb_volumes_bytes(volumes) == (i == 0 ? 1 : 2) * (BYTES + (int64_t)sizeof label));
    }
    fb_volumes_destroy(&volumes);
    FB_FREE(image);
    close_bench(&b);
    close_device(&d);
}

/* Patient-level privacy: samples, clip and noise are the CPU's, the gradients the device's. */
static void test_private_training(void **state)
{
    (void)state;
    fb_train_report report, ignored;
    fb_params *params = NULL;
    device d;
    bench on_device, on_host;
    open_device(FB_ACT_F32, &d);
    open_bench(&on_device, "down_layers.*|conv_final.*", d.ops, FB_OPTIMIZER_SGD, 0.1);
    open_bench(&on_host, "down_layers.*|conv_final.*", &fb_ops_ref, FB_OPTIMIZER_SGD, 0.1);
    must(fb_params_create(&hospital_spec, &params));
    const fb_dpsgd_plan plan = make_plan(&on_host, 0.05, 0.7, 3.0, 2);
    const fb_dpsgd_report got = run_private(&on_device, &plan, 0, &report),
                          want = run_private(&on_host, &plan, 0, &ignored);
    assert_true(got.gradients == want.gradients && got.clipped == want.clipped && want.clipped > 0);
    assert_true(fabs(report.loss_mean - ignored.loss_mean) < 1e-5);
    for (int64_t i = 0; i < params->count; i++) {
        assert_true(on_device.w[i] == on_device.start[i] || is_trained(on_device.subset, i));
        on_device.w[i] -= on_device.start[i];
        on_host.w[i] -= on_host.start[i];
    }
    assert_true(compare_vectors(params->count, on_device.w, on_host.w).distance < 1e-4);
    fb_params_destroy(&params);
    close_bench(&on_device);
    close_bench(&on_host);
    close_device(&d);
}

/* --- evaluation -------------------------------------------------------------------------------------------- */

typedef struct evaluation {
    fb_params *params;
    fb_evaluator *evaluator;
    float *w;
} evaluation;

static evaluation open_evaluation(const fb_ops *ops, int64_t side)
{
    const int64_t window[3] = {side, side, side};
    evaluation e = {0};
    must(fb_params_create(&hospital_spec, &e.params));
    must(fb_evaluator_create(&hospital_spec, e.params, ops, window, 0.5, &e.evaluator));
    e.w = make(e.params->count);
    golden_fill_weights(e.params, e.w);
    return e;
}

static void close_evaluation(evaluation *e)
{
    fb_evaluator_destroy(&e->evaluator);
    fb_params_destroy(&e->params);
    FB_FREE(e->w);
}

static fb_volume *make_volume(int64_t depth, int64_t height, int64_t width)
{
    const int64_t shape[3] = {depth, height, width};
    const fb_rng rng = {.seed = 77, .purpose = FB_RNG_TEST};
    fb_volume *volume = NULL;
    must(fb_volume_create("case", shape, &volume));
    for (int64_t i = 0; i < fb_volume_voxels(shape) * FB_MODALITIES; i++) {
        const double value = fb_rng_range(&rng, (uint32_t)i, -200.0, 1000.0);
        volume->image[i] = value < 0.0 ? 0.0F : (float)value;
    }
    return volume;
}

/* One window that is the whole padded case, and sliding ones; the second case needs more memory, the third less. */
static void check_evaluation(fb_act_type act, double bound)
{
    static const int64_t shapes[][3] = {{8, 8, 7}, {11, 16, 9}, {5, 9, 8}};
    device d;
    open_device(act, &d);
    evaluation got = open_evaluation(d.ops, 8), want = open_evaluation(&fb_ops_ref, 8);
    for (int i = 0; i < 3; i++) {
        fb_volume *volume = make_volume(shapes[i][0], shapes[i][1], shapes[i][2]);
        const float *logits = NULL, *expected = NULL;
        must(fb_evaluator_logits(got.evaluator, got.w, volume, &logits));
        must(fb_evaluator_logits(want.evaluator, want.w, volume, &expected));
        assert_close("logits", fb_volume_voxels(shapes[i]) * FB_REGIONS, logits, expected, bound);
        fb_volume_destroy(&volume);
    }
    close_evaluation(&got);
    close_evaluation(&want);
    close_device(&d);
}

static void test_evaluation(void **state)
{
    (void)state;
    check_evaluation(FB_ACT_F32, 1e-5);
    check_evaluation(FB_ACT_BF16, 0.03);
}

/* A round, an evaluation with windows that are larger than the patch, a round: as without the evaluation. */
static void test_evaluation_between_rounds(void **state)
{
    (void)state;
    fb_train_report report;
    float *first = NULL;
    device d;
    bench b;
    open_device(FB_ACT_F32, &d);
    open_bench(&b, "", d.ops, FB_OPTIMIZER_SGD, 0.1);
    fb_volume *volume = make_volume(24, 24, 24);
    for (int evaluates = 0; evaluates < 2; evaluates++) {
        const float *logits = NULL;
        evaluation e = open_evaluation(d.ops, 24);
        start_again(&b);
        must(fb_trainer_run(b.trainer, &b.shard, 1, HOSPITAL, ROUND, NULL, b.w, &b.moments, &report));
        if (evaluates)
            must(fb_evaluator_logits(e.evaluator, e.w, volume, &logits));
        must(fb_trainer_run(b.trainer, &b.shard, 1, HOSPITAL, ROUND + 1, NULL, b.w, &b.moments, &report));
        if (evaluates)
            assert_same_bits(b.params->count, first, b.w);
        else
            first = make_copy(b.params->count, b.w);
        close_evaluation(&e);
    }
    FB_FREE(first);
    fb_volume_destroy(&volume);
    close_bench(&b);
    close_device(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_volumes),
        cmocka_unit_test(test_private_training),
        cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_evaluation_between_rounds),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
