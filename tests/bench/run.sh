#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make bench: the training step beside its convolutions, and the release of an update. A few minutes on two quiet cores;
# every figure is a ratio or stands beside what it is compared with in the same process.
#   tests/bench/run.sh PROGRAM...
set -eu
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
for program in "$@"; do
    case $(basename "$program") in
        bench_ops) echo "== operations, f=8, 64^3"; "$program" 64 8 ;;
        *) echo "== $(basename "$program")"; "$program" ;;
    esac
    echo
done
