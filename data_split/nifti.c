/* SPDX-License-Identifier: Apache-2.0 */
#include "nifti.h"

#include "core/mem.h"

#include <errno.h>
#include <math.h>
#include <nifti1.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

enum {
    HEADER_BYTES = 348,
    FIRST_DATA_BYTE = 352,    /* header and the four bytes that announce extensions */
    LAST_DATA_BYTE = 1 << 24, /* float32 holds no odd offset above it */
    EXTENT_MAX = 1024,        /* voxels along an axis */
    VOXELS_MAX = 1 << 28,     /* of a volume: 1 GiB as float */
    DEFLATE_RATIO_MAX = 1032, /* of the deflate format: what n bytes can hold at most */
    CHUNK_BYTES = 1 << 16
};

/* --- bytes of a plain or compressed file
 * ------------------------------------------------------------------------------ */

typedef struct source {
    const char *path; /* borrowed */
    FILE *file;
    int64_t size_bytes; /* of the file as it lies on disk */
    int compressed, ended;
    z_stream stream;
    unsigned char input[CHUNK_BYTES];
} source;

static fb_status source_open(source *in, const char *path)
{
    memset(in, 0, sizeof *in);
    in->path = path;
    struct stat info;
    if (stat(path, &info) != 0)
        return FB_FAIL("%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return FB_FAIL("%s: not a regular file", path);
    in->file = fopen(path, "rb");
    if (!in->file)
        return FB_FAIL("%s: cannot open: %s", path, strerror(errno));
    in->size_bytes = info.st_size;
    unsigned char magic[2] = {0, 0};
    in->compressed = fread(magic, 1, 2, in->file) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    rewind(in->file);
    if (in->compressed && inflateInit2(&in->stream, MAX_WBITS + 16) != Z_OK) {
        fclose(in->file);
        return FB_FAIL("%s: out of memory for inflating", path);
    }
    return FB_OK;
}

static void source_close(source *in)
{
    if (in->compressed)
        inflateEnd(&in->stream);
    fclose(in->file);
}

static fb_status refill(source *in)
{
    in->stream.next_in = in->input;
    in->stream.avail_in = (uInt)fread(in->input, 1, sizeof in->input, in->file);
    if (ferror(in->file))
        return FB_FAIL("%s: cannot read: %s", in->path, strerror(errno));
    return FB_OK;
}

/* Goes on after the end of a gzip member, whose CRC and length zlib has checked by then: files may hold several. */
static fb_status next_member(source *in)
{
    if (in->stream.avail_in == 0)
        FB_TRY(refill(in));
    if (in->stream.avail_in == 0)
        in->ended = 1;
    else if (inflateReset(&in->stream) != Z_OK)
        return FB_FAIL("%s: cannot go on inflating", in->path);
    return FB_OK;
}

static fb_status inflate_some(source *in, void *out, size_t wanted, size_t *got)
{
    in->stream.next_out = out;
    in->stream.avail_out = (uInt)wanted;
    while (in->stream.avail_out > 0 && !in->ended) {
        if (in->stream.avail_in == 0)
            FB_TRY(refill(in));
        if (in->stream.avail_in == 0)
            return FB_FAIL("%s: the gzip stream is cut off after %lld bytes; copy the file again", in->path,
                           (long long)in->size_bytes);
        const int rc = inflate(&in->stream, Z_NO_FLUSH);
        if (rc == Z_STREAM_END)
            FB_TRY(next_member(in));
        else if (rc != Z_OK)
            return FB_FAIL("%s: the gzip stream is damaged (%s); copy the file again", in->path,
                           in->stream.msg ? in->stream.msg : zError(rc));
    }
    *got = wanted - in->stream.avail_out;
    return FB_OK;
}

/* Reads up to `wanted` (<= CHUNK_BYTES) bytes; fewer only at the end of the data. */
static fb_status source_some(source *in, void *out, size_t wanted, size_t *got)
{
    if (in->compressed)
        return inflate_some(in, out, wanted, got);
    *got = fread(out, 1, wanted, in->file);
    if (ferror(in->file))
        return FB_FAIL("%s: cannot read: %s", in->path, strerror(errno));
    return FB_OK;
}

static fb_status source_read(source *in, void *out, size_t wanted, const char *what)
{
    size_t got = 0;
    FB_TRY(source_some(in, out, wanted, &got));
    if (got != wanted)
        return FB_FAIL("%s: ends inside the %s; copy the file again", in->path, what);
    return FB_OK;
}

/* Also drives a gzip stream through its trailer, so that its CRC is checked. */
static fb_status source_expect_end(source *in, int64_t data_bytes)
{
    unsigned char extra;
    size_t got = 0;
    FB_TRY(source_some(in, &extra, 1, &got));
    if (got != 0)
        return FB_FAIL("%s: holds more bytes than the %lld that its header announces", in->path, (long long)data_bytes);
    return FB_OK;
}

/* --- header
 * ------------------------------------------------------------------------------------------------------------- */

static void swap_bytes(void *data, size_t width, int64_t count)
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
    swap_bytes(header->dim, sizeof header->dim[0], 8);
    swap_bytes(&header->datatype, sizeof header->datatype, 1);
    swap_bytes(&header->bitpix, sizeof header->bitpix, 1);
    swap_bytes(header->pixdim, sizeof header->pixdim[0], 8);
    swap_bytes(&header->vox_offset, sizeof header->vox_offset, 1);
    swap_bytes(&header->scl_slope, sizeof header->scl_slope, 1);
    swap_bytes(&header->scl_inter, sizeof header->scl_inter, 1);
    swap_bytes(&header->qform_code, sizeof header->qform_code, 1);
    swap_bytes(&header->sform_code, sizeof header->sform_code, 1);
    swap_bytes(&header->quatern_b, sizeof header->quatern_b, 6);
    swap_bytes(header->srow_x, sizeof header->srow_x[0], 12);
}

