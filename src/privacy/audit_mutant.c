/* SPDX-License-Identifier: Apache-2.0
 *
 * The sparse vector technique of mechanism.h in its plainest form, with one fault.
 */
#include "core/mem.h"
#include "privacy/audit_release.h"
#include "privacy/grid.h"
#include "privacy/laplace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fb_audit_broken {
    fb_audit_mutant mutant;
    fb_release_spec spec;
    fb_budget budget;
    fb_audit_subject subject;
    fb_laplace *threshold, *query, *answer;
    fb_noise *noise;
    fb_rng order;
};

/* One release. */
typedef struct work {
    fb_audit_broken *b;
    const float *dw;
    int32_t grid[FB_AUDIT_COORDINATES_MAX];
    int64_t threshold;
    int64_t tested[FB_AUDIT_COORDINATES_MAX]; /* value and noise of the test that was passed */
    uint32_t attempt, sample, step;
    int64_t count;
    uint32_t index[FB_AUDIT_COORDINATES_MAX]; /* (count) selected, in the order of selection */
    uint64_t taken;                           /* bits of the same */
} work;

const char *fb_audit_mutant_name(fb_audit_mutant mutant)
{
    static const char *const names[FB_MUTANTS] = {"none",
                                                  "query-without-c",
                                                  "no-query-noise",
                                                  "no-cut-off",
                                                  "tested-noise-released",
                                                  "clip-after-noise",
                                                  "unselected-unnoised",
                                                  "answer-without-c",
                                                  "answer-sensitivity",
                                                  "nan-passes",
                                                  "replay-uncharged",
                                                  "pass-noise-reused",
                                                  "replacement-sampling",
                                                  "threshold-reused"};
    return names[mutant];
}

static void seek(const work *w, fb_noise_purpose purpose, uint32_t pass)
{
    const fb_noise_address address = {.attempt = w->attempt,
                                      .round = w->sample,
                                      .step = w->step,
                                      .purpose = (uint16_t)purpose,
                                      .pass = (uint16_t)pass};
    fb_noise_seek(w->b->noise, &address);
}

static void take(work *w, uint32_t i)
{
    w->index[w->count++] = i;
    w->taken |= UINT64_C(1) << i;
}

/* Tests coordinate i; a NaN passes every test of the fault of that name. */
static int passes(work *w, uint32_t i)
{
    fb_audit_broken *b = w->b;
    const int64_t noise = b->query ? fb_laplace_draw(b->query, b->noise) : 0;
    w->tested[i] = w->grid[i] < 0 ? w->grid[i] - noise : w->grid[i] + noise;
    return llabs(w->grid[i]) + noise >= w->threshold || (b->mutant == FB_MUTANT_NAN_PASSES && isnan(w->dw[i]));
}

static void run_pass(work *w, uint32_t pass, int64_t cut_off)
{
    uint32_t rest[FB_AUDIT_COORDINATES_MAX], left = 0;
    fb_rng order = w->b->order;
    order.epoch = pass;
    for (uint32_t i = 0; i < (uint32_t)w->b->budget.n; i++)
        if (!(w->taken >> i & 1u))
            rest[left++] = i;
    seek(w, FB_NOISE_QUERY, w->b->mutant == FB_MUTANT_PASS_NOISE_REUSED ? 0 : pass);
    for (uint32_t k = 0; k < left && w->count < cut_off; k++) {
        const uint32_t other = k + fb_rng_below(&order, k, left - k), i = rest[other];
        rest[other] = rest[k];
        if (passes(w, i))
            take(w, i);
    }
}

static void select_svt(work *w)
{
    const fb_audit_broken *b = w->b;
    const int no_cut = b->mutant == FB_MUTANT_NO_CUT_OFF;
    const uint32_t rounds = no_cut ? 1 : FB_SVT_PASSES;
    for (uint32_t pass = 0; pass < rounds && w->count < (no_cut ? b->budget.n : b->budget.count); pass++)
        run_pass(w, pass, no_cut ? b->budget.n : b->budget.count);
}

/* As the reference implementation drew its subset: repeated coordinates are sent once. */
static void select_with_replacement(work *w)
{
    for (uint32_t k = 0; k < (uint32_t)w->b->budget.count; k++) {
        const uint32_t i = fb_rng_below(&w->b->order, k, (uint32_t)w->b->budget.n);
        if (!(w->taken >> i & 1u))
            take(w, i);
    }
}

static int32_t saturate(int64_t value)
{
    return (int32_t)(value > FB_AUDIT_VALUE_MAX    ? FB_AUDIT_VALUE_MAX
                     : value < -FB_AUDIT_VALUE_MAX ? -FB_AUDIT_VALUE_MAX
                                                   : value);
}

static int64_t raw_value(const work *w, uint32_t i)
{
    const double grid = ldexp((double)w->dw[i], -w->b->budget.grid_log2);
    return isnan(grid) ? 0 : (int64_t)fmax(-0x1p40, fmin(0x1p40, grid));
}

static int64_t answer_to(const work *w, uint32_t i)
{
    const fb_audit_broken *b = w->b;
    const int64_t clip = b->budget.clip_grid, noise = fb_laplace_draw(b->answer, b->noise);
    switch (b->mutant) {
    case FB_MUTANT_TESTED_NOISE_RELEASED:
        return w->tested[i];
    case FB_MUTANT_CLIP_AFTER_NOISE: {
        const int64_t value = raw_value(w, i) + noise;
        return value > clip ? clip : value < -clip ? -clip : value;
    }
    case FB_MUTANT_NAN_PASSES:
        return isnan(w->dw[i]) ? INT64_MAX : w->grid[i] + noise;
    default:
        return w->grid[i] + noise;
    }
}

