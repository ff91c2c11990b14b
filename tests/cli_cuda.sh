#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.device and model.precision from outside: the program on the emulated GPU (tests/emulator), and the one that was
# built, where there may be no GPU. That a run on the GPU learns what one on the CPU learns, has the same bits whenever
# it is repeated and for any number of ranks, and that what cannot be is refused.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN
emulated=$FB_BUILD/emulated/fedbrats
unset FB_EMULATED_DEVICES CUDA_VISIBLE_DEVICES
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.01 --seed 3 > /dev/null 2> "$dir/err" &&
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
rounds = 1
[eval]
on = none
[privacy]
key = seed
[run]
threads = 1
INI
launcher=()
program=$emulated
train() # NAME OPTION...
{
    local name=$1
    shift
    timeout 120 "${launcher[@]}" "$program" train "$dir/small.ini" --data.shards="$dir/shards" \
        --run.output="$dir/$name" "$@" > "$dir/$name.result" 2> "$dir/err"
}

# field RUN KEY: of its RESULT line
field()
{
    sed -n "s/.* $2=\([^ ]*\).*/\1/p" "$dir/$1.result"
}

# same RUN RUN: the same model
same()
{
    [ -n "$(field "$1" model_sha256)" ] && [ "$(field "$1" model_sha256)" = "$(field "$2" model_sha256)" ]
}

# near RUN RUN BOUND BOUND BOUND: how far losses, Dice and, as root mean square, parameters of two runs may be apart
near()
{
    "$FB_PYTHON" - "$dir" "$@" 2>> "$dir/err" << 'PY'
import json, sys, h5py, numpy
folder, first, second, of_loss, of_dice, of_model = sys.argv[1:]
def read(name):
    with h5py.File(f"{folder}/{name}/results.h5") as run:
        loss, dice = (run[key][()].astype(float).ravel() for key in ("diagnostics/train_loss", "dice_mean"))
    data = open(f"{folder}/{name}/model.safetensors", "rb").read()
    return loss, dice, numpy.frombuffer(data[8 + int.from_bytes(data[:8], "little"):], "<f4").astype(float)
for what, a, b, bound in zip(("loss", "dice", "model"), read(first), read(second), (of_loss, of_dice, of_model)):
    known = ~numpy.isnan(b)
    assert (numpy.isnan(a) == ~known).all() and (known.any() or what == "dice"), (what, a, b)
    apart = numpy.abs(a - b)[known].max(initial=0.0) if what != "model" else numpy.sqrt(numpy.mean((a - b) ** 2))
    assert apart <= float(bound), f"{what}: {apart} apart, {bound} allowed"
PY
}
cuda=--run.device=cuda f32=--model.precision=f32

# --- the same learning as on the CPU, with an evaluation whose window is larger than the patch before the second round
train cpu --run.device=cpu --federation.rounds=2 --eval.on=test
report $? "a run on the CPU, by the same program"
train f32 $cuda $f32 --federation.rounds=2 --eval.on=test && near f32 cpu 1e-5 1e-3 2e-5
report $? "f32 on the GPU learns the same"
grep -q "device: rank 0 on .*: GPU 0 of 1, emulated GPU, bus 0000:01:00.0, .* GiB free, float32" "$dir/err"
report $? "the log names the rank's GPU and precision"
"$FB_PYTHON" - "$dir/f32/results.h5" "$dir/cpu/results.h5" 2>> "$dir/err" << 'PY'
import sys, h5py
def operations(path):
    with h5py.File(path) as run:
        return run["provenance"].attrs["operations"].decode()
gpu, cpu = map(operations, sys.argv[1:])
assert gpu.endswith("emulated GPU (sm_90), float32") and "oneDNN" in cpu, (gpu, cpu)
PY
report $? "results.h5 names the device"
train bf16 $cuda && grep -q "bfloat16" "$dir/err"
report $? "bf16 is what auto takes on a GPU"

