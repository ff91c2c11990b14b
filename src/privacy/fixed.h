/* SPDX-License-Identifier: Apache-2.0
 *
 * Fixed-point arithmetic of the samplers: the same bits on every machine, and errors that can be counted. Qn: a number
 * in units of 2^-n.
 */
#pragma once

#include "core/hd.h"

#include <stdint.h>

__extension__ typedef unsigned __int128 fb_wide;
__extension__ typedef __int128 fb_signed_wide;

FB_HD static inline uint64_t fb_fixed_mul_high(uint64_t a, uint64_t b)
{
    return (uint64_t)((fb_wide)a * b >> 64);
}

/* exp(-y) for y in [0, 1) in Q64, as Q63; off by less than 2^-62.
 * Horner's rule p = 1 - y / n * p over 20 terms: a step rounds by less than a unit of 2^-63, earlier ones are scaled by
 * y / n with alternating signs, and the series is cut below 1 / 21! < 2^-65. */
FB_HD static inline uint64_t fb_fixed_exp_minus(uint64_t y)
{
    const uint64_t one = UINT64_C(1) << 63;
    uint64_t p = one;
    for (unsigned n = 20; n > 0; n--)
        p = one - fb_fixed_mul_high(y, p) / n;
    return p;
}
