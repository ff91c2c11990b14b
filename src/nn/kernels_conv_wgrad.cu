/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of the weights in bfloat16 on the tensor cores: one GEMM for each tap, M = input channels, N = 8 output
 * channels, K = 16 voxels of a row. Both operands are read transposed from shared memory, where they lie as voxels of 8
 * channels. Blocks go over the volume in fixed shares and leave partial gradients, (partial, tap, C_in, C_out), which
 * kernels_conv.cu adds in order.
 */
#include "nn/kernels_conv.cuh"

/* The sums of a block's groups of `threads` threads, in their order, in the first group; COUNT sums a thread. shared
 * has room for those of all groups but the first. */
template <int COUNT>
static __device__ __forceinline__ void add_groups(float *acc, float *shared, int groups, int threads)
{
    const int group = (int)threadIdx.x / threads, place = (int)threadIdx.x % threads;
    if (group > 0)
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            shared[((group - 1) * COUNT + e) * threads + place] = acc[e];
    __syncthreads();
    if (group > 0)
        return;
    for (int other = 0; other < groups - 1; other++)
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            acc[e] += shared[(other * COUNT + e) * threads + place];
}

/* --- kernel 3 ---------------------------------------------------------------------------------------------- */

/* Warp 3 g + dz of a block has the 9 taps of dz, and half g of the tile's rows. */
enum { GROUPS = 2, THREADS = 3 * 32 * GROUPS };

/* What an instruction takes of x are 16 rows of 16 voxels, in four neighbouring registers: 8 channels twice, made by
 * one load and never taken apart. Lanes 8..15 and 24..31 name the voxels of the second 8 rows, lanes 16..31 voxels
 * 8..15. */
static __device__ __forceinline__ int lane_voxel(int lane)
{
    return lane % 8 + lane / 16 * 8;
}

static __device__ __forceinline__ int lane_upper(int lane)
{
    return lane / 8 % 2;
}

/* The operands of the 9 taps of one row of dy and, as rows[r % 3], of the rows r of x that it meets. Two planes: dx[..]
 * is a shift, 16 channels. One plane, 8 channels twice: near is shifts 0 and 1; far is shift 2 of row r and of row r +
 * 1. */
template <int PLANES> struct operands;
template <> struct operands<2> {
    unsigned dx[3][4];
};
template <> struct operands<1> {
    unsigned near[4], far[4];
};

/* Loads row r = `row` of x; `mine` is the lane's voxel of row 0. The last row has none behind it: far's second half is
 * then whatever lies there, and products with it are thrown away. */
template <typename TILE, bool LAST>
static __device__ __forceinline__ void load_row(operands<2> *a, const uint4 *mine, int upper, int row)
{
#pragma unroll
    for (int dx = 0; dx < 3; dx++)
        fb_load_4_t(a->dx[dx], mine + row * TILE::WIDTH + TILE::column(dx) + upper * TILE::PLANE);
}

template <typename TILE, bool LAST>
static __device__ __forceinline__ void load_row(operands<1> *a, const uint4 *mine, int upper, int row)
{
    static_assert(TILE::PLANE > TILE::VOXELS, "the last load reads one voxel more");
    fb_load_4_t(a->near, mine + row * TILE::WIDTH + upper * TILE::column(1));
    fb_load_4_t(a->far, mine + row * TILE::WIDTH + TILE::column(2) + upper * (LAST ? TILE::column(1) : TILE::WIDTH));
}

/* Fragments of one row of dy: b[n-tile] are voxels 0..7 and 8..15. */
template <int NT> static __device__ __forceinline__ void load_gradient(unsigned b[NT][2], const uint4 *row)
{
    if constexpr (NT == 2) {
        unsigned two[4];
        fb_load_4_t(two, row);
        b[0][0] = two[0], b[0][1] = two[1], b[1][0] = two[2], b[1][1] = two[3];
    } else {
        fb_load_2_t(b[0], row);
    }
}

