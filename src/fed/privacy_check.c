/* SPDX-License-Identifier: Apache-2.0
 *
 * Combinations of options that make no sense for the privacy of a run, each refused with a sentence, and options that
 * have no effect.
 */
#include "fed/privacy_check.h"

#include "privacy/mechanism.h"

#include <math.h>
#include <string.h>

static fb_status check_mode(const fb_config *config)
{
    const int dpsgd = config->privacy_mechanism == FB_MECHANISM_DPSGD;
    if (config->run_mode == FB_MODE_CENTRALISED && dpsgd)
        return FB_USAGE(
            "run.mode = centralised with privacy.mechanism = dpsgd: hospitals that pool their patients have "
            "nobody to add the noise; choose federated, or local for each hospital alone");
    if (config->run_mode != FB_MODE_FEDERATED &&
        ((config->privacy_mechanism != FB_MECHANISM_NONE && !dpsgd) || config->sharing_select != FB_SELECT_ALL ||
         config->federation_participation < 1.0 || config->federation_weighting != FB_WEIGHTING_SAMPLES ||
         config->train_momentum == FB_MOMENTUM_AVERAGE))
        return FB_USAGE("run.mode: sharing.select, privacy.mechanism, federation.participation, "
                        "federation.weighting = uniform and train.momentum = average apply to mode federated only "
                        "(privacy.mechanism = dpsgd to local too); remove them");
    return FB_OK;
}

static fb_status check_trust(const fb_config *config)
{
    if (config->privacy_trust == FB_TRUST_LOCAL)
        return FB_OK;
    if (config->privacy_mechanism == FB_MECHANISM_NONE)
        return FB_USAGE("privacy.trust says who adds the noise, but privacy.mechanism = none adds none; remove it, or "
                        "choose a mechanism");
    if (config->privacy_mechanism == FB_MECHANISM_DPSGD)
        return FB_USAGE("privacy.trust: with privacy.mechanism = dpsgd each hospital adds its noise in every training "
                        "step, so nobody else can add it; use local");
    if (config->federation_weighting != FB_WEIGHTING_UNIFORM)
        return FB_USAGE("privacy.trust: noise on the sum protects every hospital alike only when all weigh the same; "
                        "set federation.weighting = uniform, or privacy.trust = local");
    return FB_OK;
}

/* The options of the Gaussian mechanisms. */
static fb_status check_gaussian(const fb_config *config)
{
    const int gaussian =
        config->privacy_mechanism == FB_MECHANISM_GAUSSIAN || config->privacy_mechanism == FB_MECHANISM_DPSGD;
    const char *what = config->privacy_mechanism == FB_MECHANISM_DPSGD ? "a patient's gradient" : "dW / steps";
    if (!gaussian && config->privacy_noise_multiplier > 0.0)
        return FB_USAGE("privacy.noise_multiplier = %g applies to privacy.mechanism = gaussian and dpsgd only; "
                        "epsilon_answer and its siblings set the noise of laplace",
                        config->privacy_noise_multiplier);
    if (gaussian && isinf(config->privacy_clip_norm))
        return FB_USAGE("privacy.clip_norm = inf: the noise is proportional to it; set it to about the L2 norm that %s "
                        "typically has",
                        what);
    if (gaussian && config->privacy_noise_multiplier == 0.0 && config->privacy_epsilon_total == 0.0)
        return FB_USAGE("privacy.noise_multiplier = 0: no noise, no guarantee; set it, or set privacy.epsilon_total "
                        "to have it found");
    return FB_OK;
}

static fb_status check_dpsgd(const fb_config *config)
{
    if (config->privacy_mechanism != FB_MECHANISM_DPSGD && config->train_batch > 0.0)
        return FB_USAGE("train.batch = %g applies to privacy.mechanism = dpsgd only; every other training takes one "
                        "patient a step",
                        config->train_batch);
    if (config->privacy_noise == FB_PRIVACY_NOISE_PER_HOSPITAL &&
        (config->privacy_mechanism != FB_MECHANISM_DPSGD || config->privacy_epsilon_total == 0.0))
        return FB_USAGE("privacy.noise = per-hospital finds each hospital's noise_multiplier for privacy.mechanism = "
                        "dpsgd from privacy.epsilon_total; set both, or use common");
    return FB_OK;
}

