#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Patient-level privacy and trained subsets from outside: what is frozen stays, what noise and batch decide, what is
# refused. That ranks change no bit is in cli_bits.sh.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.04 --seed 3 > /dev/null 2> "$dir/err" &&
    "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/err" ||
    { report 1 "cohort"; echo "1..$number"; exit 1; }

train() # NAME OPTION...
{
    local name=$1
    shift
    timeout 120 "$bin/fedbrats" train --data.shards="$dir/shards" --run.output="$dir/$name" --data.patch=16x16x16 \
        --model.blocks_down=1,1 --model.blocks_up=1 --train.learning_rate=1e-3 --federation.rounds=1 --eval.on=none \
        "$@" > "$dir/$name.result" 2> "$dir/err"
}
noise=(--privacy.mechanism=dpsgd --privacy.clip_norm=0.5 --privacy.noise_multiplier=0.8)
dpsgd=("${noise[@]}" --privacy.key=seed)

# changed RUN: the tensors of its model that are not those of the run "start"
changed()
{
    "$FB_PYTHON" - "$dir/start/model.safetensors" "$dir/$1/model.safetensors" << 'PY'
import json, sys
def tensors(path):
    data = open(path, "rb").read()
    length = int.from_bytes(data[:8], "little")
    head, body = json.loads(data[8:8 + length]), data[8 + length:]
    return {name: body[slice(*t["data_offsets"])] for name, t in head.items() if name != "__metadata__"}
before, after = map(tensors, sys.argv[1:])
print(" ".join(sorted(name for name in before if before[name] != after[name])))
PY
}

# field RUN KEY: of its RESULT line
field()
{
    sed -n "s/.* $2=\([^ ]*\).*/\1/p" "$dir/$1.result"
}

train start
report $? "a model to start from"
head='conv_final.0.bias conv_final.0.weight conv_final.2.conv.bias conv_final.2.conv.weight'
from="--train.init_from=$dir/start/model.safetensors"
for optimizer in adam sgd; do
    train "frozen-$optimizer" "$from" --train.trainable='conv_final.*' --train.optimizer=$optimizer \
        --train.weight_decay=0.1 && [ "$(changed "frozen-$optimizer")" = "$head" ]
    report $? "$optimizer: what is trained changes, what is frozen keeps its bits"
    train "frozen-dpsgd-$optimizer" "$from" --train.trainable='conv_final.*' --train.optimizer=$optimizer \
        --train.weight_decay=0.1 "${dpsgd[@]}" --sharing.select=topk --sharing.fraction=0.9 &&
        [ "$(changed "frozen-dpsgd-$optimizer")" = "$head" ] && grep -q '43 of 25355 parameters' "$dir/err"
    report $? "$optimizer with dpsgd and topk: the same, and the plan says how many are trained"
done

train one "$from" "${dpsgd[@]}" && train again "$from" "${dpsgd[@]}" && [ -n "$(field one model_sha256)" ] &&
    [ "$(field one model_sha256)" = "$(field again model_sha256)" ]
report $? "keys from the seed: the same run again"
train fresh "$from" "${noise[@]}" && [ "$(field fresh model_sha256)" != "$(field one model_sha256)" ]
report $? "keys of the system: other noise"
[ "$(field one unit)" = patient ] && [ "$(field one formal_privacy)" = false ] &&
    [ "$(field one epsilon_total)" != none ]
report $? "the unit is a patient"
data=$(sha256sum "$dir/shards/SHA256SUMS" | cut -d ' ' -f 1)
grep -q "$data" "$dir/one/identity.txt" && grep -qa "$data" "$dir/start/model.safetensors" &&
    ! grep -qa "$data" "$dir/one/model.safetensors" "$dir/one/results.h5"
report $? "no hash of the patients leaves with a private model, or with its results"

# Steps of a round: round(epochs / rate), for the two patients of CBICA as for the one of the others.
train batch "$from" "${dpsgd[@]}" --train.batch=0.5 --train.epochs=3 --run.verbosity=2
rc=$?
[ $rc = 0 ] && grep -q 'CBICA: 12 steps' "$dir/err" && grep -q 'TCIA01: 6 steps' "$dir/err"
report $? "Poisson batches: the number of steps is public"
train alone "$from" "${dpsgd[@]}" --run.mode=local && [ -s "$dir/alone/model_hospital_12.safetensors" ] &&
    [ "$(cat "$dir"/alone/ledger/hospital_*.txt | wc -l)" = 26 ] && [ ! -e "$dir/alone/outbox" ]
report $? "each hospital alone, with its noise and its ledger"
train average "$from" "${dpsgd[@]}" --train.momentum=average
report $? "averaged moments are post-processing"

# refused NAME TEXT OPTION...: a usage error that holds TEXT
refused()
{
    local name=$1 text=$2 rc
    shift 2
    train new "$@"
    rc=$?
    [ $rc = 2 ] && grep -q -- "$text" "$dir/err"
    report $? "refused: $name"
    rm -rf "$dir/new"
}
refused "pooled patients" "run.mode = centralised" "${dpsgd[@]}" --run.mode=centralised
refused "no clip" "privacy.clip_norm" --privacy.mechanism=dpsgd --privacy.noise_multiplier=1
refused "no noise" "privacy.noise_multiplier" --privacy.mechanism=dpsgd --privacy.clip_norm=1
refused "a batch without privacy" "train.batch" --train.batch=4
refused "too many steps" "train.batch" "${dpsgd[@]}" --train.batch=1e-9
refused "a name that matches nothing" "convInit.conv.weight" --train.trainable=conv_final
refused "an expression that cannot be read" "regular expression" --train.trainable='(conv'
echo "1..$number"
exit $failed
