/* SPDX-License-Identifier: Apache-2.0
 *
 * The HDF5 file of an audit: bounds and ROC curves with dimension scales, units and long names, as in results.h.
 */
#pragma once

#include "core/status.h"
#include "privacy/audit.h"
#include "privacy/audit_canary.h"

#include <stdint.h>

/* One audited mechanism. */
typedef struct fb_audit_row {
    const char *subject; /* borrowed */
    double epsilon, delta;
    fb_audit_result result;
} fb_audit_row;

/* One audited training. */
typedef struct fb_audit_training_row {
    const char *subject; /* borrowed */
    fb_canary_result result;
} fb_audit_training_row;

typedef struct fb_audit_report {
    int64_t seed;
    double confidence;
    const char *settings; /* the used options as text; borrowed */
    int row_count, training_count;
    const fb_audit_row *row;               /* (row_count) borrowed; the same pairs in each */
    const fb_audit_training_row *training; /* (training_count) borrowed */
} fb_audit_report;

/* Writes PATH.tmp and renames it; an existing PATH is refused. */
fb_status fb_audit_file_write(const char *path, const fb_audit_report *report) FB_MUST_USE;
