/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast CPU backend: convolutions by oneDNN or, with 8 channels, by nn/kernels_conv8; the rest by nn/kernels.
 * Activations are handed to oneDNN as "ndhwc", never "any": with 8 channels "any" pads to 16-wide blocks and sends the
 * weight gradient to im2col + GEMM, 4 to 13 times slower. Weights are "any" and reordered from and to the caller's (O,
 * I, D, H, W); they are small.
 *
 * Written for oneDNN 2.x. In 3.x memory descriptors are handles and operation descriptors are gone: describe_tensors(),
 * create_convolution() and the descriptor arguments of create_pass() and create_packed() would differ, the rest not.
 */
#include "core/mem.h"
#include "nn/kernels.h"
#include "nn/kernels_conv8.h"
#include "nn/op_host.h"

#include <dnnl.h>
#include <dnnl_debug.h>
#include <omp.h>
#include <stdio.h>

#define DNNL_TRY(call)                                                                                                 \
    do {                                                                                                               \
        const dnnl_status_t dnnl_try_status_ = (call);                                                                 \
        if (dnnl_try_status_ != dnnl_success)                                                                          \
            return FB_FAIL("oneDNN: %s: %s", #call, dnnl_status2str(dnnl_try_status_));                                \
    } while (0)

enum { NDIMS = 5 }; /* (N, C, D, H, W) of an activation, (O, I, D, H, W) of a weight: oneDNN's logical order */

typedef enum direction { FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS, DIRECTIONS } direction;
typedef enum tensor { INPUT, WEIGHTS, OUTPUT, TENSORS } tensor; /* of the convolution; their gradients going backward */

static const int exec_arg[DIRECTIONS][TENSORS] = {
    {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
    {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
    {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
};

/* One direction of a convolution. */
typedef struct pass {
    int conv8; /* done by fb_conv8: of what follows only `packed` is there, its weights or its scratch */
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[TENSORS]; /* handles of the activations are set at every call */
    dnnl_primitive_t reorder;      /* caller's weights -> packed, or packed -> caller's weight gradient */
    float *packed;                 /* weights as the primitive wants them */
} pass;

struct fb_conv {
    fb_conv_shape shape;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_t plain; /* weights or their gradient as the caller has them */
    pass passes[DIRECTIONS];
};

/* --- set-up
 * ------------------------------------------------------------------------------------------------------------- */

static int64_t out_extent(const fb_conv_shape *shape, int axis)
{
    return (shape->in[axis] + shape->stride - 1) / shape->stride;
}

static fb_status check_shape(const fb_conv_shape *s)
{
    if ((s->kernel != 1 && s->kernel != 3) || (s->stride != 1 && s->stride != 2))
        return FB_FAIL("convolution: kernel %d with stride %d is not supported; kernel 1 or 3, stride 1 or 2",
                       s->kernel, s->stride);
    if (s->c_in < 1 || s->c_out < 1 || s->in[0] < 1 || s->in[1] < 1 || s->in[2] < 1)
        return FB_FAIL("convolution: input %lld x %lld x %lld, channels %lld to %lld: all must be at least 1",
                       (long long)s->in[0], (long long)s->in[1], (long long)s->in[2], (long long)s->c_in,
                       (long long)s->c_out);
    return FB_OK;
}

/* Memory descriptors of input, weights and output; weights with format `weights_tag`. */
static fb_status describe_tensors(const fb_conv_shape *s, dnnl_format_tag_t weights_tag,
                                  dnnl_memory_desc_t desc[TENSORS])
{
    const dnnl_dims_t input = {1, s->c_in, s->in[0], s->in[1], s->in[2]};
    const dnnl_dims_t weights = {s->c_out, s->c_in, s->kernel, s->kernel, s->kernel};
    const dnnl_dims_t output = {1, s->c_out, out_extent(s, 0), out_extent(s, 1), out_extent(s, 2)};
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&desc[INPUT], NDIMS, input, dnnl_f32, dnnl_ndhwc));
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&desc[WEIGHTS], NDIMS, weights, dnnl_f32, weights_tag));
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&desc[OUTPUT], NDIMS, output, dnnl_f32, dnnl_ndhwc));
    return FB_OK;
}

