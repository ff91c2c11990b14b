/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run was: every option used, and the program, libraries, machine and data that decide its bits.
 */
#pragma once

#include "comm/comm.h"
#include "config/config.h"
#include "core/file.h"
#include "io/results.h"
#include "nn/op.h"

typedef struct fb_records {
    int count, capacity;
    fb_attribute *items; /* (count) owned, with their texts */
} fb_records;

/* Adds a copy of name and the formatted text. */
fb_status fb_records_add(fb_records *records, const char *name, const char *format, ...) FB_PRINTF(3, 4) FB_MUST_USE;
void fb_records_free(fb_records *records);

/* "section.key" -> value as text, for every option. */
fb_status fb_records_config(const fb_config *config, fb_records *records) FB_MUST_USE;

/* Program, compiler, flags, libraries, device, what computes the convolutions (NULL: no choice), host, job, command
 * line, start time, ranks, data set, hash of the options. */
fb_status fb_records_provenance(const fb_config *config, const fb_comm *comm, const fb_ops *ops,
                                const char *convolutions, int argc, char **argv, const char *data_sha256,
                                fb_records *records) FB_MUST_USE;

/* Refuses ranks whose options, data, build, instruction set or kind of GPU differ from rank 0's: their bits would, and
 * with other hospitals a rank could wait for ever. ops NULL: what computes is not compared. Collective. */
fb_status fb_identity_check(const fb_config *config, const fb_ops *ops, fb_comm *comm) FB_MUST_USE;
