/* SPDX-License-Identifier: Apache-2.0
 *
 * The way out of a hospital (and, where the server adds the noise, out of the server): nothing is sent that is not on
 * disk and charged. For a message of a round
 *
 *   1. the encoded bytes go to FOLDER/outbox/WHO/ROUND_ATTEMPT.msg (temporary file, fsync, rename, fsync of the folder)
 *   2. a line with their SHA-256 goes to the ledger FOLDER/ledger/WHO.txt (fsync)
 *   3. they may be sent
 *
 * so that a run that ended between any two of these goes on without a second release of the same data:
 *   after 1, before 2: the message never left; it is charged and sent as it is
 *   after 2: the stored bytes are sent again, which tells a reader nothing new and is not charged
 *   charged, but the bytes are missing, changed, or answer another model: a new attempt, with fresh noise at another
 *     address and a charge of its own, and a warning. Messages of an earlier attempt are never sent again.
 * An attempt's number is fresh: neither the ledger nor a stored message has it. Every message of the run is kept.
 * Not collective.
 */
#pragma once

#include "codec/frame.h"
#include "privacy/ledger.h"

#define FB_OUTBOX_SERVER UINT32_C(0xffffff) /* the server's number in frames, ledgers and keys */

typedef struct fb_outbox fb_outbox;

/* A message on its way. Start from a zeroed struct. */
typedef struct fb_letter {
    uint8_t *bytes; /* owned; NULL: there is none yet, make one under `attempt` */
    int64_t size_bytes;
    uint32_t attempt;
    int stored;  /* the bytes come from an earlier run */
    int charged; /* the ledger has them */
} fb_letter;

/* who: "hospital_03", "server". Opens or makes folder and ledger (begun: the run has begun before, ledger.h); errors
 * are theirs. */
fb_status fb_outbox_open(const char *folder, const char *who, const char *identity, int begun,
                         fb_outbox **out) FB_MUST_USE;
void fb_outbox_close(fb_outbox **outbox);

/* The ledger alone, FOLDER/ledger/WHO.txt, of a hospital that sends no messages. */
fb_status fb_outbox_open_ledger(const char *folder, const char *who, const char *identity, int begun,
                                fb_ledger **out) FB_MUST_USE;

/* Looks for the message that answers `expected` (round, hospital, steps, model), of attempt first_attempt or later.
 * Nothing is written. Errors: the stored file cannot be read. */
fb_status fb_outbox_find(const fb_outbox *outbox, const fb_frame_info *expected, uint32_t first_attempt,
                         fb_letter *out) FB_MUST_USE;

/* Stores and charges what is not yet stored or charged; from then on the letter, an encoded frame, may be sent. */
fb_status fb_outbox_post(fb_outbox *outbox, const fb_frame_info *info, fb_letter *letter) FB_MUST_USE;

/* Does without a message that was found: the letter becomes that of a new attempt, which is charged by itself. */
void fb_outbox_give_up(fb_letter *letter, const char *why);

/* Whether there is a message of the round, of whatever attempt. Errors: the path is too long. */
fb_status fb_outbox_has(const fb_outbox *outbox, uint32_t round, int *has) FB_MUST_USE;

void fb_letter_free(fb_letter *letter); /* and zeroes it */

const fb_ledger *fb_outbox_ledger(const fb_outbox *outbox);
