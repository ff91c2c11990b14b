/* SPDX-License-Identifier: Apache-2.0 */
#include "nifti.h"

#include "core/file.h"
#include "testing.h"

#include <math.h>
#include <nifti1.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { D = 3, H = 4, W = 5, VOXELS = D * H * W, PLAIN_BYTES = 352 + 2 * VOXELS };

static const int64_t shape[3] = {D, H, W};
static const double brats_affine[3][4] = {{-1, 0, 0, 0}, {0, -1, 0, 239}, {0, 0, 1, 0}};
static char folder[] = "/tmp/fb_nifti_XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[FB_PATH_CHARS];
    must(fb_path_join(path, folder, name));
    return path;
}

static void assert_refused(const char *path, const char *reason)
{
    fb_nifti *nifti = NULL;
    fb_status status = fb_nifti_read(path, &nifti);
    must_fail(status, path, reason);
    assert_null(nifti);
}

static void write_bytes(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* The reference file as bytes: int16, voxel i holds i - 30. */
static void make_plain(unsigned char bytes[PLAIN_BYTES])
{
    int16_t data[VOXELS];
    for (int i = 0; i < VOXELS; i++)
        data[i] = (int16_t)(i - 30);
    must(fb_nifti_write(in_folder("plain.nii"), shape, brats_affine, FB_NIFTI_INT16, data, 0));
    char *read = NULL;
    int64_t size = 0;
    must(fb_file_read(in_folder("plain.nii"), 1 << 20, &read, &size));
    assert_int_equal(size, PLAIN_BYTES);
    memcpy(bytes, read, PLAIN_BYTES);
    FB_FREE(read);
}

static void check_round_trip(const char *name, fb_nifti_type type, const void *data, const float *expected)
{
    fb_nifti *nifti = NULL;
    must(fb_nifti_write(in_folder(name), shape, brats_affine, type, data, 6));
    must(fb_nifti_read(in_folder(name), &nifti));
    assert_memory_equal(nifti->shape, shape, sizeof shape);
    assert_memory_equal(nifti->affine, brats_affine, sizeof brats_affine);
    for (int axis = 0; axis < 3; axis++)
        assert_true(nifti->spacing_mm[axis] == 1.0);
    assert_memory_equal(nifti->data, expected, VOXELS * sizeof *expected);
    fb_nifti_free(&nifti);
    assert_null(nifti);
}

static void test_round_trips(void **state)
{
    (void)state;
    uint8_t bytes[VOXELS];
    int16_t shorts[VOXELS];
    float floats[VOXELS], of_bytes[VOXELS], of_shorts[VOXELS];
    for (int i = 0; i < VOXELS; i++) {
        bytes[i] = (uint8_t)(i * 4);
        shorts[i] = (int16_t)(i * 1100 - 32768);
        floats[i] = sinf((float)i) * 1e10f;
        of_bytes[i] = bytes[i];
        of_shorts[i] = shorts[i];
    }
    check_round_trip("a.nii", FB_NIFTI_UINT8, bytes, of_bytes);
    check_round_trip("a.nii.gz", FB_NIFTI_UINT8, bytes, of_bytes);
    check_round_trip("b.nii", FB_NIFTI_INT16, shorts, of_shorts);
    check_round_trip("b.nii.gz", FB_NIFTI_INT16, shorts, of_shorts);
    check_round_trip("c.nii", FB_NIFTI_FLOAT32, floats, floats);
    check_round_trip("c.nii.gz", FB_NIFTI_FLOAT32, floats, floats);
}

static void test_every_datatype_both_byte_orders(void **state)
{
    (void)state;
    const struct {
        int16_t code;
        int bytes;
    } types[] = {{2, 1}, {4, 2}, {8, 4}, {16, 4}, {64, 8}, {512, 2}};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (int swapped = 0; swapped < 2; swapped++) {
            unsigned char file[352 + 8 * VOXELS] = {0};
            unsigned char plain[PLAIN_BYTES];
            make_plain(plain);
            memcpy(file, plain, 352);
            nifti_1_header *header = (nifti_1_header *)(void *)file;
            header->datatype = types[t].code;
            header->bitpix = (int16_t)(8 * types[t].bytes);
            header->scl_slope = 0.5f;
            header->scl_inter = -3.0f;
            for (int i = 0; i < VOXELS; i++) {
                const uint8_t u8 = (uint8_t)i;
                const int16_t i16 = (int16_t)i;
                const int32_t i32 = i;
                const float f32 = (float)i;
                const double f64 = i;
                const void *value[] = {&u8, &i16, &i32, &f32, &f64, &i16};
                memcpy(file + 352 + i * types[t].bytes, value[t], (size_t)types[t].bytes);
            }
            const struct {
                size_t offset, width, count;
            } fields[] = {{0, 4, 1},   {40, 2, 8},  {70, 2, 1},   {72, 2, 1},
                          {76, 4, 8},  {108, 4, 1}, {112, 4, 1},  {116, 4, 1},
                          {252, 2, 2}, {256, 4, 6}, {280, 4, 12}, {352, (size_t)types[t].bytes, VOXELS}};
            for (size_t f = 0; swapped && f < sizeof fields / sizeof *fields; f++) {
                for (size_t i = 0; i < fields[f].count; i++) {
                    unsigned char *field = file + fields[f].offset + i * fields[f].width, copy[8];
                    memcpy(copy, field, fields[f].width);
                    for (size_t b = 0; b < fields[f].width; b++)
                        field[b] = copy[fields[f].width - 1 - b];
                }
            }
            write_bytes(in_folder("typed.nii"), file, (size_t)(352 + types[t].bytes * VOXELS));
            fb_nifti *nifti = NULL;
            must(fb_nifti_read(in_folder("typed.nii"), &nifti));
            assert_memory_equal(nifti->affine, brats_affine, sizeof brats_affine);
            for (int i = 0; i < VOXELS; i++)
                assert_true(nifti->data[i] == (float)(0.5 * i - 3.0));
            fb_nifti_free(&nifti);
        }
    }
}