/* acc += 16 voxels: the operands of product m of the row of dy whose first row of x is r */
static __device__ __forceinline__ const unsigned *product_of(const operands<2> rows[3], int m, int r)
{
    return rows[(r + m / 3) % 3].dx[m % 3];
}

static __device__ __forceinline__ const unsigned *product_of(const operands<1> rows[3], int m, int r)
{
    return m < 3 ? rows[(r + m) % 3].near : rows[(r + (m == 3 ? 0 : 2)) % 3].far;
}

/* The tap, without its dz, of the upper or lower 8 rows of product m; -1: none. */
template <int PLANES> static constexpr __host__ __device__ int tap_of(int m, int upper)
{
    return PLANES == 2 ? m : m < 3 ? 3 * m + upper : m == 3 ? 3 * upper + 2 : upper ? -1 : 8;
}

/* One half of a lane's results of one n-tile: two neighbouring output channels of input channel i */
static __device__ __forceinline__ void store_pair(const conv_geometry *g, float *partial, int tap, int i, int o,
                                                  const float two[2])
{
    if (i < g->c_in && o < g->c_out)
        *(float2 *)(partial + ((int64_t)tap * g->c_in + i) * g->c_out + o) = float2{two[0], two[1]};
}

/* The tiles of dy: TZ x TY rows of 16 voxels; y is the fastest-changing coordinate that a warp goes along, so that of
 * the three rows of x that a row of dy meets with stride 1 two are in registers already. */
template <int S, int PLANES, int NT, int TZ, int TY>
static __global__ void __launch_bounds__(THREADS)
    wgrad3(conv_geometry g, int tiles, int tiles_y, int tiles_x, const uint4 *x, const uint4 *dy, float *partials)
{
    using TILE = conv_tile<S, TZ, TY>;
    using ROWS = conv_rows<TZ, TY>;
    constexpr int PRODUCTS = PLANES == 2 ? 9 : 5;
    FB_SHARED(uint4, x_tile, [PLANES * TILE::PLANE]);
    FB_SHARED(uint4, dy_tile, [NT * ROWS::PLANE]);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, dz = warp % 3, group = warp / 3;
    const int i_blocks = conv_ceil_div(g.c_in, 8 * PLANES);
    const int i0 = (int)blockIdx.y % i_blocks * 8 * PLANES, o0 = (int)blockIdx.y / i_blocks * 8 * NT;
    const uint4 *x_mine = x_tile + dz * TILE::ROWS_Y * TILE::WIDTH + lane_voxel(lane);
    const uint4 *dy_mine = dy_tile + lane % 16 + lane / 16 * (NT == 2 ? ROWS::PLANE : 0);
    const int begin = conv_share(tiles, blockIdx.x), end = conv_share(tiles, blockIdx.x + 1);
    float acc[PRODUCTS][NT][4] = {};
    for (int t = begin; t < end; t++) {
        const int x0 = t % tiles_x * 16, y0 = t / tiles_x % tiles_y * TY, z0 = t / tiles_x / tiles_y * TZ;
        conv_fill<TILE, PLANES, THREADS, PLANES == 1>(x_tile, g.in, g.c_in, i0, z0 * S - 1, y0 * S - 1, x0 * S - 1, x);
        conv_fill<ROWS, NT, THREADS>(dy_tile, g.out, g.c_out, o0, z0, y0, x0, dy);
        fb_copy_wait();
        __syncthreads();
#pragma unroll 1
        for (int z = group * (TZ / GROUPS); z < (group + 1) * (TZ / GROUPS) && z0 + z < g.out[0]; z++) {
            operands<PLANES> rows[3]; /* by row of x modulo 3 */
            const uint4 *x_plane = x_mine + z * S * TILE::ROWS_Y * TILE::WIDTH;
#pragma unroll
            for (int y = 0; y < TY; y++) {
                unsigned b[NT][2];
#pragma unroll
                for (int r = y == 0 ? 0 : 3 - S; r < 3; r++)
                    if (y < TY - 1 || r < 2)
                        load_row<TILE, false>(&rows[(y * S + r) % 3], x_plane, lane_upper(lane), y * S + r);
                    else
                        load_row<TILE, true>(&rows[(y * S + r) % 3], x_plane, lane_upper(lane), y * S + r);
                load_gradient<NT>(b, dy_mine + (z * TY + y) * 16);
#pragma unroll
                for (int m = 0; m < PRODUCTS; m++)
#pragma unroll
                    for (int j = 0; j < NT; j++)
                        fb_mma_bf16(acc[m][j], product_of(rows, m, y * S), b[j]);
            }
        }
        __syncthreads();
    }
    static_assert((GROUPS - 1) * 96 * sizeof acc <= sizeof x_tile, "the groups' sums fit where x was");
    add_groups<PRODUCTS * NT * 4>(&acc[0][0][0], (float *)x_tile, GROUPS, 96);
    if (group > 0)
        return;
    float *partial = partials + (int64_t)blockIdx.x * 27 * g.c_in * g.c_out;
#pragma unroll
    for (int m = 0; m < PRODUCTS; m++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
            const int i = i0 + lane / 4, o = o0 + 8 * j + (lane & 3) * 2;
            store_pair(&g, partial, dz * 9 + tap_of<PLANES>(m, 0), i, o, acc[m][j]);
            if (tap_of<PLANES>(m, 1) >= 0)
                store_pair(&g, partial, dz * 9 + tap_of<PLANES>(m, 1), i + 8 * (PLANES - 1), o, acc[m][j] + 2);
        }
}

