/* SPDX-License-Identifier: Apache-2.0 */
#include "core/file.h"

#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

fb_status fb_path_join(char out[FB_PATH_CHARS], const char *folder, const char *name)
{
    const int chars = snprintf(out, FB_PATH_CHARS, "%s/%s", folder, name);
    if (chars < 0 || chars >= FB_PATH_CHARS)
        return FB_FAIL("%s/%s: the path is longer than %d characters", folder, name, FB_PATH_CHARS - 1);
    return FB_OK;
}

int fb_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

int fb_folder_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static fb_status find(const char *path, mode_t type, int *found)
{
    struct stat info;
    *found = 0;
    if (stat(path, &info) == 0)
        *found = (info.st_mode & S_IFMT) == type;
    else if (errno != ENOENT && errno != ENOTDIR)
        return FB_FAIL("%s: cannot look whether it exists: %s", path, strerror(errno));
    return FB_OK;
}

fb_status fb_file_find(const char *path, int *found)
{
    return find(path, S_IFREG, found);
}

fb_status fb_folder_find(const char *path, int *found)
{
    return find(path, S_IFDIR, found);
}

fb_status fb_folder_make(const char *path)
{
    char part[FB_PATH_CHARS];
    const size_t chars = strlen(path);
    if (chars == 0 || chars >= sizeof part)
        return FB_FAIL("\"%s\": not a usable folder name", path);
    memcpy(part, path, chars + 1);
    for (size_t i = 1; i <= chars; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0777) != 0) {
            const int reason = errno;
            int found = 0;
            if (reason == EEXIST)
                FB_TRY(fb_folder_find(part, &found));
            if (!found)
                return FB_FAIL("%s: cannot make the folder: %s", part, strerror(reason));
        }
        part[i] = path[i];
    }
    return FB_OK;
}

fb_status fb_file_read(const char *path, int64_t limit_bytes, char **data, int64_t *size_bytes)
{
    fb_status status = FB_OK;
    FILE *file = fopen(path, "rb");
    if (!file)
        return FB_FAIL("%s: cannot open: %s", path, strerror(errno));
    struct stat info;
    char *buffer = NULL;
    if (fstat(fileno(file), &info) != 0) {
        status = FB_FAIL("%s: cannot read its size: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        status = FB_FAIL("%s: not a regular file", path);
        goto done;
    }
    if (info.st_size > limit_bytes) {
        status = FB_FAIL("%s: %lld bytes exceed the limit of %lld bytes", path, (long long)info.st_size,
                         (long long)limit_bytes);
        goto done;
    }
    FB_TRY_GOTO(status, fb_mem_alloc(&buffer, info.st_size + 1, 1, path), done);
    if (fread(buffer, 1, (size_t)info.st_size, file) != (size_t)info.st_size)
        status = FB_FAIL("%s: cannot read %lld bytes: %s", path, (long long)info.st_size,
                         ferror(file) ? strerror(errno) : "the file became shorter");
done:
    fclose(file);
    if (status != FB_OK) {
        FB_FREE(buffer);
        return status;
    }
    *data = buffer;
    *size_bytes = info.st_size;
    return FB_OK;
}

static fb_status sync_path(const char *path, int flags)
{
    const int fd = open(path, flags);
    if (fd < 0)
        return FB_FAIL("%s: cannot open to flush: %s", path, strerror(errno));
    const int failed = fb_fd_flush(fd) != 0;
    const int reason = errno;
    (void)close(fd); /* what was written is on disk, or the flush has failed */
    if (failed)
        return FB_FAIL("%s: cannot flush to disk: %s", path, strerror(reason));
    return FB_OK;
}

int fb_fd_write(int fd, const void *data, size_t size_bytes, int64_t at)
{
    const char *bytes = data;
    while (size_bytes > 0) {
        const ssize_t done = at < 0 ? write(fd, bytes, size_bytes) : pwrite(fd, bytes, size_bytes, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = ENOSPC;
        if (done <= 0)
            return -1;
        bytes += done;
        size_bytes -= (size_t)done;
        at += at < 0 ? 0 : done;
    }
    return 0;
}

int fb_fd_flush(int fd)
{
    while (fsync(fd) != 0)
        if (errno != EINTR)
            return -1;
    return 0;
}

fb_status fb_fd_lock(int fd, const char *path, int *taken)
{
    enum { ENOTSUPP = 524 /* of the kernel; some network file systems let it out */ };
    *taken = flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (*taken || errno == EWOULDBLOCK)
        return FB_OK;
    if (errno != ENOLCK && errno != ENOSYS && errno != EOPNOTSUPP && errno != ENOTSUPP)
        return FB_FAIL("%s: cannot lock: %s", path, strerror(errno));
    fb_log_warn("%s: this file system has no locks (%s): see to it that no other process uses the folder", path,
                strerror(errno));
    *taken = 1;
    return FB_OK;
}

fb_status fb_text_close(FILE *stream, char **text, const char *what)
{
    const int failed = ferror(stream);
    if (fclose(stream) == 0 && !failed && *text) /* the C library leaves NULL where its last allocation failed */
        return FB_OK;
    free(*text);
    *text = NULL;
    return FB_FAIL("%s: out of memory", what);
}

fb_status fb_file_commit(const char *temporary, const char *path)
{
    char folder[FB_PATH_CHARS];
    fb_kill_point("file.written");
    FB_TRY(sync_path(temporary, O_RDONLY));
    fb_kill_point("file.flushed");
    if (rename(temporary, path) != 0)
        return FB_FAIL("%s: cannot rename to %s: %s", temporary, path, strerror(errno));
    fb_kill_point("file.renamed");
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        return sync_path(".", O_RDONLY | O_DIRECTORY);
    slash[slash == folder ? 1 : 0] = '\0';
    return sync_path(folder, O_RDONLY | O_DIRECTORY);
}

static fb_status write_all(const char *path, const void *data, int64_t size_bytes)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return FB_FAIL("%s: cannot create: %s", path, strerror(errno));
    int reason = 0;
    if (fwrite(data, 1, (size_t)size_bytes, file) != (size_t)size_bytes || fflush(file) != 0)
        reason = errno;
    if (fclose(file) != 0 && reason == 0)
        reason = errno;
    if (reason != 0)
        return FB_FAIL("%s: cannot write %lld bytes: %s", path, (long long)size_bytes, strerror(reason));
    return FB_OK;
}

fb_status fb_file_write_atomic(const char *path, const void *data, int64_t size_bytes)
{
    char temporary[FB_PATH_CHARS];
    const int chars = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (chars < 0 || (size_t)chars >= sizeof temporary)
        return FB_FAIL("%s: the path is longer than %d characters", path, FB_PATH_CHARS - 5);
    fb_status status = write_all(temporary, data, size_bytes);
    if (status == FB_OK)
        status = fb_file_commit(temporary, path);
    if (status != FB_OK)
        unlink(temporary);
    return status;
}

static void to_hex(const unsigned char digest[crypto_hash_sha256_BYTES], char hex[FB_SHA256_CHARS])
{
    sodium_bin2hex(hex, FB_SHA256_CHARS, digest, crypto_hash_sha256_BYTES);
}

void fb_sha256(const void *data, int64_t size_bytes, char hex[FB_SHA256_CHARS])
{
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(digest, data, (unsigned long long)size_bytes);
    to_hex(digest, hex);
}

fb_status fb_file_sha256(const char *path, char hex[FB_SHA256_CHARS])
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return FB_FAIL("%s: cannot open: %s", path, strerror(errno));
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    unsigned char buffer[1 << 16], digest[crypto_hash_sha256_BYTES];
    size_t got;
    while ((got = fread(buffer, 1, sizeof buffer, file)) > 0)
        crypto_hash_sha256_update(&state, buffer, got);
    const int failed = ferror(file), reason = errno;
    fclose(file);
    if (failed)
        return FB_FAIL("%s: cannot read: %s", path, strerror(reason));
    crypto_hash_sha256_final(&state, digest);
    to_hex(digest, hex);
    return FB_OK;
}

