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
