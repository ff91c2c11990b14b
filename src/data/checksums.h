/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA256SUMS: the checksums of the files of a shard folder, in the format of sha256sum(1).
 */
#pragma once

#include "core/file.h"

#include <stdint.h>

/* Checks DIR/FILE against its line in DIR/SHA256SUMS. Errors: no SHA256SUMS, a malformed line (named), no line for the
 * file, file missing or unreadable, another checksum (both are given). */
fb_status fb_checksums_verify(const char *folder, const char *file) FB_MUST_USE;

/* Writes DIR/SHA256SUMS for `count` files of the folder, atomically. */
fb_status fb_checksums_write(const char *folder, const char *const *files, int64_t count) FB_MUST_USE;

/* SHA-256 of SHA256SUMS itself: the identity of the whole folder. */
fb_status fb_checksums_identity(const char *folder, char sha256[FB_SHA256_CHARS]) FB_MUST_USE;
