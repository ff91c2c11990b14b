/* SPDX-License-Identifier: Apache-2.0
 *
 * The values of a release on a GPU: to the grid, bounded, noised (kernels_privacy.h). A thread makes the draws of one
 * block, as one thread of the processor does.
 */
#include "privacy/kernels_privacy.cuh"

#include "privacy/gauss_draw.h"
#include "privacy/gumbel_draw.h"
#include "privacy/laplace_draw.h"
#include "privacy/noise.h"
#include "privacy/tail_draw.h"

enum { FACTOR_BITS_NORM = 62, FACTOR_BITS_SCORE = 32, LIMB_BITS = 32 };

static __device__ __forceinline__ int64_t coordinate(const uint32_t *index, int64_t k)
{
    return index ? (int64_t)index[k] : k;
}

static __device__ __forceinline__ bool is_finite(float x)
{
    return x - x == 0.0f;
}

static __device__ __forceinline__ int64_t clamp(int64_t value, int64_t limit)
{
    return value > limit ? limit : value < -limit ? -limit : value;
}

/* --- values ------------------------------------------------------------------------------------------------- */

static __global__ void quantise(fb_quantiser quantiser, int64_t n, const float *dw, int32_t *grid,
                                fb_privacy_state *state)
{
    int64_t clipped = 0, non_finite = 0;
    for (int64_t i = fb_first(); i < n; i += fb_stride())
        grid[i] = (int32_t)fb_quantise(&quantiser, dw[i], &clipped, &non_finite);
    fb_add_up(&state->clipped, (unsigned long long)clipped);
    fb_add_up(&state->non_finite, (unsigned long long)non_finite);
}

static __global__ void count_non_finite(int64_t n, const float *dw, fb_privacy_state *state)
{
    unsigned long long count = 0;
    for (int64_t i = fb_first(); i < n; i += fb_stride())
        count += !is_finite(dw[i]);
    fb_add_up(&state->non_finite, count);
}

static __global__ void take_grid(int64_t count, const uint32_t *index, const int32_t *grid, int64_t *value)
{
    for (int64_t k = fb_first(); k < count; k += fb_stride())
        value[k] = grid[coordinate(index, k)];
}

static __global__ void take_unclipped(double steps, double per_grid_step, int64_t count, const uint32_t *index,
                                      const float *dw, int64_t *value)
{
    const double most = (double)(INT64_C(1) << 46);
    for (int64_t k = fb_first(); k < count; k += fb_stride()) {
        const float change = dw[coordinate(index, k)];
        const double u = is_finite(change) ? (double)change / steps * per_grid_step : 0.0;
        value[k] = (int64_t)(u > most ? most : u < -most ? -most : u);
    }
}

static __global__ void take_quantised(fb_quantiser quantiser, int64_t count, const uint32_t *index, const float *dw,
                                      int64_t *value, fb_privacy_state *state)
{
    int64_t clipped = 0, non_finite = 0;
    for (int64_t k = fb_first(); k < count; k += fb_stride())
        value[k] = fb_quantise(&quantiser, dw[coordinate(index, k)], &clipped, &non_finite);
    fb_add_up(&state->clipped, (unsigned long long)clipped);
}

static __global__ void take_floats(float limit, int64_t count, const uint32_t *index, const float *dw, float *value,
                                   fb_privacy_state *state)
{
    unsigned long long clipped = 0;
    for (int64_t k = fb_first(); k < count; k += fb_stride()) {
        const float change = dw[coordinate(index, k)];
        const bool above = change > limit, below = change < -limit;
        value[k] = above ? limit : below ? -limit : change;
        clipped += above || below;
    }
    fb_add_up(&state->clipped, clipped);
}

static __global__ void add_squares(int64_t count, const int64_t *value, fb_privacy_state *state)
{
    fb_wide sum = 0; /* below 2^125 */
    for (int64_t k = fb_first(); k < count; k += fb_stride())
        sum += (fb_wide)((fb_signed_wide)value[k] * value[k]);
    for (int limb = 0; limb < FB_LIMBS; limb++)
        fb_add_up(&state->limb[limb], (unsigned long long)(uint32_t)(sum >> (LIMB_BITS * limb)));
}

