/* SPDX-License-Identifier: Apache-2.0 */
#include "data/shard.h"

#include "core/file.h"
#include "core/h5.h"
#include "core/mem.h"
#include "data/checksums.h"

#include <stdio.h>
#include <string.h>

enum { EXTENT_MAX = 1024, CASES_MAX = 1 << 20 };

static const char *const split_name[] = {"train", "validation", "test"};

const char *fb_split_name(fb_split split)
{
    return split_name[split];
}

fb_status fb_split_parse(const char *name, fb_split *split)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(name, split_name[i]) == 0) {
            *split = (fb_split)i;
            return FB_OK;
        }
    return FB_FAIL("split \"%s\" is not train, validation or test", name);
}

typedef struct shard_case {
    char subject[FB_SUBJECT_CHARS];
    fb_split split;
    int64_t shape[3];
    fb_volume *cached; /* owned; NULL: not in the cache */
} shard_case;

struct fb_shard {
    char path[FB_PATH_CHARS];
    hid_t file;
    int64_t count;
    shard_case *cases; /* (count) in the order of writing; owned */
    int64_t cache_bytes, used_bytes;
    fb_volume *current; /* the volume in use that did not fit into the cache; owned */
};

/* --- opening
 * ----------------------------------------------------------------------------------------------------------- */

static fb_status check_file(const fb_shard *shard)
{
    int schema = 0;
    char modalities[FB_SHARD_TEXT_BYTES];
    FB_TRY(fb_h5_attribute_read_int(shard->file, "schema_version", &schema));
    if (schema != FB_SHARD_SCHEMA)
        return FB_FAIL("%s: schema version %d, this program reads %d; write the shards again with brats-split",
                       shard->path, schema, FB_SHARD_SCHEMA);
    FB_TRY(fb_h5_attribute_read_text(shard->file, "modalities", modalities, sizeof modalities));
    if (strcmp(modalities, FB_SHARD_MODALITIES) != 0)
        return FB_FAIL("%s: modalities are \"%s\", not \"%s\"", shard->path, modalities, FB_SHARD_MODALITIES);
    return FB_OK;
}

/* The extents of a dataset, which must have `rank` of them within the limits. */
static fb_status read_extents(const fb_shard *shard, const char *name, int rank, hsize_t extent[4])
{
    hid_t set = 0;
    FB_TRY(fb_h5_dataset_open(shard->file, name, &set));
    hid_t space = H5Dget_space(set);
    fb_status status = fb_h5_check(space, shard->file, name, "find the extent");
    int sound = H5Sget_simple_extent_ndims(space) == rank && H5Sget_simple_extent_dims(space, extent, NULL) == rank;
    for (int i = 0; i < rank; i++)
        sound = sound && extent[i] >= 1 && extent[i] <= EXTENT_MAX;
    fb_h5_close(&space);
    fb_h5_close(&set);
    if (status == FB_OK && !sound)
        status = FB_FAIL("%s: %s does not have %d extents of 1 to %d", shard->path, name, rank, (int)EXTENT_MAX);
    return status;
}

static fb_status read_shape(const fb_shard *shard, shard_case *item)
{
    char name[FB_SUBJECT_CHARS + 16];
    hsize_t image[4] = {0}, label[4] = {0};
    snprintf(name, sizeof name, "cases/%s/image", item->subject);
    FB_TRY(read_extents(shard, name, 4, image));
    snprintf(name, sizeof name, "cases/%s/label", item->subject);
    FB_TRY(read_extents(shard, name, 3, label));
    if (image[3] != FB_MODALITIES || memcmp(image, label, 3 * sizeof *label) != 0)
        return FB_FAIL("%s: %s: image and label do not fit together", shard->path, item->subject);
    for (int axis = 0; axis < 3; axis++)
        item->shape[axis] = (int64_t)image[axis];
    return FB_OK;
}

/* Reads the list entry of case `index` in the order of writing. */
static fb_status read_case(const fb_shard *shard, hid_t cases, hsize_t index, shard_case *item)
{
    char split[FB_SHARD_TEXT_BYTES];
    const ssize_t chars = H5Lget_name_by_idx(cases, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, index, item->subject,
                                             sizeof item->subject, H5P_DEFAULT);
    FB_TRY(fb_h5_check(chars < (ssize_t)sizeof item->subject ? chars : -1, cases, NULL, "read the name of a case"));
    hid_t group = H5Gopen2(cases, item->subject, H5P_DEFAULT);
    FB_TRY(fb_h5_check(group, cases, item->subject, "open the case"));
    fb_status status = fb_h5_attribute_read_text(group, "split", split, sizeof split);
    fb_h5_close(&group);
    FB_TRY(status);
    FB_TRY(fb_error_context(fb_split_parse(split, &item->split), "%s: %s", shard->path, item->subject));
    return read_shape(shard, item);
}

