/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/exponential.h"

#include "core/mem.h"
#include "privacy/gumbel.h"
#include "privacy/select.h"

#include <math.h>
#include <stdlib.h>

__extension__ typedef unsigned __int128 wide;

enum { FACTOR_BITS = 32 };

double fb_exponential_score_max(const fb_budget *budget)
{
    const double half = budget->epsilon_query / (double)budget->count / 2.0;
    return ldexp(half * (1.0 - 0x1p-50), FB_GUMBEL_FRACTION_BITS); /* less what the line above rounds */
}

fb_status fb_exponential_select(const fb_budget *budget, fb_noise *noise, uint32_t attempt, uint32_t round,
                                const int32_t *grid, uint32_t *index)
{
    const fb_noise_address address = {.attempt = attempt, .round = round, .purpose = FB_NOISE_GUMBEL};
    const uint64_t score_max = (uint64_t)fb_exponential_score_max(budget);
    const wide factor = ((wide)score_max << FACTOR_BITS) / (uint64_t)budget->clip_grid; /* |grid| * factor <= S 2^32 */
    int64_t *key = NULL;
    FB_TRY(FB_ALLOC_RAW(key, budget->n, "noised scores"));
    fb_noise_seek(noise, &address);
    for (int64_t i = 0; i < budget->n; i++) {
        const int64_t score = (int64_t)((wide)abs(grid[i]) * factor >> FACTOR_BITS);
        key[i] = score + fb_gumbel_draw(noise);
    }
    const fb_status status = fb_select_largest(budget->n, key, budget->count, index);
    FB_FREE(key);
    return status;
}
