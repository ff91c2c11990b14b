/* SPDX-License-Identifier: Apache-2.0 */
#include "io/h5.h"

#include "core/file.h"
#include "core/mem.h"

#include <hdf5_hl.h>
#include <stdio.h>
#include <string.h>

enum { REASON_CHARS = 512 };

/* --- errors --- */

/* H5E_WALK_UPWARD begins where the error happened; later entries only say who called whom. */
static herr_t keep_innermost(unsigned n, const H5E_error2_t *entry, void *reason)
{
    if (n == 0)
        snprintf(reason, REASON_CHARS, "%s", entry->desc ? entry->desc : "");
    return 0;
}

/* Any HDF5 call clears the error stack, so this comes before asking for names. */
static void take_reason(char reason[REASON_CHARS])
{
    reason[0] = '\0';
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, reason);
    if (reason[0] == '\0')
        snprintf(reason, REASON_CHARS, "HDF5 gives no reason");
}

fb_status fb_h5_check(hid_t result, hid_t location, const char *name, const char *action)
{
    if (result >= 0)
        return FB_OK;
    char reason[REASON_CHARS], file[FB_PATH_CHARS] = "?", object[FB_PATH_CHARS] = "";
    take_reason(reason);
    (void)H5Fget_name(location, file, sizeof file);
    (void)H5Iget_name(location, object, sizeof object);
    const size_t chars = strlen(object);
    const char *slash = chars > 0 && object[chars - 1] == '/' ? "" : "/";
    return FB_FAIL("%s: %s%s%s: cannot %s: %s", file, object, name ? slash : "", name ? name : "", action, reason);
}

static fb_status check_file(hid_t result, const char *path, const char *action)
{
    if (result >= 0)
        return FB_OK;
    char reason[REASON_CHARS];
    take_reason(reason);
    return FB_FAIL("%s: cannot %s the HDF5 file: %s", path, action, reason);
}

/* --- files and groups --- */

enum { GROW_BYTES = 1 << 20 };

static const unsigned order = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;

static hid_t quiet_access(void)
{
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return H5Pcreate(H5P_FILE_ACCESS);
}

fb_status fb_h5_image_create(const char *path, hid_t *file)
{
    const hid_t access = quiet_access(), creation = H5Pcreate(H5P_FILE_CREATE);
    hid_t made = H5Pset_fapl_core(access, GROW_BYTES, 0);
    if (made >= 0)
        made = H5Pset_link_creation_order(creation, order);
    if (made >= 0)
        made = H5Pset_attr_creation_order(creation, order);
    if (made >= 0)
        made = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    fb_status status = check_file(made, path, "make");
    (void)H5Pclose(creation);
    (void)H5Pclose(access);
    if (status == FB_OK)
        *file = made;
    return status;
}

fb_status fb_h5_image_open(const char *path, const void *bytes, int64_t size_bytes, hid_t *file)
{
    const hid_t access = quiet_access();
    void *not_changed = NULL; /* HDF5 asks for a pointer to non-const, but copies */
    memcpy(&not_changed, &bytes, sizeof bytes);
    hid_t opened = H5Pset_fapl_core(access, GROW_BYTES, 0);
    if (opened >= 0)
        opened = H5Pset_file_image(access, not_changed, (size_t)size_bytes);
    if (opened >= 0)
        opened = H5Fopen(path, H5F_ACC_RDWR, access);
    fb_status status = check_file(opened, path, "open");
    (void)H5Pclose(access);
    if (status == FB_OK)
        *file = opened;
    return status;
}

fb_status fb_h5_image_bytes(hid_t file, char **bytes, int64_t *size_bytes)
{
    char *buffer = NULL; /* (size) */
    FB_TRY(fb_h5_check(H5Fflush(file, H5F_SCOPE_GLOBAL), file, NULL, "complete the image"));
    const ssize_t size = H5Fget_file_image(file, NULL, 0);
    FB_TRY(fb_h5_check(size, file, NULL, "take the image"));
    FB_TRY(FB_ALLOC(buffer, size, "image of an HDF5 file"));
    fb_status status = fb_h5_check(H5Fget_file_image(file, buffer, (size_t)size), file, NULL, "take the image");
    if (status != FB_OK) {
        FB_FREE(buffer);
        return status;
    }
    *bytes = buffer;
    *size_bytes = size;
    return FB_OK;
}

fb_status fb_h5_file_open(const char *path, hid_t *file)
{
    const hid_t access = quiet_access();
    hid_t opened = H5Pset_file_locking(access, 0, 1);
    if (opened >= 0)
        opened = H5Fopen(path, H5F_ACC_RDONLY, access);
    fb_status status = check_file(opened, path, "open");
    (void)H5Pclose(access);
    if (status == FB_OK)
        *file = opened;
    return status;
}

void fb_h5_close(hid_t *handle)
{
    if (*handle <= 0)
        return;
    if (H5Iget_type(*handle) == H5I_FILE)
        (void)H5Fclose(*handle);
    else
        (void)H5Idec_ref(*handle);
    *handle = 0;
}

