/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards: the HDF5 files that brats-split writes and fedbrats reads, one per hospital and one common test shard.
 *
 *   DIR/manifest.csv        subject,site,grade,hospital,split,depth,height,width,sha256   one line per case
 *   DIR/SHA256SUMS          of every file, in the format of sha256sum(1): `sha256sum -c` checks it
 *   DIR/hospital_00.h5 ...  split train and validation;   DIR/test.h5  split test
 *     /cases/<subject>/image  int16 or float32 (D, H, W, 4), chunked, shuffle + deflate + fletcher32
 *     /cases/<subject>/label  uint8 (D, H, W), the same
 *     attributes: of the file: schema_version, hospital, hospital_index, modalities, label_convention
 *                 of a case: split, grade, site, sha256 (of image bytes as stored, then label bytes)
 *
 * A shard is verified against SHA256SUMS before HDF5 sees it: the installed HDF5 crashes on damaged files.
 */
#pragma once

#include "data/volume.h"

#define FB_SHARD_HOSPITAL_FILE "hospital_%02d.h5"
#define FB_SHARD_TEST_FILE "test.h5"
#define FB_SHARD_MODALITIES "t1ce,t1,t2,flair"
#define FB_SHARD_LABELS "BraTS 2018: 1 necrotic core, 2 edema, 4 enhancing tumour"
enum { FB_SHARD_SCHEMA = 1, FB_SHARD_TEXT_BYTES = 128 /* more than any text attribute has */ };

typedef enum fb_split { FB_SPLIT_TRAIN = 0, FB_SPLIT_VALIDATION = 1, FB_SPLIT_TEST = 2 } fb_split;

const char *fb_split_name(fb_split split); /* "train", "validation", "test" */
fb_status fb_split_parse(const char *name, fb_split *split) FB_MUST_USE;

/* --- reading --- */

/* The list of a shard folder, from manifest.csv: cheap, read by every rank before anything else. */
typedef struct fb_cohort_hospital {
    char name[FB_SUBJECT_CHARS]; /* the site, e.g. "TCIA01" */
    char file[FB_SUBJECT_CHARS]; /* e.g. "hospital_03.h5" */
    int64_t train_cases, validation_cases;
} fb_cohort_hospital;

typedef struct fb_cohort {
    int hospital_count;
    fb_cohort_hospital *hospitals; /* owned */
    int64_t test_cases;
    char sha256[65]; /* of SHA256SUMS: the identity of the data set */
} fb_cohort;

/* Errors: folder or file missing, malformed line (file and line), a hospital without train cases. */
fb_status fb_cohort_open(const char *folder, fb_cohort **out) FB_MUST_USE;

/* The two halves of it: the list, and whether the shard of a hospital, or the test shard (index hospital_count), is
 * there. */
fb_status fb_cohort_read(const char *folder, fb_cohort **out) FB_MUST_USE;
fb_status fb_cohort_find(const fb_cohort *cohort, const char *folder, int index) FB_MUST_USE;
void fb_cohort_close(fb_cohort **cohort);

typedef struct fb_shard fb_shard; /* an open shard with a cache of decoded volumes */

/* Opens DIR/FILE after checking its SHA-256. cache_bytes limits the decoded volumes kept in memory; each volume is
 * decoded once as long as they fit. Errors: missing, damaged (checksum), other schema, unreadable. */
fb_status fb_shard_open(const char *folder, const char *file, int64_t cache_bytes, fb_shard **out) FB_MUST_USE;
void fb_shard_close(fb_shard **shard);

int64_t fb_shard_cases(const fb_shard *shard, fb_split split);

/* Shape and subject of case `index` of `split`; borrowed, valid until close. */
const char *fb_shard_subject(const fb_shard *shard, fb_split split, int64_t index);
const int64_t *fb_shard_shape(const fb_shard *shard, fb_split split, int64_t index);

/* The case itself, decoded; borrowed until the next call on this shard. Cases of a split are in manifest order. */
fb_status fb_shard_volume(fb_shard *shard, fb_split split, int64_t index, const fb_volume **out) FB_MUST_USE;

/* --- writing (brats-split, tests) --- */

typedef struct fb_shard_writer fb_shard_writer;

/* Creates DIR/FILE.tmp; finish verifies, flushes and renames it. The test shard's hospital is "test", its index -1. */
fb_status fb_shard_writer_create(const char *folder, const char *file, const char *hospital, int hospital_index,
                                 fb_shard_writer **out) FB_MUST_USE;
/* Appends a case; image values that are all integers in the int16 range are stored as int16, others as float32.
 * sha256 receives the case's checksum. */
fb_status fb_shard_writer_add(fb_shard_writer *writer, const fb_volume *volume, fb_split split, const char *grade,
                              const char *site, char sha256[65]) FB_MUST_USE;
/* Closes, reopens and reads back the file, then renames it. */
fb_status fb_shard_writer_finish(fb_shard_writer **writer) FB_MUST_USE;
void fb_shard_writer_abort(fb_shard_writer **writer); /* closes and removes the temporary file; accepts NULL inside */
