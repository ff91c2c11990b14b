#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sweeps as they are found: incomplete, corrupt, foreign and doubled files, on synthetic results of known numbers; the
combined file; paired differences against figures worked out here. --keep FOLDER leaves files and figures there."""
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections import OrderedDict
from pathlib import Path

root = Path(__file__).resolve().parent.parent
python = os.environ.get("FB_PYTHON", sys.executable)
sys.dont_write_bytecode = True
sys.path.insert(0, str(root / "analysis"))

import numpy as np
import xarray as xr
from fedbrats_results import SWEEP, by_seed, final, interval, open_runs, open_sweep, paired_difference
from repetitions import t_quantile
from sweep_folder import Row, SweepError, read_table, run_state, write_table

ROUNDS, HOSPITALS, REGIONS = 6, ("A", "Zürich"), ("TC", "WT", "ET")
STUDENT = {(0.95, 1): 12.7062047364, (0.95, 2): 4.30265272991, (0.95, 3): 3.18244630528, (0.95, 9): 2.26215716274,
           (0.95, 30): 2.04227245630, (0.99, 4): 4.60409487142, (0.5, 7): 0.71114177808}  # tables


def dice_of(share, epsilon, seed, rate=1e-3):
    """(round): what a run's file holds; rounds 2 and 5 (of 1 to 6) are not evaluated."""
    level = 0.5 + 0.2 * share - (0.1 if np.isfinite(epsilon) else 0) + 0.01 * seed ** 2 + 0.03 * share * seed + rate
    dice = level + 0.001 * np.arange(ROUNDS)
    dice[[1, 4]] = np.nan
    return dice


def write_run(path, share, epsilon, seed, mechanism, committed=ROUNDS, status="complete", config=None, rate=1e-3):
    sweep = dict(zip(SWEEP, ([share], [epsilon], [seed], ["random"], [mechanism], ["fedavg"], ["federated"])))
    dice = dice_of(share, epsilon, seed, rate)
    dice[committed:] = 9.0  # void: must not be looked at
    full = {"dice_mean": (SWEEP + ("round",), dice[(None,) * 7], {"units": "1", "long_name": "mean Dice"}),
            "round_seconds": (SWEEP + ("round",), np.full((1,) * 7 + (ROUNDS,), 2.0), {"units": "s"}),
            "bytes_sent": (SWEEP + ("round", "hospital"), np.full((1,) * 7 + (ROUNDS, 2), 100 * seed),
                           {"units": "byte"}),
            "rounds_committed": (SWEEP, np.full((1,) * 7, committed))}
    path.parent.mkdir(parents=True, exist_ok=True)
    xr.Dataset(full, coords=dict(sweep, round=np.arange(ROUNDS), hospital=list(HOSPITALS), region=list(REGIONS)),
               attrs={"status": status, "title": "FedBraTS run"}).to_netcdf(path, engine="h5netcdf")
    options = {"sharing.fraction": f"{share:g}", "privacy.mechanism": mechanism, "run.seed": str(seed),
               "privacy.epsilon_total": f"{0 if np.isinf(epsilon) else epsilon:g}", "federation.rounds": str(ROUNDS),
               "run.output": str(path.parent), **(config or {})}
    xr.Dataset(attrs=options).to_netcdf(path, engine="h5netcdf", mode="a", group="config")
    xr.Dataset(attrs={"git_revision": f"r{seed}"}).to_netcdf(path, engine="h5netcdf", mode="a", group="provenance")
    xr.Dataset({"train_loss": ("round", np.zeros(ROUNDS))}).to_netcdf(path, engine="h5netcdf", mode="a",
                                                                    group="diagnostics")


def make_sweep(folder, shares, budgets, seeds):
    """A sweep of which all is complete; budgets: (mechanism, text of epsilon_total)."""
    rows = []
    for share in shares:
        for mechanism, budget in budgets:
            for seed in seeds:
                values = OrderedDict([("sharing.fraction", f"{share:g}"), ("privacy.mechanism", mechanism),
                                      ("privacy.epsilon_total", budget), ("run.seed", str(seed))])
                row = Row(len(rows), f"share-{share:g}_{mechanism}-{budget}_seed-{seed}", values,
                          [f"--{option}={text}" for option, text in values.items()])
                rows.append(row)
                run = folder / "runs" / row.name
                write_run(run / "results.h5", share, float(budget) or np.inf, seed, mechanism)
                (run / "log.txt").write_text(f"Z round {ROUNDS}/{ROUNDS}: loss 0.5, 2.00 s (0.1 evaluation)\n")
                (run / "result.txt").write_text("RESULT rounds=6 dice_mean=0.5\n")
    (folder / "logs").mkdir()
    write_table(folder, rows)
    return rows


