#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fedbrats train from outside: what a run leaves behind, what it refuses and how, and that no rank hangs.
set -u
dir=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$mounted"; rm -rf "$dir"' EXIT
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.001 --seed 3 > /dev/null 2> "$dir/err" &&
    "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/err" ||
    { report 1 "cohort"; echo "1..$number"; exit 1; }

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
train() # OPTION...: a small run without MPI
{
    timeout 120 "$bin/fedbrats" train "$dir/small.ini" "$@" > "$dir/out" 2> "$dir/err"
}
shards=--data.shards=$dir/shards

# refused NAME STATUS TEXT COMMAND...: the exit status, one error line that holds TEXT, no results under their name
refused()
{
    local name=$1 wanted=$2 text=$3 rc
    shift 3
    "$@"
    rc=$?
    [ $rc = "$wanted" ] && grep -q -- "$text" "$dir/err" && [ ! -e "$dir/new/model.safetensors" ]
    report $? "$name: status $wanted, names \"$text\""
    rm -rf "$dir/new"
}

# --- a good run
train $shards --run.output="$dir/run" --run.checkpoint_every=1 && [ -s "$dir/run/used.ini" ] &&
    [ -s "$dir/run/log.txt" ] && [ -s "$dir/run/results.h5" ] && [ -s "$dir/run/model.safetensors" ] &&
    [ -s "$dir/run/checkpoint/0000002/server.state" ] &&
    [ -z "$(find "$dir/run" -name '*.tmp*')" ]
report $? "a run leaves its options, log, results, model and checkpoint"
keys='rounds dice_mean dice_tc dice_wt dice_et epsilon_total delta unit accountant formal_privacy bytes_sent'
keys="$keys model_sha256 results"
ok=0
for key in $keys; do
    grep -q "^RESULT .*$key=[^ ]" "$dir/out" || ok=1
done
[ "$(grep -c '^RESULT' "$dir/out")" = 1 ] && [ $ok = 0 ]
report $? "one RESULT line with every key"
sha=$(sed -n 's/.*model_sha256=\([0-9a-f]*\).*/\1/p' "$dir/out")
cp "$dir/run/used.ini" "$dir/again.ini"
timeout 120 "$bin/fedbrats" train "$dir/again.ini" --run.output="$dir/again" > "$dir/out" 2> "$dir/err" &&
    grep -q "model_sha256=$sha" "$dir/out"
report $? "used.ini repeats the run, bit for bit"
train $shards --run.output="$dir/from" --train.init_from="$dir/run/model.safetensors" --federation.rounds=1
report $? "a run starts from another's model"
[ "$("$bin/fedbrats" --version | head -c 8)" = fedbrats ] && "$bin/fedbrats" --help | grep -q -- '--sharing.fraction' &&
    "$bin/fedbrats" info | grep -q oneDNN
report $? "--version, --help and info"

(ulimit -Sn 24 && train $shards --run.output="$dir/files" --federation.rounds=1 --eval.on=none \
    --privacy.mechanism=laplace \
    --privacy.clip=1e-3)
report $? "13 shards and ledgers with a soft limit of 24 open files"

# --- configuration
out=--run.output=$dir/new
refused "no command" 2 "Usage" eval '"$bin/fedbrats" 2> "$dir/err"'
refused "unknown option" 2 'did you mean "federation.rounds"' train $shards $out --federation.round=3
refused "missing options" 2 '--data.shards' train $out
refused "output in use" 2 "run.resume = never" train $shards --run.output="$dir/run" --run.resume=never
refused "unwritable output" 1 "/proc/nowhere" train $shards --run.output=/proc/nowhere/run
refused "all with a fraction" 2 "sharing.fraction" train $shards $out --sharing.fraction=0.5
refused "noise without a clip" 2 "privacy.clip" train $shards $out --privacy.mechanism=laplace
refused "threshold above the clip" 2 "privacy.threshold" train $shards $out --sharing.select=svt \
    --sharing.fraction=0.1 --privacy.mechanism=laplace --privacy.clip=1e-3 --privacy.threshold=1
