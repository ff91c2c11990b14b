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
import argparse
import math
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")  # a running simulation has the file open; we only look

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from repetitions import LAST, LEVEL, final, interval, last_mean, paired_difference
from sweep_folder import SweepError, describe, read_table, run_folder, run_state

SWEEP = ("share_fraction", "epsilon", "seed", "select", "mechanism", "algorithm", "mode")
COORDINATES = {"sharing.fraction": "share_fraction", "privacy.epsilon_total": "epsilon", "run.seed": "seed",
               "sharing.select": "select", "privacy.mechanism": "mechanism", "federation.algorithm": "algorithm",
               "run.mode": "mode"}  # option -> the dimension that tells of it
NO_DIFFERENCE = ("run.output", "run.resume", "run.verbosity", "run.checkpoint_every", "run.grace_s", "run.watchdog_s",
                 "data.cache_bytes", "data.device_cache_bytes", "comm.backend", "comm.timeout_s")
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
    skipped: list  # of (path, reason): files that cannot be read
    grid: xr.Dataset = None  # all runs together; None when there is none or two runs have the same place in it
    grid_reason: str = ""  # why there is no grid


@dataclass
class Sweep(Runs):
    folder: str = ""
    table: list = field(default_factory=list)  # of (Row, State) of sweep_folder.py, and:
    of_row: dict = field(default_factory=dict)  # name -> Run, where it could be read
    lacking: list = field(default_factory=list)  # of (name, reason): runs that are not complete


def _load(path, group=None):
    with xr.open_dataset(path, engine="h5netcdf", group=group) as data:
        return data.load()


def _attributes(path, *groups):
    """The attributes of groups: of each a dict of texts."""
    with h5py.File(path, "r") as file:
        return [{name: value.decode() if isinstance(value, bytes) else value
                 for name, value in file[group].attrs.items()} for group in groups]


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
        config, provenance = _attributes(path, "config", "provenance")
        return Run(str(path), full.squeeze(SWEEP), str(full.attrs["status"]), config, provenance)


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


# --- sweeps ---


def _foreign(run, row):
    """Why a results file is not the one of this row; "" when it is."""
    for option, text in row.values.items():
        if option in run.config and number_or_text(run.config[option]) != number_or_text(text):
            return f"results.h5 is of another run: its {option} is {run.config[option]}, the table says {text}"
    return ""


def _read_row(sweep, row, state, diagnostics):
    """Reads one run of a sweep; (Run or None, reason why it is not complete or "")."""
    path = run_folder(sweep.folder, row) / "results.h5"
    if state.kind == "missing":
        return None, describe(state)
    try:
        run = read_run(path, diagnostics)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if state.kind != "complete" and not path.exists() or "no round is committed" in reason:
            return None, describe(state)
        sweep.skipped.append((str(path), reason))
        return None, f"{describe(state)}; results.h5 cannot be read: {reason}"
    foreign = _foreign(run, row)
    if foreign:
        sweep.skipped.append((str(path), foreign))
        return None, foreign
    if state.kind == "complete" and run.status == "complete":
        return run, ""
    if state.kind == "complete":
        return run, f"result.txt says complete, but the status in results.h5 is {run.status}"
    return run, describe(state._replace(round=run.data.sizes["round"], rounds=state.rounds or int(
        run.config.get("federation.rounds", 0))))


def _axis_of(option, sweep):
    """(dimension, {text: coordinate}) of an option of the grid: the files' own coordinate where each text of the option
    has one of its own; epsilon is computed where none was asked for, and may differ from run to run."""
    texts = list(dict.fromkeys(row.values[option] for row, _ in sweep.table))
    own = {text: number_or_text(text) for text in texts}
    dim = COORDINATES.get(option)
    if not dim:
        return option, own
    seen = {}
    for row, _ in sweep.table:
        if row.name in sweep.of_row:
            seen.setdefault(row.values[option], set()).add(sweep.of_row[row.name].data[dim].item())
    if any(len(values) > 1 for values in seen.values()):
        return option, own
    if dim == "epsilon":
        own = {text: math.inf if value == 0 else value for text, value in own.items()}
    if dim == "seed":
        own = {text: int(value) for text, value in own.items()}
    own.update({text: values.pop() for text, values in seen.items()})
    return (dim, own) if len(set(own.values())) == len(texts) else (option, {t: number_or_text(t) for t in texts})


