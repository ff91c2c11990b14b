/* SPDX-License-Identifier: Apache-2.0
 *
 * How much memory a rank of a run needs, before it is needed: from the functions that stand beside what allocates it.
 */
#pragma once

#include "fed/federation.h"

/* What a shard holds, by split; found by reading all of it. */
typedef struct fb_shard_facts {
    int64_t cases[3], bytes[3];        /* bytes: of the decoded volumes */
    int64_t window_voxels[3];          /* fb_evaluator_voxels of all cases */
    int64_t largest[3], largest_bytes; /* D, H, W of the case with most voxels; its decoded bytes */
    double read_s;                     /* to decode all of it */
} fb_shard_facts;

/* By purpose; of the device where it computes, else of the host, what is said to be so. */
typedef struct fb_memory {
    int64_t program_bytes;    /* host: program, libraries and what they keep, communication */
    int64_t model_bytes;      /* host: models, changes, moments */
    int64_t training_bytes;   /* network for training, activations, sample; scratch of convolutions */
    int64_t evaluation_bytes; /* network for a window, the case and its logits */
    int64_t evaluation_host_bytes;
    int64_t cache_bytes;              /* host: decoded volumes */
    int64_t message_bytes;            /* host: selection, noise, messages of a round, at their most */
    int64_t server_bytes;             /* host: rank 0's sums, and the results as they are written */
    int64_t hole_bytes;               /* host: what the heap cannot use, see memory.c */
    int64_t host_bytes, device_bytes; /* in all */
} fb_memory;

/* Memory of a rank of the described federation. facts (hospital_count + 1): of the hospitals' shards and of the test
 * shard. results_bytes: size of results.h5. program_bytes: resident memory that is not from core/mem, once training and
 * evaluation have run; warm 0: before, and what the libraries will add is guessed. Not collective. Errors: as of the
 * network's creation. */
fb_status fb_memory_estimate(const fb_federation *federation, int rank, const fb_shard_facts *facts,
                             int64_t results_bytes, int64_t program_bytes, int warm, fb_memory *out) FB_MUST_USE;

/* Whether eval.on asks for the split. */
int fb_memory_evaluates(const fb_config *config, fb_split split);
