# SPDX-License-Identifier: Apache-2.0
"""nibabel and FedBraTS read each other's NIfTI files: test_nifti IN OUT copies a file through our reader and writer."""
import os
import subprocess
import sys
import tempfile

import nibabel
import numpy

copier = os.path.join(os.environ.get("FB_BUILD", "build/release"), "tests", "test_nifti")
number = 0
failed = 0


def check(name, good):
    global number, failed
    number += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {number} - {name}")


def both_ways(name, data, affine, header=None, suffix=".nii.gz", sform=True, scale=None):
    """nibabel writes, we read and write, nibabel reads: same shape, values and affine."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = os.path.join(folder, "before" + suffix), os.path.join(folder, "after" + suffix)
        image = nibabel.Nifti1Image(data, affine, header)
        image.set_qform(affine, 1)
        image.set_sform(affine, 1 if sform else 0)
        if scale:
            image.header.set_slope_inter(*scale)
        image.to_filename(before)
        run = subprocess.run([copier, before, after], capture_output=True, text=True)
        if run.returncode != 0:
            check(f"{name}: {run.stderr.strip()}", False)
            return
        wanted, image = nibabel.load(before), nibabel.load(after)
        check(name, image.shape == data.shape[:3] and image.header["qform_code"] == 1
              and numpy.array_equal(numpy.asarray(image.dataobj).ravel(order="F"),
                                    wanted.get_fdata(dtype=numpy.float32).ravel(order="F"))
              and numpy.allclose(image.affine, wanted.affine, atol=1e-4)  # float32 quaternion, offsets up to 240 mm
              and numpy.allclose(image.get_qform(), wanted.affine, atol=1e-4))


brats = numpy.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
turned = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.5, 1.1) @ numpy.diag([0.9, 1.1, 2.5]), [10, -20, 30])
random = numpy.random.default_rng(1)
integers = random.integers(0, 200, (5, 6, 7))
for dtype in ("uint8", "int16", "int32", "uint16", "float32", "float64"):
    both_ways(f"{dtype} from nibabel and back", integers.astype(dtype), brats)
both_ways("uncompressed", integers.astype("int16"), brats, suffix=".nii")
both_ways("oblique sform", integers.astype("int16"), turned)
both_ways("oblique qform only", integers.astype("int16"), turned, sform=False)
both_ways("big-endian", integers.astype(">i2"), brats, nibabel.Nifti1Header(endianness=">"))
both_ways("slope and intercept", integers.astype("float32"), brats, scale=(0.25, 3.0))
both_ways("fourth dimension of 1", integers.astype("int16")[..., None], brats)
sys.exit(failed != 0)
