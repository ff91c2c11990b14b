/* SPDX-License-Identifier: Apache-2.0
 *
 * Events and checks that the tests of the accountants share.
 */
#pragma once

#include "privacy/accountant.h"
#include "testing.h"

#include <math.h>

enum { GRID = 1 << 20 };

static const double ROUNDING = 1e-10; /* relative, of two ways to compute the same */

static inline fb_event gaussian(double noise, double rate, int64_t count)
{
    return (fb_event){
        .kind = FB_EVENT_GAUSSIAN, .scale = noise * GRID, .sensitivity = GRID, .rate = rate, .count = count};
}

/* Fine enough to be the continuous one. */
static inline fb_event laplace(double epsilon, int64_t count)
{
    return (fb_event){
        .kind = FB_EVENT_LAPLACE, .scale = 2 * GRID / epsilon, .sensitivity = 2 * GRID, .rate = 1, .count = count};
}

static inline fb_event discrete(double scale, double shift, int64_t count)
{
    return (fb_event){.kind = FB_EVENT_LAPLACE, .scale = scale, .sensitivity = shift, .rate = 1, .count = count};
}

static inline fb_event pure(double epsilon, int64_t count)
{
    return (fb_event){.kind = FB_EVENT_PURE, .epsilon = epsilon, .rate = 1, .count = count};
}

static inline fb_spent spend(const fb_event *events, int n, double delta)
{
    fb_spent spent;
    must(fb_account(&(fb_history){FB_ADD_REMOVE, n, events}, delta, &spent));
    return spent;
}

static inline double spend_one(fb_event event, double delta)
{
    return spend(&event, 1, delta).epsilon;
}

static inline double by(fb_event event, double delta, fb_accountant accountant)
{
    return spend(&event, 1, delta).by[accountant];
}

static inline void assert_near(double value, double expected, double relative)
{
    if (!(fabs(value - expected) <= relative * fabs(expected)))
        fail_msg("%.17g, expected is %.17g", value, expected);
}

static inline void assert_within(double value, double low, double high)
{
    if (!(value >= low && value <= high))
        fail_msg("%.17g is not in [%.17g, %.17g]", value, low, high);
}

static inline double normal(double x)
{
    return erfc(-x / sqrt(2)) / 2;
}
