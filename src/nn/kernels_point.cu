/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations that look at one place, or at a few around it, on the device (nn/op.h).
 */
#include "nn/device.cuh"

/* Pieces of work of a thread, one after the other; below 2^31, since division of 64 bits takes longer than all the
 * rest. */
#define FOR_EACH(i, count)                                                                                             \
    for (unsigned i = blockIdx.x * FB_BLOCK + threadIdx.x; i < (count); i += gridDim.x * FB_BLOCK)

typedef struct extent {
    unsigned d, h, w;
} extent;

static extent extent_of(const int64_t shape[3])
{
    return {(unsigned)shape[0], (unsigned)shape[1], (unsigned)shape[2]};
}

/* The number of pieces, as the kernels count it. */
static unsigned pieces_of(fb_cuda_queue *queue, int64_t count)
{
    if (count > INT32_MAX && queue->error == cudaSuccess) {
        queue->error = cudaErrorInvalidValue;
        queue->failed = "2^31 pieces or more of an activation";
    }
    return (unsigned)count;
}

/* --- sums and scales ----------------------------------------------------------------------------------- */

template <typename T> __global__ void add(unsigned vectors, const T *a, const T *b, T *y)
{
    FOR_EACH(i, vectors)
    {
        float left[FB_VECTOR], right[FB_VECTOR];
        fb_load8(a + (int64_t)i * FB_VECTOR, left);
        fb_load8(b + (int64_t)i * FB_VECTOR, right);
        for (int j = 0; j < FB_VECTOR; j++)
            left[j] += right[j];
        fb_store8(y + (int64_t)i * FB_VECTOR, left);
    }
}

template <typename T> __global__ void scale_channels(unsigned vectors, unsigned lanes, const float *scale, T *x)
{
    FOR_EACH(i, vectors)
    {
        const float *factor = scale + i % lanes * FB_VECTOR;
        float v[FB_VECTOR];
        fb_load8(x + (int64_t)i * FB_VECTOR, v);
        for (int j = 0; j < FB_VECTOR; j++)
            v[j] *= factor[j];
        fb_store8(x + (int64_t)i * FB_VECTOR, v);
    }
}

static __global__ void bias_add(unsigned count, const float *bias, float *y)
{
    FOR_EACH(i, count)
    y[i] += bias[i % FB_REGIONS];
}

extern "C" void fb_cuda_add(fb_cuda_queue *queue, int64_t count, const void *a, const void *b, void *y)
{
    const unsigned vectors = pieces_of(queue, count / FB_VECTOR);
    const unsigned blocks = fb_blocks_for(vectors, 4);
    if (queue->act == FB_ACT_BF16)
        fb_launch(queue, "add", blocks, add<__nv_bfloat16>, vectors, (const __nv_bfloat16 *)a, (const __nv_bfloat16 *)b,
                  (__nv_bfloat16 *)y);
    else
        fb_launch(queue, "add", blocks, add<float>, vectors, (const float *)a, (const float *)b, (float *)y);
}

extern "C" void fb_cuda_scale_channels(fb_cuda_queue *queue, int64_t voxels, int64_t channels, const float *scale,
                                       void *x)
{
    const unsigned lanes = (unsigned)channels / FB_VECTOR, vectors = pieces_of(queue, voxels * lanes);
    const unsigned blocks = fb_blocks_for(vectors, 4);
    if (queue->act == FB_ACT_BF16)
        fb_launch(queue, "scale_channels", blocks, scale_channels<__nv_bfloat16>, vectors, lanes, scale,
                  (__nv_bfloat16 *)x);
    else
        fb_launch(queue, "scale_channels", blocks, scale_channels<float>, vectors, lanes, scale, (float *)x);
}

extern "C" void fb_cuda_bias_add(fb_cuda_queue *queue, int64_t voxels, const float *bias, float *y)
{
    fb_launch(queue, "bias_add", fb_blocks_for(voxels * FB_REGIONS, 4), bias_add, pieces_of(queue, voxels * FB_REGIONS),
              bias, y);
}

