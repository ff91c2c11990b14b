/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/svt.h"

#include "core/mem.h"

#include <stdlib.h>

/* The order of the tests is drawn this many places ahead, so that the random memory accesses overlap. */
enum { SHUFFLE_AHEAD = 256 };

typedef struct candidate {
    uint32_t index;
    int32_t magnitude; /* on the grid */
} candidate;

typedef struct svt {
    const fb_svt_tables *tables;
    const fb_budget *budget;
    fb_noise *noise;
    int64_t threshold; /* noised, once */
    candidate *rest;   /* (n) the first `left` are not selected yet */
    uint64_t *chosen;  /* (n bits) */
    int64_t left, selected, tests;
} svt;

/* Fisher-Yates: fills places from..to-1 of a uniformly random order of `left` candidates. */
static void shuffle_places(const fb_rng *rng, candidate *rest, int64_t left, int64_t from, int64_t to)
{
    int64_t other[SHUFFLE_AHEAD];
    for (int64_t k = from; k < to; k++) {
        other[k - from] = k + fb_rng_below(rng, (uint32_t)k, (uint32_t)(left - k));
        __builtin_prefetch(&rest[other[k - from]], 1);
    }
    for (int64_t k = from; k < to; k++) {
        const candidate moved = rest[k];
        rest[k] = rest[other[k - from]];
        rest[other[k - from]] = moved;
    }
}

/* Tests places from..to-1 of the order; those that fail move to the places from `kept` on. Returns the new `kept`. */
static int64_t test_places(svt *s, int64_t from, int64_t to, int64_t kept)
{
    for (int64_t k = from; k < to && s->selected < s->budget->count; k++) {
        const candidate c = s->rest[k];
        const int above = fb_tail_reaches(&s->tables->query, s->threshold - c.magnitude, s->noise);
        s->tests++;
        s->chosen[c.index / 64] |= (uint64_t)above << c.index % 64;
        s->selected += above;
        s->rest[kept] = c;
        kept += !above;
    }
    return kept;
}

static void run_pass(svt *s, const fb_rng *order)
{
    int64_t kept = 0;
    for (int64_t from = 0; from < s->left && s->selected < s->budget->count; from += SHUFFLE_AHEAD) {
        const int64_t to = from + SHUFFLE_AHEAD < s->left ? from + SHUFFLE_AHEAD : s->left;
        shuffle_places(order, s->rest, s->left, from, to);
        kept = test_places(s, from, to, kept);
    }
    s->left = kept;
}

static fb_status prepare(svt *s, const fb_noise_address *address, const int32_t *grid)
{
    fb_noise_seek(s->noise, address);
    s->threshold = s->budget->threshold_grid + fb_tail_draw(&s->tables->threshold, s->noise);
    FB_TRY(FB_ALLOC(s->rest, s->budget->n, "order of the SVT tests"));
    FB_TRY(FB_ALLOC(s->chosen, (s->budget->n + 63) / 64, "selection of the SVT"));
    s->left = s->budget->n;
    for (int64_t i = 0; i < s->left; i++)
        s->rest[i] = (candidate){(uint32_t)i, abs(grid[i])};
    return FB_OK;
}

/* The chosen ones, ascending. Returns how many. */
static int64_t list_chosen(const svt *s, uint32_t *index)
{
    int64_t filled = 0;
    for (int64_t word = 0; word < (s->budget->n + 63) / 64; word++) {
        for (uint64_t rest = s->chosen[word]; rest != 0; rest &= rest - 1u)
            index[filled++] = (uint32_t)(64 * word + __builtin_ctzll(rest));
    }
    return filled;
}

fb_svt_tables fb_svt_tables_of(const fb_budget *budget)
{
    return (fb_svt_tables){fb_tail_of(budget->scale_threshold), fb_tail_of(budget->scale_query)};
}

fb_status fb_svt_select(const fb_budget *budget, const fb_rng *public_rng, fb_noise *noise, uint32_t attempt,
                        uint32_t round, const int32_t *grid, uint32_t *index, int64_t *selected,
                        fb_release_report *report)
{
    const fb_svt_tables tables = fb_svt_tables_of(budget);
    return fb_svt_select_by(&tables, budget, public_rng, noise, attempt, round, grid, index, selected, report);
}

fb_status fb_svt_select_by(const fb_svt_tables *tables, const fb_budget *budget, const fb_rng *public_rng,
                           fb_noise *noise, uint32_t attempt, uint32_t round, const int32_t *grid, uint32_t *index,
                           int64_t *selected, fb_release_report *report)
{
    svt s = {.tables = tables, .budget = budget, .noise = noise};
    fb_noise_address address = {.attempt = attempt, .round = round, .purpose = FB_NOISE_THRESHOLD};
    fb_rng order = *public_rng;
    fb_status status = prepare(&s, &address, grid);
    if (status != FB_OK)
        goto done;
    address.purpose = FB_NOISE_QUERY;
    for (int pass = 0; pass < FB_SVT_PASSES && s.selected < budget->count; pass++) {
        order.epoch = (uint32_t)pass;
        address.pass = (uint16_t)pass;
        fb_noise_seek(noise, &address);
        run_pass(&s, &order);
        report->passes = pass + 1;
    }
    *selected = list_chosen(&s, index);
    report->tests = s.tests;
done:
    FB_FREE(s.rest);
    FB_FREE(s.chosen);
    return status;
}
