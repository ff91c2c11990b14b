/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/optim.h"

#include <math.h>
#include <tgmath.h>

void fb_adam_step(const fb_adam_spec *spec, int64_t count, int64_t step, fb_real *w, const fb_real *g, fb_real *m,
                  fb_real *v)
{
    const double correction1 = 1.0 - pow(spec->beta1, (double)step), correction2 = 1.0 - pow(spec->beta2, (double)step);
    const fb_real decay = (fb_real)spec->weight_decay, beta1 = (fb_real)spec->beta1, beta2 = (fb_real)spec->beta2;
    const fb_real rest1 = (fb_real)(1.0 - spec->beta1), rest2 = (fb_real)(1.0 - spec->beta2);
    const fb_real rate = (fb_real)(spec->learning_rate / correction1), root2 = (fb_real)sqrt(correction2);
    const fb_real epsilon = (fb_real)spec->epsilon;
#pragma omp parallel for simd
    for (int64_t i = 0; i < count; i++) {
        const fb_real gradient = g[i] + decay * w[i];
        m[i] = beta1 * m[i] + rest1 * gradient;
        v[i] = beta2 * v[i] + rest2 * gradient * gradient;
        w[i] -= rate * m[i] / (sqrt(v[i]) / root2 + epsilon);
    }
}

void fb_sgd_step(double learning_rate, double weight_decay, int64_t count, fb_real *w, const fb_real *g)
{
    const fb_real rate = (fb_real)learning_rate, decay = (fb_real)weight_decay;
#pragma omp parallel for simd
    for (int64_t i = 0; i < count; i++)
        w[i] -= rate * (g[i] + decay * w[i]);
}
