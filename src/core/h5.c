/* SPDX-License-Identifier: Apache-2.0 */
#include "core/h5.h"

#include "core/file.h"

#include <stdio.h>
#include <string.h>

enum { REASON_CHARS = 512 };

/* --- errors --- */

/* H5E_WALK_UPWARD begins where the error happened; later entries only say who called whom. Of a failed write, which
 * HDF5 describes with times and addresses, only the system's reason is kept. */
static herr_t keep_innermost(unsigned n, const H5E_error2_t *entry, void *reason)
{
    static const char mark[] = "error message = '";
    if (n != 0 || !entry->desc)
        return 0;
    const char *system = strstr(entry->desc, mark);
    const char *text = system ? system + sizeof mark - 1 : entry->desc;
    snprintf(reason, REASON_CHARS, "%.*s", (int)strcspn(text, system ? "'\n" : "\n"), text);
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

static fb_status fail(hid_t location, const char *name, const char *action, const char *reason)
{
    char file[FB_PATH_CHARS] = "?", object[FB_PATH_CHARS] = "";
    (void)H5Fget_name(location, file, sizeof file);
    (void)H5Iget_name(location, object, sizeof object);
    const size_t chars = strlen(object);
    const char *slash = chars > 0 && object[chars - 1] == '/' ? "" : "/";
    return FB_FAIL("%s: %s%s%s: cannot %s: %s", file, object, name ? slash : "", name ? name : "", action, reason);
}

fb_status fb_h5_check(hid_t result, hid_t location, const char *name, const char *action)
{
    if (result >= 0)
        return FB_OK;
    char reason[REASON_CHARS];
    take_reason(reason);
    return fail(location, name, action, reason);
}

fb_status fb_h5_check_file(hid_t result, const char *path, const char *action)
{
    if (result >= 0)
        return FB_OK;
    char reason[REASON_CHARS];
    take_reason(reason);
    return FB_FAIL("%s: cannot %s the HDF5 file: %s", path, action, reason);
}

/* --- files and groups --- */

/* HDF5 shall print nothing itself, and at exit shall not try again to write what could not be written: HDF5 1.10.8
 * crashes there (measured, with a full disk). */
hid_t fb_h5_file_access(void)
{
    (void)H5dont_atexit();
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return H5Pcreate(H5P_FILE_ACCESS);
}

fb_status fb_h5_file_open(const char *path, hid_t *file)
{
    const hid_t access = fb_h5_file_access();
    hid_t opened = access;
    if (opened >= 0)
        opened = H5Pset_file_locking(access, 0, 1);
    if (opened >= 0)
        opened = H5Fopen(path, H5F_ACC_RDONLY, access);
    fb_status status = fb_h5_check_file(opened, path, "open");
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

fb_status fb_h5_group_create(hid_t parent, const char *name, unsigned member_order, unsigned attribute_order,
                             hid_t *group)
{
    const hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    hid_t made = creation;
    if (made >= 0)
        made = H5Pset_obj_track_times(creation, 0);
    if (made >= 0)
        made = H5Pset_link_creation_order(creation, member_order);
    if (made >= 0)
        made = H5Pset_attr_creation_order(creation, attribute_order);
    if (made >= 0)
        made = H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    fb_status status = fb_h5_check(made, parent, name, "create the group");
    (void)H5Pclose(creation);
    if (status == FB_OK)
        *group = made;
    return status;
}

/* --- datasets --- */

fb_status fb_h5_dataset_create(hid_t parent, const char *name, hid_t type, int axes, const hsize_t *extent,
                               hid_t creation, hid_t *dataset)
{
    hid_t space = H5Screate_simple(axes, extent, NULL);
    FB_TRY(fb_h5_check(space, parent, name, "describe the extent"));
    const hid_t made = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    fb_status status = fb_h5_check(made, parent, name, "create the dataset");
    fb_h5_close(&space);
    if (status == FB_OK)
        *dataset = made;
    return status;
}

fb_status fb_h5_dataset_open(hid_t parent, const char *path, hid_t *dataset)
{
    *dataset = H5Dopen2(parent, path, H5P_DEFAULT);
    return fb_h5_check(*dataset, parent, path, "open the dataset");
}

fb_status fb_h5_dataset_read(hid_t parent, const char *path, hid_t type, void *values)
{
    hid_t dataset = 0;
    FB_TRY(fb_h5_dataset_open(parent, path, &dataset));
    fb_status status = fb_h5_check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), parent, path, "read");
    fb_h5_close(&dataset);
    return status;
}

fb_status fb_h5_dataset_count(hid_t parent, const char *path, int64_t *values)
{
    hid_t dataset = 0;
    FB_TRY(fb_h5_dataset_open(parent, path, &dataset));
    hid_t space = H5Dget_space(dataset);
    const hssize_t count = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    fb_status status = fb_h5_check(count < 0 ? -1 : 0, parent, path, "find the extent of");
    fb_h5_close(&space);
    fb_h5_close(&dataset);
    *values = count;
    return status;
}

/* --- text and attributes --- */

fb_status fb_h5_text_type(hid_t location, const char *name, size_t size_bytes, hid_t *type)
{
    hid_t made = H5Tcopy(H5T_C_S1), set = made;
    if (set >= 0)
        set = H5Tset_size(made, size_bytes);
    if (set >= 0)
        set = H5Tset_cset(made, H5T_CSET_UTF8);
    const fb_status status = fb_h5_check(set, location, name, "describe text");
    if (status == FB_OK)
        *type = made;
    else
        fb_h5_close(&made);
    return status;
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
    hid_t type = 0;
    FB_TRY(fb_h5_text_type(object, name, strlen(text) + 1, &type));
    fb_status status = fb_h5_attribute_value(object, name, type, text);
    fb_h5_close(&type);
    return status;
}

/* Opens an attribute, which must have one element. */
static fb_status attribute_open(hid_t object, const char *name, hid_t *attribute)
{
    hid_t opened = H5Aopen(object, name, H5P_DEFAULT);
    FB_TRY(fb_h5_check(opened, object, name, "find the attribute"));
    hid_t space = H5Aget_space(opened);
    fb_status status = fb_h5_check(space, object, name, "find the extent of the attribute");
    if (status == FB_OK && H5Sget_simple_extent_npoints(space) != 1)
        status = fail(object, name, "read the attribute", "it does not hold exactly one element");
    fb_h5_close(&space);
    if (status == FB_OK)
        *attribute = opened;
    else
        fb_h5_close(&opened);
    return status;
}

fb_status fb_h5_attribute_read_text(hid_t object, const char *name, char *text, size_t text_bytes)
{
    hid_t attribute = 0;
    FB_TRY(attribute_open(object, name, &attribute));
    hid_t type = H5Aget_type(attribute);
    fb_status status = fb_h5_check(type, object, name, "find the type of the attribute");
    memset(text, 0, text_bytes);
    if (status == FB_OK &&
        (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0 || H5Tget_size(type) >= text_bytes))
        status = fail(object, name, "read the attribute", "it is not text of fixed length, or longer than any of ours");
    if (status == FB_OK)
        status = fb_h5_check(H5Aread(attribute, type, text), object, name, "read the attribute");
    fb_h5_close(&type);
    fb_h5_close(&attribute);
    return status;
}

fb_status fb_h5_attribute_read_int(hid_t object, const char *name, int *value)
{
    hid_t attribute = 0;
    FB_TRY(attribute_open(object, name, &attribute));
    fb_status status = fb_h5_check(H5Aread(attribute, H5T_NATIVE_INT, value), object, name, "read the attribute");
    fb_h5_close(&attribute);
    return status;
}
