/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations as the mathematics states them: the oracle for every other backend, so never optimised. Each output
 * element is computed by one loop nest in gather form; sums are in double.
 */
#include "nn/op_host.h"

#include "core/mem.h"

#include <math.h>
#include <stdio.h>

struct fb_conv {
    fb_conv_shape shape;
    int64_t out[3];   /* D, H, W of the output */
    const fb_real *w; /* (C_out, C_in, K, K, K), borrowed */
};

/* --- convolution --------------------------------------------------------------------------------- */

static fb_status conv_create(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out)
{
    (void)ops;
    if ((shape->kernel != 1 && shape->kernel != 3) || (shape->stride != 1 && shape->stride != 2))
        return FB_FAIL("ref convolution: kernel %d with stride %d; kernel is 1 or 3, stride 1 or 2", shape->kernel,
                       shape->stride);
    if (shape->c_in < 1 || shape->c_out < 1 || shape->in[0] < 1 || shape->in[1] < 1 || shape->in[2] < 1)
        return FB_FAIL("ref convolution: %lld x %lld x %lld voxels, %lld to %lld channels; all must be positive",
                       (long long)shape->in[0], (long long)shape->in[1], (long long)shape->in[2],
                       (long long)shape->c_in, (long long)shape->c_out);
    fb_conv *conv = NULL;
    FB_TRY(FB_ALLOC(conv, 1, "ref convolution"));
    conv->shape = *shape;
    for (int axis = 0; axis < 3; axis++)
        conv->out[axis] = (shape->in[axis] + shape->stride - 1) / shape->stride;
    *out = conv;
    return FB_OK;
}

static void conv_destroy(fb_conv **conv)
{
    FB_FREE(*conv);
}

static fb_status conv_bytes(const fb_ops *ops, const fb_conv_shape *shape, int64_t *own_bytes, int64_t *scratch_bytes)
{
    fb_conv *conv = NULL;
    *own_bytes = *scratch_bytes = 0; /* it works in the caller's arrays */
    const fb_status status = conv_create(ops, shape, &conv);
    conv_destroy(&conv);
    return status;
}

static fb_status conv_load(fb_conv *conv, const fb_real *w)
{
    conv->w = w;
    return FB_OK;
}

/* First element of voxel (z, y, x) of a (D, H, W, C) array. */
static int64_t at(const int64_t extent[3], int64_t channels, int64_t z, int64_t y, int64_t x)
{
    return ((z * extent[1] + y) * extent[2] + x) * channels;
}

static int inside(const int64_t extent[3], int64_t z, int64_t y, int64_t x)
{
    return z >= 0 && z < extent[0] && y >= 0 && y < extent[1] && x >= 0 && x < extent[2];
}

/* w[o, i, a, b, c] */
static int64_t weight_at(const fb_conv_shape *s, int64_t o, int64_t i, int64_t a, int64_t b, int64_t c)
{
    return (((o * s->c_in + i) * s->kernel + a) * s->kernel + b) * s->kernel + c;
}

/* sum over k, i of w[o, i, k] * x[stride * position + k - K/2, i] */
static double conv_at(const fb_conv *conv, const fb_real *x, int64_t o, const int64_t position[3])
{
    const fb_conv_shape *s = &conv->shape;
    const int64_t half = s->kernel / 2;
    double sum = 0.0;
    for (int64_t a = 0; a < s->kernel; a++)
        for (int64_t b = 0; b < s->kernel; b++)
            for (int64_t c = 0; c < s->kernel; c++) {
                const int64_t pz = s->stride * position[0] + a - half, py = s->stride * position[1] + b - half,
                              px = s->stride * position[2] + c - half;
                if (!inside(s->in, pz, py, px))
                    continue;
                const fb_real *xv = x + at(s->in, s->c_in, pz, py, px);
                for (int64_t i = 0; i < s->c_in; i++)
                    sum += (double)conv->w[weight_at(s, o, i, a, b, c)] * (double)xv[i];
            }
    return sum;
}

static fb_status conv_fwd(fb_conv *conv, const fb_act *input, fb_act *output)
{
    const fb_real *x = input;
    fb_real *y = output;
    const int64_t c_out = conv->shape.c_out;
    int64_t p[3];
    for (p[0] = 0; p[0] < conv->out[0]; p[0]++)
        for (p[1] = 0; p[1] < conv->out[1]; p[1]++)
            for (p[2] = 0; p[2] < conv->out[2]; p[2]++)
                for (int64_t o = 0; o < c_out; o++)
                    y[at(conv->out, c_out, p[0], p[1], p[2]) + o] = (fb_real)conv_at(conv, x, o, p);
    return FB_OK;
}

