/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters, network object, loss, optimiser and metric, apart from the numbers that test_golden checks.
 */
#include "core/file.h"
#include "core/rng.h"
#include "nn/loss.h"
#include "nn/metric.h"
#include "nn/optim.h"
#include "nn/segresnet.h"
#include "testing.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>

static const fb_net_spec full_spec = {
    .filters = 8, .levels = 4, .blocks_down = {1, 2, 2, 4}, .blocks_up = {1, 1, 1}, .dropout = 0.2};
static const fb_net_spec small_spec = {.filters = 8, .levels = 2, .blocks_down = {1, 2}, .blocks_up = {1}};

static void fill(int64_t count, uint32_t stream, fb_real *values)
{
    const fb_rng rng = {.seed = 5, .purpose = FB_RNG_TEST, .round = stream};
    for (int64_t i = 0; i < count; i++)
        values[i] = (fb_real)fb_rng_range(&rng, (uint32_t)i, -1.0, 1.0);
}

/* --- parameters ---------------------------------------------------------------------------------- */

static void parameter_counts(void **state)
{
    (void)state;
    const int64_t filters[] = {8, 16, 32}, counts[] = {1176843, 4702227, 18798627};
    for (int i = 0; i < 3; i++) {
        fb_net_spec spec = full_spec;
        fb_params *params = NULL;
        spec.filters = filters[i];
        must(fb_params_create(&spec, &params));
        assert_int_equal(params->count, counts[i]);
        assert_int_equal(params->tensor_count, 83);
        fb_params_destroy(&params);
        assert_null(params);
    }
}

/* "name d0 d1 ..." as tests/golden/names.txt has it */
static void describe(const fb_tensor_info *tensor, char line[128])
{
    int used = snprintf(line, 128, "%s", tensor->name);
    for (int i = 0; i < tensor->rank; i++)
        used += snprintf(line + used, 128 - (size_t)used, " %lld", (long long)tensor->shape[i]);
}

static void names_and_shapes_are_monais(void **state)
{
    (void)state;
    char *text = NULL, line[128];
    int64_t bytes = 0, offset = 0;
    fb_params *params = NULL;
    must(fb_file_read("tests/golden/names.txt", 1 << 20, &text, &bytes));
    must(fb_params_create(&full_spec, &params));
    const char *at = text;
    for (int t = 0; t < params->tensor_count; t++) {
        const fb_tensor_info *tensor = &params->tensors[t];
        int64_t count = 1;
        for (int i = 0; i < tensor->rank; i++)
            count *= tensor->shape[i];
        describe(tensor, line);
        if (strncmp(at, line, strlen(line)) != 0 || at[strlen(line)] != '\n')
            fail_msg("tensor %d is '%s', MONAI's '%.*s'", t, line, (int)strcspn(at, "\n"), at);
        assert_int_equal(tensor->offset, offset);
        assert_int_equal(tensor->count, count);
        assert_ptr_equal(fb_params_find(params, tensor->name), tensor);
        offset += count;
        at += strlen(line) + 1;
    }
    assert_int_equal(*at, '\0');
    assert_int_equal(offset, params->count);
    assert_null(fb_params_find(params, "conv_final.1.weight"));
    fb_params_destroy(&params);
    FB_FREE(text);
}

static void refused_specs_are_named(void **state)
{
    (void)state;
    fb_params *params = NULL;
    fb_net_spec spec = full_spec;
    spec.filters = 12;
    must_fail(fb_params_create(&spec, &params), "model.filters", "12");
    spec.filters = 0;
    must_fail(fb_params_create(&spec, &params), "model.filters", "0");
    spec.filters = 128;
    must_fail(fb_params_create(&spec, &params), "1024 channels", "512");
    spec = full_spec;
    spec.levels = FB_LEVELS_MAX + 1;
    must_fail(fb_params_create(&spec, &params), "7 resolution levels", "1 to 6");
    spec = full_spec;
    spec.blocks_down[2] = 0;
    must_fail(fb_params_create(&spec, &params), "model.blocks_down", "position 3");
    spec = full_spec;
    spec.blocks_up[1] = -1;
    must_fail(fb_params_create(&spec, &params), "model.blocks_up", "-1");
    spec = full_spec;
    spec.dropout = 1.0;
    must_fail(fb_params_create(&spec, &params), "model.dropout", "below 1");
    spec.dropout = (double)NAN;
    must_fail(fb_params_create(&spec, &params), "model.dropout", "nan");
    assert_null(params);
}

