/* SPDX-License-Identifier: Apache-2.0
 *
 * The head of one synthetic subject: where brain, tissues, vessels and tumour are, and the signal that an ideal scanner
 * would see there. Positions are mm from the middle of the brain: x to the left, y to the front, z up.
 */
#pragma once

#include "phantom_field.h"

#include <stdint.h>

enum { FB_T1, FB_T1CE, FB_T2, FB_FLAIR, FB_MODALITIES };
enum { FB_LABEL_NONE = 0, FB_LABEL_CORE = 1, FB_LABEL_EDEMA = 2, FB_LABEL_ENHANCING = 4 }; /* as in BraTS 2018 */

typedef struct fb_anatomy fb_anatomy;

/* `stream` names the subject's random numbers. voxel_mm: mean voxel size; nothing is drawn thinner than about one
 * voxel, so that coarse grids keep vessels, rims and lesions. */
fb_status fb_anatomy_create(fb_rng stream, int high_grade, double voxel_mm, fb_anatomy **out) FB_MUST_USE;
void fb_anatomy_destroy(fb_anatomy **anatomy);

/* Sets the signal of each modality (0 none .. about 1.1) and the label; returns 1 inside the brain, else 0 with label 0
 * and the signal of CSF. */
int fb_anatomy_at(const fb_anatomy *anatomy, const double position_mm[3], double signal[FB_MODALITIES], uint8_t *label);
