/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: what a run needs to go on after a round as if it had never been interrupted, on any number of ranks.
 *
 *   run.output/checkpoint/0000012/model.safetensors    the global model after 12 rounds (not in mode local)
 *                                 hospital_03.state    moments and model of a hospital that keeps its own
 *                                 server.state         all the rest; written last: with it the checkpoint is whole
 *
 * server.state names the other files with their SHA-256, the run it belongs to, where every privacy ledger stood, and
 * the sums of the results so far. Random numbers need no state: they are functions of seed, hospital and round. Keys of
 * the noise are in no checkpoint. The last two checkpoints are kept.
 */
#pragma once

#include "fed/federation.h"
#include "fed/report.h"
#include "io/results.h"
#include "io/state.h"

typedef struct fb_checkpoint {
    int64_t rounds;             /* that are done; 0: there is no checkpoint, the run begins */
    fb_state state;             /* server.state; rank 0 */
    char folder[FB_PATH_CHARS]; /* rank 0 */
} fb_checkpoint;

/* The newest checkpoint in run.output whose files are all as they were written; a damaged one is passed over with a
 * warning. Errors: there are checkpoints, but none is usable. Rank 0 only. */
fb_status fb_checkpoint_find(const fb_config *config, fb_checkpoint *out) FB_MUST_USE;
void fb_checkpoint_free(fb_checkpoint *checkpoint);

/* Puts the federation where the checkpoint (rank 0's) left it, and tells every rank its rounds. report (rank 0; NULL
 * elsewhere) gets the sums. Errors: the checkpoint belongs to another run; a ledger has not got that far, so that what
 * was spent is not known. Collective. */
fb_status fb_checkpoint_restore(fb_federation *federation, fb_checkpoint *checkpoint, fb_report *report) FB_MUST_USE;

/* The results that the checkpoint belongs to. Rank 0. */
fb_status fb_checkpoint_results(const fb_checkpoint *checkpoint, fb_results_sums *sums) FB_MUST_USE;

/* Writes the checkpoint after `rounds` rounds, reads it back, and removes those before the last. report, results: of
 * rank 0; NULL elsewhere. Collective. */
fb_status fb_checkpoint_write(fb_federation *federation, int64_t rounds, fb_report *report,
                              const fb_results *results) FB_MUST_USE;
