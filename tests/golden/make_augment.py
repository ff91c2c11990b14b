#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes golden_augment.h: what NumPy makes of a small volume, as MONAI's transforms define it. Run it in tests/golden.

The volume is a formula that tests/test_augment.c repeats, so that only the expected numbers are stored.
"""
import numpy as np

SHAPE, PATCH = (6, 5, 7), (4, 3, 4)
OFFSET, FLIP, SCALE, SHIFT = (1, 2, 3), (1, 0, 1), 1.0625, -0.09375  # exact in binary
PADDED = (8, 8, 8)


def volume():
    d, h, w, m = np.meshgrid(*(np.arange(n) for n in SHAPE + (4,)), indexing="ij")
    value = (31 * d + 17 * h + 7 * w + 11 * m + d * h * w) % 29
    image = np.where(value < 9, 0, value * 3.5 - 20).astype(np.float32)
    image[..., 3] = np.where(image[..., 3] != 0, 5, 0)  # a constant modality: standard deviation 0
    return image


def zscore(image):
    out = image.copy()
    for m in range(4):
        mask = image[..., m] != 0
        values = image[..., m][mask].astype(np.float64)
        std = values.std() or 1.0
        out[..., m][mask] = (values - values.mean()) / std
    return out


def text(name, array):
    rows = array.astype(np.float32).reshape(-1, 4)
    body = "\n".join("    " + " ".join(f"{v:.9g}," for v in row) for row in rows.tolist())
    return f"/* {array.shape} */\nstatic const double {name}[] = {{\n{body}\n}};\n"


crop = volume()[tuple(slice(o, o + p) for o, p in zip(OFFSET, PATCH))]
for axis in range(3):
    if FLIP[axis]:
        crop = np.flip(crop, axis)
sample = zscore(crop).astype(np.float64) * SCALE + SHIFT
whole = np.pad(zscore(volume()), [(0, p - s) for s, p in zip(SHAPE, PADDED)] + [(0, 0)])

with open("golden_augment.h", "w", encoding="ascii") as out:
    out.write("/* SPDX-License-Identifier: Apache-2.0\n *\n * Written by make_augment.py; do not edit. */\n")
    out.write("/* clang-format off */\n#pragma once\n\n")
    out.write(text("golden_sample", sample) + "\n")
    out.write(text("golden_whole_plane", whole[2]))
