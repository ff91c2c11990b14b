/* SPDX-License-Identifier: Apache-2.0 */
#include "nifti_header.h"

#include <math.h>
#include <nifti1.h>
#include <string.h>

void fb_nifti_swap(void *data, size_t width, int64_t count)
{
    unsigned char *element = data;
    for (int64_t i = 0; i < count; i++, element += width) {
        for (size_t low = 0, high = width - 1; low < high; low++, high--) {
            const unsigned char moved = element[low];
            element[low] = element[high];
            element[high] = moved;
        }
    }
}

/* Only the fields that are used below. */
static void swap_header(nifti_1_header *header)
{
    fb_nifti_swap(header->dim, sizeof header->dim[0], 8);
    fb_nifti_swap(&header->datatype, sizeof header->datatype, 1);
    fb_nifti_swap(&header->bitpix, sizeof header->bitpix, 1);
    fb_nifti_swap(header->pixdim, sizeof header->pixdim[0], 8);
    fb_nifti_swap(&header->vox_offset, sizeof header->vox_offset, 1);
    fb_nifti_swap(&header->scl_slope, sizeof header->scl_slope, 1);
    fb_nifti_swap(&header->scl_inter, sizeof header->scl_inter, 1);
    fb_nifti_swap(&header->qform_code, sizeof header->qform_code, 1);
    fb_nifti_swap(&header->sform_code, sizeof header->sform_code, 1);
    fb_nifti_swap(&header->quatern_b, sizeof header->quatern_b, 6);
    fb_nifti_swap(header->srow_x, sizeof header->srow_x[0], 12);
}

static fb_status check_kind(const char *path, nifti_1_header *header, int *swapped)
{
    const int native_bytes = header->sizeof_hdr;
    fb_nifti_swap(&header->sizeof_hdr, sizeof header->sizeof_hdr, 1);
    *swapped = header->sizeof_hdr == FB_NIFTI_HEADER_BYTES;
    if (native_bytes == 540 || header->sizeof_hdr == 540)
        return FB_FAIL("%s: is NIfTI-2; convert it to NIfTI-1", path);
    if (native_bytes != FB_NIFTI_HEADER_BYTES && !*swapped)
        return FB_FAIL("%s: not a NIfTI-1 file: header size %d, expected %d", path, native_bytes,
                       FB_NIFTI_HEADER_BYTES);
    if (memcmp(header->magic, "ni1", 4) == 0)
        return FB_FAIL("%s: is one half of a .hdr/.img pair; convert it to a single .nii", path);
    if (memcmp(header->magic, "n+1", 4) != 0)
        return FB_FAIL("%s: not a NIfTI-1 file: its magic is not \"n+1\"", path);
    if (*swapped)
        swap_header(header);
    return FB_OK;
}

static fb_status check_shape(const char *path, const nifti_1_header *header, int64_t *voxels)
{
    const int axes = header->dim[0];
    if (axes < 3 || axes > 7)
        return FB_FAIL("%s: dim[0] is %d, expected 3..7", path, axes);
    *voxels = 1;
    for (int axis = 1; axis <= axes; axis++) {
        const int extent = header->dim[axis];
        if (axis > 3 && extent != 1)
            return FB_FAIL("%s: dim[%d] is %d, expected 1: only volumes of three dimensions are read", path, axis,
                           extent);
        if (extent < 1 || extent > FB_NIFTI_EXTENT_MAX)
            return FB_FAIL("%s: dim[%d] is %d, expected 1..%d", path, axis, extent, FB_NIFTI_EXTENT_MAX);
        *voxels *= extent;
    }
    if (*voxels > FB_NIFTI_VOXELS_MAX)
        return FB_FAIL("%s: %lld voxels exceed the limit of %d", path, (long long)*voxels, FB_NIFTI_VOXELS_MAX);
    return FB_OK;
}