refused "averaged moments with a guarantee" 2 "train.momentum" train $shards $out --train.momentum=average \
    --privacy.mechanism=laplace --privacy.clip=1e-3
refused "sharing in another mode" 2 "run.mode" train $shards $out --run.mode=centralised --sharing.select=topk
refused "participation in another mode" 2 "run.mode" train $shards $out --run.mode=local --federation.participation=0.5
refused "patch larger than a case" 2 "data.patch" train $shards $out --data.patch=48x16x16
refused "missing key file" 1 "$dir/key" train $shards $out --privacy.key="$dir/key" --privacy.mechanism=laplace \
    --privacy.clip=1e-3
refused "divergence in centralised training" 1 "parameter 0 became" train $shards $out --run.mode=centralised \
    --train.optimizer=sgd --train.learning_rate=10 --train.weight_decay=1 --federation.rounds=30 --eval.on=none
refused "missing initial model" 1 "$dir/none" train $shards $out --train.init_from="$dir/none"
head -c 1000 "$dir/run/model.safetensors" > "$dir/cut.safetensors"
refused "truncated initial model" 1 "cut.safetensors" train $shards $out --train.init_from="$dir/cut.safetensors"

# --- what a failed round may have cost: noise beyond the server's range is seen after the ledgers were charged
train $shards $out --privacy.mechanism=laplace --privacy.clip=500000 --privacy.epsilon_answer=2e-5 \
    --privacy.clip_answers=false --privacy.delta=1e-12
[ $? = 1 ] && grep -q 'fixed-point' "$dir/err" && [ -s "$dir/new/ledger/hospital_00.txt" ] &&
    "$FB_PYTHON" - "$dir/new/results.h5" << 'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as run:
    spent = run.attrs["epsilon_spent"].decode()
    assert run.attrs["status"] == b"failed" and spent.startswith("at most "), dict(run.attrs)
    assert 0.0 < float(spent.removeprefix("at most ")) <= 2.001e-5, spent
PY
report $? "a failed run counts the round that failed"
rm -rf "$dir/new"

# --- data
train --data.shards="$dir/none" $out
[ $? = 1 ] && grep -q "$dir/none: there is no such folder" "$dir/err" && [ ! -e "$dir/new" ]
report $? "no shard folder: status 1, named, and the output not begun"
cp -r "$dir/shards" "$dir/bad"
rm "$dir/bad/hospital_03.h5"
refused "missing shard" 1 "hospital_03.h5" train --data.shards="$dir/bad" $out
head -c 20000 "$dir/shards/hospital_03.h5" > "$dir/bad/hospital_03.h5"
refused "truncated shard" 1 "hospital_03.h5" train --data.shards="$dir/bad" $out
cp "$dir/shards/hospital_03.h5" "$dir/bad/hospital_03.h5"
printf '\377' | dd of="$dir/bad/hospital_03.h5" bs=1 seek=9000 conv=notrunc 2> /dev/null
refused "damaged shard" 1 "hospital_03.h5" train --data.shards="$dir/bad" $out
cp "$dir/shards/hospital_03.h5" "$dir/bad/hospital_03.h5"
sed -i '/,TCIA02,.*,train,/d' "$dir/bad/manifest.csv"
(cd "$dir/bad" && sha256sum manifest.csv hospital_*.h5 test.h5 > SHA256SUMS)
refused "a hospital without cases" 1 "TCIA02" train --data.shards="$dir/bad" $out

# --- ranks: every rank ends, and soon
mpi() # RANKS OPTION...
{
    local ranks=$1
    shift
    timeout 60 mpirun -n "$ranks" "$bin/fedbrats" train "$dir/small.ini" "$@" > "$dir/out" 2> "$dir/err"
}
refused "more ranks than hospitals" 2 "at most 13 ranks" mpi 14 $shards $out
cp "$dir/shards/"* "$dir/bad/"
head -c 20000 "$dir/shards/hospital_12.h5" > "$dir/bad/hospital_12.h5"
refused "a damaged shard that only one rank needs" 1 "rank [0-3]: hospital 12" mpi 4 --data.shards="$dir/bad" $out

