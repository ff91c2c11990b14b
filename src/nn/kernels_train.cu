/* SPDX-License-Identifier: Apache-2.0
 *
 * What a training step does beside the network, on the device (nn/op.h): the sample, the loss and the optimiser.
 */
#include "nn/device.cuh"

#include <string.h>

static const double SMOOTH = 1e-5; /* nn/loss.c */

/* --- small uploads --------------------------------------------------------------------------------------- */

typedef struct words {
    unsigned word[FB_CUDA_STORE_BYTES_MAX / 4];
} words;

static __global__ void store(words from, int count, unsigned *to)
{
    for (int i = (int)threadIdx.x; i < count; i += FB_BLOCK)
        to[i] = from.word[i];
}

extern "C" void fb_cuda_store(fb_cuda_queue *queue, void *to, const void *from, int64_t bytes)
{
    words carried;
    memset(&carried, 0, sizeof carried);
    memcpy(&carried, from, (size_t)bytes);
    fb_launch(queue, "store", 1, store, carried, (int)bytes / 4, (unsigned *)to);
}

/* --- sample ------------------------------------------------------------------------------------------------ */

typedef struct patch_extent {
    int64_t d, h, w;
} patch_extent;

/* The voxel of the volume that is voxel `at` of the patch; -1 beyond the volume. */
static __device__ __forceinline__ int64_t source_of(const fb_sample *from, patch_extent patch, int64_t at)
{
    const unsigned place = (unsigned)at, height = (unsigned)patch.h, width = (unsigned)patch.w; /* below 2^31 */
    const int64_t p[3] = {place / width / height, place / width % height, place % width};
    const int64_t extent[3] = {patch.d, patch.h, patch.w};
    int64_t voxel = 0;
    for (int axis = 0; axis < 3; axis++) {
        const int64_t x = from->how.offset[axis] + (from->how.flip[axis] ? extent[axis] - 1 - p[axis] : p[axis]);
        if (x >= from->shape[axis])
            return -1;
        voxel = voxel * from->shape[axis] + x;
    }
    return voxel;
}

static __device__ __forceinline__ float4 voxel_of(const fb_sample *from, int64_t voxel)
{
    return voxel < 0 ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : ((const float4 *)from->image)[voxel];
}

/* Sums of the non-zero values of each modality, of their squares and their number; in double, since the mean is
 * subtracted only at the end. */
static __global__ void sample_moments(const fb_sample *from, patch_extent patch, fb_scratch *scratch)
{
    enum { SUMS = 3 * FB_IMAGE_CHANNELS };
    FB_SHARED(double, part, [SUMS][FB_BLOCK]);
    double *partial = (double *)scratch->partial;
    double sum[SUMS] = {0.0};
    const int64_t voxels = patch.d * patch.h * patch.w;
    for (int64_t v = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; v < voxels; v += (int64_t)gridDim.x * FB_BLOCK) {
        const float4 four = voxel_of(from, source_of(from, patch, v));
        const float value[FB_IMAGE_CHANNELS] = {four.x, four.y, four.z, four.w};
        for (int m = 0; m < FB_IMAGE_CHANNELS; m++) {
            sum[m] += (double)value[m];
            sum[FB_IMAGE_CHANNELS + m] += (double)value[m] * (double)value[m];
            sum[2 * FB_IMAGE_CHANNELS + m] += value[m] != 0.0f ? 1.0 : 0.0;
        }
    }
    for (int k = 0; k < SUMS; k++)
        part[k][threadIdx.x] = sum[k];
    for (int half = FB_BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half)
            for (int k = 0; k < SUMS; k++)
                part[k][threadIdx.x] += part[k][threadIdx.x + half];
    }
    __syncthreads();
    if (threadIdx.x < SUMS)
        partial[blockIdx.x * SUMS + threadIdx.x] = part[threadIdx.x][0];
    if (!fb_is_last_block(scratch))
        return;
    if (threadIdx.x < SUMS) {
        double total = 0.0;
        for (unsigned b = 0; b < gridDim.x; b++)
            total += partial[b * SUMS + threadIdx.x];
        part[threadIdx.x][0] = total;
    }
    __syncthreads();
    if (threadIdx.x < FB_IMAGE_CHANNELS) {
        const double n = part[2 * FB_IMAGE_CHANNELS + threadIdx.x][0];
        const double mean = n > 0.0 ? part[threadIdx.x][0] / n : 0.0;
        const double square = n > 0.0 ? part[FB_IMAGE_CHANNELS + threadIdx.x][0] / n - mean * mean : 0.0;
        scratch->total[threadIdx.x] = mean;
        scratch->total[FB_IMAGE_CHANNELS + threadIdx.x] = square > 1e-12 * mean * mean ? 1.0 / sqrt(square) : 1.0;
    }
}

