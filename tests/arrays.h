/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays for the tests of the operations: random, copied, poisoned, and compared.
 */
#pragma once

#include "core/rng.h"
#include "testing.h"

#include <math.h>

static inline float *make(int64_t count)
{
    float *a = NULL;
    must(FB_ALLOC(a, count, "test array"));
    return a;
}

/* Uniform on [lo, hi); `stream` tells arrays apart. */
static inline float *make_random(int64_t count, uint32_t stream, double lo, double hi)
{
    const fb_rng rng = {.seed = 20261123, .purpose = FB_RNG_TEST, .round = stream};
    float *a = make(count);
    for (int64_t i = 0; i < count; i++)
        a[i] = (float)fb_rng_range(&rng, (uint32_t)i, lo, hi);
    return a;
}

static inline float *make_copy(int64_t count, const float *from)
{
    float *a = make(count);
    memcpy(a, from, (size_t)count * sizeof *a);
    return a;
}

/* An array that must be overwritten. */
static inline float *make_nan(int64_t count)
{
    float *a = make(count);
    for (int64_t i = 0; i < count; i++)
        a[i] = NAN;
    return a;
}

/* Largest difference relative to the largest element expected; infinite where one is NaN. */
static inline double error_of(int64_t count, const float *got, const float *want)
{
    double difference = 0.0, largest = 0.0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i]))
            return INFINITY;
        difference = fmax(difference, fabs((double)got[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    return difference / largest;
}

static inline void assert_close(const char *what, int64_t count, const float *got, const float *want, double bound)
{
    const double error = error_of(count, got, want);
    if (!(error <= bound))
        fail_msg("%s: error %.3g of the largest element, allowed %.3g", what, error, bound);
}

static inline void assert_same_bits(int64_t count, const float *a, const float *b)
{
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
}

static inline int64_t volume(const int64_t extent[3])
{
    return extent[0] * extent[1] * extent[2];
}
