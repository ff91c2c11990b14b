/* SPDX-License-Identifier: Apache-2.0
 *
 * Time and memory of a training step (forward, loss, backward, Adam) on random input, beside the convolutions of the
 * same step alone: what no other part can be faster than.
 *   bench_step [--filters F] [--size S] [--threads T] [--steps N]
 * Without --filters and --size: 8 and 16 filters at 64^3 and 128^3. Times are the shortest of N (default 5), as on a
 * shared machine everything else is the neighbours'.
 */
#include "core/mem.h"
#include "core/rng.h"
#include "core/timer.h"
#include "nn/loss.h"
#include "nn/optim.h"
#include "nn/segresnet.h"
#include "segresnet_layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum part { FORWARD, LOSS, BACKWARD, ADAM, PARTS };

typedef struct bench {
    const fb_ops *ops;
    int64_t filters, size, voxels;
    int steps;
    fb_params *params;
    fb_segresnet *net;
    fb_real *w, *g, *m, *v;        /* (params->count) */
    fb_real *x, *logits, *dlogits; /* (voxels, 4), (voxels, 3), (voxels, 3) */
    uint8_t *target;               /* (voxels) */
    double part_s[PARTS], step_s;  /* the shortest of the steps */
} bench;

static fb_status allocate_random(int64_t count, fb_real **values)
{
    const fb_rng rng = {.seed = 1, .purpose = FB_RNG_TEST};
    FB_TRY(FB_ALLOC(*values, count, "benchmark data"));
    for (int64_t i = 0; i < count; i++)
        (*values)[i] = (fb_real)fb_rng_range(&rng, (uint32_t)i, -1.0, 1.0);
    return FB_OK;
}

/* --- the step ------------------------------------------------------------------------------------ */

static fb_status setup(bench *b)
{
    const fb_net_spec spec = {
        .filters = b->filters, .levels = 4, .blocks_down = {1, 2, 2, 4}, .blocks_up = {1, 1, 1}, .dropout = 0.0};
    const int64_t shape[3] = {b->size, b->size, b->size};
    b->voxels = b->size * b->size * b->size;
    FB_TRY(fb_params_create(&spec, &b->params));
    FB_TRY(fb_segresnet_create(&spec, b->params, b->ops, shape, 1, &b->net));
    fb_real **vectors[] = {&b->w, &b->g, &b->m, &b->v};
    for (int i = 0; i < 4; i++)
        FB_TRY(FB_ALLOC(*vectors[i], b->params->count, "benchmark model"));
    fb_params_init(b->params, 1, b->w);
    FB_TRY(allocate_random(b->voxels * FB_IMAGE_CHANNELS, &b->x));
    FB_TRY(FB_ALLOC(b->logits, b->voxels * FB_REGIONS, "benchmark data"));
    FB_TRY(FB_ALLOC(b->dlogits, b->voxels * FB_REGIONS, "benchmark data"));
    FB_TRY(FB_ALLOC(b->target, b->voxels, "benchmark data"));
    for (int64_t i = 0; i < b->voxels; i++)
        b->target[i] = (uint8_t)(i / 5 % 8);
    return FB_OK;
}

static void teardown(bench *b)
{
    fb_segresnet_destroy(&b->net);
    fb_params_destroy(&b->params);
    fb_real **owned[] = {&b->w, &b->g, &b->m, &b->v, &b->x, &b->logits, &b->dlogits};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        FB_FREE(*owned[i]);
    FB_FREE(b->target);
}

static fb_status one_step(bench *b, int step, double end_s[PARTS])
{
    const fb_adam_spec adam = {1e-4, 0.9, 0.999, 1e-8, 1e-5};
    FB_TRY(fb_segresnet_forward(b->net, b->w, b->x, NULL, b->logits));
    end_s[FORWARD] = fb_time_s();
    if (!isfinite(fb_dice_loss(b->voxels, b->logits, b->target, b->dlogits)))
        return FB_FAIL("bench_step: the loss of step %d is not finite", step);
    end_s[LOSS] = fb_time_s();
    FB_TRY(fb_segresnet_backward(b->net, b->dlogits, b->g));
    end_s[BACKWARD] = fb_time_s();
    fb_adam_step(&adam, b->params->count, step, b->w, b->g, b->m, b->v);
    end_s[ADAM] = fb_time_s();
    return FB_OK;
}

static fb_status time_steps(bench *b)
{
    double end_s[PARTS];
    b->step_s = INFINITY;
    for (int part = 0; part < PARTS; part++)
        b->part_s[part] = INFINITY;
    FB_TRY(one_step(b, 1, end_s)); /* warms up */
    for (int step = 2; step < b->steps + 2; step++) {
        const double start = fb_time_s();
        FB_TRY(one_step(b, step, end_s));
        b->step_s = fmin(b->step_s, end_s[ADAM] - start);
        for (int part = 0; part < PARTS; part++)
            b->part_s[part] = fmin(b->part_s[part], end_s[part] - (part == 0 ? start : end_s[part - 1]));
    }
    return FB_OK;
}

/* --- its convolutions alone ---------------------------------------------------------------------- */

/* Shortest of `repeats` of forward, backward by data (but for the first layer) and by weights; x, y as large as any
 * activation. */
