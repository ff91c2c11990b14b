/* SPDX-License-Identifier: Apache-2.0
 *
 * The NIfTI-1 header: its limits, and a parser that lets nothing through that nifti.h refuses. Private to nifti*.c.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

enum {
    FB_NIFTI_HEADER_BYTES = 348,
    FB_NIFTI_DATA_OFFSET = 352,         /* header and the four bytes that announce extensions */
    FB_NIFTI_DATA_OFFSET_MAX = 1 << 24, /* float32 holds no odd offset above it */
    FB_NIFTI_EXTENT_MAX = 1024,         /* voxels along an axis */
    FB_NIFTI_VOXELS_MAX = 1 << 28       /* of a volume: 1 GiB as float */
};

typedef struct fb_nifti_header {
    int64_t shape[3]; /* D, H, W */
    int64_t voxels;
    int64_t data_offset;
    int datatype, type_bytes;
    int swapped;         /* the file has the other byte order */
    double slope, shift; /* value = stored * slope + shift */
    double affine[3][4];
    double spacing_mm[3];
} fb_nifti_header;

/* `bytes`: the first FB_NIFTI_HEADER_BYTES of `path`, which only names the file in errors. */
fb_status fb_nifti_header_parse(const char *path, const void *bytes, fb_nifti_header *out) FB_MUST_USE;

/* Reverses the bytes of each of `count` elements of `width` bytes. */
void fb_nifti_swap(void *data, size_t width, int64_t count);
