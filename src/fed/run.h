/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "comm/comm.h"
#include "config/config.h"
#include "fed/watchdog.h"
#include "nn/op.h"

/* A whole run of `fedbrats train` in the folder run.output: used.ini, log.txt, results.h5, model.safetensors, ledger/.
 * Prints the RESULT line to standard output on rank 0. Collective; on error every rank gets the same one. */
fb_status fb_run(const fb_config *config, const fb_options *options, const fb_ops *ops, fb_comm *comm,
                 fb_watchdog *watchdog, int argc, char **argv) FB_MUST_USE;