static fb_status check_kind(const char *path, nifti_1_header *header, int *swapped)
{
    const int native_bytes = header->sizeof_hdr;
    swap_bytes(&header->sizeof_hdr, sizeof header->sizeof_hdr, 1);
    *swapped = header->sizeof_hdr == HEADER_BYTES;
    if (native_bytes == 540 || header->sizeof_hdr == 540)
        return FB_FAIL("%s: is NIfTI-2; convert it to NIfTI-1", path);
    if (native_bytes != HEADER_BYTES && !*swapped)
        return FB_FAIL("%s: not a NIfTI-1 file: header size %d, expected %d", path, native_bytes, HEADER_BYTES);
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
        if (extent < 1 || extent > EXTENT_MAX)
            return FB_FAIL("%s: dim[%d] is %d, expected 1..%d", path, axis, extent, EXTENT_MAX);
        *voxels *= extent;
    }
    if (*voxels > VOXELS_MAX)
        return FB_FAIL("%s: %lld voxels exceed the limit of %d", path, (long long)*voxels, VOXELS_MAX);
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
    if (!(offset >= FIRST_DATA_BYTE && offset <= LAST_DATA_BYTE) || offset != floorf(offset))
        return FB_FAIL("%s: vox_offset is %g, expected a whole number in %d..%d", path, (double)offset, FIRST_DATA_BYTE,
                       LAST_DATA_BYTE);
    const int units = XYZT_TO_SPACE(header->xyzt_units);
    if (units != NIFTI_UNITS_UNKNOWN && units != NIFTI_UNITS_MM)
        return FB_FAIL("%s: xyzt_units names length unit %d, expected 2 (mm) or 0", path, units);
    return FB_OK;
}

/* Nothing is allocated for a file that cannot hold what its header announces, so memory stays in proportion to it. */
static fb_status check_size(const source *in, int64_t total_bytes)
{
    if (!in->compressed && in->size_bytes != total_bytes)
        return FB_FAIL("%s: has %lld bytes, but its header announces %lld; copy the file again", in->path,
                       (long long)in->size_bytes, (long long)total_bytes);
    if (in->compressed && total_bytes / DEFLATE_RATIO_MAX > in->size_bytes)
        return FB_FAIL("%s: %lld compressed bytes cannot hold the %lld that the header announces", in->path,
                       (long long)in->size_bytes, (long long)total_bytes);
    return FB_OK;
}

/* --- affine
 * ------------------------------------------------------------------------------------------------------------- */

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

static fb_status set_affine(const char *path, const nifti_1_header *header, fb_nifti *nifti)
{
    FB_TRY(read_affine(path, header, nifti->affine));
    for (int row = 0; row < 3; row++) {
        for (int column = 0; column < 4; column++) {
            if (!isfinite(nifti->affine[row][column]))
                return FB_FAIL("%s: affine[%d][%d] is %g, expected a finite number", path, row, column,
                               nifti->affine[row][column]);
        }
    }
    if (fabs(determinant(nifti->affine)) < 1e-9) /* mm^3; a cubic micrometre */
        return FB_FAIL("%s: the affine is singular: it gives voxels no volume", path);
    for (int axis = 0; axis < 3; axis++)
        nifti->spacing_mm[axis] =
            sqrt(pow(nifti->affine[0][axis], 2) + pow(nifti->affine[1][axis], 2) + pow(nifti->affine[2][axis], 2));
    return FB_OK;
}

