/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/alias.h"

#include "core/status.h"

#include <float.h>

_Static_assert(LDBL_MANT_DIG >= 64, "the error bounds of noise.c and gauss.c need a long double of 64 bits");

enum { SLOTS_MAX = 1024 };

void fb_alias_weigh(int slots, const long double *share, fb_wide *weight)
{
    fb_wide sum = 0, total = 0;
    const fb_wide full = (fb_wide)(unsigned)slots << 64;
    for (int i = 0; i < slots; i++)
        sum += (fb_wide)(share[i] * 0x1p100L);
    const long double unit = (long double)sum * 0x1p-100L;
    for (int i = 0; i < slots; i++) {
        weight[i] = (fb_wide)(share[i] / unit * (long double)slots * 0x1p64L);
        total += weight[i];
    }
    weight[0] += full - total; /* wraps where the total is above */
}

/* Vose's construction, exact. */
void fb_alias_build(int slots, fb_wide *weight, uint64_t *cut, uint16_t *other)
{
    const fb_wide full = (fb_wide)1 << 64;
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
        cut[s] = (uint64_t)weight[s];
        other[s] = l;
        weight[l] -= full - weight[s];
        if (weight[l] < full) {
            larges--;
            small[smalls++] = l;
        }
    }
}
