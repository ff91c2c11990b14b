/* SPDX-License-Identifier: Apache-2.0 */
#include "core/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { LINE_CHARS = 1024 };

static FILE *open_under(const char *root, const char *path)
{
    char whole[FB_PATH_CHARS];
    const int chars = snprintf(whole, sizeof whole, "%s%s", root, path);
    return chars < (int)sizeof whole ? fopen(whole, "r") : NULL;
}

/* The value of a line "KEY:   VALUE kB" in bytes. */
static int64_t read_kib(const char *root, const char *path, const char *key)
{
    char line[LINE_CHARS];
    int64_t bytes = FB_HOST_UNKNOWN;
    FILE *file = open_under(root, path);
    while (file && bytes == FB_HOST_UNKNOWN && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            bytes = strtoll(line + strlen(key) + 1, NULL, 10) * 1024;
    if (file)
        fclose(file);
    return bytes;
}

/* A file that holds one number of bytes; "max" and what cannot be read are unknown. */
static int64_t read_number(const char *root, const char *folder, const char *name)
{
    char path[FB_PATH_CHARS], text[64] = "";
    char *end = text;
    const int chars = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = chars < (int)sizeof path ? open_under(root, path) : NULL;
    if (!file)
        return FB_HOST_UNKNOWN;
    const int64_t number = fgets(text, sizeof text, file) ? strtoll(text, &end, 10) : 0;
    fclose(file);
    return end == text ? FB_HOST_UNKNOWN : number;
}

/* What a group's limit leaves. Memory that only caches files can be given back, so it does not count as used. */
static int64_t left_in(const char *root, const char *folder, const char *limit_name, const char *usage_name)
{
    char path[FB_PATH_CHARS], line[LINE_CHARS];
    const int64_t limit = read_number(root, folder, limit_name), used = read_number(root, folder, usage_name);
    int64_t cached = 0;
    if (limit == FB_HOST_UNKNOWN || used == FB_HOST_UNKNOWN)
        return FB_HOST_UNKNOWN;
    const int chars = snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *file = chars < (int)sizeof path ? open_under(root, path) : NULL;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "inactive_file ", 14) == 0 || strncmp(line, "total_inactive_file ", 20) == 0)
            cached = strtoll(strchr(line, ' '), NULL, 10);
    if (file)
        fclose(file);
    const int64_t left = limit - used + cached;
    return left > 0 ? left : 0;
}

/* The least that the group and those above it leave. `folder` is cut short on the way. */
static int64_t left_up_from(const char *root, char *folder, size_t mount_chars, const char *limit_name,
                            const char *usage_name)
{
    int64_t least = FB_HOST_UNKNOWN;
    for (;;) {
        const int64_t left = left_in(root, folder, limit_name, usage_name);
        least = left < least ? left : least;
        char *last = strrchr(folder, '/');
        if (strlen(folder) <= mount_chars || !last)
            return least;
        *(last < folder + mount_chars ? folder + mount_chars : last) = '\0';
    }
}

/* /proc/self/cgroup: "0::/path" is version 2, "N:...memory...:/path" version 1. */
static int64_t left_in_groups(const char *root)
{
    char line[LINE_CHARS], folder[LINE_CHARS + 64];
    int64_t least = FB_HOST_UNKNOWN;
    FILE *file = open_under(root, "/proc/self/cgroup");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        const char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        const int second = path == names + 1;
        const char *memory = strstr(names, "memory");
        if (!second && (!memory || memory > path))
            continue;
        const char *mount = second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
        snprintf(folder, sizeof folder, "%s%s", mount, path + 1);
        const int64_t left =
            second ? left_up_from(root, folder, strlen(mount), "memory.max", "memory.current")
                   : left_up_from(root, folder, strlen(mount), "memory.limit_in_bytes", "memory.usage_in_bytes");
        least = left < least ? left : least;
    }
    if (file)
        fclose(file);
    return least;
}

void fb_host_memory_read(const char *root, fb_host_memory *out)
{
    struct rlimit limit;
    const int64_t mapped = read_kib(root, "/proc/self/status", "VmSize");
    out->free_bytes = read_kib(root, "/proc/meminfo", "MemAvailable");
    out->cgroup_bytes = left_in_groups(root);
    out->resident_bytes = read_kib(root, "/proc/self/status", "VmRSS");
    out->most_resident_bytes = read_kib(root, "/proc/self/status", "VmHWM");
    out->address_bytes = FB_HOST_UNKNOWN;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && mapped != FB_HOST_UNKNOWN)
        out->address_bytes = (int64_t)limit.rlim_cur > mapped ? (int64_t)limit.rlim_cur - mapped : 0;
}

fb_status fb_folder_can_be_made(const char *path, char parent[FB_PATH_CHARS])
{
    char probe[FB_PATH_CHARS + 32];
    struct stat info;
    if (snprintf(parent, FB_PATH_CHARS, "%s", path) >= FB_PATH_CHARS)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 1);
    while (stat(parent, &info) != 0) {
        if (errno != ENOENT)
            return FB_FAIL("%s: %s", parent, strerror(errno));
        char *last = strrchr(parent, '/');
        if (last)
            *(last == parent ? last + 1 : last) = '\0';
        else
            snprintf(parent, FB_PATH_CHARS, ".");
    }
    if (!S_ISDIR(info.st_mode))
        return FB_FAIL("%s: is not a folder", parent);
    snprintf(probe, sizeof probe, "%s/.fedbrats-probe-XXXXXX", parent);
    if (!mkdtemp(probe))
        return FB_FAIL("%s: nothing can be written there: %s", parent, strerror(errno));
    (void)rmdir(probe);
    return FB_OK;
}

fb_status fb_disk_free(const char *folder, int64_t *free_bytes)
{
    struct statvfs info;
    if (statvfs(folder, &info) != 0)
        return FB_FAIL("%s: the free space is unknown: %s", folder, strerror(errno));
    *free_bytes = (int64_t)info.f_bavail * (int64_t)info.f_frsize;
    return FB_OK;
}
