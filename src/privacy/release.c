/* SPDX-License-Identifier: Apache-2.0 */
#include "core/mem.h"
#include "privacy/grid.h"
#include "privacy/mechanism.h"
#include "privacy/select.h"
#include "privacy/svt.h"

#include <math.h>
#include <string.h>

typedef struct task {
    const fb_release_spec *spec;
    const fb_budget *budget;
    const fb_release_input *in;
} task;

/* The coordinates to be shared, ascending. index: NULL stands for all, count == n. */
typedef struct choice {
    int64_t count;
    uint32_t *index; /* owned */
} choice;

static fb_status check_finite(int64_t n, const float *dw)
{
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(dw[i]))
            return FB_FAIL("update: coordinate %lld is %g, not a finite number; the training diverged: lower "
                           "train.learning_rate",
                           (long long)i, (double)dw[i]);
    }
    return FB_OK;
}

/* SVT without noise: coordinates with |dw| / steps >= threshold, and of these, if too many, a public random subset. */
static fb_status choose_above_threshold(const task *t, uint32_t *index, int64_t *count)
{
    uint32_t *above = NULL;
    int64_t found = 0;
    FB_TRY(FB_ALLOC(above, t->budget->n, "coordinates above the threshold"));
    for (int64_t i = 0; i < t->budget->n; i++) {
        above[found] = (uint32_t)i;
        found += fabs((double)t->in->dw[i]) / (double)t->in->steps >= t->spec->threshold;
    }
    *count = found < t->budget->count ? found : t->budget->count;
    const fb_status status = fb_select_random(t->in->public_rng, found, *count, index);
    for (int64_t k = 0; status == FB_OK && k < *count; k++)
        index[k] = above[index[k]];
    FB_FREE(above);
    return status;
}

/* Largest by |grid|, not by |dw|: the order of what was clipped is not looked at. */
static fb_status choose_largest_grid(const task *t, const int32_t *grid, uint32_t *index)
{
    float *magnitude = NULL; /* (n) exact: |grid| < 2^20 */
    FB_TRY(FB_ALLOC(magnitude, t->budget->n, "magnitudes"));
    for (int64_t i = 0; i < t->budget->n; i++)
        magnitude[i] = (float)grid[i];
    const fb_status status = fb_select_topk(t->budget->n, magnitude, t->budget->count, index);
    FB_FREE(magnitude);
    return status;
}

/* grid (n): NULL without a mechanism */
static fb_status choose(const task *t, const int32_t *grid, choice *out, fb_release_report *report)
{
    const fb_budget *budget = t->budget;
    out->count = budget->count;
    switch (t->spec->select) {
    case FB_SELECT_RANDOM:
        return fb_select_random(t->in->public_rng, budget->n, budget->count, out->index);
    case FB_SELECT_TOPK:
        return grid ? choose_largest_grid(t, grid, out->index)
                    : fb_select_topk(budget->n, t->in->dw, budget->count, out->index);
    case FB_SELECT_SVT:
        return grid ? fb_svt_select(budget, t->in->public_rng, t->in->noise, t->in->attempt, t->in->round, grid,
                                    out->index, &out->count, report)
                    : choose_above_threshold(t, out->index, &out->count);
    default:
        break;
    }
    FB_ASSERT(t->spec->select == FB_SELECT_ALL);
    return FB_OK;
}

/* Chooses, reserves room in `out` and writes the indices there. */
static fb_status reserve_choice(const task *t, const int32_t *grid, fb_update *out, fb_release_report *report)
{
    const fb_value_kind kind = grid ? FB_VALUES_GRID : FB_VALUES_F32;
    choice chosen = {0};
    if (t->spec->select != FB_SELECT_ALL)
        FB_TRY(FB_ALLOC(chosen.index, t->budget->count, "chosen coordinates"));
    fb_status status = choose(t, grid, &chosen, report);
    if (status == FB_OK)
        status = fb_update_reserve(out, t->budget->n, chosen.count, kind);
    if (status == FB_OK && out->index)
        memcpy(out->index, chosen.index, (size_t)chosen.count * sizeof *out->index);
    FB_FREE(chosen.index);
    return status;
}

static int64_t coordinate(const fb_update *update, int64_t k)
{
    return update->index ? update->index[k] : k;
}

static fb_status release_exact(const task *t, fb_update *out, fb_release_report *report)
{
    FB_TRY(check_finite(t->budget->n, t->in->dw));
    FB_TRY(reserve_choice(t, NULL, out, report));
    const float limit = (float)(t->spec->clip * (double)t->in->steps); /* infinity: no clip */
    for (int64_t k = 0; k < out->count; k++) {
        const float value = t->in->dw[coordinate(out, k)];
        const int outside = fabsf(value) > limit;
        out->f32[k] = outside ? copysignf(limit, value) : value;
        report->clipped += outside;
    }
    return FB_OK;
}

/* Fresh noise on every chosen coordinate, and the second clip. */
static void answer(const task *t, const fb_laplace *laplace, const int32_t *grid, fb_update *out)
{
    const fb_noise_address address = {.attempt = t->in->attempt, .round = t->in->round, .purpose = FB_NOISE_ANSWER};
    const int64_t limit = t->spec->clip_answers ? t->budget->clip_grid : INT64_C(1) << 62; /* 2^62: of the message */
    out->grid_log2 = t->budget->grid_log2;
    fb_noise_seek(t->in->noise, &address);
    for (int64_t k = 0; k < out->count; k++) {
        const int64_t value = grid[coordinate(out, k)] + fb_laplace_draw(laplace, t->in->noise);
        out->grid[k] = value > limit ? limit : value < -limit ? -limit : value;
    }
}

static fb_status release_noised(const task *t, fb_update *out, fb_release_report *report)
{
    fb_laplace *laplace = NULL;
    int32_t *grid = NULL; /* (n) */
    fb_status status = FB_OK;
    FB_ASSERT(t->in->noise != NULL);
    FB_TRY_GOTO(status, FB_ALLOC(grid, t->budget->n, "update on the grid"), done);
    FB_TRY_GOTO(status, fb_laplace_create(t->budget->scale_answer, &laplace), done);
    fb_grid_quantise(t->budget, t->spec->clip, t->in->steps, t->in->dw, grid, report);
    FB_TRY_GOTO(status, reserve_choice(t, grid, out, report), done);
    answer(t, laplace, grid, out);
done:
    fb_laplace_destroy(&laplace);
    FB_FREE(grid);
    return status;
}

fb_status fb_release(const fb_release_spec *spec, const fb_budget *budget, const fb_release_input *in, fb_update *out,
                     fb_release_report *report)
{
    const task t = {spec, budget, in};
    FB_ASSERT(in->steps > 0 && budget->count <= budget->n);
    memset(report, 0, sizeof *report);
    if (spec->mechanism == FB_MECHANISM_NONE)
        return release_exact(&t, out, report);
    return release_noised(&t, out, report);
}
