/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of kernel 3 in bfloat16 on the tensor cores: forward, and backward data, which for stride 1 is the same
 * kernel with mirrored, transposed weights.
 *
 * Implicit GEMM: M = 16 voxels of a row, N = 8 output channels, K = 8 input channels of one or two taps. With 8
 * channels nothing is padding. An operand of 16 voxels x 8 channels (a "fragment", two registers a lane) depends on the
 * row of the input and the shift along W only, so a warp loads each once and uses it for all output rows that read it.
 */
#include "nn/kernels_conv.cuh"

/* --- gather form: forward with stride 1 or 2, backward data with stride 1 ---------------------------------- */

/* The fragments that output rows of one dz need, in the registers that the instructions want them in: a product of two
 * taps takes four neighbouring registers, so a pair of fragments is made once and never taken apart.
 *   near[r]   row r at dx 0 and at dx 1
 *   far[i]    rows 2 i and 2 i + 1 at dx 2
 * The lane's own addresses: voxel lane % 16 of row 0, in the upper half of the warp one shift further (near), one row
 * further (far). */
template <int ROWS> struct fragments {
    unsigned near[ROWS][4], far[(ROWS + 1) / 2][4];
};

/* Loads the rows of `near` that dy is the first to need. */
template <int S, int MY, int PITCH, int ROWS>
static __device__ __forceinline__ void load_near(fragments<ROWS> *a, int dy, const uint4 *near_row)
{
#pragma unroll
    for (int my = 0; my < MY; my++)
        if (dy == 0 || my == MY - 1 || (S == 2 && dy == 1))
            fb_load_4(a->near[my * S + dy], near_row + (my * S + dy) * PITCH);
}

template <int PITCH, int ROWS> static __device__ __forceinline__ void load_far(fragments<ROWS> *a, const uint4 *far_row)
{
#pragma unroll
    for (int r = 0; r < ROWS; r += 2)
        if (r + 1 < ROWS)
            fb_load_4(a->far[r / 2], far_row + r * PITCH);
        else
            fb_load_2(a->far[r / 2], far_row + r * PITCH);
}

/* acc += the 9 taps of one dz for MY output rows: four products of two taps and one of one. Output row my reads rows S
 * my .. S my + 2: at dx 2 these are a pair and a single one, or a single one and a pair. `first`: a is to be loaded. */
template <int S, int NT, int MY, int PITCH, int ROWS>
static __device__ __forceinline__ void multiply_plane(float acc[MY][NT][4], fragments<ROWS> *a, bool first,
                                                      const uint4 *near_row, const uint4 *far_row, const unsigned *w,
                                                      int lane)
{
    unsigned b[NT][2];
#pragma unroll
    for (int dy = 0; dy < 3; dy++) {
        conv_load_step<NT>(b, w + dy * 64 * NT, lane);
        if (first)
            load_near<S, MY, PITCH>(a, dy, near_row);
#pragma unroll
        for (int my = 0; my < MY; my++)
#pragma unroll
            for (int j = 0; j < NT; j++)
                fb_mma_bf16(acc[my][j], a->near[my * S + dy], b[j]);
    }
    if (first)
        load_far<PITCH>(a, far_row);
    conv_load_step<NT>(b, w + 3 * 64 * NT, lane); /* dy 0, dy 1 */
#pragma unroll
    for (int my = 0; my < MY; my++)
#pragma unroll
        for (int j = 0; j < NT; j++)
            if (my * S % 2 == 0)
                fb_mma_bf16(acc[my][j], a->far[my * S / 2], b[j]);
            else
                fb_mma_bf16_k8(acc[my][j], a->far[my * S / 2] + 2, b[j][0]);
    conv_load_step<NT>(b, w + 4 * 64 * NT, lane); /* dy 1, dy 2 */
#pragma unroll
    for (int my = 0; my < MY; my++)
#pragma unroll
        for (int j = 0; j < NT; j++)
            if (my * S % 2 == 0)
                fb_mma_bf16_k8(acc[my][j], a->far[my * S / 2 + 1], b[j][1]);
            else
                fb_mma_bf16(acc[my][j], a->far[(my * S + 1) / 2], b[j]);
}

