/* SPDX-License-Identifier: Apache-2.0
 *
 * HDF5 calls, checked: a failure becomes an error that names the file, the object, what was tried and HDF5's innermost
 * reason. Every further call, even a close, makes HDF5 forget the reason: check at once.
 *
 * Handles are hid_t, owned by the caller, closed and set to 0 by fb_h5_close; 0 means none.
 */
#pragma once

#include "core/status.h"

#include <hdf5.h>
#include <stdint.h>

/* FB_OK when `result`, of the call that was just made, is not negative. `location` is any open handle in the file;
 * `name` an object below it, or NULL for `location` itself. */
fb_status fb_h5_check(hid_t result, hid_t location, const char *name, const char *action) FB_MUST_USE;

/* The same for a call without an open handle: "path: cannot `action` the HDF5 file: reason". */
fb_status fb_h5_check_file(hid_t result, const char *path, const char *action) FB_MUST_USE;

/* The properties to open or create a file with; every use of HDF5 begins here. Negative: check before another call. */
hid_t fb_h5_file_access(void);

/* Creation order as HDF5 properties take it. */
enum { FB_H5_ORDERED = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED };

/* Opens a file on disk to read, without HDF5's locks (HDF5 >= 1.10.7): many ranks read the test shard, and some file
 * systems have none. */
fb_status fb_h5_file_open(const char *path, hid_t *file) FB_MUST_USE;

/* Closes a handle of any kind and sets it to 0. What must not be lost is flushed, or closed by HDF5's own call and
 * checked: this ignores errors. */
void fb_h5_close(hid_t *handle);

/* A group that remembers the order in which members and attributes were made (FB_H5_ORDERED) or not (0). Without times,
 * so that equal contents give equal files. */
fb_status fb_h5_group_create(hid_t parent, const char *name, unsigned member_order, unsigned attribute_order,
                             hid_t *group) FB_MUST_USE;

/* A dataset of extent (axes) with the properties `creation` (H5P_DATASET_CREATE, borrowed). */
fb_status fb_h5_dataset_create(hid_t parent, const char *name, hid_t type, int axes, const hsize_t *extent,
                               hid_t creation, hid_t *dataset) FB_MUST_USE;

/* All values of a dataset, as `type`; `path` is relative to `parent`. */
fb_status fb_h5_dataset_open(hid_t parent, const char *path, hid_t *dataset) FB_MUST_USE;
fb_status fb_h5_dataset_read(hid_t parent, const char *path, hid_t type, void *values) FB_MUST_USE;
fb_status fb_h5_dataset_count(hid_t parent, const char *path, int64_t *values) FB_MUST_USE; /* how many there are */

/* The type of UTF-8 text of a length, or H5T_VARIABLE, that ends with '\0'. `location` and `name` as of fb_h5_check. */
fb_status fb_h5_text_type(hid_t location, const char *name, size_t size_bytes, hid_t *type) FB_MUST_USE;

/* Attributes of any object: text is stored as UTF-8 of its own length, values as one element of `type`. */
fb_status fb_h5_attribute_text(hid_t object, const char *name, const char *text) FB_MUST_USE;
fb_status fb_h5_attribute_value(hid_t object, const char *name, hid_t type, const void *value) FB_MUST_USE;

/* Reads an attribute, which must be text of fixed length and less than text_bytes, or one number. */
fb_status fb_h5_attribute_read_text(hid_t object, const char *name, char *text, size_t text_bytes) FB_MUST_USE;
fb_status fb_h5_attribute_read_int(hid_t object, const char *name, int *value) FB_MUST_USE;
