/* SPDX-License-Identifier: Apache-2.0
 *
 * run.resume: what must hold for a run to go on in its folder. There are no checkpoints of the optimiser: the run
 * replays its rounds from the messages in outbox/, which gives the same models without training. Rank 0 only.
 */
#pragma once

#include "config/config.h"
#include "nn/op.h"

/* Errors (usage): nothing to resume from, or an option differs from the run's used.ini (the first is named, with its
 * old and new value) whose change would change what was released or what is to come. */
fb_status fb_resume_check(const fb_config *config) FB_MUST_USE;

/* Whether the run in `folder` came as far as its first release: identity.txt is written before. */
int fb_resume_has_begun(const fb_config *config, const char *folder);

/* The program, what computes the convolutions and the data, in FOLDER/identity.txt: written by a new run, compared by a
 * resumed one. convolutions_sha256: "" on the CPU. */
fb_status fb_resume_identity(const fb_config *config, const fb_ops *ops, const char *convolutions_sha256,
                             const char *data_sha256) FB_MUST_USE;

/* The most rounds that a results file of the interrupted run holds, with those that earlier resumes set aside; files
 * that cannot be read are left out with a warning. */
fb_status fb_resume_committed(const fb_config *config, int64_t *rounds) FB_MUST_USE;

/* Sets the results of the interrupted run aside: results.h5.before-resume-N. */
fb_status fb_resume_move_results(const fb_config *config) FB_MUST_USE;
