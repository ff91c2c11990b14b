/* SPDX-License-Identifier: Apache-2.0 */
#include "privacy/published.h"

#include <math.h>

enum { FILTERS_8 = 1176843, FILTERS_16 = 4702227 }; /* parameters of the network with 8 and 16 filters */

static const char noise_in_clip[] = "none: the noise is added before the clip, so these budgets prove nothing";
static const char leak[] =
    "none: the noise is added before the clip, and weights that were accepted but not drawn were "
    "sent as they are (mended in March 2022)";

static const fb_published settings[] = {
    {"research/brats18 since April 2026: fraction 0.9, epsilon 21, noise_var 2", FILTERS_16, 0.9, 21.0, 2.0, 1, 1, 600,
     NULL},
    {"releases 2.0 to 2.7, defaults: fraction 0.1, epsilon 0.1, noise_var 0.1", FILTERS_16, 0.1, 0.1, 0.1, 0, 1, 600,
     noise_in_clip},
    {"2.0, 13 clients, as published: fraction 0.6, epsilon 0.001, noise_var 1", FILTERS_16, 0.6, 0.001, 1.0, 0, 1, 600,
     leak},
    {"2.1 to 2.7, 4 clients, as published: fraction 0.9, epsilon 0.001, noise_var 1", FILTERS_16, 0.9, 0.001, 1.0, 0, 1,
     600, noise_in_clip},
    {"Li et al. 2019 at 10 %, budget 1 per parameter", FILTERS_8, 0.1, 1.0, 1.0, 0, 0, 300, noise_in_clip},
    {"Li et al. 2019 at 40 %, budget 1 per parameter", FILTERS_8, 0.4, 1.0, 1.0, 0, 0, 300, noise_in_clip},
};

double fb_published_accepted(double fraction)
{
    double accepted = 0.5;
    for (int pass = 1; accepted < fraction && pass < 52; pass++)
        accepted = 0.5 + 0.5 * accepted;
    return accepted;
}

double fb_published_share(double fraction, double accepted)
{
    return -accepted * expm1(-fraction / accepted);
}

void fb_published_spend(const fb_published *setting, fb_published_cost *out)
{
    const double count = fmin(ceil((double)setting->n * setting->fraction), (double)setting->n);
    const double ratio = pow(2.0 * count, 2.0 / 3.0); /* best split between threshold and tests (Lyu, Su & Li 2017) */
    out->count = (int64_t)count;
    out->threshold = setting->split ? setting->epsilon / (1.0 + ratio) : setting->epsilon;
    out->query = out->threshold * ratio;
    out->answer = count * setting->noise_var;
    out->total = out->threshold + out->query + out->answer;
    out->accepted = fb_published_accepted(setting->fraction);
    out->share = setting->replacement ? fb_published_share(setting->fraction, out->accepted) : setting->fraction;
    /* 2 c gamma / epsilon_query; where the code took 2 gamma for the sensitivity of |w|, twice that */
    out->scale_query_clips = (setting->split ? 2.0 : 4.0) * count / out->query;
}

static void print_setting(const fb_published *setting, FILE *stream)
{
    fb_published_cost cost;
    fb_published_spend(setting, &cost);
    fprintf(stream, "%s\n", setting->name);
    fprintf(stream, "  nominal count  q = ceil(%g x %lld) = %lld weights\n", setting->fraction, (long long)setting->n,
            (long long)cost.count);
    if (setting->split)
        fprintf(stream, "  selection      %g, split into threshold %.4g and tests %.6g = %.4g x (2 q)^(2/3)\n",
                setting->epsilon, cost.threshold, cost.query, cost.threshold);
    else
        fprintf(stream, "  selection      threshold %g + tests %.6g = %g x (2 q)^(2/3)\n", cost.threshold, cost.query,
                cost.threshold);
    fprintf(stream, "  answers        q x %g = %.0f\n", setting->noise_var, cost.answer);
    fprintf(stream, "  total          %.0f = %.3g million a client and round; %.3g in %lld rounds by plain sums\n",
            cost.total, cost.total / 1e6, cost.total * (double)setting->rounds, (long long)setting->rounds);
    if (setting->flaw)
        fprintf(stream, "  guarantee      %s\n", setting->flaw);
    fprintf(stream, "  selection is   a coin toss: the noise of a test is %.4g times the clip\n",
            cost.scale_query_clips);
    if (setting->replacement)
        fprintf(stream,
                "  really shared  %.1f %%, not %g %%: drawn with replacement from the accepted %g: %g x (1 - "
                "exp(-%.4g)) = %.4f\n",
                100.0 * cost.share, 100.0 * setting->fraction, cost.accepted, cost.accepted,
                setting->fraction / cost.accepted, cost.share);
    fprintf(stream, "\n");
}

/* The paper's mechanism with the budget of all answers together, as its claim reads. */
static void print_honest(double fraction, FILE *stream)
{
    const double count = ceil(fraction * FILTERS_8), query = pow(2.0 * count, 2.0 / 3.0);
    fprintf(
        stream,
        "  at %2.0f %%: q = %.0f, noise of an answer 2 q / 1 = %.0f times the clip, of a test %.1f times the clip\n",
        100.0 * fraction, count, 2.0 * count, 4.0 * count / query);
}

void fb_published_print(FILE *stream)
{
    fprintf(stream, "What published settings share and spend, each by the formulas of the code that used it\n\n");
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        print_setting(&settings[i], stream);
    fprintf(stream, "Li et al. 2019 with a budget of 1 for all answers of a round together, and 1 for the threshold\n");
    print_honest(0.1, stream);
    print_honest(0.4, stream);
    fprintf(stream,
            "\nAt a fixed budget per parameter sharing 10 %% spends a quarter of what sharing 40 %% spends: the\n"
            "figures of the paper hold the first fixed. At a fixed total the noise grows with the share.\n");
}