/* Mean and variance of one tensor against U(-bound, bound), within 5 standard errors. */
static void check_uniform(const fb_tensor_info *tensor, const fb_real *w, double bound)
{
    const double n = (double)tensor->count, variance = bound * bound / 3.0;
    double sum = 0.0, squares = 0.0;
    for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
        assert_true(fabs((double)w[i]) <= bound * (1 + 1e-6));
        sum += (double)w[i];
        squares += (double)w[i] * (double)w[i];
    }
    assert_true(fabs(sum / n) < 5.0 * sqrt(variance / n));
    assert_true(fabs(squares / n - variance) < 5.0 * variance * sqrt(0.8 / n)); /* fourth moment: b^4 / 5 */
}

static void initial_values(void **state)
{
    (void)state;
    fb_params *params = NULL;
    fb_real *w = NULL, *again = NULL;
    must(fb_params_create(&full_spec, &params));
    must(FB_ALLOC(w, params->count, "weights"));
    must(FB_ALLOC(again, params->count, "weights"));
    fb_params_init(params, 1, w);
    for (int t = 0; t < params->tensor_count; t++) {
        const fb_tensor_info *tensor = &params->tensors[t];
        if (tensor->rank == 5)
            check_uniform(tensor, w, 1.0 / sqrt((double)(tensor->count / tensor->shape[0])));
        else if (strcmp(tensor->name, "conv_final.2.conv.bias") == 0)
            check_uniform(tensor, w, 1.0 / sqrt(8.0));
        else
            for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++)
                assert_true(w[i] == (strstr(tensor->name, "weight") ? 1.0f : 0.0f));
    }
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_INIT};
    assert_true(w[100] == (fb_real)fb_rng_range(&rng, 100, -1.0 / sqrt(108.0), 1.0 / sqrt(108.0)));
    fb_params_init(params, 1, again);
    assert_memory_equal(w, again, (size_t)params->count * sizeof *w);
    fb_params_init(params, 2, again);
    assert_memory_not_equal(w, again, 108 * sizeof *w);
    FB_FREE(w);
    FB_FREE(again);
    fb_params_destroy(&params);
}

/* --- network ------------------------------------------------------------------------------------- */

enum { VOXELS = 8 * 8 * 8, LOGITS = VOXELS * FB_REGIONS };

typedef struct net_fixture {
    fb_params *params;
    fb_segresnet *net;
    fb_real *w, *g;
    fb_real x[VOXELS * FB_IMAGE_CHANNELS], logits[LOGITS], dlogits[LOGITS];
} net_fixture;

static void make_net(net_fixture *f, const fb_ops *ops, int training)
{
    const int64_t shape[3] = {8, 8, 8};
    must(fb_params_create(&small_spec, &f->params));
    must(FB_ALLOC(f->w, f->params->count, "weights"));
    must(FB_ALLOC(f->g, f->params->count, "gradient"));
    must(fb_segresnet_create(&small_spec, f->params, ops, shape, training, &f->net));
    fb_params_init(f->params, 3, f->w);
    fill(VOXELS * FB_IMAGE_CHANNELS, 1, f->x);
    fill(LOGITS, 2, f->dlogits);
}

static void drop_net(net_fixture *f)
{
    fb_segresnet_destroy(&f->net);
    fb_params_destroy(&f->params);
    FB_FREE(f->w);
    FB_FREE(f->g);
}

static void refused_shapes_are_named(void **state)
{
    (void)state;
    fb_params *params = NULL;
    fb_segresnet *net = NULL;
    must(fb_params_create(&full_spec, &params));
    const int64_t odd[3] = {16, 12, 16}, empty[3] = {16, 16, 0};
    must_fail(fb_segresnet_create(&full_spec, params, &fb_ops_ref, odd, 1, &net), "H is 12", "multiple of 8");
    must_fail(fb_segresnet_create(&full_spec, params, &fb_ops_ref, empty, 1, &net), "W is 0", "multiple of 8");
    const int64_t shape[3] = {16, 16, 16};
    fb_net_spec wider = full_spec;
    wider.filters = 16;
    must_fail(fb_segresnet_create(&wider, params, &fb_ops_ref, shape, 1, &net), "convInit.conv.weight", "one spec");
    assert_null(net);
    fb_params_destroy(&params);
}

