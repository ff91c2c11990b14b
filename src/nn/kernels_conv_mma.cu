/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of kernel 3 in bfloat16 on the tensor cores: forward, and backward data, which for stride 1 is the same
 * kernel with mirrored, transposed weights.
 *
 * Implicit GEMM: M = 16 voxels of a row, N = 8 output channels, K = 8 input channels of one or two taps. With 8 channels
 * nothing is padding. An operand of 16 voxels x 8 channels (a "fragment", two registers a lane) depends on the row of the
 * input and the shift along W only, so a warp loads each once and uses it for all output rows that read it.
 */
#include "nn/kernels_conv.cuh"

/* --- gather form: forward with stride 1 or 2, backward data with stride 1 --------------------------------------------- */

/* Fragments of ROWS neighbouring rows, PITCH voxels apart, at the three shifts; `tile` is the lane's own address: row
 * lane % 16 of the fragment, and for the upper half of the warp one row of the tile further. */
template <int S, int ROWS, int PITCH>
static __device__ __forceinline__ void load_rows(unsigned a[ROWS][3][2], const uint4 *tile)
{
#pragma unroll
    for (int r = 0; r < ROWS; r += 2)
#pragma unroll
        for (int dx = 0; dx < 3; dx++) {
            const uint4 *from = tile + r * PITCH + conv_tile<S, 1, 1>::column(dx);
            if (r + 1 < ROWS) {
                unsigned both[4];
                fb_load_4(both, from);
                a[r][dx][0] = both[0], a[r][dx][1] = both[1];
                a[r + 1 < ROWS ? r + 1 : r][dx][0] = both[2], a[r + 1 < ROWS ? r + 1 : r][dx][1] = both[3];
            } else {
                fb_load_2(a[r][dx], from);
            }
        }
}

/* acc += the 9 taps of one dz for MY output rows, whose input rows are a: four products of two taps and one of one. */
template <int S, int NT, int MY, int ROWS>
static __device__ __forceinline__ void multiply_plane(float acc[MY][NT][4], const unsigned a[ROWS][3][2],
                                                      const unsigned *w)
{
#pragma unroll
    for (int t = 0; t < 9; t += 2) {
        unsigned b0[NT], b1[NT] = {};
        conv_load_words<NT>(b0, w + t * 32 * NT);
        if (t < 8)
            conv_load_words<NT>(b1, w + (t + 1) * 32 * NT);
#pragma unroll
        for (int my = 0; my < MY; my++) {
            const unsigned *one = a[my * S + t / 3][t % 3], *two = a[my * S + (t + 1) % 9 / 3][(t + 1) % 3];
            const unsigned both[4] = {one[0], one[1], two[0], two[1]};
#pragma unroll
            for (int j = 0; j < NT; j++) {
                const unsigned pair[2] = {b0[j], b1[j]};
                if (t < 8)
                    fb_mma_bf16(acc[my][j], both, pair);
                else
                    fb_mma_bf16_k8(acc[my][j], one, b0[j]);
            }
        }
    }
}

/* acc += one chunk of 8 input channels, all 27 taps */
template <int S, int NT, int MZ, int MY, typename TILE>
static __device__ __forceinline__ void multiply_chunk(float acc[MZ][MY][NT][4], const uint4 *tile, const unsigned *w)
{
    constexpr int ROWS = (MY - 1) * S + 3;
#pragma unroll
    for (int zi = 0; zi < (MZ - 1) * S + 3; zi++) {
        unsigned a[ROWS][3][2];
        load_rows<S, ROWS, TILE::WIDTH>(a, tile + zi * TILE::ROWS_Y * TILE::WIDTH);
#pragma unroll
        for (int mz = 0; mz < MZ; mz++)
            if (zi - mz * S >= 0 && zi - mz * S < 3)
                multiply_plane<S, NT, MY, ROWS>(acc[mz], a, w + (zi - mz * S) * 9 * 32 * NT);
    }
}

/* One block: (MZ WZ) x (MY WY) rows of 16 output voxels, 8 NT output channels; a warp MZ x MY rows. PLANES chunks of 8
 * input channels lie in shared memory at once. x (in, c_in), y (out, c_out), w as conv_packing says. */
