/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of the kernels of a release (kernels_privacy.h), as release.c has it. Calls only queue; what goes wrong on
 * the device is reported by the next download.
 */
#include "privacy/device.h"

#include "core/mem.h"
#include "privacy/exponential.h"
#include "privacy/gauss.h"
#include "privacy/gauss_draw.h"
#include "privacy/gaussian.h"
#include "privacy/grid.h"
#include "privacy/gumbel.h"
#include "privacy/kernels_privacy.h"
#include "privacy/laplace.h"
#include "privacy/noise_stream.h"
#include "privacy/svt.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

static const int64_t MESSAGE_LIMIT = INT64_C(1) << 62; /* release.c */

enum { FACTOR_BITS_SCORE = 32, SWAP_ROUNDS = 8, STRETCH_MIN = 256 * FB_NOISE_BLOCK };

struct fb_privacy_device {
    const fb_ops *ops; /* borrowed */
    int64_t n;
    float *dw;         /* (n) */
    int32_t *grid;     /* (n) NULL: there is none */
    uint32_t *index;   /* (count) NULL: all coordinates */
    void *value;       /* (n) noised scores, int64_t; or (n) of the SVT's order; then (count) values, at most 8 bytes */
    fb_svt_arrays svt; /* rest is `value` */
    unsigned long long *tiles;
    void *tables; /* of the law that is drawn from */
    fb_privacy_state *state;
};

typedef union any_tables {
    fb_laplace laplace;
    fb_gauss gauss;
    fb_gumbel gumbel;
    fb_tail tail;
} any_tables;

typedef struct task {
    fb_privacy_device *device;
    fb_cuda_queue *queue;
    const fb_release_spec *spec;
    const fb_budget *budget;
    const fb_release_input *in;
    fb_release_report *report;
} task;

static int is_svt(const fb_release_spec *spec)
{
    return spec->select == FB_SELECT_SVT || spec->select == FB_SELECT_SVT_AS_PUBLISHED;
}

static int is_exact(const fb_release_spec *spec)
{
    return spec->mechanism == FB_MECHANISM_NONE || spec->mechanism == FB_MECHANISM_DPSGD;
}

/* --- memory --------------------------------------------------------------------------------------------------- */

enum { ARRAYS_MAX = 12 };

/* One array: where it is kept, and its size; 0: not needed. */
typedef struct array {
    void **place;
    int64_t bytes;
} array;

static void list_arrays(fb_privacy_device *d, const fb_release_spec *spec, const fb_budget *budget,
                        array list[ARRAYS_MAX])
{
    const int64_t n = d->n, svt = is_svt(spec) ? n : 0, grid = !is_exact(spec) && budget->clip_grid > 0 ? n : 0;
    const array all[ARRAYS_MAX] = {{(void **)&d->dw, 4 * n},
                                   {(void **)&d->grid, 4 * grid},
                                   {(void **)&d->index, spec->select == FB_SELECT_ALL ? 0 : 4 * budget->count},
                                   {&d->value, 8 * n},
                                   {(void **)&d->svt.other, (int64_t)sizeof(fb_svt_place) * svt},
                                   {(void **)&d->svt.claim, 4 * svt},
                                   {(void **)&d->svt.target, 4 * svt},
                                   {(void **)&d->svt.flag, svt},
                                   {(void **)&d->svt.chosen, svt},
                                   {(void **)&d->tiles, 8 * (n / FB_TILE + 1)},
                                   {&d->tables, (int64_t)sizeof(any_tables)},
                                   {(void **)&d->state, (int64_t)sizeof(fb_privacy_state)}};
    memcpy(list, all, sizeof all);
}

static fb_status allocate(fb_privacy_device *d, const fb_release_spec *spec, const fb_budget *budget)
{
    array list[ARRAYS_MAX];
    list_arrays(d, spec, budget, list);
    for (int i = 0; i < ARRAYS_MAX; i++)
        if (list[i].bytes > 0)
            FB_TRY(d->ops->alloc(d->ops, list[i].bytes, "selection and noise", list[i].place));
    return FB_OK;
}

fb_status fb_privacy_device_create(const fb_ops *ops, const fb_release_spec *spec, const fb_budget *budget,
                                   fb_privacy_device **out)
{
    fb_privacy_device *d = NULL;
    *out = NULL;
    if (strcmp(ops->name, "cuda") != 0 ||
        (is_exact(spec) && spec->select != FB_SELECT_TOPK && spec->select != FB_SELECT_EXPONENTIAL))
        return FB_OK;
    FB_TRY(FB_ALLOC(d, 1, "selection and noise on the GPU"));
    d->ops = ops;
    d->n = budget->n;
    const fb_status status = allocate(d, spec, budget);
    if (status != FB_OK)
        fb_privacy_device_destroy(&d);
    *out = d;
    return status;
}

