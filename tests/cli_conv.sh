#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.conv from outside, by the program on the emulated GPU, which has no cuDNN: what is chosen, written and recorded,
# that a resumed run takes what its conv-plans.txt says, and that one which does not fit is refused.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"

unset FB_EMULATED_DEVICES CUDA_VISIBLE_DEVICES
"$FB_BIN/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.01 --seed 3 > /dev/null 2> "$dir/err" &&
    "$FB_BIN/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/err" ||
    { report 1 "cohort"; echo "1..$number"; exit 1; }

cat > "$dir/small.ini" << 'INI'
[run]
conv = auto
[data]
patch = 16x16x16
[model]
blocks_down = 1,1
blocks_up = 1
[federation]
rounds = 1
[sharing]
select = random
fraction = 0.1
[eval]
on = none
[privacy]
mechanism = laplace
clip = 1e-3
key = seed
INI
launcher=()
train() # NAME OPTION...
{
    local name=$1
    shift
    timeout 120 "${launcher[@]}" "$FB_BUILD/emulated/fedbrats" train "$dir/small.ini" --data.shards="$dir/shards" \
        --run.output="$dir/$name" "$@" > "$dir/$name.result" 2> "$dir/err"
}

model() # RUN: the hash of its model
{
    sed -n 's/.* model_sha256=\([^ ]*\).*/\1/p' "$dir/$1.result"
}

# refused NAME TEXT RC OPTION...: of a run in the folder "new"
refused()
{
    local name=$1 text=$2 wanted=$3 rc
    shift 3
    train new "$@"
    rc=$?
    [ $rc = "$wanted" ] && grep -q -- "$text" "$dir/err"
    report $? "refused: $name"
}

cuda=--run.device=cuda
title="convolutions of fedbrats, format 1, bf16"
train auto $cuda && grep -q "convolutions: our own kernels (this build has no cuDNN" "$dir/err"
report $? "auto says why it takes our own kernels"
[ "$(cat "$dir/auto/conv-plans.txt")" = "$title" ]
report $? "conv-plans.txt then lists nothing"
sum=$(sha256sum < "$dir/auto/conv-plans.txt")
grep -qx "convolutions: ${sum%% *}" "$dir/auto/identity.txt"
report $? "its SHA-256 is in identity.txt"
"$FB_PYTHON" - "$dir/auto/results.h5" "$title" 2>> "$dir/err" << 'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as run:
    found = run["provenance"].attrs["convolutions"].decode()
assert found == sys.argv[2] + "\n", found
PY
report $? "and the table in results.h5"
launcher=(mpirun -n 2)
train own $cuda --run.conv=own && [ -n "$(model own)" ] && [ "$(model own)" = "$(model auto)" ] &&
    ! grep -q "convolutions:" "$dir/err"
report $? "own gives the same bits, on two ranks"
launcher=()
train cpu --run.device=cpu && [ ! -e "$dir/cpu/conv-plans.txt" ] && ! grep -q convolutions "$dir/cpu/identity.txt"
report $? "on the CPU there is no choice"
refused "cudnn on the CPU" "run.conv = cudnn: this rank computes on the CPU" 2 --run.device=cpu --run.conv=cudnn
refused "cudnn where the build has none" "run.conv = cudnn: this build has no cuDNN" 2 $cuda --run.conv=cudnn
[ ! -e "$dir/new" ]
report $? "and nothing was begun"

# --- resumed
resume=($cuda --federation.rounds=2)
again() # a folder "new" to resume from
{
    rm -rf "$dir/new"
    cp -r "$dir/auto" "$dir/new"
}
train whole $cuda --federation.rounds=2
again && train new "${resume[@]}" && [ -n "$(model whole)" ] && [ "$(model new)" = "$(model whole)" ]
report $? "a resumed run ends with the bits of one that was not interrupted"
again && rm "$dir/new/conv-plans.txt"
refused "a missing table" "conv-plans.txt is missing" 2 "${resume[@]}"
again && echo "conv 1 x 2" >> "$dir/new/conv-plans.txt"
refused "a line that is none" 'conv-plans.txt: line 2 of the table of convolutions, "conv 1 x 2"' 1 "${resume[@]}"
again && echo "$title" | sed s/bf16/f32/ > "$dir/new/conv-plans.txt"
refused "another precision's table" "line 1 of the table" 1 "${resume[@]}"
line="conv 16 x 16 x 16, 8 to 8 channels, kernel 3, stride 1, forward"
again && echo "$line: own" >> "$dir/new/conv-plans.txt"
refused "another table" "the run began with \"convolutions: ${sum%% *}\"" 2 "${resume[@]}"
again && echo "$line: bf16 cudnn 9.19.0 engine 3 knobs - workspace 0" >> "$dir/new/conv-plans.txt"
refused "plans of a cuDNN that is not here" "has plans of cuDNN: this build has no cuDNN" 1 "${resume[@]}"
launcher=(mpirun -n 2)
refused "the same on two ranks" "has plans of cuDNN: this build has no cuDNN" 1 "${resume[@]}"
echo "1..$number"
exit $failed
