/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference operations in double against PyTorch and MONAI in float64: only the order of sums differs, so 1e-11
 * leaves room for fifty thousand roundings in a row. The complete gradient of the small case is stored in float.
 */
#include "golden_check.h"

static const double limit = 1e-11, float_limit = 1e-7;

static void small_network(void **state)
{
    (void)state;
    golden_check(golden_small(), &fb_ops_ref, limit);
}

static void dropped_channels_and_empty_region(void **state)
{
    (void)state;
    golden_check(golden_masked(), &fb_ops_ref, limit);
}

static void full_network(void **state)
{
    (void)state;
    golden_check(golden_full(), &fb_ops_ref, limit);
}

static void every_gradient_and_ten_steps(void **state)
{
    (void)state;
    golden_check_steps(golden_small(), &fb_ops_ref, float_limit, limit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_network),
        cmocka_unit_test(dropped_channels_and_empty_region),
        cmocka_unit_test(full_network),
        cmocka_unit_test(every_gradient_and_ten_steps),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