static void backward_needs_a_forward(void **state)
{
    (void)state;
    net_fixture f = {0};
    make_net(&f, &fb_ops_ref, 1);
    must_fail(fb_segresnet_backward(f.net, f.dlogits, f.g), "backward", "run forward");
    must(fb_segresnet_forward(f.net, f.w, f.x, NULL, f.logits));
    must(fb_segresnet_backward(f.net, f.dlogits, f.g));
    must_fail(fb_segresnet_backward(f.net, f.dlogits, f.g), "backward", "run forward");
    drop_net(&f);
    make_net(&f, &fb_ops_ref, 0);
    must(fb_segresnet_forward(f.net, f.w, f.x, NULL, f.logits));
    must_fail(fb_segresnet_backward(f.net, f.dlogits, f.g), "backward", "for training");
    drop_net(&f);
}

static void a_step_repeats_and_allocates_nothing(void **state)
{
    (void)state;
    const fb_ops *const backends[] = {&fb_ops_ref, &fb_ops_dnnl};
    for (int i = 0; i < 2; i++) {
        net_fixture f = {0}, first = {0};
        make_net(&f, backends[i], 1);
        must(FB_ALLOC(first.g, f.params->count, "gradient"));
        must(fb_segresnet_forward(f.net, f.w, f.x, NULL, first.logits));
        must(fb_segresnet_backward(f.net, f.dlogits, first.g));
        const int64_t blocks = fb_mem_live_blocks(), bytes = fb_mem_live_bytes();
        for (int64_t p = 0; p < f.params->count; p++)
            f.g[p] = NAN; /* overwritten, not added to */
        must(fb_segresnet_forward(f.net, f.w, f.x, NULL, f.logits));
        must(fb_segresnet_backward(f.net, f.dlogits, f.g));
        assert_memory_equal(f.logits, first.logits, sizeof f.logits);
        assert_memory_equal(f.g, first.g, (size_t)f.params->count * sizeof *f.g);
        assert_int_equal(fb_mem_live_blocks(), blocks);
        assert_int_equal(fb_mem_live_bytes(), bytes);
        FB_FREE(first.g);
        drop_net(&f);
    }
}

static void inference_gives_the_same_bits_in_less_memory(void **state)
{
    (void)state;
    const fb_real dropout_scale[8] = {1.25, 0, 1.25, 1.25, 1.25, 1.25, 0, 1.25};
    net_fixture train = {0}, infer = {0};
    make_net(&train, &fb_ops_ref, 1);
    make_net(&infer, &fb_ops_ref, 0);
    const int64_t level0 = VOXELS * 8 * (int64_t)sizeof(fb_real), level1 = level0 / 4;
    assert_int_equal(fb_segresnet_activation_bytes(infer.net), 3 * level0 + level1);
    /* first level: 2 blocks of 4, init, skip sum, last input, gradient; second: 2 blocks of 4, start; half: its way up
     */
    assert_int_equal(fb_segresnet_activation_bytes(train.net), 12 * level0 + 9 * level1 + level1 / 2);
    for (int masked = 0; masked < 2; masked++) {
        must(fb_segresnet_forward(train.net, train.w, train.x, masked ? dropout_scale : NULL, train.logits));
        must(fb_segresnet_forward(infer.net, infer.w, infer.x, masked ? dropout_scale : NULL, infer.logits));
        assert_memory_equal(train.logits, infer.logits, sizeof train.logits);
    }
    drop_net(&train);
    drop_net(&infer);
}

static void one_level_is_a_network_too(void **state)
{
    (void)state;
    const fb_net_spec spec = {.filters = 8, .levels = 1, .blocks_down = {1}};
    const int64_t shape[3] = {3, 5, 7};
    fb_params *params = NULL;
    fb_segresnet *net = NULL;
    fb_real x[105 * FB_IMAGE_CHANNELS], logits[105 * FB_REGIONS], *w = NULL, *g = NULL;
    must(fb_params_create(&spec, &params));
    must(FB_ALLOC(w, params->count, "weights"));
    must(FB_ALLOC(g, params->count, "gradient"));
    must(fb_segresnet_create(&spec, params, &fb_ops_ref, shape, 1, &net));
    fb_params_init(params, 3, w);
    fill(105 * FB_IMAGE_CHANNELS, 1, x);
    must(fb_segresnet_forward(net, w, x, NULL, logits));
    must(fb_segresnet_backward(net, logits, g));
    fb_segresnet_destroy(&net);
    fb_params_destroy(&params);
    FB_FREE(w);
    FB_FREE(g);
}