def program(name, *arguments):
    return subprocess.run([python, "-W", "error::RuntimeWarning", str(root / "analysis" / name), *map(str, arguments)],
                          capture_output=True, text=True)


# --- the table and the states ---


def check_table():
    folder = work / "table"
    folder.mkdir()
    values = OrderedDict([("train.trainable", '.*"norm".*|conv final'), ("model.blocks_down", "1,2")])
    rows = [Row(0, "a", values, ["--train.trainable=.*\"norm\".*|it's $HOME; rm", "--x.y=Zürich 1,2"])]
    write_table(folder, rows)
    assert read_table(folder) == rows and not (folder / "sweep.csv.tmp").exists()
    whole = (folder / "sweep.csv").read_text()
    for damaged, why in ((whole.replace("\n0,", "\n1,"), "row 0"), (whole[:-40], "row 0"), ("x,y\n", "not a table"),
                         ("", "not a table")):
        (folder / "sweep.csv").write_text(damaged)
        try:
            read_table(folder)
            raise AssertionError(damaged)
        except (SweepError, ValueError) as error:
            assert why in str(error) or "quotation" in str(error), error


def check_states():
    folder = work / "states"
    rows = make_sweep(folder, [1], [("none", "0")], range(1, 8))
    log = "Z round 2/6: loss 0.5, dice 0.5, 2.00 s (0.1 evaluation)\n"
    texts = {1: log + "Z error: disk full\n", 2: "Z error: old\n" + log, 3: "", 4: None,
             5: log + "srun: error: n1: task 0: Exited with exit code 85\n"}
    for i, text in texts.items():
        run = folder / "runs" / rows[i].name
        (run / "result.txt").unlink()
        (run / "log.txt").write_text(text) if text is not None else shutil.rmtree(run)
    (folder / "logs" / "sweep_10_6.log").write_text("Z error: of a job that was followed by a complete run\n")
    (folder / "logs" / "sweep_10_4.log").write_text("Z rank 0: error: argument --x: wrong\n")
    states = [run_state(folder, row) for row in rows]
    assert [s.kind for s in states] == ["complete", "failed", "stopped", "stopped", "failed", "stopped", "complete"]
    assert [s.round for s in states] == [6, 2, 2, 0, 0, 2, 6] and states[1].rounds == 6
    assert states[1].reason == "disk full" and states[4].reason == "argument --x: wrong"


# --- the collection ---


def check_lacking():
    reasons = dict(damaged.lacking)
    expected = {0: None, 1: "never started", 2: "stopped after round 3 of 6",
                3: "failed after round 2 of 6: no space left", 4: "results.h5 cannot be read",
                5: "its run.seed is 1, the table says 3",
                8: "the status in results.h5 is running", 6: None, 7: None}
    for i, reason in expected.items():
        found = reasons.get(damaged.table[i][0].name)
        assert found == reason or (reason and reason in found), (i, found)
    assert len(reasons) == 6 and len(damaged.runs) == 9 and len(damaged.skipped) == 2


def check_grid():
    grid = damaged.grid
    assert dict(grid.sizes) == dict(share_fraction=2, epsilon=2, seed=3, select=1, algorithm=1, mode=1, round=6,
                                    hospital=2), grid.sizes
    assert grid.epsilon.values.tolist() == [8.0, np.inf] and grid.share_fraction.values.tolist() == [0.1, 1.0]
    for row, _ in damaged.table:
        share, epsilon = float(row.values["sharing.fraction"]), float(row.values["privacy.epsilon_total"]) or np.inf
        seed = int(row.values["run.seed"])
        cell = grid.sel(share_fraction=share, epsilon=epsilon, seed=seed).squeeze()
        committed = {1: 0, 2: 3, 3: 2, 4: 0, 5: 0}.get(row.task, 6)
        dice = dice_of(share, epsilon, seed)
        dice[committed:] = np.nan
        np.testing.assert_array_equal(cell.dice_mean, dice)
        np.testing.assert_array_equal(cell.bytes_sent[:committed], np.full((committed, 2), 100.0 * seed))
        assert cell.run == row.name and cell.complete == (row.task not in (1, 2, 3, 4, 5, 8))
        assert cell.mechanism == ("" if committed == 0 else row.values["privacy.mechanism"])
        last = np.nanmean(dice[1:] if committed else [np.nan]) if cell.complete else np.nan
        dice = final(grid, last=3).sel(share_fraction=share, epsilon=epsilon, seed=seed)
        np.testing.assert_allclose(dice.item(), last)
    assert grid.dice_mean.attrs == {"units": "1", "long_name": "mean Dice"} and "train_loss" not in grid


