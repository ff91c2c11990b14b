#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# brats-split from end to end on a tiny cohort: what it writes, and that every bad input ends with status 1, a message
# that names it, and nothing under the final name.
set -u
split=${FB_BIN:?}/brats-split
python=${FB_PYTHON:-/usr/bin/python3}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'umount "$work/small" 2> /dev/null; chmod -R u+w "$work"; rm -rf "$work"' EXIT
count=0 failures=0

# check NAME COMMAND...: one TAP line
check()
{
    local name=$1
    shift
    count=$((count + 1))
    if "$@" > "$work/check.log" 2>&1; then
        echo "ok $count - $name"
    else
        failures=$((failures + 1))
        echo "not ok $count - $name"
        sed 's/^/# /' "$work/check.log" "$work/log"
    fi
}

skip()
{
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

# run OPTIONS...: output in $work/log
run()
{
    "$split" "$@" > "$work/log" 2>&1
}

# refuses STATUS TEXT OPTIONS...: ends with STATUS, says TEXT, leaves neither $work/bad nor $work/bad.tmp
refuses()
{
    local expected=$1 text=$2 status
    shift 2
    rm -rf "$work/bad" "$work/bad.tmp"
    run "$@"
    status=$?
    [ "$status" = "$expected" ] || { echo "status $status"; return 1; }
    grep -qF -- "$text" "$work/log" || { echo "no \"$text\""; return 1; }
    [ ! -e "$work/bad" ] && [ ! -e "$work/bad.tmp" ]
}

# bad_case TEXT COMMAND...: the cohort, changed by COMMAND in one case's folder, is refused
bad_case()
{
    local text=$1
    shift
    rm -rf "$work/changed"
    cp -r "$work/in" "$work/changed"
    (cd "$work/changed/HGG/$subject" && "$@") || return 1
    refuses 1 "$text" --input "$work/changed" --output "$work/bad"
}

# edit FILE EXPRESSION: replaces the voxels `a` of a NIfTI file (the affine is `m`)
edit()
{
    "$python" - "$1" "$2" << 'END'
import sys
import nibabel
import numpy
image = nibabel.load(sys.argv[1])
space = {"a": numpy.asarray(image.dataobj).copy(), "m": image.affine.copy(), "numpy": numpy}
exec(sys.argv[2], space)
nibabel.save(nibabel.Nifti1Image(space["a"], space["m"]), sys.argv[1])
END
}

"$python" "$here/tiny_cohort.py" "$work/in" 2013:HGG:4 2013:LGG:2 CBICA:HGG:7 TCIA05:HGG:3 TCIA10:LGG:2 || exit 1
subject=Brats18_2013_1_1
file=${subject}_t2.nii.gz

# --- what it writes ---

check "splits a cohort" run --input "$work/in" --output "$work/out/"
check "leaves nothing temporary" test ! -e "$work/out.tmp"
check "writes the files of the contract" diff <(ls "$work/out") <(printf '%s\n' SHA256SUMS hospital_0{0,1,2,3}.h5 \
    manifest.csv test.h5)
check "checksums hold" bash -c "cd '$work/out' && sha256sum --strict -c SHA256SUMS"
check "prints the summary" grep -Eq '^all +14 +4 +12 +2 +4$' "$work/log"
check "h5py reads what nibabel wrote" "$python" "$here/compare_shards.py" "$work/in" "$work/out"
check "every subject is in one split" diff <(tail -n +2 "$work/out/manifest.csv" | cut -d, -f1 | sort) \
    <(ls "$work"/in/HGG "$work"/in/LGG | grep Brats | sort)
check "every hospital has a train case" diff <(printf '%s\n' 2013 CBICA TCIA05 TCIA10) \
    <(grep ,train, "$work/out/manifest.csv" | cut -d, -f4 | uniq)

mkdir "$work/again" "$work/copy"
for folder in "$work"/in/?GG; do # the same cases, made in another order
    mkdir "$work/copy/$(basename "$folder")"
    find "$folder" -mindepth 1 -maxdepth 1 | sort -r | xargs cp -r -t "$work/copy/$(basename "$folder")"
done
check "accepts an empty folder" run --input "$work/copy" --output "$work/again"
check "gives the same bytes again" cmp "$work/out/SHA256SUMS" "$work/again/SHA256SUMS"
check "takes another seed" run --input "$work/in" --output "$work/seed" --seed 2
check "draws differently with it" bash -c "! cmp -s '$work/out/manifest.csv' '$work/seed/manifest.csv'"
find "$work/copy" -name '*_seg.nii.gz' -o -name '*_t1.nii.gz' | xargs gunzip
check "reads .nii beside .nii.gz" run --input "$work/copy" --output "$work/plain"
check "with the same result" cmp "$work/out/SHA256SUMS" "$work/plain/SHA256SUMS"

# The smallest phantom: 2 cases at each of the paper's sites.
"${FB_BIN}/brats-phantom" --output "$work/phantom" --shape 32 --scale 0.001 > "$work/log" 2>&1
check "splits a phantom" run --input "$work/phantom" --output "$work/phantom.shards"
check "into 13 hospitals, a train case each" grep -Eq '^all +17 +9 +13 +6 +7$' "$work/log"

# FeTS: no grade folders, hospitals from a table with CRLF
mkdir "$work/flat"
cp -r "$work"/in/HGG/Brats18_CBICA_* "$work/flat"
ls "$work/flat" | awk 'BEGIN { printf "Partition_ID,Subject_ID\r\n" } { printf "%d,%s\r\n", NR % 2 + 9, $0 }' \
    > "$work/fets.csv"
check "takes a FeTS table" run --input "$work/flat" --output "$work/fets" --partition "$work/fets.csv"
check "with its hospitals" diff <(tail -n +2 "$work/fets/manifest.csv" | cut -d, -f4 | sort -un) <(printf '9\n10\n')
awk -F, -v OFS=, 'NR == 1 { print "subject_id,site,grade,split" }
    NR > 1 { print $1, $2, $3, NR % 4 == 1 ? "test" : "train" }' "$work/out/manifest.csv" > "$work/given.csv"
check "takes a table with splits" run --input "$work/in" --output "$work/given" --partition "$work/given.csv" \
    --validation-fraction 0
check "and keeps them" diff <(tail -n +2 "$work/given.csv" | cut -d, -f1,4 | sort) \
    <(tail -n +2 "$work/given/manifest.csv" | cut -d, -f1,5 | sort)

# --- what it refuses ---

check "missing modality" bad_case "${subject}_t2.nii.gz is missing" rm "$file"
check "unexpected file" bad_case "unexpected notes.txt" touch notes.txt
check "modality twice" bad_case "both t2.nii and t2.nii.gz" gunzip -k "$file"
check "truncated file" bad_case "$file" truncate -s -100 "$file"
check "empty file" bad_case "$file" truncate -s 0 "$file"
check "other shape" bad_case "$file: shape 24x20x15, but t1ce has 24x20x16" edit "$file" 'a = a[1:]'
check "other affine" bad_case "$file: affine[0][3]" edit "$file" 'm[0, 3] += 0.01'
check "empty brain" bad_case "$file: empty" edit "$file" 'a[:] = 0'
check "label 3" bad_case "label 3 at voxel" edit "${subject}_seg.nii.gz" 'a[a == 4] = 3'
check "label 1.5" bad_case "label 1.5 at voxel" edit "${subject}_seg.nii.gz" 'a = numpy.where(a == 1, 1.5, a)'
check "not a number" bad_case "$file" edit "$file" 'a = numpy.where(a == a.max(), numpy.nan, a).astype("f4")'
check "unexpected folder" bad_case "unexpected folder beside HGG and LGG" mkdir ../../XGG
check "site not in the name" bad_case "other: its name does not tell the site" mkdir ../other
check "two bad cases are both named" bash -c "rm -rf '$work/two'; cp -r '$work/in' '$work/two'
    rm '$work'/two/HGG/Brats18_2013_0_1/*_t1.nii.gz; truncate -s -9 '$work'/two/LGG/Brats18_TCIA10_17_1/*_seg.nii.gz
    '$split' --input '$work/two' --output '$work/bad' > '$work/log' 2>&1; [ \$? = 1 ] && [ ! -e '$work/bad' ] &&
    grep -q 2013_0_1 '$work/log' && grep -q TCIA10_17_1 '$work/log' && grep -q '2 of 18 cases are unusable' '$work/log'"

mkdir "$work/full"
touch "$work/full/precious"
check "existing output" refuses 1 "not an empty folder" --input "$work/in" --output "$work/full"
check "stays as it is" test "$(ls "$work/full")" = precious
mkdir "$work/busy.tmp"
check "output of a running brats-split" refuses 1 "busy.tmp: exists" --input "$work/in" --output "$work/busy"
check "missing cohort" refuses 1 "$work/none: cannot open" --input "$work/none" --output "$work/bad"
check "unwritable output" refuses 1 "/proc/bad.tmp: cannot make" --input "$work/in" --output /proc/bad
check "unknown subject in the table" refuses 1 "fets.csv:2: Brats18_CBICA" --input "$work/in/LGG" --output "$work/bad" \
    --partition "$work/fets.csv"
check "missing option" refuses 2 "--output" --input "$work/in"
check "fraction out of range" refuses 2 "test-fraction" --input "$work/in" --output "$work/bad" --test-fraction 1.5
check "fractions that leave nothing" refuses 2 "exceeds" --input "$work/in" --output "$work/bad" --test-fraction 0.5 \
    --validation-fraction 0.5

# --- patients who are there twice ---

# twin CASE NAME: CASE of the cohort once more, as NAME, in $work/twins
twin()
{
    local from to=$work/twins/HGG/$2 file
    from=$(ls -d "$work"/in/?GG/"$1")
    rm -rf "$work/twins"
    cp -r "$work/in" "$work/twins"
    mkdir "$to"
    for file in "$from"/*; do
        cp "$file" "$to/$2_${file##*_}"
    done
}

# given CASE SPLIT NAME SPLIT: $work/twins.csv, with these splits and train for all others
given()
{
    (cd "$work/twins" && ls -d ?GG/*) | awk -F '[/_]' -v OFS=, -v a="$1" -v as="$2" -v b="$3" -v bs="$4" '
        BEGIN { print "subject_id,site,split" }
        { name = substr($0, 5); print name, $3, name == a ? as : name == b ? bs : "train" }' > "$work/twins.csv"
}

# warns TEXT OPTIONS...: splits $work/twins, with one warning, which says TEXT
warns()
{
    local text=$1
    shift
    rm -rf "$work/twins.out"
    run --input "$work/twins" --output "$work/twins.out" --partition "$work/twins.csv" \
        --validation-fraction 0 "$@" || return 1
    [ "$(grep -c "are one patient" "$work/log")" = 1 ] && grep -qF -- "$text" "$work/log"
}

check "a cohort without duplicates has no warning" bash -c "! '$split' --input '$work/in' --output '$work/once' 2>&1 |
    grep -i warning"
twin "$subject" Brats18_CBICA_X_1
given "$subject" train Brats18_CBICA_X_1 train
check "equal images in two hospitals" warns \
    "$subject (hospital 2013, train) and Brats18_CBICA_X_1 (hospital CBICA, train) are one patient by their images"
edit "$work/twins/HGG/Brats18_CBICA_X_1/Brats18_CBICA_X_1_seg.nii.gz" 'a[a == 4] = 1'
check "also with another label" warns "the sum of both hospitals' epsilons"
check "refused when asked to" refuses 1 "1 pairs of cases are one patient" --input "$work/twins" --output "$work/bad" \
    --partition "$work/twins.csv" --on-duplicate=fail
given "$subject" train Brats18_CBICA_X_1 test
check "train and test: refused" refuses 1 "1 test cases are the same patients" --input "$work/twins" \
    --output "$work/bad" --partition "$work/twins.csv"
check "or warned of" warns "not unseen" --on-duplicate=warn
given "$subject" test Brats18_CBICA_X_1 test
check "both in the test shard" warns "the test score counts the patient twice"
edit "$work/twins/HGG/Brats18_CBICA_X_1/Brats18_CBICA_X_1_t2.nii.gz" 'a[8, 8, 8] += 1'
given "$subject" train Brats18_CBICA_X_1 train
check "one voxel makes another patient" bash -c "rm -rf '$work/twins.out'; '$split' --input '$work/twins' \
    --output '$work/twins.out' --partition '$work/twins.csv' > '$work/log' 2>&1 && ! grep 'one patient' '$work/log'"
twin "$subject" "BraTS19_${subject#Brats18_}"
edit "$work/twins/HGG/BraTS19_2013_1_1/BraTS19_${file#Brats18_}" 'a[8, 8, 8] += 1'
given "$subject" train BraTS19_2013_1_1 train
check "equal names of two years in one hospital" warns "by their names: the patient counts twice in training"
twin "$subject" BraTS19_2013_11_1
edit "$work/twins/HGG/BraTS19_2013_11_1/BraTS19_2013_11_1_t1.nii.gz" 'a[8, 8, 8] += 1'
given "$subject" train BraTS19_2013_11_1 train
check "other names are other patients" bash -c "rm -rf '$work/twins.out'; '$split' --input '$work/twins' \
    --output '$work/twins.out' --partition '$work/twins.csv' > '$work/log' 2>&1 && ! grep 'one patient' '$work/log'"

# HDF5 fails in a different place at each size.
disk_full()
{
    local kib status
    for kib in 20 60 90 120 160 200 300; do
        mount -t tmpfs -o size=${kib}k none "$work/small" || return 1
        refuses 1 "No space left on device" --input "$work/in" --output "$work/small/out" &&
            [ -z "$(ls -A "$work/small")" ]
        status=$?
        umount "$work/small"
        [ "$status" = 0 ] || { echo "at $kib KiB"; return 1; }
    done
}
mkdir "$work/small"
if mount -t tmpfs none "$work/small" 2> /dev/null; then
    umount "$work/small"
    check "disk full at seven places" disk_full
else
    skip "disk full at seven places" "cannot mount a tmpfs (not root)"
fi

check "help" run --help
check "version" run --version
echo "1..$count"
[ "$failures" = 0 ]
