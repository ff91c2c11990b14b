#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an audit measured: bounds against claims, and how well neighbours can be told apart.

    plot_audit.py audit.h5 --output results/audit.png

Writes a PNG and a PDF of the same name: on the left the lower bound of every mechanism beside its claim; on the right
the ROC curve of the pair that gave it, with the region that the claim forbids (a point there would refute it). Prints
the table. A bound is a lower bound: it proves nothing about what was not tried.
"""
import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import matplotlib

matplotlib.use("Agg")
import h5py
import matplotlib.pyplot as plt
import numpy as np


def read(path):
    """Rows of both groups: name, claimed, delta, bound, ceiling, refuted, fpr, tpr."""
    rows = []
    with h5py.File(path) as file:
        confidence = float(file.attrs["confidence"])
        for group in ("mechanisms", "training"):
            if group not in file:
                continue
            table = file[group]
            for i, name in enumerate(table["subject"].asstr()[...]):
                fpr, tpr = table["false_positive_rate"][i], table["true_positive_rate"][i]
                if group == "mechanisms":
                    best = table["epsilon_lower"][i].max(axis=1).argmax()
                    fpr, tpr = fpr[best], tpr[best]
                row = {key: table[key][i] for key in ("epsilon_claimed", "delta", "epsilon_bound", "epsilon_ceiling")}
                rows.append(dict(row, name=name, refuted=bool(table["refuted"][i]), fpr=fpr, tpr=tpr))
    if not rows:
        raise ValueError("no audited mechanism in it")
    return rows, confidence


def region(epsilon, delta):
    """The largest true positive rate that (epsilon, delta) allows at each false positive rate."""
    fpr = np.concatenate(([0.0], np.logspace(-6, 0, 400)))
    with np.errstate(over="ignore"):
        tpr = np.minimum(np.exp(epsilon) * fpr + delta, 1 - np.exp(-epsilon) * (1 - delta - fpr))
    return fpr, np.clip(tpr, 0, 1)


def print_table(rows):
    print(f"{'subject':24} {'claimed':>9} {'bound':>9} {'ceiling':>9}  verdict")
    for row in rows:
        print(f"{row['name']:24} {row['epsilon_claimed']:9.4f} {row['epsilon_bound']:9.4f} "
              f"{row['epsilon_ceiling']:9.4f}  {'REFUTED' if row['refuted'] else 'holds'}")


def plot(rows, confidence, output):
    figure, (bars, roc) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    figure.suptitle(f"FedBraTS privacy audit: lower bounds at confidence {confidence:g}; "
                    "they prove nothing about what was not tried")
    place = np.arange(len(rows))[::-1]
    for y, row in zip(place, rows):
        bars.barh(y, row["epsilon_bound"], height=0.5, color="tab:red" if row["refuted"] else "tab:blue")
        bars.plot([row["epsilon_claimed"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=2)
        bars.plot([row["epsilon_ceiling"]], [y], marker="|", markersize=12, color="0.6")
    bars.set_yticks(place, [row["name"] for row in rows])
    bars.set_xlabel("ε: bar, lower bound; black, claim; grey, the most the samples could show")
    bars.set_xlim(left=0)
    for k, row in enumerate(rows):
        color = f"C{k % 10}"
        roc.plot(row["fpr"], row["tpr"], color=color, label=row["name"])
        roc.plot(*region(row["epsilon_claimed"], row["delta"]), color=color, linestyle=":", linewidth=1)
    roc.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1),
            title="telling neighbours apart, rates as sampled; dotted: what the claim allows")
    roc.title.set_size(9)
    roc.legend(fontsize=8, frameon=False, loc="lower right")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output.with_suffix(".png"), dpi=150)
    figure.savefig(output.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", metavar="FILE.h5", help="output of fedbrats audit")
    parser.add_argument("--output", type=Path, default=Path("audit.png"), help="the PNG; the PDF goes beside it")
    arguments = parser.parse_args()
    try:
        rows, confidence = read(arguments.file)
    except (OSError, KeyError, ValueError) as error:
        print(f"plot_audit: {arguments.file}: not the output of fedbrats audit: {error}", file=sys.stderr)
        return 1
    print_table(rows)
    plot(rows, confidence, arguments.output)
    print(f"wrote {arguments.output.with_suffix('.png')} and {arguments.output.with_suffix('.pdf')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
