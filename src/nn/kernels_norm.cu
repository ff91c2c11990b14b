/* SPDX-License-Identifier: Apache-2.0
 *
 * GroupNorm with ReLU on the device, forward and backward (nn/op.h). Every thread stays with eight channels: thread t
 * of a block takes vectors t % lanes of the voxels t / lanes, t / lanes + rows and so on, lanes = channels / 8.
 */
#include "nn/device.cuh"

/* How a block's threads are laid over a (voxels, channels) array. */
typedef struct layout {
    int64_t voxels;
    int channels, lanes, rows;
} layout;

static layout make_layout(int64_t voxels, int64_t channels)
{
    const int lanes = (int)channels / FB_VECTOR;
    return {voxels, (int)channels, lanes, FB_BLOCK / lanes};
}

static unsigned blocks_of(const layout &l)
{
    const unsigned blocks = fb_blocks_for(l.voxels * l.lanes, 8);
    const unsigned room = (FB_CUDA_SCRATCH_BYTES - sizeof(fb_scratch)) / sizeof(float) / (2u * (unsigned)l.channels);
    return blocks < room ? blocks : room;
}

/* Groups of the thread's channels. */
static __device__ __forceinline__ int group_of(const layout &l, int channel)
{
    return channel / (l.channels / FB_NORM_GROUPS);
}

/* --- forward: statistics ------------------------------------------------------------------------------ */

/* Sums of d and d^2 of each channel, d = x - the group's first element, which keeps digits where the mean is large. */
template <typename T> __global__ void norm_moments(layout l, const T *x, fb_scratch *scratch, float *stats)
{
    const int lane = (int)threadIdx.x % l.lanes, row = (int)threadIdx.x / l.lanes, first = lane * FB_VECTOR;
    float sum[2 * FB_VECTOR] = {0.0f}, centre[FB_VECTOR], v[FB_VECTOR];
    for (int j = 0; j < FB_VECTOR; j++)
        centre[j] = fb_load(x + group_of(l, first + j) * (l.channels / FB_NORM_GROUPS));
    if (row < l.rows)
        for (int64_t at = (int64_t)blockIdx.x * l.rows + row; at < l.voxels; at += (int64_t)gridDim.x * l.rows) {
            fb_load8(x + at * l.channels + first, v);
            for (int j = 0; j < FB_VECTOR; j++) {
                const float d = v[j] - centre[j];
                sum[j] += d;
                sum[FB_VECTOR + j] += d * d;
            }
        }
    fb_sum_rows<2 * FB_VECTOR>(l.lanes, l.rows, sum);
    float *mine = scratch->partial + (int64_t)blockIdx.x * 2 * l.channels;
    if ((int)threadIdx.x < l.lanes)
        for (int j = 0; j < FB_VECTOR; j++) {
            mine[first + j] = sum[j];
            mine[l.channels + first + j] = sum[FB_VECTOR + j];
        }
    if (!fb_is_last_block(scratch))
        return;
    fb_add_blocks(scratch, 2 * l.channels);
    if (threadIdx.x < FB_NORM_GROUPS) {
        const int width = l.channels / FB_NORM_GROUPS, from = (int)threadIdx.x * width;
        const double n = (double)l.voxels * width;
        double d = 0.0, squares = 0.0;
        for (int c = from; c < from + width; c++) {
            d += scratch->total[c];
            squares += scratch->total[l.channels + c];
        }
        const double shift = d / n, variance = squares / n - shift * shift;
        stats[threadIdx.x] = (float)((double)fb_load(x + from) + shift);
        stats[FB_NORM_GROUPS + threadIdx.x] = (float)(1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + 1e-5));
    }
}

/* --- forward: the rest -------------------------------------------------------------------------------- */

/* y = relu(scale * (x - mean) + beta) of a thread's channels; forward and backward agree on where it passes. */
typedef struct affine {
    float mean[FB_VECTOR], rstd[FB_VECTOR], scale[FB_VECTOR], beta[FB_VECTOR];
} affine;

