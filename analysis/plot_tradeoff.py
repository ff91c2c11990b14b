#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Dice and fidelity of the updates against the privacy budget and the share.

    plot_tradeoff.py results/*/results.h5 --output results/tradeoff.png

Writes a PNG and a PDF of the same name. Dice against the total epsilon that a hospital has spent over the run, beside
it the same runs against the epsilon per released parameter and round (the axis of Li et al. 2019, on which runs of
different shares look alike and are not), the cosine of released and true update, and share x epsilon as a heat map
where a rule has every cell. Runs that differ in the seed only become one point: the mean, with a band from the lowest
to the highest. Horizontal lines: training without noise, and no training at all (train.learning_rate below 1e-9).
Prints the table. All comes from the files.
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
from matplotlib.legend import Legend
from fedbrats_results import LAST, last_mean, open_runs, print_columns, rule_name, run_name, short, spent

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#666666")  # Okabe and Ito
LINES = ("-", "--", ":", "-.")
LEGEND_LINES = 8  # more arms take two columns
UNIT_MARKERS = {"hospital": "o", "patient": "D", "none": "x"}
TRUST = {"secagg": "secure aggregation", "central": "trusted server"}
NOT_SETTINGS = ("run.seed", "run.output", "run.resume", "run.threads", "run.verbosity", "data.shards", "privacy.key",
                "train.init_from", "comm.backend")  # runs that differ in these only are repetitions
NO_TRAINING = 1e-9  # a learning rate below it changes no float32 weight


def arm_of(row):
    """What a curve stands for, beside the share."""
    name = rule_name(row)
    if row["trust"] in TRUST and row["mechanism"] == "gaussian":
        name += ", " + TRUST[row["trust"]]
    if row["public"]:
        name += ", public start"
    if row["partial"]:
        name += f", {row['parameters']} trained"
    return name


def summarise(run, last):
    data, config = run.data, run.config
    took_part = data.participated == 1
    nominal = data.epsilon_per_parameter.where(took_part & np.isfinite(data.epsilon_per_parameter)) \
        if "epsilon_per_parameter" in data else None
    row = dict(run=run_name(run.path), mode=data["mode"].item(), select=data["select"].item(),
               share=data.share_fraction.item(), mechanism=data["mechanism"].item(), seed=data.seed.item(),
               epsilon=spent(run), dice=float(last_mean(data.dice_mean, last)), status=run.status,
               nominal=float(nominal.max("hospital").mean()) if nominal is not None else math.nan,
               cosine=float(last_mean(data.update_cosine.mean("hospital"), last)),
               bytes=float(data.bytes_sent.where(took_part).mean()),
               unit=run.provenance.get("privacy_unit", "none"), trust=config.get("privacy.trust", "local"),
               public=bool(config.get("train.init_from")), partial=bool(config.get("train.trainable")),
               untrained=float(config.get("train.learning_rate", "1")) < NO_TRAINING,
               parameters=int(data.bytes_dense.max()) // 4)  # that are trained, as float32
    if row["mechanism"] == "dpsgd":
        row["cosine"] = math.nan  # the noise is in the training: there is no update without it to compare with
    elif row["trust"] == "central" and "sum_cosine" in data:
        row["cosine"] *= float(last_mean(data.sum_cosine, last))  # a hospital's message has no noise yet, its sum has
    row["settings"] = tuple(sorted((k, v) for k, v in config.items() if k not in NOT_SETTINGS)) + (
        row["mode"], row["select"], row["share"], row["mechanism"], data.epsilon.item(), row["public"])
    row["arm"] = arm_of(row)
    return row


def points_of(rows):
    """Repetitions together: the means, the range of Dice and cosine, and how many there are."""
    groups = {}
    for row in rows:
        groups.setdefault(row["settings"], []).append(row)
    points = []
    for group in groups.values():
        point = dict(group[0], seeds=len(group), status=" ".join(sorted({row["status"] for row in group})))
        for name in ("epsilon", "nominal", "dice", "cosine", "bytes"):
            values = np.array([row[name] for row in group])
            known = values[~np.isnan(values)]
            point[name] = float(known.mean()) if len(known) else math.nan
            point[name + "_low"], point[name + "_high"] = (known.min(), known.max()) if len(known) else (math.nan,) * 2
        points.append(point)
    return sorted(points, key=lambda p: (p["untrained"], p["mode"], math.isfinite(p["epsilon"]), p["arm"], -p["share"],
                                         -p["epsilon"]))


def print_table(points):
    def number(value, form):
        return "-" if math.isnan(value) else "inf" if math.isinf(value) else form % value

    cells = [["what", "share", "unit", "seeds", "eps_total", "eps_per_parameter", "dice", "lowest", "highest",
              "cosine", "bytes/round/hospital", "status"]]
    for p in points:
        what = "no training" + (", public start" if p["public"] else "") if p["untrained"] else \
            p["arm"] if p["mode"] == "federated" else p["mode"]
        cells.append([what, f"{p['share']:.4g}", p["unit"], str(p["seeds"]), number(p["epsilon"], "%.4g"),
                      number(p["nominal"], "%.4g"), number(p["dice"], "%.4f"), number(p["dice_low"], "%.4f"),
                      number(p["dice_high"], "%.4f"), number(p["cosine"], "%.4f"), number(p["bytes"], "%.0f"),
                      p["status"]])
    print_columns(cells)


# --- what belongs together ---


def is_private(point):
    return point["mode"] == "federated" and not point["untrained"] and math.isfinite(point["epsilon"])


def is_noise_free(point):
    return point["mode"] == "federated" and not point["untrained"] and point["mechanism"] == "none"


def curves_of(points):
    """{(arm, share): points by epsilon}, with the style of each."""
    private = [p for p in points if is_private(p)]
    arms = list(dict.fromkeys(p["arm"] for p in private))
    shares = sorted({p["share"] for p in private}, reverse=True)
    curves = {}
    for p in private:
        curves.setdefault((p["arm"], p["share"]), []).append(p)
    styles = {(arm, share): dict(color=COLORS[arms.index(arm) % len(COLORS)],
                                 linestyle=LINES[shares.index(share) % len(LINES)]) for arm, share in curves}
    return {key: sorted(group, key=lambda p: p["epsilon"]) for key, group in curves.items()}, styles, arms, shares


def full_grid(points):
    """(arm, shares, epsilons, Dice as shares x epsilons) of the largest arm in which every cell was run, or None. The
    epsilons are the spent ones; those of one column agree within 10 %."""
    best = None
    for arm in dict.fromkeys(p["arm"] for p in points if is_private(p)):
        cells = [p for p in points if is_private(p) and p["arm"] == arm]
        shares = sorted({p["share"] for p in cells})
        columns = []
        for p in sorted(cells, key=lambda p: p["epsilon"]):
            if not columns or p["epsilon"] > 1.1 * columns[-1][0]["epsilon"]:
                columns.append([])
            columns[-1].append(p)
        if len(shares) < 2 or len(columns) < 2 or any(sorted(p["share"] for p in c) != shares for c in columns):
            continue
        dice = np.array([[next(p["dice"] for p in c if p["share"] == s) for c in columns] for s in shares])
        if not np.isnan(dice).any() and (best is None or dice.size > best[3].size):
            best = (arm, shares, [c[0]["epsilon"] for c in columns], dice)
    return best


# --- panels ---


def plot_curves(axes, curves, styles, x, y):
    """One line a curve; True when there was anything to draw."""
    drawn = False
    for key, group in curves.items():
        group = sorted((p for p in group if p[x] > 0 and math.isfinite(p[x]) and not math.isnan(p[y])),
                       key=lambda p: p[x])
        if not group:
            continue
        drawn = True
        at, values = [p[x] for p in group], [p[y] for p in group]
        axes.plot(at, values, linewidth=1.7, marker=UNIT_MARKERS[group[0]["unit"]], markersize=5,
                  markeredgecolor="white", markeredgewidth=0.5, **styles[key])
        axes.fill_between(at, [p[y + "_low"] for p in group], [p[y + "_high"] for p in group], linewidth=0,
                          color=styles[key]["color"], alpha=0.15)
    axes.set_xscale("log")
    axes.grid(alpha=0.25)
    return drawn


def reference_lines(points):
    """(Dice, label, style) of the horizontal lines, the same in both panels of Dice."""
    lines = []
    noise_free = [p for p in points if is_noise_free(p) and not p["public"] and not math.isnan(p["dice"])]
    if noise_free:
        most = max(noise_free, key=lambda p: (p["share"], p["dice"]))
        lines.append((most["dice"], f"no noise, {100 * most['share']:.4g} % shared",
                      dict(color="black", linestyle="-", linewidth=1.2)))
    for p in points:
        if p["mode"] == "centralised" and not p["untrained"]:
            lines.append((p["dice"], "centralised", dict(color="black", linestyle="-.", linewidth=1.2)))
    for public, text in ((False, "no training"), (True, "no training, public start")):
        for p in [p for p in points if p["untrained"] and p["public"] == public][:1]:
            lines.append((p["dice"], text, dict(color="0.45", linestyle="--" if public else ":", linewidth=1.4)))
    return [line for line in lines if not math.isnan(line[0])]


def plot_dice(axes, points, curves, styles, x):
    drawn = plot_curves(axes, curves, styles, x, "dice")
    for value, _, style in reference_lines(points):
        axes.axhline(value, zorder=1, **style)
    axes.set_ylabel("mean Dice on the test shard")
    return drawn


def plot_noise_free(axes, points, curves, styles, arms, shares):
    """Runs without noise have epsilon = infinity: a place of their own, right of the axis."""
    private = [p["epsilon"] for group in curves.values() for p in group]
    free = [p for p in points if is_noise_free(p) and not math.isnan(p["dice"])]
    if not private or not free:
        return
    low, high = min(private), max(private)
    at = high * max(4.0, (high / low) ** 0.12)
    for p in free:
        axes.plot(at, p["dice"], "s", color="black", markersize=5,
                  markerfacecolor="white" if p["share"] < 1 else "black")
        text = f"{100 * p['share']:.4g} %" + (", public" if p["public"] else "")
        axes.annotate(text, (at, p["dice"]), xytext=(6, 0), textcoords="offset points", va="center",
                      fontsize=7, bbox=dict(facecolor="white", edgecolor="none", pad=0.6))
    axes.axvline(at / 2.2, color="0.7", linewidth=0.8)
    axes.set_xlim(low / 1.8, at * max(8.0, (high / low) ** 0.22))
    axes.annotate("ε = ∞", (at, 0), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
                  ha="center", fontsize=8)


def plot_heat_map(figure, axes, grid):
    arm, shares, epsilons, dice = grid
    image = axes.imshow(dice, origin="lower", aspect="auto", cmap="cividis")
    middle = (dice.min() + dice.max()) / 2
    for i, j in np.ndindex(dice.shape):
        axes.text(j, i, f"{dice[i, j]:.2f}", ha="center", va="center", fontsize=9,
                  color="black" if dice[i, j] > middle else "white")
    axes.set_xticks(range(len(epsilons)), [short(e) for e in epsilons])
    axes.set_yticks(range(len(shares)), [f"{100 * s:.4g}" for s in shares])
    axes.set_xlabel("total ε of a hospital")
    axes.set_ylabel("share of the model (%)")
    axes.set_title(f"Dice: {arm}", fontsize=10)
    figure.colorbar(image, ax=axes, label="mean Dice")


def add_legend(axes, points, curves, styles, arms, shares):
    axes.axis("off")
    units = dict.fromkeys(p["unit"] for group in curves.values() for p in group)
    blocks = [("what is protected how",
               [plt.Line2D([], [], color=COLORS[i % len(COLORS)], linewidth=2.5, label=arm)
                for i, arm in enumerate(arms)]),
              ("share of the model", [plt.Line2D([], [], color="0.2", linestyle=LINES[i % len(LINES)],
                                                 label=f"{100 * s:.4g} %") for i, s in enumerate(shares)]),
              ("unit of privacy", [plt.Line2D([], [], color="0.2", linestyle="", marker=UNIT_MARKERS[u], label=u)
                                   for u in units]),
              ("for comparison", [plt.Line2D([], [], label=text, **style)
                                  for _, text, style in reference_lines(points)])]
    places = iter((0.0, 0.44, 0.60, 0.76))
    for title, handles in blocks:
        x = next(places)
        if handles:
            axes.add_artist(Legend(axes, handles, [h.get_label() for h in handles], loc="upper left",
                                   bbox_to_anchor=(x, 1.0), fontsize=8.5, frameon=False, title=title,
                                   title_fontsize=8.5, alignment="left", ncols=2 if len(handles) > LEGEND_LINES else 1))


def caption(points, last):
    federated = [p for p in points if p["mode"] == "federated"] or points
    seeds = sorted({p["seeds"] for p in federated})
    repeated = f"; bands: lowest to highest of {seeds[-1]} seeds" if seeds[-1] > 1 else ""
    rounds = f"mean of the last {last} evaluated rounds" if last > 1 else "last evaluated round"
    return rounds + repeated


def plot(points, output, last):
    curves, styles, arms, shares = curves_of(points)
    grid = full_grid(points)
    legend = 0.21 * (2 + max(min(len(arms), LEGEND_LINES), len(shares), len(reference_lines(points))))
    figure, axes = plt.subplot_mosaic([["total", "nominal"], ["cosine", "grid"], ["legend", "legend"]],
                                      figsize=(11, 7.4 + legend), layout="constrained",
                                      gridspec_kw=dict(height_ratios=[3.9, 3.5, legend]))
    figure.suptitle(f"FedBraTS: what a privacy budget leaves ({caption(points, last)})", fontsize=11)
    plot_dice(axes["total"], points, curves, styles, "epsilon")
    plot_noise_free(axes["total"], points, curves, styles, arms, shares)
    axes["total"].set_xlabel("total ε of a hospital over the run")
    axes["total"].set_title("Dice at equal total budget", fontsize=10)
    if plot_dice(axes["nominal"], points, curves, styles, "nominal"):
        axes["nominal"].set_title("The same runs on the nominal axis of Li et al. 2019", fontsize=10)
        axes["nominal"].set_xlabel("ε per released parameter and round")
        axes["nominal"].sharey(axes["total"])
    else:
        leave_empty(axes["nominal"], "no run with a budget per parameter")
    if plot_curves(axes["cosine"], curves, styles, "epsilon", "cosine"):
        axes["cosine"].set_xlabel("total ε of a hospital over the run")
        axes["cosine"].set_ylabel("cosine of released and true update,\nor of their sums")
        axes["cosine"].set_title("Fidelity of what leaves a hospital", fontsize=10)
        axes["cosine"].axhline(0, color="0.6", linewidth=0.8)
    else:
        leave_empty(axes["cosine"], "no noised update to compare with the true one")
    if grid:
        plot_heat_map(figure, axes["grid"], grid)
    else:
        leave_empty(axes["grid"], "no rule was run at every share and budget:\nno heat map")
    add_legend(axes["legend"], points, curves, styles, arms, shares)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output.with_suffix(".png"), dpi=150)
    figure.savefig(output.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def leave_empty(axes, why):
    axes.clear()
    axes.axis("off")
    axes.text(0.5, 0.5, why, ha="center", va="center", color="0.4", fontsize=9, transform=axes.transAxes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE.h5", help="results of fedbrats train")
    parser.add_argument("--output", type=Path, default=Path("tradeoff.png"), help="the PNG; the PDF goes beside it")
    parser.add_argument("--last", type=int, default=LAST, metavar="N", help="evaluated rounds to average over")
    arguments = parser.parse_args()
    if arguments.last < 1:
        parser.error("--last must be at least 1")
    runs = open_runs(arguments.files, diagnostics=True)
    rows = [summarise(run, arguments.last) for run in runs.runs]
    skipped = runs.skipped + [(r["run"], "no round was evaluated on the test shard") for r in rows
                              if math.isnan(r["dice"])]
    for path, reason in skipped:
        print(f"plot_tradeoff: left out: {path}: {reason}", file=sys.stderr)
    points = points_of([row for row in rows if not math.isnan(row["dice"])])
    if not points:
        print("plot_tradeoff: nothing to plot", file=sys.stderr)
        return 1
    print_table(points)
    plot(points, arguments.output, arguments.last)
    print(f"wrote {arguments.output.with_suffix('.png')} and {arguments.output.with_suffix('.pdf')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
