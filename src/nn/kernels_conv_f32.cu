/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions in float with plain multiply-adds: what the tensor cores' results are compared with on the device, and
 * the training in float. Forward and backward data are one kernel that gathers.
 */
#include "nn/kernels_conv.cuh"

enum { THREADS = 128, LANES = 8 /* output channels of a thread */, RUN = 4 /* voxels of a thread, along H */ };

/* --- weights: (tap, c_in, c_out rounded up to LANES), zeros behind c_out ----------------------------------- */

static __global__ void pack_f32(int taps, int c_in, int c_out, int padded, int transposed, int count, const float *w,
                                float *packed)
{
    const int e = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (e >= count)
        return;
    const int o = e % padded, i = e / padded % c_in, tap = e / padded / c_in;
    packed[e] = o < c_out ? w[(transposed ? i * c_out + o : o * c_in + i) * taps + tap] : 0.0F;
}

cudaError_t conv_f32_pack(const fb_conv_shape *s, conv_direction direction, const float *w, float *packed,
                          cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, direction);
    const int padded = conv_ceil_div(g.c_out, LANES) * LANES, taps = conv_taps(s), count = taps * g.c_in * padded;
    return fb_launch_kernel(stream, dim3((unsigned)conv_ceil_div(count, 256)), 256, pack_f32, taps, g.c_in, g.c_out,
                            padded, (int)(direction == CONV_BWD_DATA), count, w, packed);
}

/* --- forward and backward data ----------------------------------------------------------------------------- */

/* Coordinate that output coordinate p reads at kernel element k, or -1: stride p + k - margin, or, backwards, the q
 * with stride q + k - margin = p */
template <bool BACK> static __device__ __forceinline__ int source_of(int p, int k, int margin, int stride, int extent)
{
    int q = BACK ? p - k + margin : stride * p + k - margin;
    if (BACK && stride == 2) {
        if (q & 1)
            return -1;
        q >>= 1;
    }
    return (unsigned)q < (unsigned)extent ? q : -1;
}

/* acc[v][o] += sum over i of x[voxel v, i] w[i, o]; voxels that are absent (negative place) count as zero */
template <int VEC>
static __device__ __forceinline__ void add_tap(float acc[RUN][LANES], const float *x, const int64_t place[RUN],
                                               const float *w, int c_in, int padded)
{
    for (int i = 0; i < c_in; i += VEC) {
        float value[RUN][VEC];
#pragma unroll
        for (int v = 0; v < RUN; v++) {
            float4 four = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
            if (place[v] >= 0 && VEC == 4)
                four = __ldg((const float4 *)(x + place[v] + i));
            else if (place[v] >= 0)
                four.x = __ldg(x + place[v] + i);
            const float all[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int k = 0; k < VEC; k++)
                value[v][k] = all[k];
        }
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const float4 *row = (const float4 *)(w + (int64_t)(i + k) * padded);
            const float4 low = __ldg(row), high = __ldg(row + 1);
            const float weight[LANES] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int v = 0; v < RUN; v++)
#pragma unroll
                for (int o = 0; o < LANES; o++)
                    acc[v][o] += value[v][k] * weight[o];
        }
    }
}

static __device__ __forceinline__ void store_lanes(float *to, const float acc[LANES], int first, int channels)
{
    if (channels % LANES == 0) {
        float4 *vectors = (float4 *)(to + first);
        vectors[0] = make_float4(acc[0], acc[1], acc[2], acc[3]);
        vectors[1] = make_float4(acc[4], acc[5], acc[6], acc[7]);
        return;
    }
#pragma unroll
    for (int o = 0; o < LANES; o++)
        if (first + o < channels)
            to[first + o] = acc[o];
}

/* One thread: RUN voxels of a column along H, LANES channels (blockIdx.y). Neighbouring threads have neighbouring
 * voxels along W. */
template <int VEC, bool BACK>
static __global__ void __launch_bounds__(THREADS)
    gather(conv_geometry g, int kernel, int stride, const float *w, const float *x, float *y)
{
    const int runs = conv_ceil_div(g.out[1], RUN), first = (int)blockIdx.y * LANES;
    const int padded = conv_ceil_div(g.c_out, LANES) * LANES, margin = kernel / 2;
    const int e = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (e >= g.out[0] * runs * g.out[2])
        return;
    const int px = e % g.out[2], rest = e / g.out[2], py = rest % runs * RUN, pz = rest / runs;
    float acc[RUN][LANES] = {};
    for (int tap = 0; tap < kernel * kernel * kernel; tap++) {
        const int qz = source_of<BACK>(pz, tap / (kernel * kernel), margin, stride, g.in[0]);
        const int qx = source_of<BACK>(px, tap % kernel, margin, stride, g.in[2]);
        if (qz < 0 || qx < 0)
            continue;
        int64_t place[RUN];
#pragma unroll
        for (int v = 0; v < RUN; v++) {
            const int qy = source_of<BACK>(py + v, tap / kernel % kernel, margin, stride, g.in[1]);
            place[v] = qy < 0 ? -1 : conv_at(g.in, g.c_in, qz, qy, qx);
        }
        add_tap<VEC>(acc, x, place, w + (int64_t)tap * g.c_in * padded + first, g.c_in, padded);
    }
#pragma unroll
    for (int v = 0; v < RUN; v++)
        if (py + v < g.out[1])
            store_lanes(y + conv_at(g.out, g.c_out, pz, py + v, px), acc[v], first, g.c_out);
}