static __device__ __forceinline__ void make_affine(const layout &l, int first, const float *gamma, const float *beta,
                                                   const float *stats, affine *a)
{
    for (int j = 0; j < FB_VECTOR; j++) {
        const int c = first + j, g = group_of(l, c);
        a->mean[j] = stats[g];
        a->rstd[j] = stats[FB_NORM_GROUPS + g];
        a->scale[j] = gamma[c] * a->rstd[j];
        a->beta[j] = beta[c];
    }
}

template <typename T>
__global__ void norm_apply(layout l, const T *x, const float *gamma, const float *beta, const float *stats, T *y)
{
    const int lane = (int)threadIdx.x % l.lanes, row = (int)threadIdx.x / l.lanes, first = lane * FB_VECTOR;
    float v[FB_VECTOR];
    affine a;
    if (row >= l.rows)
        return;
    make_affine(l, first, gamma, beta, stats, &a);
    for (int64_t at = (int64_t)blockIdx.x * l.rows + row; at < l.voxels; at += (int64_t)gridDim.x * l.rows) {
        fb_load8(x + at * l.channels + first, v);
        for (int j = 0; j < FB_VECTOR; j++)
            v[j] = fmaxf(a.scale[j] * (v[j] - a.mean[j]) + a.beta[j], 0.0f);
        fb_store8(y + at * l.channels + first, v);
    }
}

template <typename T>
static void launch_forward(fb_cuda_queue *queue, const layout &l, const T *x, const float *gamma, const float *beta,
                           T *y, float *stats)
{
    fb_launch(queue, "norm_moments", blocks_of(l), norm_moments<T>, l, x, (fb_scratch *)queue->scratch, stats);
    fb_launch(queue, "norm_apply", blocks_of(l), norm_apply<T>, l, x, gamma, beta, stats, y);
}

extern "C" void fb_cuda_norm_relu_fwd(fb_cuda_queue *queue, int64_t voxels, int64_t channels, const void *x,
                                      const float *gamma, const float *beta, void *y, float *stats)
{
    const layout l = make_layout(voxels, channels);
    if (queue->act == FB_ACT_BF16)
        launch_forward(queue, l, (const __nv_bfloat16 *)x, gamma, beta, (__nv_bfloat16 *)y, stats);
    else
        launch_forward(queue, l, (const float *)x, gamma, beta, (float *)y, stats);
}

/* --- backward ------------------------------------------------------------------------------------------ */

/* h = dy where relu passes. Sums of h xhat (dgamma) and of h (dbeta) of each channel; the last block also leaves the
 * group's means of gamma h and of gamma h xhat in total[0..7] and total[8..15]. */
template <typename T>
__global__ void norm_gradient_sums(layout l, const T *x, const float *gamma, const float *beta, const float *stats,
                                   const T *dy, fb_scratch *scratch, float *dgamma, float *dbeta)
{
    FB_SHARED(double, mean, [2][FB_NORM_GROUPS]);
    const int lane = (int)threadIdx.x % l.lanes, row = (int)threadIdx.x / l.lanes, first = lane * FB_VECTOR;
    float sum[2 * FB_VECTOR] = {0.0f}, v[FB_VECTOR], h[FB_VECTOR];
    affine a;
    make_affine(l, first, gamma, beta, stats, &a);
    if (row < l.rows)
        for (int64_t at = (int64_t)blockIdx.x * l.rows + row; at < l.voxels; at += (int64_t)gridDim.x * l.rows) {
            fb_load8(x + at * l.channels + first, v);
            fb_load8(dy + at * l.channels + first, h);
            for (int j = 0; j < FB_VECTOR; j++) {
                const float d = v[j] - a.mean[j];
                const float passed = a.scale[j] * d + a.beta[j] > 0.0f ? h[j] : 0.0f;
                sum[j] += passed * (d * a.rstd[j]);
                sum[FB_VECTOR + j] += passed;
            }
        }
    fb_sum_rows<2 * FB_VECTOR>(l.lanes, l.rows, sum);
    float *mine = scratch->partial + (int64_t)blockIdx.x * 2 * l.channels;
    if ((int)threadIdx.x < l.lanes)
        for (int j = 0; j < FB_VECTOR; j++) {
            mine[first + j] = sum[j];
            mine[l.channels + first + j] = sum[FB_VECTOR + j];
        }
    if (!fb_is_last_block(scratch))
        return;
    fb_add_blocks(scratch, 2 * l.channels);
    for (int c = (int)threadIdx.x; c < l.channels; c += FB_BLOCK) {
        dgamma[c] = (float)scratch->total[c];
        dbeta[c] = (float)scratch->total[l.channels + c];
    }
    if (threadIdx.x < FB_NORM_GROUPS) {
        const int width = l.channels / FB_NORM_GROUPS, from = (int)threadIdx.x * width;
        double slope = 0.0, shift = 0.0;
        for (int c = from; c < from + width; c++) {
            slope += (double)gamma[c] * scratch->total[c];
            shift += (double)gamma[c] * scratch->total[l.channels + c];
        }
        mean[0][threadIdx.x] = shift / ((double)l.voxels * width);
        mean[1][threadIdx.x] = slope / ((double)l.voxels * width);
    }
    __syncthreads();
    if (threadIdx.x < 2 * FB_NORM_GROUPS)
        scratch->total[threadIdx.x] = mean[threadIdx.x / FB_NORM_GROUPS][threadIdx.x % FB_NORM_GROUPS];
}

