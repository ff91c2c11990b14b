/* SPDX-License-Identifier: Apache-2.0
 *
 * What a history of releases has spent: every accountant whose theorem covers the history gives a valid epsilon at the
 * asked delta, so the least of them is valid too and is reported with its name.
 *
 *   pure      sum of epsilons
 *   advanced  Dwork, Rothblum & Vadhan 2010
 *   kov       optimal composition of pure epsilons (Kairouz, Oh & Viswanath 2015)
 *   zcdp      Bun & Steinke 2016; a pure epsilon costs epsilon tanh(epsilon / 2), a bounded range epsilon^2 / 8, a
 *             discrete Laplace its Kullback-Leibler divergence (accountant_rdp.c)
 *   rdp       Mironov 2017; Poisson-subsampled Gaussian at integer orders (Mironov, Talwar & Zhang 2019)
 *   pld       privacy loss distributions (Koskela et al. 2020; Meiser & Mohammadi 2018), discretised pessimistically; a
 *             bounded range counts as a pure epsilon; Gaussians alone, without sampling, exactly (Balle & Wang 2018)
 *
 * The mechanisms are the discrete ones that laplace.h and gauss.h draw. A discrete Gaussian of standard deviation sigma
 * on Z^d has the zCDP and, for integer shifts and integer orders, exactly the (subsampled) Renyi divergences of the
 * continuous one; the privacy loss distribution of the continuous Gaussian covers it with `to_continuous`.
 *
 * What the samplers' tables add. An event's law is the ideal one up to a factor within e^+-rounding for every value
 * that it or a neighbour reaches (noise.h), whatever came before, so that the law of a whole history is, up to e^+-r, r
 * the sum over its events. For every set S and neighbours M, M' of ideal forms I, I',
 *
 *     P(M in S) <= e^r P(I in S) <= e^r (e^epsilon P(I' in S) + delta) <= e^(2 r + epsilon) P(M' in S) + e^r delta:
 *
 * the history spends (epsilon + 2 r, delta) where the ideal one spends (epsilon, delta e^-r). pld adds to_continuous to
 * r in the same way. Rounding of the accountants' own arithmetic is on the safe side, or below a relative 1e-12 of
 * epsilon.
 */
#pragma once

#include "core/status.h"

#include <stdint.h>

typedef enum fb_relation {
    FB_REPLACE_ONE = 0, /* neighbours differ in one unit's data */
    FB_ADD_REMOVE = 1   /* neighbours differ by one unit more or less; the only one for which sampling amplifies */
} fb_relation;

typedef enum fb_event_kind {
    FB_EVENT_PURE = 0,      /* any epsilon-DP mechanism */
    FB_EVENT_BOUNDED_RANGE, /* epsilon-bounded-range (exponential mechanism): epsilon-DP, and epsilon^2 / 8 zCDP */
    FB_EVENT_LAPLACE,       /* discrete Laplace of `scale` on an integer of sensitivity `sensitivity` (grid steps) */
    FB_EVENT_GAUSSIAN       /* discrete Gaussian of standard deviation `scale` on integers of L2 sensitivity
                             * `sensitivity`, over a Poisson sample of the units with probability `rate` */
} fb_event_kind;

typedef struct fb_event {
    fb_event_kind kind;
    double epsilon;            /* PURE, BOUNDED_RANGE */
    double scale, sensitivity; /* LAPLACE, GAUSSIAN, in grid steps */
    double rate;               /* GAUSSIAN: in (0, 1]; 1: no sampling. Others: 1 */
    double rounding;           /* log of the factor by which samplers may miss the ideal law of one event; see above */
    double to_continuous;      /* GAUSSIAN: the same between the discrete and the continuous one, rounded */
    int64_t count;             /* how often, in sequence and adaptively */
} fb_event;

typedef struct fb_history {
    fb_relation relation;
    int event_count;
    const fb_event *events; /* (event_count) borrowed */
} fb_history;

typedef enum fb_accountant {
    FB_ACCOUNTANT_PURE = 0,
    FB_ACCOUNTANT_ADVANCED,
    FB_ACCOUNTANT_KOV,
    FB_ACCOUNTANT_ZCDP,
    FB_ACCOUNTANT_RDP,
    FB_ACCOUNTANT_PLD,
    FB_ACCOUNTANTS
} fb_accountant;

typedef struct fb_spent {
    double epsilon, delta;     /* the least epsilon at the asked delta; INFINITY when no accountant reaches it */
    fb_accountant accountant;  /* whose it is */
    double by[FB_ACCOUNTANTS]; /* every accountant's; NAN: its theorem does not cover the history, or (pld) epsilon is
                                * so large that it is not computed */
} fb_spent;

const char *fb_accountant_name(fb_accountant accountant); /* "pure", "advanced", "kov", "zcdp", "rdp", "pld" */

/* delta in [0, 1). An empty history spends 0. Errors (usage): a rate below 1 under FB_REPLACE_ONE (no theorem here
 * covers it), values out of range (named). Milliseconds; pld up to a few tenths of a second where the losses of one
 * event are thousands of times smaller than the whole. */
fb_status fb_account(const fb_history *history, double delta, fb_spent *out) FB_MUST_USE;

/* The least noise (factor on every scale, or divisor of every epsilon, of the history) at which fb_account stays at or
 * below `epsilon` at `delta`; relative error 1e-6, on the safe side; 2^-40 when that is enough. Errors: none exists up
 * to 2^40. */
fb_status fb_account_calibrate(const fb_history *history, double epsilon, double delta, double *factor) FB_MUST_USE;
