/* SPDX-License-Identifier: Apache-2.0 */
#include "data/checksums.h"

#include "core/mem.h"

#include <stdio.h>
#include <string.h>

#define SUMS "SHA256SUMS"
enum { LIMIT_BYTES = 16 << 20, DIGITS = FB_SHA256_CHARS - 1 };

/* The line is 64 digits, a space, a space or '*', the name. */
static int is_line(const char *line, size_t chars)
{
    return chars > DIGITS + 2 && strspn(line, "0123456789abcdef") == DIGITS && line[DIGITS] == ' ' &&
           (line[DIGITS + 1] == ' ' || line[DIGITS + 1] == '*');
}

static fb_status find_line(const char *path, const char *text, const char *file, char sha256[FB_SHA256_CHARS])
{
    int64_t number = 1;
    for (const char *line = text; *line; number++) {
        const size_t chars = strcspn(line, "\n");
        if (!is_line(line, chars))
            return FB_FAIL("%s:%lld: not a line of sha256sum(1); write the shards again with brats-split", path,
                           (long long)number);
        if (chars - DIGITS - 2 == strlen(file) && strncmp(line + DIGITS + 2, file, strlen(file)) == 0) {
            snprintf(sha256, FB_SHA256_CHARS, "%.*s", (int)DIGITS, line);
            return FB_OK;
        }
        line += chars + (line[chars] == '\n');
    }
    return FB_FAIL("%s: no checksum for %s, so it cannot be trusted; write the shards again with brats-split", path,
                   file);
}

static fb_status find(const char *folder, const char *file, char sha256[FB_SHA256_CHARS])
{
    char path[FB_PATH_CHARS], *text = NULL;
    int64_t size_bytes = 0;
    FB_TRY(fb_path_join(path, folder, SUMS));
    FB_TRY(fb_file_read(path, LIMIT_BYTES, &text, &size_bytes));
    fb_status status = find_line(path, text, file, sha256);
    FB_FREE(text);
    return status;
}

fb_status fb_checksums_verify(const char *folder, const char *file)
{
    char path[FB_PATH_CHARS], expected[FB_SHA256_CHARS], found[FB_SHA256_CHARS];
    FB_TRY(find(folder, file, expected));
    FB_TRY(fb_path_join(path, folder, file));
    FB_TRY(fb_file_sha256(path, found));
    if (strcmp(expected, found) != 0)
        return FB_FAIL("%s: damaged: its SHA-256 is %.16s..., " SUMS
                       " says %.16s...; copy it again or write the shards "
                       "again with brats-split",
                       path, found, expected);
    return FB_OK;
}

fb_status fb_checksums_write(const char *folder, const char *const *files, int64_t count)
{
    char path[FB_PATH_CHARS], *text = NULL;
    size_t room_bytes = 1, used = 0;
    for (int64_t i = 0; i < count; i++)
        room_bytes += DIGITS + 3 + strlen(files[i]);
    FB_TRY(FB_ALLOC(text, (int64_t)room_bytes, SUMS));
    fb_status status = FB_OK;
    for (int64_t i = 0; i < count; i++) {
        char sha256[FB_SHA256_CHARS];
        FB_TRY_GOTO(status, fb_path_join(path, folder, files[i]), done);
        FB_TRY_GOTO(status, fb_file_sha256(path, sha256), done);
        used += (size_t)snprintf(text + used, room_bytes - used, "%s  %s\n", sha256, files[i]);
    }
    FB_TRY_GOTO(status, fb_path_join(path, folder, SUMS), done);
    status = fb_file_write_atomic(path, text, (int64_t)used);
done:
    FB_FREE(text);
    return status;
}

fb_status fb_checksums_identity(const char *folder, char sha256[FB_SHA256_CHARS])
{
    char path[FB_PATH_CHARS];
    FB_TRY(fb_path_join(path, folder, SUMS));
    return fb_file_sha256(path, sha256);
}