def check_combined():
    path = work / "damaged/sweep.h5"
    result = program("fedbrats_results.py", work / "damaged")
    assert result.returncode == 1 and "9 of 12 runs, 6 not complete" in result.stdout, (result.stdout, result.stderr)
    assert "never started" in result.stderr and "Traceback" not in result.stderr and "Warning" not in result.stderr
    assert not Path(f"{path}.tmp").exists()
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as data:
            xr.testing.assert_equal(data.load(), damaged.grid)
            assert data.round_seconds.attrs["units"] == "s" and data.bytes_sent.attrs["units"] == "byte"
        name = damaged.table[0][0].name
        assert xr.open_dataset(path, engine=engine, group=f"runs/{name}/provenance").attrs["git_revision"] == "r1"
        assert xr.open_dataset(path, engine=engine, group=f"runs/{name}/config").attrs["run.seed"] == "1"
        table = xr.open_dataset(path, engine=engine, group="table")
        assert table.sizes["name"] == 12 and table.reason.values[1] == "never started" and table.complete.sum() == 6
    with open(path, "rb") as file:
        assert b"train_loss" not in file.read()  # diagnostics are not for release
    assert program("fedbrats_results.py", work / "damaged", "--diagnostics").returncode == 1
    assert "train_loss" in xr.open_dataset(path, engine="h5netcdf")


def check_complete():
    make_sweep(work / "whole", [0.5], [("none", "0")], [1, 2])
    result = program("fedbrats_results.py", work / "whole")
    assert result.returncode == 0 and "2 of 2 runs, 0 not" in result.stdout and not result.stderr, result.stderr
    assert program("fedbrats_results.py", work / "nowhere").returncode == 2
    assert program("plot_sweep.py", work / "nowhere").returncode == 2


def check_doubled():
    paths = []
    for i, rate in enumerate((1e-3, 1e-4)):
        paths.append(work / f"doubled{i}/results.h5")
        write_run(paths[i], 1.0, np.inf, 1, "none", rate=rate, config={"train.learning_rate": f"{rate:g}"})
    runs = open_runs(paths)
    assert runs.grid is None and "share_fraction=1.0" in runs.grid_reason, runs.grid_reason
    assert "train.learning_rate (0.0001, 0.001): open them with dims=['train.learning_rate']" in runs.grid_reason
    grid = open_runs(paths, dims=["train.learning_rate"]).grid
    assert grid["train.learning_rate"].values.tolist() == [1e-4, 1e-3]
    for rate in (1e-3, 1e-4):
        np.testing.assert_array_equal(grid.dice_mean.sel({"train.learning_rate": rate}).squeeze(),
                                      dice_of(1.0, np.inf, 1, rate))
    assert "no setting makes a difference" in open_runs([paths[0], paths[0]]).grid_reason


def check_computed_epsilon():
    """A budget that follows from share and noise is a variable, not a dimension; so is any option without a name."""
    folder, rows = work / "computed", []
    for share in (0.1, 1.0):
        for answer in ("1", "2e1"):
            values = OrderedDict([("sharing.fraction", f"{share:g}"), ("privacy.epsilon_answer", answer)])
            rows.append(Row(len(rows), f"{share:g}-{answer}", values, []))
            run = folder / "runs" / rows[-1].name
            write_run(run / "results.h5", share, 100 * share * float(answer), 1, "laplace",
                      config={"privacy.epsilon_answer": f"{float(answer):g}"})
            (run / "result.txt").write_text("RESULT\n")
            (run / "log.txt").write_text("")
    write_table(folder, rows)
    sweep = open_sweep(folder)
    assert sweep.lacking == [] and "epsilon" not in sweep.grid.dims, sweep.lacking
    assert sweep.grid["privacy.epsilon_answer"].values.tolist() == [1.0, 20.0]
    assert sweep.grid.epsilon.squeeze().values.tolist() == [[10.0, 200.0], [100.0, 2000.0]]


# --- repetitions ---


def check_student():
    for (level, degrees), value in STUDENT.items():
        assert abs(t_quantile(level, degrees) / value - 1) < 1e-10, (level, degrees)


