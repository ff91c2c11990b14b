/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/device.cuh"
#include "nn/kernels_pack_cuda.h"

#include <float.h>

static __device__ __forceinline__ void put(float *to, float value)
{
    *to = value;
}

static __device__ __forceinline__ void put(__nv_bfloat16 *to, float value)
{
    *to = __float2bfloat16_rn(value);
}

static __device__ __forceinline__ int64_t first_element(void)
{
    return (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x;
}

static __device__ __forceinline__ int64_t elements_at_once(void)
{
    return (int64_t)gridDim.x * FB_BLOCK;
}

/* --- weights --------------------------------------------------------------------------------------------------- */

/* Where w (C_out, C_in, taps) holds element i of image (C_out, taps, C_in). */
static __device__ __forceinline__ int64_t weight_of(int64_t i, int64_t c_in, int64_t taps)
{
    const int64_t c = i % c_in, tap = i / c_in % taps, o = i / (c_in * taps);
    return (o * c_in + c) * taps + tap;
}

template <typename T> static __global__ void pack(int64_t count, int64_t c_in, int64_t taps, const float *w, T *image)
{
    for (int64_t i = first_element(); i < count; i += elements_at_once())
        put(&image[i], w[weight_of(i, c_in, taps)]);
}

template <typename T>
static __global__ void unpack(int64_t count, int64_t c_in, int64_t taps, const T *image, float *dw)
{
    for (int64_t i = first_element(); i < count; i += elements_at_once())
        dw[weight_of(i, c_in, taps)] = fb_load(&image[i]);
}

static int64_t taps_of(const fb_conv_shape *shape)
{
    return (int64_t)shape->kernel * shape->kernel * shape->kernel;
}

extern "C" void fb_cuda_pack_weights(fb_cuda_queue *queue, const fb_conv_shape *shape, fb_act_type type, const float *w,
                                     void *image)
{
    const int64_t taps = taps_of(shape), count = shape->c_out * shape->c_in * taps;
    const unsigned blocks = fb_blocks_for(count, 4);
    if (type == FB_ACT_BF16)
        fb_launch(queue, "weights for cuDNN", blocks, pack<__nv_bfloat16>, count, shape->c_in, taps, w,
                  (__nv_bfloat16 *)image);
    else
        fb_launch(queue, "weights for cuDNN", blocks, pack<float>, count, shape->c_in, taps, w, (float *)image);
}

extern "C" void fb_cuda_unpack_gradient(fb_cuda_queue *queue, const fb_conv_shape *shape, fb_act_type type,
                                        const void *image, float *dw)
{
    const int64_t taps = taps_of(shape), count = shape->c_out * shape->c_in * taps;
    const unsigned blocks = fb_blocks_for(count, 4);
    if (type == FB_ACT_BF16)
        fb_launch(queue, "gradient of cuDNN", blocks, unpack<__nv_bfloat16>, count, shape->c_in, taps,
                  (const __nv_bfloat16 *)image, dw);
    else
        fb_launch(queue, "gradient of cuDNN", blocks, unpack<float>, count, shape->c_in, taps, (const float *)image,
                  dw);
}

/* --- random numbers -------------------------------------------------------------------------------------------- */

/* MurmurHash3's finaliser (Appleby). */
static __device__ __forceinline__ unsigned mix(unsigned h)
{
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

template <typename T> static __global__ void fill(int64_t count, unsigned seed, T *out)
{
    for (int64_t i = first_element(); i < count; i += elements_at_once()) {
        const unsigned h = mix((unsigned)i ^ mix((unsigned)(i >> 32) + seed));
        put(&out[i], (float)((int)(h >> 24) - 128) / 128.0f);
    }
}

extern "C" void fb_cuda_random(fb_cuda_queue *queue, fb_act_type type, int64_t count, unsigned seed, void *out)
{
    const unsigned blocks = fb_blocks_for(count, 4);
    if (type == FB_ACT_BF16)
        fb_launch(queue, "random numbers", blocks, fill<__nv_bfloat16>, count, seed, (__nv_bfloat16 *)out);
    else
        fb_launch(queue, "random numbers", blocks, fill<float>, count, seed, (float *)out);
}

/* --- comparison ------------------------------------------------------------------------------------------------ */

template <typename A, typename B>
static __global__ void compare(int64_t count, const A *got, const B *want, float slack, fb_cuda_difference *out)
{
    FB_SHARED(float, excess, [FB_BLOCK]);
    FB_SHARED(float, largest, [FB_BLOCK]);
    const int t = (int)threadIdx.x;
    float e = 0.0f, l = 0.0f;
    for (int64_t i = first_element(); i < count; i += elements_at_once()) {
        const float a = fb_load(&got[i]), b = fb_load(&want[i]);
        const float one = fabsf(a - b) - slack * fabsf(b);
        e = one <= FLT_MAX ? fmaxf(e, one) : INFINITY; /* NaN fails every comparison */
        l = fmaxf(l, fabsf(b));
        if (e > FLT_MAX)
            break;
    }
    excess[t] = e;
    largest[t] = l;
    for (int half = FB_BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) {
            excess[t] = fmaxf(excess[t], excess[t + half]);
            largest[t] = fmaxf(largest[t], largest[t + half]);
        }
    }
    if (t == 0)
        out[blockIdx.x] = {excess[0], largest[0]};
}

extern "C" int fb_cuda_compare(fb_cuda_queue *queue, int64_t count, fb_act_type got_type, const void *got,
                                fb_act_type want_type, const void *want, float slack, fb_cuda_difference *out)
{
    static const char *const name = "comparison";
    typedef const __nv_bfloat16 *half;
    typedef const float *full;
    const unsigned enough = fb_blocks_for(count, 4), most = FB_CUDA_COMPARE_BLOCKS;
    const unsigned blocks = enough < most ? enough : most;
    if (got_type == FB_ACT_BF16 && want_type == FB_ACT_BF16)
        fb_launch(queue, name, blocks, compare<__nv_bfloat16, __nv_bfloat16>, count, (half)got, (half)want, slack, out);
    else if (got_type == FB_ACT_BF16)
        fb_launch(queue, name, blocks, compare<__nv_bfloat16, float>, count, (half)got, (full)want, slack, out);
    else if (want_type == FB_ACT_BF16)
        fb_launch(queue, name, blocks, compare<float, __nv_bfloat16>, count, (full)got, (half)want, slack, out);
    else
        fb_launch(queue, name, blocks, compare<float, float>, count, (full)got, (full)want, slack, out);
    return (int)blocks;
}
