/* SPDX-License-Identifier: Apache-2.0 */
#include "nifti.h"

#include "core/file.h"
#include "nifti_header.h"

#include <errno.h>
#include <math.h>
#include <nifti1.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static int64_t type_bytes(fb_nifti_type type)
{
    return type == FB_NIFTI_UINT8 ? 1 : type == FB_NIFTI_INT16 ? 2 : 4;
}

static fb_status check(const char *path, const int64_t shape[3], const double affine[3][4], fb_nifti_type type,
                       const void *data, int64_t *voxels)
{
    *voxels = 1;
    for (int axis = 0; axis < 3; axis++) {
        if (shape[axis] < 1 || shape[axis] > FB_NIFTI_EXTENT_MAX)
            return FB_FAIL("%s: cannot write %lld x %lld x %lld voxels: each extent must be in 1..%d", path,
                           (long long)shape[0], (long long)shape[1], (long long)shape[2], FB_NIFTI_EXTENT_MAX);
        *voxels *= shape[axis];
        for (int column = 0; column < 4; column++) {
            if (!isfinite(affine[axis][column]))
                return FB_FAIL("%s: cannot write an affine with %g in it", path, affine[axis][column]);
        }
    }
    if (*voxels > FB_NIFTI_VOXELS_MAX)
        return FB_FAIL("%s: cannot write %lld voxels: the limit is %d", path, (long long)*voxels, FB_NIFTI_VOXELS_MAX);
    const float *value = type == FB_NIFTI_FLOAT32 ? data : NULL;
    for (int64_t i = 0; value && i < *voxels; i++) {
        if (!isfinite(value[i]))
            return FB_FAIL("%s: cannot write: voxel %lld is %g", path, (long long)i, (double)value[i]);
    }
    return FB_OK;
}

/* The rotation as a quaternion (Shepperd's choice of the largest component keeps the square root away from 0). */
static void quaternion_of(double r[3][3], double q[4])
{
    const double squares[4] = {1 + r[0][0] + r[1][1] + r[2][2], 1 + r[0][0] - r[1][1] - r[2][2],
                               1 - r[0][0] + r[1][1] - r[2][2], 1 - r[0][0] - r[1][1] + r[2][2]};
    const double products[4][4] = {
        {squares[0], r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]},
        {r[2][1] - r[1][2], squares[1], r[1][0] + r[0][1], r[0][2] + r[2][0]},
        {r[0][2] - r[2][0], r[1][0] + r[0][1], squares[2], r[2][1] + r[1][2]},
        {r[1][0] - r[0][1], r[0][2] + r[2][0], r[2][1] + r[1][2], squares[3]},
    };
    int best = 0;
    for (int i = 1; i < 4; i++)
        best = squares[i] > squares[best] ? i : best;
    const double sign = products[best][0] < 0 ? -1.0 : 1.0; /* q and -q are one rotation; NIfTI wants q[0] >= 0 */
    for (int i = 0; i < 4; i++)
        q[i] = sign * products[best][i] / (2.0 * sqrt(squares[best]));
}

/* A quaternion holds no shear: with one, qform_code stays 0 and readers take the sform. */
static void set_qform(nifti_1_header *header, const double affine[3][4])
{
    double rotation[3][3], quaternion[4], cross[3], dot = 0.0;
    for (int axis = 0; axis < 3; axis++) {
        const double length = sqrt(pow(affine[0][axis], 2) + pow(affine[1][axis], 2) + pow(affine[2][axis], 2));
        header->pixdim[axis + 1] = (float)length;
        for (int row = 0; row < 3; row++)
            rotation[row][axis] = length > 0.0 ? affine[row][axis] / length : 0.0;
    }
    for (int i = 0; i < 3; i++)
        cross[i] =
            rotation[(i + 1) % 3][0] * rotation[(i + 2) % 3][1] - rotation[(i + 2) % 3][0] * rotation[(i + 1) % 3][1];
    for (int i = 0; i < 3; i++)
        dot += cross[i] * rotation[i][2];
    header->pixdim[0] = dot < 0.0 ? -1.0f : 1.0f;
    if (fabs(fabs(dot) - 1.0) > 1e-6)
        return;
    for (int row = 0; row < 3; row++)
        rotation[row][2] *= (double)header->pixdim[0];
    quaternion_of(rotation, quaternion);
    header->qform_code = NIFTI_XFORM_SCANNER_ANAT;
    header->quatern_b = (float)quaternion[1];
    header->quatern_c = (float)quaternion[2];
    header->quatern_d = (float)quaternion[3];
    header->qoffset_x = (float)affine[0][3];
    header->qoffset_y = (float)affine[1][3];
    header->qoffset_z = (float)affine[2][3];
}

