/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels need beside CUDA C++: static shared arrays under one name, and the matrix instruction. The emulated
 * GPU of the tests has a file of the same name (tests/emulator).
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define FB_SHARED(type, name, extent) __shared__ type name extent

/* d (16, 8) += a (16, 16) * b (16, 8), bfloat16 into float, by a warp. With group = lane / 4 and pair = lane % 4 a lane
 * holds (PTX manual, mma.m16n8k16; two elements a word, the lower column or row in the lower half):
 *   a[0] row group,     columns 2 pair, 2 pair + 1      a[2] the same row, columns 8 further
 *   a[1] row group + 8, the same columns                a[3] row group + 8, columns 8 further
 *   b[0] column group, rows 2 pair, 2 pair + 1          b[1] rows 8 further
 *   d[0], d[1] row group, columns 2 pair, 2 pair + 1    d[2], d[3] row group + 8 */
static __device__ __forceinline__ void fb_mma_bf16(float d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d (16, 8) += a (16, 8) * b (8, 8), as above: a[0] and a[1] are the rows group and group + 8. */
static __device__ __forceinline__ void fb_mma_bf16_k8(float d[4], const unsigned a[2], unsigned b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
}

static __device__ __forceinline__ unsigned fb_shared_address(const void *shared)
{
    return (unsigned)__cvta_generic_to_shared(shared);
}

/* Matrices of 8 rows of 8 bfloat16 from shared memory, four or two at once: lane 8 m + r names row r of matrix m, 16
 * bytes, 16-byte aligned. A lane gets in out[m] columns 2 pair, 2 pair + 1 of row group; of the transposed matrix in
 * the form that ends in _t: rows 2 pair, 2 pair + 1 of column group. Of two, the upper lanes' rows are not read. */
static __device__ __forceinline__ void fb_load_4(unsigned out[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(fb_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void fb_load_2(unsigned out[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(fb_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void fb_load_4_t(unsigned out[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(fb_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void fb_load_2_t(unsigned out[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(fb_shared_address(row))
                 : "memory");
}

/* Starts a copy of 16 or 8 bytes from global to shared memory, or of as many zeros where `inside` is false: `global` is
 * not read then, but must be an address. The copies have landed, for the thread that started them, after fb_copy_wait;
 * for the block after a barrier that follows it. */
static __device__ __forceinline__ void fb_copy_16(void *shared, const void *global, bool inside)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(fb_shared_address(shared)), "l"(global),
                 "r"(inside ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void fb_copy_8(void *shared, const void *global, bool inside)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(fb_shared_address(shared)), "l"(global),
                 "r"(inside ? 8 : 0)
                 : "memory");
}

static __device__ __forceinline__ void fb_copy_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* Two floats rounded to nearest even, `low` in the lower half; and back. */
static __device__ __forceinline__ unsigned fb_pack_bf16(float low, float high)
{
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ float fb_low_bf16(unsigned pair)
{
    return __uint_as_float(pair << 16);
}

static __device__ __forceinline__ float fb_high_bf16(unsigned pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}
