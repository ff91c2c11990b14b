/* SPDX-License-Identifier: Apache-2.0
 *
 * Walker's alias method in integers: 2^b slots of 2^64, each shared by at most two values, hold weights that add up to
 * 2^(64 + b) exactly. A uniform slot and a uniform 64-bit number below or above its cut give value i with probability
 * weight[i] / 2^(64 + b), without any rounding (Walker 1977; Vose 1991).
 */
#pragma once

#include <stdint.h>

__extension__ typedef unsigned __int128 fb_wide;

/* Scales shares (slots), each in [0, 1], to weights of sum slots * 2^64; slots is a power of two up to 2^10. What
 * rounding leaves goes to weight 0, which must be the largest. */
void fb_alias_weigh(int slots, const long double *share, fb_wide *weight);

/* Slot i holds value i below cut[i] and value other[i] from there on; a full slot has cut 0 and other = i. Destroys
 * weight (slots), which must add up to slots * 2^64. */
void fb_alias_build(int slots, fb_wide *weight, uint64_t *cut, uint16_t *other);