# --- bits
train again $cuda
same again bf16
report $? "a repeated run has the same bits"
train one-f32 $cuda $f32 && ! same one-f32 bf16
report $? "another precision has not"
train one-case $cuda $f32 --data.device_cache_bytes=1 && same one-case one-f32
report $? "so has one that keeps a single case on the GPU"
launcher=(mpirun -n 2)
train ranks $cuda && same ranks bf16 && [ "$(grep -c 'device: rank [01] on .*: GPU 0 of 1' "$dir/err")" = 2 ]
report $? "two ranks that share a GPU have the same bits"
FB_EMULATED_DEVICES=2 train devices $cuda && same devices bf16 &&
    grep -q 'rank 0 on .*: GPU 0 of 2, emulated GPU, bus 0000:01' "$dir/err" &&
    grep -q 'rank 1 on .*: GPU 1 of 2, emulated GPU, bus 0000:02' "$dir/err"
report $? "so have two with a GPU each, in turn"
launcher=()

# --- what there is not
# refused NAME TEXT OPTION...: a usage error that holds TEXT, and nothing begun
refused()
{
    local name=$1 text=$2 rc
    shift 2
    train new "$@"
    rc=$?
    [ $rc = 2 ] && grep -q -- "$text" "$dir/err" && [ ! -e "$dir/new" ]
    report $? "refused: $name"
    rm -rf "$dir/new"
}
refused "bf16 on the CPU" "model.precision = bf16: the CPU computes in f32" --run.device=cpu --model.precision=bf16
refused "the reference on the GPU" "run.ops = ref is for the CPU" $cuda --run.ops=ref
export FB_EMULATED_DEVICES=0
refused "a GPU where there is none" "run.device = cuda: .*no CUDA-capable device.*run.device = cpu" $cuda
refused "bf16 where auto finds no GPU" "model.precision = bf16: the CPU computes in f32" --model.precision=bf16
train none --federation.rounds=2 --eval.on=test && same none cpu &&
    grep -q "device: CPU (.*no CUDA-capable device" "$dir/err"
report $? "auto without a GPU computes on the CPU, and says why"
unset FB_EMULATED_DEVICES
program=$bin/fedbrats
CUDA_VISIBLE_DEVICES= train built --federation.rounds=2 --eval.on=test && same built cpu &&
    grep -q "device: CPU (.*CUDA" "$dir/err"
report $? "so does the program that was built, on a host without a GPU"
export CUDA_VISIBLE_DEVICES=
refused "a GPU, of the program that was built" "run.device = cuda: .*CUDA" $cuda
unset CUDA_VISIBLE_DEVICES
program=$emulated

# --- privacy: what is charged does not depend on where gradients are computed
# charges RUN: its ledgers without the hashes of the messages
charges()
{
    cut -d ' ' -f 1-5 "$dir/$1"/ledger/hospital_*.txt
}

# charged RUN RUN: 13 ledgers of two lines each, the same charges and the same epsilon
charged()
{
    [ "$(charges "$1" | wc -l)" = 26 ] && [ "$(charges "$1")" = "$(charges "$2")" ] &&
        [ "$(field "$1" epsilon_total)" = "$(field "$2" epsilon_total)" ] && [ "$(field "$1" epsilon_total)" != none ]
}
laplace=(--privacy.mechanism=laplace --privacy.clip=1e-3 --privacy.epsilon_answer=5
         --privacy.answer_budget=per-parameter --sharing.select=random --sharing.fraction=0.1)
train laplace-cuda $cuda $f32 "${laplace[@]}" && train laplace-cpu --run.device=cpu "${laplace[@]}" &&
    charged laplace-cuda laplace-cpu
report $? "laplace: the ledgers charge what they charge on the CPU"
dpsgd=(--privacy.mechanism=dpsgd --privacy.clip_norm=0.5 --privacy.noise_multiplier=0.8)
train dpsgd-cuda $cuda $f32 "${dpsgd[@]}" --train.optimizer=sgd &&
    train dpsgd-cpu --run.device=cpu "${dpsgd[@]}" --train.optimizer=sgd &&
    charged dpsgd-cuda dpsgd-cpu && near dpsgd-cuda dpsgd-cpu 1e-5 1 1e-6
report $? "dpsgd: so do they, and the model is the CPU's but for roundings"
echo "1..$number"
exit $failed
