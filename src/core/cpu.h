/* SPDX-License-Identifier: Apache-2.0
 *
 * Does this processor have the instructions that the compiler was allowed to use (-march)? Programs are copied: from a
 * login node to older nodes, in a bundle (make dist). They call this before anything else, because whatever comes
 * later may be such an instruction.
 */
#pragma once

/* Returns 1; or 0 and says on standard error what is missing. */
int fb_cpu_suffices(const char *program);