/* All that is, or was made from, what is secret. */
static void wipe(fb_privacy_device *d, const fb_release_spec *spec, const fb_budget *budget)
{
    array list[ARRAYS_MAX];
    list_arrays(d, spec, budget, list);
    for (int i = 0; i < ARRAYS_MAX; i++)
        if (list[i].bytes > 0)
            d->ops->zero(d->ops, *list[i].place, list[i].bytes);
}

void fb_privacy_device_destroy(fb_privacy_device **device)
{
    fb_privacy_device *d = *device;
    if (!d)
        return;
    void **const place[ARRAYS_MAX] = {(void **)&d->dw,
                                      (void **)&d->grid,
                                      (void **)&d->index,
                                      &d->value,
                                      (void **)&d->svt.other,
                                      (void **)&d->svt.claim,
                                      (void **)&d->svt.target,
                                      (void **)&d->svt.flag,
                                      (void **)&d->svt.chosen,
                                      (void **)&d->tiles,
                                      &d->tables,
                                      (void **)&d->state};
    for (int i = 0; i < ARRAYS_MAX; i++)
        d->ops->release(d->ops, place[i]);
    FB_FREE(*device);
}

static fb_status get_state(const task *t, fb_privacy_state *state)
{
    return t->device->ops->download(t->device->ops, state, t->device->state, (int64_t)sizeof *state);
}

static void put_tables(const task *t, const void *tables, size_t bytes)
{
    t->device->ops->upload(t->device->ops, t->device->tables, tables, (int64_t)bytes);
}

/* The caller zeroes it. */
static fb_address_key make_key(const task *t, fb_noise_purpose purpose, int pass)
{
    const fb_noise_address address = {
        .attempt = t->in->attempt, .round = t->in->round, .purpose = (uint16_t)purpose, .pass = (uint16_t)pass};
    uint8_t bytes[FB_KEY_BYTES];
    fb_address_key key;
    fb_noise_address_key(t->in->noise->key, &address, bytes);
    for (int i = 0; i < 8; i++)
        key.word[i] = (uint32_t)bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 | (uint32_t)bytes[4 * i + 2] << 16 |
                      (uint32_t)bytes[4 * i + 3] << 24;
    sodium_memzero(bytes, sizeof bytes);
    return key;
}

/* --- selection -------------------------------------------------------------------------------------------------- */

static void select_exponential(const task *t)
{
    fb_privacy_device *d = t->device;
    const fb_budget *b = t->budget;
    const uint64_t score_max = (uint64_t)fb_exponential_score_max(b);
    const fb_wide factor = ((fb_wide)score_max << FACTOR_BITS_SCORE) / (uint64_t)b->clip_grid;
    fb_address_key key = make_key(t, FB_NOISE_GUMBEL, 0);
    put_tables(t, fb_gumbel_tables(), sizeof(fb_gumbel));
    fb_privacy_gumbel_keys(t->queue, &key, d->tables, factor, b->n, d->grid, d->value);
    sodium_memzero(&key, sizeof key);
    fb_privacy_select(t->queue, FB_RANK_KEY, d->value, b->n, b->count, d->tiles, d->index, d->state);
}

/* Where the SVT is. */
typedef struct walk {
    fb_svt_arrays arrays;
    fb_rng order;
    fb_address_key key; /* of the pass */
    int64_t threshold;  /* noised */
    int64_t left, kept; /* candidates of this pass, so far of the next */
    int64_t selected, tests;
} walk;

/* Places up to which to go on from `from`: as many more as would do if half of the tests passed. */
static int64_t stretch_end(const task *t, const walk *w, int64_t from)
{
    const int64_t likely = 2 * (t->budget->count - w->selected), tests = likely > STRETCH_MIN ? likely : STRETCH_MIN;
    const int64_t end = from + fb_noise_blocks(tests) * FB_NOISE_BLOCK;
    return end < w->left ? end : w->left;
}

static fb_status shuffle(const task *t, const walk *w, int64_t from, int64_t to)
{
    fb_privacy_state state = {.remaining = 1};
    fb_privacy_svt_draw_swaps(t->queue, &w->order, w->left, from, to, &w->arrays);
    while (state.remaining > 0) {
        fb_privacy_svt_swap(t->queue, SWAP_ROUNDS, from, to, &w->arrays, t->device->state);
        FB_TRY(get_state(t, &state));
    }
    return FB_OK;
}