template <int S, int PLANES, int NT, int MZ, int MY, int WZ, int WY>
static __global__ void __launch_bounds__(32 * WZ * WY)
    conv3(conv_geometry g, int tiles_y, int tiles_x, const uint4 *x, const unsigned *w, __nv_bfloat16 *y)
{
    using TILE = conv_tile<S, MZ * WZ, MY * WY>;
    FB_SHARED(uint4, tile, [PLANES * TILE::PLANE]);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int place = (int)blockIdx.x, x0 = place % tiles_x * 16;
    const int y0 = place / tiles_x % tiles_y * MY * WY, z0 = place / tiles_x / tiles_y * MZ * WZ;
    const int wz = warp / WY * MZ, wy = warp % WY * MY;
    const int chunks = conv_ceil_div(g.c_in, 8);
    const uint4 *mine = tile + (wz * S * TILE::ROWS_Y + wy * S) * TILE::WIDTH + lane % 16 + lane / 16 * TILE::WIDTH;
    const unsigned *words = w + (int64_t)blockIdx.y * chunks * 27 * 32 * NT + lane * NT;
    const bool works = z0 + wz < g.out[0] && y0 + wy < g.out[1];
    float acc[MZ][MY][NT][4] = {};
    for (int chunk = 0; chunk < chunks; chunk += PLANES) {
        conv_fill<TILE, PLANES, 32 * WZ * WY>(tile, g.in, g.c_in, 8 * chunk, z0 * S - 1, y0 * S - 1, x0 * S - 1, x);
        fb_copy_wait();
        __syncthreads();
        if (works)
#pragma unroll 1
            for (int p = 0; p < PLANES && chunk + p < chunks; p++)
                multiply_chunk<S, NT, MZ, MY, TILE>(acc, mine + p * TILE::PLANE, words + (chunk + p) * 27 * 32 * NT);
        __syncthreads();
    }
    const int channel = (int)blockIdx.y * 8 * NT + (lane & 3) * 2 * NT;
#pragma unroll
    for (int mz = 0; mz < MZ; mz++)
#pragma unroll
        for (int my = 0; my < MY; my++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int pz = z0 + wz + mz, py = y0 + wy + my, px = x0 + lane / 4 + 8 * half;
                if (pz < g.out[0] && py < g.out[1] && px < g.out[2] && channel < g.c_out)
                    conv_store_row<NT>(y + conv_at(g.out, g.c_out, pz, py, px) + channel, acc[mz][my], half);
            }
}

template <int S, int PLANES, int NT, int MZ, int MY, int WZ, int WY>
static cudaError_t launch_conv3(const conv_geometry *g, int blocks, const unsigned *w, const void *x, void *y,
                                cudaStream_t stream)
{
    const int tiles_z = conv_ceil_div(g->out[0], MZ * WZ), tiles_y = conv_ceil_div(g->out[1], MY * WY);
    const int tiles_x = conv_ceil_div(g->out[2], 16);
    return conv_launch(conv3<S, PLANES, NT, MZ, MY, WZ, WY>,
                       dim3((unsigned)(tiles_z * tiles_y * tiles_x), (unsigned)blocks), 32 * WZ * WY, stream, *g,
                       tiles_y, tiles_x, (const uint4 *)x, w, (__nv_bfloat16 *)y);
}

/* --- backward data of stride 2 --------------------------------------------------------------------------------------------- */

/* dx at 2 q + (cz, cy, cx) is a sum over the taps k that are odd where c is 0 (k = 1, from dy[q]) and even where c is 1
 * (k = 2 from dy[q], k = 0 from dy[q + 1]): every tap belongs to one of the 8 classes c, and together they read dy at 8
 * offsets. The i-th tap of a class has an offset in the directions in which the class has a bit. */
static constexpr __host__ __device__ int taps_of_class(int c)
{
    return 1 << ((c & 1) + (c >> 1 & 1) + (c >> 2));
}

/* Spreads the bits of i over the bits that c has, lowest first. */
static constexpr __host__ __device__ int offset_of(int c, int i)
{
    const int x = c & 1 ? i & 1 : 0, rest = c & 1 ? i >> 1 : i;
    const int y = c & 2 ? rest & 1 : 0, last = c & 2 ? rest >> 1 : rest;
    return x + 2 * y + 4 * (c & 4 ? last & 1 : 0);
}

