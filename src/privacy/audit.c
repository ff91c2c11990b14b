/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/audit.h"

#include "core/log.h"
#include "core/mem.h"
#include "core/timer.h"
#include "privacy/audit_bound.h"
#include "privacy/noise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATES = 8, STATISTICS = 2, STAGE_1_SHARE = 4, CANDIDATES = 1000 };

static const double Z_LATER = 4.0, Z_FIRST = 2.0; /* standard deviations of a log ratio in the stages */

typedef enum statistic { LIKELIHOOD, PROJECTION } statistic;

/* What stage 1 learned from a pair. */
typedef struct lesson {
    double ratio[FB_AUDIT_WIDTH_MAX][STATES];   /* log likelihood ratio of input 0 to 1 */
    double count_ratio[FB_AUDIT_WIDTH_MAX + 1]; /* of the number of selected values */
    double direction[FB_AUDIT_WIDTH_MAX];       /* difference of the means, unit length */
    statistic chosen[2];                        /* by direction */
    double cut[2];                              /* the event: score >= cut[0], score <= cut[1] */
    double point[FB_AUDIT_POINTS];              /* cuts of the ROC, descending */
} lesson;

typedef struct audit {
    const fb_audit_subject *subject;
    const fb_audit_settings *settings;
    int64_t first_count; /* samples of stage 1 of an input */
    int32_t *first[2];   /* (first_count, width) outcomes of stage 1 */
    double *score[2];    /* (first_count) */
    fb_noise *coin;
    char title[80];
    int64_t done, total;
    double start_s;
} audit;

int fb_audit_make_pairs(int64_t n, int64_t count, double clip, const uint32_t *last,
                        fb_audit_pair pairs[FB_AUDIT_PAIRS_MAX])
{
    static const char *const names[] = {"all +C | all -C",
                                        "all 0 | all C",
                                        "one +C, rest 0 | one -C",
                                        "last C, rest 0 | last 0, rest C",
                                        "last c C, rest 0 | swapped",
                                        "half C, half 0 | swapped",
                                        "all +1000 C | all -1000 C",
                                        "one NaN, rest 0 | all 0"};
    int is_last[FB_AUDIT_COORDINATES_MAX] = {0}; /* 1 + position from the end of the order */
    FB_ASSERT(1 <= n && n <= FB_AUDIT_COORDINATES_MAX && 1 <= count && count <= n);
    for (int64_t k = 0; k < n; k++)
        is_last[last[k]] = (int)k + 1;
    memset(pairs, 0, FB_AUDIT_PAIRS_MAX * sizeof *pairs);
    for (int64_t i = 0; i < n; i++) {
        const int late = is_last[i];
        const double value[FB_AUDIT_PAIRS_MAX][2] = {{1.0, -1.0},
                                                     {0.0, 1.0},
                                                     {late == 1, -(late == 1)},
                                                     {late == 1, late != 1},
                                                     {late <= count, late > count},
                                                     {2 * late <= n + 1, 2 * late > n + 1},
                                                     {1000.0, -1000.0},
                                                     {late == 1 ? NAN : 0.0, 0.0}};
        for (int p = 0; p < FB_AUDIT_PAIRS_MAX; p++)
            for (int side = 0; side < 2; side++)
                pairs[p].dw[side][i] = (float)(value[p][side] * clip);
    }
    for (int p = 0; p < FB_AUDIT_PAIRS_MAX; p++)
        pairs[p].name = names[p];
    return FB_AUDIT_PAIRS_MAX;
}

/* --- statistics --- */

static int state_of(const audit *a, int32_t value)
{
    const int64_t clip = a->subject->clip_grid;
    if (value == FB_AUDIT_UNSELECTED)
        return 0;
    if (value < 0)
        return value < -clip ? 1 : value == -clip ? 2 : 3;
    return value == 0 ? 4 : value < clip ? 5 : value == clip ? 6 : 7;
}

static double likelihood(const audit *a, const lesson *l, const int32_t *outcome)
{
    double sum = 0.0;
    int selected = 0;
    for (int64_t i = 0; i < a->subject->width; i++) {
        const int state = state_of(a, outcome[i]);
        sum += l->ratio[i][state];
        selected += state != 0;
    }
    return sum + l->count_ratio[selected];
}