/* What only a guarantee gives a meaning. */
static fb_status check_budget(const fb_config *config, const fb_guarantee *guarantee)
{
    if (guarantee->formal && guarantee->mechanism != FB_MECHANISM_DPSGD &&
        config->train_momentum == FB_MOMENTUM_AVERAGE)
        return FB_USAGE("train.momentum = average sends Adam's moments without noise, which would void the guarantee "
                        "of privacy.mechanism; use restart or keep");
    if (config->run_mode == FB_MODE_LOCAL && config->privacy_stop_at_epsilon > 0.0)
        return FB_USAGE("privacy.stop_at_epsilon = %g with run.mode = local: a hospital that trains alone releases its "
                        "model at the end, after all rounds; set it to 0, and federation.rounds so that the plan's "
                        "total fits",
                        config->privacy_stop_at_epsilon);
    if (!guarantee->formal && config->privacy_stop_at_epsilon > 0.0)
        return FB_USAGE("privacy.stop_at_epsilon = %g, but nothing is guaranteed that it could measure: %s; set it "
                        "to 0",
                        config->privacy_stop_at_epsilon, guarantee->reason);
    if (!guarantee->formal && config->privacy_epsilon_total > 0.0)
        return FB_USAGE("privacy.epsilon_total = %g, but no noise reaches it: %s; set it to 0, or choose another "
                        "sharing.select or privacy.mechanism",
                        config->privacy_epsilon_total, guarantee->reason);
    return FB_OK;
}

fb_status fb_privacy_check(const fb_config *config, const fb_guarantee *guarantee)
{
    FB_TRY(check_mode(config));
    FB_TRY(check_trust(config));
    FB_TRY(check_gaussian(config));
    FB_TRY(check_dpsgd(config));
    return check_budget(config, guarantee);
}

/* --- options without effect --- */

typedef struct reading {
    int laplace, gaussian, dpsgd, svt, exponential, local;
} reading;

static reading reading_of(const fb_config *config)
{
    const int laplace = config->privacy_mechanism == FB_MECHANISM_LAPLACE;
    const int gaussian = config->privacy_mechanism == FB_MECHANISM_GAUSSIAN, noised = laplace || gaussian;
    const int svt = config->sharing_select == FB_SELECT_SVT || config->sharing_select == FB_SELECT_SVT_AS_PUBLISHED;
    return (reading){.laplace = laplace,
                     .gaussian = gaussian,
                     .dpsgd = config->privacy_mechanism == FB_MECHANISM_DPSGD,
                     .svt = noised && svt,
                     .exponential = noised && config->sharing_select == FB_SELECT_EXPONENTIAL,
                     .local = config->privacy_trust == FB_TRUST_LOCAL};
}

void fb_privacy_check_unused(const fb_config *config, FILE *stream)
{
    const reading r = reading_of(config);
    const struct {
        const char *key;
        int read;
        const char *by;
    } options[] = {{"clip_norm", r.gaussian || r.dpsgd, "privacy.mechanism = gaussian and dpsgd"},
                   {"epsilon_answer", r.laplace, "privacy.mechanism = laplace"},
                   {"answer_budget", r.laplace, "privacy.mechanism = laplace"},
                   {"epsilon_threshold", r.svt, "sharing.select = svt with noise"},
                   {"threshold", r.svt, "sharing.select = svt with noise"},
                   {"epsilon_query", r.svt || r.exponential, "sharing.select = svt and exponential with noise"},
                   {"clip_answers", (r.laplace || r.gaussian) && r.local,
                    "privacy.mechanism = laplace and gaussian with privacy.trust = local"}};
    char text[FB_TEXT_CHARS];
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        fb_config_text(config, "privacy", options[i].key, text);
        if (!options[i].read && strcmp(text, fb_config_fallback("privacy", options[i].key)) != 0)
            fprintf(stream, "privacy: WARNING: privacy.%s = %s has no effect here: only %s read it\n", options[i].key,
                    text, options[i].by);
    }
}