/* Tests the places from..to-1 and takes what counts of it. */
static fb_status walk_stretch(const task *t, walk *w, int64_t from, int64_t to)
{
    fb_privacy_device *d = t->device;
    fb_privacy_state state;
    const int64_t wanted = t->budget->count - w->selected;
    FB_TRY(shuffle(t, w, from, to));
    fb_privacy_svt_test(t->queue, &w->key, d->tables, w->threshold, from, to, &w->arrays);
    fb_privacy_svt_take(t->queue, from, to, wanted, w->kept, d->tiles, &w->arrays, d->state);
    FB_TRY(get_state(t, &state));
    const int64_t passed = (int64_t)state.kept;
    w->tests += passed >= wanted ? (int64_t)state.stop : to - from;
    w->selected += passed >= wanted ? wanted : passed;
    w->kept += to - from - passed;
    return FB_OK;
}

static fb_status walk_pass(const task *t, walk *w)
{
    w->kept = 0;
    for (int64_t from = 0; from < w->left && w->selected < t->budget->count;) {
        const int64_t to = stretch_end(t, w, from);
        FB_TRY(walk_stretch(t, w, from, to));
        from = to;
    }
    fb_svt_place *const done = w->arrays.rest;
    w->arrays.rest = w->arrays.other;
    w->arrays.other = done;
    w->left = w->kept;
    return FB_OK;
}

/* The chosen ones are left in the device's flags. */
static fb_status walk_all(const task *t, walk *w)
{
    fb_status status = FB_OK;
    fb_privacy_svt_begin(t->queue, t->budget->n, t->device->grid, &w->arrays);
    for (int pass = 0; status == FB_OK && pass < FB_SVT_PASSES && w->selected < t->budget->count; pass++) {
        w->order.epoch = (uint32_t)pass;
        w->key = make_key(t, FB_NOISE_QUERY, pass);
        status = walk_pass(t, w);
        sodium_memzero(&w->key, sizeof w->key);
        t->report->passes = pass + 1;
    }
    return status;
}

static fb_status select_svt(const task *t, int64_t *count)
{
    fb_privacy_device *d = t->device;
    const fb_svt_tables tables = fb_svt_tables_of(t->budget);
    const fb_noise_address address = {.attempt = t->in->attempt, .round = t->in->round, .purpose = FB_NOISE_THRESHOLD};
    walk w = {.arrays = d->svt, .order = *t->in->public_rng, .left = t->budget->n};
    w.arrays.rest = d->value;
    fb_noise_seek(t->in->noise, &address);
    w.threshold = t->budget->threshold_grid + fb_tail_draw(&tables.threshold, t->in->noise);
    put_tables(t, &tables.query, sizeof tables.query);
    FB_TRY(walk_all(t, &w));
    fb_privacy_list_flags(t->queue, t->budget->n, w.arrays.chosen, d->tiles, d->index, d->state);
    *count = w.selected;
    t->report->tests = w.tests;
    return FB_OK;
}

/* The device's index becomes the chosen coordinates, `count` of them; those that are public are left in out->index,
 * too. */
static fb_status choose(const task *t, int64_t *count)
{
    fb_privacy_device *d = t->device;
    const fb_budget *b = t->budget;
    *count = b->count;
    if (is_svt(t->spec))
        return select_svt(t, count);
    if (t->spec->select == FB_SELECT_EXPONENTIAL && !is_exact(t->spec))
        select_exponential(t);
    else if (t->spec->select == FB_SELECT_TOPK || t->spec->select == FB_SELECT_EXPONENTIAL)
        fb_privacy_select(t->queue, d->grid ? FB_RANK_GRID : FB_RANK_FLOAT, d->grid ? (const void *)d->grid : d->dw,
                          b->n, b->count, d->tiles, d->index, d->state);
    else
        FB_ASSERT(t->spec->select == FB_SELECT_ALL || t->spec->select == FB_SELECT_RANDOM ||
                  t->spec->select == FB_SELECT_PUBLIC);
    return FB_OK;
}

