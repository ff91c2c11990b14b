#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""compare_shards.py IN OUT: compares the shards in OUT, read by h5py, with the NIfTI cohort IN, read by nibabel."""
import csv
import glob
import hashlib
import sys

import h5py
import nibabel
import numpy

cohort, shards = sys.argv[1:]
files = {}
for path in glob.glob(f"{shards}/*.h5"):
    shard = h5py.File(path, "r")
    files["test" if shard.attrs["hospital_index"] < 0 else shard.attrs["hospital"].decode()] = shard
seen = 0
for row in csv.DictReader(open(f"{shards}/manifest.csv", encoding="utf-8")):
    name = row["subject"]
    case = files["test" if row["split"] == "test" else row["hospital"]]["cases"][name]
    image, label = case["image"][()], case["label"][()]
    base = f"{cohort}/{row['grade']}/{name}/{name}"
    for channel, modality in enumerate(("t1ce", "t1", "t2", "flair")):
        # NIfTI's x is the last axis of the shard
        numpy.testing.assert_array_equal(image[..., channel], nibabel.load(f"{base}_{modality}.nii.gz").get_fdata().T)
    numpy.testing.assert_array_equal(label, nibabel.load(f"{base}_seg.nii.gz").get_fdata().T)
    sha256 = hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()
    assert sha256 == row["sha256"] == case.attrs["sha256"].decode(), name
    assert case.attrs["split"].decode() == row["split"] and case.attrs["grade"].decode() == row["grade"]
    assert case.attrs["site"].decode() == row["site"] and image.shape == (*label.shape, 4)
    assert [str(n) for n in label.shape] == [row["depth"], row["height"], row["width"]]
    seen += 1
stored = sum(len(shard["cases"]) for shard in files.values())
assert seen == stored, (seen, stored)
