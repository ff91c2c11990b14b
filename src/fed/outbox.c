/* SPDX-License-Identifier: Apache-2.0 */
#include "fed/outbox.h"

#include "core/kill.h"
#include "core/log.h"
#include "core/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const int64_t MESSAGE_MAX_BYTES = INT64_C(1) << 36;

struct fb_outbox {
    fb_ledger *ledger; /* owned */
    char folder[FB_PATH_CHARS];
};

fb_status fb_outbox_open_ledger(const char *folder, const char *who, const char *identity, int begun, fb_ledger **out)
{
    char parent[FB_PATH_CHARS], name[64], path[FB_PATH_CHARS];
    FB_TRY(fb_path_join(parent, folder, "ledger"));
    FB_TRY(fb_folder_make(parent));
    snprintf(name, sizeof name, "%s.txt", who);
    FB_TRY(fb_path_join(path, parent, name));
    return fb_ledger_open(path, identity, begun, out);
}

static fb_status open_parts(const char *folder, const char *who, const char *identity, int begun, fb_outbox *outbox)
{
    char parent[FB_PATH_CHARS];
    FB_TRY(fb_path_join(parent, folder, "outbox"));
    FB_TRY(fb_path_join(outbox->folder, parent, who));
    FB_TRY(fb_folder_make(outbox->folder));
    return fb_outbox_open_ledger(folder, who, identity, begun, &outbox->ledger);
}

fb_status fb_outbox_open(const char *folder, const char *who, const char *identity, int begun, fb_outbox **out)
{
    fb_outbox *outbox = NULL;
    FB_TRY(FB_ALLOC(outbox, 1, "outbox"));
    const fb_status status = open_parts(folder, who, identity, begun, outbox);
    if (status != FB_OK) {
        fb_outbox_close(&outbox);
        return status;
    }
    *out = outbox;
    return FB_OK;
}

void fb_outbox_close(fb_outbox **outbox)
{
    if (*outbox)
        fb_ledger_close(&(*outbox)->ledger);
    FB_FREE(*outbox);
}

void fb_letter_free(fb_letter *letter)
{
    FB_FREE(letter->bytes);
    *letter = (fb_letter){0};
}

const fb_ledger *fb_outbox_ledger(const fb_outbox *outbox)
{
    return outbox->ledger;
}

static fb_status message_path(const fb_outbox *outbox, uint32_t round, uint32_t attempt, char path[FB_PATH_CHARS])
{
    char name[64];
    snprintf(name, sizeof name, "%07" PRIu32 "_%" PRIu32 ".msg", round, attempt);
    return fb_path_join(path, outbox->folder, name);
}

/* Moves on from `attempt`, which need not be stored, over the later ones that are. */
static fb_status last_stored(const fb_outbox *outbox, uint32_t round, uint32_t *attempt)
{
    char path[FB_PATH_CHARS];
    for (uint32_t next = *attempt + 1;; next++) {
        int found = 0;
        FB_TRY(message_path(outbox, round, next, path));
        FB_TRY(fb_file_find(path, &found));
        if (!found)
            return FB_OK;
        *attempt = next;
    }
}

/* NULL: the bytes are the ledger's (entry NULL: not charged yet) and answer `expected`; otherwise what is wrong. */
static const char *fault(const fb_letter *letter, const fb_ledger_entry *entry, const fb_frame_info *expected)
{
    char sha256[FB_SHA256_CHARS];
    fb_frame_info info;
    fb_sha256(letter->bytes, letter->size_bytes, sha256);
    if (entry && strcmp(sha256, entry->message_sha256) != 0)
        return "was changed";
    fb_status status = fb_frame_peek(letter->bytes, letter->size_bytes, &info);
    if (status != FB_OK) {
        fb_error_free(&status);
        return "is damaged";
    }
    if (info.round != expected->round || info.hospital != expected->hospital || info.steps != expected->steps ||
        memcmp(info.model_hash, expected->model_hash, sizeof info.model_hash) != 0)
        return "answers another model";
    return NULL;
}

/* Leaves the letter empty, for a new attempt. */
static void give_up(const char *path, const char *why, int charged, uint32_t attempt, fb_letter *letter)
{
    if (charged)
        fb_log_warn("%s: the message was charged but %s: a new attempt with fresh noise, charged again", path, why);
    else
        fb_log_warn("%s: the message %s and was not sent: a new attempt", path, why);
    fb_letter_free(letter);
    letter->attempt = attempt;
}

void fb_outbox_give_up(fb_letter *letter, const char *why)
{
    give_up("a stored message", why, letter->charged, letter->attempt + 1, letter);
}

fb_status fb_outbox_has(const fb_outbox *outbox, uint32_t round, int *has)
{
    char path[FB_PATH_CHARS];
    uint32_t attempt = 0;
    FB_TRY(message_path(outbox, round, attempt, path));
    FB_TRY(fb_file_find(path, has));
    FB_TRY(last_stored(outbox, round, &attempt));
    *has |= attempt > 0;
    return FB_OK;
}

fb_status fb_outbox_find(const fb_outbox *outbox, const fb_frame_info *expected, uint32_t first_attempt, fb_letter *out)
{
    const fb_ledger_entry *entry = fb_ledger_last(outbox->ledger, expected->round);
    char path[FB_PATH_CHARS];
    int found = 0;
    uint32_t attempt = entry && entry->attempt > first_attempt ? entry->attempt : first_attempt;
    *out = (fb_letter){0};
    FB_TRY(last_stored(outbox, expected->round, &attempt));
    FB_TRY(message_path(outbox, expected->round, attempt, path));
    const int charged = entry && entry->attempt == attempt;
    const char *why = "is missing";
    out->attempt = attempt;
    FB_TRY(fb_file_find(path, &found)); /* one that cannot be reached now is not lost: it must not be paid twice */
    if (!charged && !found)
        return FB_OK;
    if (found) {
        char *text = NULL;
        FB_TRY(fb_file_read(path, MESSAGE_MAX_BYTES, &text, &out->size_bytes));
        out->bytes = (uint8_t *)text;
        why = fault(out, charged ? entry : NULL, expected);
    }
    out->stored = 1;
    out->charged = charged;
    if (why)
        give_up(path, why, charged, attempt + 1, out);
    return FB_OK;
}

static fb_status store(const fb_outbox *outbox, const fb_frame_info *info, fb_letter *letter)
{
    char path[FB_PATH_CHARS];
    FB_TRY(message_path(outbox, info->round, letter->attempt, path));
    FB_TRY(fb_file_write_atomic(path, letter->bytes, letter->size_bytes));
    letter->stored = 1;
    fb_kill_point("outbox.stored");
    return FB_OK;
}

static fb_status charge(fb_outbox *outbox, const fb_frame_info *info, fb_letter *letter)
{
    fb_ledger_entry entry = {
        .attempt = letter->attempt, .round = info->round, .hospital = info->hospital, .steps = info->steps};
    FB_TRY(fb_frame_peek_count(letter->bytes, letter->size_bytes, &entry.count));
    fb_sha256(letter->bytes, letter->size_bytes, entry.message_sha256);
    FB_TRY(fb_ledger_append(outbox->ledger, &entry));
    letter->charged = 1;
    fb_kill_point("outbox.charged");
    return FB_OK;
}

fb_status fb_outbox_post(fb_outbox *outbox, const fb_frame_info *info, fb_letter *letter)
{
    if (!letter->stored)
        FB_TRY(store(outbox, info, letter));
    return letter->charged ? FB_OK : charge(outbox, info, letter);
}
