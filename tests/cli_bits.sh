#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The same bits - model, metrics, bytes, ledgers - for any number of ranks, with ranks delayed at random, for every
# select x mechanism, momentum and weighting that exists, at one thread and at two. And: sharing everything by topk is
# dense FedAvg; a changed configuration changes the bits (so that the comparison can fail).
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
exec 2> "$dir/stderr"
logs=("$dir/stderr")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN
# CBICA has twice the cases of the others, so that the first hospital is not always played by rank 0.
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.04 --seed 3 > /dev/null &&
    "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null ||
    { report 1 "cohort"; exit 1; }
${CC:-cc} -shared -fPIC $(pkg-config --cflags ompi-c 2> /dev/null) tests/mpi_delay.c -o "$dir/delay.so" \
    $(pkg-config --libs ompi-c 2> /dev/null || echo -lmpi) || report 1 "delay library"

# What must not depend on the ranks: the RESULT line but for paths and times, the ledgers, every number in the results.
fingerprint() # RUN
{
    sed 's/overhead_fraction=[^ ]*//; s/results=.*//' "$1.result"
    cat "$1"/ledger/* 2> /dev/null
    "$FB_PYTHON" - "$1/results.h5" << 'PY'
import sys, hashlib, h5py
with h5py.File(sys.argv[1]) as run:
    for group in (run, run["diagnostics"]):
        for name in sorted(group):
            if isinstance(group[name], h5py.Dataset) and "seconds" not in name:
                value = group[name][()]
                data = value.tobytes() if value.dtype.kind in "iuf" else repr(value.tolist()).encode()
                print(name, hashlib.sha256(data).hexdigest())
PY
}

# train NAME RANKS THREADS OPTION...: one run; RANKS 0 means no MPI at all
train()
{
    local name=$1 ranks=$2 threads=$3 launcher=()
    shift 3
    [ "$ranks" = 0 ] || launcher=(mpirun -n "$ranks" -x LD_PRELOAD="$dir/delay.so" -x FB_DELAY_SEED="$ranks")
    [ -z "${FB_SAN:-}" ] || [ "$ranks" = 0 ] || launcher=(mpirun -n "$ranks")
    OMP_NUM_THREADS=$threads timeout 120 "${launcher[@]}" "$bin/fedbrats" train --data.shards="$dir/shards" \
        --run.output="$dir/$name" --run.seed=5 --run.threads="$threads" --privacy.key=seed --data.patch=16x16x16 \
        --model.blocks_down=1,1 --model.blocks_up=1 --train.learning_rate=1e-3 --federation.rounds=2 \
        --run.verbosity=0 "$@" > "$dir/$name.result" && fingerprint "$dir/$name" > "$dir/$name.print"
}

# same NAME RANKLIST THREADS OPTION...: all rank counts give what one process gives
same()
{
    local name=$1 list=$2 threads=$3 bad=0 ranks
    shift 3
    train "$name" 0 "$threads" "$@" || bad=1
    for ranks in $list; do
        train "$name-$ranks" "$ranks" "$threads" "$@" && cmp -s "$dir/$name.print" "$dir/$name-$ranks.print" || {
            bad=1
            echo "$name: $ranks ranks differ: $(diff "$dir/$name.print" "$dir/$name-$ranks.print" 2>&1 | head -n 3)" >&2
        }
    done
    report $bad "$name: no MPI, and ranks $list; threads $threads"
}

# FB_LONG=1: every combination at every number of ranks and of threads
full="1 2 3 4 7 13"
long()
{
    [ -z "${FB_LONG:-}" ] && echo "$1" || echo "$full"
}

laplace=(--privacy.mechanism=laplace --privacy.clip=1e-3 --privacy.epsilon_threshold=50 --privacy.epsilon_answer=5
         --privacy.answer_budget=per-parameter)
same all-none "$full" 1
same topk-none "$(long "2 3 7")" 1 --sharing.select=topk --sharing.fraction=0.1
same random-none "$(long "3 7")" 1 --sharing.select=random --sharing.fraction=0.3
same svt-none "$(long "3 4")" 1 --sharing.select=svt --sharing.fraction=0.1 --privacy.clip=1e-3
same all-laplace "$(long "2 7")" 1 "${laplace[@]}"
same topk-laplace "$(long "3")" 1 --sharing.select=topk --sharing.fraction=0.2 "${laplace[@]}"
same random-laplace "$(long "4 7")" 1 --sharing.select=random --sharing.fraction=0.2 "${laplace[@]}"
same svt-laplace "$full" 1 --sharing.select=svt --sharing.fraction=0.1 "${laplace[@]}"
dpsgd=(--privacy.mechanism=dpsgd --privacy.clip_norm=0.5 --privacy.noise_multiplier=0.8)
same dpsgd "$(long "2 3")" 1 "${dpsgd[@]}"
same topk-dpsgd-average "$(long "3")" 1 "${dpsgd[@]}" --train.batch=0.7 --train.epochs=2 --train.momentum=average \
    --sharing.select=topk --sharing.fraction=0.1 --train.trainable='conv_final.*|up_layers.*'
same momentum-keep "$(long "3")" 1 --train.momentum=keep
same momentum-average "$(long "2 4")" 1 --train.momentum=average
same uniform-half "$(long "3 7")" 1 --federation.weighting=uniform --federation.participation=0.5
same centralised "$(long "2 3")" 1 --run.mode=centralised
same local "$(long "3")" 1 --run.mode=local
same local-dpsgd "$(long "3")" 1 --run.mode=local "${dpsgd[@]}"
same all-none-two-threads "$(long "2 3")" 2
same svt-laplace-two-threads "$(long "2 3")" 2 --sharing.select=svt --sharing.fraction=0.1 "${laplace[@]}"
if [ -n "${FB_LONG:-}" ]; then
    same topk-none-two-threads "$full" 2 --sharing.select=topk --sharing.fraction=0.1
    same random-none-two-threads "$full" 2 --sharing.select=random --sharing.fraction=0.3
    same all-laplace-two-threads "$full" 2 "${laplace[@]}"
    same random-laplace-two-threads "$full" 2 --sharing.select=random --sharing.fraction=0.2 "${laplace[@]}"
fi

model() # RUN: its hash
{
    sed -n 's/.*model_sha256=\([0-9a-f]*\).*/\1/p' "$dir/$1.result"
}
train topk-all 0 1 --sharing.select=topk --sharing.fraction=1
[ -n "$(model all-none)" ] && [ "$(model topk-all)" = "$(model all-none)" ]
report $? "topk with fraction 1 and no noise is dense FedAvg, bit for bit"
train half 0 1 --federation.participation=0.5
[ -n "$(model half)" ] && [ "$(model half)" != "$(model all-none)" ]
report $? "another configuration gives other bits: the comparison can fail"
echo "1..$number"
exit $failed