/* acc += one chunk of 8 input channels, all 27 taps */
template <int S, int NT, int MZ, int MY, typename TILE>
static __device__ __forceinline__ void multiply_chunk(float acc[MZ][MY][NT][4], const uint4 *near_row,
                                                      const uint4 *far_row, const unsigned *w, int lane)
{
#pragma unroll
    for (int zi = 0; zi < (MZ - 1) * S + 3; zi++) {
        fragments<(MY - 1) * S + 3> a;
        const int plane = zi * TILE::ROWS_Y * TILE::WIDTH;
        bool first = true;
#pragma unroll
        for (int mz = 0; mz < MZ; mz++)
            if (zi - mz * S >= 0 && zi - mz * S < 3) {
                multiply_plane<S, NT, MY, TILE::WIDTH>(acc[mz], &a, first, near_row + plane, far_row + plane,
                                                       w + (zi - mz * S) * CONV_PLANE_STEPS * 64 * NT, lane);
                first = false;
            }
    }
}

/* One block: (MZ WZ) x (MY WY) rows of 16 output voxels, 8 NT output channels; a warp MZ x MY rows. PLANES chunks of 8
 * input channels lie in shared memory at once. x (in, c_in), y (out, c_out), w as conv_packing says. The bound of 4
 * blocks keeps the compiler from 96 registers and a spill. */
template <int S, int PLANES, int NT, int MZ, int MY, int WZ, int WY>
static __global__ void __launch_bounds__(32 * WZ * WY, PLANES == 2 && NT == 1 ? 4 : 0)
    conv3(conv_geometry g, int blocks, const uint4 *x, const unsigned *w, __nv_bfloat16 *y)
{
    using TILE = conv_tile<S, MZ * WZ, MY * WY>;
    FB_SHARED(uint4, tile, [PLANES * TILE::PLANE]);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int block = conv_channel_block(blocks), x0 = conv_place(blocks) * 16;
    const int y0 = (int)blockIdx.y * MY * WY, z0 = (int)blockIdx.z * MZ * WZ;
    const int wz = warp / WY * MZ, wy = warp % WY * MY;
    const int chunks = S == 1 && PLANES == 1 ? 1 : conv_ceil_div(g.c_in, 8); /* one: see which kernel, below */
    const uint4 *mine = tile + (wz * S * TILE::ROWS_Y + wy * S) * TILE::WIDTH + lane % 16;
    const uint4 *near_row = mine + lane / 16 * TILE::column(1);
    const uint4 *far_row = mine + TILE::column(2) + lane / 16 * TILE::WIDTH;
    const unsigned *words = w + (int64_t)block * chunks * CONV_GATHER_STEPS * 64 * NT;
    const bool works = z0 + wz < g.out[0] && y0 + wy < g.out[1];
    float acc[MZ][MY][NT][4] = {};
    for (int chunk = 0; chunk < chunks; chunk += PLANES) {
        conv_fill<TILE, PLANES, 32 * WZ * WY, PLANES == 1>(tile, g.in, g.c_in, 8 * chunk, z0 * S - 1, y0 * S - 1,
                                                           x0 * S - 1, x);
        fb_copy_wait();
        __syncthreads();
        if (works)
#pragma unroll 1
            for (int p = 0; p < PLANES && chunk + p < chunks; p++)
                multiply_chunk<S, NT, MZ, MY, TILE>(acc, near_row + p * TILE::PLANE, far_row + p * TILE::PLANE,
                                                    words + (chunk + p) * CONV_GATHER_STEPS * 64 * NT, lane);
        if (chunk + PLANES < chunks)
            __syncthreads();
    }
    const int channel = block * 8 * NT + (lane & 3) * 2 * NT;
#pragma unroll
    for (int mz = 0; mz < MZ; mz++)
#pragma unroll
        for (int my = 0; my < MY; my++)
#pragma unroll
            for (int upper = 0; upper < 2; upper++) {
                const int pz = z0 + wz + mz, py = y0 + wy + my, px = x0 + lane / 4 + 8 * upper;
                if (pz < g.out[0] && py < g.out[1] && px < g.out[2] && channel < g.c_out)
                    conv_store_row<NT>(y + conv_at(g.out, g.c_out, pz, py, px) + channel, acc[mz][my], upper);
            }
}