/* --- trilinear upsampling -------------------------------------------------------------------------------- */

/* Output coordinate q lies at q / 2 - 1/4 on the input's grid: between input q / 2 - 1 and q / 2 (q even) with weights
 * 1/4 and 3/4, or q / 2 and q / 2 + 1 (q odd) with 3/4 and 1/4; beyond the ends the last one counts. */
typedef struct tap {
    int at[2];
    float weight[2];
} tap;

static __device__ __forceinline__ int clamp(int at, int count)
{
    return at < 0 ? 0 : at < count ? at : count - 1;
}

static __device__ __forceinline__ tap make_tap(int q, int count)
{
    const int low = (q + 1) / 2 - 1;
    const float upper = q % 2 == 0 ? 0.75f : 0.25f;
    return {{clamp(low, count), clamp(low + 1, count)}, {1.0f - upper, upper}};
}

template <typename T> __global__ void upsample_add(extent in, unsigned lanes, const T *x, const T *skip, T *y)
{
    const extent out = {2 * in.d, 2 * in.h, 2 * in.w};
    const int64_t channels = (int64_t)lanes * FB_VECTOR;
    FOR_EACH(i, out.d * out.h * out.w * lanes)
    {
        const unsigned voxel = i / lanes, row = voxel / out.w, first = i % lanes * FB_VECTOR;
        const tap z = make_tap((int)(row / out.h), (int)in.d), h = make_tap((int)(row % out.h), (int)in.h),
                  w = make_tap((int)(voxel % out.w), (int)in.w);
        float sum[FB_VECTOR], v[FB_VECTOR];
        fb_load8(skip + (int64_t)i * FB_VECTOR, sum);
        for (int corner = 0; corner < 8; corner++) {
            const int a = corner >> 2, b = corner >> 1 & 1, c = corner & 1;
            const float weight = z.weight[a] * h.weight[b] * w.weight[c];
            fb_load8(x + (((unsigned)z.at[a] * in.h + (unsigned)h.at[b]) * in.w + (unsigned)w.at[c]) * channels + first,
                     v);
            for (int j = 0; j < FB_VECTOR; j++)
                sum[j] += weight * v[j];
        }
        fb_store8(y + (int64_t)i * FB_VECTOR, sum);
    }
}

/* Input coordinate p is read by outputs 2p - 1 to 2p + 2 with weights 1/4, 3/4, 3/4, 1/4; beyond the ends stands the
 * last one, whose reading there was clamped to p. */
template <typename T> __global__ void upsample_gradient(extent in, unsigned lanes, const T *dy, T *dx)
{
    const extent out = {2 * in.d, 2 * in.h, 2 * in.w};
    const int64_t channels = (int64_t)lanes * FB_VECTOR;
    FOR_EACH(i, in.d * in.h * in.w * lanes)
    {
        const unsigned voxel = i / lanes, row = voxel / in.w, first = i % lanes * FB_VECTOR;
        const int z = (int)(row / in.h), h = (int)(row % in.h), w = (int)(voxel % in.w);
        float sum[FB_VECTOR] = {0.0f}, v[FB_VECTOR];
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < 4; b++)
                for (int c = 0; c < 4; c++) {
                    const float weight = (a % 3 ? 0.75f : 0.25f) * (b % 3 ? 0.75f : 0.25f) * (c % 3 ? 0.75f : 0.25f);
                    const unsigned plane = (unsigned)clamp(2 * z - 1 + a, (int)out.d) * out.h;
                    const unsigned at = (plane + (unsigned)clamp(2 * h - 1 + b, (int)out.h)) * out.w +
                                        (unsigned)clamp(2 * w - 1 + c, (int)out.w);
                    fb_load8(dy + at * channels + first, v);
                    for (int j = 0; j < FB_VECTOR; j++)
                        sum[j] += weight * v[j];
                }
        fb_store8(dx + (int64_t)i * FB_VECTOR, sum);
    }
}

