/* SPDX-License-Identifier: Apache-2.0
 *
 * What a configuration releases and spends: the only place where options become mechanisms, budgets and statements.
 * `train` runs by it, `plan` prints it, the results and the ledger record it. Not collective: every rank makes the
 * same one.
 */
#pragma once

#include "config/config.h"
#include "privacy/accountant.h"
#include "privacy/dpsgd.h"
#include "privacy/mechanism.h"

typedef struct fb_privacy_plan {
    fb_release_spec release;       /* what leaves a hospital in a round; with dpsgd mechanism none: noise came before */
    fb_budget budget;              /* of one release */
    const fb_guarantee *guarantee; /* borrowed */
    fb_relation relation;
    double delta;       /* at which every epsilon is stated */
    double asked;       /* privacy.epsilon_total; 0: the noise is as configured */
    double noise_scale; /* what privacy.epsilon_total made of the configured noise: a factor on it; 1 without */
    int64_t rounds;     /* planned */
    int64_t releases;   /* of them, those of the hospital that takes part most often: the schedule is public */
    int hospital_count, participants; /* hospitals of a round: public */
    int worst;                        /* the hospital that spends most over `releases` */
    int64_t *divisor;                 /* (hospital_count) owned: local steps by which dW is divided, public */
    fb_dpsgd_plan *dpsgd;             /* (hospital_count) owned; NULL unless privacy.mechanism = dpsgd */
    int uniform;                      /* hospitals weigh alike in the mean; else by their steps */
    int starts_from_model;            /* train.init_from is given */
    const char
        *formal_failure; /* first condition of formal privacy that does not hold, as a sentence; NULL: all hold */
    struct fb_spent_slot *spent; /* cache of fb_privacy_plan_spent; owned */
} fb_privacy_plan;

/* n: trained parameters. train_cases (hospital_count): public. Calibrates the noise when privacy.epsilon_total is set.
 * Errors (usage): combinations that make no sense, out of range, with key, value, limit and next step. */
fb_status fb_privacy_plan_create(const fb_config *config, int64_t n, int hospital_count, const int64_t *train_cases,
                                 fb_privacy_plan **out) FB_MUST_USE;
void fb_privacy_plan_destroy(fb_privacy_plan **plan);

/* What a hospital has spent once it took part in `releases` rounds. INFINITY without a guarantee. The last few answers
 * are kept, so asking again costs nothing. */
fb_status fb_privacy_plan_spent(fb_privacy_plan *plan, int hospital, int64_t releases, fb_spent *out) FB_MUST_USE;

/* What the guarantee takes for granted, one sentence each (reader, public constants, selection, ...): the i-th, or NULL
 * after the last. */
const char *fb_privacy_plan_assumption(const fb_privacy_plan *plan, int i);

/* One line that fixes mechanism, clip, grid, noise, unit, trust: what a resumed run must not change. */
fb_status fb_privacy_plan_identity(const fb_privacy_plan *plan, int hospital, char text[FB_TEXT_CHARS]) FB_MUST_USE;
