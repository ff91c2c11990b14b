#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a classifier that sees one voxel at a time reaches: the bar that a network on the same cohort has to clear.

    voxel_baseline.py COHORT [--manifest SHARDS/manifest.csv] [--bins 12] [--smooth 2]

COHORT is a folder in the BraTS layout. With a manifest of brats-split its train and test cases are used, so that the
figures stand beside a network's on the same shards; without, every fourth case (by name) is held out. The z-scored
intensities (over the voxels that are not 0, per image) of the four modalities are binned at their training quantiles
into a four-dimensional histogram; each cell holds the share of tumour core, whole tumour and enhancing tumour. A voxel
is positive when its cell's share exceeds a threshold, tuned per region for the best mean Dice on the training cases.
Prints both sets' Dice.
"""
import argparse
import csv
import pathlib

import nibabel
import numpy

MODALITIES = ("t1ce", "t1", "t2", "flair")
REGIONS = {"TC": (1, 4), "WT": (1, 2, 4), "ET": (4,)}


def load(case):
    """z-scores (voxels of the brain, 4) and regions (voxels, 3) of one case."""
    images = [numpy.asarray(nibabel.load(case / f"{case.name}_{m}.nii.gz").dataobj) for m in MODALITIES]
    labels = numpy.asarray(nibabel.load(case / f"{case.name}_seg.nii.gz").dataobj)
    inside = numpy.any([image != 0 for image in images], axis=0)
    scores = [(image[inside] - image[image != 0].mean()) / image[image != 0].std() for image in images]
    return numpy.stack(scores, 1), numpy.stack([numpy.isin(labels[inside], r) for r in REGIONS.values()], 1)


def smoothed(histogram, passes):
    """[1 2 1] / 4 along each of the four intensity axes, `passes` times."""
    for _ in range(passes):
        for axis in range(4):
            padded = numpy.pad(histogram, [(int(a == axis),) * 2 for a in range(histogram.ndim)], mode="edge")
            lo, mid, hi = (numpy.take(padded, range(o, o + histogram.shape[axis]), axis) for o in (0, 1, 2))
            histogram = (lo + 2 * mid + hi) / 4
    return histogram


def dice(predicted, truth):
    """NaN where there is nothing to find."""
    return 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()) if truth.any() else numpy.nan


def split(folders, manifest):
    """Indices of the training and of the held-out cases."""
    if manifest is None:
        return [i for i in range(len(folders)) if i % 4 != 3], [i for i in range(len(folders)) if i % 4 == 3]
    with open(manifest, newline="", encoding="utf-8") as table:
        of = {row["subject"]: row["split"] for row in csv.DictReader(table)}
    return tuple([i for i, f in enumerate(folders) if of[f.name] == which] for which in ("train", "test"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cohort", type=pathlib.Path)
    parser.add_argument("--manifest", type=pathlib.Path)
    parser.add_argument("--bins", type=int, default=12)
    parser.add_argument("--smooth", type=int, default=2)
    args = parser.parse_args()
    folders = sorted((p.parent for p in args.cohort.glob("*GG/*/*_seg.nii.gz")), key=lambda p: p.name)
    if len(folders) < 8:
        parser.error(f"{args.cohort}: {len(folders)} cases found, at least 8 needed")
    cases = [load(folder) for folder in folders]
    train, test = ([cases[i] for i in part] for part in split(folders, args.manifest))

    pooled = numpy.concatenate([scores for scores, _ in train])
    edges = [numpy.quantile(pooled[:, m], numpy.arange(1, args.bins) / args.bins) for m in range(4)]

    def cell_of(scores):
        return tuple(numpy.searchsorted(edges[m], scores[:, m]) for m in range(4))

    counts = numpy.zeros((args.bins,) * 4 + (1 + len(REGIONS),))
    for scores, regions in train:
        numpy.add.at(counts, cell_of(scores), numpy.column_stack([numpy.ones(len(scores)), regions]))
    counts = smoothed(counts, args.smooth)
    share = counts[..., 1:] / numpy.maximum(counts[..., :1], 1e-9)

    means = numpy.zeros((2, len(REGIONS)))
    for r, region in enumerate(REGIONS):
        table = [[(share[cell_of(s)][:, r], t[:, r]) for s, t in group] for group in (train, test)]
        thresholds = numpy.arange(0.05, 0.95, 0.025)
        score = {t: numpy.nanmean([dice(p > t, truth) for p, truth in table[0]]) for t in thresholds}
        best = max(score, key=score.get)
        means[:, r] = [numpy.nanmean([dice(p > best, truth) for p, truth in group]) for group in table]
        print(f"{region}  train {means[0, r]:.4f}  held out {means[1, r]:.4f}  threshold {best:.3f}")
    print(f"mean train {means[0].mean():.4f}  held out {means[1].mean():.4f}  ({len(train)} and {len(test)} cases)")


if __name__ == "__main__":
    main()
