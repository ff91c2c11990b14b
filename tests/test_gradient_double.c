/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients against central differences in double: for a scalar f and a random direction d, with g(t) = f(x + t d),
 * (8 (g(h) - g(-h)) - (g(2h) - g(-2h))) / 12h = <gradient, d> + O(h^4). At h = 1e-4 truncation is near 1e-12 and
 * rounding near 1e-12 of f, so 1e-6 has room, and a forgotten term has none.
 */
#include "core/rng.h"
#include "nn/loss.h"
#include "nn/pointwise.h"
#include "nn/segresnet.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const double h = 1e-4, limit = 1e-6;
static const fb_ops *const ops = &fb_ops_ref;

/* `count` numbers uniform on [-1, 1); owned by the caller */
static fb_real *random_vector(int64_t count, uint32_t stream)
{
    const fb_rng rng = {.seed = 42, .purpose = FB_RNG_TEST, .round = stream};
    fb_real *values = NULL;
    must(FB_ALLOC(values, count, "test vector"));
    for (int64_t i = 0; i < count; i++)
        values[i] = fb_rng_range(&rng, (uint32_t)i, -1.0, 1.0);
    return values;
}

static double dot(int64_t count, const fb_real *a, const fb_real *b)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* x += t d */
static void move(int64_t count, fb_real *x, double t, const fb_real *d)
{
    for (int64_t i = 0; i < count; i++)
        x[i] += t * d[i];
}

/* A function of `x` and what else its context holds. */
typedef double (*scalar_function)(void *context);

/* f at x + t d; x is left as it was. */
static double value_at(scalar_function f, void *context, int64_t count, fb_real *x, double t, const fb_real *d)
{
    fb_real *kept = NULL;
    must(FB_ALLOC(kept, count, "test vector"));
    memcpy(kept, x, (size_t)count * sizeof *x);
    move(count, x, t, d);
    const double value = f(context);
    memcpy(x, kept, (size_t)count * sizeof *x);
    FB_FREE(kept);
    return value;
}

/* `gradient` of f with respect to x (count), in a random direction. */
static void check_gradient(const char *what, scalar_function f, void *context, int64_t count, fb_real *x,
                           const fb_real *gradient)
{
    fb_real *d = random_vector(count, 99);
    const double near = value_at(f, context, count, x, h, d) - value_at(f, context, count, x, -h, d),
                 far = value_at(f, context, count, x, 2 * h, d) - value_at(f, context, count, x, -2 * h, d);
    const double numeric = (8 * near - far) / (12 * h), analytic = dot(count, gradient, d);
    const double error = fabs(numeric - analytic) / fmax(fabs(numeric), fabs(analytic));
    if (!(error <= limit))
        fail_msg("%s: derivative %.12g, by differences %.12g: relative error %.3g", what, analytic, numeric, error);
    if (getenv("FB_VERBOSE"))
        print_message("%-44s %.2e\n", what, error);
    FB_FREE(d);
}

/* --- convolution: f = <r, conv(x)> --------------------------------------------------------------- */

typedef struct conv_context {
    fb_conv *conv;
    fb_real *x, *w, *y, *r;
    int64_t y_count;
} conv_context;

static double conv_value(void *context)
{
    conv_context *c = context;
    must(ops->conv_load(c->conv, c->w));
    must(ops->conv_fwd(c->conv, c->x, c->y));
    return dot(c->y_count, c->r, c->y);
}

static void check_conv(int kernel, int stride)
{
    const fb_conv_shape shape = {{5, 6, 7}, 3, 4, kernel, stride};
    const int64_t x_count = 5 * 6 * 7 * 3, w_count = (int64_t)4 * 3 * kernel * kernel * kernel;
    const int64_t y_count = stride == 2 ? 3 * 3 * 4 * 4 : 5 * 6 * 7 * 4;
    char what[64];
    conv_context c = {.x = random_vector(x_count, 1),
                      .w = random_vector(w_count, 2),
                      .y = random_vector(y_count, 3),
                      .r = random_vector(y_count, 4),
                      .y_count = y_count};
    fb_real *dx = random_vector(x_count, 5), *dw = random_vector(w_count, 6);
    must(ops->conv_create(ops, &shape, &c.conv));
    conv_value(&c);
    must(ops->conv_bwd_data(c.conv, c.r, dx));
    must(ops->conv_bwd_weights(c.conv, c.x, c.r, dw));
    snprintf(what, sizeof what, "convolution %d^3 stride %d, input", kernel, stride);
    check_gradient(what, conv_value, &c, x_count, c.x, dx);
    snprintf(what, sizeof what, "convolution %d^3 stride %d, weights", kernel, stride);
    check_gradient(what, conv_value, &c, w_count, c.w, dw);
    ops->conv_destroy(&c.conv);
    fb_real *owned[] = {c.x, c.w, c.y, c.r, dx, dw};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        FB_FREE(owned[i]);
}

