/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "nn/params.h"

/* Regions as bits of one byte per voxel: how targets are stored everywhere. */
enum { FB_REGION_TC = 0, FB_REGION_WT = 1, FB_REGION_ET = 2 };

/* Soft Dice loss as MONAI's DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-5):
 *   L = mean over regions r of 1 - 2 sum(p g) / (sum(p^2) + sum(g^2) + 1e-5),  p = sigmoid(logit)
 * logits (voxels, FB_REGIONS), target (voxels): bit r set where region r is. dlogits (voxels, FB_REGIONS) receives the
 * gradient, or is NULL. Sums in double in a fixed order. A region that is empty in the target has loss 1, gradient 0.
 */
double fb_dice_loss(int64_t voxels, const fb_real *logits, const uint8_t *target, fb_real *dlogits);
