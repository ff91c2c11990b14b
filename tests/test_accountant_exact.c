/* SPDX-License-Identifier: Apache-2.0
 *
 * The accountants against exact enumeration of small compositions of the discrete mechanisms themselves.
 */
#include "accounting.h"
#include "privacy/gauss.h"
#include "privacy/pld.h"

#include <stdlib.h>

typedef struct losses {
    int n;
    double *loss, *p; /* (n) owned */
    double infinite;
} losses;

static losses losses_make(int n)
{
    losses l = {.n = n};
    must(FB_ALLOC(l.loss, n, "losses"));
    must(FB_ALLOC(l.p, n, "probabilities"));
    return l;
}

static void losses_free(losses *l)
{
    FB_FREE(l->loss);
    FB_FREE(l->p);
}

/* Of p against q, on the same support (n). Equal losses are merged. */
static losses losses_of(int n, const double *p, const double *q)
{
    losses l = losses_make(n);
    l.n = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        if (q[i] == 0) {
            l.infinite += p[i];
            continue;
        }
        while (p[i] > 0 && k < l.n && fabs(l.loss[k] - log(p[i] / q[i])) > 1e-13)
            k++;
        if (p[i] == 0)
            continue;
        l.n += k == l.n;
        l.loss[k] = log(p[i] / q[i]);
        l.p[k] += p[i];
    }
    return l;
}

static losses product(const losses *a, const losses *b)
{
    losses l = losses_make(a->n * b->n);
    for (int i = 0; i < l.n; i++) {
        l.loss[i] = a->loss[i / b->n] + b->loss[i % b->n];
        l.p[i] = a->p[i / b->n] * b->p[i % b->n];
    }
    l.infinite = 1 - (1 - a->infinite) * (1 - b->infinite);
    return l;
}

static double exact_epsilon(const losses *l, double delta)
{
    double low = 0, high = 100;
    for (int step = 0; step < 45; step++) {
        double middle = (low + high) / 2, sum = l->infinite;
        for (int i = 0; i < l->n; i++) {
            if (l->loss[i] > middle)
                sum -= l->p[i] * expm1(middle - l->loss[i]);
        }
        if (sum > delta)
            low = middle;
        else
            high = middle;
    }
    return low;
}

enum { SUPPORT = 801, MIDDLE = 300 };

/* Discrete Laplace around 0 and around shift, as far as doubles go. */
static losses enumerate_laplace(double scale, int shift)
{
    double p[SUPPORT], q[SUPPORT];
    for (int x = 0; x < SUPPORT; x++) {
        p[x] = tanh(0.5 / scale) * exp(-abs(x - MIDDLE) / scale);
        q[x] = tanh(0.5 / scale) * exp(-abs(x - MIDDLE - shift) / scale);
    }
    return losses_of(SUPPORT, p, q);
}

/* Two and three compositions, equal and unequal. The accountant may not be below, and not far above. */
static void enumeration_of_laplace(void **state)
{
    (void)state;
    static const double scales[] = {0.7, 2, 5}, deltas[] = {1e-1, 1e-3, 1e-5};
    for (int shift = 1; shift <= 3; shift++) {
        for (int i = 0; i < 3; i++) {
            losses one = enumerate_laplace(scales[i], shift), other = enumerate_laplace(3, 2);
            losses two = product(&one, &one), three = product(&two, &one), mixed = product(&two, &other);
            fb_event events[] = {discrete(scales[i], shift, 2), discrete(3, 2, 1)}, triple = events[0];
            triple.count = 3;
            for (int k = 0; k < 3; k++) {
                double exact[] = {exact_epsilon(&two, deltas[k]), exact_epsilon(&three, deltas[k]),
                                  exact_epsilon(&mixed, deltas[k])};
                double ours[] = {spend_one(events[0], deltas[k]), spend_one(triple, deltas[k]),
                                 spend(events, 2, deltas[k]).epsilon};
                for (int m = 0; m < 3; m++)
                    assert_within(ours[m], exact[m] * (1 - ROUNDING), exact[m] * 1.001 + 1e-4);
                assert_true(by(triple, deltas[k], FB_ACCOUNTANT_KOV) >= exact[1] * (1 - ROUNDING));
                assert_true(by(triple, deltas[k], FB_ACCOUNTANT_RDP) >= exact[1] * (1 - ROUNDING));
                assert_true(by(triple, deltas[k], FB_ACCOUNTANT_ZCDP) >= exact[1] * (1 - ROUNDING));
            }
            losses *all[] = {&one, &other, &two, &three, &mixed};
            for (int k = 0; k < 5; k++)
                losses_free(all[k]);
        }
    }
}

/* The Poisson-sampled discrete Gaussian in one dimension, both directions, twice. The Renyi accountant holds for it as
 * it is, the one of the continuous Gaussian with the factor between them. */
