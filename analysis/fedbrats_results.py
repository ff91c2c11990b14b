# SPDX-License-Identifier: Apache-2.0
"""Reads the results files of fedbrats into xarray.

    from fedbrats_results import open_runs, open_sweep, final, paired_difference
    runs = open_runs(glob.glob("results/*.h5"))
    print(runs.skipped)                       # [(path, reason), ...]
    grid = runs.grid                          # one Dataset: share_fraction x epsilon x ... x round x hospital x region
    for run in runs.runs: run.data.dice_mean  # one Dataset per file, without the length-1 dimensions of the sweep

    sweep = open_sweep("results/sweep-demo")  # the folder of jobs/submit-sweep; the options of its grid are dimensions
    print(sweep.lacking)                      # [(run, reason), ...]: never started, stopped, failed, unreadable
    final(sweep.grid)                         # Dice of the last rounds, NaN where the run is not complete
    paired_difference(sweep.grid, "dice_mean", along="share_fraction", reference=1.0)  # mean, low, high, n over seeds

    /usr/bin/python3 analysis/fedbrats_results.py results/sweep-demo    # table, and one file for all: sweep.h5

Only committed rounds are kept: what a run that was killed or still runs has completely written.
"""
import math
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")  # a running simulation has the file open; we only look

import numpy as np
import xarray as xr
from sweep_folder import describe, read_table, run_folder, run_state

SWEEP = ("share_fraction", "epsilon", "seed", "select", "mechanism", "algorithm", "mode")
COORDINATES = {"sharing.fraction": "share_fraction", "privacy.epsilon_total": "epsilon", "run.seed": "seed",
               "sharing.select": "select", "privacy.mechanism": "mechanism", "federation.algorithm": "algorithm",
               "run.mode": "mode"}  # option -> the dimension that tells of it
NO_DIFFERENCE = ("run.output", "run.resume", "run.verbosity", "run.checkpoint_every", "run.grace_s", "run.watchdog_s",
                 "data.cache_bytes", "data.device_cache_bytes", "comm.backend", "comm.timeout_s")
LAST = 5  # evaluated rounds that a final figure is the mean of
NAMES = {"all": "all", "topk": "top-k", "random": "random", "svt": "SVT", "exponential": "exponential",
         "public": "public mask", "svt-as-published": "SVT as published", "laplace": "Laplace", "gaussian": "Gaussian",
         "dpsgd": "DP-SGD"}


@dataclass
class Run:
    path: str
    data: xr.Dataset  # (round, hospital, region); the sweep's coordinates are scalars
    status: str  # running, complete, failed
    config: dict = field(default_factory=dict)  # option -> text
    provenance: dict = field(default_factory=dict)


@dataclass
class Runs:
    runs: list  # of Run, in the order of the paths
    skipped: list  # of (path, reason)
    grid: xr.Dataset = None  # all runs together; None when there is none or two runs have the same place in it
    grid_reason: str = ""  # why there is no grid


def _load(path, group=None):
    with xr.open_dataset(path, engine="h5netcdf", group=group) as data:
        return data.load()


def read_run(path, diagnostics=False):
    """One file -> Run. Raises OSError or ValueError with the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's ABI warnings on import of a reader
        full = _load(path)
        missing = [name for name in SWEEP + ("rounds_committed", "dice_mean") if name not in full.variables]
        if missing:
            raise ValueError("not a results file of fedbrats: it has no " + ", ".join(missing))
        if diagnostics:
            full = full.merge(_load(path, "diagnostics"), combine_attrs="drop_conflicts")
        committed = int(full.rounds_committed.squeeze())
        if committed < 1:
            raise ValueError("no round is committed yet")
        full = full.isel(round=slice(0, committed))
        return Run(path=str(path), data=full.squeeze(SWEEP), status=str(full.attrs["status"]),
                   config=dict(_load(path, "config").attrs), provenance=dict(_load(path, "provenance").attrs))


def number_or_text(text):
    try:
        return float(text)
    except ValueError:
        return text


def _differing(runs):
    """'train.learning_rate (0.0001, 0.001)' of runs that share a place, and the options' names."""
    names = sorted(set().union(*(run.config for run in runs)) - set(NO_DIFFERENCE) - set(COORDINATES))
    values = {name: sorted({str(run.config.get(name, "-")) for run in runs}) for name in names}
    names = [name for name in names if len(values[name]) > 1]
    return ", ".join(f"{name} ({', '.join(values[name])})" for name in names), names


