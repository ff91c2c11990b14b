/* SPDX-License-Identifier: Apache-2.0 */
#include "core/mem.h"
#include "privacy/device.h"
#include "privacy/exponential.h"
#include "privacy/gauss.h"
#include "privacy/gaussian.h"
#include "privacy/grid.h"
#include "privacy/laplace.h"
#include "privacy/mechanism.h"
#include "privacy/noise_stream.h"
#include "privacy/select.h"
#include "privacy/svt.h"

#include <math.h>
#include <string.h>

static const int64_t MESSAGE_LIMIT = INT64_C(1) << 62; /* of a value on the wire */

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
    int64_t first = n; /* that is not finite */
#pragma omp parallel for reduction(min : first) if (n > FB_GRID_ALONE)
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(dw[i]) && i < first)
            first = i;
    }
    if (first < n)
        return FB_FAIL("update: coordinate %lld is %g, not a finite number; the training diverged: lower "
                       "train.learning_rate",
                       (long long)first, (double)dw[first]);
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

/* Largest by |grid| where there is one: the order of what was clipped is not looked at. */
static fb_status choose_largest(const task *t, const int32_t *grid, uint32_t *index)
{
    float *magnitude = NULL; /* (n) exact: |grid| < 2^20 */
    FB_TRY(FB_ALLOC_RAW(magnitude, t->budget->n, "magnitudes"));
#pragma omp parallel for if (t->budget->n > FB_GRID_ALONE)
    for (int64_t i = 0; i < t->budget->n; i++)
        magnitude[i] = grid ? (float)grid[i] : isfinite(t->in->dw[i]) ? t->in->dw[i] : 0.0f;
    const fb_status status = fb_select_topk(t->budget->n, magnitude, t->budget->count, index);
    FB_FREE(magnitude);
    return status;
}

static fb_status choose_public(const task *t, uint32_t *index)
{
    FB_ASSERT(t->in->public_index != NULL);
    memcpy(index, t->in->public_index, (size_t)t->budget->count * sizeof *index);
    return FB_OK;
}

/* With noise: svt and exponential go by the grid (n). */
static fb_status choose_noised(const task *t, const int32_t *grid, choice *out, fb_release_report *report)
{
    const fb_release_input *in = t->in;
    switch (t->spec->select) {
    case FB_SELECT_SVT:
    case FB_SELECT_SVT_AS_PUBLISHED:
        return fb_svt_select(t->budget, in->public_rng, in->noise, in->attempt, in->round, grid, out->index,
                             &out->count, report);
    case FB_SELECT_EXPONENTIAL:
        return fb_exponential_select(t->budget, in->noise, in->attempt, in->round, grid, out->index);
    default:
        break;
    }
    FB_ASSERT(t->spec->select == FB_SELECT_TOPK);
    return choose_largest(t, grid, out->index);
}

/* Without: the exponential mechanism of an infinite budget takes the largest. */
static fb_status choose_exact(const task *t, choice *out)
{
    if (t->spec->select == FB_SELECT_SVT)
        return choose_above_threshold(t, out->index, &out->count);
    FB_ASSERT(t->spec->select == FB_SELECT_TOPK || t->spec->select == FB_SELECT_EXPONENTIAL);
    return fb_select_topk(t->budget->n, t->in->dw, t->budget->count, out->index);
}

static fb_status choose(const task *t, fb_value_kind kind, const int32_t *grid, choice *out, fb_release_report *report)
{
    out->count = t->budget->count;
    switch (t->spec->select) {
    case FB_SELECT_ALL:
        return FB_OK;
    case FB_SELECT_RANDOM:
        return fb_select_random(t->in->public_rng, t->budget->n, t->budget->count, out->index);
    case FB_SELECT_PUBLIC:
        return choose_public(t, out->index);
    default:
        return kind == FB_VALUES_GRID ? choose_noised(t, grid, out, report) : choose_exact(t, out);
    }
}

/* Chooses, reserves room in `out` and writes the indices there. */
static fb_status reserve_choice(const task *t, fb_value_kind kind, const int32_t *grid, fb_update *out,
                                fb_release_report *report)
{
    choice chosen = {0};
    if (t->spec->select != FB_SELECT_ALL)
        FB_TRY(FB_ALLOC(chosen.index, t->budget->count, "chosen coordinates"));
    fb_status status = choose(t, kind, grid, &chosen, report);
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
    FB_TRY(reserve_choice(t, FB_VALUES_F32, NULL, out, report));
    const float limit = (float)(t->spec->clip * (double)t->in->steps); /* infinity: no clip */
    int64_t clipped = 0;
#pragma omp parallel for reduction(+ : clipped) if (out->count > FB_GRID_ALONE)
    for (int64_t k = 0; k < out->count; k++) {
        const float value = t->in->dw[coordinate(out, k)];
        const int outside = fabsf(value) > limit;
        out->f32[k] = outside ? copysignf(limit, value) : value;
        clipped += outside;
    }
    report->clipped = clipped;
    return FB_OK;
}