def _without_linked(axes, rows):
    """Options of one line of the grid change together: those that the others determine are no dimension. Words go
    before numbers, so that of "none 0, laplace 8" the budget stays."""
    def words_first(option):
        name, values = axes[option]
        return (all(isinstance(v, (int, float)) for v in values.values()), name in SWEEP[:3])

    kept = list(axes)
    for option in sorted(axes, key=words_first):
        others = [o for o in kept if o != option]
        places = {tuple(row.values[o] for o in others) for row in rows}
        if len(set(row.values[option] for row in rows)) > 1 and len(places) == len(rows):
            kept = others
    return {option: axes[option] for option in kept}


def _add_state(grid, table, places, axes):
    """Variables over the axes: complete (1 or 0), and the run's name and what became of it."""
    shape = tuple(grid.sizes[axis] for axis in axes)
    index = {axis: {label: i for i, label in enumerate(grid[axis].values.tolist())} for axis in axes}
    complete, name = np.zeros(shape, np.int8), np.full(shape, "", object)
    for (row, _, done), place in zip(table, places):
        cell = tuple(index[axis][place[axis]] for axis in axes)
        complete[cell], name[cell] = done, row.name
    grid["complete"] = (axes, complete, {"units": "1", "long_name": "1: the run is complete"})
    grid["run"] = (axes, name, {"units": "1", "long_name": "name of the run; empty: not in the sweep"})


def _sweep_grid(sweep):
    """One Dataset over the options of the grid, whatever was run of it."""
    rows = [row for row, _ in sweep.table]
    axes = _without_linked({option: _axis_of(option, sweep) for option in rows[0].values}, rows)
    runs = list(sweep.of_row.values())
    named = {name: (option, texts) for option, (name, texts) in axes.items()}
    fixed = {name: runs[0].data[name].item() for name in SWEEP
             if name not in named and len({run.data[name].item() for run in runs}) == 1}
    order = [n for n in SWEEP if n in named or n in fixed] + [n for n in named if n not in SWEEP]
    places = [{n: named[n][1][row.values[named[n][0]]] if n in named else fixed[n] for n in order} for row in rows]
    coordinates = {name: _ordered(place[name] for place in places) for name in order}
    where = {row.name: place for row, place in zip(rows, places)}
    grid = _assemble([run.data for run in runs], [where[name] for name in sweep.of_row], coordinates)
    lacking = dict(sweep.lacking)
    _add_state(grid, [(row, state, row.name not in lacking) for row, state in sweep.table], places, tuple(order))
    for name in SWEEP:
        if name not in order:
            grid[name] = _by_run(grid, sweep, name)
    return grid


def _by_run(grid, sweep, name):
    """A coordinate of the files that the dimensions determine, as a variable over them."""
    of_run = {run: data.data[name].item() for run, data in sweep.of_row.items()}
    text = isinstance(next(iter(of_run.values())), str)
    values = [of_run.get(run, "" if text else math.nan) for run in grid["run"].values.ravel()]
    first = next(iter(sweep.of_row.values())).data[name]
    return (grid["run"].dims, np.array(values, object if text else float).reshape(grid["run"].shape), first.attrs)


def open_sweep(folder, diagnostics=False):
    """The folder of jobs/submit-sweep -> Sweep, complete or not: each row of its table is read or listed in `lacking`
    with the reason. The grid has the options of the sweep as dimensions, those that vary together as one, with every
    planned value; NaN where nothing was run. Its variables complete and run say what stands where."""
    sweep = Sweep([], [], folder=str(folder))
    sweep.table = [(row, run_state(folder, row)) for row in read_table(folder)]
    for row, state in sweep.table:
        run, reason = _read_row(sweep, row, state, diagnostics)
        if run:
            sweep.of_row[row.name] = run
            sweep.runs.append(run)
        if reason:
            sweep.lacking.append((row.name, reason))
    if sweep.runs:
        sweep.grid = _sweep_grid(sweep)
    else:
        sweep.grid_reason = "no run can be read"
    return sweep