/* --- kernel 1 ---------------------------------------------------------------------------------------------- */

/* STAGE voxels are in shared memory at once; planes lie 4 apart modulo 8, as above. */
enum { POINT_WARPS = 4, POINT_THREADS = 32 * POINT_WARPS, STAGE = 128, POINT_PLANE = 132 };

/* Starts the copy of 128 voxels, PLANES planes of 8 channels from `first` on, of output voxels v0..; stride S is that
 * of the array read. */
template <int S, int PLANES>
static __device__ __forceinline__ void fill_voxels(uint4 *tile, const conv_geometry *g, const int extent[3],
                                                   int channels, int first, int v0, const uint4 *x)
{
    const int voxels = g->out[0] * g->out[1] * g->out[2];
    for (int e = (int)threadIdx.x; e < STAGE * PLANES; e += POINT_THREADS) {
        const int plane = e % PLANES, v = v0 + e / PLANES, c = first + 8 * plane;
        const bool inside = v < voxels && c < channels;
        int64_t at = (int64_t)v * channels;
        if (S == 2) {
            const int px = v % g->out[2], row = v / g->out[2], py = row % g->out[1], pz = row / g->out[1];
            at = conv_at(extent, channels, S * pz, S * py, S * px);
        }
        const char *from = (const char *)x + (inside ? 2 * (at + c) : 0);
        uint4 *to = tile + plane * POINT_PLANE + e / PLANES;
        if (channels == 4) {
            fb_copy_8(to, from, inside);
            ((uint2 *)to)[1] = uint2{0, 0};
        } else {
            fb_copy_16(to, from, inside);
        }
    }
}

/* One block: one share of the voxels (blockIdx.x), 16 MT x 8 NT channels; a warp a quarter of the voxels of each
 * stage. */
