#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes accountant.txt: epsilons of dp-accounting 0.6.0, from below (optimistic) and from above (pessimistic).

    python3 -m venv /tmp/dpa && /tmp/dpa/bin/pip install dp-accounting==0.6.0
    /tmp/dpa/bin/python tests/golden/accountant.py > tests/golden/accountant.txt

One line a history: delta, optimistic, pessimistic, then its events:
    gaussian SIGMA RATE COUNT   sensitivity 1; rate 1: replace-one and add/remove are alike
    laplace EPSILON COUNT       continuous
    discrete SCALE SHIFT COUNT  discrete Laplace
    pure EPSILON COUNT
"""
import math
import sys

from dp_accounting.pld import privacy_loss_distribution as pld


def one(event, interval, pessimistic):
    kind, args = event[0], event[1:]
    common = {'value_discretization_interval': interval, 'pessimistic_estimate': pessimistic}
    if kind == 'gaussian':
        return pld.from_gaussian_mechanism(args[0], sampling_prob=args[1], use_connect_dots=pessimistic, **common)
    if kind == 'laplace':
        return pld.from_laplace_mechanism(1 / args[0], use_connect_dots=pessimistic, **common)
    if kind == 'discrete':
        return pld.from_discrete_laplace_mechanism(1 / args[0], int(args[1]), use_connect_dots=pessimistic, **common)
    return pld.from_randomized_response(2 / (1 + math.exp(args[0])), 2, **common)


def spread(event):
    """Standard deviation of the privacy loss of one event, roughly."""
    kind, args = event[0], event[1:]
    if kind == 'gaussian':
        return min(args[1] / args[0] * 2, 1)
    return {'laplace': args[0], 'discrete': args[1] / args[0], 'pure': args[0]}[kind]


def epsilons(events, deltas, pessimistic):
    """Rounding down costs half an interval a step, connecting the dots (almost) nothing."""
    small = min(spread(event) for event in events)
    steps = sum(event[-1] for event in events)
    interval = small / 64 if pessimistic else small / 64 / min(steps, 1000)**0.5
    interval = max(interval, 3e-7 if not pessimistic else 1e-6)
    total = None
    for event in events:
        composed = one(event, interval, pessimistic)
        if event[-1] > 1:
            composed = composed.self_compose(event[-1])
        total = composed if total is None else total.compose(composed)
    return [total.get_epsilon_for_delta(delta) for delta in deltas]


def histories():
    for sigma in (0.5, 1, 2, 5, 10, 20):
        for steps in (1, 10, 100, 1000, 10000):
            if steps / sigma**2 <= 1000:
                yield [('gaussian', sigma, 1, steps)]
    for rate in (0.01, 0.1, 0.5):
        for sigma in (0.5, 1, 2, 5, 20):
            for steps in (1, 30, 1000, 10000):
                if steps * (rate / sigma)**2 <= 250:
                    yield [('gaussian', sigma, rate, steps)]
    for epsilon in (0.01, 0.1, 1):
        for steps in (1, 10, 300):
            yield [('laplace', epsilon, steps)]
            yield [('pure', epsilon, steps)]
    for scale, shift in ((1, 1), (2, 3), (10, 8)):
        for steps in (1, 20, 200):
            yield [('discrete', scale, shift, steps)]
    yield [('pure', 0.5, 10), ('laplace', 0.1, 100)]
    yield [('pure', 0.3, 20), ('laplace', 0.05, 300)]
    yield [('pure', 0.2, 30), ('gaussian', 5, 1, 30)]
    yield [('laplace', 0.2, 50), ('gaussian', 2, 0.1, 100)]
    yield [('pure', 0.1, 10), ('gaussian', 1, 0.02, 500)]
    yield [('gaussian', 1, 0.02, 500), ('gaussian', 3, 0.1, 200)]
    yield [('gaussian', 2, 0.25, 40), ('gaussian', 10, 1, 40)]
    yield [('discrete', 5, 2, 60), ('gaussian', 4, 1, 20)]


def main():
    deltas = (1e-5, 1e-6, 1e-8)
    for events in histories():
        low = epsilons(events, deltas, False)
        high = epsilons(events, deltas, True)
        text = ' '.join(' '.join(str(x) for x in event) for event in events)
        for delta, lower, upper in zip(deltas, low, high):
            print(f'{delta:g} {lower:.12g} {upper:.12g} {text}', flush=True)
        print(f'{low[0]:.6g} {high[0]:.6g} {text}', file=sys.stderr)


main()