extern "C" void fb_cuda_upsample_add_fwd(fb_cuda_queue *queue, const int64_t in[3], int64_t channels, const void *x,
                                         const void *skip, void *y)
{
    const extent e = extent_of(in);
    const unsigned lanes = (unsigned)channels / FB_VECTOR;
    const unsigned blocks = fb_blocks_for(pieces_of(queue, 8 * in[0] * in[1] * in[2] * lanes), 1);
    if (queue->act == FB_ACT_BF16)
        fb_launch(queue, "upsample_add", blocks, upsample_add<__nv_bfloat16>, e, lanes, (const __nv_bfloat16 *)x,
                  (const __nv_bfloat16 *)skip, (__nv_bfloat16 *)y);
    else
        fb_launch(queue, "upsample_add", blocks, upsample_add<float>, e, lanes, (const float *)x, (const float *)skip,
                  (float *)y);
}

extern "C" void fb_cuda_upsample_bwd(fb_cuda_queue *queue, const int64_t in[3], int64_t channels, const void *dy,
                                     void *dx)
{
    const extent e = extent_of(in);
    const unsigned lanes = (unsigned)channels / FB_VECTOR;
    const unsigned blocks = fb_blocks_for(pieces_of(queue, 8 * in[0] * in[1] * in[2] * lanes) / 8, 1);
    if (queue->act == FB_ACT_BF16)
        fb_launch(queue, "upsample_gradient", blocks, upsample_gradient<__nv_bfloat16>, e, lanes,
                  (const __nv_bfloat16 *)dy, (__nv_bfloat16 *)dx);
    else
        fb_launch(queue, "upsample_gradient", blocks, upsample_gradient<float>, e, lanes, (const float *)dy,
                  (float *)dx);
}

/* --- windows ------------------------------------------------------------------------------------------------ */

/* Voxel `at` of a window that begins at start, in the whole. */
static __device__ __forceinline__ int64_t voxel_in(extent whole, extent start, extent window, unsigned at)
{
    const unsigned row = at / window.w, d = row / window.h, h = row % window.h, w = at % window.w;
    return (int64_t)((start.d + d) * whole.h + start.h + h) * whole.w + start.w + w;
}

/* `bytes` a voxel, in pieces of 8. */
static __global__ void take_window(extent whole, extent start, extent window, unsigned pieces, const uint64_t *image,
                                   uint64_t *x)
{
    FOR_EACH(i, window.d * window.h * window.w * pieces)
    x[i] = image[voxel_in(whole, start, window, i / pieces) * pieces + i % pieces];
}

static __global__ void add_window(extent whole, extent start, extent window, const float *logits, float *sum)
{
    FOR_EACH(i, window.d * window.h * window.w * FB_REGIONS)
    sum[voxel_in(whole, start, window, i / FB_REGIONS) * FB_REGIONS + i % FB_REGIONS] += logits[i];
}

extern "C" void fb_cuda_take_window(fb_cuda_queue *queue, const void *image, const int64_t whole[3],
                                    const int64_t start[3], const int64_t window[3], void *x)
{
    const unsigned pieces = FB_IMAGE_CHANNELS * (queue->act == FB_ACT_BF16 ? 2 : 4) / 8;
    const extent w = extent_of(window);
    const int64_t count = window[0] * window[1] * window[2] * pieces;
    fb_launch(queue, "take_window", fb_blocks_for(pieces_of(queue, count), 4), take_window, extent_of(whole),
              extent_of(start), w, pieces, (const uint64_t *)image, (uint64_t *)x);
}

extern "C" void fb_cuda_add_window(fb_cuda_queue *queue, const float *logits, const int64_t whole[3],
                                   const int64_t start[3], const int64_t window[3], float *sum)
{
    const extent w = extent_of(window);
    const int64_t count = window[0] * window[1] * window[2] * FB_REGIONS;
    fb_launch(queue, "add_window", fb_blocks_for(pieces_of(queue, count), 4), add_window, extent_of(whole),
              extent_of(start), w, logits, sum);
}