/* Picks the implementation of one direction. `forward` is the forward one, which going backward is a hint. */
static fb_status create_convolution(const fb_conv_shape *s, direction dir, dnnl_engine_t engine,
                                    const_dnnl_primitive_desc_t forward, dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t desc[TENSORS];
    FB_TRY(describe_tensors(s, dnnl_format_tag_any, desc));
    const dnnl_dim_t pad = s->kernel / 2;
    const dnnl_dims_t strides = {s->stride, s->stride, s->stride}, pads = {pad, pad, pad};
    dnnl_convolution_desc_t operation;
    if (dir == FORWARD)
        DNNL_TRY(dnnl_convolution_forward_desc_init(&operation, dnnl_forward_training, dnnl_convolution_direct,
                                                    &desc[INPUT], &desc[WEIGHTS], NULL, &desc[OUTPUT], strides, pads,
                                                    pads));
    else if (dir == BACKWARD_DATA)
        DNNL_TRY(dnnl_convolution_backward_data_desc_init(&operation, dnnl_convolution_direct, &desc[INPUT],
                                                          &desc[WEIGHTS], &desc[OUTPUT], strides, pads, pads));
    else
        DNNL_TRY(dnnl_convolution_backward_weights_desc_init(&operation, dnnl_convolution_direct, &desc[INPUT],
                                                             &desc[WEIGHTS], NULL, &desc[OUTPUT], strides, pads, pads));
    DNNL_TRY(dnnl_primitive_desc_create(out, &operation, NULL, engine, forward));
    return FB_OK;
}

/* Weights: allocates them in the implementation's layout and makes the reorder from or to the caller's. */
static fb_status create_packed(fb_conv *conv, direction dir, pass *p, const dnnl_memory_desc_t *plain,
                               const dnnl_memory_desc_t *packed)
{
    FB_TRY(fb_mem_alloc(&p->packed, (int64_t)dnnl_memory_desc_get_size(packed), 1, "convolution weights"));
    DNNL_TRY(dnnl_memory_create(&p->memory[WEIGHTS], packed, conv->engine, p->packed));
    const dnnl_memory_desc_t *from = dir == BACKWARD_WEIGHTS ? packed : plain;
    const dnnl_memory_desc_t *to = dir == BACKWARD_WEIGHTS ? plain : packed;
    dnnl_primitive_desc_t pd = NULL;
    DNNL_TRY(dnnl_reorder_primitive_desc_create(&pd, from, conv->engine, to, conv->engine, NULL));
    const dnnl_status_t created = dnnl_primitive_create(&p->reorder, pd);
    DNNL_TRY(dnnl_primitive_desc_destroy(pd));
    DNNL_TRY(created);
    return FB_OK;
}

static fb_status create_pass(fb_conv *conv, direction dir, const_dnnl_primitive_desc_t pd,
                             const dnnl_memory_desc_t plain[TENSORS])
{
    pass *p = &conv->passes[dir];
    const dnnl_query_t what = dir == BACKWARD_WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md;
    FB_TRY(create_packed(conv, dir, p, &plain[WEIGHTS], dnnl_primitive_desc_query_md(pd, what, 0)));
    DNNL_TRY(dnnl_memory_create(&p->memory[INPUT], &plain[INPUT], conv->engine, DNNL_MEMORY_NONE));
    DNNL_TRY(dnnl_memory_create(&p->memory[OUTPUT], &plain[OUTPUT], conv->engine, DNNL_MEMORY_NONE));
    DNNL_TRY(dnnl_primitive_create(&p->primitive, pd));
    return FB_OK;
}

/* Backward data is a convolution too, of dy into the input's channels. */
static int conv8_does(const fb_conv_shape *s, direction dir)
{
    if (!FB_CONV8_FAST || s->kernel != 3 || s->stride != 1 || s->c_out != 8 || !fb_conv8_can(s->in, s->c_in))
        return 0;
    return dir != BACKWARD_DATA || s->c_in == 8;
}

static int64_t conv8_packed(direction dir)
{
    return (dir == BACKWARD_WEIGHTS ? FB_CONV8_MAX_CHUNKS : 1) * FB_CONV8_PACKED;
}

static fb_status create_conv8(pass *p, direction dir)
{
    p->conv8 = 1;
    return FB_ALLOC(p->packed, conv8_packed(dir), "convolution weights");
}

static fb_status create_all(fb_conv *conv, const fb_conv_shape *shape)
{
    dnnl_memory_desc_t plain[TENSORS];
    dnnl_primitive_desc_t pd[DIRECTIONS] = {NULL};
    fb_status status = FB_OK;
    FB_TRY(describe_tensors(shape, dnnl_oidhw, plain));
    DNNL_TRY(dnnl_engine_create(&conv->engine, dnnl_cpu, 0));
    DNNL_TRY(dnnl_stream_create(&conv->stream, conv->engine, dnnl_stream_default_flags));
    DNNL_TRY(dnnl_memory_create(&conv->plain, &plain[WEIGHTS], conv->engine, DNNL_MEMORY_NONE));
    for (direction dir = FORWARD; dir < DIRECTIONS && status == FB_OK; dir++) {
        status = create_convolution(shape, dir, conv->engine, pd[FORWARD], &pd[dir]);
        if (status == FB_OK)
            status =
                conv8_does(shape, dir) ? create_conv8(&conv->passes[dir], dir) : create_pass(conv, dir, pd[dir], plain);
    }
    for (direction dir = FORWARD; dir < DIRECTIONS; dir++)
        dnnl_primitive_desc_destroy(pd[dir]);
    return status;
}