template <int S, int PLANES, int NT, int MZ, int MY, int WZ, int WY>
static cudaError_t launch_conv3(const conv_geometry *g, int blocks, const unsigned *w, const void *x, void *y,
                                cudaStream_t stream)
{
    const int tiles_z = conv_ceil_div(g->out[0], MZ * WZ), tiles_y = conv_ceil_div(g->out[1], MY * WY);
    const int tiles_x = conv_ceil_div(g->out[2], 16);
    return fb_launch_kernel(stream, dim3((unsigned)(tiles_x * blocks), (unsigned)tiles_y, (unsigned)tiles_z),
                            32 * WZ * WY, conv3<S, PLANES, NT, MZ, MY, WZ, WY>, *g, blocks, (const uint4 *)x, w,
                            (__nv_bfloat16 *)y);
}

/* --- backward data of stride 2 ----------------------------------------------------------------------------- */

/* A tile of dy: rows of 16 voxels and the neighbours that they need further along each axis */
template <int Z, int Y> struct scatter_tile {
    static constexpr int ROWS_Z = Z + 1, ROWS_Y = Y + 1, WIDTH = 17;
    static constexpr int VOXELS = ROWS_Z * ROWS_Y * WIDTH, PLANE = (VOXELS + 3) / 8 * 8 + 4;
    static constexpr __host__ __device__ int column(int x)
    {
        return x;
    }
};

/* The fragments at the 8 offsets of dy, in the pairs in which the steps want them: side by side along W (x[zy]), along
 * H (y[z], at W 0), along D (z, at H 0, W 0). The lane's address: voxel lane % 16 of the warp's row. */
struct scatter_pairs {
    unsigned x[4][4], y[2][4], z[4];
};

template <typename TILE>
static __device__ __forceinline__ void load_pairs(scatter_pairs *a, const uint4 *mine, int upper)
{
    constexpr int Z = TILE::ROWS_Y * TILE::WIDTH, Y = TILE::WIDTH;
#pragma unroll
    for (int zy = 0; zy < 4; zy++)
        fb_load_4(a->x[zy], mine + (zy >> 1) * Z + (zy & 1) * Y + upper);
#pragma unroll
    for (int z = 0; z < 2; z++)
        fb_load_4(a->y[z], mine + z * Z + upper * Y);
    fb_load_4(a->z, mine + upper * Z);
}

/* The pair of step i / 2 of class c */
static __device__ __forceinline__ const unsigned *pair_of(const scatter_pairs *a, int c, int i)
{
    const int at = conv_class_offset(c, i);
    return c & 1 ? a->x[at >> 1] : c & 2 ? a->y[at >> 2] : a->z;
}

/* acc[class] += one chunk of 8 channels of dy. With kernel 1 only class 0 has a tap. */
template <int NT, int KERNEL>
static __device__ __forceinline__ void multiply_classes(float acc[8][NT][4], const scatter_pairs *a, const unsigned *w,
                                                        int lane)
{
#pragma unroll
    for (int c = 0; c < (KERNEL == 3 ? 8 : 1); c++)
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            if (i >= conv_class_taps(c))
                continue;
            unsigned b[NT][2];
            conv_load_step<NT>(b, w + (conv_class_step(c) + i / 2) * 64 * NT, lane);
#pragma unroll
            for (int j = 0; j < NT; j++)
                if (c > 0)
                    fb_mma_bf16(acc[c][j], pair_of(a, c, i), b[j]);
                else
                    fb_mma_bf16_k8(acc[c][j], a->x[0], b[j][0]);
        }
}

enum { SCATTER_Z = 2, SCATTER_Y = 4, SCATTER_THREADS = 32 * SCATTER_Z * SCATTER_Y };

/* One block: 2 x 4 rows of 16 voxels q, so 4 x 8 rows of 32 voxels of dx; a warp one row of q and its 8 neighbours.
 * g.in is dy's extent, g.out dx's. */
