/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions on the GPU: the API, how weights are packed, and the sum of the partial gradients of the weights.
 */
#include "nn/kernels_conv.cuh"

/* --- shapes ------------------------------------------------------------------------------------------------ */

static bool is_logits(const fb_conv_shape *s)
{
    return s->c_out == 3;
}

/* What the kernels count in 32 bits, voxels of the volume rounded up to tiles, weights, blocks; and a grid's limits. */
static bool is_sane(const fb_conv_shape *s)
{
    double voxels = 1.0;
    for (int axis = 0; axis < 3; axis++) {
        if (s->in[axis] < 1 || s->in[axis] > 1 << 16)
            return false;
        voxels *= (double)(s->in[axis] + 32);
    }
    return voxels < 0x1p31 && (s->kernel == 1 || s->kernel == 3) && (s->stride == 1 || s->stride == 2) &&
           s->c_in >= 1 && s->c_in <= 1024 && s->c_out >= 1 && s->c_out <= 1024;
}

static bool can(const fb_conv_shape *s, fb_act_type type)
{
    if (!is_sane(s) || type == FB_ACT_F32)
        return is_sane(s) && type == FB_ACT_F32;
    if (is_logits(s))
        return type == FB_ACT_BF16 && s->kernel == 1 && s->stride == 1 && s->c_in % 8 == 0 &&
               s->in[0] * s->in[1] * s->in[2] * (s->c_in / 8) < INT32_MAX - 1024; /* threads of its kernels */
    return type == FB_ACT_BF16 && (s->c_in == 4 || s->c_in % 8 == 0) && s->c_out % 8 == 0;
}

conv_geometry conv_geometry_of(const fb_conv_shape *s, conv_direction direction)
{
    const bool forward = direction == CONV_FWD;
    conv_geometry g;
    for (int axis = 0; axis < 3; axis++) {
        const int in = (int)s->in[axis], out = conv_ceil_div(in, s->stride);
        g.in[axis] = forward ? in : out;
        g.out[axis] = forward ? out : in;
    }
    g.c_in = (int)(forward ? s->c_in : s->c_out);
    g.c_out = (int)(forward ? s->c_out : s->c_in);
    return g;
}

/* --- packed weights ---------------------------------------------------------------------------------------- */

/* Backward data of stride 2 has a kernel of its own, for kernel 1 too. */
static bool is_scattered(const fb_conv_shape *s, conv_direction direction)
{
    return direction == CONV_BWD_DATA && s->stride == 2;
}

/* The widest block of output channels that still gives the device a few hundred blocks. */
static int n_tiles_of(const conv_geometry *g, bool scattered)
{
    enum { ENOUGH_BLOCKS = 256 };
    const int tiles = conv_ceil_div(g->out[0], 4) * conv_ceil_div(g->out[1], 8) * conv_ceil_div(g->out[2], 16);
    int n = scattered ? 2 : 4;
    while (n > 1 && (4 * n >= g->c_out || (int64_t)tiles * conv_ceil_div(g->c_out, 8 * n) < ENOUGH_BLOCKS))
        n /= 2;
    return n;
}

conv_packing conv_packing_of(const fb_conv_shape *s, conv_direction direction)
{
    const conv_geometry g = conv_geometry_of(s, direction);
    const bool scattered = is_scattered(s, direction);
    conv_packing p = {};
    p.c_in = g.c_in;
    p.c_out = g.c_out;
    p.taps = conv_taps(s);
    p.words = s->kernel == 3 || scattered ? 1 : g.c_in > 16 ? 4 : 2;
    p.n_tiles = n_tiles_of(&g, scattered);
    p.steps = p.words > 1 ? p.words / 2 : s->kernel == 1 ? 1 : scattered ? CONV_SCATTER_STEPS : CONV_GATHER_STEPS;
    p.chunks = conv_ceil_div(g.c_in, 8 * p.words);
    p.blocks = conv_ceil_div(g.c_out, 8 * p.n_tiles);
    p.transposed = direction == CONV_BWD_DATA;
    p.mirrored = direction == CONV_BWD_DATA && !scattered;
    p.scattered = scattered;
    return p;
}

static int packed_words(const conv_packing *p)
{
    return p->blocks * p->chunks * p->steps * 32 * p->n_tiles * 2;
}

/* The tap of one half of a step; -1 for none. */
static __device__ int tap_of(const conv_packing *p, int step, int upper)
{
    if (p->taps == 1)
        return p->words > 1 || upper == 0 ? 0 : -1;
    return p->scattered ? conv_scatter_tap(step, upper) : conv_gather_tap(step, upper);
}

