/* SPDX-License-Identifier: Apache-2.0
 *
 * What published settings of the sparse vector technique for federated learning share and spend, by the formulas of the
 * code that used them: the reference implementation of Li et al. 2019 in NVIDIA FLARE (examples/brats18, then
 * research/brats18), and the paper's own algorithm. Names of the settings are theirs.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>

typedef struct fb_published {
    const char *name;
    int64_t n;        /* weights */
    double fraction;  /* nominal share */
    double epsilon;   /* of the threshold; split: of threshold and tests together */
    double noise_var; /* budget of one answer */
    int split;        /* 1: `epsilon` covers the tests, by the best split; 0: the tests come on top of it */
    int replacement;  /* answers are drawn from the accepted weights with replacement */
    int64_t rounds;
    const char *flaw; /* why the budgets guarantee nothing; NULL: they do */
} fb_published;

typedef struct fb_published_cost {
    int64_t count;            /* nominal: ceil(fraction * n) */
    double threshold, query;  /* budgets of one client and round */
    double answer, total;     /* answers: count * noise_var */
    double accepted, share;   /* fraction of the weights that pass the tests; that is really sent */
    double scale_query_clips; /* noise of a test over the clip */
} fb_published_cost;

void fb_published_spend(const fb_published *setting, fb_published_cost *out);

/* Fraction accepted when every test is a fair coin (the noise dwarfs the weights) and passes over those not yet
 * accepted go on until at least `fraction` is: 1 - 2^-passes. */
double fb_published_accepted(double fraction);

/* Different weights among fraction * n draws with replacement from accepted * n, over n. */
double fb_published_share(double fraction, double accepted);

/* The worked examples, with their arithmetic. */
void fb_published_print(FILE *stream);
