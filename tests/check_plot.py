#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""plot_convergence.py on synthetic results of known numbers. --keep FOLDER leaves the files and the figure there."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
python = os.environ.get("FB_PYTHON", sys.executable)
program = os.path.join(root, "analysis/plot_convergence.py")

import numpy as np
import xarray as xr

ROUNDS, HOSPITALS, REGIONS = 20, 4, ("TC", "WT", "ET")
SWEEP = ("share_fraction", "epsilon", "seed", "select", "mechanism", "algorithm", "mode")
# name, mode, select, fraction, mechanism, epsilon of the run, final level of Dice, committed rounds
RUNS = [("central", "centralised", "all", 1.0, "none", np.inf, 0.84, 20),
        ("dense", "federated", "all", 1.0, "none", np.inf, 0.80, 20),
        ("topk40", "federated", "topk", 0.4, "none", np.inf, 0.77, 20),
        ("topk10", "federated", "topk", 0.1, "none", np.inf, 0.72, 20),
        ("svt40", "federated", "svt", 0.4, "laplace", 4.8e7, 0.66, 20),
        ("svt10", "federated", "svt", 0.1, "laplace", 1.2e7, 0.61, 20),
        ("svt10low", "federated", "svt", 0.1, "laplace", 1.2e5, 0.41, 20),
        ("killed", "federated", "random", 0.1, "gaussian", 830.0, 0.35, 11)]


def curves(level, seed):
    """dice (round, region); every third round is not evaluated."""
    noise = np.random.default_rng(seed).normal(0, 0.006, (ROUNDS, 3))
    rise = level * (1 - np.exp(-np.arange(1, ROUNDS + 1) / 5))[:, None] + np.array([-0.02, 0.06, -0.05])
    dice = np.round(rise + noise, 6)
    dice[2::3] = np.nan
    return dice


def write(path, seed, mode, select, fraction, mechanism, epsilon, level, committed):
    sweep = dict(zip(SWEEP, ([fraction], [epsilon], [7], [select], [mechanism], ["fedavg"], [mode])))
    dice = curves(level, seed)
    dice[committed:] = np.nan if seed % 2 else 9.0  # void: must not be looked at
    sent = np.full((ROUNDS, HOSPITALS), int(4.7e6 * fraction), dtype=np.int64)
    sent[:, 0] += 4
    participated = np.ones_like(sent)
    participated[:, HOSPITALS - 1], sent[:, HOSPITALS - 1] = 0, 0  # one that stays away
    spent = np.linspace(epsilon / ROUNDS, epsilon, ROUNDS) if np.isfinite(epsilon) else np.full(ROUNDS, np.nan)
    full = {name: (SWEEP + axes, values[(None,) * 7]) for name, axes, values in (
        ("dice", ("round", "region"), dice), ("dice_mean", ("round",), dice.mean(axis=1)),
        ("bytes_sent", ("round", "hospital"), sent), ("participated", ("round", "hospital"), participated),
        ("epsilon_total", ("round", "hospital"), np.repeat(spent[:, None], HOSPITALS, axis=1)))}
    full["rounds_committed"] = (SWEEP, np.full((1,) * 7, committed))
    data = xr.Dataset(full, coords=dict(sweep, round=np.arange(ROUNDS), hospital=list("ABCD"), region=list(REGIONS)),
                      attrs={"status": "complete" if committed == ROUNDS else "running"})
    data.to_netcdf(path, engine="h5netcdf")
    for group in ("config", "provenance"):
        xr.Dataset(attrs={"x": "y"}).to_netcdf(path, engine="h5netcdf", mode="a", group=group)
    evaluated = dice[:committed][~np.isnan(dice[:committed, 0])][-5:]
    spent_last = spent[committed - 1]
    return dict(dice=evaluated.mean(), bytes=sent[0, :-1].mean(), epsilon=spent_last, committed=committed,
                **dict(zip(REGIONS, evaluated.mean(axis=0))))


def table(output):
    lines = [line.split() for line in output.splitlines()]
    names = lines[0]
    return {line[0]: dict(zip(names, line)) for line in lines[1:1 + len(RUNS)]}


def run(*arguments):
    return subprocess.run([python, program, *arguments], capture_output=True, text=True)


def check_table():
    rows = table(result.stdout)
    assert set(rows) == {r[0] for r in RUNS}, rows.keys()
    for name, mode, select, fraction, mechanism, *_ in RUNS:
        row, e = rows[name], expected[name]
        assert (row["mode"], row["select"], row["mechanism"]) == (mode, select, mechanism), row
        assert float(row["fraction"]) == fraction and int(row["rounds"]) == e["committed"]
        for column, key in (("dice_last5", "dice"), ("TC", "TC"), ("WT", "WT"), ("ET", "ET")):
            assert abs(float(row[column]) - e[key]) <= 0.5001e-4, (name, column, row, e)  # printed with 4 digits
        assert int(row["bytes/round/hospital"]) == round(e["bytes"]), (row, e)
        if np.isnan(e["epsilon"]):
            assert row["eps_total"] == "-"
        else:
            assert abs(float(row["eps_total"]) / e["epsilon"] - 1) < 1e-3, (row, e)  # printed with 4 digits


def check_figure():
    with open(figure + ".png", "rb") as file:
        head = file.read(24)
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert width == 1650 and 750 <= height <= 1100, (width, height)
    with open(figure + ".pdf", "rb") as file:
        pdf = file.read()
    assert pdf.startswith(b"%PDF") and len(pdf) > 10000
    assert "convergence.png" in result.stdout and not result.stderr, result.stderr


def check_refusals():
    nothing = run(os.path.join(folder, "absent.h5"), "--output", os.path.join(folder, "no.png"))
    assert nothing.returncode == 1 and "absent.h5" in nothing.stderr and "nothing to plot" in nothing.stderr
    assert "Traceback" not in nothing.stderr and not os.path.exists(os.path.join(folder, "no.png"))
    broken = os.path.join(folder, "broken.h5")
    with open(os.path.join(folder, "dense.h5"), "rb") as file, open(broken, "wb") as out:
        out.write(file.read(3000))
    one = os.path.join(folder, "deep/er/one")  # one run is left; the folder is made
    mixed = run(broken, os.path.join(folder, "dense.h5"), "--output", one + ".png")
    assert mixed.returncode == 0 and "left out" in mixed.stderr and "broken.h5" in mixed.stderr
    assert os.path.getsize(one + ".png") > 5000 and os.path.getsize(one + ".pdf") > 5000
    assert run().returncode == 2


keep = sys.argv[2] if sys.argv[1:2] == ["--keep"] else None
folder = keep or tempfile.mkdtemp(prefix="check_plot.")
os.makedirs(folder, exist_ok=True)
failed = 0
try:
    expected = {r[0]: write(os.path.join(folder, r[0] + ".h5"), seed, *r[1:]) for seed, r in enumerate(RUNS)}
    figure = os.path.join(folder, "convergence")
    result = run(*(os.path.join(folder, r[0] + ".h5") for r in RUNS), "--output", figure + ".png")
    if result.returncode:
        print("# " + result.stderr.replace("\n", "\n# "))
    checks = [check_table, check_figure, check_refusals]
    print(f"1..{len(checks)}")
    for number, check in enumerate(checks, 1):
        try:
            check()
            print(f"ok {number} - {check.__name__}")
        except Exception:
            failed += 1
            print(f"not ok {number} - {check.__name__}")
            print("# " + traceback.format_exc().replace("\n", "\n# "))
finally:
    if not keep:
        shutil.rmtree(folder)
sys.exit(failed != 0)