other_data() # two ranks that find different shards under one name
{
    local ini=$dir/small.ini
    mkdir -p "$dir/node0" "$dir/node1"
    ln -sfn "$dir/shards" "$dir/node0/shards"
    ln -sfn "$dir/bad" "$dir/node1/shards"
    timeout 60 mpirun -n 1 -wdir "$dir/node0" "$bin/fedbrats" train "$ini" --data.shards=shards $out : \
        -n 1 -wdir "$dir/node1" "$bin/fedbrats" train "$ini" --data.shards=shards $out > "$dir/out" 2> "$dir/err"
}
sed -i '/,TCIA13,.*,validation,/d; /,TCIA13,.*,train,/d' "$dir/bad/manifest.csv"
(cd "$dir/bad" && rm hospital_12.h5 && sha256sum manifest.csv hospital_*.h5 test.h5 > SHA256SUMS)
refused "ranks with different shards" 1 "differs from rank 0 in its data" other_data

# --- out of memory on one rank while the others wait for it: its last allocation is for the scores or for the reports
last_fails() # RANK OPTION...
{
    local rank=$1
    shift
    set -- $shards $out --federation.rounds=1 --run.checkpoint_every=0 "$@" # a checkpoint would come after it
    rm -f "$dir/calls"
    export LD_PRELOAD=$dir/alloc_fail.so FB_FAULT_RANK=$rank
    FB_FAULT_LIST=$dir/calls mpi 2 "$@" && rm -rf "$dir/new" &&
        FB_FAULT_NUMBER=$(grep -c aligned_alloc "$dir/calls") mpi 2 "$@"
    local rc=$?
    unset LD_PRELOAD FB_FAULT_RANK
    return $rc
}
if [ -n "${FB_SAN:-}" ]; then
    for _ in 1 2; do
        number=$((number + 1))
        echo "ok $number - out of memory on one rank # SKIP the sanitizer has its own allocator"
    done
else
    ${CC:-cc} -shared -fPIC -fno-builtin -DONLY_CORE_MEM tests/alloc_fail.c -ldl -o "$dir/alloc_fail.so"
    refused "out of memory while scores are gathered" 1 "case counts: out of memory" last_fails 1
    refused "out of memory while reports are gathered" 1 "reports: out of memory" last_fails 1 --eval.on=none
fi

# --- kill -9: the committed rounds stay readable
"$bin/fedbrats" train "$dir/small.ini" $shards $out --federation.rounds=1000 > "$dir/out" 2> "$dir/err" &
for _ in $(seq 300); do
    grep -q 'round 3/' "$dir/err" 2> /dev/null && break
    sleep 0.1
done
kill -9 $!
wait 2> /dev/null
"$FB_PYTHON" - "$dir/new/results.h5" 2>> "$dir/err" << 'PY'
import sys, numpy, xarray
run = xarray.open_dataset(sys.argv[1], engine="h5netcdf")
done = int(run["rounds_committed"].squeeze())
dice = run["dice_mean"].squeeze().values
assert done >= 3 and run.attrs["status"] == "running", (done, run.attrs["status"])
assert numpy.isfinite(dice[:done]).all() and numpy.isnan(dice[done + 1:]).all(), dice[:done + 2]
PY
report $? "kill -9 leaves the committed rounds readable"
rm -rf "$dir/new"

# --- disk full
mkdir "$dir/small"
if mount -t tmpfs -o size=1m tmpfs "$dir/small" 2> /dev/null; then
    mounted=$dir/small
    train $shards --run.output="$dir/small/run" --model.filters=32 --federation.rounds=1
    [ $? = 1 ] && grep -q "small/run" "$dir/err" && [ ! -e "$dir/small/run/model.safetensors" ]
    report $? "a full disk is an error that names the file; nothing half-written under a final name"
else
    number=$((number + 1))
    echo "ok $number - full disk # SKIP needs the right to mount a tmpfs"
fi
echo "1..$number"
exit $failed
