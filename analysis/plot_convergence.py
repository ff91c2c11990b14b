#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Convergence against the sharing fraction and the privacy budget.

    plot_convergence.py results/*.h5 --output results/convergence.png

Writes a PNG and a PDF of the same name: on the left the mean Dice on the common test shard against the round, one line
a run; on the right the final Dice against the sharing fraction. Prints the table of runs. All comes from the files.
"""
import argparse
import math
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from fedbrats_results import LAST, last_mean, open_runs, print_columns, rule_name, run_name, short, spent

MARKERS = "osD^vPX*<>"
REGION_MARKERS = {"TC": "^", "WT": "s", "ET": "v"}
COLUMNS = ("run", "mode", "select", "fraction", "mechanism", "epsilon", "rounds", "dice", "TC", "WT", "ET", "bytes",
           "status")
HEADINGS = {"epsilon": "eps_total", "dice": f"dice_last{LAST}", "bytes": "bytes/round/hospital"}


def summarise(run):
    """The run's row of the table, plus what the figure needs."""
    data = run.data
    total = spent(run)
    regions = last_mean(data.dice)
    sent = data.bytes_sent.where(data.participated == 1)
    row = dict(run=run_name(run.path), mode=data["mode"].item(), select=data["select"].item(),
               fraction=data.share_fraction.item(), mechanism=data["mechanism"].item(),
               epsilon=total if math.isfinite(total) else math.nan, rounds=data.sizes["round"],
               dice=float(last_mean(data.dice_mean)), bytes=float(sent.mean()), status=run.status, data=data,
               seed=data.seed.item(), algorithm=data["algorithm"].item())
    row.update({name: float(regions.sel(region=name)) for name in REGION_MARKERS})
    return row


def print_table(rows):
    def text(row, column):
        value = row[column]
        if column == "fraction":
            return f"{value:.4g}"
        if isinstance(value, float) and math.isnan(value):
            return "-"
        return {"dice": "%.4f", "TC": "%.4f", "WT": "%.4f", "ET": "%.4f", "bytes": "%.0f", "epsilon": "%.4g"}.get(
            column, "%s") % value

    print_columns([[HEADINGS.get(c, c) for c in COLUMNS]] + [[text(row, c) for c in COLUMNS] for row in rows])


def label(row, varied):
    """What a reader needs to tell the runs apart."""
    if row["mode"] != "federated":
        parts = [row["mode"]]
    else:
        parts = [f"{100 * row['fraction']:.4g} %", rule_name(row)]
        if not math.isnan(row["epsilon"]):
            parts.append(f"ε = {short(row['epsilon'])}")
        elif row["mechanism"] != "none":
            parts.append("no guarantee")
    parts += [f"{name} {row[name]}" for name in varied]
    if row["status"] != "complete":
        parts.append(row["status"])
    return ", ".join(parts)


def order(row):
    return ({"centralised": 0, "local": 1}.get(row["mode"], 2), row["mechanism"] != "none", row["fraction"],
            -row["epsilon"] if not math.isnan(row["epsilon"]) else -math.inf, row["select"], row["seed"])


def set_styles(rows):
    """Baselines black, sharing fractions in blues, privacy in oranges: distinct for all common colour blindness."""
    families = {False: [], True: []}
    for row in rows:
        if row["mode"] == "federated":
            families[row["mechanism"] != "none"].append(row)
        else:
            row["style"] = dict(color="black", linestyle="--" if row["mode"] == "centralised" else ":", linewidth=1.6)
    for private, family in families.items():
        depths = np.linspace(0.95, 0.5 if private else 0.45, len(family))[::-1]
        shades = plt.get_cmap("YlOrBr" if private else "Blues")(depths)
        for i, row in enumerate(family):
            row["style"] = dict(color=shades[i], linewidth=1.6, marker=MARKERS[i % len(MARKERS)], markersize=5)
    for row in rows:
        row["style"]["label"] = label(row, [n for n in ("seed", "algorithm") if len({r[n] for r in rows}) > 1])


def plot_curves(axes, rows):
    for i, row in enumerate(rows):
        curve = row["data"].dice_mean.dropna("round")
        step = max(1, curve.sizes["round"] // 6)
        axes.plot(curve["round"], curve, markevery=(i % step, step), **row["style"])
    axes.set_xlabel("round")
    axes.set_ylabel("mean Dice on the test shard")
    axes.set_title("Convergence")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def plot_final(axes, rows):
    """One column a fraction; the runs of a fraction stand side by side in it."""
    federated = [row for row in rows if row["mode"] == "federated"]
    fractions = sorted({row["fraction"] for row in federated})
    for column, fraction in enumerate(fractions):
        same = [row for row in federated if row["fraction"] == fraction]
        for row, x in zip(same, column + 0.7 * (np.arange(len(same)) - (len(same) - 1) / 2) / max(3, len(same))):
            color = row["style"]["color"]
            regions = [row[name] for name in REGION_MARKERS]
            axes.vlines(x, np.nanmin(regions), np.nanmax(regions), color=color, linewidth=0.8)
            for name, marker in REGION_MARKERS.items():
                axes.plot(x, row[name], marker, color=color, markersize=5, markerfacecolor="white")
            axes.plot(x, row["dice"], "o", color=color, markersize=7)
    for row in rows:
        if row["mode"] != "federated":
            style = row["style"]
            axes.axhline(row["dice"], color=style["color"], linestyle=style["linestyle"], linewidth=style["linewidth"])
    axes.set_xlim(-0.6, max(0, len(fractions) - 1) + 0.6)
    axes.set_xticks(range(len(fractions)), [f"{100 * f:.4g}" for f in fractions])
    axes.set_xlabel("sharing fraction (%)")
    axes.set_ylabel(f"Dice, mean of the last {LAST} evaluated rounds")
    axes.set_title("Final Dice")
    axes.grid(axis="y", alpha=0.3)


def add_legends(runs_axes, markers_axes, rows):
    for axes in (runs_axes, markers_axes):
        axes.axis("off")
    handles = [plt.Line2D([], [], **row["style"]) for row in rows]
    runs_axes.legend(handles=handles, loc="upper left", ncol=2 if len(rows) > 3 else 1, fontsize=9, frameon=False,
                     title="run (ε: total of a hospital over the run)", title_fontsize=9, alignment="left")
    grey = dict(color="0.3", linestyle="")
    marks = [plt.Line2D([], [], marker="o", markersize=7, label="mean", **grey)]
    marks += [plt.Line2D([], [], marker=m, markersize=5, markerfacecolor="white", label=n, **grey)
              for n, m in REGION_MARKERS.items()]
    if any(row["mode"] != "federated" for row in rows):
        marks.append(plt.Line2D([], [], color="black", linestyle="--", label="baseline's mean"))
    markers_axes.legend(handles=marks, loc="upper left", ncol=2, fontsize=9, frameon=False, title="region",
                        title_fontsize=9, alignment="left")


def title(rows):
    def span(values):
        return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"

    federated = [row for row in rows if row["mode"] == "federated"] or rows
    count = f"{len(rows)} runs" if len(rows) > 1 else "1 run"
    return (f"FedBraTS, {count}: {span([row['data'].sizes['hospital'] for row in federated])} hospitals, "
            f"{span([row['rounds'] for row in rows])} rounds")


def plot(rows, output):
    legend_lines = 2 + math.ceil(len(rows) / (2 if len(rows) > 3 else 1))
    heights = [4.4, 0.2 * legend_lines]  # inches
    figure, axes = plt.subplot_mosaic([["curves", "final"], ["runs", "markers"]], figsize=(11, sum(heights)),
                                      gridspec_kw=dict(width_ratios=[3, 2], height_ratios=heights),
                                      layout="constrained")
    figure.suptitle(title(rows))
    plot_curves(axes["curves"], rows)
    plot_final(axes["final"], rows)
    add_legends(axes["runs"], axes["markers"], rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output.with_suffix(".png"), dpi=150)
    figure.savefig(output.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE.h5", help="results of fedbrats train")
    parser.add_argument("--output", type=Path, default=Path("convergence.png"), help="the PNG; the PDF goes beside it")
    arguments = parser.parse_args()
    runs = open_runs(arguments.files)
    skipped = list(runs.skipped)
    rows = []
    for row in map(summarise, runs.runs):
        if math.isnan(row["dice"]):
            skipped.append((row["run"], "no round was evaluated on the test shard"))
        else:
            rows.append(row)
    for path, reason in skipped:
        print(f"plot_convergence: left out: {path}: {reason}", file=sys.stderr)
    if not rows:
        print("plot_convergence: nothing to plot", file=sys.stderr)
        return 1
    rows.sort(key=order)
    set_styles(rows)
    print_table(rows)
    plot(rows, arguments.output)
    print(f"wrote {arguments.output.with_suffix('.png')} and {arguments.output.with_suffix('.pdf')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
