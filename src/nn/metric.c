/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/metric.h"

#include <math.h>

void fb_count_case(int64_t voxels, const float *logits, const uint8_t *target, fb_counts *counts)
{
    for (int r = 0; r < FB_REGIONS; r++) {
        int64_t both = 0, predicted = 0, truth = 0;
#pragma omp parallel for simd reduction(+ : both, predicted, truth)
        for (int64_t v = 0; v < voxels; v++) {
            const int64_t p = logits[v * FB_REGIONS + r] > 0.0f, g = target[v] >> r & 1;
            both += p & g;
            predicted += p;
            truth += g;
        }
        counts->both[r] = both;
        counts->predicted[r] = predicted;
        counts->truth[r] = truth;
    }
}

double fb_dice(const fb_counts *counts, int region)
{
    if (counts->truth[region] == 0)
        return NAN;
    return 2.0 * (double)counts->both[region] / (double)(counts->predicted[region] + counts->truth[region]);
}

double fb_dice_mean(int64_t count, const fb_counts *cases, double mean[FB_REGIONS], int64_t valid[FB_REGIONS])
{
    double sum_all = 0.0;
    int64_t valid_all = 0;
    for (int r = 0; r < FB_REGIONS; r++) {
        double sum = 0.0;
        valid[r] = 0;
        for (int64_t i = 0; i < count; i++) {
            if (cases[i].truth[r] == 0)
                continue;
            sum += fb_dice(&cases[i], r);
            valid[r]++;
        }
        mean[r] = valid[r] > 0 ? sum / (double)valid[r] : NAN;
        sum_all += sum;
        valid_all += valid[r];
    }
    return valid_all > 0 ? sum_all / (double)valid_all : NAN;
}