/* --- loss ---------------------------------------------------------------------------------------- */

/* The formula, straight down. */
static double plain_dice_loss(int64_t voxels, const fb_real *logits, const uint8_t *target)
{
    double loss = 0.0;
    for (int r = 0; r < FB_REGIONS; r++) {
        double both = 0.0, squares = 0.0, truth = 0.0;
        for (int64_t v = 0; v < voxels; v++) {
            const double p = 1.0 / (1.0 + exp(-(double)logits[v * FB_REGIONS + r])), g = target[v] >> r & 1;
            both += p * g;
            squares += p * p;
            truth += g * g;
        }
        loss += (1.0 - 2.0 * both / (squares + truth + 1e-5)) / FB_REGIONS;
    }
    return loss;
}

static void dice_loss_follows_the_formula(void **state)
{
    (void)state;
    enum { N = 70001, SIZES = 5 };
    const int64_t sizes[SIZES] = {1, 63, 255, 257, N};
    fb_real *logits = NULL;
    uint8_t *target = NULL;
    must(FB_ALLOC(logits, N * FB_REGIONS, "logits"));
    must(FB_ALLOC(target, N, "target"));
    fill(N * FB_REGIONS, 7, logits);
    for (int64_t i = 0; i < N * FB_REGIONS; i++)
        logits[i] *= 20.0f;
    for (int64_t v = 0; v < N; v++)
        target[v] = (uint8_t)(v * 5 % 8);
    for (int i = 0; i < SIZES; i++) {
        const double want = plain_dice_loss(sizes[i], logits, target);
        assert_true(fabs(fb_dice_loss(sizes[i], logits, target, NULL) - want) < 1e-13);
    }
    FB_FREE(logits);
    FB_FREE(target);
}

static void dice_loss_of_known_answers(void **state)
{
    (void)state;
    const uint8_t target[4] = {7, 7, 0, 0};
    fb_real perfect[12], wrong[12], dlogits[12];
    for (int i = 0; i < 12; i++) {
        perfect[i] = i < 6 ? 1000.0f : -1000.0f; /* no exponential may overflow */
        wrong[i] = -perfect[i];
    }
    assert_true(fabs(fb_dice_loss(4, perfect, target, dlogits) - 1e-5 / 4.00001) < 1e-15);
    assert_true(fabs(fb_dice_loss(4, wrong, target, dlogits) - 1.0) < 1e-15);
    for (int i = 0; i < 12; i++)
        assert_true(dlogits[i] == 0.0f);
    perfect[5] = NAN;
    assert_true(isnan(fb_dice_loss(4, perfect, target, NULL)));
}

static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { N = 5000 };
    fb_real logits[N * FB_REGIONS], one[N * FB_REGIONS], many[N * FB_REGIONS];
    uint8_t target[N];
    fill(N * FB_REGIONS, 8, logits);
    for (int v = 0; v < N; v++)
        target[v] = (uint8_t)(v * 3 % 8);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const double loss_one = fb_dice_loss(N, logits, target, one);
    omp_set_num_threads(3);
    const double loss_many = fb_dice_loss(N, logits, target, many);
    omp_set_num_threads(threads);
    assert_memory_equal(&loss_one, &loss_many, sizeof loss_one);
    assert_memory_equal(one, many, sizeof one);
}

/* --- optimiser ----------------------------------------------------------------------------------- */

/* By hand: step 1 moves by the learning rate; the rest follows Kingma & Ba with the bias corrections 0.19, 0.001999. */
static void adam_of_three_steps(void **state)
{
    (void)state;
    const fb_adam_spec adam = {0.1, 0.9, 0.999, 1e-8, 0.0};
    const float g[3] = {0.5f, -0.25f, 0.0f}, want_w[3] = {0.900000002f, 0.8733662987f, 0.8527783690f},
                want_m[3] = {0.05f, 0.02f, 0.018f}, want_v[3] = {2.5e-4f, 3.1225e-4f, 3.1193775e-4f};
    float w = 1.0f, m = 0.0f, v = 0.0f;
    for (int step = 1; step <= 3; step++) {
        fb_adam_step(&adam, 1, step, &w, &g[step - 1], &m, &v);
        assert_float_equal(w, want_w[step - 1], 3e-7); /* a few roundings of 6e-8 */
        assert_float_equal(m, want_m[step - 1], 1e-8);
        assert_float_equal(v, want_v[step - 1], 1e-10);
    }
}