/* w[o, i, tap] of the product, 0 where its channels end and for no tap */
static __device__ float weight_of(const conv_packing *p, const float *w, int o, int i, int tap)
{
    if (o >= p->c_out || i >= p->c_in || tap < 0)
        return 0.0F;
    const int place = p->mirrored ? p->taps - 1 - tap : tap;
    return w[(int64_t)(p->transposed ? i * p->c_out + o : o * p->c_in + i) * p->taps + place];
}

/* One thread makes one word. */
static __global__ void pack_words(conv_packing p, int count, const float *w, unsigned *packed)
{
    const int e = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (e >= count)
        return;
    int rest = e / 2;
    const int upper = e % 2, n_tile = rest % p.n_tiles;
    rest /= p.n_tiles;
    const int lane = rest % 32;
    rest /= 32;
    const int step = rest % p.steps;
    rest /= p.steps;
    const int chunk = rest % p.chunks, block = rest / p.chunks;
    const int tap = tap_of(&p, step, upper), word = p.words > 1 ? 2 * step + upper : 0;
    const int o = block * 8 * p.n_tiles + conv_column_channel(lane >> 2, n_tile, p.n_tiles);
    const int i = chunk * 8 * p.words + (lane & 3) * 2 * p.words + 2 * word;
    packed[e] = fb_pack_bf16(weight_of(&p, w, o, i, tap), weight_of(&p, w, o, i + 1, tap));
}

static cudaError_t pack_direction(const fb_conv_shape *s, conv_direction direction, const float *w, unsigned *packed,
                                  cudaStream_t stream)
{
    const conv_packing p = conv_packing_of(s, direction);
    const int count = packed_words(&p);
    return fb_launch_kernel(stream, dim3((unsigned)conv_ceil_div(count, 256)), 256, pack_words, p, count, w, packed);
}

/* --- partial gradients of the weights ---------------------------------------------------------------------- */

enum { SUM_ELEMENTS = 32, SUM_SLICES = 16 };

/* dw[o, i, tap] = sum over p of partials[p, tap, i, o]. Warp s of a block adds partials s, s + 16, ... of 32 elements
 * in that order, then the first warp the 16 sums. */
static __global__ void sum_partials(int count, int taps, int c_in, int c_out, const float *partials, float *dw)
{
    FB_SHARED(float, sums, [SUM_SLICES][SUM_ELEMENTS]);
    const int lane = (int)threadIdx.x % 32, slice = (int)threadIdx.x / 32;
    const int elements = taps * c_in * c_out, e = (int)blockIdx.x * SUM_ELEMENTS + lane;
    float sum = 0.0F;
    if (e < elements) {
#pragma unroll 4
        for (int p = slice; p < count; p += SUM_SLICES)
            sum += partials[(int64_t)p * elements + e];
    }
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice > 0 || e >= elements)
        return;
    float total = 0.0F;
    for (int s = 0; s < SUM_SLICES; s++)
        total += sums[s][lane];
    const int o = e % c_out, i = e / c_out % c_in, tap = e / c_out / c_in;
    dw[(o * c_in + i) * taps + tap] = total;
}

static cudaError_t launch_sum(const fb_conv_shape *s, int count, const float *partials, float *dw, cudaStream_t stream)
{
    const int taps = conv_taps(s), elements = taps * (int)(s->c_in * s->c_out);
    return fb_launch_kernel(stream, dim3((unsigned)conv_ceil_div(elements, SUM_ELEMENTS)), SUM_ELEMENTS * SUM_SLICES,
                            sum_partials, count, taps, (int)s->c_in, (int)s->c_out, partials, dw);
}

/* --- memory ------------------------------------------------------------------------------------------------ */

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static size_t packed_bytes(const fb_conv_shape *s, fb_act_type type, conv_direction direction)
{
    if (type == FB_ACT_F32) {
        const conv_geometry g = conv_geometry_of(s, direction);
        return (size_t)conv_taps(s) * (size_t)g.c_in * (size_t)conv_ceil_div(g.c_out, 8) * 8 * sizeof(float);
    }
    if (is_logits(s))
        return direction == CONV_FWD ? (size_t)(s->c_in * s->c_out) * sizeof(float) : 0; /* one copy for both */
    const conv_packing p = conv_packing_of(s, direction);
    return (size_t)packed_words(&p) * sizeof(unsigned);
}

static int partials_of(const fb_conv_shape *s, fb_act_type type, size_t bytes_each)
{
    enum { MOST_BYTES = 64 << 20 };
    const size_t fit = MOST_BYTES / bytes_each;
    const int limit = fit < 1 ? 1 : fit > 4096 ? 4096 : (int)fit;
    return type == FB_ACT_F32 ? conv_f32_partials(s, limit)
           : is_logits(s)     ? conv_logits_partials(s, limit)
                              : conv_wgrad_partials(s, limit);
}

