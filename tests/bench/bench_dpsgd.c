/* SPDX-License-Identifier: Apache-2.0
 *
 * Time of patient-level privacy in a training step of the paper's network: to add a patient's gradient, and to finish
 * the step with noise. One thread; the best of a few repeats.
 */
#include "core/mem.h"
#include "core/rng.h"
#include "core/timer.h"
#include "privacy/dpsgd.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>

enum { PARAMETERS = 1176843, REPEATS = 20 };

typedef struct arrays {
    float *gradient, *noised; /* (PARAMETERS), as all here */
    int32_t *scratch;
    int64_t *sum;
} arrays;

static fb_status allocate(arrays *a)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    FB_TRY(FB_ALLOC(a->gradient, PARAMETERS, "gradient"));
    FB_TRY(FB_ALLOC(a->noised, PARAMETERS, "gradient"));
    FB_TRY(FB_ALLOC(a->scratch, PARAMETERS, "scratch"));
    FB_TRY(FB_ALLOC(a->sum, PARAMETERS, "sum"));
    for (uint32_t i = 0; i < PARAMETERS; i++)
        a->gradient[i] = (float)fb_rng_normal(&rng, i); /* of norm 1085 */
    return FB_OK;
}

static fb_status bench(const char *name, double clip_norm, const arrays *a)
{
    const fb_dpsgd_spec spec = {clip_norm, 1.0, 0.0, 77, 1, PARAMETERS};
    const uint8_t key[FB_KEY_BYTES] = {1};
    fb_dpsgd_plan plan;
    fb_dpsgd_report report = {0};
    fb_gauss *gauss = NULL;
    fb_noise *noise = NULL;
    double add_s = INFINITY, finish_s = INFINITY;
    fb_status status = FB_OK;
    FB_TRY(fb_dpsgd_plan_make(&spec, &plan));
    FB_TRY_GOTO(status, fb_gauss_create(plan.sigma, &gauss), done);
    FB_TRY_GOTO(status, fb_noise_create(key, &noise), done);
    for (uint32_t repeat = 0; repeat < REPEATS; repeat++) {
        double start_s = fb_time_s();
        fb_dpsgd_add(&plan, a->gradient, a->scratch, a->sum, &report);
        add_s = fmin(add_s, fb_time_s() - start_s);
        start_s = fb_time_s();
        fb_dpsgd_finish(&plan, gauss, noise, 0, 0, repeat, a->sum, a->noised);
        finish_s = fmin(finish_s, fb_time_s() - start_s);
    }
    printf("%-12s %14.2f %14.2f\n", name, add_s * 1e3, finish_s * 1e3);
done:
    fb_noise_destroy(&noise);
    fb_gauss_destroy(&gauss);
    return status;
}

int main(void)
{
    arrays a = {0};
    omp_set_num_threads(1);
    fb_status status = allocate(&a);
    printf("%d parameters, one thread\n%-12s %14s %14s\n", PARAMETERS, "gradient", "add, ms", "noise, ms");
    if (status == FB_OK)
        status = bench("clipped", 1.0, &a);
    if (status == FB_OK)
        status = bench("not clipped", 1e4, &a);
    FB_FREE(a.gradient);
    FB_FREE(a.noised);
    FB_FREE(a.scratch);
    FB_FREE(a.sum);
    if (status == FB_OK)
        return 0;
    fprintf(stderr, "%s\n", fb_error_message(status));
    fb_error_free(&status);
    return 1;
}