static void adam_decays_through_the_gradient(void **state)
{
    (void)state;
    enum { N = 37 };
    const fb_adam_spec adam = {0.1, 0.9, 0.999, 1e-8, 0.1};
    float w[N], g[N] = {0}, m[N] = {0}, v[N] = {0};
    for (int i = 0; i < N; i++)
        w[i] = 2.0f;
    fb_adam_step(&adam, N, 1, w, g, m, v);
    fb_adam_step(&adam, N, 2, w, g, m, v);
    for (int i = 0; i < N; i++) {
        assert_float_equal(w[i], 1.8001664957, 5e-7);
        assert_true(g[i] == 0.0f);
    }
}

/* --- metric -------------------------------------------------------------------------------------- */

static void dice_of_counted_voxels(void **state)
{
    (void)state;
    /* voxel:              0    1    2    3    4 */
    const float tc[5] = {1.0f, 1.0f, -1.0f, 0.0f, 2.0f}, wt[5] = {-1, -1, -1, -1, -1}, et[5] = {1, 1, -1, 1, -1};
    const uint8_t target[5] = {1 << FB_REGION_TC, 0, 1 << FB_REGION_TC | 1 << FB_REGION_WT, 1 << FB_REGION_TC,
                               1 << FB_REGION_TC};
    float logits[15];
    fb_counts counts;
    for (int v = 0; v < 5; v++) {
        logits[3 * v + FB_REGION_TC] = tc[v];
        logits[3 * v + FB_REGION_WT] = wt[v];
        logits[3 * v + FB_REGION_ET] = et[v];
    }
    fb_count_case(5, logits, target, &counts);
    assert_int_equal(counts.both[FB_REGION_TC], 2);
    assert_int_equal(counts.predicted[FB_REGION_TC], 3); /* a logit of zero is a probability of 1/2: not predicted */
    assert_int_equal(counts.truth[FB_REGION_TC], 4);
    assert_true(fb_dice(&counts, FB_REGION_TC) == 4.0 / 7.0);
    assert_true(fb_dice(&counts, FB_REGION_WT) == 0.0);
    assert_int_equal(counts.predicted[FB_REGION_ET], 3);
    assert_true(isnan(fb_dice(&counts, FB_REGION_ET))); /* three false positives, but nothing to find */
}

static void dice_means_leave_empty_regions_out(void **state)
{
    (void)state;
    const fb_counts cases[3] = {
        {.both = {1, 2, 0}, .predicted = {1, 2, 5}, .truth = {1, 2, 0}}, /* 1, 1, none */
        {.both = {1, 0, 0}, .predicted = {2, 0, 0}, .truth = {2, 4, 0}}, /* 0.5, 0, none */
        {.both = {0, 3, 0}, .predicted = {9, 3, 0}, .truth = {0, 9, 0}}, /* none, 0.5, none */
    };
    double mean[FB_REGIONS];
    int64_t valid[FB_REGIONS];
    assert_true(fb_dice_mean(3, cases, mean, valid) == 3.0 / 5.0);
    assert_true(mean[0] == 0.75 && valid[0] == 2);
    assert_true(mean[1] == 0.5 && valid[1] == 3);
    assert_true(isnan(mean[2]) && valid[2] == 0);
    assert_true(isnan(fb_dice_mean(0, cases, mean, valid)));
    assert_true(isnan(mean[0]) && valid[0] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameter_counts),
        cmocka_unit_test(names_and_shapes_are_monais),
        cmocka_unit_test(refused_specs_are_named),
        cmocka_unit_test(initial_values),
        cmocka_unit_test(refused_shapes_are_named),
        cmocka_unit_test(backward_needs_a_forward),
        cmocka_unit_test(a_step_repeats_and_allocates_nothing),
        cmocka_unit_test(inference_gives_the_same_bits_in_less_memory),
        cmocka_unit_test(one_level_is_a_network_too),
        cmocka_unit_test(dice_loss_follows_the_formula),
        cmocka_unit_test(dice_loss_of_known_answers),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(adam_of_three_steps),
        cmocka_unit_test(adam_decays_through_the_gradient),
        cmocka_unit_test(dice_of_counted_voxels),
        cmocka_unit_test(dice_means_leave_empty_regions_out),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