#ifdef __SSE4_2__
/* The crc32 instruction has three cycles of latency and a throughput of one a cycle: three stretches of LANE_WORDS
 * words are run side by side. The register is linear, so what a stretch leaves is what its start leaves after as many
 * zeros (zeros[i] for bit i of it), plus what the stretch leaves of an empty register. */
enum { LANE_WORDS = 512, LANE_BYTES = 8 * LANE_WORDS, LANES_FROM_BYTES = 1 << 18 };

static uint64_t crc_word(uint64_t crc, const unsigned char *byte)
{
    uint64_t word;
    memcpy(&word, byte, sizeof word);
    return __builtin_ia32_crc32di(crc, word);
}

static uint32_t after_zeros(const uint32_t zeros[32], uint32_t crc)
{
    uint32_t sum = 0;
    for (; crc != 0; crc &= crc - 1)
        sum ^= zeros[__builtin_ctz(crc)];
    return sum;
}

/* Runs over as many whole triples of lanes as there are; returns the bytes done. */
static int64_t crc_lanes(uint32_t *crc, const unsigned char *byte, int64_t size_bytes)
{
    uint32_t zeros[32];
    for (int bit = 0; bit < 32; bit++) {
        uint64_t state = 1u << bit;
        for (int word = 0; word < LANE_WORDS; word++)
            state = __builtin_ia32_crc32di(state, 0);
        zeros[bit] = (uint32_t)state;
    }
    const int64_t triples = size_bytes / (3 * LANE_BYTES);
    for (int64_t triple = 0; triple < triples; triple++, byte += 3 * LANE_BYTES) {
        uint64_t a = *crc, b = 0, c = 0;
        for (int at = 0; at < LANE_BYTES; at += 8) {
            a = crc_word(a, byte + at);
            b = crc_word(b, byte + LANE_BYTES + at);
            c = crc_word(c, byte + 2 * LANE_BYTES + at);
        }
        *crc = after_zeros(zeros, after_zeros(zeros, (uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
    }
    return triples * 3 * LANE_BYTES;
}
#endif

uint32_t fb_crc32c(uint32_t crc, const void *data, int64_t size_bytes)
{
    const unsigned char *byte = data;
    crc = ~crc;
#ifdef __SSE4_2__
    const int64_t done_bytes = size_bytes >= LANES_FROM_BYTES ? crc_lanes(&crc, byte, size_bytes) : 0;
    byte += done_bytes;
    size_bytes -= done_bytes;
    for (; size_bytes >= 8; size_bytes -= 8, byte += 8)
        crc = (uint32_t)crc_word(crc, byte);
#endif
    for (; size_bytes > 0; size_bytes--, byte++) {
        crc ^= *byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1u ? 0x82F63B78u : 0u);
    }
    return ~crc;
}