static void conv_destroy(fb_conv **conv)
{
    fb_conv *c = *conv;
    if (!c)
        return;
    for (direction dir = FORWARD; dir < DIRECTIONS; dir++) {
        pass *p = &c->passes[dir];
        dnnl_primitive_destroy(p->primitive);
        dnnl_primitive_destroy(p->reorder);
        for (tensor t = INPUT; t < TENSORS; t++)
            dnnl_memory_destroy(p->memory[t]);
        FB_FREE(p->packed);
    }
    dnnl_memory_destroy(c->plain);
    dnnl_stream_destroy(c->stream);
    dnnl_engine_destroy(c->engine);
    FB_FREE(*conv);
}

static fb_status conv_create(const fb_ops *ops, const fb_conv_shape *shape, fb_conv **out)
{
    (void)ops;
    fb_conv *conv = NULL;
    FB_TRY(check_shape(shape));
    FB_TRY(FB_ALLOC(conv, 1, "convolution"));
    conv->shape = *shape;
    fb_status status = create_all(conv, shape);
    if (status != FB_OK)
        conv_destroy(&conv);
    *out = conv;
    return fb_error_context(status, "convolution of %lld x %lld x %lld, channels %lld to %lld, kernel %d, stride %d",
                            (long long)shape->in[0], (long long)shape->in[1], (long long)shape->in[2],
                            (long long)shape->c_in, (long long)shape->c_out, shape->kernel, shape->stride);
}

/* The scratch of one direction; oneDNN keeps one for all primitives of a thread, as large as the largest needs. */
static fb_status add_pass_bytes(const fb_conv_shape *shape, direction dir, const_dnnl_primitive_desc_t pd,
                                int64_t *own_bytes, int64_t *scratch_bytes)
{
    const dnnl_query_t what = dir == BACKWARD_WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md;
    int64_t scratch = 0;
    if (conv8_does(shape, dir)) {
        *own_bytes += conv8_packed(dir) * (int64_t)sizeof(float);
        return FB_OK;
    }
    *own_bytes += (int64_t)dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, what, 0));
    DNNL_TRY(dnnl_primitive_desc_query(pd, dnnl_query_memory_consumption_s64, 0, &scratch));
    *scratch_bytes = scratch > *scratch_bytes ? scratch : *scratch_bytes;
    return FB_OK;
}

static fb_status conv_bytes(const fb_ops *ops, const fb_conv_shape *shape, int64_t *own_bytes, int64_t *scratch_bytes)
{
    (void)ops;
    dnnl_engine_t engine = NULL;
    dnnl_primitive_desc_t pd[DIRECTIONS] = {NULL};
    fb_status status = FB_OK;
    *own_bytes = *scratch_bytes = 0;
    FB_TRY(check_shape(shape));
    DNNL_TRY(dnnl_engine_create(&engine, dnnl_cpu, 0));
    for (direction dir = FORWARD; dir < DIRECTIONS && status == FB_OK; dir++) {
        status = create_convolution(shape, dir, engine, pd[FORWARD], &pd[dir]);
        if (status == FB_OK)
            status = add_pass_bytes(shape, dir, pd[dir], own_bytes, scratch_bytes);
    }
    for (direction dir = FORWARD; dir < DIRECTIONS; dir++)
        dnnl_primitive_desc_destroy(pd[dir]);
    dnnl_engine_destroy(engine);
    return status;
}

/* --- execution
 * ---------------------------------------------------------------------------------------------------------- */

static fb_status run_reorder(fb_conv *conv, pass *p, dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    DNNL_TRY(dnnl_primitive_execute(p->reorder, conv->stream, 2, args));
    DNNL_TRY(dnnl_stream_wait(conv->stream));
    return FB_OK;
}

/* oneDNN's handles are not const; in each direction it writes only the one tensor that the caller passed as writable.
 */
static fb_status run_pass(fb_conv *conv, direction dir, const float *input, const float *output)
{
    pass *p = &conv->passes[dir];
    DNNL_TRY(dnnl_memory_set_data_handle(p->memory[INPUT], (void *)(uintptr_t)input));
    DNNL_TRY(dnnl_memory_set_data_handle(p->memory[OUTPUT], (void *)(uintptr_t)output));
    dnnl_exec_arg_t args[TENSORS];
    for (tensor t = INPUT; t < TENSORS; t++)
        args[t] = (dnnl_exec_arg_t){exec_arg[dir][t], p->memory[t]};
    DNNL_TRY(dnnl_primitive_execute(p->primitive, conv->stream, TENSORS, args));
    DNNL_TRY(dnnl_stream_wait(conv->stream));
    return FB_OK;
}

