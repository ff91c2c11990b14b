/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/alias.h"

#include "core/status.h"

#include <float.h>

_Static_assert(LDBL_MANT_DIG >= 64, "the error bounds of laplace.c and gauss.c need a long double of 64 bits");

enum { SLOTS_MAX = 1024 };

/* The quotients are off by 3 roundings, half a unit each, so that their sum misses the full one by as much; every
 * weight takes its part of that, and the first what is left, less than a unit of 2^-112 a slot. */
void fb_alias_weigh(int slots, const long double *share, fb_wide *weight)
{
    fb_wide sum = 0, total = 0;
    const fb_wide full = (fb_wide)(unsigned)slots << FB_ALIAS_BITS;
    for (int i = 0; i < slots; i++)
        sum += (fb_wide)(share[i] * 0x1p116L);
    const long double unit = (long double)sum * 0x1p-116L;
    for (int i = 0; i < slots; i++) {
        weight[i] = (fb_wide)(share[i] / unit * (long double)slots * 0x1p112L);
        total += weight[i];
    }
    const fb_signed_wide gap = (fb_signed_wide)(full - total), slots_full = (fb_signed_wide)(full >> 64);
    for (int i = 0; i < slots; i++) {
        const fb_signed_wide part = (fb_signed_wide)(weight[i] >> 64) * gap / slots_full;
        weight[i] += (fb_wide)part;
        total += (fb_wide)part;
    }
    weight[0] += full - total; /* wraps where the total is above */
}

/* Vose's construction, exact. */
void fb_alias_build(int slots, fb_wide *weight, fb_wide *cut, uint16_t *other)
{
    const fb_wide full = (fb_wide)1 << FB_ALIAS_BITS;
    uint16_t small[SLOTS_MAX], large[SLOTS_MAX];
    int smalls = 0, larges = 0;
    FB_ASSERT(slots <= SLOTS_MAX);
    for (int i = 0; i < slots; i++) {
        cut[i] = 0;
        other[i] = (uint16_t)i;
        if (weight[i] < full)
            small[smalls++] = (uint16_t)i;
        else
            large[larges++] = (uint16_t)i;
    }
    while (smalls > 0) {
        FB_ASSERT(larges > 0); /* one below the average implies one above */
        const uint16_t s = small[--smalls], l = large[larges - 1];
        cut[s] = weight[s];
        other[s] = l;
        weight[l] -= full - weight[s];
        if (weight[l] < full) {
            larges--;
            small[smalls++] = l;
        }
    }
}