static double projection(const audit *a, const lesson *l, const int32_t *outcome)
{
    double sum = 0.0;
    for (int64_t i = 0; i < a->subject->width; i++)
        sum += outcome[i] == FB_AUDIT_UNSELECTED ? 0.0 : l->direction[i] * outcome[i];
    return sum;
}

static double score_of(const audit *a, const lesson *l, statistic s, const int32_t *outcome)
{
    return s == LIKELIHOOD ? likelihood(a, l, outcome) : projection(a, l, outcome);
}

/* The log ratio of two counts in as many samples; 0 where it could be chance. */
static double log_ratio(int64_t a, int64_t b)
{
    const double x = (double)a + 0.5, y = (double)b + 0.5, ratio = log(x / y);
    return fabs(ratio) > 2.0 * sqrt(1.0 / x + 1.0 / y) ? ratio : 0.0;
}

static void learn_ratios(const audit *a, lesson *l)
{
    static const int64_t zero[2][FB_AUDIT_WIDTH_MAX + 1];
    int64_t seen[2][FB_AUDIT_WIDTH_MAX][STATES] = {{{0}}}, number[2][FB_AUDIT_WIDTH_MAX + 1];
    const int64_t width = a->subject->width;
    memcpy(number, zero, sizeof number);
    for (int side = 0; side < 2; side++) {
        for (int64_t k = 0; k < a->first_count; k++) {
            int selected = 0;
            for (int64_t i = 0; i < width; i++) {
                const int state = state_of(a, a->first[side][k * width + i]);
                seen[side][i][state]++;
                selected += state != 0;
            }
            number[side][selected]++;
        }
    }
    for (int64_t i = 0; i < width; i++)
        for (int s = 0; s < STATES; s++)
            l->ratio[i][s] = log_ratio(seen[0][i][s], seen[1][i][s]);
    for (int64_t c = 0; c <= width; c++)
        l->count_ratio[c] = log_ratio(number[0][c], number[1][c]);
}

static void learn_direction(const audit *a, lesson *l)
{
    const int64_t width = a->subject->width;
    double length = 0.0;
    for (int64_t i = 0; i < width; i++) {
        double mean[2] = {0.0, 0.0};
        for (int side = 0; side < 2; side++) {
            for (int64_t k = 0; k < a->first_count; k++) {
                const int32_t value = a->first[side][k * width + i];
                mean[side] += value == FB_AUDIT_UNSELECTED ? 0.0 : (double)value / (double)a->first_count;
            }
        }
        l->direction[i] = mean[0] - mean[1];
        length += l->direction[i] * l->direction[i];
    }
    for (int64_t i = 0; i < width && length > 0.0; i++)
        l->direction[i] /= sqrt(length);
}

/* --- the event --- */

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* How many of the sorted values (count) are below x. */
static int64_t below(const double *sorted, int64_t count, double x)
{
    int64_t low = 0, high = count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        *(sorted[middle] < x ? &low : &high) = middle + (sorted[middle] < x);
    }
    return low;
}

/* What stage 2 may be expected to prove of an event that stage 1 saw so often: Wilson's interval for the share of the
 * hits, widened by what stage 1, which picks the best of many events, may have seen by chance. */
static double expected_bound(const audit *a, int64_t hits, int64_t misses)
{
    const double n = (double)a->first_count, later = (double)a->settings->samples, delta = a->subject->delta;
    const double p = (double)hits / n, q = (double)misses / n;
    if (p <= delta)
        return -INFINITY;
    const double z = Z_LATER + Z_FIRST * sqrt(later / n), events = (p + q) * later, share = p / (p + q);
    const double half = 0.5 * z * z / events, spread = sqrt(z * z * share * (1.0 - share) / events + half * half);
    const double low = (share + half - spread) / (1.0 + 2.0 * half);
    return log(low / (1.0 - low)) + log1p(-delta / p);
}