/* Output coordinate whose kernel element k reads input coordinate `in`: stride * out + k - half == in; -1 for none. */
static int64_t reader_of(int64_t in, int64_t k, int64_t half, int stride, int64_t out_extent)
{
    const int64_t scaled = in - k + half;
    if (scaled < 0 || scaled % stride != 0 || scaled / stride >= out_extent)
        return -1;
    return scaled / stride;
}

/* sum over k, o of w[o, i, k] * dy[q, o] over the outputs q whose window holds `position` at k */
static double conv_transposed_at(const fb_conv *conv, const fb_real *dy, int64_t i, const int64_t position[3])
{
    const fb_conv_shape *s = &conv->shape;
    const int64_t half = s->kernel / 2;
    double sum = 0.0;
    for (int64_t a = 0; a < s->kernel; a++)
        for (int64_t b = 0; b < s->kernel; b++)
            for (int64_t c = 0; c < s->kernel; c++) {
                const int64_t qz = reader_of(position[0], a, half, s->stride, conv->out[0]),
                              qy = reader_of(position[1], b, half, s->stride, conv->out[1]),
                              qx = reader_of(position[2], c, half, s->stride, conv->out[2]);
                if (qz < 0 || qy < 0 || qx < 0)
                    continue;
                const fb_real *dyv = dy + at(conv->out, s->c_out, qz, qy, qx);
                for (int64_t o = 0; o < s->c_out; o++)
                    sum += (double)conv->w[weight_at(s, o, i, a, b, c)] * (double)dyv[o];
            }
    return sum;
}

static fb_status conv_bwd_data(fb_conv *conv, const fb_act *doutput, fb_act *dinput)
{
    const fb_real *dy = doutput;
    fb_real *dx = dinput;
    const int64_t *in = conv->shape.in, c_in = conv->shape.c_in;
    int64_t p[3];
    for (p[0] = 0; p[0] < in[0]; p[0]++)
        for (p[1] = 0; p[1] < in[1]; p[1]++)
            for (p[2] = 0; p[2] < in[2]; p[2]++)
                for (int64_t i = 0; i < c_in; i++)
                    dx[at(in, c_in, p[0], p[1], p[2]) + i] = (fb_real)conv_transposed_at(conv, dy, i, p);
    return FB_OK;
}

/* sum over positions of dy[position, o] * x[stride * position + (a, b, c) - K/2, i] */
static double correlation_at(const fb_conv *conv, const fb_real *x, const fb_real *dy, int64_t o, int64_t i,
                             const int64_t k[3])
{
    const fb_conv_shape *s = &conv->shape;
    const int64_t half = s->kernel / 2;
    double sum = 0.0;
    for (int64_t z = 0; z < conv->out[0]; z++)
        for (int64_t y = 0; y < conv->out[1]; y++)
            for (int64_t v = 0; v < conv->out[2]; v++) {
                const int64_t pz = s->stride * z + k[0] - half, py = s->stride * y + k[1] - half,
                              px = s->stride * v + k[2] - half;
                if (inside(s->in, pz, py, px))
                    sum += (double)dy[at(conv->out, s->c_out, z, y, v) + o] *
                           (double)x[at(s->in, s->c_in, pz, py, px) + i];
            }
    return sum;
}

static fb_status conv_bwd_weights(fb_conv *conv, const fb_act *x, const fb_act *dy, fb_real *dw)
{
    const fb_conv_shape *s = &conv->shape;
    int64_t k[3];
    for (int64_t o = 0; o < s->c_out; o++)
        for (int64_t i = 0; i < s->c_in; i++)
            for (k[0] = 0; k[0] < s->kernel; k[0]++)
                for (k[1] = 0; k[1] < s->kernel; k[1]++)
                    for (k[2] = 0; k[2] < s->kernel; k[2]++)
                        dw[weight_at(s, o, i, k[0], k[1], k[2])] = (fb_real)correlation_at(conv, x, dy, o, i, k);
    return FB_OK;
}

/* --- GroupNorm and ReLU -------------------------------------------------------------------------- */

