/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shard's reader and writer share: names in the file, and HDF5 calls that report as fb_status.
 */
#pragma once

#include "data/shard.h"

#include <hdf5.h>

#define FB_SHARD_HOSPITAL_FILE "hospital_%02d.h5"
#define FB_SHARD_TEST_FILE "test.h5"
#define FB_SHARD_MODALITIES "t1ce,t1,t2,flair"
#define FB_SHARD_LABELS "BraTS 2018: 1 necrotic core, 2 edema, 4 enhancing tumour"
enum { FB_SHARD_SCHEMA = 1, FB_SHARD_TEXT_CHARS = 128 };

const char *fb_split_name(fb_split split); /* "train", "validation", "test" */
fb_status fb_split_parse(const char *name, fb_split *split) FB_MUST_USE;

/* An error for the HDF5 call that just failed: "path: cannot <what> <name>: <HDF5's innermost reason>". Every further
 * call, even a close, makes HDF5 forget the reason: build the error first. */
fb_status fb_shard_h5_fail(const char *path, const char *what, const char *name) FB_MUST_USE;

/* Before the first call of HDF5: it shall print nothing itself, and at exit shall not try again to write what could not
 * be written: HDF5 1.10.8 crashes there (measured, with a full disk). */
void fb_shard_h5_start(void);

/* Attributes; `path` is for messages. A text is at most FB_SHARD_TEXT_CHARS - 1 bytes. */
fb_status fb_shard_h5_put_text(hid_t object, const char *path, const char *name, const char *text) FB_MUST_USE;
fb_status fb_shard_h5_put_int(hid_t object, const char *path, const char *name, int value) FB_MUST_USE;
fb_status fb_shard_h5_get_text(hid_t object, const char *path, const char *name,
                               char text[FB_SHARD_TEXT_CHARS]) FB_MUST_USE;
fb_status fb_shard_h5_get_int(hid_t object, const char *path, const char *name, int *value) FB_MUST_USE;
