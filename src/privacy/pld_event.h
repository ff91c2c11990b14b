/* SPDX-License-Identifier: Apache-2.0
 *
 * The privacy loss of one event on a grid of losses, pessimistically: what lies between two grid points is split among
 * them so that its mass under both neighbours stays (Doroshenko et al. 2022, "connect the dots": the curve of delta
 * over exp(epsilon) becomes its chord, which is above it, and the error is of second order in the step).
 */
#pragma once

#include "privacy/accountant_impl.h"

typedef struct fb_event_loss {
    int64_t low, n;
    double *p;       /* (n) owned: P(loss = (low + i) step) */
    double infinite; /* mass without a finite loss */
} fb_event_loss;

/* Start from zeroed structs. */
fb_status fb_event_loss_laplace(const fb_cost *cost, double step, fb_event_loss *out) FB_MUST_USE;

/* out[0]: the unit removed, out[1]: added (left alone at rate 1, where it is the same). Per event, at most `tail` of
 * the mass goes to infinity. */
fb_status fb_event_loss_gaussian(const fb_cost *cost, double step, double tail, fb_event_loss out[2]) FB_MUST_USE;
void fb_event_loss_free(fb_event_loss *loss);

/* How many grid points an event takes, about. */
double fb_event_loss_points(const fb_cost *cost, double step, double tail);