static void group_moments(int64_t voxels, int64_t channels, int64_t first, int64_t width, const fb_real *x,
                          double *mean, double *variance)
{
    const double n = (double)(voxels * width);
    double sum = 0.0, squares = 0.0;
    for (int64_t v = 0; v < voxels; v++)
        for (int64_t c = first; c < first + width; c++)
            sum += (double)x[v * channels + c];
    *mean = sum / n;
    for (int64_t v = 0; v < voxels; v++)
        for (int64_t c = first; c < first + width; c++) {
            const double centred = (double)x[v * channels + c] - *mean;
            squares += centred * centred;
        }
    *variance = squares / n;
}

static void norm_relu_fwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *input,
                          const fb_real *gamma, const fb_real *beta, fb_act *output, fb_real *stats)
{
    (void)ops;
    const fb_real *x = input;
    fb_real *y = output;
    const int64_t width = channels / FB_NORM_GROUPS;
    for (int64_t g = 0; g < FB_NORM_GROUPS; g++) {
        double mean = 0.0, variance = 0.0;
        group_moments(voxels, channels, g * width, width, x, &mean, &variance);
        const double rstd = 1.0 / sqrt(variance + 1e-5);
        stats[g] = (fb_real)mean;
        stats[FB_NORM_GROUPS + g] = (fb_real)rstd;
        for (int64_t v = 0; v < voxels; v++)
            for (int64_t c = g * width; c < (g + 1) * width; c++) {
                const double normalised = ((double)x[v * channels + c] - mean) * rstd;
                const double affine = (double)gamma[c] * normalised + (double)beta[c];
                y[v * channels + c] = (fb_real)(affine > 0.0 ? affine : 0.0);
            }
    }
}

/* One group: xhat = (x - mean) rstd, h = dy where relu passes, dgamma = sum h xhat, dbeta = sum h over voxels,
 * dx += rstd (gamma h - mean(gamma h) - xhat mean(gamma h xhat)), means over the group. */
static void norm_relu_bwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *input,
                          const fb_real *gamma, const fb_real *beta, const fb_real *stats, const fb_act *doutput,
                          fb_act *dinput, fb_real *dgamma, fb_real *dbeta)
{
    (void)ops;
    const fb_real *x = input, *dy = doutput;
    fb_real *dx = dinput;
    const int64_t width = channels / FB_NORM_GROUPS;
    for (int64_t g = 0; g < FB_NORM_GROUPS; g++) {
        const double mean = (double)stats[g], rstd = (double)stats[FB_NORM_GROUPS + g];
        double sum_h = 0.0, sum_hx = 0.0; /* of gamma h and of gamma h xhat */
        for (int64_t c = g * width; c < (g + 1) * width; c++) {
            double dg = 0.0, db = 0.0;
            for (int64_t v = 0; v < voxels; v++) {
                const double xhat = ((double)x[v * channels + c] - mean) * rstd;
                const int passes = (double)gamma[c] * xhat + (double)beta[c] > 0.0;
                const double h = passes ? (double)dy[v * channels + c] : 0.0;
                dg += h * xhat;
                db += h;
            }
            dgamma[c] = (fb_real)dg;
            dbeta[c] = (fb_real)db;
            sum_h += (double)gamma[c] * db;
            sum_hx += (double)gamma[c] * dg;
        }
        const double n = (double)(voxels * width);
        for (int64_t v = 0; v < voxels; v++)
            for (int64_t c = g * width; c < (g + 1) * width; c++) {
                const double xhat = ((double)x[v * channels + c] - mean) * rstd;
                const int passes = (double)gamma[c] * xhat + (double)beta[c] > 0.0;
                const double h = passes ? (double)dy[v * channels + c] : 0.0;
                dx[v * channels + c] += (fb_real)(rstd * ((double)gamma[c] * h - sum_h / n - xhat * sum_hx / n));
            }
    }
}

/* --- trilinear upsampling and addition ----------------------------------------------------------- */

/* Weight of input coordinate `in` in output coordinate `out` of one axis that is doubled: the output sits at
 * out / 2 - 1/4 on the input's grid, clamped to its ends (align_corners false). */
static double axis_weight(int64_t extent, int64_t in, int64_t out)
{
    const double place = fmin(fmax(0.5 * (double)out - 0.25, 0.0), (double)(extent - 1));
    return fmax(0.0, 1.0 - fabs(place - (double)in));
}

static int64_t clamp(int64_t value, int64_t lo, int64_t hi)
{
    return value < lo ? lo : value > hi ? hi : value;
}

