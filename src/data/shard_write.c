/* SPDX-License-Identifier: Apache-2.0
 *
 * Nothing in the file depends on when or where it was written (HDF5's times are off), so that the same cases give the
 * same bytes.
 */
#include "core/file.h"
#include "core/h5.h"
#include "core/mem.h"
#include "data/shard.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 19, DEFLATE_LEVEL = 2 };

/* What finish checks a case against. */
typedef struct written_case {
    char subject[FB_SUBJECT_CHARS];
    int64_t size_bytes; /* of image and label as stored */
    char sha256[FB_SHA256_CHARS];
} written_case;

struct fb_shard_writer {
    char path[FB_PATH_CHARS], temporary[FB_PATH_CHARS + 8];
    hid_t file, cases; /* 0: closed */
    int64_t count;
    written_case *written; /* (count); owned */
};

/* --- creating
 * ---------------------------------------------------------------------------------------------------------- */

/* Text is stored without a '\0'. */
static fb_status put_text(hid_t object, const char *name, const char *text)
{
    hid_t type = 0;
    FB_ASSERT(text[0] != '\0' && strlen(text) < FB_SHARD_TEXT_BYTES);
    FB_TRY(fb_h5_text_type(object, name, strlen(text), &type));
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    fb_status status = fb_h5_attribute_value(object, name, type, text);
    fb_h5_close(&type);
    return status;
}

static fb_status put_int(hid_t object, const char *name, int value)
{
    return fb_h5_attribute_value(object, name, H5T_STD_I32LE, &value);
}