cudaError_t conv_f32_apply(const fb_conv_shape *s, conv_direction direction, const float *packed, const float *x,
                           float *y, cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, direction);
    const int runs = g.out[0] * conv_ceil_div(g.out[1], RUN) * g.out[2];
    const dim3 grid((unsigned)conv_ceil_div(runs, THREADS), (unsigned)conv_ceil_div(g.c_out, LANES));
    const bool by_four = g.c_in % 4 == 0, back = direction == CONV_BWD_DATA;
    return fb_launch_kernel(
        stream, grid, THREADS,
        by_four ? (back ? gather<4, true> : gather<4, false>) : (back ? gather<1, true> : gather<1, false>), g,
        s->kernel, s->stride, packed, x, y);
}

/* --- backward weights -------------------------------------------------------------------------------------- */

enum { CHUNK = 4096 /* voxels of dy that are worth a block */ };

int conv_f32_partials(const fb_conv_shape *s, int limit)
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    const int count = conv_ceil_div(conv_voxels(g.out), CHUNK);
    return count < 1 ? 1 : count > 128 ? (limit < 128 ? limit : 128) : count > limit ? limit : count;
}

static __device__ __forceinline__ void load_lanes(float out[LANES], const float *from, int first, int channels)
{
    if (channels % LANES == 0) {
        const float4 low = __ldg((const float4 *)(from + first)), high = __ldg((const float4 *)(from + first) + 1);
        out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
        out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
        return;
    }
#pragma unroll
    for (int c = 0; c < LANES; c++)
        out[c] = first + c < channels ? __ldg(from + first + c) : 0.0F;
}

/* One block: one share of the voxels of dy (blockIdx.x), one tap, 8 x 8 channels (blockIdx.y, .z). A thread adds every
 * 128th voxel; then 64 threads add the 128 sums of one weight each. g is the forward geometry. */
static __global__ void __launch_bounds__(THREADS)
    correlate(conv_geometry g, int kernel, int stride, const float *x, const float *dy, float *partials)
{
    FB_SHARED(float, sums, [LANES * LANES][THREADS + 1]);
    const int tap = (int)blockIdx.y, margin = kernel / 2, thread = (int)threadIdx.x;
    const int i_blocks = conv_ceil_div(g.c_in, LANES);
    const int i0 = (int)blockIdx.z % i_blocks * LANES, o0 = (int)blockIdx.z / i_blocks * LANES;
    const int voxels = g.out[0] * g.out[1] * g.out[2], share = conv_ceil_div(voxels, (int)gridDim.x);
    const int begin = (int)blockIdx.x * share, end = begin + share < voxels ? begin + share : voxels;
    float acc[LANES][LANES] = {};
    for (int v = begin + thread; v < end; v += THREADS) {
        const int px = v % g.out[2], row = v / g.out[2], py = row % g.out[1], pz = row / g.out[1];
        const int qz = source_of<false>(pz, tap / (kernel * kernel), margin, stride, g.in[0]);
        const int qy = source_of<false>(py, tap / kernel % kernel, margin, stride, g.in[1]);
        const int qx = source_of<false>(px, tap % kernel, margin, stride, g.in[2]);
        if (qz < 0 || qy < 0 || qx < 0)
            continue;
        float xv[LANES], dyv[LANES];
        load_lanes(xv, x + conv_at(g.in, g.c_in, qz, qy, qx), i0, g.c_in);
        load_lanes(dyv, dy + (int64_t)v * g.c_out, o0, g.c_out);
#pragma unroll
        for (int i = 0; i < LANES; i++)
#pragma unroll
            for (int o = 0; o < LANES; o++)
                acc[i][o] += xv[i] * dyv[o];
    }
#pragma unroll
    for (int i = 0; i < LANES; i++)
#pragma unroll
        for (int o = 0; o < LANES; o++)
            sums[i * LANES + o][thread] = acc[i][o];
    __syncthreads();
    const int i = i0 + thread / LANES, o = o0 + thread % LANES;
    if (thread >= LANES * LANES || i >= g.c_in || o >= g.c_out)
        return;
    float total = 0.0F;
    for (int t = 0; t < THREADS; t++)
        total += sums[thread][t];
    const int taps = kernel * kernel * kernel;
    partials[(((int64_t)blockIdx.x * taps + tap) * g.c_in + i) * g.c_out + o] = total;
}

cudaError_t conv_f32_weights(const fb_conv_shape *s, int count, const float *x, const float *dy, float *partials,
                             cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    const dim3 grid((unsigned)count, (unsigned)conv_taps(s),
                    (unsigned)(conv_ceil_div(g.c_in, LANES) * conv_ceil_div(g.c_out, LANES)));
    return fb_launch_kernel(stream, grid, THREADS, correlate, g, s->kernel, s->stride, x, dy, partials);
}