def write_sweep(sweep, path):
    """All runs in one netCDF-4 file, written beside its name and renamed: the grid; group table, what became of each
    run; runs/NAME/config and runs/NAME/provenance, the options and the origin of each."""
    temporary = f"{path}.tmp"
    sweep.grid.to_netcdf(temporary, engine="h5netcdf")
    lacking = dict(sweep.lacking)
    table = xr.Dataset({"reason": ("name", [lacking.get(row.name, "") for row, _ in sweep.table]),
                        "arguments": ("name", [" ".join(row.arguments) for row, _ in sweep.table]),
                        "complete": ("name", np.array([row.name not in lacking for row, _ in sweep.table], np.int8))},
                       coords={"name": [row.name for row, _ in sweep.table]})
    table.to_netcdf(temporary, engine="h5netcdf", mode="a", group="table")
    with h5netcdf.File(temporary, "a") as file:
        for name, run in sweep.of_row.items():
            group = file.create_group(f"runs/{name}")
            group.attrs.update(run.data.attrs)
            for part, attributes in (("config", run.config), ("provenance", run.provenance)):
                group.create_group(part).attrs.update(attributes)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


# --- words and figures ---


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


def spent(run):
    """The largest total budget of a hospital; infinity without a guarantee. Of a run that did not end, what it had
    planned: more may have been released than its results say."""
    total = float(run.data.epsilon_total.isel(round=-1).max())
    if run.status != "complete":
        total = max(total, float(run.provenance.get("epsilon_planned", total)))
    return total if math.isfinite(total) and total > 0 else math.inf


def short(number):
    """12000000.0 -> '1.2e7'"""
    if math.isfinite(number) and number and not 1e-2 <= number < 1e4:
        mantissa, exponent = f"{number:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{number:.4g}"


def print_columns(cells):
    """A list of lines, each a list of texts, in columns."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def label_text(value):
    """Of a coordinate."""
    return short(value) if isinstance(value, float) else str(value)


def varied(grid, *without):
    """The dimensions of a sweep that have more than one value."""
    return [dim for dim in grid["run"].dims if grid.sizes[dim] > 1 and dim not in without]


def by_seed(values):
    """With a dimension seed, even where the seed was not swept, and without dimensions of one value."""
    values = values if "seed" in values.dims else values.expand_dims("seed")
    return values.squeeze([dim for dim in values.dims if values.sizes[dim] == 1 and dim != "seed"], drop=True)


def print_sweep(sweep, level=LEVEL):
    """A line per point of the grid: the final Dice over its seeds; then the runs that are lacking."""
    grid = sweep.grid
    points, planned = interval(by_seed(final(grid)), level=level), by_seed(grid["run"] != "").sum("seed")
    dims = varied(grid, "seed")
    cells = [dims + ["runs", f"dice_last{LAST}", f"low{100 * level:g}", f"high{100 * level:g}"]]
    for index in np.ndindex(*(grid.sizes[dim] for dim in dims)):
        at = dict(zip(dims, index))
        point, of = points.isel(at), int(planned.isel(at))
        if of:
            cells.append([label_text(grid[dim].values.tolist()[i]) for dim, i in at.items()] +
                         [f"{int(point.n)}/{of}"] + ["-" if np.isnan(point[name]) else f"{float(point[name]):.4f}"
                                                     for name in ("mean", "low", "high")])
    print_columns(cells)
    if any(0 < int(n) < 2 for n in points.n.values.ravel()):
        print("one seed alone has no interval: repeat runs with more of them")


def main():
    parser = argparse.ArgumentParser(
        description="Collects a sweep: a table, and FOLDER/sweep.h5 with all runs. Exit status: 0 all are complete, "
                    "1 some are not, 2 no sweep is there.")
    parser.add_argument("folder", help="of jobs/submit-sweep")
    parser.add_argument("--diagnostics", action="store_true",
                        help="with the simulator's own view of the hospitals, which is not for release")
    parser.add_argument("--level", type=float, default=LEVEL, help="of the intervals over seeds (%(default)s)")
    arguments = parser.parse_args()
    if not 0 < arguments.level < 1:
        parser.error("--level lies between 0 and 1")
    try:
        sweep = open_sweep(arguments.folder, arguments.diagnostics)
    except SweepError as error:
        print(f"fedbrats_results: {error}", file=sys.stderr)
        return 2
    if sweep.grid is not None:
        print_sweep(sweep, arguments.level)
        path = Path(arguments.folder, "sweep.h5")
        write_sweep(sweep, path)
        print(f"wrote {path}: {len(sweep.runs)} of {len(sweep.table)} runs, {len(sweep.lacking)} not complete")
    for name, reason in sweep.lacking:
        print(f"fedbrats_results: {name}: {reason}", file=sys.stderr)
    return 1 if sweep.lacking else 0


if __name__ == "__main__":
    sys.exit(main())
