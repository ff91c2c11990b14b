#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The demonstration: a phantom cohort of the paper's 13 sites, the centralised baseline, federated runs that share 100,
# 40 and 10 % of the model, and two privacy budgets; two one-thread runs side by side; a figure and a table at the end.
#   jobs/demo.sh BINDIR PYTHON
# FB_DEMO_DIR (results/demo) takes the output; FB_DEMO_SEED (1) and FB_DEMO_ROUNDS (30) change the runs.
set -euo pipefail
bin=${1:-bin} python=${2:-/usr/bin/python3}
out=${FB_DEMO_DIR:-results/demo} seed=${FB_DEMO_SEED:-1} rounds=${FB_DEMO_ROUNDS:-30}
start=$SECONDS
if [ -e "$out" ]; then
    earlier=$out.$(date -r "$out" +%Y%m%dT%H%M%S)
    mv "$out" "$earlier"
    echo "demo: earlier results moved to $earlier"
fi
mkdir -p "$out"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

echo "demo: phantom cohort of 13 sites"
"$bin/brats-phantom" --output "$out/cohort" --shape 32x32x32 --scale 0.25 --seed "$seed"
"$bin/brats-split" --input "$out/cohort" --output "$out/shards" --seed "$seed"

# The clip and the threshold go with the learning rate: a weight moves by at most about that per step of Adam.
common=(--data.shards="$out/shards" --run.seed="$seed" --data.patch=32x32x32
        --train.learning_rate=3e-3 --train.epochs=2 --federation.rounds="$rounds")
svt=(--sharing.select=svt --sharing.fraction=0.1 --privacy.mechanism=laplace --privacy.clip=3e-3
     --privacy.threshold=1e-3 --privacy.epsilon_threshold=300 --privacy.answer_budget=per-parameter)

# run NAME OPTION...: one run, its lines marked with its name
run()
{
    local name=$1
    shift
    if ! "$bin/fedbrats" train "${common[@]}" --run.output="$out/$name" "$@" 2>&1 > /dev/null |
        sed -u "s/^/[$name] /" >&2; then
        echo "demo: run $name failed; see $out/$name/log.txt" >&2
        return 1
    fi
}

# Two at a time: the k-th worker takes every second run, so that both end together.
worker_a()
{
    run centralised --run.mode=centralised
    run share_040 --sharing.select=topk --sharing.fraction=0.4
    run svt_weak_noise "${svt[@]}" --privacy.epsilon_answer=14
}
worker_b()
{
    run share_100
    run share_010 --sharing.select=topk --sharing.fraction=0.1
    run svt_strong_noise "${svt[@]}" --privacy.epsilon_answer=0.1
}
worker_a & a=$!
worker_b & b=$!
failed=0
wait $a || failed=1
wait $b || failed=1
[ $failed = 0 ] || exit 1

"$python" analysis/plot_convergence.py "$out"/*/results.h5 --output "$out/convergence.png"
echo "demo: $out/convergence.png and convergence.pdf; runs in $out/; $((SECONDS - start)) s"