def _collision(runs, places, axes):
    """Why there is no grid: the runs that have one place, and what would keep them apart; "" when none do."""
    together = {}
    for run, place in zip(runs, places):
        together.setdefault(tuple(place[axis] for axis in axes), []).append(run)
    for place, same in together.items():
        if len(same) > 1:
            where = ", ".join(f"{axis}={value}" for axis, value in zip(axes, place))
            text, names = _differing(same)
            return f"several runs share one place of the sweep: {where}: " + (
                f"they differ in {text}: open them with dims={names}" if names else
                "no setting makes a difference between " + " and ".join(run.path for run in same))
    return ""


def _common_attributes(parts):
    first = parts[0].attrs
    return {k: v for k, v in first.items() if all(k in p.attrs and np.array_equal(p.attrs[k], v) for p in parts)}


def _assemble(parts, places, coordinates):
    """Datasets over (round, hospital, region) -> one over the axes too, NaN where nothing is. places: {axis: value} of
    each; coordinates: {axis: its values}. Integers become floats."""
    inner = {"round": sorted(set().union(*(p["round"].values.tolist() for p in parts)))}
    for dim in ("hospital", "region"):
        inner[dim] = list(dict.fromkeys(label for p in parts if dim in p.dims for label in p[dim].values.tolist()))
    variables = {name: p[name] for p in reversed(parts) for name in p.data_vars}
    shape, axes = tuple(map(len, coordinates.values())), tuple(coordinates)
    arrays = {name: np.full(shape + tuple(len(inner[d]) for d in v.dims), np.nan) for name, v in variables.items()}
    where = {dim: {label: i for i, label in enumerate(labels)} for dim, labels in {**coordinates, **inner}.items()}
    for part, place in zip(parts, places):
        cell = tuple(where[axis][place[axis]] for axis in axes)
        for name, values in part.data_vars.items():
            at = [[where[d][label] for label in part[d].values.tolist()] for d in values.dims]
            arrays[name][cell + np.ix_(*at) if at else cell] = values
    used = {d: labels for d, labels in inner.items() if any(d in v.dims for v in variables.values())}
    data = xr.Dataset({name: (axes + v.dims, arrays[name], v.attrs) for name, v in variables.items()},
                      coords={**coordinates, **used}, attrs=_common_attributes(parts))
    for dim in data.dims:
        known = [p[dim].attrs for p in parts if dim in p.coords]
        data[dim].attrs.update(known[0] if known else {"units": "1", "long_name": f"option {dim}"})
    return data


def open_runs(paths, diagnostics=False, dims=()):
    """Reads results files; those that cannot be read are listed in `skipped`, each with the reason. dims: options, such
    as "train.learning_rate", that are dimensions of the grid beside those of SWEEP."""
    result = Runs([], [])
    for path in paths:
        try:
            result.runs.append(read_run(path, diagnostics))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            result.skipped.append((str(path), " ".join(str(error).split()) or type(error).__name__))
    if result.runs:
        axes = SWEEP + tuple(dims)
        places = [{axis: run.data[axis].item() if axis in SWEEP else number_or_text(run.config.get(axis, ""))
                   for axis in axes} for run in result.runs]
        result.grid_reason = _collision(result.runs, places, axes)
        if not result.grid_reason:
            coordinates = {axis: _ordered(place[axis] for place in places) for axis in axes}
            result.grid = _assemble([run.data for run in result.runs], places, coordinates)
    return result


def _ordered(values):
    """Without repetitions; numbers ascend, texts stay in the order in which they came."""
    values = list(dict.fromkeys(values))
    return sorted(values) if all(isinstance(v, (int, float)) for v in values) else [str(v) for v in values]


def run_name(path):
    """A run's folder is its name."""
    path = Path(path).absolute()
    return path.parent.name if path.stem == "results" else path.stem


def rule_name(row):
    """How a run shares: 'SVT+Laplace'."""
    if row["mechanism"] == "dpsgd" and row["select"] == "all":
        return NAMES["dpsgd"]
    rule = NAMES.get(row["select"], row["select"])
    return rule if row["mechanism"] == "none" else rule + "+" + NAMES.get(row["mechanism"], row["mechanism"])


def last_mean(values, last=LAST):
    """Mean over the last evaluated rounds of (round, ...); NaN where there is none."""
    evaluated = values.dropna("round", how="all").isel(round=slice(-last, None))
    return evaluated.mean("round")


def spent(run):
    """The largest total budget of a hospital; infinity without a guarantee. Of a run that did not end, what it had
    planned: more may have been released than its results say."""
    total = float(run.data.epsilon_total.isel(round=-1).max())
    if run.status != "complete":
        total = max(total, float(run.provenance.get("epsilon_planned", total)))
    return total if math.isfinite(total) and total > 0 else math.inf


def short(number):
    """12000000.0 -> '1.2e7'"""
    if number >= 1e4 or number < 1e-2:
        mantissa, exponent = f"{number:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{number:.4g}"


def print_columns(cells):
    """A list of lines, each a list of texts, in columns."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
