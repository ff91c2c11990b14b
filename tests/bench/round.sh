#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What privacy costs of a round: one round of the paper's federation (13 hospitals, 242 train cases, 2 epochs, 1,176,843
# parameters) on phantoms of 64^3, all hospitals in one process, without evaluation. The privacy path is selection,
# clip, noise, encoding, and message and ledger on disk; its part of the round is to stay below 2 %. Ten minutes on
# quiet cores. OMP_NUM_THREADS: of the training, all by default; the privacy path has one.
#   tests/bench/round.sh BINDIR PYTHON [SCALE]     SCALE (1): of the paper's cohort
set -eu
bin=${1:-bin} python=${2:-/usr/bin/python3} scale=${3:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$bin/brats-phantom" --output "$dir/cohort" --shape 64x64x64 --scale "$scale" --seed 1 > "$dir/log" 2>&1
"$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --validation-fraction 0 --seed 1 > "$dir/log" 2>&1
rm -r "$dir/cohort"

round() # NAME OPTION...
{
    local name=$1
    shift
    "$bin/fedbrats" train --data.shards="$dir/shards" --run.output="$dir/run" --data.patch=64x64x64 --train.epochs=2 \
        --run.threads="${OMP_NUM_THREADS:-$(nproc)}" --federation.rounds=1 --eval.on=none --run.verbosity=0 "$@" \
        > "$dir/log" 2>&1 ||
        { cat "$dir/log" >&2; exit 1; }
    "$python" - "$dir/run/results.h5" "$name" << 'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as run:
    privacy, whole = run["diagnostics/privacy_seconds"][()].sum(), float(run["round_seconds"][()].squeeze())
    steps = int(run["steps"][()].sum())
print(f"{sys.argv[2]:<28} {steps:>6} {whole:>9.1f} {1e3 * privacy / 13:>12.1f} {100 * privacy / whole:>8.2f}")
PY
    rm -r "$dir/run"
}

grep -m 1 'model name' /proc/cpuinfo
echo "mechanism                     steps  round, s  privacy, ms   of it, %"
laplace="--privacy.mechanism=laplace --privacy.clip=1e-4 --privacy.answer_budget=per-parameter"
gaussian="--privacy.mechanism=gaussian --privacy.clip_norm=0.1 --privacy.noise_multiplier=1"
# shellcheck disable=SC2086
{
    round "none, 100 %"
    round "svt + laplace, 10 %" $laplace --sharing.select=svt --sharing.fraction=0.1
    round "svt + laplace, 40 %" $laplace --sharing.select=svt --sharing.fraction=0.4
    round "exponential + laplace, 10 %" $laplace --sharing.select=exponential --sharing.fraction=0.1 \
        --privacy.epsilon_query=1e5
    round "all + laplace, 100 %" $laplace
    round "random + gaussian, 10 %" $gaussian --sharing.select=random --sharing.fraction=0.1
    round "all + gaussian, 100 %" $gaussian
}