static constexpr __host__ __device__ int tap_along(int bit, int offset)
{
    return !bit ? 1 : offset ? 0 : 2;
}

static constexpr __host__ __device__ int tap_of(int c, int i)
{
    const int at = offset_of(c, i);
    return (tap_along(c >> 2, at >> 2) * 3 + tap_along(c >> 1 & 1, at >> 1 & 1)) * 3 + tap_along(c & 1, at & 1);
}

/* A tile of dy: rows of 16 voxels and the neighbours that they need further along each axis */
template <int Z, int Y> struct scatter_tile {
    static constexpr int ROWS_Z = Z + 1, ROWS_Y = Y + 1, WIDTH = 17;
    static constexpr int VOXELS = ROWS_Z * ROWS_Y * WIDTH, PLANE = (VOXELS + 3) / 8 * 8 + 4;
    static constexpr __host__ __device__ int column(int x) { return x; }
};

/* acc[class] += one chunk of 8 channels of dy; a[offset] are the fragments. With kernel 1 only class 0 has a tap. */
template <int NT, int KERNEL>
static __device__ __forceinline__ void multiply_classes(float acc[8][NT][4], const unsigned a[8][2], const unsigned *w)
{
#pragma unroll
    for (int c = 0; c < (KERNEL == 3 ? 8 : 1); c++)
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            if (i >= taps_of_class(c))
                continue;
            unsigned b0[NT], b1[NT] = {};
            conv_load_words<NT>(b0, w + (KERNEL == 3 ? tap_of(c, i) : 0) * 32 * NT);
            if (c > 0)
                conv_load_words<NT>(b1, w + tap_of(c, i + 1) * 32 * NT);
            const unsigned *one = a[offset_of(c, i)], *two = a[offset_of(c, i + 1)];
            const unsigned both[4] = {one[0], one[1], two[0], two[1]};
#pragma unroll
            for (int j = 0; j < NT; j++) {
                const unsigned pair[2] = {b0[j], b1[j]};
                if (c > 0)
                    fb_mma_bf16(acc[c][j], both, pair);
                else
                    fb_mma_bf16_k8(acc[c][j], one, b0[j]);
            }
        }
}

enum { SCATTER_Z = 2, SCATTER_Y = 4, SCATTER_THREADS = 32 * SCATTER_Z * SCATTER_Y };

/* One block: 2 x 4 rows of 16 voxels q, so 4 x 8 rows of 32 voxels of dx; a warp one row of q and its 8 neighbours.
 * g.in is dy's extent, g.out dx's. */
template <int NT, int KERNEL>
static __global__ void __launch_bounds__(SCATTER_THREADS)
    scatter(conv_geometry g, int tiles_y, int tiles_x, const uint4 *dy, const unsigned *w, __nv_bfloat16 *dx)
{
    using TILE = scatter_tile<SCATTER_Z, SCATTER_Y>;
    constexpr int PLANES = 2, TAPS = KERNEL * KERNEL * KERNEL;
    FB_SHARED(uint4, tile, [PLANES * TILE::PLANE]);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int place = (int)blockIdx.x, x0 = place % tiles_x * 16;
    const int y0 = place / tiles_x % tiles_y * SCATTER_Y, z0 = place / tiles_x / tiles_y * SCATTER_Z;
    const int wz = warp / SCATTER_Y, wy = warp % SCATTER_Y, chunks = conv_ceil_div(g.c_in, 8);
    const uint4 *mine = tile + (wz * TILE::ROWS_Y + wy + lane / 16) * TILE::WIDTH + lane % 16;
    const unsigned *words = w + (int64_t)blockIdx.y * chunks * TAPS * 32 * NT + lane * NT;
    float acc[8][NT][4] = {};
    for (int chunk = 0; chunk < chunks; chunk += PLANES) {
        conv_fill<TILE, PLANES, SCATTER_THREADS>(tile, g.in, g.c_in, 8 * chunk, z0, y0, x0, dy);
        fb_copy_wait();
        __syncthreads();
#pragma unroll 1
        for (int p = 0; p < PLANES && chunk + p < chunks; p++) {
            unsigned a[8][2];
#pragma unroll
            for (int zx = 0; zx < 4; zx++) { /* one load: both rows of an offset along D and W */
                unsigned both[4];
                fb_load_4(both, mine + p * TILE::PLANE + (zx >> 1) * TILE::ROWS_Y * TILE::WIDTH + (zx & 1));
                const int at = (zx >> 1) * 4 + (zx & 1);
                a[at][0] = both[0], a[at][1] = both[1], a[at + 2][0] = both[2], a[at + 2][1] = both[3];
            }
            multiply_classes<NT, KERNEL>(acc, a, words + (chunk + p) * TAPS * 32 * NT);
        }
        __syncthreads();
    }
    const int channel = (int)blockIdx.y * 8 * NT + (lane & 3) * 2 * NT;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const int pz = 2 * (z0 + wz) + (c >> 2), py = 2 * (y0 + wy) + (c >> 1 & 1);
            const int px = 2 * (x0 + lane / 4 + 8 * half) + (c & 1);
            if (pz < g.out[0] && py < g.out[1] && px < g.out[2] && channel < g.c_out)
                conv_store_row<NT>(dx + conv_at(g.out, g.c_out, pz, py, px) + channel, acc[c], half);
        }
}

