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
    float sum[4] = {d[0], d[1], d[2], d[3]};
#pragma GCC unroll 8
    for (int word = 0; word < 8; word++) { /* k = 2 word, 2 word + 1 */
        const int upper = word / 4, holder = word % 4;
        const unsigned *left = all[group * 4 + holder] + 2 * upper;
        const unsigned *right = all[pair * 8 + holder] + 4 + upper, *next = all[pair * 8 + 4 + holder] + 4 + upper;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const float low = fb_emulated_bf16(left[0], half), high = fb_emulated_bf16(left[1], half);
            const float one = fb_emulated_bf16(*right, half), two = fb_emulated_bf16(*next, half);
            sum[0] += low * one;
            sum[1] += low * two;
            sum[2] += high * one;
            sum[3] += high * two;
        }
    }
    __syncwarp();
    for (int r = 0; r < 4; r++)
        d[r] = sum[r];
}

static inline void fb_mma_bf16_k8(float d[4], const unsigned a[2], unsigned b)
{
    const unsigned all_a[4] = {a[0], a[1], 0, 0}, all_b[2] = {b, 0};
    fb_mma_bf16(d, all_a, all_b);
}

/* Rows must lie in shared memory, 16-byte aligned; 8 rows of a matrix that share banks are counted. */
static inline void fb_emulated_load(unsigned *out, const void *row, int matrices, bool transposed)
{
    const int lane = fb_emulator_lane(), group = lane >> 2, pair = lane & 3;
    uint64_t address = (uint64_t)row;
    unsigned mine[2] = {(unsigned)address, (unsigned)(address >> 32)}, words[4];
    if (lane < 8 * matrices)
        fb_emulator_check_shared(row, 16);
    const unsigned(*all)[FB_EMULATOR_WORDS] = fb_emulator_share(mine, 2);
    for (int m = 0; m < matrices; m++) {
        const uint16_t *rows[8];
        for (int r = 0; r < 8; r++)
            rows[r] = (const uint16_t *)(all[8 * m + r][0] | (uint64_t)all[8 * m + r][1] << 32);
        if (lane == 0)
            fb_emulator_count_conflicts((const void *const *)rows);
        words[m] = transposed ? rows[2 * pair][group] | (unsigned)rows[2 * pair + 1][group] << 16
                              : rows[group][2 * pair] | (unsigned)rows[group][2 * pair + 1] << 16;
    }
    __syncwarp();
    for (int m = 0; m < matrices; m++)
        out[m] = words[m];
}

static inline void fb_load_4(unsigned out[4], const void *row) { fb_emulated_load(out, row, 4, false); }
static inline void fb_load_2(unsigned out[2], const void *row) { fb_emulated_load(out, row, 2, false); }
static inline void fb_load_4_t(unsigned out[4], const void *row) { fb_emulated_load(out, row, 4, true); }
static inline void fb_load_2_t(unsigned out[2], const void *row) { fb_emulated_load(out, row, 2, true); }

/* The bytes land when the thread waits, and are NaN until then. */
static inline void fb_copy_16(void *shared, const void *global, bool inside)
{
    fb_emulator_copy(shared, global, 16, inside);
}

static inline void fb_copy_8(void *shared, const void *global, bool inside)
{
    fb_emulator_copy(shared, global, 8, inside);
}

static inline void fb_copy_wait(void) { fb_emulator_copy_wait(); }

static inline unsigned fb_pack_bf16(float low, float high)
{
    return __float2bfloat16_rn(low).bits | (unsigned)__float2bfloat16_rn(high).bits << 16;
}

static inline float fb_low_bf16(unsigned pair) { return fb_emulated_bf16(pair, 0); }
static inline float fb_high_bf16(unsigned pair) { return fb_emulated_bf16(pair, 1); }
