/* SPDX-License-Identifier: Apache-2.0
 *
 * Local training against a plain rewriting of its mathematics: which cases are in a step, with which random numbers,
 * what the optimiser is given; what is frozen stays. The law of samples, clip and noise is in test_dpsgd.c.
 */
#include "data/augment.h"
#include "hospital.h"
#include "nn/loss.h"
#include "nn/segresnet.h"

#include <math.h>

/* --- the mathematics again --- */

typedef struct oracle {
    const bench *b;
    fb_segresnet *net;
    float *x, *logits, *dlogits, *gradient; /* gradient (params->count) */
    uint8_t *target;
} oracle;

static void open_oracle(oracle *o, const bench *b, const fb_ops *ops)
{
    memset(o, 0, sizeof *o);
    o->b = b;
    must(fb_segresnet_create(&b->spec, b->params, ops, b->config.data_patch, 1, &o->net));
    must(FB_ALLOC(o->x, VOXELS * FB_MODALITIES, "oracle"));
    must(FB_ALLOC(o->logits, VOXELS * FB_REGIONS, "oracle"));
    must(FB_ALLOC(o->dlogits, VOXELS * FB_REGIONS, "oracle"));
    must(FB_ALLOC(o->target, VOXELS, "oracle"));
    must(FB_ALLOC(o->gradient, b->params->count, "oracle"));
}

static void close_oracle(oracle *o)
{
    fb_segresnet_destroy(&o->net);
    FB_FREE(o->x);
    FB_FREE(o->logits);
    FB_FREE(o->dlogits);
    FB_FREE(o->target);
    FB_FREE(o->gradient);
}

/* The gradient of a case with the random numbers number `sample` of `epoch`. */
static double differentiate(oracle *o, uint64_t seed, const float *w, int64_t number, uint32_t epoch, uint32_t sample)
{
    const int64_t *patch = o->b->config.data_patch;
    const fb_rng crop = {seed, FB_RNG_AUGMENT, HOSPITAL, ROUND, epoch};
    const fb_rng drop = {seed, FB_RNG_DROPOUT, HOSPITAL, ROUND, epoch};
    const fb_volume *volume = NULL;
    fb_augmentation augmentation;
    float dropout[8];
    for (uint32_t c = 0; c < 8; c++)
        dropout[c] = fb_rng_uniform(&drop, 8 * sample + c) < 0.2 ? 0.0f : 1.25f;
    must(fb_shard_volume(o->b->shard, FB_SPLIT_TRAIN, number, &volume));
    must(fb_augment_draw(&crop, 8 * sample, volume->subject, volume->shape, patch, &augmentation));
    fb_augment_apply(volume->image, volume->label, volume->shape, patch, &augmentation, o->x, o->target);
    must(fb_segresnet_forward(o->net, w, o->x, dropout, o->logits));
    const double loss = fb_dice_loss(VOXELS, o->logits, o->target, o->dlogits);
    must(fb_segresnet_backward(o->net, o->dlogits, o->gradient));
    return loss;
}