def check_paired():
    difference = paired_difference(damaged.grid, "dice_mean", along="share_fraction", reference=1.0, last=3).squeeze()
    for epsilon, n in ((np.inf, 1), (8.0, 0)):
        point = difference.sel(share_fraction=0.1, epsilon=epsilon)
        assert point.n == n and np.isnan(point.low) and np.isnan(point.high), point  # never an interval from one pair
        assert np.isnan(point["mean"]) == (n == 0)
    grid = whole_grid()
    for share in (0.1, 1.0):
        pairs = [np.nanmean(dice_of(share, np.inf, s)[1:] - dice_of(1.0, np.inf, s)[1:]) for s in (1, 2, 4)]
        point = paired_difference(grid, along="share_fraction", last=3).squeeze().sel(share_fraction=share,
                                                                                      epsilon=np.inf)
        half = STUDENT[0.95, 2] * statistics.stdev(pairs) / 3 ** 0.5
        assert point.n == 3
        np.testing.assert_allclose([point["mean"], point.low, point.high], [np.mean(pairs), np.mean(pairs) - half,
                                                                          np.mean(pairs) + half], atol=1e-12)
    unpaired = interval(by_seed(final(grid))).sel(epsilon=np.inf, share_fraction=0.1)
    paired = paired_difference(grid, along="share_fraction").squeeze().sel(epsilon=np.inf, share_fraction=0.1)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)  # what the seeds have in common cancels
    for wrong in (dict(along="share_fraction", reference=0.7), dict(along="nowhere"), dict(over="nowhere")):
        try:
            paired_difference(grid, **wrong)
            raise AssertionError(wrong)
        except ValueError as error:
            assert "no dimension" in str(error) or "no value 0.7" in str(error)


def whole_grid():
    if not (work / "seeds").exists():
        make_sweep(work / "seeds", [0.1, 1.0], [("none", "0"), ("laplace", "8")], [1, 2, 4])
    return open_sweep(work / "seeds").grid


def check_coverage():
    """Of 4000 intervals from three seeds, 95 % hold the truth, within four standard deviations of the count."""
    draws = np.random.default_rng(5).normal(0.3, 0.1, (4000, 3))
    result = interval(xr.DataArray(draws, dims=("trial", "seed")))
    held = int(((result.low <= 0.3) & (0.3 <= result.high)).sum())
    assert abs(held - 3800) < 4 * (4000 * 0.95 * 0.05) ** 0.5, held


# --- figures ---


def check_figures():
    for name in ("damaged", "computed"):
        result = program("plot_sweep.py", work / name)
        assert result.returncode == 0 and not result.stderr, result.stderr
        for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
            path = work / name / f"sweep.{kind}"
            assert path.read_bytes().startswith(magic) and path.stat().st_size > 8000, path
    (work / "empty").mkdir()
    write_table(work / "empty", [row for row, _ in damaged.table])
    result = program("plot_sweep.py", work / "empty")
    assert result.returncode == 1 and "nothing to plot: no run can be read" in result.stderr
    assert program("fedbrats_results.py", work / "empty").returncode == 1 and not (work / "empty/sweep.h5").exists()


def damage(folder):
    """Every kind of a run that is not complete."""
    rows = make_sweep(folder, [1.0, 0.1], [("none", "0"), ("laplace", "8")], [1, 2, 3])
    runs = [folder / "runs" / row.name for row in rows]
    shutil.rmtree(runs[1])
    for i, committed, text in ((2, 3, "Z round 3/6: l, 2 s (\n"),
                               (3, 2, "Z round 2/6: l, 2 s (\nZ error: no space left\n")):
        (runs[i] / "result.txt").unlink()
        (runs[i] / "log.txt").write_text(text)
        values = rows[i].values
        write_run(runs[i] / "results.h5", 1.0, float(values["privacy.epsilon_total"]) or np.inf,
                  int(values["run.seed"]), values["privacy.mechanism"], committed, "running")
    whole = (runs[4] / "results.h5").read_bytes()
    (runs[4] / "results.h5").write_bytes(whole[:len(whole) // 2])
    shutil.copy(runs[3].parent / rows[3].name / "results.h5", runs[5] / "results.h5")
    write_run(runs[8] / "results.h5", 0.1, np.inf, 3, "none", status="running")
    return folder


keep = sys.argv[2] if sys.argv[1:2] == ["--keep"] else None
work = Path(keep or tempfile.mkdtemp(prefix="check_sweep."))
failed = 0
try:
    damaged = open_sweep(damage(work / "damaged"))
    checks = [check_table, check_states, check_lacking, check_grid, check_combined, check_complete, check_doubled,
              check_computed_epsilon, check_student, check_paired, check_coverage, check_figures]
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
        shutil.rmtree(work)
sys.exit(failed != 0)