static int64_t clamp(int64_t value, int64_t limit)
{
    return value > limit ? limit : value < -limit ? -limit : value;
}

typedef struct noising {
    fb_laplace *laplace; /* of the two samplers one is NULL */
    fb_gauss *gauss;
    int64_t limit;
    int64_t *value; /* (count) gets noise and is clipped to +-limit */
} noising;

static void noise_block(const void *context, fb_stream *stream, int64_t block, int count)
{
    const noising *n = context;
    int64_t *const value = n->value + block * FB_NOISE_BLOCK;
    int64_t drawn[FB_NOISE_BLOCK];
    if (n->laplace)
        fb_laplace_block(n->laplace, stream, block, count, drawn);
    else
        fb_gauss_block(n->gauss, stream, block, count, drawn);
    for (int k = 0; k < count; k++)
        value[k] = clamp(value[k] + drawn[k], n->limit);
}

/* value (count) gets fresh noise from the address and is clipped to +-limit. |value| < 2^62, limit <= 2^62. */
static fb_status add_noise(fb_mechanism mechanism, double scale, fb_noise *noise, const fb_noise_address *address,
                           int64_t limit, int64_t count, int64_t *value)
{
    noising n = {.limit = limit, .value = value};
    if (mechanism == FB_MECHANISM_LAPLACE)
        FB_TRY(fb_laplace_create(scale, &n.laplace));
    else
        FB_TRY(fb_gauss_create(scale, &n.gauss));
    fb_noise_seek(noise, address);
    fb_noise_for_blocks(noise, count, noise_block, &n);
    fb_laplace_destroy(&n.laplace);
    fb_gauss_destroy(&n.gauss);
    return FB_OK;
}

/* The published form looks at the change before the clip: trunc(u / 2^g), within +-2^46 so that sums stay in range. */
static int64_t unclipped(const task *t, int64_t i)
{
    const float dw = t->in->dw[i];
    const double u = isfinite(dw) ? ldexp((double)dw / (double)t->in->steps, -t->budget->grid_log2) : 0.0;
    return (int64_t)fmax(-0x1p46, fmin(0x1p46, u));
}

static void copy_values(const task *t, const int32_t *grid, const fb_update *out)
{
    const int published = t->spec->select == FB_SELECT_SVT_AS_PUBLISHED;
#pragma omp for nowait
    for (int64_t k = 0; k < out->count; k++) {
        const int64_t i = coordinate(out, k);
        out->grid[k] = published ? unclipped(t, i) : grid[i];
    }
}

/* The chosen values on the grid of the answers, bounded as the noise needs it (as published: not). */
static void fill_values(const task *t, const int32_t *grid, fb_update *out, fb_release_report *report)
{
    out->grid_log2 = t->budget->grid_log2;
    if (t->spec->mechanism == FB_MECHANISM_GAUSSIAN) {
        const int64_t clipped = fb_gaussian_values(t->spec, t->budget, t->in, out, &report->norm_scale);
        report->clipped = grid ? report->clipped : clipped; /* the grid has counted all coordinates */
        return;
    }
    if (out->count <= FB_GRID_ALONE) {
        copy_values(t, grid, out);
    } else {
#pragma omp parallel
        copy_values(t, grid, out);
    }
}

/* The noise that this hospital owes, and the second clip. */
static fb_status add_answer_noise(const task *t, fb_update *out)
{
    const fb_noise_address address = {.attempt = t->in->attempt, .round = t->in->round, .purpose = FB_NOISE_ANSWER};
    const fb_budget *budget = t->budget;
    const int laplace = t->spec->mechanism == FB_MECHANISM_LAPLACE;
    const int again =
        t->spec->trust == FB_TRUST_LOCAL && (t->spec->clip_answers || t->spec->select == FB_SELECT_SVT_AS_PUBLISHED);
    const int64_t limit = laplace ? budget->clip_grid : budget->clip_norm_grid;
    if (t->spec->trust == FB_TRUST_CENTRAL)
        return FB_OK;
    return add_noise(t->spec->mechanism, laplace ? budget->scale_answer : budget->sigma_share, t->in->noise, &address,
                     again ? limit : MESSAGE_LIMIT, out->count, out->grid);
}

static void add_non_finite(int64_t n, const float *dw, int64_t *count)
{
    int64_t part = 0;
#pragma omp for nowait
    for (int64_t i = 0; i < n; i++)
        part += !isfinite(dw[i]);
#pragma omp atomic
    *count += part;
}

static int64_t count_non_finite(int64_t n, const float *dw)
{
    int64_t count = 0;
    if (n <= FB_GRID_ALONE) {
        add_non_finite(n, dw, &count);
    } else {
#pragma omp parallel
        add_non_finite(n, dw, &count);
    }
    return count;
}

