/* SPDX-License-Identifier: Apache-2.0
 *
 * Named ranges of time that NVIDIA's profilers show (NVTX): the phases of a round. Nothing in a build without CUDA, and
 * nothing but a test where no profiler watches.
 */
#pragma once

void fb_range_begin(const char *name);
void fb_range_end(void); /* of the one begun last */
