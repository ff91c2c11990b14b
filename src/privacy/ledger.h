/* SPDX-License-Identifier: Apache-2.0
 *
 * The privacy ledger of a hospital: an append-only text file, flushed to disk (fsync) before a message is sent, so that
 * it never says less than what left the hospital. The first line fixes what a release is; then one line per release:
 *
 *   fedbrats privacy ledger 2: IDENTITY chain_sha256
 *   attempt round hospital steps count message_sha256 chain_sha256
 *
 * One process at a time has it: an open ledger is locked (flock).
 *
 * chain_sha256 = SHA-256(previous chain, line so far): a removed or edited line is noticed on open. The spending is not
 * in it: an accountant makes it from the identity and the number of lines.
 */
#pragma once

#include "core/file.h"

enum { FB_LEDGER_IDENTITY_CHARS = 2048, FB_LEDGER_LINE_BYTES = 176 /* about, of an entry */ };

typedef struct fb_ledger fb_ledger;

typedef struct fb_ledger_entry {
    uint32_t attempt, round, hospital;
    int64_t steps, count;
    char message_sha256[FB_SHA256_CHARS];
} fb_ledger_entry;

/* How far a ledger is: its releases, and the chain after the last of them. Plain data. */
typedef struct fb_ledger_position {
    int64_t releases;
    char chain_sha256[FB_SHA256_CHARS];
} fb_ledger_position;

/* Opens or creates and locks; checks the chain of an existing file. begun: the run has begun before, so that a missing
 * ledger is an error, since nobody knows any more what it charged; otherwise one without a release is made anew. A last
 * line without its line feed, which was being written when the program ended, is cut off with a notice: its message was
 * not sent. identity: one line. Errors: not writable, in use, malformed or broken chain (line named), another identity
 * (the first part that differs is shown). */
fb_status fb_ledger_open(const char *path, const char *identity, int begun, fb_ledger **out) FB_MUST_USE;
void fb_ledger_close(fb_ledger **ledger);

fb_status fb_ledger_append(fb_ledger *ledger, const fb_ledger_entry *entry) FB_MUST_USE; /* returns after fsync */

int64_t fb_ledger_releases(const fb_ledger *ledger);                       /* lines: each of them is charged */
int64_t fb_ledger_releases_until(const fb_ledger *ledger, uint32_t round); /* of the rounds up to this one */

/* The last attempt of a round; NULL: none. Borrowed until the next append. */
const fb_ledger_entry *fb_ledger_last(const fb_ledger *ledger, uint32_t round);

fb_ledger_position fb_ledger_where(const fb_ledger *ledger);

/* Whether the ledger has once been there: all of its lines until then are the same. */
int fb_ledger_was_at(const fb_ledger *ledger, const fb_ledger_position *position);