/* Best half line of the sorted scores, in both directions. */
static void choose_cuts(const audit *a, lesson *l, statistic s, double best[2])
{
    const int64_t n = a->first_count;
    for (int side = 0; side < 2; side++) {
        for (int64_t k = 0; k < CANDIDATES && k < n; k++) {
            const int64_t at = n <= CANDIDATES ? k : k * (n - 1) / (CANDIDATES - 1);
            const double cut = a->score[side][at];
            for (int direction = 0; direction < 2; direction++) {
                int64_t hits[2];
                for (int input = 0; input < 2; input++)
                    hits[input] = direction == 0 ? n - below(a->score[input], n, cut)
                                                 : below(a->score[input], n, nextafter(cut, INFINITY));
                const double bound = expected_bound(a, hits[direction], hits[1 - direction]);
                if (bound > best[direction]) {
                    best[direction] = bound;
                    l->chosen[direction] = s;
                    l->cut[direction] = cut;
                }
            }
        }
    }
}

static void learn(audit *a, lesson *l)
{
    double best[2] = {-INFINITY, -INFINITY};
    const int64_t n = a->first_count;
    memset(l, 0, sizeof *l);
    learn_ratios(a, l);
    learn_direction(a, l);
    for (int s = STATISTICS - 1; s >= 0; s--) { /* the likelihood last: its scores give the ROC's points */
        for (int side = 0; side < 2; side++) {
            for (int64_t k = 0; k < n; k++)
                a->score[side][k] = score_of(a, l, (statistic)s, a->first[side] + k * a->subject->width);
            qsort(a->score[side], (size_t)n, sizeof *a->score[side], by_value);
        }
        choose_cuts(a, l, (statistic)s, best);
        if ((statistic)s != l->chosen[0] && s == LIKELIHOOD)
            break; /* the projection was better: its points stay */
        for (int k = 0; k < FB_AUDIT_POINTS; k++)
            l->point[k] = a->score[k % 2][(n - 1) * (FB_AUDIT_POINTS - 1 - k) / (FB_AUDIT_POINTS - 1)];
    }
    qsort(l->point, FB_AUDIT_POINTS, sizeof *l->point, by_value);
}

/* --- the stages --- */

static fb_status draw(audit *a, const fb_audit_pair *pair, int side, uint32_t attempt, int64_t sample, int32_t *outcome)
{
    FB_TRY(a->subject->run(a->subject->state, pair->dw[side], attempt, (uint32_t)sample, outcome));
    const int64_t percent = 100 * ++a->done / a->total;
    if (percent != 100 * (a->done - 1) / a->total)
        fb_log_progress(a->title, percent, 100, a->start_s);
    return FB_OK;
}

static fb_status stage_1(audit *a, const fb_audit_pair *pair, uint32_t attempt, lesson *l)
{
    for (int side = 0; side < 2; side++)
        for (int64_t k = 0; k < a->first_count; k++)
            FB_TRY(draw(a, pair, side, attempt + (uint32_t)side, k, a->first[side] + k * a->subject->width));
    learn(a, l);
    return FB_OK;
}

/* Events and scores of stage 2. */
typedef struct tally {
    int64_t trials[2];                       /* [side] */
    int64_t events[2][2];                    /* [side][direction] */
    int64_t reached[2][FB_AUDIT_POINTS + 1]; /* [side][points <= score] */
} tally;

static void count_outcome(const audit *a, const lesson *l, int side, const int32_t *outcome, tally *t)
{
    const double score = score_of(a, l, l->chosen[0], outcome);
    const double other = l->chosen[1] == l->chosen[0] ? score : score_of(a, l, l->chosen[1], outcome);
    t->trials[side]++;
    t->events[side][0] += score >= l->cut[0];
    t->events[side][1] += other <= l->cut[1];
    t->reached[side][below(l->point, FB_AUDIT_POINTS, nextafter(score, INFINITY))]++;
}

static void conclude(const audit *a, const tally *t, double alpha, fb_audit_finding *out)
{
    int64_t at_least[2] = {0, 0};
    const double trials[2] = {fmax(1.0, (double)t->trials[0]), fmax(1.0, (double)t->trials[1])};
    for (int direction = 0; direction < 2; direction++) {
        const int64_t hits = t->events[direction][direction], misses = t->events[1 - direction][direction];
        out->rate[direction][0] = (double)hits / trials[direction];
        out->rate[direction][1] = (double)misses / trials[1 - direction];
        out->epsilon[direction] = fb_audit_epsilon(hits, misses, t->trials[0] + t->trials[1], alpha, a->subject->delta);
    }
    for (int k = 0; k < FB_AUDIT_POINTS; k++) { /* from the highest cut: ascending rates */
        for (int side = 0; side < 2; side++)
            at_least[side] += t->reached[side][FB_AUDIT_POINTS - k];
        out->true_positive[k] = (double)at_least[0] / trials[0];
        out->false_positive[k] = (double)at_least[1] / trials[1];
    }
}

