/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/schedule.h"

#include "core/mem.h"
#include "core/rng.h"

#include <math.h>

/* The unassigned hospital with the most steps, lowest index first. */
static int largest(int hospital_count, const int64_t *steps, const int *rank_of)
{
    int best = -1;
    for (int h = 0; h < hospital_count; h++)
        if (rank_of[h] < 0 && (best < 0 || steps[h] > steps[best]))
            best = h;
    return best;
}

static int64_t load(int hospital_count, const int64_t *steps, const int *rank_of, int rank)
{
    int64_t sum = 0;
    for (int h = 0; h < hospital_count; h++)
        sum += rank_of[h] == rank ? steps[h] : 0;
    return sum;
}

void fb_schedule_assign(int hospital_count, const int64_t *steps, int ranks, int *rank_of)
{
    for (int h = 0; h < hospital_count; h++)
        rank_of[h] = -1;
    for (int i = 0; i < hospital_count; i++) {
        const int hospital = largest(hospital_count, steps, rank_of);
        int lightest = 0;
        int64_t least = INT64_MAX;
        for (int rank = 0; rank < ranks; rank++) {
            const int64_t sum = load(hospital_count, steps, rank_of, rank);
            if (sum < least) {
                least = sum;
                lightest = rank;
            }
        }
        rank_of[hospital] = lightest;
    }
}

fb_status fb_schedule_participants(uint64_t seed, uint32_t round, int hospital_count, double fraction,
                                   int64_t *participates)
{
    const int wanted = (int)lround(fraction * hospital_count);
    const int count = wanted < 1 ? 1 : wanted;
    const fb_rng rng = {seed, FB_RNG_PARTICIPATION, 0, round, 0};
    uint32_t *order = NULL;
    FB_TRY(FB_ALLOC(order, hospital_count, "participants"));
    fb_rng_permutation(&rng, (uint32_t)hospital_count, order);
    for (int i = 0; i < hospital_count; i++)
        participates[order[i]] = i < count;
    FB_FREE(order);
    return FB_OK;
}

int64_t fb_schedule_mean_steps(int hospital_count, const int64_t *participates, const int64_t *steps, int uniform)
{
    int64_t sum = 0, weights = 0;
    for (int h = 0; h < hospital_count; h++) {
        const int64_t weight = participates[h] ? (uniform ? 1 : steps[h]) : 0;
        sum += weight * steps[h];
        weights += weight;
    }
    FB_ASSERT(weights > 0);
    return (sum + weights / 2) / weights;
}