/* Reserves room and fetches the indices, or sends those that are public. */
static fb_status reserve_choice(const task *t, int64_t count, fb_value_kind kind, fb_update *out)
{
    fb_privacy_device *d = t->device;
    const int64_t bytes = count * (int64_t)sizeof *out->index;
    uint32_t *index = NULL; /* (count) also where all are chosen one by one, and `out` needs no list */
    FB_TRY(fb_update_reserve(out, t->budget->n, count, kind));
    if (t->spec->select == FB_SELECT_PUBLIC) {
        FB_ASSERT(t->in->public_index != NULL);
        if (out->index)
            memcpy(out->index, t->in->public_index, (size_t)bytes);
        d->ops->upload(d->ops, d->index, t->in->public_index, bytes);
    } else if (t->spec->select == FB_SELECT_RANDOM) {
        FB_TRY(FB_ALLOC_RAW(index, count, "chosen coordinates"));
        const fb_status status = fb_select_random(t->in->public_rng, t->budget->n, count, index);
        if (status == FB_OK && out->index)
            memcpy(out->index, index, (size_t)bytes);
        if (status == FB_OK)
            d->ops->upload(d->ops, d->index, index, bytes);
        FB_FREE(index);
        return status;
    } else if (out->index && count > 0) {
        return d->ops->download(d->ops, out->index, d->index, bytes);
    }
    return FB_OK;
}

/* --- values ------------------------------------------------------------------------------------------------------ */

static fb_wide sum_of(const fb_privacy_state *state)
{
    fb_wide sum = 0;
    for (int limb = 0; limb < FB_LIMBS; limb++)
        sum += (fb_wide)state->limb[limb] << 32 * limb;
    return sum;
}

static fb_status sum_squares(const task *t, int64_t count, fb_privacy_state *state)
{
    fb_privacy_device *d = t->device;
    d->ops->zero(d->ops, d->state->limb, (int64_t)sizeof d->state->limb);
    fb_privacy_add_squares(t->queue, count, d->value, d->state);
    return get_state(t, state);
}

/* The bounded values on the fine grid, within the norm (gaussian.c). */
static fb_status fill_gaussian(const task *t, const uint32_t *index, int64_t count, int64_t *clipped)
{
    fb_privacy_device *d = t->device;
    fb_privacy_state state;
    const fb_quantiser quantiser = fb_gaussian_quantiser(t->spec, t->budget, t->in->steps);
    d->ops->zero(d->ops, &d->state->clipped, (int64_t)sizeof d->state->clipped);
    fb_privacy_take_quantised(t->queue, &quantiser, count, index, d->dw, d->value, d->state);
    FB_TRY(sum_squares(t, count, &state));
    const uint64_t factor = fb_gaussian_factor(t->budget->clip_norm_grid, sum_of(&state));
    *clipped = (int64_t)state.clipped;
    if (factor == FB_GAUSSIAN_WITHIN)
        return FB_OK;
    fb_privacy_scale(t->queue, factor, count, d->value);
    t->report->norm_scale = ldexp((double)factor, -FB_GAUSSIAN_FACTOR_BITS);
    FB_TRY(sum_squares(t, count, &state));
    FB_ASSERT(fb_gaussian_factor(t->budget->clip_norm_grid, sum_of(&state)) == FB_GAUSSIAN_WITHIN);
    return FB_OK;
}

static fb_status fill_values(const task *t, const uint32_t *index, int64_t count)
{
    fb_privacy_device *d = t->device;
    int64_t clipped = 0;
    if (t->spec->mechanism == FB_MECHANISM_GAUSSIAN) {
        FB_TRY(fill_gaussian(t, index, count, &clipped));
        t->report->clipped = d->grid ? t->report->clipped : clipped;
    } else if (t->spec->select == FB_SELECT_SVT_AS_PUBLISHED) {
        fb_privacy_take_unclipped(t->queue, (double)t->in->steps, ldexp(1.0, -t->budget->grid_log2), count, index,
                                  d->dw, d->value);
    } else {
        fb_privacy_take_grid(t->queue, count, index, d->grid, d->value);
    }
    return FB_OK;
}

static fb_status add_noise(const task *t, int64_t count)
{
    fb_privacy_device *d = t->device;
    const fb_budget *b = t->budget;
    const int laplace = t->spec->mechanism == FB_MECHANISM_LAPLACE;
    const int again =
        t->spec->trust == FB_TRUST_LOCAL && (t->spec->clip_answers || t->spec->select == FB_SELECT_SVT_AS_PUBLISHED);
    const int64_t limit = !again ? MESSAGE_LIMIT : laplace ? b->clip_grid : b->clip_norm_grid;
    fb_laplace *of_laplace = NULL;
    fb_gauss *of_gauss = NULL;
    if (t->spec->trust == FB_TRUST_CENTRAL)
        return FB_OK;
    if (laplace)
        FB_TRY(fb_laplace_create(b->scale_answer, &of_laplace));
    else
        FB_TRY(fb_gauss_create(b->sigma_share, &of_gauss));
    fb_address_key key = make_key(t, FB_NOISE_ANSWER, 0);
    put_tables(t, laplace ? (const void *)of_laplace : of_gauss, laplace ? sizeof *of_laplace : sizeof *of_gauss);
    (laplace ? fb_privacy_add_laplace : fb_privacy_add_gauss)(t->queue, &key, d->tables, limit, count, d->value);
    sodium_memzero(&key, sizeof key);
    fb_laplace_destroy(&of_laplace);
    fb_gauss_destroy(&of_gauss);
    return FB_OK;
}