static fb_status stage_2(audit *a, const fb_audit_pair *pair, uint32_t attempt, const lesson *l, double alpha,
                         fb_audit_finding *out)
{
    const fb_noise_address coins = {.attempt = attempt, .purpose = FB_NOISE_AUDIT};
    int32_t outcome[FB_AUDIT_WIDTH_MAX];
    tally t = {.trials = {0, 0}};
    fb_noise_seek(a->coin, &coins);
    for (int64_t k = 0; k < 2 * a->settings->samples; k++) {
        const int side = fb_noise_byte(a->coin) & 1;
        FB_TRY(draw(a, pair, side, attempt, k, outcome));
        count_outcome(a, l, side, outcome, &t);
    }
    conclude(a, &t, alpha, out);
    return FB_OK;
}

static fb_status audit_pairs(audit *a, const fb_audit_pair *pairs, int pair_count, fb_audit_result *out)
{
    const double alpha = (1.0 - a->settings->confidence) / (2.0 * pair_count);
    lesson *l = NULL;
    fb_status status = FB_OK;
    FB_TRY(FB_ALLOC(l, 1, "statistic of an audit"));
    for (int p = 0; p < pair_count && status == FB_OK; p++) {
        fb_audit_finding *finding = &out->finding[p];
        finding->pair = pairs[p].name;
        status = stage_1(a, &pairs[p], 4u * (uint32_t)p, l);
        if (status == FB_OK)
            status = stage_2(a, &pairs[p], 4u * (uint32_t)p + 2u, l, alpha, finding);
        const double larger = fmax(finding->epsilon[0], finding->epsilon[1]);
        if (larger > out->bound) {
            out->bound = larger;
            out->best = p;
        }
    }
    FB_FREE(l);
    out->pair_count = pair_count;
    out->ceiling = fb_audit_ceiling(2 * a->settings->samples, alpha, a->subject->delta);
    out->samples = a->done;
    out->refuted = out->bound > a->subject->epsilon;
    return status;
}

/* Coins come from a key that no subject uses: hospital 1's. */
static fb_status prepare(audit *a)
{
    uint8_t key[FB_KEY_BYTES];
    FB_TRY(fb_key_make(FB_KEY_SEED, a->settings->seed, NULL, 1, key));
    FB_TRY(fb_noise_create(key, &a->coin));
    for (int side = 0; side < 2; side++) {
        FB_TRY(FB_ALLOC(a->first[side], a->first_count * a->subject->width, "outcomes of an audit"));
        FB_TRY(FB_ALLOC(a->score[side], a->first_count, "scores of an audit"));
    }
    return FB_OK;
}

fb_status fb_audit_run(const fb_audit_subject *subject, const fb_audit_pair *pairs, int pair_count,
                       const fb_audit_settings *settings, fb_audit_result *out)
{
    audit a = {.subject = subject, .settings = settings, .start_s = fb_time_s()};
    FB_ASSERT(1 <= pair_count && pair_count <= FB_AUDIT_PAIRS_MAX && subject->width <= FB_AUDIT_WIDTH_MAX);
    FB_ASSERT(settings->samples >= STAGE_1_SHARE && settings->samples <= UINT32_MAX / 2);
    const int64_t share = settings->samples / STAGE_1_SHARE;
    a.first_count = share < FB_AUDIT_FIRST_MAX ? share : FB_AUDIT_FIRST_MAX;
    snprintf(a.title, sizeof a.title, "%s, percent", subject->name);
    a.total = 2 * pair_count * (a.first_count + settings->samples);
    memset(out, 0, sizeof *out);
    fb_status status = prepare(&a);
    if (status == FB_OK)
        status = audit_pairs(&a, pairs, pair_count, out);
    for (int side = 0; side < 2; side++) {
        FB_FREE(a.first[side]);
        FB_FREE(a.score[side]);
    }
    fb_noise_destroy(&a.coin);
    return status;
}