static void read_changed(const nifti_1_header *header, const unsigned char *plain, fb_nifti **nifti)
{
    unsigned char bytes[PLAIN_BYTES];
    memcpy(bytes, plain, sizeof bytes);
    memcpy(bytes, header, sizeof *header);
    write_bytes(in_folder("changed.nii"), bytes, sizeof bytes);
    must(fb_nifti_read(in_folder("changed.nii"), nifti));
}

static void test_slope_zero_means_unscaled(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES];
    nifti_1_header header;
    fb_nifti *nifti = NULL;
    make_plain(plain);
    memcpy(&header, plain, sizeof header);
    header.scl_slope = 0.0f;
    header.scl_inter = 77.0f;
    read_changed(&header, plain, &nifti);
    assert_true(nifti->data[0] == -30.0f);
    fb_nifti_free(&nifti);
}

/* qform alone must give what the sform gave, for rotations about all axes by angles that reach every branch of the
 * quaternion, with and without mirroring; 1e-5: float32 quaternion times voxel sizes below 4 mm. */
static void test_qform_equals_sform(void **state)
{
    (void)state;
    const int16_t data[VOXELS] = {0};
    for (int trial = 0; trial < 48; trial++) {
        const double a = 0.4 + 3.141592653589793 * (trial % 4) / 2, mirror = trial & 4 ? -1.0 : 1.0;
        const int x = trial % 3, y = (x + 1) % 3;
        double affine[3][4] = {{1.5, 0, 0, -90.5}, {0, 2.5, 0, 126}, {0, 0, 3.5 * mirror, -72}}, turned[3][4];
        memcpy(turned, affine, sizeof turned);
        for (int column = 0; column < 3; column++) {
            turned[x][column] = cos(a) * affine[x][column] - sin(a) * affine[y][column];
            turned[y][column] = sin(a) * affine[x][column] + cos(a) * affine[y][column];
        }
        must(fb_nifti_write(in_folder("plain.nii"), shape, turned, FB_NIFTI_INT16, data, 0));
        char *bytes = NULL;
        int64_t size = 0;
        must(fb_file_read(in_folder("plain.nii"), 1 << 20, &bytes, &size));
        nifti_1_header header;
        memcpy(&header, bytes, sizeof header);
        assert_int_equal(header.qform_code, 1);
        header.sform_code = 0;
        fb_nifti *nifti = NULL;
        read_changed(&header, (unsigned char *)bytes, &nifti);
        for (int i = 0; i < 12; i++)
            assert_float_equal(nifti->affine[i / 4][i % 4], turned[i / 4][i % 4], 1e-5);
        assert_float_equal(nifti->spacing_mm[1], 2.5, 1e-5);
        fb_nifti_free(&nifti);
        header.qform_code = 0;
        read_changed(&header, (unsigned char *)bytes, &nifti);
        assert_true(nifti->affine[2][2] == 3.5 && nifti->affine[0][3] == 0.0);
        fb_nifti_free(&nifti);
        FB_FREE(bytes);
    }
}