template <typename T>
__global__ void sample_apply(const fb_sample *from, patch_extent patch, const fb_scratch *scratch, T *x,
                             uint8_t *target)
{
    const int64_t voxels = patch.d * patch.h * patch.w;
    const double scale = from->how.scale, shift = from->how.shift;
    for (int64_t v = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; v < voxels; v += (int64_t)gridDim.x * FB_BLOCK) {
        const int64_t voxel = source_of(from, patch, v);
        const float4 four = voxel_of(from, voxel);
        const float value[FB_IMAGE_CHANNELS] = {four.x, four.y, four.z, four.w};
        float out[FB_IMAGE_CHANNELS];
        for (int m = 0; m < FB_IMAGE_CHANNELS; m++) {
            const double distance = (double)value[m] - scratch->total[m];
            const double z = value[m] != 0.0f ? distance * scratch->total[FB_IMAGE_CHANNELS + m] : 0.0;
            out[m] = (float)(z * scale + shift);
        }
        fb_store4(x + v * FB_IMAGE_CHANNELS, out);
        if (target)
            target[v] = voxel < 0 ? 0 : fb_region_bits(from->label[voxel]);
    }
}

extern "C" void fb_cuda_sample(fb_cuda_queue *queue, const fb_sample *from, const int64_t patch[3], void *x,
                               uint8_t *target)
{
    const patch_extent p = {patch[0], patch[1], patch[2]};
    const unsigned blocks = fb_blocks_for(p.d * p.h * p.w, 4);
    const unsigned few = blocks < FB_BLOCKS_MAX / 4 ? blocks : FB_BLOCKS_MAX / 4; /* whose sums the last one adds */
    fb_scratch *scratch = (fb_scratch *)queue->scratch;
    fb_launch(queue, "sample_moments", few, sample_moments, from, p, scratch);
    if (queue->act == FB_ACT_BF16)
        fb_launch(queue, "sample_apply", blocks, sample_apply<__nv_bfloat16>, from, p, scratch, (__nv_bfloat16 *)x,
                  target);
    else
        fb_launch(queue, "sample_apply", blocks, sample_apply<float>, from, p, scratch, (float *)x, target);
}

/* --- loss ---------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static __device__ __forceinline__ float is_in(uint8_t regions, int r)
{
    return (float)(regions >> r & 1);
}

/* Per region: sums of p g, p^2 and g. The last block adds the loss to *loss_sum and leaves in total[] what the gradient
 * needs: dL/dp = total[r] g + total[3 + r] p. */
static __global__ void dice_sums(int64_t voxels, const float *logits, const uint8_t *target, fb_scratch *scratch,
                                 double *loss_sum)
{
    enum { SUMS = 3 * FB_REGIONS };
    float sum[SUMS] = {0.0f};
    for (int64_t v = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; v < voxels; v += (int64_t)gridDim.x * FB_BLOCK)
        for (int r = 0; r < FB_REGIONS; r++) {
            const float p = sigmoid(logits[v * FB_REGIONS + r]), g = is_in(target[v], r);
            sum[r] += p * g;
            sum[FB_REGIONS + r] += p * p;
            sum[2 * FB_REGIONS + r] += g;
        }
    fb_sum_rows<SUMS>(1, FB_BLOCK, sum);
    if (threadIdx.x == 0)
        for (int k = 0; k < SUMS; k++)
            scratch->partial[(int64_t)blockIdx.x * SUMS + k] = sum[k];
    if (!fb_is_last_block(scratch))
        return;
    fb_add_blocks(scratch, SUMS);
    if (threadIdx.x == 0) {
        double loss = 0.0, factor[2 * FB_REGIONS];
        for (int r = 0; r < FB_REGIONS; r++) {
            const double both = scratch->total[r];
            const double below = scratch->total[FB_REGIONS + r] + scratch->total[2 * FB_REGIONS + r] + SMOOTH;
            loss += (1.0 - 2.0 * both / below) / FB_REGIONS;
            factor[r] = -2.0 / below / FB_REGIONS;
            factor[FB_REGIONS + r] = 4.0 * both / (below * below) / FB_REGIONS;
        }
        for (int k = 0; k < 2 * FB_REGIONS; k++)
            scratch->total[k] = factor[k];
        *loss_sum += loss;
    }
}

static __global__ void dice_gradient(int64_t voxels, const float *logits, const uint8_t *target,
                                     const fb_scratch *scratch, float *dlogits)
{
    float per_truth[FB_REGIONS], per_p[FB_REGIONS];
    for (int r = 0; r < FB_REGIONS; r++) {
        per_truth[r] = (float)scratch->total[r];
        per_p[r] = (float)scratch->total[FB_REGIONS + r];
    }
    for (int64_t v = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; v < voxels; v += (int64_t)gridDim.x * FB_BLOCK)
        for (int r = 0; r < FB_REGIONS; r++) {
            const float p = sigmoid(logits[v * FB_REGIONS + r]);
            dlogits[v * FB_REGIONS + r] = (per_truth[r] * is_in(target[v], r) + per_p[r] * p) * p * (1.0f - p);
        }
}

