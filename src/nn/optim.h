/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "nn/op.h"

/* One step of Adam (Kingma & Ba 2015, with PyTorch's order of operations) on flat arenas of `count` elements: w
 * weights, g gradient (unchanged), m and v moments; `step` counts from 1 and drives the bias correction. */
void fb_adam_step(const fb_adam_spec *spec, int64_t count, int64_t step, fb_real *w, const fb_real *g, fb_real *m,
                  fb_real *v);

/* One step of plain gradient descent: w -= learning_rate * (g + weight_decay * w), over `count` elements. */
void fb_sgd_step(double learning_rate, double weight_decay, int64_t count, fb_real *w, const fb_real *g);