static fb_status release_noised(const task *t, fb_update *out, fb_release_report *report)
{
    int32_t *grid = NULL; /* (n) of selection and Laplace answers; NULL: not needed */
    fb_status status = FB_OK;
    FB_ASSERT(t->in->noise != NULL || t->spec->trust == FB_TRUST_CENTRAL);
    if (t->budget->clip_grid > 0) {
        FB_TRY_GOTO(status, FB_ALLOC_RAW(grid, t->budget->n, "update on the grid"), done);
        fb_grid_quantise(t->budget, t->spec->clip, t->in->steps, t->in->dw, grid, report);
    } else {
        report->non_finite = count_non_finite(t->budget->n, t->in->dw);
    }
    FB_TRY_GOTO(status, reserve_choice(t, FB_VALUES_GRID, grid, out, report), done);
    fill_values(t, grid, out, report);
    out->least_bits = t->budget->value_bits;
    status = add_answer_noise(t, out);
done:
    FB_FREE(grid);
    return status;
}

/* By the allocations of choose() and what it calls. */
static int64_t choosing_bytes(const fb_release_spec *spec, const fb_budget *budget)
{
    const int64_t n = budget->n;
    const int noised = spec->mechanism == FB_MECHANISM_LAPLACE || spec->mechanism == FB_MECHANISM_GAUSSIAN;
    switch (spec->select) {
    case FB_SELECT_SVT:
    case FB_SELECT_SVT_AS_PUBLISHED:
        return noised ? fb_svt_bytes(n) : n * (int64_t)sizeof(uint32_t) + n / 8;
    case FB_SELECT_EXPONENTIAL:
        return noised ? n * (int64_t)sizeof(int64_t) : 0;
    case FB_SELECT_TOPK:
        return noised ? n * (int64_t)sizeof(float) : 0;
    case FB_SELECT_RANDOM:
        return n / 8;
    default:
        return 0;
    }
}

int64_t fb_release_bytes(const fb_release_spec *spec, const fb_budget *budget)
{
    const int noised = spec->mechanism == FB_MECHANISM_LAPLACE || spec->mechanism == FB_MECHANISM_GAUSSIAN;
    const int64_t grid = noised && budget->clip_grid > 0 ? budget->n * (int64_t)sizeof(int32_t) : 0;
    const int64_t index = spec->select == FB_SELECT_ALL ? 0 : budget->count * (int64_t)sizeof(uint32_t);
    const int64_t values = fb_update_bytes(budget->n, budget->count, noised ? FB_VALUES_GRID : FB_VALUES_F32);
    const int64_t choosing = choosing_bytes(spec, budget);
    return grid + index + (choosing > values ? choosing : values);
}

fb_status fb_release(const fb_release_spec *spec, const fb_budget *budget, const fb_release_input *in, fb_update *out,
                     fb_release_report *report)
{
    const task t = {spec, budget, in};
    FB_ASSERT(in->steps > 0 && budget->count <= budget->n);
    *report = (fb_release_report){.norm_scale = 1.0, .overlap = (double)NAN};
    if (in->device) {
        int done = 0;
        FB_TRY(fb_privacy_device_release(in->device, spec, budget, in, out, report, &done));
        if (done)
            return FB_OK;
    }
    if (spec->mechanism == FB_MECHANISM_NONE || spec->mechanism == FB_MECHANISM_DPSGD)
        return release_exact(&t, out, report);
    return release_noised(&t, out, report);
}

fb_status fb_release_server_noise(const fb_release_spec *spec, const fb_budget *budget, fb_noise *noise,
                                  uint32_t attempt, uint32_t round, int64_t count, int64_t *sum)
{
    const fb_noise_address address = {.attempt = attempt, .round = round, .purpose = FB_NOISE_SERVER};
    const int laplace = spec->mechanism == FB_MECHANISM_LAPLACE;
    FB_ASSERT(spec->trust == FB_TRUST_CENTRAL);
    return add_noise(spec->mechanism, laplace ? budget->scale_answer : budget->sigma, noise, &address, MESSAGE_LIMIT,
                     count, sum);
}

fb_status fb_release_overlap(const fb_update *update, const float *dw, double *overlap)
{
    uint32_t *largest = NULL;
    int64_t common = 0;
    *overlap = update->count > 0 ? 1.0 : (double)NAN;
    if (!update->index || update->count == 0)
        return FB_OK;
    FB_TRY(FB_ALLOC_RAW(largest, update->count, "largest changes"));
    const fb_status status = fb_select_topk(update->n, dw, update->count, largest);
    for (int64_t k = 0, j = 0; status == FB_OK && k < update->count; k++) {
        while (j < update->count && largest[j] < update->index[k])
            j++;
        common += j < update->count && largest[j] == update->index[k];
    }
    *overlap = (double)common / (double)update->count;
    FB_FREE(largest);
    return status;
}
