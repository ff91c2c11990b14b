/* SPDX-License-Identifier: Apache-2.0
 *
 * Time of each kind of noise, of a release and of a message for the paper's network, and the processor that took it.
 * One thread; the best of a few repeats.
 */
#include "codec/frame.h"
#include "core/mem.h"
#include "core/rng.h"
#include "core/timer.h"
#include "privacy/gauss.h"
#include "privacy/gumbel.h"
#include "privacy/laplace.h"
#include "privacy/mechanism.h"
#include "privacy/tail.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PARAMETERS = 1176843, STEPS = 154, REPEATS = 15 };

typedef int64_t (*draw_function)(const void *tables, fb_noise *noise);

static int64_t draw_laplace(const void *tables, fb_noise *noise)
{
    return fb_laplace_draw(tables, noise);
}

static int64_t draw_gauss(const void *tables, fb_noise *noise)
{
    return fb_gauss_draw(tables, noise);
}

static int64_t draw_gumbel(const void *tables, fb_noise *noise)
{
    (void)tables;
    return fb_gumbel_draw(noise);
}

/* P(X >= 2 scales), a test of the SVT that most candidates fail */
typedef struct tail_test {
    fb_tail tail;
    int64_t distance;
} tail_test;

static int64_t draw_test(const void *tables, fb_noise *noise)
{
    const tail_test *test = tables;
    return fb_tail_reaches(&test->tail, test->distance, noise);
}

/* The best of many short blocks, which other programs on the machine disturb least. */
static void bench_draw(const char *name, double scale, double tables_s, draw_function draw, const void *tables,
                       fb_noise *noise)
{
    enum { BLOCK = 20000, BLOCKS = 100 };
    double best_s = INFINITY;
    int64_t sum = 0;
    fb_noise_seek(noise, &(fb_noise_address){.purpose = FB_NOISE_ANSWER});
    for (int block = 0; block < BLOCKS; block++) {
        const double start_s = fb_time_s();
        for (int k = 0; k < BLOCK; k++)
            sum ^= draw(tables, noise);
        best_s = fmin(best_s, (fb_time_s() - start_s) / BLOCK);
    }
    printf("%-10s %-10g %10.1f %12.1f %16.3g%s\n", name, scale, best_s * 1e9, tables_s * 1e6, 1.0 / best_s,
           sum == 1 ? " " : "");
}

static fb_status bench_laplace(double scale, fb_noise *noise)
{
    fb_laplace *laplace = NULL;
    const double start_s = fb_time_s();
    FB_TRY(fb_laplace_create(scale, &laplace));
    bench_draw("laplace", scale, fb_time_s() - start_s, draw_laplace, laplace, noise);
    fb_laplace_destroy(&laplace);
    return FB_OK;
}

static fb_status bench_gauss(double sigma, fb_noise *noise)
{
    fb_gauss *gauss = NULL;
    const double start_s = fb_time_s();
    FB_TRY(fb_gauss_create(sigma, &gauss));
    bench_draw("gaussian", sigma, fb_time_s() - start_s, draw_gauss, gauss, noise);
    fb_gauss_destroy(&gauss);
    return FB_OK;
}

static void print_processor(void)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "model name", 10) == 0) {
            printf("processor: %s", strchr(line, ':') ? strchr(line, ':') + 2 : line);
            break;
        }
    }
    if (file)
        fclose(file);
}

static fb_status bench_draws(fb_noise *noise)
{
    static const double laplace[] = {0.3, 1.0, 1e3, 1e6, 1e9, 1e12, 1e15};
    static const double gauss[] = {0.5, 50.0, 1e3, 0x1p20, 0x1p30, 0x1p40, 0x1p56};
    static const double tail[] = {1.0, 1e6, 1e12};
    print_processor();
    printf("%-10s %-10s %10s %12s %16s\n", "noise", "scale", "ns a draw", "tables, us", "draws a second");
    for (size_t i = 0; i < sizeof laplace / sizeof laplace[0]; i++)
        FB_TRY(bench_laplace(laplace[i], noise));
    for (size_t i = 0; i < sizeof gauss / sizeof gauss[0]; i++)
        FB_TRY(bench_gauss(gauss[i], noise));
    bench_draw("gumbel", 1.0, 0.0, draw_gumbel, NULL, noise);
    for (size_t i = 0; i < sizeof tail / sizeof tail[0]; i++) {
        const double start_s = fb_time_s();
        const tail_test test = {fb_tail_of(tail[i]), (int64_t)(2.0 * tail[i])};
        bench_draw("svt test", tail[i], fb_time_s() - start_s, draw_test, &test, noise);
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