static int type_bytes(int datatype)
{
    switch (datatype) {
    case DT_UINT8:
        return 1;
    case DT_INT16:
    case DT_UINT16:
        return 2;
    case DT_INT32:
    case DT_FLOAT32:
        return 4;
    case DT_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static fb_status check_values(const char *path, const nifti_1_header *header)
{
    const int bytes = type_bytes(header->datatype);
    if (bytes == 0)
        return FB_FAIL("%s: datatype %d is not one of 2 (uint8), 4 (int16), 8 (int32), 16 (float32), 64 (float64), "
                       "512 (uint16)",
                       path, header->datatype);
    if (header->bitpix != 8 * bytes)
        return FB_FAIL("%s: bitpix is %d, but datatype %d has %d bits", path, header->bitpix, header->datatype,
                       8 * bytes);
    if (!isfinite(header->scl_slope) || !isfinite(header->scl_inter))
        return FB_FAIL("%s: scl_slope %g, scl_inter %g: expected finite numbers", path, (double)header->scl_slope,
                       (double)header->scl_inter);
    const float offset = header->vox_offset;
    if (!(offset >= FB_NIFTI_DATA_OFFSET && offset <= FB_NIFTI_DATA_OFFSET_MAX) || offset != floorf(offset))
        return FB_FAIL("%s: vox_offset is %g, expected a whole number in %d..%d", path, (double)offset,
                       FB_NIFTI_DATA_OFFSET, FB_NIFTI_DATA_OFFSET_MAX);
    const int units = XYZT_TO_SPACE(header->xyzt_units);
    if (units != NIFTI_UNITS_UNKNOWN && units != NIFTI_UNITS_MM)
        return FB_FAIL("%s: xyzt_units names length unit %d, expected 2 (mm) or 0", path, units);
    return FB_OK;
}

static fb_status affine_of_qform(const char *path, const nifti_1_header *header, double affine[3][4])
{
    const double b = header->quatern_b, c = header->quatern_c, d = header->quatern_d;
    const double squares = b * b + c * c + d * d;
    if (!(squares <= 1.0 + 1e-5)) /* float32 rounding of a half turn is below 1e-6 */
        return FB_FAIL("%s: the quaternion (%g, %g, %g) of its qform is longer than 1", path, b, c, d);
    const double a = sqrt(fmax(0.0, 1.0 - squares));
    const double rotation[3][3] = {
        {a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)},
        {2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)},
        {2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c},
    };
    const double shift[3] = {header->qoffset_x, header->qoffset_y, header->qoffset_z};
    for (int row = 0; row < 3; row++) {
        for (int axis = 0; axis < 3; axis++) {
            const double mirror = axis == 2 && header->pixdim[0] < 0.0f ? -1.0 : 1.0;
            affine[row][axis] = rotation[row][axis] * mirror * (double)header->pixdim[axis + 1];
        }
        affine[row][3] = shift[row];
    }
    return FB_OK;
}

static fb_status read_affine(const char *path, const nifti_1_header *header, double affine[3][4])
{
    const float *rows[3] = {header->srow_x, header->srow_y, header->srow_z};
    for (int row = 0; row < 3; row++) {
        for (int column = 0; column < 4; column++)
            affine[row][column] = (double)rows[row][column];
    }
    if (header->sform_code > 0)
        return FB_OK;
    for (int axis = 0; axis < 3; axis++) {
        if (!(header->pixdim[axis + 1] > 0.0f))
            return FB_FAIL("%s: pixdim[%d] is %g, expected a voxel size above 0 mm", path, axis + 1,
                           (double)header->pixdim[axis + 1]);
    }
    if (header->qform_code > 0)
        return affine_of_qform(path, header, affine);
    memset(affine, 0, sizeof(double[3][4]));
    for (int axis = 0; axis < 3; axis++)
        affine[axis][axis] = (double)header->pixdim[axis + 1];
    return FB_OK;
}

static double determinant(double affine[3][4])
{
    const double(*a)[4] = (const double(*)[4])affine;
    return a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0]) +
           a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
}

static fb_status set_affine(const char *path, const nifti_1_header *header, fb_nifti_header *out)
{
    FB_TRY(read_affine(path, header, out->affine));
    for (int row = 0; row < 3; row++) {
        for (int column = 0; column < 4; column++) {
            if (!isfinite(out->affine[row][column]))
                return FB_FAIL("%s: affine[%d][%d] is %g, expected a finite number", path, row, column,
                               out->affine[row][column]);
        }
    }
    if (fabs(determinant(out->affine)) < 1e-9) /* mm^3; a cubic micrometre */
        return FB_FAIL("%s: the affine is singular: it gives voxels no volume", path);
    for (int axis = 0; axis < 3; axis++)
        out->spacing_mm[axis] =
            sqrt(pow(out->affine[0][axis], 2) + pow(out->affine[1][axis], 2) + pow(out->affine[2][axis], 2));
    return FB_OK;
}

fb_status fb_nifti_header_parse(const char *path, const void *bytes, fb_nifti_header *out)
{
    nifti_1_header header;
    memcpy(&header, bytes, FB_NIFTI_HEADER_BYTES);
    memset(out, 0, sizeof *out);
    FB_TRY(check_kind(path, &header, &out->swapped));
    FB_TRY(check_shape(path, &header, &out->voxels));
    FB_TRY(check_values(path, &header));
    FB_TRY(set_affine(path, &header, out));
    for (int axis = 0; axis < 3; axis++)
        out->shape[axis] = header.dim[3 - axis];
    out->data_offset = (int64_t)header.vox_offset;
    out->datatype = header.datatype;
    out->type_bytes = type_bytes(header.datatype);
    out->slope = header.scl_slope != 0.0f ? (double)header.scl_slope : 1.0; /* 0: not scaled, says NIfTI-1 */
    out->shift = header.scl_slope != 0.0f ? (double)header.scl_inter : 0.0;
    return FB_OK;
}