static __global__ void scale(uint64_t factor, int64_t count, int64_t *value)
{
    for (int64_t k = fb_first(); k < count; k += fb_stride()) {
        const uint64_t magnitude = (uint64_t)(value[k] < 0 ? -value[k] : value[k]);
        const int64_t scaled = (int64_t)((fb_wide)magnitude * factor >> FACTOR_BITS_NORM);
        value[k] = value[k] < 0 ? -scaled : scaled;
    }
}

extern "C" void fb_privacy_quantise(fb_cuda_queue *queue, const fb_quantiser *quantiser, int64_t n, const float *dw,
                                    int32_t *grid, fb_privacy_state *state)
{
    fb_launch_threads(queue, "grid", fb_grid_for(n), FB_THREADS, quantise, *quantiser, n, dw, grid, state);
}

extern "C" void fb_privacy_count_non_finite(fb_cuda_queue *queue, int64_t n, const float *dw, fb_privacy_state *state)
{
    fb_launch_threads(queue, "finite values", fb_grid_for(n), FB_THREADS, count_non_finite, n, dw, state);
}

extern "C" void fb_privacy_take_grid(fb_cuda_queue *queue, int64_t count, const uint32_t *index, const int32_t *grid,
                                     int64_t *value)
{
    fb_launch_threads(queue, "values", fb_grid_for(count), FB_THREADS, take_grid, count, index, grid, value);
}

extern "C" void fb_privacy_take_unclipped(fb_cuda_queue *queue, double steps, double per_grid_step, int64_t count,
                                          const uint32_t *index, const float *dw, int64_t *value)
{
    fb_launch_threads(queue, "values", fb_grid_for(count), FB_THREADS, take_unclipped, steps, per_grid_step, count,
                      index, dw, value);
}

extern "C" void fb_privacy_take_quantised(fb_cuda_queue *queue, const fb_quantiser *quantiser, int64_t count,
                                          const uint32_t *index, const float *dw, int64_t *value,
                                          fb_privacy_state *state)
{
    fb_launch_threads(queue, "values", fb_grid_for(count), FB_THREADS, take_quantised, *quantiser, count, index, dw,
                      value, state);
}

extern "C" void fb_privacy_take_floats(fb_cuda_queue *queue, float limit, int64_t count, const uint32_t *index,
                                       const float *dw, float *value, fb_privacy_state *state)
{
    fb_launch_threads(queue, "values", fb_grid_for(count), FB_THREADS, take_floats, limit, count, index, dw, value,
                      state);
}

extern "C" void fb_privacy_add_squares(fb_cuda_queue *queue, int64_t count, const int64_t *value,
                                       fb_privacy_state *state)
{
    fb_launch_threads(queue, "norm", fb_grid_for(count), FB_THREADS, add_squares, count, value, state);
}

extern "C" void fb_privacy_scale(fb_cuda_queue *queue, uint64_t factor, int64_t count, int64_t *value)
{
    fb_launch_threads(queue, "scale", fb_grid_for(count), FB_THREADS, scale, factor, count, value);
}

/* --- draws ---------------------------------------------------------------------------------------------------- */

/* A law: the bytes that a draw seldom exceeds, and one draw, of which something is done with element k. */
struct laplace_noise {
    const fb_laplace *tables;
    int64_t limit;
    int64_t *value;
    __device__ __forceinline__ int bytes() const
    {
        return FB_GEOMETRIC_BYTES_MAX;
    }
    __device__ __forceinline__ void draw(fb_stream *stream, int64_t k) const
    {
        value[k] = clamp(value[k] + fb_draw_laplace(tables, stream), limit);
    }
};

struct gauss_noise {
    const fb_gauss *tables;
    int64_t limit;
    int64_t *value;
    __device__ __forceinline__ int bytes() const
    {
        return FB_GAUSS_BYTES_MAX;
    }
    __device__ __forceinline__ void draw(fb_stream *stream, int64_t k) const
    {
        value[k] = clamp(value[k] + fb_draw_gauss(tables, stream), limit);
    }
};

