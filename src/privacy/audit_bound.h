/* SPDX-License-Identifier: Apache-2.0
 *
 * Statistics of an audit: from counts to a lower bound on epsilon. A bound says what the samples prove, with the stated
 * confidence; it says nothing about inputs and events that were not tried, and is no guarantee.
 */
#pragma once

#include <stdint.h>

/* Clopper & Pearson 1934, one side each: the probability p of a hit is above / below the result with confidence
 * 1 - alpha. 0 <= hits <= trials, trials >= 1, alpha in (0, 1). */
double fb_audit_lower(int64_t hits, int64_t trials, double alpha);
double fb_audit_upper(int64_t hits, int64_t trials, double alpha);

/* An event that happened `hits_p` times under one input and `hits_q` times under its neighbour, where a fair coin chose
 * the input of each of `trials` samples. (epsilon, delta)-DP needs P <= e^epsilon Q + delta. Given that the event
 * happened, the input was the first one with probability P / (P + Q), so that hits_p is binomial of hits_p + hits_q
 * trials: one bound instead of one for P and one for Q, which would lose sqrt(2) as much for rare events. With r its
 * lower bound and p that of P, epsilon >= ln((1 - delta / p) r / (1 - r)) with confidence 1 - alpha. At least 0. */
double fb_audit_epsilon(int64_t hits_p, int64_t hits_q, int64_t trials, double alpha, double delta);

/* The most that `trials` samples can prove: every sample of the one input a hit, none of the other, half of the trials
 * each. */
double fb_audit_ceiling(int64_t trials, double alpha, double delta);

/* The audit in one run (Steinke, Nasr & Jagielski 2023, theorem 5.2): of m canaries, each in or out by a fair coin, the
 * auditor guesses `guesses`, of which `right` are right. Result: the probability that an (epsilon, delta)-DP algorithm
 * (add/remove) lets so many be right, at most. */
double fb_audit_one_run_p(int64_t m, int64_t guesses, int64_t right, double epsilon, double delta);

/* The largest epsilon that this refutes with confidence 1 - alpha; 0 when none. The ceiling: right = guesses = m. */
double fb_audit_one_run_epsilon(int64_t m, int64_t guesses, int64_t right, double alpha, double delta);