static size_t gradient_bytes(const fb_conv_shape *s)
{
    return (size_t)conv_taps(s) * (size_t)(s->c_in * s->c_out) * sizeof(float);
}

/* Where the packed weights of a direction begin, behind those of the other. */
static size_t packed_at(const fb_conv_shape *s, fb_act_type type, conv_direction direction)
{
    return direction == CONV_FWD ? 0 : aligned(packed_bytes(s, type, CONV_FWD));
}

/* --- the API ----------------------------------------------------------------------------------------------- */

extern "C" size_t fb_cuda_conv_packed_bytes(const fb_conv_shape *shape, fb_act_type type)
{
    if (!can(shape, type))
        return 0;
    return packed_at(shape, type, CONV_BWD_DATA) + aligned(packed_bytes(shape, type, CONV_BWD_DATA));
}

extern "C" size_t fb_cuda_conv_partial_bytes(const fb_conv_shape *shape, fb_act_type type)
{
    const size_t gradient = gradient_bytes(shape);
    return can(shape, type) ? (size_t)partials_of(shape, type, gradient) * gradient : 0;
}

extern "C" cudaError_t fb_cuda_conv_pack(const fb_conv_shape *shape, fb_act_type type, const float *w, void *packed,
                                         cudaStream_t stream)
{
    if (!can(shape, type))
        return cudaErrorInvalidValue;
    if (type == FB_ACT_BF16 && is_logits(shape))
        return cudaMemcpyAsync(packed, w, packed_bytes(shape, type, CONV_FWD), cudaMemcpyDeviceToDevice, stream);
    for (int d = CONV_FWD; d <= CONV_BWD_DATA; d++) {
        void *to = (char *)packed + packed_at(shape, type, (conv_direction)d);
        const cudaError_t error = type == FB_ACT_F32
                                      ? conv_f32_pack(shape, (conv_direction)d, w, (float *)to, stream)
                                      : pack_direction(shape, (conv_direction)d, w, (unsigned *)to, stream);
        if (error != cudaSuccess)
            return error;
    }
    return cudaSuccess;
}

/* Forward, or backward data: what is read and written changes places. */
static cudaError_t apply(const fb_conv_shape *s, fb_act_type type, conv_direction direction, const void *weights,
                         const void *x, void *y, cudaStream_t stream)
{
    if (!can(s, type))
        return cudaErrorInvalidValue;
    const void *packed = (const char *)weights + packed_at(s, type, direction);
    if (type == FB_ACT_F32)
        return conv_f32_apply(s, direction, (const float *)packed, (const float *)x, (float *)y, stream);
    if (is_logits(s) && direction == CONV_FWD)
        return conv_logits_fwd(s, (const float *)weights, x, (float *)y, stream);
    if (is_logits(s))
        return conv_logits_bwd_data(s, (const float *)weights, (const float *)x, y, stream);
    if (s->kernel == 3 || is_scattered(s, direction))
        return conv_mma_apply(s, direction, (const unsigned *)packed, x, y, stream);
    return conv_point_apply(s, direction, (const unsigned *)packed, x, y, stream);
}

extern "C" cudaError_t fb_cuda_conv_fwd(const fb_conv_shape *shape, fb_act_type type, const void *packed, const void *x,
                                        void *y, cudaStream_t stream)
{
    return apply(shape, type, CONV_FWD, packed, x, y, stream);
}

extern "C" cudaError_t fb_cuda_conv_bwd_data(const fb_conv_shape *shape, fb_act_type type, const void *packed,
                                             const void *dy, void *dx, cudaStream_t stream)
{
    return apply(shape, type, CONV_BWD_DATA, packed, dy, dx, stream);
}

extern "C" cudaError_t fb_cuda_conv_bwd_weights(const fb_conv_shape *shape, fb_act_type type, void *partial,
                                                const void *x, const void *dy, float *dw, cudaStream_t stream)
{
    if (!can(shape, type))
        return cudaErrorInvalidValue;
    const int count = partials_of(shape, type, gradient_bytes(shape));
    float *partials = (float *)partial;
    cudaError_t error = cudaSuccess;
    if (type == FB_ACT_F32)
        error = conv_f32_weights(shape, count, (const float *)x, (const float *)dy, partials, stream);
    else if (is_logits(shape))
        error = conv_logits_weights(shape, count, x, (const float *)dy, partials, stream);
    else
        error = conv_wgrad(shape, count, x, dy, partials, stream);
    return error != cudaSuccess ? error : launch_sum(shape, count, partials, dw, stream);
}