static void test_sheared_affine_has_no_qform(void **state)
{
    (void)state;
    const double sheared[3][4] = {{1, 0.5, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}};
    const int16_t data[VOXELS] = {0};
    char *bytes = NULL;
    int64_t size = 0;
    must(fb_nifti_write(in_folder("plain.nii"), shape, sheared, FB_NIFTI_INT16, data, 0));
    must(fb_file_read(in_folder("plain.nii"), 1 << 20, &bytes, &size));
    nifti_1_header header;
    memcpy(&header, bytes, sizeof header);
    assert_int_equal(header.qform_code, 0);
    assert_int_equal(header.sform_code, 1);
    FB_FREE(bytes);
}

/* --- malformed headers: one field of a good file is overwritten --- */

typedef struct fault {
    size_t offset; /* into the header */
    size_t bytes;
    union {
        int16_t i16;
        int32_t i32;
        float f32;
        char text[4];
    } value;
    const char *reason;
} fault;

#define SHORT_AT(field, number)                                                                                        \
    offsetof(nifti_1_header, field), 2,                                                                                \
    {                                                                                                                  \
        .i16 = (number)                                                                                                \
    }
#define FLOAT_AT(field, number)                                                                                        \
    offsetof(nifti_1_header, field), 4,                                                                                \
    {                                                                                                                  \
        .f32 = (number)                                                                                                \
    }