static fb_status load_pass(fb_conv *conv, direction dir, const float *w)
{
    pass *p = &conv->passes[dir];
    if (!p->conv8)
        return run_reorder(conv, p, conv->plain, p->memory[WEIGHTS]);
    if (dir == FORWARD)
        fb_conv8_pack(conv->shape.c_in, w, p->packed);
    else
        fb_conv8_pack_transposed(w, p->packed);
    return FB_OK;
}

static fb_status conv_load(fb_conv *conv, const float *w)
{
    DNNL_TRY(dnnl_memory_set_data_handle(conv->plain, (void *)(uintptr_t)w));
    FB_TRY(load_pass(conv, FORWARD, w));
    FB_TRY(load_pass(conv, BACKWARD_DATA, w));
    return FB_OK;
}

static fb_status conv_fwd(fb_conv *conv, const fb_act *x, fb_act *y)
{
    const pass *p = &conv->passes[FORWARD];
    if (!p->conv8)
        return run_pass(conv, FORWARD, x, y);
    fb_conv8_apply(conv->shape.in, conv->shape.c_in, p->packed, x, y);
    return FB_OK;
}

static fb_status conv_bwd_data(fb_conv *conv, const fb_act *dy, fb_act *dx)
{
    const pass *p = &conv->passes[BACKWARD_DATA];
    if (!p->conv8)
        return run_pass(conv, BACKWARD_DATA, dx, dy);
    fb_conv8_apply(conv->shape.in, conv->shape.c_out, p->packed, dy, dx);
    return FB_OK;
}

static fb_status conv_bwd_weights(fb_conv *conv, const fb_act *x, const fb_act *dy, float *dw)
{
    pass *p = &conv->passes[BACKWARD_WEIGHTS];
    if (p->conv8) {
        fb_conv8_bwd_weights(conv->shape.in, conv->shape.c_in, x, dy, p->packed, dw);
        return FB_OK;
    }
    FB_TRY(run_pass(conv, BACKWARD_WEIGHTS, x, dy));
    DNNL_TRY(dnnl_memory_set_data_handle(conv->plain, dw));
    return run_reorder(conv, p, p->memory[WEIGHTS], conv->plain);
}

/* --- the table ------------------------------------------------------------------------------------ */

static void norm_relu_fwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const float *gamma,
                          const float *beta, fb_act *y, float *stats)
{
    (void)ops;
    fb_kernels_norm_relu_fwd(voxels, channels, x, gamma, beta, y, stats);
}

static void norm_relu_bwd(const fb_ops *ops, int64_t voxels, int64_t channels, const fb_act *x, const float *gamma,
                          const float *beta, const float *stats, const fb_act *dy, fb_act *dx, float *dgamma,
                          float *dbeta)
{
    (void)ops;
    fb_kernels_norm_relu_bwd(voxels, channels, x, gamma, beta, stats, dy, dx, dgamma, dbeta);
}

static void upsample_add_fwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *x,
                             const fb_act *skip, fb_act *y)
{
    (void)ops;
    fb_kernels_upsample_add_fwd(in, channels, x, skip, y);
}

static void upsample_bwd(const fb_ops *ops, const int64_t in[3], int64_t channels, const fb_act *dy, fb_act *dx)
{
    (void)ops;
    fb_kernels_upsample_bwd(in, channels, dy, dx);
}

static void add(const fb_ops *ops, int64_t count, const fb_act *a, const fb_act *b, fb_act *y)
{
    (void)ops;
    fb_kernels_add(count, a, b, y);
}

void fb_ops_set_threads(int threads)
{
    FB_ASSERT(threads >= 1);
    omp_set_num_threads(threads);
}

static const char *isa_name(dnnl_cpu_isa_t isa)
{
    switch ((int)isa) {
    case dnnl_cpu_isa_sse41:
        return "SSE4.1";
    case dnnl_cpu_isa_avx:
        return "AVX";
    case dnnl_cpu_isa_avx2:
        return "AVX2";
    case dnnl_cpu_isa_avx512_core:
        return "AVX-512";
    case dnnl_cpu_isa_avx512_core_vnni:
        return "AVX-512 VNNI";
    case dnnl_cpu_isa_avx512_core_bf16:
        return "AVX-512 BF16";
    case dnnl_cpu_isa_avx512_core_amx:
        return "AVX-512 AMX";
    default:
        return "another instruction set";
    }
}

static void describe(const fb_ops *ops, size_t chars, char *text)
{
    (void)ops;
    const dnnl_version_t *version = dnnl_version();
    snprintf(text, chars, "oneDNN %d.%d.%d, %s (0x%x)", version->major, version->minor, version->patch,
             isa_name(dnnl_get_effective_cpu_isa()), (unsigned)dnnl_get_effective_cpu_isa());
}

const fb_ops fb_ops_dnnl = {
    .name = "dnnl",
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
