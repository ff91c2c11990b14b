/* SPDX-License-Identifier: Apache-2.0
 *
 * One case in memory: the four modalities and the label map of a subject.
 */
#pragma once

#include "core/hd.h"
#include "core/status.h"

#include <stdint.h>

enum { FB_MODALITIES = 4, FB_SUBJECT_CHARS = 64 };

/* Channel order of every image in the project (the reference implementation's): t1ce, t1, t2, flair. */
extern const char *const fb_modality_name[FB_MODALITIES];

typedef struct fb_volume {
    char subject[FB_SUBJECT_CHARS];
    int64_t shape[3]; /* D, H, W */
    float *image;     /* (D, H, W, FB_MODALITIES) raw intensities, 0 outside the brain; owned */
    uint8_t *label;   /* (D, H, W) 0, 1 necrotic core, 2 edema, 4 enhancing tumour; owned */
} fb_volume;

fb_status fb_volume_create(const char *subject, const int64_t shape[3], fb_volume **out) FB_MUST_USE;
void fb_volume_destroy(fb_volume **volume);

int64_t fb_volume_voxels(const int64_t shape[3]);

/* Region bits (nn/loss.h) of a BraTS 2018 label: TC = {1, 4}, WT = {1, 2, 4}, ET = {4}. */
FB_HD static inline uint8_t fb_region_bits(uint8_t label)
{
    return label == 1 ? 3 : label == 2 ? 2 : label == 4 ? 7 : 0;
}
