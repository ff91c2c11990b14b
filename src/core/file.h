/* SPDX-License-Identifier: Apache-2.0
 *
 * Files: whole reads with a size limit, atomic writes, folders, SHA-256. Errors name the path and the system's reason.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>
#include <stdio.h>

enum { FB_PATH_CHARS = 4096, FB_SHA256_CHARS = 65 };

/* Joins with '/' into out[FB_PATH_CHARS]. Errors: too long. */
fb_status fb_path_join(char out[FB_PATH_CHARS], const char *folder, const char *name) FB_MUST_USE;

/* Whether there is a regular file, or a folder, of that name. Errors: the system cannot tell. */
fb_status fb_file_find(const char *path, int *found) FB_MUST_USE;
fb_status fb_folder_find(const char *path, int *found) FB_MUST_USE;

/* The same where nothing depends on the difference between "no" and "cannot tell". */
int fb_file_exists(const char *path);
int fb_folder_exists(const char *path);

/* Makes a folder and its parents; an existing folder is fine. */
fb_status fb_folder_make(const char *path) FB_MUST_USE;

/* Reads a whole file of at most limit_bytes. *data is owned by the caller, has one more byte, '\0', behind the end. */
fb_status fb_file_read(const char *path, int64_t limit_bytes, char **data, int64_t *size_bytes) FB_MUST_USE;

/* Writes PATH.tmp, flushes it to disk, renames it to PATH, flushes the folder: after a crash PATH holds the old or the
 * new contents, never a part. On error PATH is untouched and PATH.tmp is removed. */
fb_status fb_file_write_atomic(const char *path, const void *data, int64_t size_bytes) FB_MUST_USE;

/* The last half of that for files that a library wrote: flushes `temporary` to disk, renames it to `path`, flushes the
 * folder. */
fb_status fb_file_commit(const char *temporary, const char *path) FB_MUST_USE;

/* Takes the exclusive lock of an open file, without waiting. *taken = 0: another process has it. A file system without
 * locks gets a warning and counts as taken. */
fb_status fb_fd_lock(int fd, const char *path, int *taken) FB_MUST_USE;

/* Closes open_memstream's `stream`; *text is then complete, and malloc's. Errors: out of memory; *text is NULL then. */
fb_status fb_text_close(FILE *stream, char **text, const char *what) FB_MUST_USE;

/* write(2) to the end, or pwrite(2) to offset `at` where that is not negative, and fsync(2): whole, whatever interrupts
 * them. 0, or -1 with errno. */
int fb_fd_write(int fd, const void *data, size_t size_bytes, int64_t at);
int fb_fd_flush(int fd);

/* SHA-256 (FIPS 180-4) as 64 lower-case hexadecimal digits and '\0'. */
void fb_sha256(const void *data, int64_t size_bytes, char hex[FB_SHA256_CHARS]);
fb_status fb_file_sha256(const char *path, char hex[FB_SHA256_CHARS]) FB_MUST_USE;

/* CRC-32C (Castagnoli), as in iSCSI and SSE4.2; start with crc 0. */
uint32_t fb_crc32c(uint32_t crc, const void *data, int64_t size_bytes);
