#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fedbrats train --dry-run from outside: what it finds, that it finds all of it, what it prints, that nothing is left
# behind, and that the memory it tells is what a run takes. FB_LONG=1: the time too, on an idle machine.
set -u
dir=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$mounted"; rm -rf "$dir"' EXIT
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN
cohort() # NAME SHAPE
{
    "$bin/brats-phantom" --output "$dir/cohort-$1" --shape "$2" --scale 0.001 --seed 3 > /dev/null 2> "$dir/err" &&
        "$bin/brats-split" --input "$dir/cohort-$1" --output "$dir/$1" --seed 3 > /dev/null 2>> "$dir/err" &&
        rm -r "$dir/cohort-$1" || { report 1 "cohort"; echo "1..$number"; exit 1; }
}
cohort shards 32x32x32

cat > "$dir/small.ini" << 'INI'
[data]
patch = 16x16x16
[model]
blocks_down = 1,1
blocks_up = 1
[train]
learning_rate = 1e-3
[federation]
rounds = 2
INI
shards=--data.shards=$dir/shards
out=--run.output=$dir/new/run

# dry OPTION...: a dry run without MPI; its standard output is "$dir/out"
dry()
{
    timeout 60 "$bin/fedbrats" train "$dir/small.ini" --dry-run "$@" > "$dir/out" 2> "$dir/err"
}
# value KEY: of the DRY-RUN line, which is the last one
value()
{
    tail -n 1 "$dir/out" | sed -n "s/^DRY-RUN .*\b$1=\([^ ]*\).*/\1/p"
}
# problems STATUS COUNT TEXT...: the exit status, the number of problems, and that each TEXT is in a problem's line
problems()
{
    local wanted=$2 ok=0
    [ "$1" = "$rc" ] && [ "$(value problems)" = "$wanted" ] &&
        [ "$(grep -c ' problem [0-9]*: ' "$dir/err")" = "$wanted" ] || ok=1
    shift 2
    for text in "$@"; do
        grep ' problem [0-9]*: ' "$dir/err" | grep -q -- "$text" || ok=1
    done
    [ ! -e "$dir/new" ] || ok=1
    return $ok
}
everything() # a list of all files with their contents
{
    find "$dir/shards" "$dir/small.ini" -type f -exec sha256sum {} + | sort
    ls -a "$dir"
}

# --- nothing to find
touch "$dir/out" "$dir/err" "$dir/before"
everything > "$dir/before"
dry $shards $out --run.verbosity=2
rc=$?
[ $rc = 0 ] && problems 0 0 && everything | cmp - "$dir/before"
report $? "a run that would start: status 0, nothing is left behind"
ok=0
for key in rounds ranks seconds_per_round seconds core_hours gpu_hours memory_bytes disk_bytes problems; do
    [[ $(value $key) =~ ^[0-9.e+-]+$ ]] || ok=1
done
[ $ok = 0 ] && [ "$(value rounds)" = 2 ] && [ "$(value ranks)" = 1 ] && [ "$(wc -l < "$dir/out")" = 1 ]
report $? "the last line has every key, with a number"
grep -q 'rank 0: 13 train cases, 13 steps a round: 2013 CBICA' "$dir/err" &&
    grep -q 'hospital_03.h5 (TCIA02): 1 train' "$dir/err" && grep -q 'level 1: 8x8x8, 16 channels' "$dir/err" &&
    grep -q 'memory by rank' "$dir/err" && grep -q 'disk: ' "$dir/err" && grep -q 'estimate: a round takes' "$dir/err"
report $? "plan, activations by level, memory, disk and time are shown"
sed -n 's/^[^ ]* \(rank 0: .*\|data: .*\|model: .*\|training: .*\|  level .*\)/\1/p' "$dir/err" > "$dir/plan"
timeout 60 "$bin/fedbrats" train "$dir/small.ini" $shards --run.output="$dir/run" --run.verbosity=2 > /dev/null \
    2> "$dir/err"
sed -n 's/^[^ ]* \(rank 0: .*\|data: .*\|model: .*\|training: .*\|  level .*\)/\1/p' "$dir/err" | cmp - "$dir/plan" &&
    [ "$(wc -l < "$dir/plan")" = 6 ]
report $? "the plan is the one that the run prints"

dry $shards $out --dry-run
[ $? = 2 ] && grep -q 'given twice' "$dir/err" && ! "$bin/fedbrats" plan --dry-run 2> "$dir/err" &&
    grep -q 'unknown option "dry-run"' "$dir/err" && "$bin/fedbrats" --help | grep -q -- '--dry-run'
report $? "--dry-run is an option of train, once"