fb_status fb_h5_group_create(hid_t parent, const char *name, hid_t *group)
{
    const hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    hid_t made = H5Pset_link_creation_order(creation, order);
    if (made >= 0)
        made = H5Pset_attr_creation_order(creation, order);
    if (made >= 0)
        made = H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    fb_status status = fb_h5_check(made, parent, name, "create the group");
    (void)H5Pclose(creation);
    if (status == FB_OK)
        *group = made;
    return status;
}

/* --- datasets --- */

/* Contiguous, allocated early, filled on allocation; no time stamps, so that equal contents give equal files. */
static hid_t preallocated(hid_t type, const void *fill)
{
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (H5Pset_layout(creation, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(creation, H5D_FILL_TIME_ALLOC) < 0 || H5Pset_obj_track_times(creation, 0) < 0 ||
        H5Pset_attr_creation_order(creation, order) < 0 || (fill && H5Pset_fill_value(creation, type, fill) < 0)) {
        (void)H5Pclose(creation);
        return -1;
    }
    return creation;
}

fb_status fb_h5_dataset_create(hid_t parent, const char *name, hid_t type, int axes, const hsize_t *extent,
                               const void *fill, hid_t *dataset)
{
    hid_t creation = 0, space = 0, made = 0;
    fb_status status = FB_OK;
    creation = preallocated(type, fill);
    FB_TRY_GOTO(status, fb_h5_check(creation, parent, name, "describe the dataset"), done);
    space = H5Screate_simple(axes, extent, NULL);
    FB_TRY_GOTO(status, fb_h5_check(space, parent, name, "describe the extent"), done);
    made = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    FB_TRY_GOTO(status, fb_h5_check(made, parent, name, "create the dataset"), done);
    *dataset = made;
done:
    fb_h5_close(&space);
    fb_h5_close(&creation);
    return status;
}

static fb_status dataset_open(hid_t parent, const char *path, hid_t *dataset)
{
    *dataset = H5Dopen2(parent, path, H5P_DEFAULT);
    return fb_h5_check(*dataset, parent, path, "open the dataset");
}

fb_status fb_h5_dataset_write(hid_t parent, const char *path, hid_t type, const void *values)
{
    hid_t dataset = 0;
    FB_TRY(dataset_open(parent, path, &dataset));
    fb_status status =
        fb_h5_check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), parent, path, "write");
    fb_h5_close(&dataset);
    return status;
}

fb_status fb_h5_dataset_read(hid_t parent, const char *path, hid_t type, void *values)
{
    hid_t dataset = 0;
    FB_TRY(dataset_open(parent, path, &dataset));
    fb_status status = fb_h5_check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), parent, path, "read");
    fb_h5_close(&dataset);
    return status;
}

fb_status fb_h5_dataset_offset(hid_t parent, const char *path, int64_t *offset_bytes)
{
    hid_t dataset = 0;
    FB_TRY(dataset_open(parent, path, &dataset));
    const haddr_t address = H5Dget_offset(dataset);
    fb_status status = fb_h5_check(address == HADDR_UNDEF ? -1 : 0, parent, path, "find the values");
    fb_h5_close(&dataset);
    *offset_bytes = (int64_t)address;
    return status;
}

/* --- text, attributes, scales --- */

static hid_t utf8(size_t size_bytes)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && H5Tset_size(type, size_bytes) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
        return type;
    (void)H5Tclose(type);
    return -1;
}

fb_status fb_h5_text_type(hid_t *type)
{
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    const hid_t made = utf8(H5T_VARIABLE);
    if (made < 0)
        return FB_FAIL("HDF5 cannot make the type of variable-length UTF-8 text");
    *type = made;
    return FB_OK;
}

fb_status fb_h5_attribute_value(hid_t object, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = 0;
    fb_status status = fb_h5_check(space, object, name, "describe the attribute");
    if (status == FB_OK) {
        attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
        status = fb_h5_check(attribute, object, name, "create the attribute");
    }
    if (status == FB_OK)
        status = fb_h5_check(H5Awrite(attribute, type, value), object, name, "write the attribute");
    fb_h5_close(&attribute);
    fb_h5_close(&space);
    return status;
}

fb_status fb_h5_attribute_text(hid_t object, const char *name, const char *text)
{
    hid_t type = utf8(strlen(text) + 1);
    FB_TRY(fb_h5_check(type, object, name, "describe the text"));
    fb_status status = fb_h5_attribute_value(object, name, type, text);
    fb_h5_close(&type);
    return status;
}

fb_status fb_h5_scale_set(hid_t dataset, const char *name)
{
    return fb_h5_check(H5DSset_scale(dataset, name), dataset, NULL, "become a dimension scale");
}

fb_status fb_h5_scale_attach(hid_t dataset, hid_t scale, int axis)
{
    return fb_h5_check(H5DSattach_scale(dataset, scale, (unsigned)axis), dataset, NULL, "get its dimension scale");
}
