/* SPDX-License-Identifier: Apache-2.0
 *
 * A NIfTI-1 volume, plain or compressed. What is accepted is written, plain and compressed, and read again to the same
 * voxels and affine.
 */
#include "fuzz_folder.h"

#include "nifti.h"
#include "nifti_header.h"

#include <math.h>
#include <zlib.h>

/* A byte of deflate holds at most 1032, a voxel of one byte becomes a float, and one volume is read while another is
 * there. */
enum { LIMIT_BYTES = 2 * 4 * 1032 * FUZZ_INPUT_MAX + (1 << 20) };

static int64_t voxels(const fb_nifti *nifti)
{
    return nifti->shape[0] * nifti->shape[1] * nifti->shape[2];
}

static void check_same(const fb_nifti *a, const fb_nifti *b)
{
    FB_ASSERT(memcmp(a->shape, b->shape, sizeof a->shape) == 0);
    for (int64_t i = 0; i < voxels(a); i++) /* by value: adding the intercept takes the sign from a zero */
        FB_ASSERT(a->data[i] == b->data[i]);
    for (int row = 0; row < 3; row++)
        for (int column = 0; column < 4; column++) /* in the file it is float32 */
            FB_ASSERT((float)a->affine[row][column] == (float)b->affine[row][column]);
}

/* Not a byte more or less than the header says, and the header's shape. */
static void check_against_header(const fb_nifti *nifti, const char *path)
{
    unsigned char bytes[FB_NIFTI_HEADER_BYTES], more[1 << 12];
    fb_nifti_header header;
    gzFile file = gzopen(path, "rb"); /* reads plain files, too */
    FB_ASSERT(file != NULL && gzread(file, bytes, sizeof bytes) == (int)sizeof bytes);
    fuzz_must(fb_nifti_header_parse("input", bytes, &header));
    int64_t left = header.data_offset + header.voxels * header.type_bytes - FB_NIFTI_HEADER_BYTES;
    for (int got; (got = gzread(file, more, sizeof more)) > 0;)
        left -= got;
    FB_ASSERT(left == 0);
    gzclose(file);
    FB_ASSERT(memcmp(nifti->shape, header.shape, sizeof header.shape) == 0);
}

static void write_and_read(const fb_nifti *nifti, const char *name)
{
    char path[FB_PATH_CHARS];
    fb_nifti *again = NULL;
    fuzz_must(fb_path_join(path, fuzz_folder(), name));
    fuzz_must(fb_nifti_write(path, nifti->shape, (const double(*)[4])nifti->affine, FB_NIFTI_FLOAT32, nifti->data, 1));
    fuzz_must(fb_nifti_read(path, &again));
    check_same(nifti, again);
    fb_nifti_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    fb_nifti *nifti = NULL;
    if (size > FUZZ_INPUT_MAX)
        return 0;
    const char *path = fuzz_file(data, size);
    fb_status status = fb_nifti_read(path, &nifti);
    if (status != FB_OK) {
        FB_ASSERT(nifti == NULL);
        fuzz_refused(&status);
        return fuzz_end(start, LIMIT_BYTES);
    }
    for (int64_t i = 0; i < voxels(nifti); i++)
        FB_ASSERT(isfinite(nifti->data[i]));
    check_against_header(nifti, path);
    write_and_read(nifti, "again.nii");
    if (voxels(nifti) <= FUZZ_INPUT_MAX)
        write_and_read(nifti, "again.nii.gz");
    fb_nifti_free(&nifti);
    return fuzz_end(start, LIMIT_BYTES);
}
