# SPDX-License-Identifier: Apache-2.0
"""Reads the results files of fedbrats into xarray.

    from fedbrats_results import open_runs
    runs = open_runs(glob.glob("results/*.h5"))
    print(runs.skipped)                       # [(path, reason), ...]
    grid = runs.grid                          # one Dataset: share_fraction x epsilon x ... x round x hospital x region
    for run in runs.runs: run.data.dice_mean  # one Dataset per file, without the length-1 dimensions of the sweep

Only committed rounds are kept: what a run that was killed or still runs has completely written.
"""
import math
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")  # a running simulation has the file open; we only look

import xarray as xr

SWEEP = ("share_fraction", "epsilon", "seed", "select", "mechanism", "algorithm", "mode")
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
    """One file -> (Run, Dataset with the sweep's length-1 dimensions). Raises OSError or ValueError with the reason."""
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
    run = Run(path=str(path), data=full.squeeze(SWEEP), status=str(full.attrs["status"]),
              config=dict(_load(path, "config").attrs), provenance=dict(_load(path, "provenance").attrs))
    return run, full


def _combine(parts):
    """xarray's combine_by_coords with a reason instead of an exception."""
    places = [tuple(part[name].item() for name in SWEEP) for part in parts]
    twice = {place for place in places if places.count(place) > 1}
    if twice:
        return None, "several runs share one place of the sweep: " + "; ".join(
            ", ".join(f"{name}={value}" for name, value in zip(SWEEP, place)) for place in sorted(twice))
    return xr.combine_by_coords(parts, combine_attrs="drop_conflicts"), ""


def open_runs(paths, diagnostics=False):
    """Reads results files; those that cannot be read are listed in `skipped`, each with the reason."""
    result, parts = Runs([], []), []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # numpy's ABI warnings on import of a reader
                run, full = read_run(path, diagnostics)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            result.skipped.append((str(path), " ".join(str(error).split()) or type(error).__name__))
            continue
        result.runs.append(run)
        parts.append(full)
    if parts:
        result.grid, result.grid_reason = _combine(parts)
    return result


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
