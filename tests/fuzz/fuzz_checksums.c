/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA256SUMS of a shard folder whose one file is empty: the input verifies it only with the checksum of nothing, in a
 * line of its own. What is accepted is written again and verifies it, too.
 */
#include "fuzz_folder.h"

#include "data/checksums.h"

enum { LIMIT_BYTES = 2 * FUZZ_INPUT_MAX };

static const char NAME[] = "manifest.csv";

static int is_line_of(const char *text, const char *line)
{
    const size_t chars = strlen(line);
    for (const char *at = text; (at = strstr(at, line)) != NULL; at++)
        if ((at == text || at[-1] == '\n') && (at[chars] == '\n' || at[chars] == '\0'))
            return 1;
    return 0;
}

/* Whether the text has the line, with either mark, as sha256sum(1) would look for it. */
static int has_line(const char *text)
{
    char line[2][FB_SHA256_CHARS + sizeof NAME + 2], sha256[FB_SHA256_CHARS];
    fb_sha256("", 0, sha256);
    snprintf(line[0], sizeof line[0], "%s  %s", sha256, NAME);
    snprintf(line[1], sizeof line[1], "%s *%s", sha256, NAME);
    return is_line_of(text, line[0]) || is_line_of(text, line[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    char text[FUZZ_INPUT_MAX + 1];
    const char *const names[] = {NAME};
    if (size > FUZZ_INPUT_MAX)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    fuzz_folder_write(NAME, "", 0);
    fuzz_folder_write("SHA256SUMS", data, size);
    fb_status status = fb_checksums_verify(fuzz_folder(), NAME);
    if (status != FB_OK) {
        fuzz_refused(&status);
    } else {
        FB_ASSERT(has_line(text));
        fuzz_must(fb_checksums_write(fuzz_folder(), names, 1));
        fuzz_must(fb_checksums_verify(fuzz_folder(), NAME));
    }
    return fuzz_end(start, LIMIT_BYTES);
}