template <int NT, int KERNEL>
static cudaError_t launch_scatter(const conv_geometry *g, int blocks, const unsigned *w, const void *dy, void *dx,
                                  cudaStream_t stream)
{
    const int tiles_z = conv_ceil_div(g->in[0], SCATTER_Z), tiles_y = conv_ceil_div(g->in[1], SCATTER_Y);
    const int tiles_x = conv_ceil_div(g->in[2], 16);
    return conv_launch(scatter<NT, KERNEL>, dim3((unsigned)(tiles_z * tiles_y * tiles_x), (unsigned)blocks),
                       SCATTER_THREADS, stream, *g, tiles_y, tiles_x, (const uint4 *)dy, w, (__nv_bfloat16 *)dx);
}

/* --- which kernel ------------------------------------------------------------------------------------------------------------- */

typedef cudaError_t launcher(const conv_geometry *g, int blocks, const unsigned *w, const void *x, void *y,
                             cudaStream_t stream);

/* By n-tiles: 1, 2, 4. Shared memory holds one chunk of 8 channels of 8 x 8 rows, or two of 4 x 8; with stride 2 one of
 * 2 x 4 output rows. */
static launcher *const one_chunk[] = {launch_conv3<1, 1, 1, 2, 4, 4, 2>, launch_conv3<1, 1, 2, 2, 4, 4, 2>,
                                      launch_conv3<1, 1, 4, 1, 4, 4, 2>};
static launcher *const two_chunks[] = {launch_conv3<1, 2, 1, 2, 4, 2, 2>, launch_conv3<1, 2, 2, 2, 4, 2, 2>,
                                       launch_conv3<1, 2, 4, 1, 4, 4, 2>};
static launcher *const stride_two[] = {launch_conv3<2, 1, 1, 1, 2, 2, 2>, launch_conv3<2, 1, 2, 1, 2, 2, 2>,
                                       launch_conv3<2, 1, 4, 1, 2, 2, 2>};

cudaError_t conv_mma_apply(const fb_conv_shape *s, conv_direction direction, const unsigned *packed, const void *x,
                           void *y, cudaStream_t stream)
{
    const conv_geometry g = conv_geometry_of(s, direction);
    const conv_packing p = conv_packing_of(s, direction);
    launcher *chosen = NULL;
    if (direction == CONV_BWD_DATA && s->stride == 2 && s->kernel == 3)
        chosen = p.n_tiles == 1 ? launch_scatter<1, 3> : launch_scatter<2, 3>;
    else if (direction == CONV_BWD_DATA && s->stride == 2)
        chosen = p.n_tiles == 1 ? launch_scatter<1, 1> : launch_scatter<2, 1>;
    else
        chosen = (s->stride == 2 ? stride_two : g.c_in > 8 ? two_chunks : one_chunk)[p.n_tiles / 2];
    return chosen(&g, p.blocks, packed, x, y, stream);
}
