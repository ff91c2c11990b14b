#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Results and models written by the C code, read by the tools that researchers use. The files and the values in them
are made by test_results.c and test_safetensors.c (`generate`)."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
build = os.environ.get("FB_BUILD", os.path.join(root, "build/release"))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(root, "analysis"))
warnings.simplefilter("ignore")  # of Debian's netCDF4 about numpy's ABI

import h5py
import numpy as np
import xarray as xr
from fedbrats_results import SWEEP, open_runs

ENGINES = ("h5netcdf", "netcdf4")
HOSPITALS = ["CBICA", "TCIA01", "Zürich"]
INTEGERS = ("dice_cases", "bytes_dense", "steps", "participated", "bytes_sent")
SECONDS = ("comm_seconds", "eval_seconds", "train_seconds_max", "round_seconds", "simulated_seconds")
PER_HOSPITAL = ("steps", "participated", "bytes_sent", "shared_fraction_achieved", "epsilon_round", "epsilon_total",
                "epsilon_per_parameter")
DIAGNOSTICS = ("update_cosine", "update_snr", "clip_rate", "selection_overlap", "norm_scale", "train_loss",
               "train_seconds", "privacy_seconds", "sum_cosine", "svt_tests")
DIAGNOSTIC_FIELDS = (13, 14, 15, 20, 21, 16, 17, 18)  # of the real ones, as fill() of test_results.c numbers them
NOT_EVALUATED = 1  # round whose dice of ET is NaN


def value(run, rounds, field, k):
    """As value() of test_results.c, for all rounds: (rounds, len(k))."""
    return run * 1000.0 + np.arange(rounds)[:, None] + field / 64.0 + np.asarray(k)[None, :] / 8.0


def opened(run, engine, group=None):
    return xr.open_dataset(os.path.join(folder, f"run{run}.h5"), engine=engine, group=group)


def check_coordinates():
    for engine in ENGINES:
        data = opened(0, engine)
        assert dict(data.sizes) == {**dict.fromkeys(SWEEP, 1), "round": 5, "hospital": 3, "region": 3}, data.sizes
        assert data.share_fraction.item() == 0.1 and data.epsilon.item() == np.inf and data.seed.item() == 7
        assert [data[n].item() for n in SWEEP[3:]] == ["topk", "none", "fedavg", "federated"]
        assert data["round"].dtype == np.int64 and data["round"].values.tolist() == [0, 1, 2, 3, 4]
        assert data.hospital.values.tolist() == HOSPITALS and data.region.values.tolist() == ["TC", "WT", "ET"]


def check_variables():
    for engine in ENGINES:
        data = opened(0, engine)
        assert len(data.data_vars) == 19, list(data.data_vars)
        for name, variable in data.data_vars.items():
            assert variable.dims[:7] == SWEEP, (name, variable.dims)
            axes = () if name == "rounds_committed" else ("round", "hospital") if name in PER_HOSPITAL else \
                ("round", "region") if name in ("dice", "dice_validation", "dice_cases") else ("round",)
            assert variable.dims[7:] == axes, (name, variable.dims)
            assert np.issubdtype(variable.dtype, np.number), (name, variable.dtype)


def check_values():
    for engine in ENGINES:
        data = opened(1, engine).squeeze()
        dice = value(1, 5, 0, range(3))
        dice[NOT_EVALUATED, 2] = np.nan
        np.testing.assert_array_equal(data.dice, dice)
        np.testing.assert_array_equal(data.dice_validation, value(1, 5, 1, range(3)))
        scalars = ("dice_mean", "dice_validation_mean") + SECONDS
        for i, name in enumerate(scalars):
            np.testing.assert_array_equal(data[name], value(1, 5, 2 + i, [0])[:, 0], err_msg=name)
        assert (data.bytes_dense == 4000000001).all()
        for i, name in enumerate(("steps", "participated", "bytes_sent")):
            np.testing.assert_array_equal(data[name], value(1, 5, 64 * i, [0, 8, 16]), err_msg=name)
        np.testing.assert_array_equal(data.epsilon_total, value(1, 5, 12, range(3)))
        np.testing.assert_array_equal(data.epsilon_per_parameter, value(1, 5, 19, range(3)))
        assert np.isinf(data.epsilon_round[:, 0]).all()
        assert data.rounds_committed.item() == 5


def check_diagnostics():
    for engine in ENGINES:
        data = opened(1, engine, "diagnostics")
        assert tuple(data.data_vars) == DIAGNOSTICS and "not release" in data.attrs["note"]
        assert data.hospital.values.tolist() == HOSPITALS and data.epsilon.item() == 2.5
        for field, name in zip(DIAGNOSTIC_FIELDS, DIAGNOSTICS):
            np.testing.assert_array_equal(data[name].squeeze(), value(1, 5, field, range(3)), err_msg=name)
        np.testing.assert_array_equal(data.sum_cosine.squeeze(), value(1, 5, 30, [0])[:, 0])
        np.testing.assert_array_equal(data.svt_tests.squeeze(), value(1, 5, 192, [0, 8, 16]))
        both = xr.combine_by_coords([opened(r, engine, "diagnostics") for r in (0, 1)])
        assert both.sizes["share_fraction"] == 2 and both.sizes["hospital"] == 3