struct gumbel_keys {
    const fb_gumbel *tables;
    fb_wide factor;
    const int32_t *grid;
    int64_t *key_of;
    __device__ __forceinline__ int bytes() const
    {
        return FB_GUMBEL_WORD_BYTES;
    }
    __device__ __forceinline__ void draw(fb_stream *stream, int64_t k) const
    {
        const uint32_t magnitude = (uint32_t)(grid[k] < 0 ? -grid[k] : grid[k]);
        key_of[k] = fb_draw_gumbel(tables, stream) + (int64_t)((fb_wide)magnitude * factor >> FACTOR_BITS_SCORE);
    }
};

struct svt_tests {
    const fb_tail *tables;
    int64_t threshold, from;
    const fb_svt_place *rest;
    uint8_t *flag;
    __device__ __forceinline__ int bytes() const
    {
        return FB_TAIL_CHUNK_BYTES + FB_TAIL_REST_BYTES;
    }
    __device__ __forceinline__ void draw(fb_stream *stream, int64_t k) const
    {
        flag[k - from] = (uint8_t)fb_draw_reaches(tables, threshold - rest[k].magnitude, stream);
    }
};

/* The draws of the blocks from first_block on, up to draw `end`. Every thread goes on to the last draw of a whole
 * block, with its warp. */
template <typename Law>
static __global__ void __launch_bounds__(FB_WARP)
    draw_blocks(fb_address_key key, int64_t first_block, int64_t end, Law law)
{
    const int64_t block = first_block + fb_first(), begin = block * FB_NOISE_BLOCK;
    fb_stream stream;
    for (int i = 0; i < 8; i++)
        stream.key[i] = key.word[i];
    fb_stream_seek(&stream, (uint64_t)block);
    for (int64_t k = begin; k < begin + FB_NOISE_BLOCK; k++) {
        fb_stream_keep_in_step(&stream, law.bytes());
        if (k < end)
            law.draw(&stream, k);
    }
}

/* One warp a block, so that few draws are spread over many processors too. */
template <typename Law>
static void launch_draws(fb_cuda_queue *queue, const char *name, const fb_address_key *key, int64_t begin, int64_t end,
                         Law law)
{
    const int64_t first_block = begin / FB_NOISE_BLOCK, blocks = fb_noise_blocks(end) - first_block;
    fb_launch_threads(queue, name, (blocks + FB_WARP - 1) / FB_WARP, FB_WARP, draw_blocks<Law>, *key, first_block, end,
                      law);
}

extern "C" void fb_privacy_add_laplace(fb_cuda_queue *queue, const fb_address_key *key, const void *tables,
                                       int64_t limit, int64_t count, int64_t *value)
{
    launch_draws(queue, "Laplace noise", key, 0, count, laplace_noise{(const fb_laplace *)tables, limit, value});
}

extern "C" void fb_privacy_add_gauss(fb_cuda_queue *queue, const fb_address_key *key, const void *tables, int64_t limit,
                                     int64_t count, int64_t *value)
{
    launch_draws(queue, "Gaussian noise", key, 0, count, gauss_noise{(const fb_gauss *)tables, limit, value});
}

extern "C" void fb_privacy_gumbel_keys(fb_cuda_queue *queue, const fb_address_key *key, const void *tables,
                                       fb_wide factor, int64_t n, const int32_t *grid, int64_t *key_of)
{
    launch_draws(queue, "noised scores", key, 0, n, gumbel_keys{(const fb_gumbel *)tables, factor, grid, key_of});
}

extern "C" void fb_privacy_svt_test(fb_cuda_queue *queue, const fb_address_key *key, const void *tables,
                                    int64_t threshold, int64_t from, int64_t to, const fb_svt_arrays *arrays)
{
    launch_draws(queue, "SVT tests", key, from, to,
                 svt_tests{(const fb_tail *)tables, threshold, from, arrays->rest, arrays->flag});
}
