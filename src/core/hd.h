/* SPDX-License-Identifier: Apache-2.0
 *
 * Functions that a graphics processor runs too: FB_HD before a static inline function, FB_HD_COLD before a static one
 * that is seldom called. Such functions use plain data, no library and none of the compiler's built-in functions but
 * these.
 */
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define FB_HD __host__ __device__
#define FB_HD_COLD __host__ __device__ __noinline__ __attribute__((unused))
#else
#define FB_HD
#define FB_HD_COLD __attribute__((noinline, unused))
#endif

/* The zeros above the highest 1, and below the lowest. x is not 0. */
FB_HD static inline int fb_hd_clz64(uint64_t x)
{
#ifdef __CUDA_ARCH__
    return __clzll((long long)x);
#else
    return __builtin_clzll(x);
#endif
}

FB_HD static inline int fb_hd_ctz64(uint64_t x)
{
#ifdef __CUDA_ARCH__
    return __ffsll((long long)x) - 1;
#else
    return __builtin_ctzll(x);
#endif
}