timeout 60 "$bin/fedbrats" train "$dir/small.ini" $shards $out --dry-run=13 > "$dir/out" 2> "$dir/err"
rc=$?
problems 0 0 && [ "$(value ranks)" = 13 ] && grep -q 'rank 12: 1 train cases' "$dir/err" &&
    [ "$(grep -c 'rank [0-9]*: [0-9 +]* = [0-9]*$' "$dir/err")" = 13 ]
report $? "a plan for 13 ranks, without MPI"

dry $shards $out --eval.on=validation # the first hospital has no validation case
rc=$?
problems 0 0 && ! grep -q 'evaluation 0 s' "$dir/err" && dry $shards $out --eval.on=none &&
    grep -q 'evaluation 0 s' "$dir/err"
report $? "an evaluation is measured where a rank has a case for it"

# --- what is wrong, one at a time
timeout 60 "$bin/fedbrats" train "$dir/small.ini" $shards $out --dry-run=14 > "$dir/out" 2> "$dir/err"
rc=$?
problems 2 1 '14 ranks but only 13 hospitals'
report $? "more ranks than hospitals: status 2"
dry $shards --run.output="$dir/run" --run.resume=never
rc=$?
problems 2 1 "run.resume = never, but a run was begun in run.output = $dir/run" && [ "$(value seconds)" != nan ]
report $? "an output in use: status 2, and the rest is measured"
dry $shards --run.output="$dir/run" --run.verbosity=2
rc=$?
problems 0 0 && grep -q 'holds a run that is complete' "$dir/err"
report $? "an output whose run is complete: it says so"
dry $shards --run.output=/dev/null/run
rc=$?
problems 2 1 "run.output = /dev/null/run: Not a directory"
report $? "an output below a file: status 2"
dry $shards --run.output=/proc/nowhere/run
rc=$?
problems 1 1 "run.output = /proc/nowhere/run cannot be made"
report $? "an output where nothing can be written: status 1"
dry --data.shards="$dir/none" $out
rc=$?
problems 1 1 "$dir/none: there is no such folder"
report $? "no shards: status 1"
dry $shards $out --sharing.fraction=0.5
rc=$?
problems 2 1 'sharing.fraction'
report $? "options that do not go together: status 2, with the run's own message"
dry $shards $out --train.init_from="$dir/none.safetensors" --privacy.mechanism=laplace --privacy.clip=1e-3
rc=$?
problems 1 1 'none.safetensors'
report $? "a missing initial model"
dry $shards $out --privacy.mechanism=laplace --privacy.clip=1e-3 --privacy.stop_at_epsilon=0.01
rc=$?
problems 2 1 'the first round alone spends'
report $? "a budget that the first round exceeds"
(ulimit -v 800000 && dry $shards $out --model.filters=128)
rc=$?
problems 1 1 'memory: rank 0 needs .*ulimit -v' && [ "$(value memory_bytes)" -gt 800000000 ]
report $? "too little memory: an address space of 800 MB"

mkdir "$dir/small"
if mount -t tmpfs -o size=4m tmpfs "$dir/small" 2> /dev/null; then
    mounted=$dir/small
    dry $shards --run.output="$dir/small/run" --federation.rounds=20 --privacy.mechanism=laplace --privacy.clip=1e-3 \
        --privacy.delta=0
    rc=$?
    problems 1 1 'disk: the run needs' && [ -z "$(ls -A "$dir/small")" ]
    report $? "too little disk: the messages of 20 rounds on 4 MB"
else
    number=$((number + 1))
    echo "ok $number - too little disk # SKIP needs the right to mount a tmpfs"
fi

# --- several at once
cp -r "$dir/shards" "$dir/bad"
printf '\377' | dd of="$dir/bad/hospital_03.h5" bs=1 seek=9000 conv=notrunc 2> /dev/null
"$FB_PYTHON" - "$dir/bad" 2> "$dir/err" << 'PY'
import hashlib, sys
import h5py
folder = sys.argv[1]
with h5py.File(folder + "/hospital_05.h5", "r+") as file:
    case = next(iter(file["cases"].values()))
    case["label"][3, 4, 5] = 3
with h5py.File(folder + "/hospital_07.h5", "r+") as file:
    case = next(iter(file["cases"].values()))
    image = case["image"][...].astype("f4")
    image[1, 2, 3, 2] = float("nan")
    chunks = case["image"].chunks
    del case["image"]
    case.create_dataset("image", data=image, chunks=chunks, compression="gzip")
sums = []
for line in open(folder + "/SHA256SUMS"):
    name = line.split()[1]
    if name in ("hospital_05.h5", "hospital_07.h5"):
        line = hashlib.sha256(open(folder + "/" + name, "rb").read()).hexdigest() + "  " + name + "\n"
    sums.append(line)
open(folder + "/SHA256SUMS", "w").writelines(sums)
PY
rm "$dir/bad/hospital_11.h5"
all=('hospital_03.h5: damaged' 'hospital_05.h5: Brats18_TCIA04_.*label 3' 'hospital_07.h5: Brats18_TCIA06_.*t2 image'
    'hospital_11.h5: the shard of hospital TCIA12 is missing' 'run.resume = never' 'none.safetensors')
