/* SPDX-License-Identifier: Apache-2.0
 *
 * run.resume: what a run finds in its folder, and what must hold for it to go on there. After a checkpoint
 * (fed/checkpoint.h) it repeats the rounds that the interrupted run had begun: from the messages in outbox/ where there
 * are some, which gives the same models without training or a second release, otherwise by training again. Rank 0 only
 * where nothing else is said.
 */
#pragma once

#include "fed/federation.h"

typedef enum fb_folder {
    FB_FOLDER_NEW,     /* nothing of a run */
    FB_FOLDER_BEGUN,   /* a run that did not come to its end, or may now go on beyond it */
    FB_FOLDER_COMPLETE /* a run that has ended, and its RESULT */
} fb_folder;

/* Looks into run.output. Errors (usage): run.resume = never and it is not empty; require and there is no run; it holds
 * something else; an option differs from the run's used.ini (the first is named, with its old and new value) whose
 * change would change what was released or what is to come. */
fb_status fb_resume_look(const fb_config *config, fb_folder *out) FB_MUST_USE;

/* The line RESULT of a complete run: written when all else is on disk, printed again when the run is started again,
 * removed when it goes on beyond its end. */
fb_status fb_resume_write_result(const fb_config *config, const char *line) FB_MUST_USE;
fb_status fb_resume_print_result(const fb_config *config) FB_MUST_USE;
fb_status fb_resume_remove_result(const fb_config *config) FB_MUST_USE;

/* Whether the run in `folder` came as far as its first release: identity.txt is written before. Every rank. */
fb_status fb_resume_has_begun(const char *folder, int *begun) FB_MUST_USE;

/* The public number that keeps the noise of runs with one key file apart: that of the run in `folder`, or a fresh one.
 * Errors: the run has begun, but its identity.txt is missing. */
fb_status fb_resume_nonce(const char *folder, uint64_t *nonce) FB_MUST_USE;

/* The nonce, the program, what computes the convolutions, the key file (by a mark of it), the model to begin with and
 * the data, in FOLDER/identity.txt: written by a new run, compared by one that goes on. Fills federation->run_sha256,
 * of this and of the options that may not change. convolutions_sha256: "" on the CPU. */
fb_status fb_resume_identity(fb_federation *federation, const char *convolutions_sha256) FB_MUST_USE;

/* What was spent must be known: every round that the results of the interrupted run have is in the ledgers of its
 * hospitals, or its message in their outbox. Collective. */
fb_status fb_resume_check_charged(fb_federation *federation) FB_MUST_USE;
