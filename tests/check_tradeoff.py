#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""plot_tradeoff.py on synthetic results of known numbers. --keep FOLDER leaves the files and the figures there."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
python = os.environ.get("FB_PYTHON", sys.executable)
program = os.path.join(root, "analysis/plot_tradeoff.py")
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(root, "analysis"))

import h5py
import numpy as np
import xarray as xr

ROUNDS, HOSPITALS, PARAMETERS = 8, 4, 25355
SWEEP = ("share_fraction", "epsilon", "seed", "select", "mechanism", "algorithm", "mode")
SHARES, EPSILONS, SEEDS = (1.0, 0.4, 0.1), (8.0, 1e3, 1e6), (1, 3)  # seed 2 would be the mean of both


def rise(epsilon, middle):
    """Dice as it would rise with the budget."""
    return 0.08 + 0.62 / (1 + (middle / epsilon) ** 0.8)


def write_template(path, variables, coords):
    full = {k: (SWEEP + axes, values[(None,) * 7]) for k, (axes, values) in variables.items()}
    full["rounds_committed"] = (SWEEP, np.full((1,) * 7, ROUNDS))
    xr.Dataset(full, coords=dict(coords, region=["TC", "WT", "ET"]), attrs={"status": "complete"}).to_netcdf(
        path, engine="h5netcdf")
    cosine = {"update_cosine": (SWEEP + ("round", "hospital"), np.zeros((1,) * 7 + (ROUNDS, HOSPITALS)))}
    for group, data in (("diagnostics", xr.Dataset(cosine, coords=coords)), ("config", xr.Dataset(attrs={"x": "y"})),
                        ("provenance", xr.Dataset(attrs={"x": "y"}))):
        data.to_netcdf(path, engine="h5netcdf", mode="a", group=group)


def write(name, seed, select, share, mechanism, epsilon, dice, mode="federated", unit="hospital", trust="local",
          cosine=np.nan, **config):
    path = os.path.join(folder, f"{name}.h5")
    curve = dice + 0.01 * (seed - 2) + np.linspace(-0.2, 0, ROUNDS)
    curve[-3:] = dice + 0.01 * (seed - 2)  # what --last 3 is to find
    spent = np.linspace(epsilon / ROUNDS, epsilon, ROUNDS)
    per_hospital = np.ones((ROUNDS, HOSPITALS))
    per_hospital[:, 0] = 0.5  # a hospital that spends less
    participated = np.ones((ROUNDS, HOSPITALS), dtype=np.int64)
    variables = {"dice_mean": (("round",), curve), "dice": (("round", "region"), np.repeat(curve[:, None], 3, axis=1)),
                 "bytes_dense": (("round",), np.full(ROUNDS, 4 * 1491)),
                 "participated": (("round", "hospital"), participated),
                 "bytes_sent": (("round", "hospital"), participated * int(4 * share * PARAMETERS)),
                 "epsilon_total": (("round", "hospital"), spent[:, None] * per_hospital),
                 "epsilon_per_parameter": (("round", "hospital"), epsilon / ROUNDS / share / PARAMETERS * per_hospital)}
    coords = dict(zip(SWEEP, ([share], [epsilon], [seed], [select], [mechanism], ["fedavg"], [mode])),
                  round=np.arange(ROUNDS), hospital=list("ABCD"))
    template = os.path.join(folder, "template.h5")
    if not os.path.exists(template):
        write_template(template, variables, coords)
    shutil.copy(template, path)
    settings = {"run.seed": str(seed), "run.output": path, "privacy.trust": trust, "train.learning_rate": "0.003",
                "privacy.epsilon_total": str(epsilon), **{k.replace("__", "."): v for k, v in config.items()}}
    with h5py.File(path, "a") as file:  # fifty files by xarray would take half a minute
        for group in (file, file["diagnostics"]):
            for name in SWEEP:
                group[name][...] = coords[name]
        for name, (_, values) in variables.items():
            file[name][...] = values[(None,) * 7]
        file["diagnostics/update_cosine"][...] = (cosine * per_hospital)[(None,) * 7]
        file["config"].attrs.update(settings)
        file["provenance"].attrs.update({"privacy_unit": unit})
    return path


def write_study():
    files = []
    for seed in SEEDS:
        for share in SHARES:
            files.append(write(f"free{share}_{seed}", seed, "random", share, "none", np.inf, 0.70 - 0.1 * (1 - share),
                               unit="none", cosine=share ** 0.5))
            for epsilon in EPSILONS:
                files.append(write(f"gauss{share}_{epsilon}_{seed}", seed, "random", share, "gaussian", epsilon,
                                   rise(epsilon, 1e3) - 0.08 * (1 - share), trust="central",
                                   cosine=0.9 / (1 + 1e3 / epsilon)))
        for epsilon in EPSILONS[1:]:
            files.append(write(f"svt_{epsilon}_{seed}", seed, "svt", 0.1, "laplace", epsilon, rise(epsilon, 1e6),
                               cosine=0.5 / (1 + 1e6 / epsilon)))
        for epsilon in EPSILONS[:2]:
            files.append(write(f"dpsgd_{epsilon}_{seed}", seed, "all", 1.0, "dpsgd", epsilon, rise(epsilon, 20),
                               unit="patient", train__init_from="public.safetensors", train__trainable="conv_final.*"))
    files.append(write("initial", 2, "all", 1.0, "none", np.inf, 0.05, unit="none", train__learning_rate="1e-12"))
    files.append(write("initial_public", 2, "all", 1.0, "none", np.inf, 0.46, unit="none",
                       train__learning_rate="1e-12", train__init_from="public.safetensors"))
    return files