dry --data.shards="$dir/bad" --run.output="$dir/run" --train.init_from="$dir/none.safetensors" --run.resume=never
rc=$?
problems 2 6 "${all[@]}"
report $? "six things wrong at once: all are listed"

# --- under MPI
mpi() # RANKS OPTION...
{
    local ranks=$1
    shift
    timeout 60 mpirun --oversubscribe -n "$ranks" "$bin/fedbrats" train "$dir/small.ini" --dry-run "$@" \
        > "$dir/out" 2> "$dir/err"
}
mpi 2 $shards $out
rc=$?
problems 0 0 && [ "$(value ranks)" = 2 ] && [ "$(wc -l < "$dir/out")" = 1 ] &&
    [ "$(grep -c 'rank [01] on .*: [0-9 +]* = ' "$dir/err")" = 2 ] && [ "$(grep -c 'rank [01]: .* steps a round' \
        "$dir/err")" = 2 ]
report $? "2 ranks: the plan and the memory of both"
mpi 2 --data.shards="$dir/bad" --run.output="$dir/run" --train.init_from="$dir/none.safetensors" --run.resume=never
rc=$?
problems 2 6 "${all[@]}"
report $? "2 ranks: the same six things"

# --- the memory that is told, against a run's
# peak NAME LIMIT COMMAND...: the peak of resident memory (VmHWM, as wait4 tells it) against memory_bytes
peak()
{
    local name=$1
    shift
    timeout 120 "$bin/fedbrats" train "$dir/small.ini" "$@" $out --dry-run > "$dir/out" 2> "$dir/err" &&
        "$FB_PYTHON" - "$(value memory_bytes)" "$bin/fedbrats" train "$dir/small.ini" "$@" --run.output="$dir/peak" \
            > "$dir/peak.out" 2>> "$dir/err" << 'PY'
import resource, subprocess, sys
told = float(sys.argv[1])
subprocess.run(sys.argv[2:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
taken = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024.0
print(f"told {told / 2**20:.0f} MiB, taken {taken / 2**20:.0f} MiB, {100.0 * (told / taken - 1.0):+.1f} %")
sys.exit(not 0.85 <= told / taken <= 1.15)
PY
    report $? "memory of $name within 15 %: $(cat "$dir/peak.out")"
    rm -rf "$dir/peak"
}
cohort larger 64x64x48
larger="--data.shards=$dir/larger --federation.rounds=2"
peak "dense updates" $larger --data.patch=32x32x32 --model.blocks_down=1,2,2,4 --model.blocks_up=1,1,1
peak "sparse updates, a small cache" $larger --sharing.select=topk --sharing.fraction=0.01 --data.cache_bytes=4000000 \
    --data.patch=64x64x48

# --- the time that is told, against a run's
if [ -n "${FB_LONG:-}" ]; then
    timed() # NAME OPTION...: within a factor of 1.5
    {
        local name=$1 told
        shift
        timeout 300 "$bin/fedbrats" train "$dir/small.ini" "$@" $out --dry-run > "$dir/out" 2> "$dir/err"
        told=$(value seconds_per_round)
        timeout 300 "$bin/fedbrats" train "$dir/small.ini" "$@" --run.output="$dir/timed" > /dev/null 2> "$dir/err" &&
            "$FB_PYTHON" - "$dir/timed/results.h5" "$told" > "$dir/timed.out" 2>> "$dir/err" << 'PY'
import sys
import h5py
with h5py.File(sys.argv[1]) as run:
    rounds = run["round_seconds"][...].ravel()
told, taken = float(sys.argv[2]), sorted(rounds)[len(rounds) // 2]
print(f"told {told:.3g} s, taken {taken:.3g} s")
sys.exit(not taken / 1.5 <= told <= taken * 1.5)
PY
        report $? "time of $name within a factor of 1.5: $(cat "$dir/timed.out")"
        rm -rf "$dir/timed"
    }
    larger="--data.shards=$dir/larger --federation.rounds=5"
    timed "a round" $larger --data.patch=48x48x48 --model.blocks_down=1,2,2,4 --model.blocks_up=1,1,1
    timed "a round of SVT" $larger --data.patch=48x48x48 --run.preset=svt --privacy.delta=0
    timed "a round of dpsgd" $larger --data.patch=32x32x32 --privacy.mechanism=dpsgd --privacy.clip_norm=1 \
        --privacy.noise_multiplier=1
fi
dry $shards $out --sharing.select=public --sharing.fraction=0.1
grep -q 'checkpoints 0.7' "$dir/err" # three of a model, as large a change, and less than 40 KiB
report $? "checkpoints hold the last update where the coordinates are public"

echo "1..$number"
exit $failed