def check_descriptions():
    with h5py.File(os.path.join(folder, "run0.h5")) as file:
        seen = 0
        for group in (file, file["diagnostics"]):
            for name, item in group.items():
                if isinstance(item, h5py.Group):
                    continue
                seen += 1
                units, is_scale = item.attrs["units"].decode(), h5py.h5ds.is_scale(item.id)
                assert item.attrs["long_name"], name
                assert units == ("s" if "seconds" in name else "byte" if "bytes" in name else "1"), (name, units)
                assert item.chunks is None and (is_scale or all(len(d) == 1 for d in item.dims)), name
                if name in INTEGERS + ("svt_tests", "rounds_committed", "round", "seed"):
                    assert item.dtype == np.int64, name
                elif name not in ("select", "mechanism", "algorithm", "mode", "hospital", "region"):
                    assert item.dtype == np.float64, name
        assert seen == 19 + 10 + 10 + 9, seen


def check_groups():
    for engine in ENGINES:
        config = opened(0, engine, "config").attrs
        assert config == {"sharing.select": "topk", "sharing.fraction": "0.1", "data.note": ""}
        assert opened(0, engine, "provenance").attrs == {"version": "0.1.0", "revision": "unknown"}
        for run, status in enumerate(("complete", "complete", "failed", "running")):
            attributes = opened(run, engine).attrs
            assert attributes["status"] == status
            assert attributes.get("model_sha256") == ("00ff" if run < 3 else None)
            assert ("end_time_utc" in attributes) == (run < 3) and "start_time_utc" in attributes


def check_void():
    for engine in ENGINES:
        data = opened(3, engine).squeeze()
        assert data.rounds_committed.item() == 2
        for name, variable in data.data_vars.items():
            if "round" in variable.dims:
                assert np.isnan(variable[2:]).all(), name  # integers too, by _FillValue
    with h5py.File(os.path.join(folder, "run3.h5")) as file:
        assert (file["steps"][..., 2:, :] == -1).all()


def check_grid():
    for engine in ENGINES:
        grid = xr.combine_by_coords([opened(r, engine) for r in (0, 1)], combine_attrs="drop_conflicts")
        assert grid.share_fraction.values.tolist() == [0.1, 0.4] and grid.epsilon.values.tolist() == [2.5, np.inf]
        topk = grid.dice_mean.sel(epsilon=np.inf, share_fraction=0.1, select="topk", mechanism="none").squeeze()
        np.testing.assert_array_equal(topk, value(0, 5, 2, [0])[:, 0])
        assert np.isnan(grid.dice_mean.sel(epsilon=np.inf, share_fraction=0.4)).all()
        assert np.isnan(grid.bytes_sent.sel(epsilon=2.5, share_fraction=0.1)).all()


def check_open_runs():
    broken = os.path.join(folder, "broken.h5")
    with open(os.path.join(folder, "run0.h5"), "rb") as file, open(broken, "wb") as out:
        out.write(file.read(4000))
    other = os.path.join(folder, "other.h5")
    with h5py.File(other, "w") as file:
        file["x"] = 1
    paths = [os.path.join(folder, f"run{r}.h5") for r in range(4)]
    runs = open_runs(paths + [broken, other, os.path.join(folder, "absent.h5")])
    assert [os.path.basename(p) for p, _ in runs.skipped] == ["broken.h5", "other.h5", "absent.h5"]
    assert all(reason for _, reason in runs.skipped) and "no share_fraction" in runs.skipped[1][1]
    assert [run.data.sizes["round"] for run in runs.runs] == [5, 5, 2, 2]
    assert [run.status for run in runs.runs] == ["complete", "complete", "failed", "running"]
    assert runs.runs[0].config["sharing.fraction"] == "0.1" and runs.runs[0].provenance["version"] == "0.1.0"
    assert dict(runs.grid.sizes)["share_fraction"] == 3 and dict(runs.grid.sizes)["round"] == 5
    assert "train_loss" in open_runs(paths[:1], diagnostics=True).grid
    same = open_runs([paths[0], paths[0]])
    assert same.grid is None and "share_fraction=0.1" in same.grid_reason and len(same.runs) == 2


def check_safetensors():
    path = os.path.join(folder, "model.safetensors")
    subprocess.run([os.path.join(build, "tests/test_safetensors"), "generate", path], check=True, capture_output=True)
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(size)), file.read()
    assert size % 8 == 0
    assert header.pop("__metadata__") == {"format": "pt", "note": 'quote " backslash \\ newline \n Zürich'}
    assert list(header) == ["convInit.conv.weight", "norm.weight", "last.bias"]
    assert [t["shape"] for t in header.values()] == [[2, 1, 3, 3, 3], [3], [4]]
    assert [t["data_offsets"] for t in header.values()] == [[0, 216], [216, 228], [228, 244]] and len(data) == 244
    assert {t["dtype"] for t in header.values()} == {"F32"}
    weights = np.frombuffer(data, "<f4")
    assert np.signbit(weights[0]) and weights[0] == 0 and weights[1] == np.float32(1e-42)
    assert weights[2] == np.finfo(np.float32).max and abs(weights[3:].mean()) < 0.5  # 58 normal draws: 3.8 sigma


folder = tempfile.mkdtemp(prefix="check_results.")
failed = 0
try:
    subprocess.run([os.path.join(build, "tests/test_results"), "generate", folder], check=True)
    checks = [check_coordinates, check_variables, check_values, check_diagnostics, check_descriptions, check_groups,
              check_void, check_grid, check_open_runs, check_safetensors]
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
    shutil.rmtree(folder)
sys.exit(failed != 0)
