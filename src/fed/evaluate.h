/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "data/volume.h"
#include "nn/metric.h"
#include "nn/op.h"

typedef struct fb_evaluator fb_evaluator;

fb_status fb_evaluator_create(const fb_net_spec *spec, const fb_params *params, const fb_ops *ops,
                              const int64_t window[3], double overlap, fb_evaluator **out) FB_MUST_USE;
void fb_evaluator_destroy(fb_evaluator **evaluator);
fb_status fb_evaluator_case(fb_evaluator *evaluator, const float *w, const fb_volume *volume,
                            fb_counts *counts) FB_MUST_USE;
