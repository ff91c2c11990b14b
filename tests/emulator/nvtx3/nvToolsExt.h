/* SPDX-License-Identifier: Apache-2.0
 *
 * NVTX of the emulated GPU: ends the program when more ranges end than began.
 */
#pragma once

int fb_emulator_range(int begins);

static inline int nvtxRangePushA(const char *name)
{
    return name ? fb_emulator_range(1) : -1;
}

static inline int nvtxRangePop(void)
{
    return fb_emulator_range(0);
}
