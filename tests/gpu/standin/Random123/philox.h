/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands in for Random123 where it is not installed, for tests/gpu only: Philox4x32-10 (Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC'11) under the library's names, as far as core/rng.c uses them. tests/cli_gpu.sh
 * holds it against the library.
 */
#pragma once

#include <stdint.h>

typedef struct philox4x32_ctr_t {
    uint32_t v[4];
} philox4x32_ctr_t;
typedef struct philox4x32_key_t {
    uint32_t v[2];
} philox4x32_key_t;

static inline philox4x32_ctr_t philox4x32(philox4x32_ctr_t counter, philox4x32_key_t key)
{
    const uint32_t multiplier[2] = {0xD2511F53u, 0xCD9E8D57u}, weyl[2] = {0x9E3779B9u, 0xBB67AE85u};
    for (int round = 0; round < 10; round++) {
        const uint64_t product[2] = {(uint64_t)multiplier[0] * counter.v[0], (uint64_t)multiplier[1] * counter.v[2]};
        counter = (philox4x32_ctr_t){{(uint32_t)(product[1] >> 32) ^ counter.v[1] ^ key.v[0], (uint32_t)product[1],
                                      (uint32_t)(product[0] >> 32) ^ counter.v[3] ^ key.v[1], (uint32_t)product[0]}};
        key.v[0] += weyl[0];
        key.v[1] += weyl[1];
    }
    return counter;
}
