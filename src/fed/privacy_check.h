/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "config/config.h"
#include "privacy/mechanism.h"

/* Refuses options that contradict each other in what they say about privacy. Errors (usage) name key, value and what to
 * do instead. What a mechanism itself needs is checked by fb_budget_plan and fb_dpsgd_plan_make. */
fb_status fb_privacy_check(const fb_config *config, const fb_guarantee *guarantee) FB_MUST_USE;