static fb_status create_file(fb_shard_writer *writer, const char *hospital, int hospital_index)
{
    const hid_t access = fb_h5_file_access();
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    const hid_t file = H5Fcreate(writer->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    fb_status status = fb_h5_check_file(file, writer->temporary, "create");
    H5Pclose(access);
    FB_TRY(status);
    writer->file = file;
    FB_TRY(put_int(file, "schema_version", FB_SHARD_SCHEMA));
    FB_TRY(put_text(file, "hospital", hospital));
    FB_TRY(put_int(file, "hospital_index", hospital_index));
    FB_TRY(put_text(file, "modalities", FB_SHARD_MODALITIES));
    FB_TRY(put_text(file, "label_convention", FB_SHARD_LABELS));
    return fb_h5_group_create(file, "cases", FB_H5_ORDERED, 0, &writer->cases);
}

fb_status fb_shard_writer_create(const char *folder, const char *file, const char *hospital, int hospital_index,
                                 fb_shard_writer **out)
{
    fb_shard_writer *writer = NULL;
    FB_TRY(FB_ALLOC(writer, 1, "shard writer"));
    fb_status status = fb_path_join(writer->path, folder, file);
    if (status == FB_OK) {
        snprintf(writer->temporary, sizeof writer->temporary, "%s.tmp", writer->path);
        status = create_file(writer, hospital, hospital_index);
    }
    if (status != FB_OK)
        fb_shard_writer_abort(&writer);
    *out = writer;
    return status;
}

/* --- adding a case
 * ----------------------------------------------------------------------------------------------------- */

/* A case as it is stored: the image, then the label, in one block. */
typedef struct stored_case {
    hid_t type; /* of the image: borrowed constant of HDF5 */
    int64_t image_bytes, label_bytes;
    unsigned char *bytes; /* owned */
} stored_case;

static int fits_int16(const float *value, int64_t count)
{
    int fits = 1;
    for (int64_t i = 0; i < count; i++)
        fits &= value[i] >= -32768.0f && value[i] <= 32767.0f && truncf(value[i]) == value[i];
    return fits;
}

static fb_status check_values(const fb_volume *volume, int64_t voxels)
{
    for (int64_t i = 0; i < voxels; i++)
        if (volume->label[i] > 4 || volume->label[i] == 3)
            return FB_FAIL("%s: label %d at voxel %lld is not 0, 1, 2 or 4", volume->subject, volume->label[i],
                           (long long)i);
    for (int64_t i = 0; i < voxels * FB_MODALITIES; i++)
        if (!isfinite(volume->image[i]))
            return FB_FAIL("%s: intensity %g at voxel %lld of %s is not finite", volume->subject,
                           (double)volume->image[i], (long long)(i / FB_MODALITIES),
                           fb_modality_name[i % FB_MODALITIES]);
    return FB_OK;
}

static fb_status store(const fb_volume *volume, stored_case *out)
{
    const int64_t voxels = fb_volume_voxels(volume->shape), values = voxels * FB_MODALITIES;
    FB_TRY(check_values(volume, voxels));
    const int small = fits_int16(volume->image, values);
    out->type = small ? H5T_STD_I16LE : H5T_IEEE_F32LE;
    out->image_bytes = values * (int64_t)(small ? sizeof(int16_t) : sizeof(float));
    out->label_bytes = voxels;
    FB_TRY(FB_ALLOC(out->bytes, out->image_bytes + out->label_bytes, volume->subject));
    if (small) {
        int16_t *integer = (int16_t *)(void *)out->bytes;
        for (int64_t i = 0; i < values; i++)
            integer[i] = (int16_t)volume->image[i];
    } else {
        memcpy(out->bytes, volume->image, (size_t)out->image_bytes);
    }
    memcpy(out->bytes + out->image_bytes, volume->label, (size_t)out->label_bytes);
    return FB_OK;
}

/* Whole slices along D, about CHUNK_BYTES: one chunk is one read, and few enough for a small index. */
static hid_t make_layout(int rank, const hsize_t *extent, hid_t type)
{
    hsize_t chunk[4], slice_bytes = H5Tget_size(type);
    for (int i = 1; i < rank; i++)
        slice_bytes *= chunk[i] = extent[i];
    chunk[0] = CHUNK_BYTES / slice_bytes;
    chunk[0] = chunk[0] < 1 ? 1 : chunk[0] > extent[0] ? extent[0] : chunk[0];
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, rank, chunk);
    H5Pset_shuffle(list);
    H5Pset_deflate(list, DEFLATE_LEVEL);
    H5Pset_fletcher32(list);
    H5Pset_fill_time(list, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(list, 0);
    return list;
}

/* data (D, H, W) for rank 3, (D, H, W, FB_MODALITIES) for rank 4. */
static fb_status write_array(hid_t group, const char *name, int rank, const int64_t shape[3], hid_t type,
                             const void *data)
{
    const hsize_t extent[4] = {(hsize_t)shape[0], (hsize_t)shape[1], (hsize_t)shape[2], FB_MODALITIES};
    hid_t layout = make_layout(rank, extent, type), set = 0;
    fb_status status = fb_h5_dataset_create(group, name, type, rank, extent, layout, &set);
    fb_h5_close(&layout);
    FB_TRY(status);
    status = fb_h5_check(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), group, name, "write");
    return fb_error_first(status, fb_h5_check(H5Dclose(set), group, name, "write"));
}

static fb_status write_case(hid_t group, const int64_t shape[3], const stored_case *stored, const char *split,
                            const char *grade, const char *site, const char *sha256)
{
    FB_TRY(put_text(group, "split", split));
    FB_TRY(put_text(group, "grade", grade));
    FB_TRY(put_text(group, "site", site));
    FB_TRY(put_text(group, "sha256", sha256));
    FB_TRY(write_array(group, "image", 4, shape, stored->type, stored->bytes));
    FB_TRY(write_array(group, "label", 3, shape, H5T_STD_U8LE, stored->bytes + stored->image_bytes));
    return fb_h5_check(H5Fflush(group, H5F_SCOPE_LOCAL), group, NULL, "flush");
}

/* Puts the case on the list that finish checks. */
static fb_status remember(fb_shard_writer *writer, const char *subject, const stored_case *stored, char sha256[65])
{
    const int64_t size_bytes = stored->image_bytes + stored->label_bytes;
    FB_TRY(fb_mem_resize(&writer->written, writer->count + 1, sizeof *writer->written, "list of cases"));
    written_case *entry = &writer->written[writer->count];
    fb_sha256(stored->bytes, size_bytes, sha256);
    snprintf(entry->subject, sizeof entry->subject, "%s", subject);
    memcpy(entry->sha256, sha256, sizeof entry->sha256);
    entry->size_bytes = size_bytes;
    writer->count++;
    return FB_OK;
}

