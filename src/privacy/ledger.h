/* SPDX-License-Identifier: Apache-2.0
 *
 * The privacy ledger of a hospital: an append-only text file, flushed to disk (fsync) before a message is sent, so that
 * it never says less than what left the hospital. One line per release:
 *
 *   attempt round hospital steps count epsilon_round delta_round message_sha256 chain_sha256
 *
 * chain_sha256 = SHA-256(previous chain, line so far): a removed or edited line is noticed on open.
 */
#pragma once

#include "core/file.h"

typedef struct fb_ledger fb_ledger;

typedef struct fb_ledger_entry {
    uint32_t attempt, round, hospital;
    int64_t steps, count;
    double epsilon_round, delta_round;
    char message_sha256[FB_SHA256_CHARS];
} fb_ledger_entry;

/* Opens or creates; checks the chain of an existing file and adds up what it spent. Errors: not writable, malformed or
 * broken chain (line named). */
fb_status fb_ledger_open(const char *path, fb_ledger **out) FB_MUST_USE;
void fb_ledger_close(fb_ledger **ledger);

fb_status fb_ledger_append(fb_ledger *ledger, const fb_ledger_entry *entry) FB_MUST_USE; /* returns after fsync */

double fb_ledger_epsilon(const fb_ledger *ledger); /* basic composition: the sum over entries */
double fb_ledger_delta(const fb_ledger *ledger);
