#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The study "Is sharing less more private?" (docs/study-privacy.md): Dice at equal total epsilon for shares of 100, 40
# and 10 % and several mechanisms, patient-level training from scratch and from a public model, no training at all.
#   jobs/study-privacy.sh BINDIR PYTHON
# FB_STUDY_DIR (results/study-privacy) takes the output; FB_STUDY_SEEDS ("1 2"), FB_STUDY_ROUNDS (8), FB_STUDY_SCALE
# (0.25, of the paper's cohort) and FB_STUDY_ARMS (a pattern, all) size it; FB_STUDY_WORKERS (2) one-thread runs go side
# by side. Run it again after an interruption: what is complete is kept. Other ROUNDS or SCALE need another folder.
set -euo pipefail
bin=${1:-bin} python=${2:-/usr/bin/python3}
out=${FB_STUDY_DIR:-results/study-privacy} seeds=${FB_STUDY_SEEDS:-1 2} rounds=${FB_STUDY_ROUNDS:-8}
scale=${FB_STUDY_SCALE:-0.25} arms=${FB_STUDY_ARMS:-.} workers=${FB_STUDY_WORKERS:-2}
clip_norm=0.4 # of all of dW / steps; of a share it is sqrt(share) times that: half the hospitals are clipped
start=$SECONDS
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# arm, shares, total epsilons, options; CLIP_NORM (clip_norm sqrt(share)) and PUBLIC (the public model) are filled in.
# The roles of svt's and exponential's budgets are so that selection and answers get about half of epsilon_total each.
table()
{
    local update="--sharing.select=random --privacy.mechanism=gaussian --privacy.clip_norm=CLIP_NORM"
    local laplace="--privacy.mechanism=laplace --privacy.clip=5e-3"
    local patient="--privacy.mechanism=dpsgd --privacy.clip_norm=0.1 --train.epochs=1 --train.learning_rate=3e-2"
    local svt="--sharing.select=svt $laplace --privacy.threshold=2e-3 --privacy.epsilon_answer=300"
    local exponential="--sharing.select=exponential $laplace --privacy.epsilon_query=1"
    local initial="--train.learning_rate=1e-12 --federation.rounds=1"
    local public="--train.init_from=PUBLIC --train.trainable=.*norm.*|conv_final.*"
    cat << TABLE
no-training          1        inf                   $initial
no-training-public   1        inf                   $initial --train.init_from=PUBLIC
no-noise             1,0.4,0.1 inf                  --sharing.select=random
no-noise-public      1        inf                   $public --train.learning_rate=3e-2
central              1,0.4,0.1 8,64,1e3,1e4,1e6     $update --privacy.trust=central
secagg               1        1e3                   $update --privacy.trust=secagg
local                1,0.4,0.1 1e3,1e4,1e6          $update
svt                  0.1      1e4,1e6,1e8           $svt
exponential          0.1      1e4,1e6,1e8           $exponential
patient              1        1,8,64,1e3            $patient
patient-public       1        1,8,64,1e3            $patient $public
TABLE
}

# seed, name and options of every run, a line each
runs()
{
    local seed arm shares epsilons options share epsilon clip filled
    for seed in $seeds; do
        while read -r arm shares epsilons options; do
            [[ $arm =~ $arms ]] || continue
            for share in ${shares//,/ }; do
                clip=$(awk -v c="$clip_norm" -v q="$share" 'BEGIN { printf "%.6g", c * sqrt(q) }')
                filled=${options//CLIP_NORM/$clip}
                filled=${filled//PUBLIC/$out/public-$seed/model.safetensors}
                [[ $options != *--sharing.select* ]] || filled="$filled --sharing.fraction=$share"
                [[ $options = *--federation.rounds* ]] || filled="$filled --federation.rounds=$rounds"
                for epsilon in ${epsilons//,/ }; do
                    if [ "$epsilon" = inf ]; then
                        echo "$seed $arm-$share-inf-$seed $filled"
                    else
                        echo "$seed $arm-$share-$epsilon-$seed $filled --privacy.epsilon_total=$epsilon"
                    fi
                done
            done
        done < <(table)
    done
}

# one SEED NAME OPTION...: one run, unless it is complete; one that was interrupted goes on
one()
{
    local seed=$1 name=$2 began=$SECONDS
    shift 2
    [ ! -e "$out/$name/result.txt" ] || return 0
    if ! "$bin/fedbrats" train "$ini" --data.shards="$out/shards-$seed" --run.seed="$seed" --run.output="$out/$name" \
        --run.verbosity=0 "$@" > /dev/null 2> "$out/$name.err"; then
        echo "study: $name failed: $(tail -n 1 "$out/$name.err")" >&2
        return 1
    fi
    rm -f "$out/$name.err"
    echo "study: $name: Dice $(sed -n 's/.*dice_mean=\([^ ]*\).*/\1/p' "$out/$name/result.txt"), $((SECONDS - began)) s"
}

# prepare SEED: its cohort, and the model from other, public, cases: low grade only, so that there is something to learn
prepare()
{
    local seed=$1 work=$out/work-$1
    if [ ! -e "$out/shards-$seed" ]; then
        rm -rf "$work"
        "$bin/brats-phantom" --output "$work" --shape 32x32x32 --scale "$scale" --seed "$seed" > /dev/null
        "$bin/brats-split" --input "$work" --output "$out/shards-$seed" --seed "$seed" > /dev/null
    fi
    if [[ $list = *"$out/public-$seed/"* ]] && [ ! -e "$out/public-$seed/result.txt" ]; then
        rm -rf "$work" "$out/public-shards-$seed"
        "$bin/brats-phantom" --output "$work" --shape 32x32x32 --scale 0.001 --seed $((1000 + seed)) > /dev/null
        rm -rf "$work/HGG"
        "$bin/brats-split" --input "$work" --output "$out/public-shards-$seed" --seed "$seed" > /dev/null
        "$bin/fedbrats" train "$ini" --data.shards="$out/public-shards-$seed" --run.seed="$seed" \
            --run.output="$out/public-$seed" --run.mode=centralised --federation.weighting=samples \
            --federation.rounds=4 --train.epochs=20 --train.learning_rate=5e-3 --eval.on=none --run.verbosity=0 \
            > /dev/null
    fi
    rm -rf "$work"
}

ini=$(dirname "$0")/examples/study-privacy.ini
mkdir -p "$out"
export -f one
export bin out ini
list=$(runs)
trap 'tail -n 3 "$out/prepare.log" >&2' EXIT
for seed in $seeds; do
    prepare "$seed" 2> "$out/prepare.log" # not in a condition, where the shell would not stop at the first failure
done
trap - EXIT
failed=0
xargs -P "$workers" -d '\n' -n 1 bash -c 'set -f; one $1' study <<< "$list" || failed=1 # set -f: .* is no file name

results=() # of the complete runs
while read -r _ name _; do
    [ ! -e "$out/$name/result.txt" ] || results+=("$out/$name/results.h5")
done <<< "$list"
"$python" "$(dirname "$0")/../analysis/plot_tradeoff.py" "${results[@]}" --last 3 --output "$out/tradeoff.png" |
    tee "$out/table.txt"
echo "study: $(wc -l <<< "$list") runs in $out/; $((SECONDS - start)) s"
exit $failed