def run(*arguments):
    return subprocess.run([python, program, *arguments], capture_output=True, text=True)


def cells(result):
    """The table as lists of texts: columns are two spaces apart."""
    return [[c for c in line.split("  ") if c] for line in result.stdout.splitlines()[1:-1]]


def png_size(path):
    with open(path, "rb") as file:
        head = file.read(24)
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def check_table():
    assert study.returncode == 0 and not study.stderr, study.stderr
    rows = [[c.strip() for c in row] for row in cells(study)]
    assert len(rows) == 3 + 9 + 2 + 2 + 2, rows
    gauss = {(float(r[1]), float(r[4])): r for r in rows if r[0] == "random+Gaussian, trusted server"}
    assert set(gauss) == {(s, e) for s in SHARES for e in EPSILONS}, gauss.keys()
    for (share, epsilon), row in gauss.items():
        dice = rise(epsilon, 1e3) - 0.08 * (1 - share)
        assert row[2:4] == ["hospital", "2"]
        for text, value in zip(row[6:9], (dice, dice - 0.01, dice + 0.01)):
            assert abs(float(text) - value) <= 0.5001e-4, (row, value)
        nominal = epsilon / ROUNDS / share / PARAMETERS
        assert abs(float(row[5]) / nominal - 1) < 1e-3, (row, nominal)
        assert abs(float(row[9]) - 0.875 * 0.9 / (1 + 1e3 / epsilon)) <= 0.5001e-4, row  # mean over hospitals
    assert {r[0] for r in rows if r[2] == "patient"} == {"DP-SGD, public start, 1491 trained"}
    assert all(r[9] == "-" for r in rows if r[2] == "patient")
    assert [r[0] for r in rows if "no training" in r[0]] == ["no training", "no training, public start"]
    assert sum(r[4] == "inf" for r in rows) == 5, rows


def check_figures():
    width, height = png_size(figure + ".png")
    assert width == 1650 and 1200 <= height <= 1700, (width, height)
    with open(figure + ".pdf", "rb") as file:
        assert file.read(4) == b"%PDF"


def check_grid():
    """The heat map: only of an arm with every cell, the values at their places."""
    import plot_tradeoff
    runs = plot_tradeoff.open_runs([f for f in files if not f.endswith("_3.h5")], diagnostics=True)
    points = plot_tradeoff.points_of([plot_tradeoff.summarise(r, 3) for r in runs.runs])
    arm, shares, epsilons, dice = plot_tradeoff.full_grid(points)
    assert arm == "random+Gaussian, trusted server" and shares == [0.1, 0.4, 1.0] and epsilons == list(EPSILONS)
    expected = [[rise(e, 1e3) - 0.08 * (1 - s) - 0.01 for e in EPSILONS] for s in shares]
    np.testing.assert_allclose(dice, expected, atol=1e-12)
    assert plot_tradeoff.full_grid([p for p in points if (p["share"], p["epsilon"]) != (0.4, 1e3)]) is None
    lines = [text for _, text, _ in plot_tradeoff.reference_lines(points)]
    assert lines == ["no noise, 100 % shared", "no training", "no training, public start"], lines


def check_few():
    """A missing cell, one run, only infinite budgets, nothing."""
    without = [f for f in files if "gauss0.4_1000.0" not in f and "gauss" in f and not f.endswith("_3.h5")]
    for name, some in (("missing", without), ("one", files[1:2]), ("untrained", files[-2:])):
        out = os.path.join(folder, "deep/er", name)
        result = run(*some, "--output", out + ".png")
        assert result.returncode == 0 and not result.stderr, (name, result.stderr)
        assert png_size(out + ".png")[0] == 1650 and os.path.getsize(out + ".pdf") > 5000
    absent = run(os.path.join(folder, "absent.h5"), "--output", os.path.join(folder, "no.png"))
    assert absent.returncode == 1 and "absent.h5" in absent.stderr and "nothing to plot" in absent.stderr
    assert "Traceback" not in absent.stderr and not os.path.exists(os.path.join(folder, "no.png"))
    assert run(files[0], "--last", "0").returncode == 2


keep = sys.argv[2] if sys.argv[1:2] == ["--keep"] else None
folder = keep or tempfile.mkdtemp(prefix="check_tradeoff.")
os.makedirs(folder, exist_ok=True)
failed = 0
try:
    files = write_study()
    figure = os.path.join(folder, "tradeoff")
    study = run(*files, "--output", figure + ".png", "--last", "3")
    checks = [check_table, check_figures, check_grid, check_few]
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
