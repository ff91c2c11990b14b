/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "config/config.h"
#include "privacy/mechanism.h"

#include <stdio.h>

/* Refuses options that contradict each other in what they say about privacy. Errors (usage) name key, value and what to
 * do instead. What a mechanism itself needs is checked by fb_budget_plan and fb_dpsgd_plan_make. */
fb_status fb_privacy_check(const fb_config *config, const fb_guarantee *guarantee) FB_MUST_USE;

/* One line for every option of privacy that is not at its default and that select, mechanism and trust do not read:
 * "privacy: WARNING: ...". A sweep may well have such options in common, so they are no errors. */
void fb_privacy_check_unused(const fb_config *config, FILE *stream);