fb_status fb_shard_writer_add(fb_shard_writer *writer, const fb_volume *volume, fb_split split, const char *grade,
                              const char *site, char sha256[65])
{
    stored_case stored = {0};
    hid_t group = 0;
    fb_status status = FB_OK;
    FB_TRY_GOTO(status, store(volume, &stored), done);
    FB_TRY_GOTO(status, remember(writer, volume->subject, &stored, sha256), done);
    FB_TRY_GOTO(status, fb_h5_group_create(writer->cases, volume->subject, 0, 0, &group), done);
    status = write_case(group, volume->shape, &stored, fb_split_name(split), grade, site, sha256);
    fb_h5_close(&group); /* it was flushed */
done:
    FB_FREE(stored.bytes);
    return status;
}

/* --- finishing
 * --------------------------------------------------------------------------------------------------------- */

/* Reads an array as stored behind *used of bytes[limit]. */
static fb_status read_stored(const char *path, hid_t file, const char *subject, const char *array, unsigned char *bytes,
                             int64_t limit, int64_t *used)
{
    char name[FB_SUBJECT_CHARS + 16];
    snprintf(name, sizeof name, "cases/%s/%s", subject, array);
    hid_t set = 0;
    FB_TRY(fb_h5_dataset_open(file, name, &set));
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    const int64_t size_bytes = (int64_t)H5Tget_size(type) * H5Sget_simple_extent_npoints(space);
    fb_status status = FB_OK;
    if (size_bytes > limit - *used)
        status = FB_FAIL("%s: %s has %lld bytes, more than were written", path, name, (long long)size_bytes);
    else
        status = fb_h5_check(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes + *used), file, name, "read back");
    *used += size_bytes;
    fb_h5_close(&type);
    fb_h5_close(&space);
    fb_h5_close(&set);
    return status;
}

static fb_status verify_case(const char *path, hid_t file, const written_case *entry)
{
    unsigned char *bytes = NULL;
    int64_t used = 0;
    char sha256[FB_SHA256_CHARS];
    FB_TRY(FB_ALLOC(bytes, entry->size_bytes, entry->subject));
    fb_status status = read_stored(path, file, entry->subject, "image", bytes, entry->size_bytes, &used);
    if (status == FB_OK)
        status = read_stored(path, file, entry->subject, "label", bytes, entry->size_bytes, &used);
    if (status == FB_OK) {
        fb_sha256(bytes, used, sha256);
        if (strcmp(sha256, entry->sha256) != 0)
            status = FB_FAIL("%s: %s reads back differently than it was written; check the disk", path, entry->subject);
    }
    FB_FREE(bytes);
    return status;
}

static fb_status verify(const fb_shard_writer *writer)
{
    hid_t file = 0;
    fb_status status = fb_h5_file_open(writer->temporary, &file);
    for (int64_t i = 0; status == FB_OK && i < writer->count; i++)
        status = verify_case(writer->temporary, file, &writer->written[i]);
    fb_h5_close(&file);
    return status;
}

static fb_status close_file(fb_shard_writer *writer)
{
    const hid_t file = writer->file;
    fb_h5_close(&writer->cases);
    writer->file = 0;
    return fb_h5_check_file(file > 0 ? H5Fclose(file) : 0, writer->temporary, "close");
}

fb_status fb_shard_writer_finish(fb_shard_writer **writer)
{
    fb_status status = close_file(*writer);
    if (status == FB_OK)
        status = verify(*writer);
    if (status == FB_OK)
        status = fb_file_commit((*writer)->temporary, (*writer)->path);
    fb_shard_writer_abort(writer);
    return status;
}

void fb_shard_writer_abort(fb_shard_writer **writer)
{
    if (!*writer)
        return;
    fb_status status = close_file(*writer);
    fb_error_free(&status); /* the file goes away */
    unlink((*writer)->temporary);
    FB_FREE((*writer)->written);
    FB_FREE(*writer);
}
