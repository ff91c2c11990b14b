# SPDX-License-Identifier: Apache-2.0
"""Figures of runs that are repeated with several seeds: means and differences with intervals of Student's t. All
functions take the grids of fedbrats_results.py, with or without further dimensions."""
import math

import numpy as np
import xarray as xr

LAST = 5  # evaluated rounds that a final figure is the mean of
LEVEL = 0.95  # of an interval


def t_quantile(level, degrees):
    """The t that a variate of Student's distribution with `degrees` (1, 2, ...) stays below in absolute value with
    probability `level`: bisection of the finite series in the angle atan(t / sqrt(degrees)), Abramowitz & Stegun 26.7.3
    and 26.7.4."""
    def probability(angle):
        sine, cosine = math.sin(angle), math.cos(angle)
        term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
        for k in range(1 + degrees % 2, degrees, 2):
            total += term
            term *= cosine * cosine * k / (k + 1)
        return sine * total if degrees % 2 == 0 else 2 / math.pi * (angle + sine * total)

    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < level else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def last_mean(values, last=LAST):
    """Mean over the last evaluated rounds of (round, ...); NaN where there is none."""
    evaluated = values.dropna("round", how="all").isel(round=slice(-last, None))
    return evaluated.mean("round")


def final(grid, name="dice_mean", last=LAST):
    """A variable's mean over the last evaluated rounds of each run; NaN where the run is not complete: the rounds
    before a run was stopped are no final figure."""
    values = grid[name]
    if "round" in values.dims:
        evaluated = values.notnull()
        from_end = evaluated.isel(round=slice(None, None, -1)).cumsum("round").isel(round=slice(None, None, -1))
        values = values.where(evaluated & (from_end <= last)).mean("round", keep_attrs=True)
    return values.where(grid["complete"] == 1) if "complete" in grid else values


def interval(values, over="seed", level=LEVEL):
    """Dataset of mean, low, high and n: the mean over a dimension and its interval. With n = 1 there is a mean but no
    interval: low and high are NaN."""
    n = values.notnull().sum(over)
    mean = values.mean(over)
    spread = np.sqrt(((values - mean) ** 2).sum(over) / (n - 1).where(n > 1))
    quantiles = {int(k): t_quantile(level, int(k) - 1) for k in np.unique(n) if k > 1}
    t = xr.apply_ufunc(np.vectorize(lambda k: quantiles.get(int(k), math.nan), otypes=[float]), n)
    half = t * spread / np.sqrt(n)
    result = xr.Dataset(dict(mean=mean, low=mean - half, high=mean + half, n=n))
    result.attrs["level"] = level
    return result


def paired_difference(grid, name="dice_mean", along="share_fraction", reference=None, over="seed", level=LEVEL,
                      last=LAST):
    """How much each point differs from `reference` on the dimension `along` (its last value when it is None): the mean
    of the differences between runs of the same seed, with its interval; only seeds that have both runs complete count.
    Paired, since runs of one seed share cohort, initial model and order of cases: their common part cancels."""
    values = final(grid, name, last)
    for dim in (along, over):
        if dim not in values.dims:
            raise ValueError(f"{name} has no dimension {dim}, only {', '.join(map(str, values.dims))}")
    labels = grid[along].values.tolist()
    reference = labels[-1] if reference is None else reference
    if reference not in labels:
        raise ValueError(f"{along} has no value {reference}, only {', '.join(map(str, labels))}")
    result = interval(values - values.sel({along: reference}, drop=True), over, level)
    result.attrs.update(along=along, reference=reference, variable=name)
    return result
