/* SPDX-License-Identifier: Apache-2.0
 *
 * Every float backend against PyTorch and MONAI. float rounds at 6e-8; through 30 layers, and where a rounding turns a
 * ReLU, the largest error of a gradient tensor stays below 1e-4 of its largest element.
 */
#include "golden_check.h"

static const double limit = 1e-4;
static const fb_ops *const backends[] = {&fb_ops_ref, &fb_ops_dnnl};
enum { BACKENDS = sizeof backends / sizeof backends[0] };

static void small_network(void **state)
{
    (void)state;
    for (int i = 0; i < BACKENDS; i++)
        golden_check(golden_small(), backends[i], limit);
}

static void dropped_channels_and_empty_region(void **state)
{
    (void)state;
    for (int i = 0; i < BACKENDS; i++)
        golden_check(golden_masked(), backends[i], limit);
}

static void full_network(void **state)
{
    (void)state;
    for (int i = 0; i < BACKENDS; i++)
        golden_check(golden_full(), backends[i], limit);
}

static void every_gradient_and_ten_steps(void **state)
{
    (void)state;
    for (int i = 0; i < BACKENDS; i++)
        golden_check_steps(golden_small(), backends[i], limit, limit);
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
