/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of the check before a run, private to preflight*.c.
 */
#pragma once

#include "core/host.h"
#include "fed/memory.h"

enum { FB_PROBLEMS_CHARS = 16384, FB_HOST_CHARS = 64 };

/* What was found wrong; plain data, gathered as bytes. */
typedef struct fb_problems {
    int count, usage; /* usage: of them, those that the run refuses as configuration */
    size_t chars;
    char text[FB_PROBLEMS_CHARS]; /* a line each; the last ones may be missing */
} fb_problems;

/* What a rank knows of itself; plain data. */
typedef struct fb_rank_figures {
    char host[FB_HOST_CHARS];
    int gpu;                   /* number on its host; -1 without one */
    fb_host_memory memory;     /* before anything is built */
    int64_t program_bytes;     /* once all was run: resident, and not from core/mem; 0: it was not run */
    int64_t device_free_bytes; /* FB_HOST_UNKNOWN on the CPU */
    fb_hospital_time hospital; /* of the first that it plays; zeros: none was measured */
    double voxel_s;            /* of evaluation, per voxel through the network; 0: not measured */
    double accept_s, apply_s;  /* rank 0: a hospital's messages, and the new model */
    double broadcast_s;        /* of the model; 0 with one rank */
} fb_rank_figures;

typedef struct fb_preflight_state {
    const fb_config *config; /* borrowed, as ops and comm */
    const fb_ops *ops;
    fb_comm *comm;
    int root, ranks;           /* ranks: planned */
    int what_if;               /* they are others than those of comm */
    fb_problems problems;      /* of this rank; at the end, on rank 0, of all */
    fb_cohort *cohort;         /* owned, as what follows; NULL: it cannot be read */
    fb_shard_facts *facts;     /* (hospital_count + 1) complete on every rank */
    fb_federation *federation; /* described, later built; NULL: the options do not go together */
    fb_rank_figures own;
    fb_rank_figures *all; /* (ranks of comm) rank 0 */
    int64_t results_bytes, memory_bytes, disk_bytes;
    double round_s, run_s; /* expected; NaN: not known */
} fb_preflight_state;

/* Takes the status over; FB_OK is no problem. */
void fb_problems_add(fb_problems *problems, fb_status status);

/* Opens, verifies and reads every shard, dealt out over the ranks; fills facts. Collective. Errors: communication. */
fb_status fb_preflight_shards(fb_preflight_state *s) FB_MUST_USE;

/* Compares the memory of every rank with what its host has; prints the table, if `silent` only where it is not enough.
 * Rank 0; needs federation and `all`. */
fb_status fb_preflight_memory(fb_preflight_state *s, int silent) FB_MUST_USE;

/* Builds the federation, measures a step, a release, an evaluation and a broadcast. Collective. */
fb_status fb_preflight_measure(fb_preflight_state *s) FB_MUST_USE;

/* From what was measured, the seconds of a round and of the run; prints them. Rank 0. */
fb_status fb_preflight_time(fb_preflight_state *s) FB_MUST_USE;
