/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/audit_release.h"

#include "core/mem.h"
#include "privacy/exponential.h"
#include "privacy/grid.h"
#include "privacy/laplace.h"
#include "privacy/svt.h"

_Static_assert((int)FB_AUDIT_COORDINATES_MAX <= (int)FB_NOISE_BLOCK, "the answers of a sample are draws of one block");

struct fb_audit_release {
    fb_release_spec spec;
    fb_budget budget;
    fb_audit_subject subject;
    fb_rng order;
    fb_noise *noise;
    fb_laplace *answer; /* NULL: every sample calls fb_release */
    fb_svt_tables tables;
    fb_update update;
    int32_t grid[FB_AUDIT_COORDINATES_MAX];
    uint32_t index[FB_AUDIT_COORDINATES_MAX];
};

static int32_t saturate(int64_t value)
{
    return (int32_t)(value > FB_AUDIT_VALUE_MAX    ? FB_AUDIT_VALUE_MAX
                     : value < -FB_AUDIT_VALUE_MAX ? -FB_AUDIT_VALUE_MAX
                                                   : value);
}

static void clear(const fb_audit_release *r, int32_t *outcome)
{
    for (int64_t i = 0; i < r->budget.n; i++)
        outcome[i] = FB_AUDIT_UNSELECTED;
}

static fb_status call_release(void *state, const float *dw, uint32_t attempt, uint32_t sample, int32_t *outcome)
{
    fb_audit_release *r = state;
    fb_release_report report;
    const fb_release_input in = {
        .public_rng = &r->order, .noise = r->noise, .attempt = attempt, .round = sample, .steps = 1, .dw = dw};
    FB_TRY(fb_release(&r->spec, &r->budget, &in, &r->update, &report));
    clear(r, outcome);
    for (int64_t k = 0; k < r->update.count; k++)
        outcome[r->update.index ? r->update.index[k] : k] = saturate(r->update.grid[k]);
    return FB_OK;
}

/* The same steps with the tables made once. */
static fb_status release_fast(void *state, const float *dw, uint32_t attempt, uint32_t sample, int32_t *outcome)
{
    fb_audit_release *r = state;
    fb_release_report report;
    int64_t count = r->budget.count;
    const int64_t limit = r->spec.clip_answers ? r->budget.clip_grid : INT64_C(1) << 62;
    const fb_noise_address address = {.attempt = attempt, .round = sample, .purpose = FB_NOISE_ANSWER};
    fb_grid_quantise(&r->budget, r->spec.clip, 1, dw, r->grid, &report);
    if (r->spec.select == FB_SELECT_SVT)
        FB_TRY(fb_svt_select_by(&r->tables, &r->budget, &r->order, r->noise, attempt, sample, r->grid, r->index, &count,
                                &report));
    if (r->spec.select == FB_SELECT_EXPONENTIAL)
        FB_TRY(fb_exponential_select(&r->budget, r->noise, attempt, sample, r->grid, r->index));
    clear(r, outcome);
    fb_noise_seek(r->noise, &address);
    for (int64_t k = 0; k < count; k++) {
        const uint32_t i = r->index[k];
        const int64_t value = r->grid[i] + fb_laplace_draw(r->answer, r->noise);
        outcome[i] = saturate(value > limit ? limit : value < -limit ? -limit : value);
    }
    return FB_OK;
}

/* Coordinates chosen without data are the same in every sample. */
static fb_status prepare_fast(fb_audit_release *r)
{
    if (r->spec.select == FB_SELECT_SVT)
        r->tables = fb_svt_tables_of(&r->budget);
    if (r->spec.select == FB_SELECT_RANDOM)
        FB_TRY(fb_select_random(&r->order, r->budget.n, r->budget.count, r->index));
    for (int64_t i = 0; i < r->budget.n && r->spec.select == FB_SELECT_ALL; i++)
        r->index[i] = (uint32_t)i;
    return fb_laplace_create(r->budget.scale_answer, &r->answer);
}

static fb_status prepare(fb_audit_release *r, int64_t n, uint64_t seed, int repeat_tables)
{
    uint8_t key[FB_KEY_BYTES];
    const int known = r->spec.select == FB_SELECT_ALL || r->spec.select == FB_SELECT_RANDOM ||
                      r->spec.select == FB_SELECT_SVT || r->spec.select == FB_SELECT_EXPONENTIAL;
    const int fast = known && r->spec.mechanism == FB_MECHANISM_LAPLACE && !repeat_tables;
    FB_ASSERT(n <= FB_AUDIT_COORDINATES_MAX && r->spec.mechanism != FB_MECHANISM_NONE);
    FB_TRY(fb_budget_plan(&r->spec, n, &r->budget));
    FB_TRY(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    FB_TRY(fb_noise_create(key, &r->noise));
    if (fast)
        FB_TRY(prepare_fast(r));
    r->subject = (fb_audit_subject){.name = "release",
                                    .n = n,
                                    .width = n,
                                    .clip_grid = r->budget.clip_grid,
                                    .epsilon = r->budget.epsilon_round,
                                    .run = fast ? release_fast : call_release,
                                    .state = r};
    return FB_OK;
}

fb_status fb_audit_release_create(const fb_release_spec *spec, int64_t n, uint64_t seed, int repeat_tables,
                                  fb_audit_release **out)
{
    fb_audit_release *r = NULL;
    FB_TRY(FB_ALLOC(r, 1, "subject of an audit"));
    r->spec = *spec;
    r->order = (fb_rng){.seed = seed, .purpose = FB_RNG_SELECT};
    const fb_status status = prepare(r, n, seed, repeat_tables);
    *out = r;
    if (status != FB_OK)
        fb_audit_release_destroy(out);
    return status;
}

void fb_audit_release_destroy(fb_audit_release **release)
{
    fb_audit_release *r = *release;
    if (!r)
        return;
    fb_laplace_destroy(&r->answer);
    fb_noise_destroy(&r->noise);
    fb_update_free(&r->update);
    FB_FREE(*release);
}

const fb_audit_subject *fb_audit_release_subject(const fb_audit_release *release)
{
    return &release->subject;
}

const fb_budget *fb_audit_release_budget(const fb_audit_release *release)
{
    return &release->budget;
}

/* Fisher-Yates as in svt.c, epoch 0. */
void fb_audit_release_last(const fb_audit_release *release, uint32_t *last)
{
    const uint32_t n = (uint32_t)release->budget.n;
    for (uint32_t i = 0; i < n; i++)
        last[n - 1 - i] = i;
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t other = k + fb_rng_below(&release->order, k, n - k);
        const uint32_t moved = last[n - 1 - k];
        last[n - 1 - k] = last[n - 1 - other];
        last[n - 1 - other] = moved;
    }
}
