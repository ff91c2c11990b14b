/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "config/options.h"

/* Parses `text` completely, checks its range and stores it in the option's field of `values`. Errors (usage) name the
 * key, the text and the limits; the field is then unchanged. */
fb_status fb_option_parse(const fb_option *option, const char *text, void *values) FB_MUST_USE;
