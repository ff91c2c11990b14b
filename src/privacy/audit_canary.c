/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/audit_canary.h"

#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "privacy/audit_bound.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUESSED_SHARE = 10, LONGER = 10 }; /* one in ten on either side; a canary's gradient before the clip */

/* One run over the canaries. */
typedef struct flock {
    const fb_canary_spec *spec;
    fb_dpsgd_plan plan;
    fb_gauss *gauss;
    fb_noise *noise;
    uint8_t *in;      /* (canaries) */
    uint32_t *member; /* (canaries) */
    float *gradient;  /* (canaries) */
    int32_t *scratch; /* (canaries) */
    int64_t *sum;     /* (canaries) */
    double *score;    /* (canaries) */
} flock;

typedef struct scored {
    double score;
    int in;
} scored;

static fb_status alloc_flock(flock *f)
{
    const int64_t m = f->spec->canaries;
    FB_TRY(FB_ALLOC(f->in, m, "canaries"));
    FB_TRY(FB_ALLOC(f->member, m, "canaries"));
    FB_TRY(FB_ALLOC(f->gradient, m, "canaries"));
    FB_TRY(FB_ALLOC(f->scratch, m, "canaries"));
    FB_TRY(FB_ALLOC(f->sum, m, "canaries"));
    return FB_ALLOC(f->score, m, "canaries");
}

static void free_flock(flock *f)
{
    fb_gauss_destroy(&f->gauss);
    fb_noise_destroy(&f->noise);
    FB_FREE(f->in);
    FB_FREE(f->member);
    FB_FREE(f->gradient);
    FB_FREE(f->scratch);
    FB_FREE(f->sum);
    FB_FREE(f->score);
}

static fb_status prepare(flock *f)
{
    const fb_canary_spec *spec = f->spec;
    const fb_dpsgd_spec training = {.clip_norm = 1.0,
                                    .noise_multiplier = spec->noise_multiplier,
                                    .batch = spec->rate >= 1.0 ? 0.0 : spec->rate * (double)spec->canaries,
                                    .cases = spec->canaries,
                                    .epochs = spec->epochs,
                                    .n = spec->canaries};
    const fb_noise_address coins = {.purpose = FB_NOISE_AUDIT};
    uint8_t key[FB_KEY_BYTES];
    FB_TRY(fb_dpsgd_plan_make(&training, &f->plan));
    FB_TRY(fb_gauss_create(f->plan.sigma, &f->gauss));
    FB_TRY(fb_key_make(FB_KEY_SEED, spec->seed, NULL, 0, key));
    FB_TRY(fb_noise_create(key, &f->noise));
    FB_TRY(alloc_flock(f));
    fb_noise_seek(f->noise, &coins);
    for (int64_t k = 0; k < spec->canaries; k++)
        f->in[k] = fb_noise_byte(f->noise) & 1u;
    return FB_OK;
}

static void add_canary(flock *f, uint32_t k, fb_dpsgd_report *report)
{
    if (f->spec->fault == FB_CANARY_NO_CLIP) {
        f->sum[k] += LONGER * f->plan.clip_grid;
        return;
    }
    f->gradient[k] = LONGER * (float)f->plan.spec.clip_norm;
    fb_dpsgd_add(&f->plan, f->gradient, f->scratch, f->sum, report);
    f->gradient[k] = 0.0f;
}

