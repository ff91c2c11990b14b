/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict reading and writing of NIfTI-1 volumes (.nii, .nii.gz). The header layout comes from niftilib's nifti1.h; the
 * reading is ours because niftilib 3.0.1 accepts truncated files and fills the rest with zeros, accepts NaN offsets,
 * and allocates whatever the header says (measured).
 *
 * Refused, with file, field, value and limit: wrong magic or header size, more than 3 dimensions of extent > 1, extents
 * outside 1..1024, more than 2^28 voxels, datatypes other than uint8, int16, int32, uint16, float32, float64, bitpix
 * that does not match, offset not an integer >= 352, slope, intercept or affine not finite, fewer or more bytes than
 * the header says (a gzip stream is inflated one byte further, never more), a damaged gzip stream, non-finite voxels.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef enum fb_nifti_type { FB_NIFTI_UINT8 = 2, FB_NIFTI_INT16 = 4, FB_NIFTI_FLOAT32 = 16 } fb_nifti_type;

typedef struct fb_nifti {
    int64_t shape[3];    /* D, H, W: nz, ny, nx of the file, so that x is fastest in memory */
    double affine[3][4]; /* voxel (x, y, z) -> mm: sform if its code is > 0, else qform, else the voxel sizes */
    double spacing_mm[3];
    float *data; /* (D, H, W) values with slope and intercept applied; owned */
} fb_nifti;

fb_status fb_nifti_read(const char *path, fb_nifti **out) FB_MUST_USE;
void fb_nifti_free(fb_nifti **nifti);

/* Writes data (shape) of `type` (uint8_t, int16_t or float elements) with the affine as sform and qform code 1; the
 * file is compressed when its name ends in .gz (level 1..9; 0: zlib's default). Atomic: PATH.tmp, then rename. */
fb_status fb_nifti_write(const char *path, const int64_t shape[3], const double affine[3][4], fb_nifti_type type,
                         const void *data, int level) FB_MUST_USE;