static void convolution(void **state)
{
    (void)state;
    for (int stride = 1; stride <= 2; stride++) {
        check_conv(1, stride);
        check_conv(3, stride);
    }
}

/* --- norm and relu: f = <r, y> ------------------------------------------------------------------- */

enum { NORM_VOXELS = 30, NORM_CHANNELS = 16, NORM_COUNT = NORM_VOXELS * NORM_CHANNELS };

typedef struct norm_context {
    fb_real *x, *gamma, *beta, *r;
    fb_real y[NORM_COUNT], stats[2 * FB_NORM_GROUPS];
    int64_t active; /* elements above zero at the first call; every call must find the same number */
} norm_context;

static double norm_value(void *context)
{
    norm_context *c = context;
    int64_t active = 0;
    ops->norm_relu_fwd(ops, NORM_VOXELS, NORM_CHANNELS, c->x, c->gamma, c->beta, c->y, c->stats);
    for (int i = 0; i < NORM_COUNT; i++)
        active += c->y[i] > 0.0;
    if (c->active == 0)
        c->active = active;
    assert_int_equal(active, c->active); /* no ReLU turns between the two points */
    return dot(NORM_COUNT, c->r, c->y);
}

static void norm_relu(void **state)
{
    (void)state;
    norm_context c = {.x = random_vector(NORM_COUNT, 11),
                      .gamma = random_vector(NORM_CHANNELS, 12),
                      .beta = random_vector(NORM_CHANNELS, 13),
                      .r = random_vector(NORM_COUNT, 14)};
    fb_real *before = random_vector(NORM_COUNT, 15), *dx = random_vector(NORM_COUNT, 15);
    fb_real dgamma[NORM_CHANNELS], dbeta[NORM_CHANNELS];
    norm_value(&c);
    assert_in_range(c.active, NORM_COUNT / 4, 3 * NORM_COUNT / 4);
    ops->norm_relu_bwd(ops, NORM_VOXELS, NORM_CHANNELS, c.x, c.gamma, c.beta, c.stats, c.r, dx, dgamma, dbeta);
    move(NORM_COUNT, dx, -1.0, before); /* dx accumulates */
    check_gradient("norm and relu, input", norm_value, &c, NORM_COUNT, c.x, dx);
    check_gradient("norm and relu, gamma", norm_value, &c, NORM_CHANNELS, c.gamma, dgamma);
    check_gradient("norm and relu, beta", norm_value, &c, NORM_CHANNELS, c.beta, dbeta);
    fb_real *owned[] = {c.x, c.gamma, c.beta, c.r, before, dx};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        FB_FREE(owned[i]);
}

/* --- upsampling: f = <r, upsample(x) + skip> ----------------------------------------------------- */

typedef struct upsample_context {
    int64_t in[3], channels, count, out_count;
    fb_real *x, *skip, *y, *r;
} upsample_context;

static double upsample_value(void *context)
{
    upsample_context *c = context;
    ops->upsample_add_fwd(ops, c->in, c->channels, c->x, c->skip, c->y);
    return dot(c->out_count, c->r, c->y);
}

static void check_upsample(int64_t depth, int64_t height, int64_t width)
{
    upsample_context c = {.in = {depth, height, width}, .channels = 2, .count = depth * height * width * 2};
    c.out_count = 8 * c.count;
    c.x = random_vector(c.count, 21);
    c.skip = random_vector(c.out_count, 22);
    c.y = random_vector(c.out_count, 23);
    c.r = random_vector(c.out_count, 24);
    fb_real *dx = random_vector(c.count, 25);
    ops->upsample_bwd(ops, c.in, c.channels, c.r, dx);
    check_gradient("trilinear upsampling, input", upsample_value, &c, c.count, c.x, dx);
    check_gradient("trilinear upsampling, skip", upsample_value, &c, c.out_count, c.skip, c.r);
    fb_real *owned[] = {c.x, c.skip, c.y, c.r, dx};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        FB_FREE(owned[i]);
}

static void upsampling(void **state)
{
    (void)state;
    check_upsample(3, 4, 5);
    check_upsample(1, 2, 1);
}

/* --- bias and loss ------------------------------------------------------------------------------- */

enum { LOSS_VOXELS = 777, LOSS_COUNT = LOSS_VOXELS * FB_REGIONS };

typedef struct loss_context {
    fb_real *logits, *bias;
    uint8_t target[LOSS_VOXELS];
} loss_context;

static double loss_value(void *context)
{
    const loss_context *c = context;
    return fb_dice_loss(LOSS_VOXELS, c->logits, c->target, NULL);
}

