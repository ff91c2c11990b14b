/* SPDX-License-Identifier: Apache-2.0
 *
 * The NIfTI-1 header. What is accepted keeps the limits of nifti.h, and means the same in the other byte order.
 */
#include "fuzz.h"

#include "nifti_header.h"

#include <math.h>
#include <nifti1.h>

typedef struct field {
    size_t offset, width;
    int64_t count;
} field;

#define FIELD(name, length)                                                                                            \
    {                                                                                                                  \
        offsetof(nifti_1_header, name), sizeof(((nifti_1_header *)NULL)->name) / (length), (length)                    \
    }

/* Every field of more than a byte that the parser looks at. */
static const field fields[] = {
    FIELD(sizeof_hdr, 1), FIELD(dim, 8),       FIELD(datatype, 1),  FIELD(bitpix, 1),     FIELD(pixdim, 8),
    FIELD(vox_offset, 1), FIELD(scl_slope, 1), FIELD(scl_inter, 1), FIELD(qform_code, 1), FIELD(sform_code, 1),
    FIELD(quatern_b, 1),  FIELD(quatern_c, 1), FIELD(quatern_d, 1), FIELD(qoffset_x, 1),  FIELD(qoffset_y, 1),
    FIELD(qoffset_z, 1),  FIELD(srow_x, 4),    FIELD(srow_y, 4),    FIELD(srow_z, 4),
};

static void swap_all(unsigned char bytes[FB_NIFTI_HEADER_BYTES])
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        fb_nifti_swap(bytes + fields[i].offset, fields[i].width, fields[i].count);
}

static void check_limits(const fb_nifti_header *header)
{
    int64_t voxels = 1;
    for (int axis = 0; axis < 3; axis++) {
        FB_ASSERT(header->shape[axis] >= 1 && header->shape[axis] <= FB_NIFTI_EXTENT_MAX);
        FB_ASSERT(isfinite(header->spacing_mm[axis]) && header->spacing_mm[axis] > 0.0);
        voxels *= header->shape[axis];
        for (int column = 0; column < 4; column++)
            FB_ASSERT(isfinite((float)header->affine[axis][column]));
    }
    FB_ASSERT(header->voxels == voxels && voxels <= FB_NIFTI_VOXELS_MAX);
    FB_ASSERT(header->data_offset >= FB_NIFTI_DATA_OFFSET && header->data_offset <= FB_NIFTI_DATA_OFFSET_MAX);
    FB_ASSERT(header->type_bytes >= 1 && header->type_bytes <= 8);
    FB_ASSERT(isfinite(header->slope) && isfinite(header->shift) && header->slope != 0.0);
}

static void check_same(const fb_nifti_header *a, const fb_nifti_header *b)
{
    FB_ASSERT(a->swapped != b->swapped && a->voxels == b->voxels && a->data_offset == b->data_offset);
    FB_ASSERT(a->datatype == b->datatype && a->type_bytes == b->type_bytes);
    FB_ASSERT(memcmp(a->shape, b->shape, sizeof a->shape) == 0);
    FB_ASSERT(memcmp(&a->slope, &b->slope, sizeof a->slope) == 0);
    FB_ASSERT(memcmp(&a->shift, &b->shift, sizeof a->shift) == 0);
    FB_ASSERT(memcmp(a->affine, b->affine, sizeof a->affine) == 0);
    FB_ASSERT(memcmp(a->spacing_mm, b->spacing_mm, sizeof a->spacing_mm) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    unsigned char bytes[FB_NIFTI_HEADER_BYTES] = {0};
    fb_nifti_header header, other;
    memcpy(bytes, data, size < sizeof bytes ? size : sizeof bytes);
    fb_status status = fb_nifti_header_parse("input", bytes, &header);
    const int accepted = status == FB_OK;
    if (accepted)
        check_limits(&header);
    else
        fuzz_refused(&status);
    swap_all(bytes);
    status = fb_nifti_header_parse("input", bytes, &other);
    FB_ASSERT((status == FB_OK) == accepted);
    if (accepted)
        check_same(&header, &other);
    else
        fuzz_refused(&status);
    return fuzz_end(start, 0);
}