static void answer(work *w, int32_t *outcome)
{
    seek(w, FB_NOISE_ANSWER, 0);
    for (uint32_t i = 0; i < (uint32_t)w->b->budget.n; i++) {
        const int raw = w->b->mutant == FB_MUTANT_UNSELECTED_UNNOISED;
        outcome[i] = w->taken >> i & 1u ? saturate(answer_to(w, i)) : raw ? w->grid[i] : FB_AUDIT_UNSELECTED;
    }
}

static void release_once(work *w, int32_t *outcome)
{
    fb_release_report report;
    w->count = 0;
    w->taken = 0;
    fb_grid_quantise(&w->b->budget, w->b->spec.clip, 1, w->dw, w->grid, &report);
    if (w->b->mutant == FB_MUTANT_REPLACEMENT_SAMPLING)
        select_with_replacement(w);
    else
        select_svt(w);
    answer(w, outcome);
}

static void draw_threshold(work *w)
{
    seek(w, FB_NOISE_THRESHOLD, 0);
    w->threshold = w->b->budget.threshold_grid + fb_laplace_draw(w->b->threshold, w->b->noise);
}

static fb_status run(void *state, const float *dw, uint32_t attempt, uint32_t sample, int32_t *outcome)
{
    fb_audit_broken *b = state;
    work w = {.b = b, .dw = dw, .attempt = attempt, .sample = sample};
    draw_threshold(&w);
    release_once(&w, outcome);
    if (b->subject.width > b->budget.n) {
        w.step = 1;
        if (b->mutant != FB_MUTANT_THRESHOLD_REUSED)
            draw_threshold(&w);
        release_once(&w, outcome + b->budget.n);
    }
    return FB_OK;
}

static fb_status make_tables(fb_audit_broken *b)
{
    const double c = (double)b->budget.count;
    double query = b->budget.scale_query, value = b->budget.scale_answer;
    if (b->mutant == FB_MUTANT_QUERY_WITHOUT_C)
        query /= c;
    if (b->mutant == FB_MUTANT_ANSWER_WITHOUT_C)
        value /= c;
    if (b->mutant == FB_MUTANT_ANSWER_SENSITIVITY)
        value /= 2.0;
    FB_TRY(fb_laplace_create(b->budget.scale_threshold, &b->threshold));
    if (b->mutant != FB_MUTANT_NO_QUERY_NOISE)
        FB_TRY(fb_laplace_create(query, &b->query));
    return fb_laplace_create(value, &b->answer);
}

static fb_status prepare(fb_audit_broken *b, int64_t n, uint64_t seed)
{
    uint8_t key[FB_KEY_BYTES];
    const int twice = b->mutant == FB_MUTANT_REPLAY_UNCHARGED || b->mutant == FB_MUTANT_THRESHOLD_REUSED;
    const double charged = b->mutant == FB_MUTANT_THRESHOLD_REUSED ? 2.0 : 1.0;
    if (b->spec.select != FB_SELECT_SVT || b->spec.mechanism != FB_MECHANISM_LAPLACE)
        return FB_USAGE("audit.mutant = %s: the broken mechanisms are variants of svt + laplace; set audit.mechanism "
                        "to it",
                        fb_audit_mutant_name(b->mutant));
    FB_ASSERT(n <= FB_AUDIT_COORDINATES_MAX);
    FB_TRY(fb_budget_plan(&b->spec, n, &b->budget));
    FB_TRY(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    FB_TRY(fb_noise_create(key, &b->noise));
    FB_TRY(make_tables(b));
    b->subject = (fb_audit_subject){.name = fb_audit_mutant_name(b->mutant),
                                    .n = n,
                                    .width = twice ? 2 * n : n,
                                    .clip_grid = b->budget.clip_grid,
                                    .epsilon = charged * b->budget.epsilon_round,
                                    .run = run,
                                    .state = b};
    return FB_OK;
}

fb_status fb_audit_broken_create(fb_audit_mutant mutant, const fb_release_spec *spec, int64_t n, uint64_t seed,
                                 fb_audit_broken **out)
{
    fb_audit_broken *b = NULL;
    FB_TRY(FB_ALLOC(b, 1, "broken subject of an audit"));
    b->mutant = mutant;
    b->spec = *spec;
    b->order = (fb_rng){.seed = seed, .purpose = FB_RNG_SELECT};
    const fb_status status = prepare(b, n, seed);
    *out = b;
    if (status != FB_OK)
        fb_audit_broken_destroy(out);
    return status;
}

void fb_audit_broken_destroy(fb_audit_broken **broken)
{
    fb_audit_broken *b = *broken;
    if (!b)
        return;
    fb_laplace_destroy(&b->threshold);
    fb_laplace_destroy(&b->query);
    fb_laplace_destroy(&b->answer);
    fb_noise_destroy(&b->noise);
    FB_FREE(*broken);
}

const fb_audit_subject *fb_audit_broken_subject(const fb_audit_broken *broken)
{
    return &broken->subject;
}