static double biased_loss_value(void *context)
{
    const loss_context *c = context;
    fb_real biased[LOSS_COUNT];
    memcpy(biased, c->logits, sizeof biased);
    fb_bias_add(LOSS_VOXELS, c->bias, biased);
    return fb_dice_loss(LOSS_VOXELS, biased, c->target, NULL);
}

static void loss_and_bias(void **state)
{
    (void)state;
    loss_context c = {.logits = random_vector(LOSS_COUNT, 31), .bias = random_vector(FB_REGIONS, 32)};
    fb_real dlogits[LOSS_COUNT], dbias[FB_REGIONS];
    for (int v = 0; v < LOSS_VOXELS; v++)
        c.target[v] = (uint8_t)(v % 4); /* TC and WT; ET is empty */
    const double loss = fb_dice_loss(LOSS_VOXELS, c.logits, c.target, dlogits);
    assert_true(loss == loss_value(&c));
    check_gradient("Dice loss, logits", loss_value, &c, LOSS_COUNT, c.logits, dlogits);
    for (int v = 0; v < LOSS_VOXELS; v++)
        assert_true(dlogits[v * FB_REGIONS + FB_REGION_ET] == 0.0);

    for (int v = 0; v < LOSS_VOXELS; v++)
        c.target[v] = (uint8_t)(v % 8);
    fb_real biased[LOSS_COUNT];
    memcpy(biased, c.logits, sizeof biased);
    fb_bias_add(LOSS_VOXELS, c.bias, biased);
    fb_dice_loss(LOSS_VOXELS, biased, c.target, dlogits);
    fb_bias_bwd(LOSS_VOXELS, dlogits, dbias);
    check_gradient("Dice loss, bias", biased_loss_value, &c, FB_REGIONS, c.bias, dbias);
    FB_FREE(c.logits);
    FB_FREE(c.bias);
}

/* --- the whole network --------------------------------------------------------------------------- */

enum { NET_VOXELS = 8 * 4 * 8 };

typedef struct net_context {
    fb_segresnet *net;
    fb_real *w, *x, *logits, *r;
} net_context;

static double net_value(void *context)
{
    static const fb_real dropout_scale[8] = {1.25, 1.25, 0, 1.25, 1.25, 1.25, 1.25, 0};
    net_context *c = context;
    must(fb_segresnet_forward(c->net, c->w, c->x, dropout_scale, c->logits));
    return dot(NET_VOXELS * FB_REGIONS, c->r, c->logits);
}

/* Norm biases of +8 and -8 in turn: far beyond the spread of normalised values, so half of the channels pass their
 * ReLU everywhere, the others nowhere, and a step of h turns none. */
static void init_away_from_kinks(const fb_params *params, fb_real *w)
{
    fb_params_init(params, 7, w);
    for (int t = 0; t < params->tensor_count; t++) {
        const fb_tensor_info *tensor = &params->tensors[t];
        for (int64_t i = 0; tensor->rank == 1 && strstr(tensor->name, "bias") && i < tensor->count; i++)
            w[tensor->offset + i] = i % 2 == 0 ? 8.0 : -8.0;
    }
}

/* Every tensor of the network on its own, so that none hides behind a larger one. */
static void whole_network(void **state)
{
    (void)state;
    const fb_net_spec spec = {.filters = 8, .levels = 3, .blocks_down = {1, 2, 1}, .blocks_up = {1, 2}};
    const int64_t shape[3] = {8, 4, 8};
    fb_params *params = NULL;
    must(fb_params_create(&spec, &params));
    net_context c = {.w = random_vector(params->count, 41),
                     .x = random_vector(NET_VOXELS * FB_IMAGE_CHANNELS, 42),
                     .logits = random_vector(NET_VOXELS * FB_REGIONS, 43),
                     .r = random_vector(NET_VOXELS * FB_REGIONS, 44)};
    fb_real *gradient = random_vector(params->count, 45);
    init_away_from_kinks(params, c.w);
    must(fb_segresnet_create(&spec, params, ops, shape, 1, &c.net));
    net_value(&c);
    must(fb_segresnet_backward(c.net, c.r, gradient));
    for (int t = 0; t < params->tensor_count; t++) {
        const fb_tensor_info *tensor = &params->tensors[t];
        check_gradient(tensor->name, net_value, &c, tensor->count, c.w + tensor->offset, gradient + tensor->offset);
    }
    check_gradient("all parameters", net_value, &c, params->count, c.w, gradient);
    fb_segresnet_destroy(&c.net);
    fb_params_destroy(&params);
    fb_real *owned[] = {c.w, c.x, c.logits, c.r, gradient};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        FB_FREE(owned[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolution),   cmocka_unit_test(norm_relu),     cmocka_unit_test(upsampling),
        cmocka_unit_test(loss_and_bias), cmocka_unit_test(whole_network), cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