static fb_status time_conv(const bench *b, fb_conv *conv, int is_first, fb_real *x, fb_real *y, double *seconds)
{
    double forward_s = INFINITY, data_s = is_first ? 0.0 : INFINITY, weights_s = INFINITY;
    for (int i = 0; i < b->steps + 1; i++) {
        const double start = fb_time_s();
        FB_TRY(b->ops->conv_fwd(conv, x, y));
        const double forward_end = fb_time_s();
        FB_TRY(b->ops->conv_bwd_weights(conv, x, y, b->g));
        const double weights_end = fb_time_s();
        forward_s = fmin(forward_s, forward_end - start);
        weights_s = fmin(weights_s, weights_end - forward_end);
        if (is_first)
            continue;
        FB_TRY(b->ops->conv_bwd_data(conv, y, x));
        data_s = fmin(data_s, fb_time_s() - weights_end);
    }
    *seconds = forward_s + data_s + weights_s;
    return FB_OK;
}

static fb_status time_convolutions(const bench *b, double *total_s)
{
    conv_layer layers[CONV_LAYERS];
    fb_real *x = NULL, *y = NULL;
    fb_status status = FB_OK;
    *total_s = 0.0;
    list_conv_layers((const int64_t[3]){b->size, b->size, b->size}, b->filters, layers);
    FB_TRY_GOTO(status, allocate_random(b->voxels * b->filters, &x), end);
    FB_TRY_GOTO(status, allocate_random(b->voxels * b->filters, &y), end);
    for (int i = 0; i < CONV_LAYERS; i++) {
        fb_conv *conv = NULL;
        double seconds = 0.0;
        FB_TRY_GOTO(status, b->ops->conv_create(ops, &layers[i].shape, &conv), end);
        status = b->ops->conv_load(conv, b->w);
        if (status == FB_OK)
            status = time_conv(b, conv, i == 0, x, y, &seconds);
        b->ops->conv_destroy(&conv);
        if (status != FB_OK)
            goto end;
        *total_s += seconds * layers[i].times;
    }
end:
    FB_FREE(x);
    FB_FREE(y);
    return status;
}

/* --- the table ----------------------------------------------------------------------------------- */

static double peak_resident_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024.0;
}

static fb_status measure(int64_t filters, int64_t size, int steps)
{
    bench b = {.ops = &fb_ops_dnnl, .filters = filters, .size = size, .steps = steps};
    double convolutions_s = 0.0;
    fb_status status = setup(&b);
    if (status == FB_OK)
        status = time_steps(&b);
    const double resident_mib = peak_resident_mib(); /* before the convolutions get buffers of their own */
    if (status == FB_OK)
        status = time_convolutions(&b, &convolutions_s);
    if (status == FB_OK)
        printf("%7lld %4lld^3 %8.3f %8.3f %8.3f %8.3f %8.3f %13.3f %6.2f %12.1f %9.1f\n", (long long)filters,
               (long long)size, b.step_s, b.part_s[FORWARD], b.part_s[LOSS], b.part_s[BACKWARD], b.part_s[ADAM],
               convolutions_s, b.step_s / convolutions_s, (double)fb_segresnet_activation_bytes(b.net) / 1048576.0,
               resident_mib);
    fflush(stdout);
    teardown(&b);
    return status;
}

typedef struct request {
    long filters, size, threads, steps; /* 0: default */
} request;

static fb_status parse(int argc, char **argv, request *r)
{
    const struct {
        const char *name;
        long *value, limit;
    } options[] = {{"--filters", &r->filters, 32},
                   {"--size", &r->size, 256},
                   {"--threads", &r->threads, 256},
                   {"--steps", &r->steps, 1000}};
    for (int i = 1; i < argc; i += 2) {
        int known = 0;
        for (size_t o = 0; o < sizeof options / sizeof options[0]; o++) {
            if (strcmp(argv[i], options[o].name) != 0)
                continue;
            char *end = NULL;
            *options[o].value = i + 1 < argc ? strtol(argv[i + 1], &end, 10) : 0;
            known = end && *end == '\0' && *options[o].value >= 1 && *options[o].value <= options[o].limit;
        }
        if (!known)
            return FB_USAGE("%s: usage: bench_step [--filters 1-32] [--size 1-256] [--threads 1-256] [--steps 1-1000]",
                            argv[i]);
    }
    return FB_OK;
}

static fb_status run(int argc, char **argv)
{
    request r = {.threads = 1, .steps = 5};
    FB_TRY(parse(argc, argv, &r));
    fb_ops_set_threads((int)r.threads);
    printf("seconds, shortest of %ld; %ld threads; memory in MiB, peak of the process so far\n", r.steps, r.threads);
    printf("filters  input     step  forward     loss backward     Adam  convolutions  ratio  activations  resident\n");
    for (long size = 64; size <= 128; size *= 2)
        for (long filters = 8; filters <= 16; filters *= 2) {
            const int first_size = size == 64, first_filters = filters == 8;
            if ((r.size && !first_size) || (r.filters && !first_filters))
                continue;
            FB_TRY(measure(r.filters ? r.filters : filters, r.size ? r.size : size, (int)r.steps));
        }
    return FB_OK;
}

int main(int argc, char **argv)
{
    fb_status status = run(argc, argv);
    const int exit_code = fb_error_exit_code(status);
    if (status != FB_OK)
        fprintf(stderr, "bench_step: %s\n", fb_error_message(status));
    fb_error_free(&status);
    return exit_code;
}
