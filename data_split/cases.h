/* SPDX-License-Identifier: Apache-2.0
 *
 * The cases of a BraTS cohort on disk:
 *
 *   DIR/HGG|LGG/<subject>/<subject>_{t1ce,t1,t2,flair,seg}.nii[.gz]     BraTS 2018 and 2019; the folder is the grade
 *   DIR/<subject>/<subject>_{t1ce,t1,t2,flair,seg}.nii[.gz]             BraTS 2020, FeTS; grade "NA"
 *
 * The site is read from the name Brats18_<site>_<case>_1; it is "NA" when the name has another form. Names that begin
 * with a dot, and files beside the case folders (survival and name tables), are not looked at.
 */
#pragma once

#include "core/file.h"
#include "data/volume.h"

enum { FB_CASE_FILES = FB_MODALITIES + 1, FB_GRADE_CHARS = 8 }; /* files in fb_modality_name's order, then seg */

typedef struct fb_case {
    char subject[FB_SUBJECT_CHARS];
    char site[FB_SUBJECT_CHARS];
    char grade[FB_GRADE_CHARS];
    char folder[FB_PATH_CHARS];
    int compressed[FB_CASE_FILES]; /* the file's name ends in .nii.gz */
    fb_status fault;               /* what is wrong with the folder; owned, FB_OK for a sound one */
} fb_case;

typedef struct fb_cases {
    int64_t count;
    fb_case *list; /* (count) by subject, in the order of strcmp; owned */
} fb_cases;

/* Lists the cases and looks into their folders: a missing, doubled or unexpected file is that case's `fault`.
 * Errors: no such folder, no case in it, a subject twice, an unexpected folder beside HGG and LGG. */
fb_status fb_cases_find(const char *folder, fb_cases **out) FB_MUST_USE;
void fb_cases_free(fb_cases **cases);

/* Reads and checks one case: all files sound, of one shape and (within 1e-3) one affine, every modality with a brain,
 * labels integers of {0, 1, 2, 4}. The five files are read in parallel (OpenMP). Errors name the file or the subject.
 */
fb_status fb_case_read(const fb_case *item, fb_volume **out) FB_MUST_USE;
