/* SPDX-License-Identifier: Apache-2.0 */
#include "nifti.h"

#include "core/mem.h"
#include "nifti_header.h"

#include <errno.h>
#include <math.h>
#include <nifti1.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

enum {
    DEFLATE_RATIO_MAX = 1032, /* of the deflate format: bytes that one byte can hold */
    CHUNK_BYTES = 1 << 16
};

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

static double value_at(const unsigned char *raw, int datatype, int64_t i)
{
    union {
        int16_t i16;
        uint16_t u16;
        int32_t i32;
        float f32;
        double f64;
    } value;
    switch (datatype) {
    case DT_UINT8:
        return raw[i];
    case DT_INT16:
        memcpy(&value, raw + 2 * i, 2);
        return value.i16;
    case DT_UINT16:
        memcpy(&value, raw + 2 * i, 2);
        return value.u16;
    case DT_INT32:
        memcpy(&value, raw + 4 * i, 4);
        return value.i32;
    case DT_FLOAT32:
        memcpy(&value, raw + 4 * i, 4);
        return (double)value.f32;
    default:
        FB_ASSERT(datatype == DT_FLOAT64);
        memcpy(&value, raw + 8 * i, 8);
        return value.f64;
    }
}

static fb_status read_voxels(source *in, const fb_nifti_header *header, float *data)
{
    unsigned char raw[CHUNK_BYTES];
    const size_t bytes = (size_t)header->type_bytes;
    const int64_t per_chunk = CHUNK_BYTES / header->type_bytes;
    for (int64_t first = 0; first < header->voxels; first += per_chunk) {
        const int64_t count = header->voxels - first < per_chunk ? header->voxels - first : per_chunk;
        FB_TRY(source_read(in, raw, (size_t)count * bytes, "voxels"));
        if (header->swapped)
            fb_nifti_swap(raw, bytes, count);
        for (int64_t i = 0; i < count; i++) {
            const int64_t voxel = first + i, row = voxel / header->shape[2];
            data[voxel] = (float)(value_at(raw, header->datatype, i) * header->slope + header->shift);
            if (!isfinite(data[voxel]))
                return FB_FAIL("%s: voxel (%lld, %lld, %lld) in x, y, z is not finite", in->path,
                               (long long)(voxel % header->shape[2]), (long long)(row % header->shape[1]),
                               (long long)(row / header->shape[1]));
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
    unsigned char bytes[FB_NIFTI_HEADER_BYTES];
    fb_nifti_header header;
    FB_TRY(source_read(in, bytes, sizeof bytes, "header"));
    FB_TRY(fb_nifti_header_parse(in->path, bytes, &header));
    const int64_t total_bytes = header.data_offset + header.voxels * header.type_bytes;
    FB_TRY(check_size(in, total_bytes));
    memcpy(nifti->shape, header.shape, sizeof nifti->shape);
    memcpy(nifti->affine, header.affine, sizeof nifti->affine);
    memcpy(nifti->spacing_mm, header.spacing_mm, sizeof nifti->spacing_mm);
    FB_TRY(FB_ALLOC(nifti->data, header.voxels, in->path));
    FB_TRY(skip(in, header.data_offset - FB_NIFTI_HEADER_BYTES));
    FB_TRY(read_voxels(in, &header, nifti->data));
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