/* --- voxels
 * ------------------------------------------------------------------------------------------------------------- */

static double value_at(const unsigned char *raw, int datatype, int64_t i)
{
    union {
        int16_t i16;
        uint16_t u16;
        int32_t i32;
        float f32;
        double f64;
    } value;
    const size_t bytes = (size_t)type_bytes(datatype);
    if (datatype == DT_UINT8)
        return raw[i];
    memcpy(&value, raw + (size_t)i * bytes, bytes);
    switch (datatype) {
    case DT_INT16:
        return value.i16;
    case DT_UINT16:
        return value.u16;
    case DT_INT32:
        return value.i32;
    case DT_FLOAT32:
        return (double)value.f32;
    default:
        return value.f64;
    }
}

static fb_status read_voxels(source *in, const nifti_1_header *header, int swapped, int64_t voxels, fb_nifti *nifti)
{
    unsigned char raw[CHUNK_BYTES];
    const size_t bytes = (size_t)type_bytes(header->datatype);
    const double slope = header->scl_slope != 0.0f ? (double)header->scl_slope : 1.0; /* 0: not scaled, says NIfTI-1 */
    const double shift = header->scl_slope != 0.0f ? (double)header->scl_inter : 0.0;
    const int64_t per_chunk = (int64_t)(sizeof raw / bytes);
    for (int64_t first = 0; first < voxels; first += per_chunk) {
        const int64_t count = voxels - first < per_chunk ? voxels - first : per_chunk;
        FB_TRY(source_read(in, raw, (size_t)count * bytes, "voxels"));
        if (swapped)
            swap_bytes(raw, bytes, count);
        for (int64_t i = 0; i < count; i++) {
            const float value = (float)(value_at(raw, header->datatype, i) * slope + shift);
            if (!isfinite(value))
                return FB_FAIL("%s: voxel (%lld, %lld, %lld) in x, y, z is not finite", in->path,
                               (long long)((first + i) % header->dim[1]),
                               (long long)((first + i) / header->dim[1] % header->dim[2]),
                               (long long)((first + i) / header->dim[1] / header->dim[2]));
            nifti->data[first + i] = value;
        }
    }
    return FB_OK;
}

static fb_status skip(source *in, int64_t count)
{
    unsigned char ignored[CHUNK_BYTES];
    for (int64_t left = count; left > 0; left -= CHUNK_BYTES)
        FB_TRY(source_read(in, ignored, left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES, "header extensions"));
    return FB_OK;
}

static fb_status read_open(source *in, fb_nifti *nifti)
{
    nifti_1_header header;
    int swapped = 0;
    int64_t voxels = 0;
    FB_TRY(source_read(in, &header, HEADER_BYTES, "header"));
    FB_TRY(check_kind(in->path, &header, &swapped));
    FB_TRY(check_shape(in->path, &header, &voxels));
    FB_TRY(check_values(in->path, &header));
    FB_TRY(set_affine(in->path, &header, nifti));
    const int64_t total_bytes = (int64_t)header.vox_offset + voxels * type_bytes(header.datatype);
    FB_TRY(check_size(in, total_bytes));
    for (int axis = 0; axis < 3; axis++)
        nifti->shape[axis] = header.dim[3 - axis];
    FB_TRY(FB_ALLOC(nifti->data, voxels, in->path));
    FB_TRY(skip(in, (int64_t)header.vox_offset - HEADER_BYTES));
    FB_TRY(read_voxels(in, &header, swapped, voxels, nifti));
    return source_expect_end(in, total_bytes);
}

fb_status fb_nifti_read(const char *path, fb_nifti **out)
{
    *out = NULL;
    fb_nifti *nifti = NULL;
    source in;
    FB_TRY(source_open(&in, path));
    fb_status status = FB_ALLOC(nifti, 1, path);
    if (status == FB_OK)
        status = read_open(&in, nifti);
    source_close(&in);
    if (status != FB_OK)
        fb_nifti_free(&nifti);
    *out = nifti;
    return status;
}

void fb_nifti_free(fb_nifti **nifti)
{
    if (*nifti)
        FB_FREE((*nifti)->data);
    FB_FREE(*nifti);
}
