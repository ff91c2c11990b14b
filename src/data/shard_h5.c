/* SPDX-License-Identifier: Apache-2.0 */
#include "data/shard_h5.h"

#include <stdio.h>
#include <string.h>

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

/* Keeps the innermost description; of a failed write, which HDF5 describes with times and addresses, only the system's
 * reason. */
static herr_t keep_reason(unsigned depth, const H5E_error2_t *error, void *reason)
{
    static const char mark[] = "error message = '";
    if (depth != 0 || !error->desc)
        return 0;
    const char *system = strstr(error->desc, mark);
    const char *text = system ? system + sizeof mark - 1 : error->desc;
    snprintf(reason, FB_SHARD_TEXT_CHARS, "%.*s", (int)strcspn(text, system ? "'\n" : "\n"), text);
    return 0;
}

fb_status fb_shard_h5_fail(const char *path, const char *what, const char *name)
{
    char reason[FB_SHARD_TEXT_CHARS] = "no reason given";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_reason, reason);
    H5Eclear2(H5E_DEFAULT);
    return FB_FAIL("%s: cannot %s %s: %s", path, what, name, reason);
}

void fb_shard_h5_start(void)
{
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static fb_status put(hid_t object, const char *path, const char *name, hid_t file_type, hid_t type, const void *value)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    fb_status status = FB_OK;
    if (attribute < 0 || H5Awrite(attribute, type, value) < 0)
        status = fb_shard_h5_fail(path, "write the attribute", name);
    if (attribute >= 0 && H5Aclose(attribute) < 0)
        status = fb_error_first(status, fb_shard_h5_fail(path, "write the attribute", name));
    H5Sclose(space);
    return status;
}

fb_status fb_shard_h5_put_text(hid_t object, const char *path, const char *name, const char *text)
{
    FB_ASSERT(text[0] != '\0' && strlen(text) < FB_SHARD_TEXT_CHARS);
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(text));
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    fb_status status = put(object, path, name, type, type, text);
    H5Tclose(type);
    return status;
}

fb_status fb_shard_h5_put_int(hid_t object, const char *path, const char *name, int value)
{
    return put(object, path, name, H5T_STD_I32LE, H5T_NATIVE_INT, &value);
}

static fb_status read_text(hid_t attribute, const char *path, const char *name, char text[FB_SHARD_TEXT_CHARS])
{
    const hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    const size_t size_bytes = H5Tget_size(type);
    fb_status status = FB_OK;
    memset(text, 0, FB_SHARD_TEXT_CHARS);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0 || size_bytes >= FB_SHARD_TEXT_CHARS ||
        H5Sget_simple_extent_npoints(space) != 1)
        status = FB_FAIL("%s: the attribute %s is not a text of at most %d bytes", path, name, FB_SHARD_TEXT_CHARS - 1);
    else if (H5Aread(attribute, type, text) < 0)
        status = fb_shard_h5_fail(path, "read the attribute", name);
    H5Tclose(type);
    H5Sclose(space);
    return status;
}

fb_status fb_shard_h5_get_text(hid_t object, const char *path, const char *name, char text[FB_SHARD_TEXT_CHARS])
{
    const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return fb_shard_h5_fail(path, "find the attribute", name);
    fb_status status = read_text(attribute, path, name, text);
    H5Aclose(attribute);
    return status;
}

fb_status fb_shard_h5_get_int(hid_t object, const char *path, const char *name, int *value)
{
    const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return fb_shard_h5_fail(path, "find the attribute", name);
    const hid_t space = H5Aget_space(attribute);
    fb_status status = FB_OK;
    if (H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attribute, H5T_NATIVE_INT, value) < 0)
        status = fb_shard_h5_fail(path, "read the attribute", name);
    H5Sclose(space);
    H5Aclose(attribute);
    return status;
}
