/* SPDX-License-Identifier: Apache-2.0
 *
 * Which parameters an expression trains, and that the compact vector holds exactly these.
 */
#include "core/rng.h"
#include "nn/subset.h"
#include "testing.h"

static const fb_net_spec spec = {.filters = 8, .levels = 2, .blocks_down = {1, 2}, .blocks_up = {1}};

static fb_params *make_params(void)
{
    fb_params *params = NULL;
    must(fb_params_create(&spec, &params));
    return params;
}

static fb_subset *make_subset(const fb_params *params, const char *expression)
{
    fb_subset *subset = NULL;
    must(fb_subset_create(params, expression, &subset));
    return subset;
}

static void empty_expression_trains_all(void **state)
{
    (void)state;
    const char *const all[] = {"", ".*", "conv.*|(down|up)_.*"};
    fb_params *params = make_params();
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        fb_subset *subset = make_subset(params, all[i]);
        assert_int_equal(subset->count, params->count);
        assert_int_equal(subset->range_count, 1);
        assert_int_equal(subset->ranges[0].offset, 0);
        assert_int_equal(subset->ranges[0].count, params->count);
        fb_subset_destroy(&subset);
        assert_null(subset);
    }
    fb_params_destroy(&params);
}

/* A name that only contains a match stays frozen; the longest alternative counts. */
static void whole_names_match(void **state)
{
    (void)state;
    fb_params *params = make_params();
    const fb_tensor_info *bias = fb_params_find(params, "conv_final.2.conv.bias");
    fb_subset *subset = make_subset(params, "conv_final|conv_final\\.2\\.conv\\.bias");
    assert_int_equal(subset->range_count, 1);
    assert_int_equal(subset->ranges[0].offset, bias->offset);
    assert_int_equal(subset->count, FB_REGIONS);
    fb_subset_destroy(&subset);
    subset = make_subset(params, "conv_final.*");
    assert_int_equal(subset->range_count, 1); /* four tensors in a row */
    assert_int_equal(subset->count, 2 * spec.filters + FB_REGIONS * spec.filters + FB_REGIONS);
    fb_subset_destroy(&subset);
    fb_params_destroy(&params);
}

static void faults(void **state)
{
    (void)state;
    fb_params *params = make_params();
    fb_subset *subset = NULL;
    must_fail(fb_subset_create(params, "conv_final", &subset), "train.trainable = conv_final", "convInit.conv.weight",
              "conv_final.2.conv.bias");
    must_fail(fb_subset_create(params, "(conv", &subset), "train.trainable = (conv", "regular expression");
    assert_null(subset);
    fb_params_destroy(&params);
}

/* Norm weights are many separate stretches: all of their elements, in order, and no other. */
static void gather_and_scatter(void **state)
{
    (void)state;
    const fb_rng rng = {.seed = 2, .purpose = FB_RNG_TEST};
    fb_params *params = make_params();
    fb_subset *subset = make_subset(params, ".*norm[12]\\.weight|convInit.*");
    float *arena = NULL, *other = NULL, *compact = NULL, *in_place = NULL;
    must(FB_ALLOC(arena, params->count, "arena"));
    must(FB_ALLOC(other, params->count, "arena"));
    must(FB_ALLOC(in_place, params->count, "arena"));
    must(FB_ALLOC(compact, subset->count, "compact"));
    for (int64_t i = 0; i < params->count; i++) {
        in_place[i] = arena[i] = (float)fb_rng_uniform(&rng, (uint32_t)i) + 1.0f;
        other[i] = arena[i] + 0.25f * (float)(i % 8);
    }
    assert_int_equal(subset->range_count, 8); /* convInit and the first norm weight touch */
    fb_subset_gather(subset, arena, compact);
    fb_subset_gather(subset, in_place, in_place);
    assert_memory_equal(compact, in_place, (size_t)subset->count * sizeof *compact);
    fb_subset_difference(subset, other, arena, in_place);
    for (int64_t i = 0, k = 0; i < params->tensor_count; i++) {
        const fb_tensor_info *tensor = &params->tensors[i];
        const int trained = strstr(tensor->name, "norm1.weight") || strstr(tensor->name, "norm2.weight") ||
                            strstr(tensor->name, "convInit");
        for (int64_t j = tensor->offset; trained && j < tensor->offset + tensor->count; j++, k++) {
            assert_true(compact[k] == arena[j]);
            assert_true(in_place[k] == other[j] - arena[j]);
            compact[k] = -1.0f;
        }
    }
    fb_subset_scatter(subset, compact, arena);
    int64_t changed = 0;
    for (int64_t i = 0; i < params->count; i++)
        changed += arena[i] == -1.0f;
    assert_int_equal(changed, subset->count);
    FB_FREE(arena);
    FB_FREE(other);
    FB_FREE(in_place);
    FB_FREE(compact);
    fb_subset_destroy(&subset);
    fb_params_destroy(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_expression_trains_all),
        cmocka_unit_test(whole_names_match),
        cmocka_unit_test(faults),
        cmocka_unit_test(gather_and_scatter),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