template <int NT, int KERNEL>
static __global__ void __launch_bounds__(SCATTER_THREADS)
    scatter(conv_geometry g, int blocks, const uint4 *dy, const unsigned *w, __nv_bfloat16 *dx)
{
    using TILE = scatter_tile<SCATTER_Z, SCATTER_Y>;
    constexpr int PLANES = 2, STEPS = KERNEL == 3 ? CONV_SCATTER_STEPS : 1;
    FB_SHARED(uint4, tile, [PLANES * TILE::PLANE]);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int block = conv_channel_block(blocks), x0 = conv_place(blocks) * 16;
    const int y0 = (int)blockIdx.y * SCATTER_Y, z0 = (int)blockIdx.z * SCATTER_Z;
    const int wz = warp / SCATTER_Y, wy = warp % SCATTER_Y, chunks = conv_ceil_div(g.c_in, 8);
    const uint4 *mine = tile + (wz * TILE::ROWS_Y + wy) * TILE::WIDTH + lane % 16;
    const unsigned *words = w + (int64_t)block * chunks * STEPS * 64 * NT;
    float acc[8][NT][4] = {};
    for (int chunk = 0; chunk < chunks; chunk += PLANES) {
        conv_fill<TILE, PLANES, SCATTER_THREADS>(tile, g.in, g.c_in, 8 * chunk, z0, y0, x0, dy);
        fb_copy_wait();
        __syncthreads();
#pragma unroll 1
        for (int p = 0; p < PLANES && chunk + p < chunks; p++) {
            scatter_pairs a;
            load_pairs<TILE>(&a, mine + p * TILE::PLANE, lane / 16);
            multiply_classes<NT, KERNEL>(acc, &a, words + (chunk + p) * STEPS * 64 * NT, lane);
        }
        __syncthreads();
    }
    const int channel = block * 8 * NT + (lane & 3) * 2 * NT;
#pragma unroll
    for (int upper = 0; upper < 2; upper++)
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const int pz = 2 * (z0 + wz) + (c >> 2), py = 2 * (y0 + wy) + (c >> 1 & 1);
            const int px = 2 * (x0 + lane / 4 + 8 * upper) + (c & 1);
            if (pz < g.out[0] && py < g.out[1] && px < g.out[2] && channel < g.c_out)
                conv_store_row<NT>(dx + conv_at(g.out, g.c_out, pz, py, px) + channel, acc[c], upper);
        }
}

template <int NT, int KERNEL>
static cudaError_t launch_scatter(const conv_geometry *g, int blocks, const unsigned *w, const void *dy, void *dx,
                                  cudaStream_t stream)
{
    const int tiles_z = conv_ceil_div(g->in[0], SCATTER_Z), tiles_y = conv_ceil_div(g->in[1], SCATTER_Y);
    const int tiles_x = conv_ceil_div(g->in[2], 16);
    return fb_launch_kernel(stream, dim3((unsigned)(tiles_x * blocks), (unsigned)tiles_y, (unsigned)tiles_z),
                            SCATTER_THREADS, scatter<NT, KERNEL>, *g, blocks, (const uint4 *)dy, w,
                            (__nv_bfloat16 *)dx);
}

/* --- which kernel ------------------------------------------------------------------------------------------ */

typedef cudaError_t launcher(const conv_geometry *g, int blocks, const unsigned *w, const void *x, void *y,
                             cudaStream_t stream);

/* By n-tiles: 1, 2, 4. Where the results take 64 registers of a lane, a block has 4 warps: 3 blocks share a
 * multiprocessor then. */
static launcher *const one_chunk[] = {launch_conv3<1, 1, 1, 2, 4, 4, 2>, launch_conv3<1, 1, 2, 2, 4, 2, 2>,
                                      launch_conv3<1, 1, 4, 1, 4, 4, 1>};
static launcher *const two_chunks[] = {launch_conv3<1, 2, 1, 2, 4, 2, 2>, launch_conv3<1, 2, 2, 2, 4, 2, 2>,
                                       launch_conv3<1, 2, 4, 1, 4, 4, 1>};
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