template <int S, int MT, int NT>
static __global__ void __launch_bounds__(POINT_THREADS)
    wgrad1(conv_geometry g, int stages, const uint4 *x, const uint4 *dy, float *partials)
{
    FB_SHARED(uint4, tiles, [(2 * MT + NT) * POINT_PLANE]);
    uint4 *x_tile = tiles, *dy_tile = tiles + 2 * MT * POINT_PLANE;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int i_blocks = conv_ceil_div(g.c_in, 16 * MT);
    const int i0 = (int)blockIdx.y % i_blocks * 16 * MT, o0 = (int)blockIdx.y / i_blocks * 8 * NT;
    const int begin = conv_share(stages, blockIdx.x), end = conv_share(stages, blockIdx.x + 1);
    const uint4 *x_mine = x_tile + lane_voxel(lane) + lane_upper(lane) * POINT_PLANE;
    const uint4 *dy_mine = dy_tile + lane % 16 + lane / 16 * (NT > 1 ? POINT_PLANE : 0);
    float acc[MT][NT][4] = {};
    for (int stage = begin; stage < end; stage++) {
        fill_voxels<S, 2 * MT>(x_tile, &g, g.in, (int)g.c_in, i0, stage * STAGE, x);
        fill_voxels<1, NT>(dy_tile, &g, g.out, (int)g.c_out, o0, stage * STAGE, dy);
        fb_copy_wait();
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STAGE / POINT_WARPS; k += 16) {
            const int v = warp * (STAGE / POINT_WARPS) + k;
            unsigned b[NT][2];
            if constexpr (NT == 1)
                fb_load_2_t(b[0], dy_mine + v);
            else
#pragma unroll
                for (int j = 0; j < NT; j += 2)
                    load_gradient<2>(b + j, dy_mine + j * POINT_PLANE + v);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                unsigned rows[4];
                fb_load_4_t(rows, x_mine + 2 * m * POINT_PLANE + v);
#pragma unroll
                for (int j = 0; j < NT; j++)
                    fb_mma_bf16(acc[m][j], rows, b[j]);
            }
        }
        __syncthreads();
    }
    static_assert((POINT_WARPS - 1) * 32 * sizeof acc <= sizeof tiles, "the warps' sums fit where the voxels were");
    add_groups<MT * NT * 4>(&acc[0][0][0], (float *)tiles, POINT_WARPS, 32);
    if (warp > 0)
        return;
    float *partial = partials + (int64_t)blockIdx.x * g.c_in * g.c_out;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
            const int i = i0 + 16 * m + lane / 4, o = o0 + 8 * j + (lane & 3) * 2;
            store_pair(&g, partial, 0, i, o, acc[m][j]);
            store_pair(&g, partial, 0, i + 8, o, acc[m][j] + 2);
        }
}

/* --- which kernel ------------------------------------------------------------------------------------------ */

/* One of the kernels above, and what one of its blocks covers */
struct wgrad_plan {
    int tile[3];     /* voxels of dy; kernel 1: {1, 1, STAGE} of all voxels in a row */
    int c_in, c_out; /* channels */
};

static wgrad_plan plan_of(const fb_conv_shape *s)
{
    if (s->kernel == 1 && s->c_in <= 16 && s->c_out <= 8)
        return {{1, 1, STAGE}, 16, 8};
    if (s->kernel == 1)
        return {{1, 1, STAGE}, 32, s->c_out <= 16 ? 16 : 32};
    const int planes = s->c_in <= 8 || s->stride == 2 ? 1 : 2, n_tiles = s->c_out <= 8 ? 1 : 2;
    if (s->stride == 2)
        return {{2, 4, 16}, 8, 8 * n_tiles};
    if (planes == 1)
        return {{8, n_tiles == 1 ? 8 : 4, 16}, 8, 8 * n_tiles};
    return {{4, n_tiles == 1 ? 8 : 6, 16}, 16, 8 * n_tiles};
}

static int tiles_of(const fb_conv_shape *s, const wgrad_plan *plan, int by_axis[3])
{
    const conv_geometry g = conv_geometry_of(s, CONV_FWD);
    if (s->kernel == 1)
        return conv_ceil_div(conv_voxels(g.out), plan->tile[2]);
    for (int axis = 0; axis < 3; axis++)
        by_axis[axis] = conv_ceil_div(g.out[axis], plan->tile[axis]);
    return by_axis[0] * by_axis[1] * by_axis[2];
}

