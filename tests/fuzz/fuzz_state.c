/* SPDX-License-Identifier: Apache-2.0
 *
 * The state file of a checkpoint. First byte of the input: bit 0 leaves the hash at the end as it is, which is
 * otherwise made right, so that what lies behind it is reached. The rest is the file. What is accepted is written again
 * to the same bytes; every section can be found and copied.
 */
#include "fuzz_folder.h"

#include "io/state.h"

enum { LIMIT_BYTES = 8 * FUZZ_INPUT_MAX, HASH_CHARS = FB_SHA256_CHARS - 1 };

static void check_sections(const fb_state *state)
{
    char copy[FUZZ_INPUT_MAX];
    for (int i = 0; i < state->count; i++) {
        const fb_section *section = &state->sections[i];
        FB_ASSERT(fb_state_find(state, section->name) == section);
        FB_ASSERT(section->size_bytes >= 0 && section->size_bytes <= FUZZ_INPUT_MAX);
        fuzz_must(fb_state_get(state, section->name, copy, section->size_bytes));
        FB_ASSERT(memcmp(copy, section->data, (size_t)section->size_bytes) == 0);
        fb_status status = fb_state_get(state, section->name, copy, section->size_bytes + 1);
        fuzz_refused(&status);
    }
    fb_status status = fb_state_get(state, "no such name", copy, 0);
    fuzz_refused(&status);
}

static void write_and_read(const fb_state *state, const char *bytes, size_t size)
{
    char path[FB_PATH_CHARS], *found = NULL;
    int64_t found_bytes = 0;
    fb_state copy = {.count = 0};
    for (int i = 0; i < state->count; i++)
        fb_state_add(&copy, state->sections[i].name, state->sections[i].data, state->sections[i].size_bytes);
    fuzz_must(fb_path_join(path, fuzz_folder(), "again.state"));
    fuzz_must(fb_state_write(&copy, path));
    FB_ASSERT(strcmp(copy.sha256, state->sha256) == 0);
    fuzz_must(fb_file_read(path, FUZZ_INPUT_MAX, &found, &found_bytes));
    FB_ASSERT(found_bytes == (int64_t)size && memcmp(found, bytes, size) == 0);
    FB_FREE(found);
    fuzz_must(fb_state_read(path, &copy));
    FB_ASSERT(copy.count == state->count && strcmp(copy.sha256, state->sha256) == 0);
    fb_state_free(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const clock_t start = clock();
    char file[FUZZ_INPUT_MAX], hash[FB_SHA256_CHARS], *bytes = NULL;
    fb_state state;
    if (size < 1 || size > FUZZ_INPUT_MAX)
        return 0;
    const int repaired = (data[0] & 1) == 0;
    memcpy(file, data + 1, --size);
    if (repaired && size >= HASH_CHARS) {
        fb_sha256(file, (int64_t)size - HASH_CHARS, hash);
        memcpy(file + size - HASH_CHARS, hash, HASH_CHARS);
    }
    fuzz_must(FB_ALLOC(bytes, (int64_t)size, "state file"));
    memcpy(bytes, file, size);
    fb_status status = fb_state_parse("input", bytes, (int64_t)size, &state);
    if (status != FB_OK) {
        FB_ASSERT(state.bytes == NULL && state.count == 0);
        fuzz_refused(&status);
    } else {
        check_sections(&state);
        write_and_read(&state, file, size);
        fb_state_free(&state);
    }
    return fuzz_end(start, LIMIT_BYTES);
}
