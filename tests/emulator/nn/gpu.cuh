/* SPDX-License-Identifier: Apache-2.0
 *
 * The emulated form of src/nn/gpu.cuh. FB_SHARED is in cuda_runtime.h.
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

static inline float fb_emulated_bf16(unsigned pair, int half)
{
    return __bfloat162float({(uint16_t)(pair >> 16 * half)});
}

/* d (16, 8) += a (16, 16) * b (16, 8). Which element of the operands a lane's register holds, as PTX's manual states it
 * for mma.m16n8k16. */
static inline void fb_mma_bf16(float d[4], const unsigned a[4], const unsigned b[2])
{
    const int lane = fb_emulator_lane(), group = lane >> 2, pair = lane & 3;
    const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned(*all)[FB_EMULATOR_WORDS] = fb_emulator_share(mine, 6);
    float sum[4];
    for (int r = 0; r < 4; r++) {
        const int row = group + 8 * (r >> 1), column = 2 * pair + (r & 1);
        sum[r] = d[r];
        for (int k = 0; k < 16; k++) {
            const int upper = k >> 3, holder = (k & 7) / 2;
            const unsigned left = all[(row & 7) * 4 + holder][(row >> 3) + 2 * upper];
            const unsigned right = all[column * 4 + holder][4 + upper];
            sum[r] += fb_emulated_bf16(left, k & 1) * fb_emulated_bf16(right, k & 1);
        }
    }
    __syncwarp();
    for (int r = 0; r < 4; r++)
        d[r] = sum[r];
}