static void take_step(flock *f, uint32_t step)
{
    const int64_t m = f->spec->canaries;
    fb_dpsgd_report report = {0};
    int64_t count = m;
    fb_dpsgd_sample(&f->plan, f->noise, 0, 0, step, f->member, &count);
    memset(f->sum, 0, (size_t)m * sizeof *f->sum);
    memset(f->gradient, 0, (size_t)m * sizeof *f->gradient);
    if (f->spec->fault == FB_CANARY_WRONG_RATE) {
        for (count = 0; count < m; count++)
            f->member[count] = (uint32_t)count;
    }
    for (int64_t i = 0; i < count; i++)
        if (f->in[f->member[i]])
            add_canary(f, f->member[i], &report);
    if (f->spec->fault == FB_CANARY_NO_NOISE)
        for (int64_t k = 0; k < m; k++)
            f->gradient[k] = (float)(ldexp((double)f->sum[k], f->plan.grid_log2) / f->plan.batch);
    else
        fb_dpsgd_finish(&f->plan, f->gauss, f->noise, 0, 0, step, f->sum, f->gradient);
    for (int64_t k = 0; k < m; k++)
        f->score[k] += (double)f->gradient[k];
}

static int descending(const void *a, const void *b)
{
    scored x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x.score < y.score) - (x.score > y.score);
}

static fb_status guess(const flock *f, fb_canary_result *out)
{
    const int64_t m = f->spec->canaries, side = m / GUESSED_SHARE;
    scored *order = NULL; /* (m) the most likely in first */
    int64_t total[2] = {0, 0}, seen[2] = {0, 0}, next = 0;
    FB_TRY(FB_ALLOC(order, m, "scores of canaries"));
    for (int64_t k = 0; k < m; k++) {
        order[k] = (scored){f->score[k], f->in[k]};
        total[f->in[k]]++;
    }
    qsort(order, (size_t)m, sizeof *order, descending);
    out->canaries = m;
    out->guesses = 2 * side;
    for (int64_t k = 0; k < side; k++)
        out->right += order[k].in + !order[m - 1 - k].in;
    for (int point = 0; point < FB_AUDIT_POINTS; point++) {
        for (; next < m * point / (FB_AUDIT_POINTS - 1); next++)
            seen[order[next].in]++;
        out->false_positive[point] = total[0] > 0 ? (double)seen[0] / (double)total[0] : 0.0;
        out->true_positive[point] = total[1] > 0 ? (double)seen[1] / (double)total[1] : 0.0;
    }
    FB_FREE(order);
    return FB_OK;
}

static fb_status claim(fb_relation relation, int event_count, const fb_event *events, double delta,
                       fb_canary_result *out)
{
    const fb_history history = {.relation = relation, .event_count = event_count, .events = events};
    fb_spent spent;
    FB_TRY(fb_account(&history, delta, &spent));
    out->epsilon = spent.epsilon;
    out->delta = delta;
    return FB_OK;
}

static fb_status run(flock *f, fb_canary_result *out)
{
    const double alpha = 1.0 - f->spec->confidence, start_s = fb_time_s();
    FB_TRY(prepare(f));
    for (int64_t step = 0; step < f->plan.steps; step++) {
        take_step(f, (uint32_t)step);
        fb_log_progress("steps with canaries", step + 1, f->plan.steps, start_s);
    }
    FB_TRY(guess(f, out));
    FB_TRY(claim(FB_ADD_REMOVE, 1, &f->plan.event, f->spec->delta, out));
    out->bound = fb_audit_one_run_epsilon(out->canaries, out->guesses, out->right, alpha, out->delta);
    out->ceiling = fb_audit_one_run_epsilon(out->canaries, out->guesses, out->guesses, alpha, out->delta);
    out->refuted = out->bound > out->epsilon;
    return FB_OK;
}

fb_status fb_canary_dpsgd(const fb_canary_spec *spec, fb_canary_result *out)
{
    flock f = {.spec = spec};
    memset(out, 0, sizeof *out);
    const fb_status status = run(&f, out);
    free_flock(&f);
    return status;
}

/* --- hospital level --- */

typedef struct hospital {
    const fb_release_spec *spec;
    fb_budget budget;
    fb_noise *noise, *direction;
    fb_update update;
    float *dw;    /* (n) */
    double scale; /* of scores: the clip is 2^20 */
} hospital;

/* dw[0] is +1 or -1: the side of the random direction, whose signs are public. The outcome is the released update along
 * it. */
