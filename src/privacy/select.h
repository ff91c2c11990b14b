/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "core/status.h"

#include <stdint.h>

/* The `count` elements of x (n) with the largest magnitude, ties by lowest index, as ascending indices into
 * index (count). Exact: radix select on the bit pattern of |x|. x must be finite. */
fb_status fb_select_topk(int64_t n, const float *x, int64_t count, uint32_t *index) FB_MUST_USE;

/* The `count` largest of key (n), ties by lowest index, as ascending indices into index (count). Exact. */
fb_status fb_select_largest(int64_t n, const int64_t *key, int64_t count, uint32_t *index) FB_MUST_USE;
