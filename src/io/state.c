/* SPDX-License-Identifier: Apache-2.0 */
#include "io/state.h"

#include "core/mem.h"

#include <stdio.h>
#include <string.h>

static const char MAGIC[8] = {'F', 'B', 'S', 'T', 'A', 'T', 'E', '1'};
static const int64_t SIZE_MAX_BYTES = INT64_C(1) << 36;
enum { HASH_CHARS = FB_SHA256_CHARS - 1, ENTRY_BYTES = FB_STATE_NAME_CHARS + 8, TITLE_BYTES = 16 };

void fb_state_add(fb_state *state, const char *name, const void *data, int64_t size_bytes)
{
    FB_ASSERT(state->count < FB_STATE_SECTIONS_MAX && size_bytes >= 0);
    FB_ASSERT(strlen(name) > 0 && strlen(name) < FB_STATE_NAME_CHARS && !fb_state_find(state, name));
    fb_section *section = &state->sections[state->count++];
    *section = (fb_section){.data = data, .size_bytes = size_bytes};
    memcpy(section->name, name, strlen(name));
}

const fb_section *fb_state_find(const fb_state *state, const char *name)
{
    for (int i = 0; i < state->count; i++)
        if (strcmp(state->sections[i].name, name) == 0)
            return &state->sections[i];
    return NULL;
}

fb_status fb_state_get(const fb_state *state, const char *name, void *data, int64_t size_bytes)
{
    const fb_section *section = fb_state_find(state, name);
    if (!section)
        return FB_FAIL("%s: the section \"%s\" is missing", state->path, name);
    if (section->size_bytes != size_bytes)
        return FB_FAIL("%s: the section \"%s\" has %lld bytes instead of %lld", state->path, name,
                       (long long)section->size_bytes, (long long)size_bytes);
    if (size_bytes > 0)
        memcpy(data, section->data, (size_t)size_bytes);
    return FB_OK;
}

void fb_state_free(fb_state *state)
{
    FB_FREE(state->bytes);
    *state = (fb_state){0};
}

/* --- writing --- */

static char *put(char *at, const void *data, int64_t size_bytes)
{
    if (size_bytes > 0)
        memcpy(at, data, (size_t)size_bytes);
    return at + size_bytes;
}

static void encode(const fb_state *state, int64_t size_bytes, char *bytes)
{
    const int64_t count = state->count;
    char hash[FB_SHA256_CHARS], *at = put(bytes, MAGIC, sizeof MAGIC);
    at = put(at, &count, sizeof count);
    for (int i = 0; i < state->count; i++) {
        at = put(at, state->sections[i].name, FB_STATE_NAME_CHARS);
        at = put(at, &state->sections[i].size_bytes, sizeof state->sections[i].size_bytes);
    }
    for (int i = 0; i < state->count; i++)
        at = put(at, state->sections[i].data, state->sections[i].size_bytes);
    fb_sha256(bytes, size_bytes - HASH_CHARS, hash);
    put(at, hash, HASH_CHARS);
}

/* The disk may not have what it said it took. */
static fb_status compare(const char *path, const char *bytes, int64_t size_bytes)
{
    char *again = NULL;
    int64_t again_bytes = 0;
    FB_TRY(fb_file_read(path, SIZE_MAX_BYTES, &again, &again_bytes));
    const int same = again_bytes == size_bytes && memcmp(again, bytes, (size_t)size_bytes) == 0;
    FB_FREE(again);
    return same ? FB_OK : FB_FAIL("%s: what was read back differs from what was written: the disk is faulty", path);
}

fb_status fb_state_write(fb_state *state, const char *path)
{
    char *bytes = NULL;
    int64_t size_bytes = TITLE_BYTES + HASH_CHARS;
    for (int i = 0; i < state->count; i++)
        size_bytes += ENTRY_BYTES + state->sections[i].size_bytes;
    FB_TRY(FB_ALLOC_RAW(bytes, size_bytes, "state file"));
    encode(state, size_bytes, bytes);
    fb_sha256(bytes, size_bytes, state->sha256);
    fb_status status = fb_file_write_atomic(path, bytes, size_bytes);
    if (status == FB_OK)
        status = compare(path, bytes, size_bytes);
    FB_FREE(bytes);
    return status;
}

