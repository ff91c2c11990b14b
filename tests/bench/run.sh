#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make bench: the training step beside its convolutions, and the release of an update. A few minutes on two quiet cores;
# every figure is a ratio or stands beside what it is compared with in the same process.
#   tests/bench/run.sh PROGRAM...
set -eu
threads=${OMP_NUM_THREADS:-$(nproc)}
export OMP_NUM_THREADS=$threads
for program in "$@"; do
    case $(basename "$program") in
        bench_ops) echo "== operations at 64^3, one thread"; OMP_NUM_THREADS=1 "$program" 64 1 ;;
        bench_step) echo "== training step, $threads threads"; "$program" --threads "$threads" ;;
        *) echo "== $(basename "$program"), one thread"; OMP_NUM_THREADS=1 "$program" ;;
    esac
    echo
done