static const fault faults[] = {
    {offsetof(nifti_1_header, sizeof_hdr), 4, {.i32 = 0}, "header size 0"},
    {offsetof(nifti_1_header, sizeof_hdr), 4, {.i32 = 540}, "NIfTI-2"},
    {offsetof(nifti_1_header, magic), 4, {.text = "ni1"}, ".hdr/.img pair"},
    {offsetof(nifti_1_header, magic), 4, {.text = "n+9"}, "magic"},
    {SHORT_AT(dim[0], 200), "dim[0] is 200"},
    {SHORT_AT(dim[0], -1), "dim[0] is -1"},
    {SHORT_AT(dim[0], 2), "dim[0] is 2"},
    {SHORT_AT(dim[0], 8), "dim[0] is 8"},
    {SHORT_AT(dim[1], -5), "dim[1] is -5"},
    {SHORT_AT(dim[1], 0), "dim[1] is 0"},
    {SHORT_AT(dim[3], 1025), "dim[3] is 1025"},
    {SHORT_AT(dim[2], 32767), "dim[2] is 32767"},
    {SHORT_AT(dim[3], 4), "its header announces"},
    {SHORT_AT(datatype, 1), "datatype 1"},
    {SHORT_AT(datatype, 128), "datatype 128"},
    {SHORT_AT(datatype, 256), "datatype 256"},
    {SHORT_AT(datatype, -4), "datatype -4"},
    {SHORT_AT(bitpix, 8), "bitpix is 8"},
    {SHORT_AT(bitpix, 32), "bitpix is 32"},
    {FLOAT_AT(vox_offset, NAN), "vox_offset is nan"},
    {FLOAT_AT(vox_offset, INFINITY), "vox_offset is inf"},
    {FLOAT_AT(vox_offset, -352.0f), "vox_offset is -352"},
    {FLOAT_AT(vox_offset, 0.0f), "vox_offset is 0"},
    {FLOAT_AT(vox_offset, 352.5f), "vox_offset is 352.5"},
    {FLOAT_AT(vox_offset, 1e30f), "vox_offset is 1e+30"},
    {FLOAT_AT(vox_offset, 353.0f), "its header announces"},
    {FLOAT_AT(scl_slope, NAN), "scl_slope nan"},
    {FLOAT_AT(scl_slope, -INFINITY), "scl_slope -inf"},
    {FLOAT_AT(scl_inter, NAN), "scl_inter nan"},
    {FLOAT_AT(scl_slope, 3e38f), "not finite"},
    {FLOAT_AT(srow_y[1], NAN), "affine[1][1] is nan"},
    {FLOAT_AT(srow_z[3], INFINITY), "affine[2][3] is inf"},
    {FLOAT_AT(srow_x[0], 0.0f), "singular"},
    {offsetof(nifti_1_header, xyzt_units), 1, {.text = "\001"}, "length unit 1"},
};

static void test_malformed_headers(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES], changed[PLAIN_BYTES];
    make_plain(plain);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        memcpy(changed, plain, sizeof changed);
        memcpy(changed + faults[i].offset, &faults[i].value, faults[i].bytes);
        write_bytes(in_folder("bad.nii"), changed, sizeof changed);
        assert_refused(in_folder("bad.nii"), faults[i].reason);
    }
}

static void test_malformed_qform(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES];
    make_plain(plain);
    nifti_1_header *header = (nifti_1_header *)(void *)plain;
    header->sform_code = 0;
    header->quatern_b = 1.1f;
    write_bytes(in_folder("bad.nii"), plain, sizeof plain);
    assert_refused(in_folder("bad.nii"), "longer than 1");
    header->quatern_b = NAN;
    write_bytes(in_folder("bad.nii"), plain, sizeof plain);
    assert_refused(in_folder("bad.nii"), "longer than 1");
    header->pixdim[2] = -1.0f;
    write_bytes(in_folder("bad.nii"), plain, sizeof plain);
    assert_refused(in_folder("bad.nii"), "pixdim[2] is -1");
}

static void test_four_dimensions(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES];
    make_plain(plain);
    nifti_1_header *header = (nifti_1_header *)(void *)plain;
    fb_nifti *nifti = NULL;
    header->dim[0] = 4;
    read_changed(header, plain, &nifti);
    fb_nifti_free(&nifti);
    header->dim[4] = 2;
    write_bytes(in_folder("bad.nii"), plain, sizeof plain);
    assert_refused(in_folder("bad.nii"), "dim[4] is 2");
}

static void test_non_finite_voxels(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES], typed[352 + 4 * VOXELS];
    float data[VOXELS] = {0};
    make_plain(plain);
    memcpy(typed, plain, 352);
    nifti_1_header *header = (nifti_1_header *)(void *)typed;
    header->datatype = 16;
    header->bitpix = 32;
    data[1 * H * W + 2 * W + 3] = NAN;
    memcpy(typed + 352, data, sizeof data);
    write_bytes(in_folder("bad.nii"), typed, sizeof typed);
    assert_refused(in_folder("bad.nii"), "voxel (3, 2, 1)");
    fb_status status = fb_nifti_write(in_folder("nan.nii"), shape, brats_affine, FB_NIFTI_FLOAT32, data, 0);
    must_fail(status, "voxel 33 is nan");
    assert_false(fb_file_exists(in_folder("nan.nii")));
}

