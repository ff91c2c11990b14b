/* SPDX-License-Identifier: Apache-2.0
 *
 * A file of named sections of bytes, whole or not at all: what a checkpoint keeps beside the model.
 *
 *   "FBSTATE1"                        8 bytes
 *   number of sections                int64
 *   name, size in bytes               per section: 48 characters filled up with '\0', int64
 *   the sections' bytes               in the same order, without gaps
 *   SHA-256 of all before             64 hexadecimal digits
 *
 * Integers are little-endian. Nothing in the file is taken for true before the hash is right. Not collective.
 */
#pragma once

#include "core/file.h"

enum { FB_STATE_NAME_CHARS = 48, FB_STATE_SECTIONS_MAX = 64 };

typedef struct fb_section {
    char name[FB_STATE_NAME_CHARS]; /* printable, not empty, unique */
    const void *data;               /* (size_bytes) borrowed */
    int64_t size_bytes;
} fb_section;

typedef struct fb_state {
    char path[FB_PATH_CHARS]; /* for messages */
    int count;
    fb_section sections[FB_STATE_SECTIONS_MAX];
    char *bytes; /* owned: the file; NULL in a state that is being put together */
    char sha256[FB_SHA256_CHARS];
} fb_state;

/* Adds a section to a state that will be written; start from a zeroed struct. data is borrowed until then. */
void fb_state_add(fb_state *state, const char *name, const void *data, int64_t size_bytes);

/* Writes it atomically, reads it back and compares; state->sha256 becomes the file's own hash. */
fb_status fb_state_write(fb_state *state, const char *path) FB_MUST_USE;

/* Reads and checks a file, or bytes (size_bytes, owned by the state from then on, also after an error; `path` is for
 * messages). Errors: what is wrong, with the file; *state is then empty. */
fb_status fb_state_read(const char *path, fb_state *state) FB_MUST_USE;
fb_status fb_state_parse(const char *path, char *bytes, int64_t size_bytes, fb_state *state) FB_MUST_USE;

/* Copies a section, whose size must be size_bytes. Errors: it is missing, or has another size. */
fb_status fb_state_get(const fb_state *state, const char *name, void *data, int64_t size_bytes) FB_MUST_USE;

/* NULL: there is none of the name. Borrowed. */
const fb_section *fb_state_find(const fb_state *state, const char *name);

void fb_state_free(fb_state *state); /* and empties it */