extern "C" void fb_cuda_dice_loss(fb_cuda_queue *queue, int64_t voxels, const float *logits, const uint8_t *target,
                                  float *dlogits, double *loss_sum)
{
    const unsigned blocks = fb_blocks_for(voxels, 4);
    fb_scratch *scratch = (fb_scratch *)queue->scratch;
    fb_launch(queue, "dice_sums", blocks, dice_sums, voxels, logits, target, scratch, loss_sum);
    fb_launch(queue, "dice_gradient", blocks, dice_gradient, voxels, logits, target, scratch, dlogits);
}

static __global__ void bias_gradient(int64_t voxels, const float *dy, fb_scratch *scratch, float *dbias)
{
    float sum[FB_REGIONS] = {0.0f};
    for (int64_t v = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; v < voxels; v += (int64_t)gridDim.x * FB_BLOCK)
        for (int r = 0; r < FB_REGIONS; r++)
            sum[r] += dy[v * FB_REGIONS + r];
    fb_sum_rows<FB_REGIONS>(1, FB_BLOCK, sum);
    if (threadIdx.x == 0)
        for (int r = 0; r < FB_REGIONS; r++)
            scratch->partial[(int64_t)blockIdx.x * FB_REGIONS + r] = sum[r];
    if (!fb_is_last_block(scratch))
        return;
    fb_add_blocks(scratch, FB_REGIONS);
    if (threadIdx.x < FB_REGIONS)
        dbias[threadIdx.x] = (float)scratch->total[threadIdx.x];
}

extern "C" void fb_cuda_bias_bwd(fb_cuda_queue *queue, int64_t voxels, const float *dy, float *dbias)
{
    fb_launch(queue, "bias_gradient", fb_blocks_for(voxels, 4), bias_gradient, voxels, dy, (fb_scratch *)queue->scratch,
              dbias);
}

/* --- optimiser -------------------------------------------------------------------------------------------------- */

static __global__ void count_step(int64_t *step)
{
    if (threadIdx.x == 0)
        ++*step;
}

typedef struct adam_numbers {
    double learning_rate, beta1, beta2;
    float decay, rest1, rest2, epsilon;
} adam_numbers;

static __global__ void adam(adam_numbers a, int64_t count, const int64_t *step, float *w, const float *g, float *m,
                            float *v)
{
    FB_SHARED(float, corrected, [2]); /* the rate and the root of the second correction, of this step */
    if (threadIdx.x == 0) {
        corrected[0] = (float)(a.learning_rate / (1.0 - pow(a.beta1, (double)*step)));
        corrected[1] = (float)sqrt(1.0 - pow(a.beta2, (double)*step));
    }
    __syncthreads();
    const float rate = corrected[0], root2 = corrected[1], beta1 = (float)a.beta1, beta2 = (float)a.beta2;
    for (int64_t i = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; i < count; i += (int64_t)gridDim.x * FB_BLOCK) {
        const float gradient = g[i] + a.decay * w[i];
        m[i] = beta1 * m[i] + a.rest1 * gradient;
        v[i] = beta2 * v[i] + a.rest2 * gradient * gradient;
        w[i] -= rate * m[i] / (sqrtf(v[i]) / root2 + a.epsilon);
    }
}

static __global__ void descend(float rate, float decay, int64_t count, float *w, const float *g)
{
    for (int64_t i = (int64_t)blockIdx.x * FB_BLOCK + threadIdx.x; i < count; i += (int64_t)gridDim.x * FB_BLOCK)
        w[i] -= rate * (g[i] + decay * w[i]);
}

extern "C" void fb_cuda_count_step(fb_cuda_queue *queue, int64_t *step)
{
    fb_launch(queue, "count_step", 1, count_step, step);
}

extern "C" void fb_cuda_adam_step(fb_cuda_queue *queue, const fb_adam_spec *spec, int64_t count, const int64_t *step,
                                  float *w, const float *g, float *m, float *v)
{
    const adam_numbers numbers = {spec->learning_rate,
                                  spec->beta1,
                                  spec->beta2,
                                  (float)spec->weight_decay,
                                  (float)(1.0 - spec->beta1),
                                  (float)(1.0 - spec->beta2),
                                  (float)spec->epsilon};
    fb_launch(queue, "adam", fb_blocks_for(count, 4), adam, numbers, count, step, w, g, m, v);
}

extern "C" void fb_cuda_sgd_step(fb_cuda_queue *queue, double learning_rate, double weight_decay, int64_t count,
                                 float *w, const float *g)
{
    fb_launch(queue, "descend", fb_blocks_for(count, 4), descend, (float)learning_rate, (float)weight_decay, count, w,
              g);
}