/* --- malformed files --- */

static void test_truncated_and_trailing(void **state)
{
    (void)state;
    unsigned char longer[PLAIN_BYTES + 1] = {0};
    make_plain(longer);
    for (size_t bytes = 0; bytes < PLAIN_BYTES; bytes++) {
        write_bytes(in_folder("cut.nii"), longer, bytes);
        assert_refused(in_folder("cut.nii"), bytes < 348 ? "ends inside the header" : "its header announces");
    }
    write_bytes(in_folder("long.nii"), longer, sizeof longer);
    assert_refused(in_folder("long.nii"), "its header announces");
}

static size_t gzip(const void *data, size_t bytes, unsigned char *out, size_t capacity)
{
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (unsigned char *)(uintptr_t)data;
    stream.avail_in = (uInt)bytes;
    stream.next_out = out;
    stream.avail_out = (uInt)capacity;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    const size_t written = stream.total_out;
    deflateEnd(&stream);
    return written;
}

static void test_damaged_gzip(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES + 1] = {0}, packed[2048], copy[2048];
    make_plain(plain);
    const size_t bytes = gzip(plain, PLAIN_BYTES, packed, sizeof packed - 18);
    for (size_t cut = 2; cut < bytes; cut++) {
        write_bytes(in_folder("cut.nii.gz"), packed, cut);
        assert_refused(in_folder("cut.nii.gz"), "");
    }
    for (size_t at = bytes - 8; at < bytes; at++) { /* CRC and length */
        memcpy(copy, packed, bytes);
        copy[at] ^= 1;
        write_bytes(in_folder("crc.nii.gz"), copy, bytes);
        assert_refused(in_folder("crc.nii.gz"), at < bytes - 4 ? "incorrect data check" : "incorrect length check");
    }
    memcpy(copy, packed, bytes);
    memcpy(copy + bytes, "junk", 4);
    write_bytes(in_folder("junk.nii.gz"), copy, bytes + 4);
    assert_refused(in_folder("junk.nii.gz"), "damaged");
    write_bytes(in_folder("long.nii.gz"), copy, gzip(plain, PLAIN_BYTES + 1, copy, sizeof copy));
    assert_refused(in_folder("long.nii.gz"), "more bytes than");
    /* two members that make up one file are one file */
    const size_t first = gzip(plain, 300, copy, sizeof copy);
    const size_t second = gzip(plain + 300, PLAIN_BYTES - 300, copy + first, sizeof copy - first);
    write_bytes(in_folder("two.nii.gz"), copy, first + second);
    fb_nifti *nifti = NULL;
    must(fb_nifti_read(in_folder("two.nii.gz"), &nifti));
    assert_true(nifti->data[VOXELS - 1] == VOXELS - 31);
    fb_nifti_free(&nifti);
}

/* 64 MiB of zeros behind a small volume: inflating stops at the first byte too many. */
static void test_gzip_bomb(void **state)
{
    (void)state;
    enum { BOMB = 64 << 20 };
    unsigned char *bomb = calloc(1, BOMB), *packed = malloc(1 << 20);
    assert_true(bomb && packed);
    make_plain(bomb);
    write_bytes(in_folder("bomb.nii.gz"), packed, gzip(bomb, BOMB, packed, 1 << 20));
    const int64_t peak = fb_mem_peak_bytes();
    assert_refused(in_folder("bomb.nii.gz"), "more bytes than");
    assert_true(fb_mem_peak_bytes() <= peak || fb_mem_peak_bytes() < 1 << 16);
    free(bomb);
    free(packed);
}

