/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/exponential.h"

#include "core/mem.h"
#include "privacy/gumbel.h"
#include "privacy/noise_stream.h"
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

typedef struct scoring {
    const int32_t *grid; /* (n) */
    wide factor;         /* |grid| * factor <= S 2^FACTOR_BITS */
    int64_t *key;        /* (n) becomes score + noise */
} scoring;

static void fill_keys(const void *context, fb_stream *stream, int64_t block, int count)
{
    const scoring *s = context;
    const int32_t *const grid = s->grid + block * FB_NOISE_BLOCK;
    int64_t *const key = s->key + block * FB_NOISE_BLOCK;
    fb_gumbel_block(stream, block, count, key);
    for (int k = 0; k < count; k++)
        key[k] += (int64_t)((wide)abs(grid[k]) * s->factor >> FACTOR_BITS);
}

fb_status fb_exponential_select(const fb_budget *budget, fb_noise *noise, uint32_t attempt, uint32_t round,
                                const int32_t *grid, uint32_t *index)
{
    const fb_noise_address address = {.attempt = attempt, .round = round, .purpose = FB_NOISE_GUMBEL};
    const uint64_t score_max = (uint64_t)fb_exponential_score_max(budget);
    const wide factor = ((wide)score_max << FACTOR_BITS) / (uint64_t)budget->clip_grid;
    int64_t *key = NULL;
    FB_TRY(FB_ALLOC_RAW(key, budget->n, "noised scores"));
    fb_noise_seek(noise, &address);
    fb_noise_for_blocks(noise, budget->n, fill_keys, &(scoring){grid, factor, key});
    const fb_status status = fb_select_largest(budget->n, key, budget->count, index);
    FB_FREE(key);
    return status;
}