/* dx += rstd (gamma h - mean(gamma h) - xhat mean(gamma h xhat)) */
template <typename T>
__global__ void norm_gradient(layout l, const T *x, const float *gamma, const float *beta, const float *stats,
                              const T *dy, const fb_scratch *scratch, T *dx)
{
    const int lane = (int)threadIdx.x % l.lanes, row = (int)threadIdx.x / l.lanes, first = lane * FB_VECTOR;
    float v[FB_VECTOR], h[FB_VECTOR], out[FB_VECTOR], shift[FB_VECTOR], slope[FB_VECTOR];
    affine a;
    if (row >= l.rows)
        return;
    make_affine(l, first, gamma, beta, stats, &a);
    for (int j = 0; j < FB_VECTOR; j++) {
        const int g = group_of(l, first + j);
        shift[j] = a.rstd[j] * (float)scratch->total[g];
        slope[j] = a.rstd[j] * a.rstd[j] * (float)scratch->total[FB_NORM_GROUPS + g];
    }
    for (int64_t at = (int64_t)blockIdx.x * l.rows + row; at < l.voxels; at += (int64_t)gridDim.x * l.rows) {
        fb_load8(x + at * l.channels + first, v);
        fb_load8(dy + at * l.channels + first, h);
        fb_load8(dx + at * l.channels + first, out);
        for (int j = 0; j < FB_VECTOR; j++) {
            const float d = v[j] - a.mean[j];
            const float passed = a.scale[j] * d + a.beta[j] > 0.0f ? h[j] : 0.0f;
            out[j] += a.scale[j] * passed - shift[j] - slope[j] * d;
        }
        fb_store8(dx + at * l.channels + first, out);
    }
}

template <typename T>
static void launch_backward(fb_cuda_queue *queue, const layout &l, const T *x, const float *gamma, const float *beta,
                            const float *stats, const T *dy, T *dx, float *dgamma, float *dbeta)
{
    fb_scratch *scratch = (fb_scratch *)queue->scratch;
    fb_launch(queue, "norm_gradient_sums", blocks_of(l), norm_gradient_sums<T>, l, x, gamma, beta, stats, dy, scratch,
              dgamma, dbeta);
    fb_launch(queue, "norm_gradient", blocks_of(l), norm_gradient<T>, l, x, gamma, beta, stats, dy, scratch, dx);
}

extern "C" void fb_cuda_norm_relu_bwd(fb_cuda_queue *queue, int64_t voxels, int64_t channels, const void *x,
                                      const float *gamma, const float *beta, const float *stats, const void *dy,
                                      void *dx, float *dgamma, float *dbeta)
{
    const layout l = make_layout(voxels, channels);
    if (queue->act == FB_ACT_BF16)
        launch_backward(queue, l, (const __nv_bfloat16 *)x, gamma, beta, stats, (const __nv_bfloat16 *)dy,
                        (__nv_bfloat16 *)dx, dgamma, dbeta);
    else
        launch_backward(queue, l, (const float *)x, gamma, beta, stats, (const float *)dy, (float *)dx, dgamma, dbeta);
}
