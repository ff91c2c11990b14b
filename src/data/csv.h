/* SPDX-License-Identifier: Apache-2.0
 *
 * Small comma-separated tables with a header line: the manifest of a shard folder, the partition of a cohort. Columns
 * are found by name. Strict: every line has as many fields as the header, none is empty or holds control characters,
 * quotes are not supported. Line ends may be LF or CRLF, a UTF-8 byte order mark and empty lines at the end are
 * accepted.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef struct fb_csv fb_csv;

/* Reads a whole table. Errors name the file and the line. */
fb_status fb_csv_read(const char *path, fb_csv **out) FB_MUST_USE;
void fb_csv_free(fb_csv **csv);

/* Position of a column, compared without regard to case; -1 when it is absent. */
int fb_csv_column(const fb_csv *csv, const char *name);
fb_status fb_csv_need(const fb_csv *csv, const char *name, int *column) FB_MUST_USE; /* absent: an error */

int64_t fb_csv_rows(const fb_csv *csv);
const char *fb_csv_get(const fb_csv *csv, int64_t row, int column); /* borrowed, valid until free */
int64_t fb_csv_line(int64_t row);                                   /* 1-based line of the file, for messages */
