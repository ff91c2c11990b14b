/* SPDX-License-Identifier: Apache-2.0
 *
 * A privacy plan in words: the same lines at the start of a run and from `fedbrats plan`.
 */
#pragma once

#include "fed/privacy_plan.h"
#include "privacy/expect.h"

#include <stdio.h>

/* What is shared, who is protected from whom, what it costs by every accountant, how large the noise is. One statement
 * a line. */
fb_status fb_privacy_text(fb_privacy_plan *plan, FILE *stream) FB_MUST_USE;

/* What a round is expected to leave of a typical update, were the noise added as `trust` says. */
fb_status fb_privacy_expect(const fb_privacy_plan *plan, fb_trust trust, fb_expectation *out) FB_MUST_USE;

/* "local", "secagg", "central" */
const char *fb_privacy_trust_name(fb_trust trust);

/* Bits of one value of a message, and the least bytes that a message carries. */
int fb_privacy_value_bits(const fb_privacy_plan *plan);
double fb_privacy_message_bytes(const fb_privacy_plan *plan);