/* --- a release -----------------------------------------------------------------------------------------------------
 */

/* With a mechanism: onto the grid, where there is one. */
static fb_status prepare(const task *t)
{
    fb_privacy_device *d = t->device;
    const fb_budget *b = t->budget;
    fb_privacy_state state;
    const fb_quantiser quantiser = d->grid ? fb_grid_quantiser(b, t->spec->clip, t->in->steps) : (fb_quantiser){0};
    d->ops->zero(d->ops, d->state, (int64_t)sizeof *d->state);
    d->ops->upload(d->ops, d->dw, t->in->dw, 4 * b->n);
    if (d->grid)
        fb_privacy_quantise(t->queue, &quantiser, b->n, d->dw, d->grid, d->state);
    else
        fb_privacy_count_non_finite(t->queue, b->n, d->dw, d->state);
    FB_TRY(get_state(t, &state));
    t->report->clipped = (int64_t)state.clipped;
    t->report->non_finite = (int64_t)state.non_finite;
    return FB_OK;
}

static fb_status release_noised(const task *t, fb_update *out)
{
    fb_privacy_device *d = t->device;
    int64_t count = 0;
    FB_TRY(prepare(t));
    FB_TRY(choose(t, &count));
    FB_TRY(reserve_choice(t, count, FB_VALUES_GRID, out));
    FB_TRY(fill_values(t, d->index, count));
    out->grid_log2 = t->budget->grid_log2;
    out->least_bits = t->budget->value_bits;
    FB_TRY(add_noise(t, count));
    return count == 0 ? FB_OK : d->ops->download(d->ops, out->grid, d->value, 8 * count);
}

/* Without one: the largest, as they are, or clipped. */
static fb_status release_exact(const task *t, fb_update *out, int *done)
{
    fb_privacy_device *d = t->device;
    const float limit = (float)(t->spec->clip * (double)t->in->steps);
    fb_privacy_state state;
    int64_t count = 0;
    FB_TRY(prepare(t));
    *done = t->report->non_finite == 0;
    if (!*done)
        return FB_OK;
    FB_TRY(choose(t, &count));
    FB_TRY(reserve_choice(t, count, FB_VALUES_F32, out));
    fb_privacy_take_floats(t->queue, limit, count, d->index, d->dw, d->value, d->state);
    FB_TRY(d->ops->download(d->ops, out->f32, d->value, 4 * count));
    FB_TRY(get_state(t, &state));
    t->report->clipped = (int64_t)state.clipped;
    return FB_OK;
}

/* fb_release_overlap, a diagnostic, while the change is on the device. The values are not needed any more: their memory
 * takes the largest changes, and marks behind them. */
static fb_status measure_overlap(const task *t, const fb_update *update)
{
    fb_privacy_device *d = t->device;
    uint32_t *largest = d->value;
    fb_privacy_state state;
    if (!update->index || update->count == 0)
        return FB_OK;
    fb_privacy_select(t->queue, FB_RANK_BITS, d->dw, d->n, update->count, d->tiles, largest, d->state);
    fb_privacy_count_common(t->queue, d->n, update->count, largest, d->index, (uint8_t *)(largest + d->n), d->state);
    FB_TRY(get_state(t, &state));
    t->report->overlap = (double)state.kept / (double)update->count;
    return FB_OK;
}

fb_status fb_privacy_device_release(fb_privacy_device *device, const fb_release_spec *spec, const fb_budget *budget,
                                    const fb_release_input *in, fb_update *out, fb_release_report *report, int *done)
{
    fb_release_report inside = {.norm_scale = 1.0, .overlap = (double)NAN};
    const task t = {device, device->ops->state, spec, budget, in, &inside};
    FB_ASSERT(budget->n == device->n);
    *done = 1;
    fb_status status = is_exact(spec) ? release_exact(&t, out, done) : release_noised(&t, out);
    if (status == FB_OK && *done)
        status = measure_overlap(&t, out);
    wipe(device, spec, budget);
    if (status != FB_OK)
        fb_update_free(out);
    else if (*done)
        *report = inside;
    return status;
}
