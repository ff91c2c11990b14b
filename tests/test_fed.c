/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's sum and the schedule. */
#include "core/rng.h"
#include "fed/aggregate.h"
#include "fed/schedule.h"
#include "testing.h"

#include <math.h>

enum { N = 1000, HOSPITALS = 13 };

/* A dense update of uniform changes in (-amplitude, amplitude). */
static void make_dense(fb_update *update, uint32_t hospital, double amplitude)
{
    const fb_rng rng = {7, FB_RNG_TEST, hospital, 0, 0};
    must(fb_update_reserve(update, N, N, FB_VALUES_F32));
    for (uint32_t i = 0; i < N; i++)
        update->f32[i] = (float)fb_rng_range(&rng, i, -amplitude, amplitude);
}

static void average(const uint32_t *order, const int64_t *weights, float *w)
{
    fb_aggregate *aggregate = NULL;
    must(fb_aggregate_create(N, FB_WEIGHT_BITS, &aggregate));
    for (int i = 0; i < HOSPITALS; i++) {
        fb_update update = {0};
        make_dense(&update, order[i], 0.01);
        must(fb_aggregate_add(aggregate, &update, weights[order[i]], weights[order[i]]));
        fb_update_free(&update);
    }
    must(fb_aggregate_apply(aggregate, w));
    fb_aggregate_destroy(&aggregate);
}

/* Weighted mean as in FedAvg, in long double: agreement to the last bit or the rounding of 2^-40. */
static void weighted_mean_in_any_order(void **state)
{
    (void)state;
    const int64_t weights[HOSPITALS] = {18, 77, 20, 30, 11, 7, 3, 6, 13, 9, 32, 5, 11};
    const fb_rng rng = {1, FB_RNG_TEST, 99, 0, 0};
    uint32_t order[HOSPITALS], shuffled[HOSPITALS];
    float first[N] = {0}, second[N] = {0};
    for (uint32_t i = 0; i < HOSPITALS; i++)
        order[i] = i;
    fb_rng_permutation(&rng, HOSPITALS, shuffled);
    average(order, weights, first);
    average(shuffled, weights, second);
    assert_memory_equal(first, second, sizeof first);
    for (uint32_t i = 0; i < N; i++) {
        long double sum = 0.0L, total = 0.0L;
        for (uint32_t h = 0; h < HOSPITALS; h++) {
            const fb_rng source = {7, FB_RNG_TEST, h, 0, 0};
            sum += (long double)weights[h] * (float)fb_rng_range(&source, i, -0.01, 0.01);
            total += (long double)weights[h];
        }
        assert_true(fabsl((long double)first[i] - sum / total) <= 0x1p-40L + 0x1p-24L * fabsl(sum / total));
    }
}

/* Halves go away from zero on both sides: 3 and 0 units of 2^-40 average to 2, -3 and 0 to -2. */
static void averages_are_rounded_symmetrically(void **state)
{
    (void)state;
    float w[2] = {0};
    fb_aggregate *aggregate = NULL;
    fb_update update = {0};
    must(fb_aggregate_create(2, FB_WEIGHT_BITS, &aggregate));
    must(fb_update_reserve(&update, 2, 2, FB_VALUES_F32));
    update.f32[0] = 0x3p-40f;
    update.f32[1] = -0x3p-40f;
    must(fb_aggregate_add(aggregate, &update, 1, 1));
    update.f32[0] = update.f32[1] = 0.0f;
    must(fb_aggregate_add(aggregate, &update, 1, 1));
    must(fb_aggregate_apply(aggregate, w));
    assert_true(w[0] == 0x2p-40f && w[1] == -0x2p-40f);
    fb_update_free(&update);
    fb_aggregate_destroy(&aggregate);
}

static void identical_hospitals_equal_one(void **state)
{
    (void)state;
    float one[N] = {0}, many[N] = {0};
    fb_aggregate *aggregate = NULL;
    fb_update update = {0};
    make_dense(&update, 3, 0.3);
    must(fb_aggregate_create(N, FB_WEIGHT_BITS, &aggregate));
    must(fb_aggregate_add(aggregate, &update, 1, 5));
    must(fb_aggregate_apply(aggregate, one));
    fb_aggregate_reset(aggregate);
    for (int h = 0; h < 7; h++)
        must(fb_aggregate_add(aggregate, &update, 11, 11));
    must(fb_aggregate_apply(aggregate, many));
    assert_memory_equal(one, many, sizeof one);
    fb_update_free(&update);
    fb_aggregate_destroy(&aggregate);
}

