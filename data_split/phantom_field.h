/* SPDX-License-Identifier: Apache-2.0
 *
 * Smooth random fields over the head: normal numbers on a lattice, interpolated. A field is a function of position in
 * mm, so that the same subject can be drawn on any grid.
 */
#pragma once

#include "core/rng.h"
#include "core/status.h"

typedef struct fb_field {
    double cell_mm;
    int64_t nodes[3]; /* along x, y, z */
    float *value;     /* nodes, x fastest; owned */
} fb_field;

/* `stream` (its round is overwritten with `number`) names the random numbers; node i takes index i. */
fb_status fb_field_create(fb_field *field, fb_rng stream, uint32_t number, double cell_mm) FB_MUST_USE;
void fb_field_destroy(fb_field *field);

/* About normal: mean 0, standard deviation near 0.6; positions beyond +-132 mm take the value at the border. */
double fb_field_at(const fb_field *field, const double position_mm[3]);
