/* SPDX-License-Identifier: Apache-2.0
 *
 * Walker's alias method in integers: slots of 2^112, each shared by at most two values, hold weights that add up to
 * slots * 2^112 exactly. A uniform slot and a uniform number of 112 bits below or above its cut give value i with
 * probability weight[i] / (slots * 2^112), without any rounding (Walker 1977; Vose 1991).
 */
#pragma once

#include "privacy/fixed.h"

enum { FB_ALIAS_BITS = 112 };

/* Scales shares (slots), each in [0, 1], to weights of sum slots * 2^112; slots is a power of two up to 2^10. Relative
 * to its share and their sum, a weight is off by less than 6 units of 2^-64, and by what a unit of 2^-112 is in it.
 * share[0] must not be among the small ones. */
void fb_alias_weigh(int slots, const long double *share, fb_wide *weight);

/* Slot i holds value i below cut[i] and value other[i] from there on; a full slot has cut 0 and other = i. Destroys
 * weight (slots), which must add up to slots * 2^112. */
void fb_alias_build(int slots, fb_wide *weight, fb_wide *cut, uint16_t *other);
