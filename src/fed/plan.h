/* SPDX-License-Identifier: Apache-2.0
 *
 * `fedbrats plan`: what a configuration would share, spend and keep of the updates, before any data is touched.
 */
#pragma once

#include "config/config.h"

#include <stdio.h>

/* Prints the plan. data.shards, if given, supplies hospitals and train cases, else plan.cases does. plan.solve = noise,
 * rounds or share first finds that from privacy.epsilon_total and the other options, and prints it as options to copy.
 * Errors (usage): as of fb_privacy_plan_create; nothing to solve for, no solution (named with the reason). */
fb_status fb_plan_print(const fb_config *config, FILE *stream) FB_MUST_USE;