/* A header that claims 2^28 voxels in front of nothing must not make the reader allocate them. */
static void test_huge_claim_is_not_allocated(void **state)
{
    (void)state;
    unsigned char plain[PLAIN_BYTES], packed[2048];
    make_plain(plain);
    nifti_1_header *header = (nifti_1_header *)(void *)plain;
    header->dim[1] = 1024;
    header->dim[2] = 1024;
    header->dim[3] = 256;
    write_bytes(in_folder("huge.nii"), plain, sizeof plain);
    assert_refused(in_folder("huge.nii"), "its header announces");
    write_bytes(in_folder("huge.nii.gz"), packed, gzip(plain, sizeof plain, packed, sizeof packed));
    assert_refused(in_folder("huge.nii.gz"), "cannot hold");
    header->dim[3] = 257;
    write_bytes(in_folder("huge.nii"), plain, sizeof plain);
    assert_refused(in_folder("huge.nii"), "exceed the limit of 268435456");
    assert_true(fb_mem_peak_bytes() < 1 << 16);
}

static void test_not_a_file(void **state)
{
    (void)state;
    assert_refused(folder, "not a regular file");
    assert_refused(in_folder("missing.nii"), "No such file");
    write_bytes(in_folder("empty.nii"), "", 0);
    assert_refused(in_folder("empty.nii"), "ends inside the header");
    write_bytes(in_folder("empty.nii.gz"), "", 0);
    assert_refused(in_folder("empty.nii.gz"), "ends inside the header");
}

static void expect_write_error(const char *path, const int64_t wanted[3], const char *reason)
{
    const int16_t data[VOXELS] = {0};
    fb_status status = fb_nifti_write(path, wanted, brats_affine, FB_NIFTI_INT16, data, 0);
    must_fail(status, reason);
}

static void test_refused_writes(void **state)
{
    (void)state;
    expect_write_error(in_folder("no/such/folder.nii"), shape, "cannot create");
    expect_write_error(in_folder("zero.nii"), (int64_t[3]){3, 0, 5}, "in 1..1024");
    expect_write_error(in_folder("large.nii"), (int64_t[3]){1024, 1024, 257}, "the limit is");
    assert_false(fb_file_exists(in_folder("zero.nii.tmp")));
    if (access("/dev/full", W_OK) == 0) {
        assert_int_equal(symlink("/dev/full", in_folder("full.nii.tmp")), 0);
        expect_write_error(in_folder("full.nii"), shape, "No space left");
        assert_false(fb_file_exists(in_folder("full.nii")));
        assert_int_not_equal(access(in_folder("full.nii.tmp"), F_OK), 0);
    }
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) == 0 && fb_mem_live_blocks() == 0 ? 0 : -1;
}

/* For check_nifti.py: reads one file and writes it as float32. */
static int convert(const char *from, const char *to)
{
    fb_nifti *nifti = NULL;
    fb_status status = fb_nifti_read(from, &nifti);
    if (status == FB_OK)
        status = fb_nifti_write(to, nifti->shape, (const double(*)[4])nifti->affine, FB_NIFTI_FLOAT32, nifti->data, 0);
    fb_nifti_free(&nifti);
    fprintf(stderr, "%s\n", fb_error_message(status));
    const int rc = fb_error_exit_code(status);
    fb_error_free(&status);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return convert(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_every_datatype_both_byte_orders),
        cmocka_unit_test(test_slope_zero_means_unscaled),
        cmocka_unit_test(test_qform_equals_sform),
        cmocka_unit_test(test_sheared_affine_has_no_qform),
        cmocka_unit_test(test_malformed_headers),
        cmocka_unit_test(test_malformed_qform),
        cmocka_unit_test(test_four_dimensions),
        cmocka_unit_test(test_non_finite_voxels),
        cmocka_unit_test(test_truncated_and_trailing),
        cmocka_unit_test(test_damaged_gzip),
        cmocka_unit_test(test_gzip_bomb),
        cmocka_unit_test(test_huge_claim_is_not_allocated),
        cmocka_unit_test(test_not_a_file),
        cmocka_unit_test(test_refused_writes),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
