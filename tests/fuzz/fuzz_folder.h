/* SPDX-License-Identifier: Apache-2.0
 *
 * For targets whose parser wants a folder: one of this process in memory, removed when it ends.
 */
#pragma once

#include "fuzz.h"

#include <dirent.h>

/* Empty at the first call; of a process that was killed it stays behind. */
static inline const char *fuzz_folder(void);

/* The rest is for fuzz_folder. */
static char fuzz_folder_path[64];

static inline void fuzz_folder_remove(void)
{
    char path[FB_PATH_CHARS];
    DIR *folder = opendir(fuzz_folder_path);
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) {
        fb_status status = fb_path_join(path, fuzz_folder_path, entry->d_name);
        if (status == FB_OK)
            unlink(path);
        fb_error_free(&status);
    }
    if (folder)
        closedir(folder);
    rmdir(fuzz_folder_path);
}

static inline const char *fuzz_folder(void)
{
    if (!fuzz_folder_path[0]) {
        snprintf(fuzz_folder_path, sizeof fuzz_folder_path, "/dev/shm/fedbrats-fuzz-XXXXXX");
        FB_ASSERT(mkdtemp(fuzz_folder_path) != NULL);
        FB_ASSERT(atexit(fuzz_folder_remove) == 0);
    }
    return fuzz_folder_path;
}

/* Writes FOLDER/NAME, not flushed to disk. */
static inline void fuzz_folder_write(const char *name, const void *data, size_t size)
{
    char path[FB_PATH_CHARS];
    fuzz_must(fb_path_join(path, fuzz_folder(), name));
    FILE *file = fopen(path, "wb");
    FB_ASSERT(file != NULL);
    FB_ASSERT(fwrite(data, 1, size, file) == size);
    FB_ASSERT(fclose(file) == 0);
}
