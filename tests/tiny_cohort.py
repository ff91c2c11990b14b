#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a tiny BraTS 2018 cohort: tiny_cohort.py DIR SITE:GRADE:COUNT... ; 24 x 20 x 16 voxels a case."""
import os
import sys

import nibabel
import numpy


def write_case(folder, subject, number):
    """Four modalities of random intensities in a box-shaped brain with a three-label tumour."""
    os.makedirs(folder)
    rng = numpy.random.default_rng(number)
    brain = numpy.zeros((16, 20, 24), bool)
    brain[2:-2, 2:-2, 2:-2] = True
    label = numpy.zeros(brain.shape, numpy.uint8)
    label[5:12, 6:14, 6:15] = 2
    label[6:10, 7:12, 8:13] = 4
    label[7:9, 8:10, 9:11] = 1
    affine = numpy.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    for modality in ("t1ce", "t1", "t2", "flair"):
        image = numpy.where(brain, rng.integers(50, 900, brain.shape) + 200 * (label > 0), 0).astype(numpy.int16)
        nibabel.save(nibabel.Nifti1Image(image, affine), f"{folder}/{subject}_{modality}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), f"{folder}/{subject}_seg.nii.gz")


def main():
    number = 0
    for part in sys.argv[2:]:
        site, grade, count = part.split(":")
        for _ in range(int(count)):
            subject = f"Brats18_{site}_{number}_1"
            write_case(f"{sys.argv[1]}/{grade}/{subject}", subject, number)
            number += 1


main()
