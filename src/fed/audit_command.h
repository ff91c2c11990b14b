/* SPDX-License-Identifier: Apache-2.0
 *
 * fedbrats audit: measures lower bounds on what the mechanisms spend, against what they claim. A bound above the claim
 * refutes it; one below proves nothing about inputs, events and faults that were not tried.
 */
#pragma once

/* argv[0] is the name of the command. Returns the exit status: 1 when a claim is refuted. */
int fb_audit_command(int argc, char **argv);