/* Grid values are changes per step: the server multiplies by the steps; unshared coordinates count as no change. */
static void sparse_grid_values(void **state)
{
    (void)state;
    float w[N] = {0};
    fb_aggregate *aggregate = NULL;
    fb_update update = {0};
    must(fb_update_reserve(&update, N, 2, FB_VALUES_GRID));
    update.grid_log2 = -20;
    update.index[0] = 4;
    update.index[1] = 9;
    update.grid[0] = 1 << 10;
    update.grid[1] = -((int64_t)1 << 50);
    must(fb_aggregate_create(N, FB_WEIGHT_BITS, &aggregate));
    must(fb_aggregate_add(aggregate, &update, 6, 3));
    update.grid[1] = -update.grid[1];
    must(fb_aggregate_add(aggregate, &update, 2, 3));
    must(fb_aggregate_apply(aggregate, w));
    assert_true(w[4] == 3.0f * 0x1p-10f);
    assert_true(w[9] == (float)(-3.0 * 0x1p30 * (6.0 - 2.0) / 8.0));
    assert_true(w[0] == 0.0f && w[5] == 0.0f);
    update.grid_log2 = -41;
    must_fail(fb_aggregate_add(aggregate, &update, 1, 1), "grid exponent -41");
    fb_update_free(&update);
    fb_aggregate_destroy(&aggregate);
}

static void faults(void **state)
{
    (void)state;
    float w[N] = {0};
    fb_aggregate *aggregate = NULL;
    fb_update update = {0};
    make_dense(&update, 0, 1.0);
    must(fb_aggregate_create(N, FB_WEIGHT_BITS, &aggregate));
    must_fail(fb_aggregate_apply(aggregate, w), "no update");
    must_fail(fb_aggregate_add(aggregate, &update, 0, 1), "weight 0");
    must_fail(fb_aggregate_add(aggregate, &update, 1, 1 << 24), "steps 16777216");
    update.f32[17] = 1e30f;
    must_fail(fb_aggregate_add(aggregate, &update, 1, 1), "parameter 17");
    update.f32[17] = NAN;
    must_fail(fb_aggregate_add(aggregate, &update, 1, 1), "parameter 17");
    fb_update_free(&update);
    /* 2^61 grid steps of 2^-20 are 2^81 in fixed point, 2^105 with the steps and 2^129 with the weight */
    must(fb_update_reserve(&update, N, 1, FB_VALUES_GRID));
    update.grid_log2 = -20;
    update.index[0] = 5;
    update.grid[0] = (int64_t)1 << 61;
    must(fb_aggregate_add(aggregate, &update, 1, 1));
    must_fail(fb_aggregate_add(aggregate, &update, (1 << 24) - 1, (1 << 24) - 1), "parameter 5");
    fb_update_free(&update);
    fb_aggregate_destroy(&aggregate);
}

static void assignment(void **state)
{
    (void)state;
    const int64_t cases[HOSPITALS] = {18, 77, 20, 30, 11, 7, 3, 6, 13, 9, 32, 5, 11};
    for (int ranks = 1; ranks <= HOSPITALS; ranks++) {
        int rank_of[HOSPITALS];
        int64_t load[HOSPITALS] = {0}, heaviest = 0, sum = 0;
        fb_schedule_assign(HOSPITALS, cases, ranks, rank_of);
        for (int h = 0; h < HOSPITALS; h++) {
            assert_in_range(rank_of[h], 0, ranks - 1);
            load[rank_of[h]] += cases[h];
            sum += cases[h];
        }
        for (int rank = 0; rank < ranks; rank++) {
            assert_true(load[rank] > 0);
            heaviest = load[rank] > heaviest ? load[rank] : heaviest;
        }
        /* Graham's bound: 4/3 of the optimum, which is at least the mean and the largest hospital */
        const double optimum = fmax(77.0, (double)sum / ranks);
        assert_true((double)heaviest <= 4.0 / 3.0 * optimum);
    }
}

static void participation(void **state)
{
    (void)state;
    int64_t participates[HOSPITALS], times[HOSPITALS] = {0};
    for (uint32_t round = 0; round < 1000; round++) {
        int64_t count = 0;
        must(fb_schedule_participants(5, round, HOSPITALS, 0.3, participates));
        for (int h = 0; h < HOSPITALS; h++) {
            count += participates[h];
            times[h] += participates[h];
        }
        assert_int_equal(count, 4);
    }
    for (int h = 0; h < HOSPITALS; h++) /* binomial, mean 307.7, sigma 14.6: five sigma, fixed seed */
        assert_in_range(times[h], 235, 380);
    must(fb_schedule_participants(5, 0, HOSPITALS, 1e-6, participates));
    int64_t count = 0;
    for (int h = 0; h < HOSPITALS; h++)
        count += participates[h];
    assert_int_equal(count, 1);
}

/* What averaged moments have aged: 10 and 30 steps weigh 10 and 30, so (100 + 900) / 40 = 25; alike 20. */
static void mean_steps(void **state)
{
    (void)state;
    const int64_t steps[3] = {10, 1000, 30}, participates[3] = {1, 0, 1};
    assert_int_equal(fb_schedule_mean_steps(3, participates, steps, 0), 25);
    assert_int_equal(fb_schedule_mean_steps(3, participates, steps, 1), 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weighted_mean_in_any_order),
        cmocka_unit_test(averages_are_rounded_symmetrically),
        cmocka_unit_test(identical_hospitals_equal_one),
        cmocka_unit_test(sparse_grid_values),
        cmocka_unit_test(faults),
        cmocka_unit_test(assignment),
        cmocka_unit_test(participation),
        cmocka_unit_test(mean_steps),
    };
    const int failed = cmocka_run_group_tests_name("fed", tests, NULL, NULL);
    return failed || fb_mem_live_blocks() != 0;
}
