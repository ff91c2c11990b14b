/* SPDX-License-Identifier: Apache-2.0
 *
 * Synthetic subjects in the likeness of BraTS 2018: the 13 sites of Li et al. 2019 with their sizes and grades, a
 * scanner of its own for each site, and a head with a tumour for each subject. A made-up learning problem, not a model
 * of disease.
 *
 * The field of view is 240 x 240 x 155 mm at every shape, so a coarse grid has large voxels: 32 x 32 x 32 has 4.84
 * x 7.5 x 7.5 mm (D, H, W). A subject is a function of (seed, site, its number within the site, shape): the other
 * subjects, the scale and the threads do not matter.
 */
#pragma once

#include "core/status.h"
#include "phantom_anatomy.h"

#include <stdint.h>

enum { FB_PHANTOM_SITES = 13, FB_PHANTOM_EXTENT_MIN = 32, FB_PHANTOM_EXTENT_MAX = 240 };

typedef struct fb_phantom_site {
    const char *name; /* the prefix in BraTS 2018 */
    int64_t subjects; /* of the paper's 285 */
    int high_grade;   /* all subjects; -1: one in three is low grade */
} fb_phantom_site;

extern const fb_phantom_site fb_phantom_sites[FB_PHANTOM_SITES];

/* Subjects of a site at `scale`: its share of the paper's, rounded up, at least 2. */
int64_t fb_phantom_count(int site, double scale);

/* 1 for HGG, 0 for LGG. `number` counts a site's subjects from 0. */
int fb_phantom_high_grade(int site, int64_t number);

typedef struct fb_phantom {
    int64_t shape[3];              /* D, H, W */
    double affine[3][4];           /* as in BraTS: x to the left, y to the back, z up */
    int16_t *image[FB_MODALITIES]; /* (D, H, W) each, 0 exactly outside the brain; owned */
    uint8_t *label;                /* (D, H, W), 0, 1, 2, 4; owned */
} fb_phantom;

/* Errors: no memory (about 26 bytes per voxel). */
fb_status fb_phantom_create(uint64_t seed, int site, int64_t number, const int64_t shape[3],
                            fb_phantom **out) FB_MUST_USE;
void fb_phantom_destroy(fb_phantom **phantom);
