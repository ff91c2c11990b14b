/* SPDX-License-Identifier: Apache-2.0
 *
 * HDF5 calls, checked: HDF5's own printing is switched off, and a failure becomes an error that names the file, the
 * object, what was tried and HDF5's innermost reason.
 *
 * Files are made and changed in memory, as images, and put on disk by ordinary writes. HDF5 on a full disk reports
 * success from H5Dwrite and H5Fclose, and crashes in its exit handler; this way it never meets one.
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

/* A new file in memory, with creation order tracked, as netCDF-4 wants it. `path` is for
 * messages only; HDF5 wants that there is no such file. */
fb_status fb_h5_image_create(const char *path, hid_t *file) FB_MUST_USE;

/* Opens the contents of a file, bytes (size_bytes), copied, for changes in memory. `path` as above. */
fb_status fb_h5_image_open(const char *path, const void *bytes, int64_t size_bytes, hid_t *file) FB_MUST_USE;

/* The image as bytes to write to disk, owned by the caller. */
fb_status fb_h5_image_bytes(hid_t file, char **bytes, int64_t *size_bytes) FB_MUST_USE;

/* Opens a file on disk to read, without HDF5's locks (HDF5 >= 1.10.7): some file systems have none. */
fb_status fb_h5_file_open(const char *path, hid_t *file) FB_MUST_USE;

/* Closes a handle of any kind and sets it to 0. */
void fb_h5_close(hid_t *handle);

fb_status fb_h5_group_create(hid_t parent, const char *name, hid_t *group) FB_MUST_USE;

/* A contiguous dataset of extent (axes), wholly allocated and filled with *fill now (NULL: zeros). */
fb_status fb_h5_dataset_create(hid_t parent, const char *name, hid_t type, int axes, const hsize_t *extent,
                               const void *fill, hid_t *dataset) FB_MUST_USE;

/* All values of a dataset; `path` is relative to `parent`. */
fb_status fb_h5_dataset_write(hid_t parent, const char *path, hid_t type, const void *values) FB_MUST_USE;
fb_status fb_h5_dataset_read(hid_t parent, const char *path, hid_t type, void *values) FB_MUST_USE;

/* Where in the file the values of a contiguous dataset lie, in bytes. */
fb_status fb_h5_dataset_offset(hid_t parent, const char *path, int64_t *offset_bytes) FB_MUST_USE;

/* The type of variable-length UTF-8 text: netCDF4-python crashes on coordinates of fixed-length text. */
fb_status fb_h5_text_type(hid_t *type) FB_MUST_USE;

/* Attributes of any object: text is stored as UTF-8 of its own length, values as one element of `type`. */
fb_status fb_h5_attribute_text(hid_t object, const char *name, const char *text) FB_MUST_USE;
fb_status fb_h5_attribute_value(hid_t object, const char *name, hid_t type, const void *value) FB_MUST_USE;

/* Dimension scales: makes `dataset` the coordinate called `name`; attaches it to an axis of another dataset. */
fb_status fb_h5_scale_set(hid_t dataset, const char *name) FB_MUST_USE;
fb_status fb_h5_scale_attach(hid_t dataset, hid_t scale, int axis) FB_MUST_USE;
