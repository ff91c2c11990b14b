#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# brats-phantom: layout, counts, determinism, contents, refused inputs. About 10 s.
set -u
bin=${FB_BIN:-bin} python=${FB_PYTHON:-/usr/bin/python3}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
logs=("$work/log")
. "$(dirname "$0")/tap.sh"

phantom()
{
    "$bin/brats-phantom" "$@" > "$work/log" 2>&1
}

# sums FOLDER: one hash over names and contents
sums()
{
    (cd "$1" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
}

# sites FOLDER: the site of each case in it, sorted
sites()
{
    find "$1" -name '*_seg.nii.gz' | sed 's|.*/Brats18_\([^_]*\)_.*|\1|' | LC_ALL=C sort
}

# refused CODE MESSAGE NAME ARGUMENT...: exit status CODE, MESSAGE on standard error, nothing left behind
refused()
{
    local code=$1 message=$2 name=$3 rc before after
    shift 3
    before=$(find "$work" -not -name log | sort)
    phantom "$@"
    rc=$?
    after=$(find "$work" -not -name log | sort)
    [ "$rc" = "$code" ] && grep -qF -- "$message" "$work/log" && [ "$before" = "$after" ]
    report $? "$name"
}

phantom --output "$work/a" --shape 32 --scale 0.17 --seed 7
report $? "a cohort is written"
[ ! -e "$work/a.tmp" ] && [ -z "$(find "$work/a" -name '*.tmp')" ]
report $? "no temporary file stays"

counts=$(sites "$work/a" | uniq -c | awk '{printf "%s:%s ", $2, $1}')
[ "$counts" = "2013:6 CBICA:15 TCIA01:4 TCIA02:6 TCIA03:3 TCIA04:2 TCIA05:2 TCIA06:2 TCIA08:3 TCIA09:2 TCIA10:6 \
TCIA12:2 TCIA13:3 " ]
report $? "subjects per site follow the paper, at least 2"
[ "$(sites "$work/a/LGG" | uniq | tr '\n' ' ')" = "2013 TCIA09 TCIA10 TCIA12 TCIA13 " ] &&
    [ "$(sites "$work/a/HGG" | grep -c 2013) $(sites "$work/a/LGG" | grep -c 2013)" = "4 2" ]
report $? "sites are HGG or LGG, 2013 is both, two to one"
for folder in "$work"/a/*GG/*; do
    name=$(basename "$folder")
    for kind in t1 t1ce t2 flair seg; do
        [ -s "$folder/${name}_$kind.nii.gz" ] || echo "$folder $kind"
    done
    [ "$(find "$folder" -type f | wc -l)" = 5 ] || echo "$folder"
done > "$work/log"
[ ! -s "$work/log" ]
report $? "every folder holds t1, t1ce, t2, flair and seg"

OMP_NUM_THREADS=3 phantom --output "$work/b" --shape 32 --scale 0.17 --seed 7 &&
    [ "$(sums "$work/a")" = "$(sums "$work/b")" ]
report $? "same seed, other number of threads: same bytes"
phantom --output "$work/c" --shape 32 --scale 0.001 --seed 7 &&
    (cd "$work/c" && find . -type f -exec cmp {} "$work/a/{}" \;) > "$work/log" 2>&1 && [ ! -s "$work/log" ]
report $? "a subject does not depend on how many there are"
image=HGG/Brats18_CBICA_P0000_1/Brats18_CBICA_P0000_1_t1.nii.gz
phantom --output "$work/d" --shape 32 --scale 0.001 --seed 8 && [ -s "$work/d/$image" ] &&
    ! cmp -s "$work/c/$image" "$work/d/$image"
report $? "another seed gives other images"
phantom --output "$work/e" --shape 32x40x48 --scale 0.001
report $? "an oblong cohort is written"

"$python" - "$work" > "$work/log" 2>&1 <<'PYTHON'
import pathlib, sys
import nibabel, numpy
work = pathlib.Path(sys.argv[1])
for folder in sorted(work.glob("a/*GG/*")):
    images = [nibabel.load(folder / f"{folder.name}_{m}.nii.gz") for m in ("t1", "t1ce", "t2", "flair")]
    seg = nibabel.load(folder / f"{folder.name}_seg.nii.gz")
    labels = numpy.asarray(seg.dataobj)
    assert seg.get_data_dtype() == numpy.uint8 and set(numpy.unique(labels)) <= {0, 1, 2, 4}, folder
    assert ({1, 2, 4} if folder.parent.name == "HGG" else {1, 2}) <= set(numpy.unique(labels)), folder
    for image in images:
        data = numpy.asarray(image.dataobj)
        assert image.get_data_dtype() == numpy.int16 and data.shape == (32, 32, 32) and data.min() == 0, folder
        assert numpy.array_equal(data == 0, numpy.asarray(images[0].dataobj) == 0), folder  # one brain
        assert not data[0].any() and not data[:, 0].any() and not data[..., -1].any(), folder
        assert 0.1 < (data > 0).mean() < 0.4 and (data[labels > 0] > 0).all(), folder
        assert numpy.array_equal(image.affine, seg.affine), folder
oblong = nibabel.load(next(work.glob("e/HGG/*/*_t1.nii.gz")))
assert oblong.shape == (48, 40, 32), oblong.shape
assert numpy.allclose(oblong.affine, [[-5, 0, 0, 0], [0, -6, 0, 234], [0, 0, 155 / 32, 0], [0, 0, 0, 1]]), oblong.affine
PYTHON
report $? "types, labels, background and affine are those of BraTS"

refused 1 "is not empty" "a folder with something in it" --output "$work/a" --shape 32 --scale 0.001
mkdir "$work/f.tmp"
refused 1 "interrupted run" "what an interrupted run left" --output "$work/f" --shape 32 --scale 0.001
refused 1 "cannot make the folder" "a folder below a file" --output "$work/log/x" --shape 32 --scale 0.001
refused 2 "31" "a shape below 32" --output "$work/x" --shape 31
refused 2 "241" "a shape above 240" --output "$work/x" --shape 155x241x240
refused 2 "shape" "two extents" --output "$work/x" --shape 32x32
refused 2 "scale" "scale 0" --output "$work/x" --scale 0
refused 2 "scale" "a negative scale" --output "$work/x" --scale -1
refused 2 "scale" "scale nan" --output "$work/x" --scale nan
refused 2 "the limit is 10000" "too many subjects" --output "$work/x" --scale 36
refused 2 "seed" "a negative seed" --output "$work/x" --seed -1
refused 2 "output" "no output folder"
refused 2 "sede" "an unknown option" --output "$work/x" --sede 3

# A full disk: a file size limit stands in for it, and SIGXFSZ is ignored so that write() reports.
before=$(find "$work" -not -name log | sort)
(trap '' XFSZ; ulimit -f 8; "$bin/brats-phantom" --output "$work/g" --shape 64 --scale 0.001) > "$work/pipe" 2>&1
rc=$?
mv "$work/pipe" "$work/log"
[ "$rc" = 1 ] && grep -q "cannot write" "$work/log" && [ "$before" = "$(find "$work" -not -name log | sort)" ]
report $? "a write that fails leaves nothing"
exit $failed