/* sum over the input voxels p around output q of weight(p, q) x[p, c] */
static double upsampled_at(const int64_t in[3], int64_t channels, const fb_real *x, const int64_t q[3], int64_t c)
{
    int64_t lo[3], hi[3];
    double sum = 0.0;
    for (int axis = 0; axis < 3; axis++) {
        lo[axis] = clamp(q[axis] / 2 - 1, 0, in[axis] - 1);
        hi[axis] = clamp(q[axis] / 2 + 1, 0, in[axis] - 1);
    }
    for (int64_t z = lo[0]; z <= hi[0]; z++)
        for (int64_t y = lo[1]; y <= hi[1]; y++)
            for (int64_t v = lo[2]; v <= hi[2]; v++)
                sum += axis_weight(in[0], z, q[0]) * axis_weight(in[1], y, q[1]) * axis_weight(in[2], v, q[2]) *
                       (double)x[at(in, channels, z, y, v) + c];
    return sum;
}

static void upsample_add_fwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *x,
                             const fb_act *along, fb_act *output)
{
    (void)ops;
    const fb_real *skip = along;
    fb_real *y = output;
    const int64_t out[3] = {2 * in[0], 2 * in[1], 2 * in[2]};
    int64_t q[3];
    for (q[0] = 0; q[0] < out[0]; q[0]++)
        for (q[1] = 0; q[1] < out[1]; q[1]++)
            for (q[2] = 0; q[2] < out[2]; q[2]++)
                for (int64_t c = 0; c < channels; c++) {
                    const int64_t e = at(out, channels, q[0], q[1], q[2]) + c;
                    y[e] = (fb_real)(upsampled_at(in, channels, x, q, c) + (double)skip[e]);
                }
}

/* sum over the outputs q that read input p of weight(p, q) dy[q, c] */
static double downsampled_at(const int64_t in[3], int64_t channels, const fb_real *dy, const int64_t p[3], int64_t c)
{
    const int64_t out[3] = {2 * in[0], 2 * in[1], 2 * in[2]};
    int64_t lo[3], hi[3];
    double sum = 0.0;
    for (int axis = 0; axis < 3; axis++) {
        lo[axis] = clamp(2 * p[axis] - 1, 0, out[axis] - 1);
        hi[axis] = clamp(2 * p[axis] + 2, 0, out[axis] - 1);
    }
    for (int64_t z = lo[0]; z <= hi[0]; z++)
        for (int64_t y = lo[1]; y <= hi[1]; y++)
            for (int64_t v = lo[2]; v <= hi[2]; v++)
                sum += axis_weight(in[0], p[0], z) * axis_weight(in[1], p[1], y) * axis_weight(in[2], p[2], v) *
                       (double)dy[at(out, channels, z, y, v) + c];
    return sum;
}

static void upsample_bwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *dy, fb_act *dinput)
{
    (void)ops;
    fb_real *dx = dinput;
    int64_t p[3];
    for (p[0] = 0; p[0] < in[0]; p[0]++)
        for (p[1] = 0; p[1] < in[1]; p[1]++)
            for (p[2] = 0; p[2] < in[2]; p[2]++)
                for (int64_t c = 0; c < channels; c++)
                    dx[at(in, channels, p[0], p[1], p[2]) + c] = (fb_real)downsampled_at(in, channels, dy, p, c);
}

static void add(const fb_ops *ops, int64_t count, const fb_act *first, const fb_act *second, fb_act *sum)
{
    (void)ops;
    const fb_real *a = first, *b = second;
    fb_real *y = sum;
    for (int64_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}

static void describe(const fb_ops *ops, size_t chars, char *text)
{
    (void)ops;
    snprintf(text, chars, "plain C reference");
}

const fb_ops fb_ops_ref = {
    .name = "ref",
    .describe = describe,
    FB_OPS_HOST,
    .conv_create = conv_create,
    .conv_destroy = conv_destroy,
    .conv_bytes = conv_bytes,
    .conv_load = conv_load,
    .conv_fwd = conv_fwd,
    .conv_bwd_data = conv_bwd_data,
    .conv_bwd_weights = conv_bwd_weights,
    .norm_relu_fwd = norm_relu_fwd,
    .norm_relu_bwd = norm_relu_bwd,
    .upsample_add_fwd = upsample_add_fwd,
    .upsample_bwd = upsample_bwd,
    .add = add,
};