static void make_header(const int64_t shape[3], const double affine[3][4], fb_nifti_type type, nifti_1_header *header)
{
    memset(header, 0, sizeof *header); /* every byte is defined: nothing of this process leaks into the file */
    header->sizeof_hdr = FB_NIFTI_HEADER_BYTES;
    header->regular = 'r';
    header->dim[0] = 3;
    for (int axis = 1; axis < 8; axis++)
        header->dim[axis] = (short)(axis <= 3 ? shape[3 - axis] : 1);
    header->datatype = (short)type;
    header->bitpix = (short)(8 * type_bytes(type));
    header->vox_offset = FB_NIFTI_DATA_OFFSET;
    header->scl_slope = 1.0f;
    header->xyzt_units = NIFTI_UNITS_MM;
    header->sform_code = NIFTI_XFORM_SCANNER_ANAT;
    for (int column = 0; column < 4; column++) {
        header->srow_x[column] = (float)affine[0][column];
        header->srow_y[column] = (float)affine[1][column];
        header->srow_z[column] = (float)affine[2][column];
    }
    set_qform(header, affine);
    memcpy(header->magic, "n+1", 4);
}

static int ends_with_gz(const char *path)
{
    const size_t chars = strlen(path);
    return chars >= 3 && strcmp(path + chars - 3, ".gz") == 0;
}

/* zlib writes plain files too (mode T), so that both kinds share one path. */
static fb_status write_bytes(const char *path, const char *mode, const nifti_1_header *header, const void *data,
                             int64_t data_bytes)
{
    const char no_extension[4] = {0, 0, 0, 0};
    errno = 0;
    gzFile file = gzopen(path, mode);
    if (!file)
        return FB_FAIL("%s: cannot create: %s", path, errno ? strerror(errno) : "out of memory");
    gzbuffer(file, 1 << 17);
    const int complete = gzwrite(file, header, FB_NIFTI_HEADER_BYTES) == FB_NIFTI_HEADER_BYTES &&
                         gzwrite(file, no_extension, 4) == 4 &&
                         gzwrite(file, data, (unsigned)data_bytes) == (int)data_bytes;
    const int write_errno = errno;
    if (gzclose(file) != Z_OK || !complete)
        return FB_FAIL("%s: cannot write %lld bytes: %s", path, (long long)data_bytes,
                       strerror(complete ? errno : write_errno));
    return FB_OK;
}

fb_status fb_nifti_write(const char *path, const int64_t shape[3], const double affine[3][4], fb_nifti_type type,
                         const void *data, int level)
{
    FB_ASSERT(type == FB_NIFTI_UINT8 || type == FB_NIFTI_INT16 || type == FB_NIFTI_FLOAT32);
    FB_ASSERT(level >= 0 && level <= 9);
    char temporary[FB_PATH_CHARS], mode[8] = "wbT";
    int64_t voxels = 0;
    nifti_1_header header;
    FB_TRY(check(path, shape, affine, type, data, &voxels));
    const int chars = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (chars < 0 || (size_t)chars >= sizeof temporary)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 5);
    if (ends_with_gz(path))
        snprintf(mode, sizeof mode, level > 0 ? "wb%d" : "wb", level);
    make_header(shape, affine, type, &header);
    fb_status status = write_bytes(temporary, mode, &header, data, voxels * type_bytes(type));
    if (status == FB_OK)
        status = fb_file_commit(temporary, path);
    if (status != FB_OK)
        unlink(temporary);
    return status;
}