static void enumeration_of_sampled_gaussian(void **state)
{
    (void)state;
    const int shift = 40;
    const double sigma = 40, rate = 0.2, delta = 1e-3;
    double mixed[SUPPORT], alone[SUPPORT], sum = 0;
    for (int x = 0; x < SUPPORT; x++) {
        alone[x] = exp(-(x - MIDDLE) * (x - MIDDLE) / (2 * sigma * sigma));
        sum += alone[x];
    }
    for (int x = 0; x < SUPPORT; x++) {
        double away = x - MIDDLE - shift;
        mixed[x] = ((1 - rate) * alone[x] + rate * exp(-away * away / (2 * sigma * sigma))) / sum;
        alone[x] /= sum;
    }
    fb_event event = gaussian(1, rate, 2);
    fb_cost cost = {.kind = FB_EVENT_GAUSSIAN, .count = 2, .epsilon = INFINITY, .mu = 1, .rate = rate};
    fb_pld pld = {0};
    must(fb_pld_compose(&(fb_costs){1, &cost}, delta, &pld));
    assert_int_equal(pld.directions, 2);
    double renyi = by(event, delta, FB_ACCOUNTANT_RDP), worst = 0;
    for (int direction = 0; direction < 2; direction++) {
        losses one = losses_of(SUPPORT, direction ? alone : mixed, direction ? mixed : alone);
        losses two = product(&one, &one);
        double exact = exact_epsilon(&two, delta);
        assert_within(fb_tail_sum_epsilon(&pld.tail[direction], delta), exact * 0.999, exact * 1.01);
        worst = fmax(worst, exact);
        losses_free(&one);
        losses_free(&two);
    }
    fb_pld_free(&pld);
    assert_true(renyi >= worst);
    assert_within(by(event, delta, FB_ACCOUNTANT_PLD), worst * 0.999, worst * 1.01);
    event.to_continuous = fb_gauss_to_continuous(sigma, fb_gauss_reach(1));
    assert_within(by(event, delta, FB_ACCOUNTANT_PLD), worst, worst * 1.01 + 5 * event.to_continuous);
}

/* Three losses and mass without one, by hand. */
static void epsilon_of_a_few_losses(void **state)
{
    (void)state;
    fb_tail_sum tail = {0};
    must(fb_tail_sum_make(3, (const double[]){0.1, 0.3, 0.5}, 2, 1, &tail));
    tail.extra = 0.1;
    for (double epsilon = 0.05; epsilon < 2; epsilon += 0.1) {
        double delta = 0.1;
        for (int i = 0; i < 3; i++)
            delta += 2 - i > epsilon ? (i == 0 ? 0.1 : 0.3) * -expm1(epsilon - (2 - i)) : 0;
        assert_near(fb_tail_sum_epsilon(&tail, delta), epsilon, ROUNDING);
    }
    assert_true(isinf(fb_tail_sum_epsilon(&tail, 0.0999)));
    assert_true(fb_tail_sum_epsilon(&tail, 0.99) == 0);
    fb_tail_sum_free(&tail);
}

/* What tables may do at worst: make what tells neighbours apart more probable, and the rest less. */
static void enumeration_of_tables(void **state)
{
    (void)state;
    static const double r = 1e-3, delta = 1e-3;
    for (int i = 0; i < 3; i++) {
        double scale = i == 0 ? 0.2 : i == 1 ? 1 : 4, p[SUPPORT], q[SUPPORT], p_sum = 0, q_sum = 0;
        for (int x = 0; x < SUPPORT; x++) {
            int side = x < MIDDLE + 1 ? 1 : x > MIDDLE + 1 ? -1 : 0; /* nearer to the one or the other */
            p_sum += p[x] = exp(-abs(x - MIDDLE) / scale + side * r);
            q_sum += q[x] = exp(-abs(x - MIDDLE - 2) / scale - side * r);
        }
        for (int x = 0; x < SUPPORT; x++) {
            p[x] /= p_sum;
            q[x] /= q_sum;
        }
        losses one = losses_of(SUPPORT, p, q), two = product(&one, &one), three = product(&two, &one);
        double exact = exact_epsilon(&three, delta);
        fb_event event = discrete(scale, 2, 3);
        event.rounding = 2 * r; /* the sums too are off by r */
        fb_spent spent = spend(&event, 1, delta);
        for (int k = 0; k < FB_ACCOUNTANTS; k++)
            assert_true(spent.by[k] >= exact * (1 - ROUNDING));
        event.rounding = 0; /* the mutant that forgets the tables is below */
        assert_true(spend_one(event, delta) < exact);
        losses_free(&one);
        losses_free(&two);
        losses_free(&three);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enumeration_of_laplace),    cmocka_unit_test(enumeration_of_sampled_gaussian),
        cmocka_unit_test(enumeration_of_tables),     cmocka_unit_test(epsilon_of_a_few_losses),
        cmocka_unit_test(nothing_is_left_allocated),
    };
    return cmocka_run_group_tests_name("accountant_exact", tests, NULL, NULL);
}