static int channel_blocks(const fb_conv_shape *s, const wgrad_plan *plan)
{
    return conv_ceil_div((int)s->c_in, plan->c_in) * conv_ceil_div((int)s->c_out, plan->c_out);
}

/* Enough shares to fill a large device once, together with the blocks of channels, and no more: every share costs a
 * partial gradient. A multiprocessor holds four blocks of the smallest kernels, two of the others. */
int conv_wgrad_partials(const fb_conv_shape *s, int limit)
{
    enum { MULTIPROCESSORS = 132 };
    const wgrad_plan plan = plan_of(s);
    int by_axis[3];
    const int tiles = tiles_of(s, &plan, by_axis), resident = s->kernel == 1 || plan.c_in * plan.c_out == 64 ? 4 : 2;
    const int most = conv_ceil_div(resident * MULTIPROCESSORS, channel_blocks(s, &plan));
    const int shares = tiles < most ? tiles : most;
    return shares < limit ? shares : limit;
}

template <int S, int PLANES, int NT, int TZ, int TY>
static cudaError_t launch_wgrad3(const fb_conv_shape *s, int count, const void *x, const void *dy, float *partials,
                                 cudaStream_t stream)
{
    const wgrad_plan plan = plan_of(s);
    int n[3] = {1, 1, 1};
    const int tiles = tiles_of(s, &plan, n);
    return fb_launch_kernel(stream, dim3((unsigned)(count), (unsigned)channel_blocks(s, &plan)), THREADS,
                            wgrad3<S, PLANES, NT, TZ, TY>, conv_geometry_of(s, CONV_FWD), tiles, n[1], n[2],
                            (const uint4 *)x, (const uint4 *)dy, partials);
}

template <int S, int MT, int NT>
static cudaError_t launch_wgrad1(const fb_conv_shape *s, int count, const void *x, const void *dy, float *partials,
                                 cudaStream_t stream)
{
    const wgrad_plan plan = plan_of(s);
    int n[3];
    const int stages = tiles_of(s, &plan, n);
    return fb_launch_kernel(stream, dim3((unsigned)(count), (unsigned)channel_blocks(s, &plan)), POINT_THREADS,
                            wgrad1<S, MT, NT>, conv_geometry_of(s, CONV_FWD), stages, (const uint4 *)x,
                            (const uint4 *)dy, partials);
}

typedef cudaError_t launcher(const fb_conv_shape *s, int count, const void *x, const void *dy, float *partials,
                             cudaStream_t stream);

static launcher *launcher_of(const fb_conv_shape *s)
{
    const wgrad_plan plan = plan_of(s);
    const int n = plan.c_out / 8;
    if (s->kernel == 1 && s->stride == 1)
        return n == 1 ? launch_wgrad1<1, 1, 1> : n == 2 ? launch_wgrad1<1, 2, 2> : launch_wgrad1<1, 2, 4>;
    if (s->kernel == 1)
        return n == 1 ? launch_wgrad1<2, 1, 1> : n == 2 ? launch_wgrad1<2, 2, 2> : launch_wgrad1<2, 2, 4>;
    if (s->stride == 2)
        return n == 1 ? launch_wgrad3<2, 1, 1, 2, 4> : launch_wgrad3<2, 1, 2, 2, 4>;
    if (plan.c_in == 8)
        return n == 1 ? launch_wgrad3<1, 1, 1, 8, 8> : launch_wgrad3<1, 1, 2, 8, 4>;
    return n == 1 ? launch_wgrad3<1, 2, 1, 4, 8> : launch_wgrad3<1, 2, 2, 4, 6>;
}

cudaError_t conv_wgrad(const fb_conv_shape *s, int count, const void *x, const void *dy, float *partials,
                       cudaStream_t stream)
{
    return launcher_of(s)(s, count, x, dy, partials, stream);
}