static fb_status release_direction(void *state, const float *dw, uint32_t attempt, uint32_t sample, int32_t *outcome)
{
    hospital *h = state;
    fb_release_report report;
    const int64_t n = h->budget.n;
    const fb_noise_address address = {.attempt = attempt, .round = sample, .purpose = FB_NOISE_AUDIT};
    const fb_rng order = {.seed = attempt, .purpose = FB_RNG_SELECT, .round = sample};
    const fb_release_input in = {
        .public_rng = &order, .noise = h->noise, .attempt = attempt, .round = sample, .steps = 1, .dw = h->dw};
    const float length = (float)(h->spec->clip_norm / sqrt((double)h->budget.count)); /* of what is shared */
    double score = 0.0;
    fb_noise_seek(h->direction, &address);
    for (int64_t i = 0; i < n; i++)
        h->dw[i] = fb_noise_byte(h->direction) & 1u ? length * dw[0] : -length * dw[0];
    FB_TRY(fb_release(h->spec, &h->budget, &in, &h->update, &report));
    for (int64_t k = 0; k < h->update.count; k++) {
        const int64_t i = h->update.index ? h->update.index[k] : k;
        score += (double)h->update.grid[k] * (double)(h->dw[i] * dw[0]);
    }
    outcome[0] = (int32_t)fmax(-0x1p30, fmin(0x1p30, score * h->scale));
    return FB_OK;
}

static fb_status run_directions(hospital *h, int64_t n, uint64_t seed, const fb_audit_settings *settings, double delta,
                                fb_canary_result *out, fb_audit_result *result)
{
    const fb_audit_pair pair = {.name = "random direction | its opposite", .dw = {{1.0f}, {-1.0f}}};
    uint8_t key[FB_KEY_BYTES];
    FB_TRY(fb_budget_plan(h->spec, n, &h->budget));
    FB_TRY(fb_key_make(FB_KEY_SEED, seed, NULL, 0, key));
    FB_TRY(fb_noise_create(key, &h->noise));
    FB_TRY(fb_noise_create(key, &h->direction));
    FB_TRY(FB_ALLOC(h->dw, n, "direction of a canary"));
    FB_TRY(claim(h->budget.relation, h->budget.event_count, h->budget.events, delta, out));
    h->scale = 0x1p20 / ((double)h->budget.clip_norm_grid * h->spec->clip_norm);
    const fb_audit_subject subject = {.name = "random directions",
                                      .n = 1,
                                      .width = 1,
                                      .clip_grid = 1 << 20,
                                      .epsilon = out->epsilon,
                                      .delta = delta,
                                      .run = release_direction,
                                      .state = h};
    return fb_audit_run(&subject, &pair, 1, settings, result);
}

fb_status fb_canary_gaussian(const fb_release_spec *spec, int64_t n, int64_t samples, uint64_t seed, double confidence,
                             double delta, fb_canary_result *out)
{
    const fb_audit_settings settings = {samples, confidence, seed};
    hospital h = {.spec = spec};
    fb_audit_result *result = NULL;
    memset(out, 0, sizeof *out);
    fb_status status = FB_ALLOC(result, 1, "result of an audit");
    if (status == FB_OK)
        status = run_directions(&h, n, seed, &settings, delta, out, result);
    if (status == FB_OK) {
        const fb_audit_finding *finding = &result->finding[0];
        const double right = finding->rate[0][0] + 1.0 - finding->rate[0][1];
        out->canaries = out->guesses = 2 * samples;
        out->right = llround(right * (double)samples);
        out->bound = result->bound;
        out->ceiling = result->ceiling;
        out->refuted = result->refuted;
        memcpy(out->false_positive, finding->false_positive, sizeof out->false_positive);
        memcpy(out->true_positive, finding->true_positive, sizeof out->true_positive);
    }
    fb_noise_destroy(&h.noise);
    fb_noise_destroy(&h.direction);
    fb_update_free(&h.update);
    FB_FREE(h.dw);
    FB_FREE(result);
    return status;
}
