#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The file of fedbrats audit, read by h5py and xarray, and its figure. --keep FOLDER leaves them there."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
python = os.environ.get("FB_PYTHON", sys.executable)
fedbrats = os.path.join(os.environ.get("FB_BIN", os.path.join(root, "bin")), "fedbrats")
plot = os.path.join(root, "analysis/plot_audit.py")

import h5py
import numpy as np
import xarray as xr

MECHANISMS = ["svt+laplace", "exponential+laplace", "random+laplace", "all+laplace"]
TRAININGS = ["random+gaussian", "all+gaussian", "dpsgd"]


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True)


def check_file():
    with h5py.File(path) as file:
        assert b"prove nothing" in file.attrs["note"] and file.attrs["seed"] == 3
        assert b"samples = 400" in file.attrs["settings"]
        for group in ("mechanisms", "training"):
            for name, dataset in file[group].items():
                assert dataset.attrs["long_name"] and dataset.attrs["units"] == b"1", name
                for k, dimension in enumerate(dataset.dims):
                    assert dataset.attrs.get("CLASS") == b"DIMENSION_SCALE" or len(dimension) == 1, (name, k)
    data = xr.open_dataset(path, group="mechanisms")
    assert list(data.subject.values) == MECHANISMS and data.sizes["pair"] == 8 and data.sizes["direction"] == 2
    assert np.allclose(data.epsilon_claimed, 1, atol=1e-9) and not data.refuted.any()
    assert np.allclose(data.epsilon_bound, data.epsilon_lower.max(("pair", "direction")))
    assert (data.samples == 2 * 8 * 500).all()
    for rate in (data.false_positive_rate, data.true_positive_rate):
        assert float(rate.min()) >= 0 and float(rate.max()) == 1 and (np.diff(rate.values, axis=-1) >= 0).all()
    training = xr.open_dataset(path, group="training")
    assert list(training.subject.values) == TRAININGS
    assert (training.right <= training.guesses).all() and (training.epsilon_bound <= training.epsilon_ceiling).all()
    assert int(training.guesses.sel(subject="dpsgd")) == 40 and int(training.canaries.sel(subject="dpsgd")) == 200


def check_figure():
    result = run(python, plot, path, "--output", os.path.join(folder, "audit.png"))
    assert result.returncode == 0 and not result.stderr, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()[1:8]}
    assert set(rows) == set(MECHANISMS + TRAININGS) and all(row[-1] == "holds" for row in rows.values())
    with open(os.path.join(folder, "audit.png"), "rb") as file:
        head = file.read(24)
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:24]) == (1650, 690)
    with open(os.path.join(folder, "audit.pdf"), "rb") as file:
        assert file.read(4) == b"%PDF"


def check_refuted():
    other = os.path.join(folder, "broken.h5")
    audit = run(fedbrats, "audit", "--audit.mutant=clip-after-noise", "--audit.samples=1000", "--audit.output=" + other)
    assert audit.returncode == 1 and "REFUTED" in audit.stdout, audit.stdout
    result = run(python, plot, other, "--output", os.path.join(folder, "broken.png"))
    assert result.returncode == 0 and "REFUTED" in result.stdout, result.stdout + result.stderr
    with h5py.File(other) as file:
        table = file["mechanisms"]
        best = table["epsilon_lower"][0].max(axis=1).argmax()
        fpr, tpr = table["false_positive_rate"][0, best], table["true_positive_rate"][0, best]
        assert (tpr > np.e * fpr + 0.2).any()  # outside the region that the claim of 1 allows


def check_refusals():
    assert run(python, plot, os.path.join(folder, "absent.h5")).returncode == 1
    bad = os.path.join(folder, "bad.h5")
    with open(bad, "w") as file:
        file.write("text")
    result = run(python, plot, bad, "--output", os.path.join(folder, "bad.png"))
    assert result.returncode == 1 and "bad.h5" in result.stderr and "Traceback" not in result.stderr
    assert not os.path.exists(os.path.join(folder, "bad.png"))


keep = sys.argv[2] if sys.argv[1:2] == ["--keep"] else None
folder = keep or tempfile.mkdtemp(prefix="check_audit.")
os.makedirs(folder, exist_ok=True)
path = os.path.join(folder, "audit.h5")
made = run(fedbrats, "audit", "--audit.samples=400", "--audit.canaries=200", "--audit.seed=3", "--audit.output=" + path)
failed = made.returncode != 0
print("1..5")
print(f"{'not ok' if failed else 'ok'} 1 - fedbrats audit writes a file")
if failed:
    print("# " + made.stderr.replace("\n", "\n# "))
for number, check in enumerate((check_file, check_figure, check_refuted, check_refusals), 2):
    try:
        check()
        print(f"ok {number} - {check.__name__}")
    except Exception:
        failed = True
        print(f"not ok {number} - {check.__name__}\n# " + traceback.format_exc().replace("\n", "\n# "))
if not keep:
    shutil.rmtree(folder)
sys.exit(failed)
