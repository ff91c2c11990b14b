/* SPDX-License-Identifier: Apache-2.0
 *
 * Time of the noise, of a release and of a message for the paper's network. One thread; the best of a few repeats.
 */
#include "codec/frame.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/timer.h"
#include "privacy/mechanism.h"

#include <math.h>
#include <stdio.h>

enum { PARAMETERS = 1176843, STEPS = 154, REPEATS = 5 };

static fb_status bench_draws(fb_noise *noise)
{
    static const double scales[] = {0.3, 1.0, 1e3, 1e6, 1e9, 1e12, 1e15};
    printf("%-12s %12s %12s %14s\n", "scale", "ns a draw", "tables, us", "draws a second");
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        const int64_t draws = 2000000;
        fb_laplace *laplace = NULL;
        const double start_s = fb_time_s();
        FB_TRY(fb_laplace_create(scales[i], &laplace));
        const double tables_s = fb_time_s() - start_s;
        int64_t sum = 0;
        fb_noise_seek(noise, &(fb_noise_address){.purpose = FB_NOISE_ANSWER});
        for (int64_t k = 0; k < draws; k++)
            sum ^= fb_laplace_draw(laplace, noise);
        const double each_s = (fb_time_s() - start_s - tables_s) / (double)draws;
        printf("%-12g %12.1f %12.1f %14.3g%s\n", scales[i], each_s * 1e9, tables_s * 1e6, 1.0 / each_s,
               sum == 1 ? " " : "");
        fb_laplace_destroy(&laplace);
    }
    return FB_OK;
}

typedef struct times {
    double release_s, encode_s, decode_s;
    int64_t size_bytes, count;
    fb_release_report report;
} times;

static fb_status send(const fb_rng *public_rng, const fb_update *update, int implied, times *t)
{
    const fb_frame_info info = {.steps = STEPS};
    uint8_t *bytes = NULL;
    fb_update got = {0};
    uint32_t *index = NULL;
    fb_status status = FB_OK;
    double start_s = fb_time_s();
    FB_TRY(fb_frame_encode(&info, update, implied, &bytes, &t->size_bytes));
    t->encode_s = fmin(t->encode_s, fb_time_s() - start_s);
    start_s = fb_time_s();
    if (implied) {
        FB_TRY_GOTO(status, FB_ALLOC(index, update->count, "indices"), done);
        FB_TRY_GOTO(status, fb_select_random(public_rng, update->n, update->count, index), done);
    }
    FB_TRY_GOTO(status,
                fb_frame_decode(bytes, t->size_bytes, &info, update->n, update->count, index, update->count, &got),
                done);
    t->decode_s = fmin(t->decode_s, fb_time_s() - start_s);
done:
    FB_FREE(index);
    FB_FREE(bytes);
    fb_update_free(&got);
    return status;
}

static fb_status bench_release(const fb_release_spec *spec, fb_noise *noise, const float *dw, times *t)
{
    fb_budget budget;
    fb_update update = {0};
    const fb_rng public_rng = {.seed = 1, .purpose = FB_RNG_SELECT};
    FB_TRY(fb_budget_plan(spec, PARAMETERS, &budget));
    *t = (times){.release_s = INFINITY, .encode_s = INFINITY, .decode_s = INFINITY};
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start_s = fb_time_s();
        const fb_release_input in = {.public_rng = &public_rng, .noise = noise, .steps = STEPS, .dw = dw};
        FB_TRY(fb_release(spec, &budget, &in, &update, &t->report));
        t->release_s = fmin(t->release_s, fb_time_s() - start_s);
        FB_TRY(send(&public_rng, &update, spec->select == FB_SELECT_RANDOM && spec->fraction < 1.0, t));
        t->count = update.count;
    }
    fb_update_free(&update);
    return FB_OK;
}

static fb_status bench_releases(fb_noise *noise, const float *dw)
{
    static const char *const selects[] = {"all", "topk", "random", "svt"};
    static const double fractions[] = {0.1, 0.4};
    printf("\n%-8s %-8s %4s %9s %9s %9s %9s %7s %9s %8s\n", "select", "noise", "Q", "tests", "release", "encode",
           "decode", "passes", "bytes", "of bound");
    for (int select = 0; select < 4; select++) {
        for (int row = 0; row < (select == FB_SELECT_ALL ? 2 : 4); row++) {
            times t;
            fb_release_spec spec = {.select = (fb_select)select,
                                    .fraction = fractions[row / 2],
                                    .clip = 1e-4,
                                    .mechanism = (fb_mechanism)(row % 2),
                                    .threshold = 1e-6,
                                    .epsilon_threshold = 1.0,
                                    .epsilon_answer = 1.0,
                                    .answer_budget = FB_ANSWER_PER_PARAMETER,
                                    .clip_answers = 1};
            if (select == FB_SELECT_ALL)
                spec.fraction = 1.0;
            FB_TRY(bench_release(&spec, noise, dw, &t));
            const int sends_indices = select == FB_SELECT_TOPK || select == FB_SELECT_SVT;
            const double values = (double)t.count * (spec.mechanism == FB_MECHANISM_NONE ? 32.0 : 21.0) / 8.0;
            const double bound = values + (sends_indices ? fb_frame_bound_bytes(PARAMETERS, t.count, 0) : 0.0);
            printf("%-8s %-8s %4.1f %9lld %6.1f ms %6.1f ms %6.1f ms %7lld %9lld %8.4f\n", selects[select],
                   row % 2 ? "laplace" : "none", spec.fraction, (long long)t.report.tests, t.release_s * 1e3,
                   t.encode_s * 1e3, t.decode_s * 1e3, (long long)t.report.passes, (long long)t.size_bytes,
                   (double)t.size_bytes / bound);
        }
    }
    return FB_OK;
}

static fb_status run(fb_noise **noise, float **dw)
{
    uint8_t key[FB_KEY_BYTES];
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    FB_TRY(fb_key_make(FB_KEY_SEED, 1, NULL, 0, key));
    FB_TRY(fb_noise_create(key, noise));
    FB_TRY(FB_ALLOC(*dw, PARAMETERS, "update"));
    for (uint32_t i = 0; i < PARAMETERS; i++)
        (*dw)[i] = (float)(0.5e-4 * STEPS * fb_rng_normal(&rng, i));
    FB_TRY(bench_draws(*noise));
    return bench_releases(*noise, *dw);
}

int main(void)
{
    fb_noise *noise = NULL;
    float *dw = NULL;
    fb_status status = run(&noise, &dw);
    fb_noise_destroy(&noise);
    FB_FREE(dw);
    if (status != FB_OK)
        fprintf(stderr, "bench_privacy: %s\n", fb_error_message(status));
    const int code = fb_error_exit_code(status);
    fb_error_free(&status);
    return code;
}