/* With the random numbers of the patient: those of a seed mixed with the name. */
static double differentiate_patient(oracle *o, const float *w, int64_t number, uint32_t step)
{
    uint64_t hash = (uint64_t)o->b->config.run_seed ^ UINT64_C(14695981039346656037);
    for (const char *c = fb_shard_subject(o->b->shard, FB_SPLIT_TRAIN, number); *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    return differentiate(o, hash, w, number, step, 0);
}

/* The largest |w - expected| over the trained parameters; the frozen ones must have the bits of the start. */
static double distance(const bench *b, const double *expected)
{
    double largest = 0.0;
    for (int64_t i = 0; i < b->params->count; i++)
        if (is_trained(b->subset, i))
            largest = fmax(largest, fabs((double)b->w[i] - expected[i]));
        else
            assert_memory_equal(&b->w[i], &b->start[i], sizeof *b->w);
    return largest;
}

/* --- tests --- */

static const char HEAD[] = "conv_final.*|up_layers.*norm.*";

/* One step of plain gradient descent along the mean over all patients, weight decay included; and a second from where
 * the first ended. The tolerance is float32's. */
static void a_step_without_noise_follows_the_mean_gradient(void **state)
{
    (void)state;
    bench b;
    oracle o;
    fb_train_report report;
    double *expected = NULL;
    open_bench(&b, HEAD, &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    open_oracle(&o, &b, &fb_ops_dnnl);
    must(FB_ALLOC(expected, b.params->count, "expected"));
    const fb_dpsgd_plan plan = make_plan(&b, 1000.0, NOISELESS, 0.0, 1);
    for (int64_t i = 0; i < b.params->count; i++)
        expected[i] = (double)b.w[i] * (1.0 - 0.01 * 0.1);
    double loss = 0.0;
    for (uint32_t p = 0; p < CASES; p++) {
        loss += differentiate_patient(&o, b.w, p, 0) / CASES;
        for (int64_t i = 0; i < b.params->count; i++)
            expected[i] -= 0.01 * (double)o.gradient[i] / CASES;
    }
    const fb_dpsgd_report inside = run_private(&b, &plan, 0, &report);
    assert_true(report.steps == 1 && fabs(report.loss_mean - loss) < 1e-6);
    assert_true(inside.gradients == CASES && inside.clipped == 0 && inside.empty_steps == 0);
    assert_true(distance(&b, expected) < 2e-7);
    expected[b.subset->ranges[0].offset] += 1e-5;
    assert_true(distance(&b, expected) > 2e-7);
    FB_FREE(expected);
    close_oracle(&o);
    close_bench(&b);
}

/* Poisson samples: the members' gradients over the expected, not the actual, batch; random numbers of a patient and a
 * step do not depend on the others; every step once. */
static void steps_follow_their_samples(void **state)
{
    (void)state;
    bench b;
    oracle o;
    fb_train_report report;
    float *w = NULL;
    double *expected = NULL;
    uint32_t member[CASES];
    int64_t count, seen = 0;
    open_bench(&b, "", &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    open_oracle(&o, &b, &fb_ops_dnnl);
    must(FB_ALLOC(w, b.params->count, "model"));
    must(FB_ALLOC(expected, b.params->count, "model"));
    const fb_dpsgd_plan plan = make_plan(&b, 1000.0, NOISELESS, 2.0, 2);
    assert_int_equal(plan.steps, 6);
    for (int64_t i = 0; i < b.params->count; i++)
        expected[i] = w[i] = b.w[i];
    for (uint32_t step = 0; step < plan.steps; step++) {
        fb_dpsgd_sample(&plan, b.noise, 1, ROUND, step, member, &count);
        seen += count;
        for (int64_t i = 0; i < b.params->count; i++)
            expected[i] *= 1.0 - 0.01 * 0.1;
        for (int64_t k = 0; k < count; k++) {
            differentiate_patient(&o, w, member[k], step);
            for (int64_t i = 0; i < b.params->count; i++)
                expected[i] -= 0.01 * (double)o.gradient[i] / 2.0;
        }
        for (int64_t i = 0; i < b.params->count; i++)
            w[i] = (float)expected[i];
    }
    const fb_dpsgd_report inside = run_private(&b, &plan, 1, &report);
    assert_true(inside.gradients == seen && report.steps == 6 && seen != 12); /* 12 are expected */
    assert_true(distance(&b, expected) < 2e-6);
    FB_FREE(w);
    FB_FREE(expected);
    close_oracle(&o);
    close_bench(&b);
}

/* One full step over the cases from `first` on; sum (params->count) becomes that of the clipped gradients. */
static void sum_of_part(int first, double clip, double *sum)
{
    bench b;
    fb_train_report report;
    open_part(&b, first, "", &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.0);
    fb_dpsgd_spec spec = make_plan(&b, clip, NOISELESS, 0.0, 1).spec;
    fb_dpsgd_plan plan;
    spec.cases = CASES - first;
    must(fb_dpsgd_plan_make(&spec, &plan));
    const fb_dpsgd_report inside = run_private(&b, &plan, 0, &report);
    assert_true(inside.clipped == CASES - first);
    for (int64_t i = 0; i < b.params->count; i++)
        sum[i] = ((double)b.start[i] - (double)b.w[i]) / 0.01 * plan.batch;
    close_bench(&b);
}

/* Neighbours by removing the first patient, which moves all the others up by one: the sum changes by that patient's
 * clipped gradient, of the length of the clip. */
static void one_patient_less_changes_no_other(void **state)
{
    (void)state;
    enum { ROOM = 100000 };
    static double all[ROOM], without[ROOM];
    const double clip = 0.5;
    double square = 0.0;
    sum_of_part(0, clip, all);
    sum_of_part(1, clip, without);
    for (int i = 0; i < ROOM; i++)
        square += (all[i] - without[i]) * (all[i] - without[i]);
    assert_true(fabs(sqrt(square) / clip - 1.0) < 0.01); /* float32 weights, divided by the learning rate */
}

/* Without privacy: a step a case. */
static void plain_gradient_descent(void **state)
{
    (void)state;
    bench b;
    oracle o;
    fb_train_report report;
    float *w = NULL;
    double *expected = NULL;
    uint32_t order[CASES];
    open_bench(&b, "down_layers.*", &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    open_oracle(&o, &b, &fb_ops_dnnl);
    must(FB_ALLOC(w, b.params->count, "model"));
    must(FB_ALLOC(expected, b.params->count, "model"));
    for (int64_t i = 0; i < b.params->count; i++)
        expected[i] = w[i] = b.w[i];
    const fb_rng shuffle = {(uint64_t)b.config.run_seed, FB_RNG_SHUFFLE, HOSPITAL, ROUND, 0};
    fb_sample_order(&shuffle, CASES, order);
    for (uint32_t k = 0; k < CASES; k++) {
        differentiate(&o, (uint64_t)b.config.run_seed, w, order[k], 0, k);
        for (int64_t i = 0; i < b.params->count; i++)
            if (is_trained(b.subset, i))
                w[i] = (float)(expected[i] -= 0.01 * ((double)o.gradient[i] + 0.1 * expected[i]));
    }
    must(fb_trainer_run(b.trainer, &b.shard, 1, HOSPITAL, ROUND, NULL, b.w, &b.moments, &report));
    assert_int_equal(report.steps, CASES);
    assert_true(distance(&b, expected) < 2e-6);
    FB_FREE(w);
    FB_FREE(expected);
    close_oracle(&o);
    close_bench(&b);
}

/* Noise, weight decay and Adam move every trained parameter and no other one. */
static void frozen_parameters_keep_their_bits(void **state)
{
    (void)state;
    bench b;
    fb_train_report report;
    int64_t moved = 0;
    open_bench(&b, HEAD, &fb_ops_dnnl, FB_OPTIMIZER_ADAM, 0.1);
    b.start[b.params->count / 2] = -0.0f; /* frozen, and what weight decay would not keep */
    start_again(&b);
    const fb_dpsgd_plan plan = make_plan(&b, 1.0, 1.0, 3.0, 2);
    run_private(&b, &plan, 0, &report);
    for (int64_t i = 0; i < b.params->count; i++) {
        const int same = memcmp(&b.w[i], &b.start[i], sizeof *b.w) == 0;
        assert_true(same || is_trained(b.subset, i));
        moved += !same;
    }
    assert_int_equal(moved, b.subset->count);
    assert_true(b.subset->count < b.params->count / 2 && b.moments.step == plan.steps);
    close_bench(&b);
}

static void an_empty_sample_takes_its_step(void **state)
{
    (void)state;
    bench b;
    fb_train_report report;
    open_bench(&b, HEAD, &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    const fb_dpsgd_plan plan = make_plan(&b, 1.0, 1.0, 1e-3, 1);
    fb_dpsgd_plan few = plan;
    few.steps = 3;
    const fb_dpsgd_report inside = run_private(&b, &few, 0, &report);
    assert_true(inside.empty_steps == 3 && inside.gradients == 0 && report.steps == 3 && isnan(report.loss_mean));
    /* a random walk of three steps of sigma / batch each, on top of little weight decay */
    double square = 0.0;
    for (int64_t i = 0; i < b.params->count; i++)
        square += pow((double)b.w[i] - (double)b.start[i], 2.0);
    const double expected = sqrt(3.0 * (double)b.subset->count) * 0.01 * 1.0 / 1e-3;
    assert_true(fabs(sqrt(square) / expected - 1.0) < 4.9 * sqrt(0.5 / (double)b.subset->count));
    close_bench(&b);
}

/* Noise used twice would cancel: every round and attempt has its own (every step: the random walk above). */
static void noise_is_used_once(void **state)
{
    (void)state;
    bench b;
    fb_train_report report;
    float *first = NULL;
    open_bench(&b, HEAD, &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    must(FB_ALLOC(first, b.params->count, "model"));
    fb_dpsgd_plan plan = make_plan(&b, 1.0, 1.0, 1e-3, 1);
    plan.steps = 1;
    run_round(&b, &plan, ROUND, 0, &report);
    memcpy(first, b.w, (size_t)b.params->count * sizeof *first);
    for (uint32_t other = 0; other < 3; other++) {
        int64_t equal = 0;
        start_again(&b);
        run_round(&b, &plan, ROUND + (other == 1), other == 2, &report);
        for (int64_t i = 0; i < b.params->count; i++)
            equal += is_trained(b.subset, i) && b.w[i] == first[i];
        assert_true(other == 0 ? equal == b.subset->count : equal < b.subset->count / 20);
    }
    FB_FREE(first);
    close_bench(&b);
}

/* Loss of all six patients after 30 epochs over that at the start, with a clip that most gradients reach. */
static double learn(bench *b, double noise_multiplier)
{
    fb_train_report first, last;
    const fb_dpsgd_plan all = make_plan(b, 0.05, noise_multiplier, 0.0, 1);
    const fb_dpsgd_plan plan = make_plan(b, 0.05, noise_multiplier, 3.0, 30);
    start_again(b);
    run_private(b, &all, 0, &first); /* its one step comes after the losses */
    const fb_dpsgd_report inside = run_private(b, &plan, 1, &last);
    assert_true(inside.clipped > inside.gradients / 2);
    run_private(b, &all, 2, &last);
    return last.loss_mean / first.loss_mean;
}

/* Little noise hides nothing, much noise everything. */
static void it_learns_as_far_as_the_noise_lets_it(void **state)
{
    (void)state;
    bench b;
    open_bench(&b, "", &fb_ops_dnnl, FB_OPTIMIZER_ADAM, 0.0);
    assert_true(learn(&b, 1e-4) < 0.5); /* 0.24 */
    assert_true(learn(&b, 10.0) > 0.8);
    close_bench(&b);
}

/* The plain backend computes the same on any number of threads, and so must what comes after it. */
static void threads_and_repetition_change_no_bit(void **state)
{
    (void)state;
    bench b;
    fb_train_report report;
    float *first = NULL;
    open_bench(&b, HEAD, &fb_ops_ref, FB_OPTIMIZER_ADAM, 0.1);
    must(FB_ALLOC(first, b.params->count, "model"));
    const fb_dpsgd_plan plan = make_plan(&b, 0.1, 0.5, 3.0, 1);
    run_private(&b, &plan, 0, &report);
    memcpy(first, b.w, (size_t)b.params->count * sizeof *first);
    start_again(&b);
    fb_ops_set_threads(2);
    run_private(&b, &plan, 0, &report);
    fb_ops_set_threads(1);
    assert_memory_equal(first, b.w, (size_t)b.params->count * sizeof *first);
    start_again(&b);
    run_private(&b, &plan, 1, &report); /* another attempt: other samples and noise */
    assert_memory_not_equal(first, b.w, (size_t)b.params->count * sizeof *first);
    FB_FREE(first);
    close_bench(&b);
}

/* Frozen weights that are not finite poison every gradient: all count as zero, and noise alone is left. */
static void diverged_gradients_count_as_zero(void **state)
{
    (void)state;
    bench b;
    fb_train_report report;
    open_bench(&b, HEAD, &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    b.start[0] = NAN;
    start_again(&b);
    const fb_dpsgd_plan plan = make_plan(&b, 1.0, 1.0, 0.0, 2);
    const fb_dpsgd_report inside = run_private(&b, &plan, 0, &report);
    assert_true(inside.non_finite == inside.gradients && inside.gradients == 2 * CASES);
    for (int64_t i = 0; i < b.params->count; i++)
        assert_true(!is_trained(b.subset, i) || isfinite(b.w[i]));
    close_bench(&b);
}

static void another_number_of_cases_is_an_error(void **state)
{
    (void)state;
    bench b;
    fb_train_report report;
    open_bench(&b, "", &fb_ops_dnnl, FB_OPTIMIZER_SGD, 0.1);
    const fb_dpsgd_spec spec = {1.0, 1.0, 0.0, CASES + 1, 1, b.subset->count};
    fb_dpsgd_plan plan;
    must(fb_dpsgd_plan_make(&spec, &plan));
    fb_train_dpsgd dpsgd = {.plan = &plan, .noise = b.noise};
    must_fail(fb_trainer_run(b.trainer, &b.shard, 1, HOSPITAL, ROUND, &dpsgd, b.w, &b.moments, &report),
              "6 train cases", "has 7", "brats-split");
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_without_noise_follows_the_mean_gradient),
        cmocka_unit_test(steps_follow_their_samples),
        cmocka_unit_test(one_patient_less_changes_no_other),
        cmocka_unit_test(plain_gradient_descent),
        cmocka_unit_test(frozen_parameters_keep_their_bits),
        cmocka_unit_test(an_empty_sample_takes_its_step),
        cmocka_unit_test(noise_is_used_once),
        cmocka_unit_test(it_learns_as_far_as_the_noise_lets_it),
        cmocka_unit_test(threads_and_repetition_change_no_bit),
        cmocka_unit_test(diverged_gradients_count_as_zero),
        cmocka_unit_test(another_number_of_cases_is_an_error),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    fb_ops_set_threads(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
