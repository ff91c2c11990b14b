/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the two halves of the emulated GPU: runtime.cc (memory, streams, devices) and threads.cc (kernels).
 */
#pragma once

#include "cuda_runtime.h"

enum { FB_EMULATOR_THREADS_MAX = 1024 };

/* Ends the program, naming the thread that ran last. */
[[noreturn]] void fb_emulator_give_up(const char *why);

bool fb_emulator_is_device(const void *memory); /* an address of device memory */

/* Runs all threads of all blocks. */
void fb_emulator_run_grid(dim3 grid, dim3 block, const std::function<void()> &thread);
