/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine and its limits leave to this process: memory and disk space. Linux; where a figure cannot be read it
 * is FB_HOST_UNKNOWN.
 */
#pragma once

#include "core/file.h"

#define FB_HOST_UNKNOWN INT64_MAX

typedef struct fb_host_memory {
    int64_t free_bytes;     /* MemAvailable of the whole machine */
    int64_t cgroup_bytes;   /* left under the limits of the process's control groups, version 1 or 2; unknown: none */
    int64_t address_bytes;  /* left under this process's RLIMIT_AS; unknown: no limit */
    int64_t resident_bytes; /* of this process now */
    int64_t most_resident_bytes; /* at any time so far (VmHWM) */
} fb_host_memory;

/* root: "" for this machine; tests give a folder with proc/ and sys/ of their own. Never fails: see above. */
void fb_host_memory_read(const char *root, fb_host_memory *out);

/* The nearest existing folder at or above `path`, and whether a folder can be made there, by making and removing one
 * of another name. Errors: it cannot, with the system's reason. */
fb_status fb_folder_can_be_made(const char *path, char parent[FB_PATH_CHARS]) FB_MUST_USE;

/* Free space for ordinary users where `folder` lies. Errors: statvfs. */
fb_status fb_disk_free(const char *folder, int64_t *free_bytes) FB_MUST_USE;