/* --- reading --- */

static int is_name(const char name[FB_STATE_NAME_CHARS])
{
    const size_t chars = strnlen(name, FB_STATE_NAME_CHARS);
    for (size_t i = 0; i < FB_STATE_NAME_CHARS; i++)
        if (i < chars ? name[i] <= ' ' || name[i] > '~' : name[i] != '\0')
            return 0;
    return chars > 0 && chars < FB_STATE_NAME_CHARS;
}

/* What the table says about section `i`, whose bytes begin at `begin`; `left` is what is left of the file for it and
 * those after it. Returns what is wrong; NULL: nothing. */
static const char *take_section(fb_state *state, const char *entry, const char *begin, int64_t left)
{
    fb_section section = {.data = begin};
    memcpy(section.name, entry, FB_STATE_NAME_CHARS);
    memcpy(&section.size_bytes, entry + FB_STATE_NAME_CHARS, sizeof section.size_bytes);
    if (!is_name(section.name))
        return "a section has no proper name";
    if (fb_state_find(state, section.name))
        return "two sections have one name";
    if (section.size_bytes < 0 || section.size_bytes > left)
        return "a section is longer than the file";
    state->sections[state->count++] = section;
    return NULL;
}

static const char *take_sections(fb_state *state, int64_t size_bytes)
{
    int64_t count = 0;
    memcpy(&count, state->bytes + sizeof MAGIC, sizeof count);
    if (count < 0 || count > FB_STATE_SECTIONS_MAX || TITLE_BYTES + count * ENTRY_BYTES + HASH_CHARS > size_bytes)
        return "the number of sections is impossible";
    const char *entry = state->bytes + TITLE_BYTES, *begin = entry + count * ENTRY_BYTES;
    const char *const end = state->bytes + size_bytes - HASH_CHARS;
    for (; state->count < count; entry += ENTRY_BYTES) {
        const char *fault = take_section(state, entry, begin, end - begin);
        if (fault)
            return fault;
        begin += state->sections[state->count - 1].size_bytes;
    }
    return begin == end ? NULL : "there are bytes behind the last section";
}

static const char *take(fb_state *state, int64_t size_bytes)
{
    char hash[FB_SHA256_CHARS];
    if (size_bytes < TITLE_BYTES + HASH_CHARS)
        return "it is too short";
    if (memcmp(state->bytes, MAGIC, sizeof MAGIC) != 0)
        return "it does not begin with FBSTATE1";
    fb_sha256(state->bytes, size_bytes - HASH_CHARS, hash);
    if (memcmp(hash, state->bytes + size_bytes - HASH_CHARS, HASH_CHARS) != 0)
        return "its hash is wrong: it was changed or cut off";
    return take_sections(state, size_bytes);
}

fb_status fb_state_parse(const char *path, char *bytes, int64_t size_bytes, fb_state *state)
{
    *state = (fb_state){.bytes = bytes};
    snprintf(state->path, sizeof state->path, "%s", path);
    const char *fault = take(state, size_bytes);
    if (fault) {
        fb_state_free(state);
        return FB_FAIL("%s: not a state file: %s", path, fault);
    }
    fb_sha256(bytes, size_bytes, state->sha256);
    return FB_OK;
}

fb_status fb_state_read(const char *path, fb_state *state)
{
    char *bytes = NULL;
    int64_t size_bytes = 0;
    *state = (fb_state){0};
    FB_TRY(fb_file_read(path, SIZE_MAX_BYTES, &bytes, &size_bytes));
    return fb_state_parse(path, bytes, size_bytes, state);
}
