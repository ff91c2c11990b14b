#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The figure of a sweep, whatever of it is there.

    plot_sweep.py results/sweep-demo            # writes sweep.png and sweep.pdf there

Two dimensions of the grid, share and budget where they were swept, span each row of panels; every further dimension
makes rows. Left: final Dice against one, a line per value of the other, every seed as a point, the interval over seeds
as a bar. Middle: their map; a cell where runs are missing says how many are there. Right: the difference to the last
value of the second dimension, between runs of the same seed, with its interval. What is missing is listed below.
"""
import argparse
import itertools
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from fedbrats_results import by_seed, label_text, open_sweep, varied
from repetitions import LAST, LEVEL, final, interval, paired_difference
from sweep_folder import SweepError

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#666666")  # Okabe and Ito
TITLES = {"share_fraction": "share of the model", "epsilon": "total ε of a hospital", "dice_mean": "mean Dice"}
MAX_ROWS, MAX_LISTED = 6, 8
ROW_INCHES, LINE_INCHES = 3.3, 0.19


def title_of(name):
    return TITLES.get(name, name)


def text_of(value):
    return "∞" if value == np.inf else label_text(value)


def span(grid):
    """(x, y, the other varied dimensions): x and y are None where less was swept. Numbers go before words."""
    first = ("epsilon", "privacy.epsilon_total", "share_fraction")
    order = sorted(varied(grid, "seed"), key=lambda dim: first.index(dim) if dim in first else
                   len(first) + (grid[dim].dtype.kind not in "if"))
    return (order + [None, None])[0], (order + [None, None])[1], order[2:]


def labels_on(grid, dim, axis):
    labels = [text_of(v) for v in grid[dim].values.tolist()] if dim else [""]
    axis.set_ticks(range(len(labels)), labels)
    axis.set_label_text(title_of(dim) if dim else "")


def as_array(values, *dims):
    """Values over the dims that there are, in this order; an axis of length 1 for each that is None."""
    array = values.transpose(*(dim for dim in dims if dim)).values
    return array[tuple(slice(None) if dim else None for dim in dims)]


def plot_lines(axes, grid, points, seeds, x, y):
    """A line per value of y, beside each other at each value of x; the seeds, if given, as small points."""
    mean, low, high = (as_array(points[name], y, x) for name in ("mean", "low", "high"))
    lines = len(mean)
    for i in range(lines):
        at = np.arange(mean.shape[1]) + 0.5 * ((i + 0.5) / lines - 0.5)
        color = COLORS[i % len(COLORS)]
        label = f"{title_of(y)} {text_of(grid[y].values.tolist()[i])}" if y else None
        axes.plot(at, mean[i], "o-", color=color, markersize=5, linewidth=1.4, label=label)
        bars = ~np.isnan(low[i])
        axes.vlines(at[bars], low[i][bars], high[i][bars], color=color, linewidth=1.2)
        if seeds is not None:
            for one in as_array(seeds, "seed", y, x)[:, i]:
                axes.plot(at, one, ".", color=color, alpha=0.45, markersize=4)
    shown = (mean if seeds is None else seeds.values).ravel()
    shown = shown[~np.isnan(shown)]
    if len(shown):  # an interval of two seeds may be wider than the axis: the points decide
        margin = max(0.25 * np.ptp(shown), 0.02)
        axes.set_ylim(shown.min() - margin, shown.max() + margin)
    labels_on(grid, x, axes.xaxis)
    axes.set_xlim(-0.5, mean.shape[1] - 0.5)
    axes.grid(axis="y", alpha=0.25)


def plot_map(figure, axes, grid, points, planned, x, y):
    mean, n, of = (as_array(values, y, x) for values in (points["mean"], points["n"], planned))
    image = axes.imshow(mean, origin="lower", aspect="auto", cmap="cividis")
    if np.isnan(mean).all():
        image.set_clim(0, 1)
    middle = sum(image.get_clim()) / 2
    for i, j in np.ndindex(mean.shape):
        if n[i, j] < of[i, j]:
            axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="//", edgecolor="0.6",
                                         linewidth=0))
        text = "" if n[i, j] == 0 else f"{mean[i, j]:.3f}"
        if n[i, j] < of[i, j]:
            text += f"\n{n[i, j]} of {of[i, j]} runs"
        axes.text(j, i, text.strip(), ha="center", va="center", fontsize=8,
                  color="white" if n[i, j] and mean[i, j] < middle else "black")
    labels_on(grid, x, axes.xaxis)
    labels_on(grid, y, axes.yaxis)
    figure.colorbar(image, ax=axes)


def plot_row(figure, axes, grid, seeds, planned, difference, x, y, level):
    points = interval(seeds, level=level)
    plot_lines(axes[0], grid, points, seeds, x, y)
    axes[0].set_ylabel(f"{title_of('dice_mean')}, last {LAST} evaluated rounds")
    if y:
        axes[0].legend(fontsize=7.5, frameon=False)
    plot_map(figure, axes[1], grid, points, planned, x, y)
    along, reference = difference.attrs["along"], difference.attrs["reference"]
    plot_lines(axes[2], grid, difference, None, x, y)
    axes[2].axhline(0, color="0.6", linewidth=0.8)
    axes[2].set_ylabel(f"difference to {title_of(along)} {text_of(reference)}")


def footer(sweep):
    lines = [f"{name}: {reason}" for name, reason in sweep.lacking]
    if len(lines) > MAX_LISTED:
        lines = lines[:MAX_LISTED] + [f"and {len(lines) - MAX_LISTED} more"]
    return [line if len(line) < 150 else line[:147] + "..." for line in lines]


def plot(sweep, output, level):
    grid = sweep.grid
    x, y, others = span(grid)
    choices = list(itertools.product(*(range(grid.sizes[dim]) for dim in others)))
    drawn, missing = choices[:MAX_ROWS], footer(sweep)
    below = LINE_INCHES * len(missing)
    height = ROW_INCHES * len(drawn) + 0.6 + below
    figure, axes = plt.subplots(len(drawn), 3, figsize=(13, height), squeeze=False)
    seeds, planned = by_seed(final(grid)), by_seed(grid["run"] != "").sum("seed")
    along = y or x or next(dim for dim in grid["run"].dims if dim != "seed")
    difference = paired_difference(grid, along=along, level=level)
    difference = difference.squeeze([d for d in difference.dims if difference.sizes[d] == 1], drop=True)
    for row, choice in zip(axes, drawn):
        at = dict(zip(others, choice))
        plot_row(figure, row, grid, seeds.isel(at), planned.isel(at), difference.isel(at), x, y, level)
        row[1].set_title(", ".join(f"{title_of(dim)} {text_of(grid[dim].values.tolist()[i])}" for dim, i in at.items()),
                         fontsize=9)
    complete = len(sweep.table) - len(sweep.lacking)
    cut = f"; the first {MAX_ROWS} of {len(choices)} rows" if len(choices) > MAX_ROWS else ""
    figure.suptitle(f"FedBraTS, {Path(sweep.folder).resolve().name}: {complete} of {len(sweep.table)} runs complete; "
                    f"bars: {100 * level:g} % over seeds{cut}", fontsize=11)
    figure.tight_layout(rect=(0, below / height, 1, 1))
    figure.text(0.01, below / height, "\n".join(missing), va="top", fontsize=7.5, color="#882255")
    figure.savefig(output.with_suffix(".png"), dpi=150)
    figure.savefig(output.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="of jobs/submit-sweep")
    parser.add_argument("--output", type=Path, help="the PNG (FOLDER/sweep.png); the PDF goes beside it")
    parser.add_argument("--level", type=float, default=LEVEL, help="of the intervals over seeds (%(default)s)")
    arguments = parser.parse_args()
    if not 0 < arguments.level < 1:
        parser.error("--level lies between 0 and 1")
    try:
        sweep = open_sweep(arguments.folder)
    except SweepError as error:
        print(f"plot_sweep: {error}", file=sys.stderr)
        return 2
    if sweep.grid is None:
        print(f"plot_sweep: nothing to plot: {sweep.grid_reason}", file=sys.stderr)
        return 1
    output = arguments.output or Path(arguments.folder, "sweep.png")
    plot(sweep, output, arguments.level)
    print(f"wrote {output.with_suffix('.png')} and {output.with_suffix('.pdf')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