static fb_status read_cases(fb_shard *shard)
{
    H5G_info_t info = {0};
    hid_t cases = H5Gopen2(shard->file, "cases", H5P_DEFAULT);
    FB_TRY(fb_h5_check(cases, shard->file, "cases", "open the group"));
    fb_status status = fb_h5_check(H5Gget_info(cases, &info), cases, NULL, "count the cases");
    if (status == FB_OK && info.nlinks > CASES_MAX)
        status = FB_FAIL("%s: %llu cases, the limit is %d", shard->path, (unsigned long long)info.nlinks, CASES_MAX);
    if (status == FB_OK)
        status = FB_ALLOC(shard->cases, (int64_t)info.nlinks, "list of cases");
    for (hsize_t i = 0; status == FB_OK && i < info.nlinks; i++, shard->count++)
        status = read_case(shard, cases, i, &shard->cases[i]);
    fb_h5_close(&cases);
    return status;
}

static fb_status load(fb_shard *shard, const char *folder, const char *file)
{
    FB_TRY(fb_path_join(shard->path, folder, file));
    FB_TRY(fb_checksums_verify(folder, file));
    FB_TRY(fb_h5_file_open(shard->path, &shard->file));
    FB_TRY(check_file(shard));
    return read_cases(shard);
}

fb_status fb_shard_open(const char *folder, const char *file, int64_t cache_bytes, fb_shard **out)
{
    fb_shard *shard = NULL;
    FB_TRY(FB_ALLOC(shard, 1, "shard"));
    shard->cache_bytes = cache_bytes;
    fb_status status = load(shard, folder, file);
    if (status != FB_OK)
        fb_shard_close(&shard);
    *out = shard;
    return status;
}

void fb_shard_close(fb_shard **out)
{
    fb_shard *shard = *out;
    if (!shard)
        return;
    for (int64_t i = 0; i < shard->count; i++)
        fb_volume_destroy(&shard->cases[i].cached);
    fb_volume_destroy(&shard->current);
    FB_FREE(shard->cases);
    fb_h5_close(&shard->file);
    FB_FREE(*out);
}

/* --- reading
 * ----------------------------------------------------------------------------------------------------------- */

int64_t fb_shard_cases(const fb_shard *shard, fb_split split)
{
    int64_t count = 0;
    for (int64_t i = 0; i < shard->count; i++)
        count += shard->cases[i].split == split;
    return count;
}

static shard_case *find_case(const fb_shard *shard, fb_split split, int64_t index)
{
    for (int64_t i = 0; i < shard->count; i++)
        if (shard->cases[i].split == split && index-- == 0)
            return &shard->cases[i];
    FB_ASSERT(!"the case exists");
    return NULL;
}

const char *fb_shard_subject(const fb_shard *shard, fb_split split, int64_t index)
{
    return find_case(shard, split, index)->subject;
}

const int64_t *fb_shard_shape(const fb_shard *shard, fb_split split, int64_t index)
{
    return find_case(shard, split, index)->shape;
}

static fb_status read_array(const fb_shard *shard, const char *subject, const char *array, hid_t type, void *data)
{
    char name[FB_SUBJECT_CHARS + 16];
    snprintf(name, sizeof name, "cases/%s/%s", subject, array);
    return fb_h5_dataset_read(shard->file, name, type, data);
}

static fb_status decode(const fb_shard *shard, const shard_case *item, fb_volume **out)
{
    fb_volume *volume = NULL;
    FB_TRY(fb_volume_create(item->subject, item->shape, &volume));
    fb_status status = read_array(shard, item->subject, "image", H5T_NATIVE_FLOAT, volume->image);
    if (status == FB_OK)
        status = read_array(shard, item->subject, "label", H5T_NATIVE_UINT8, volume->label);
    if (status != FB_OK)
        fb_volume_destroy(&volume);
    *out = volume;
    return status;
}

static int64_t volume_bytes(const int64_t shape[3])
{
    return fb_volume_voxels(shape) * (int64_t)(FB_MODALITIES * sizeof(float) + sizeof(uint8_t));
}

/* The first volumes that fit stay, the others are decoded each time: an epoch visits every case once in a new random
 * order, for which no eviction rule keeps more hits. */
fb_status fb_shard_volume(fb_shard *shard, fb_split split, int64_t index, const fb_volume **out)
{
    shard_case *item = find_case(shard, split, index);
    const int64_t bytes = volume_bytes(item->shape);
    fb_volume_destroy(&shard->current);
    if (!item->cached && bytes <= shard->cache_bytes - shard->used_bytes) {
        FB_TRY(decode(shard, item, &item->cached));
        shard->used_bytes += bytes;
    } else if (!item->cached) {
        FB_TRY(decode(shard, item, &shard->current));
    }
    *out = item->cached ? item->cached : shard->current;
    return FB_OK;
}
