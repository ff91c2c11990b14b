/* SPDX-License-Identifier: Apache-2.0
 *
 * What the accountants share: a history with equal events merged, each by the pair of distributions that dominates it.
 *
 * Pure epsilon: randomised response (Kairouz, Oh & Viswanath 2015), which is the discrete Laplace of scale 1 / epsilon
 * and shift 1: below 0 and from the shift on its privacy loss is +-shift / scale, and nothing lies between. So a pure
 * event is a Laplace one here.
 */
#pragma once

#include "privacy/accountant.h"

typedef struct fb_cost {
    fb_event_kind kind;
    double count;
    double epsilon;                 /* pure; INFINITY for a Gaussian */
    double scale, shift;            /* Laplace: loss between -shift / scale and shift / scale; shift is an integer */
    double mu;                      /* Gaussian: shift over standard deviation */
    double rate;                    /* Gaussian: of the Poisson sample */
    double rounding, to_continuous; /* of all `count` events together */
} fb_cost;

typedef struct fb_costs {
    int n;
    fb_cost *cost; /* (n) owned */
} fb_costs;

static inline int fb_cost_is_gaussian(const fb_cost *cost)
{
    return cost->kind == FB_EVENT_GAUSSIAN;
}

/* An accountant's least epsilon at a delta >= 0, INFINITY for none; `state` is its own. */
typedef double fb_epsilon_at(const void *state, double delta);

/* accountant_pure.c, accountant_rdp.c: state is the fb_costs. */
double fb_pure_epsilon(const void *costs, double delta);
double fb_advanced_epsilon(const void *costs, double delta);
double fb_zcdp_epsilon(const void *costs, double delta);
double fb_rdp_epsilon(const void *costs, double delta);

int fb_costs_are_pure(const fb_costs *costs);    /* no Gaussian */
int fb_costs_are_sampled(const fb_costs *costs); /* a rate below 1 */

/* rho of one event: the least with R(alpha) <= rho alpha for all alpha > 1. INFINITY for a sampled Gaussian. */
double fb_cost_rho(const fb_cost *cost);
