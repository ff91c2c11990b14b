#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The job files on a real Slurm, which lives as long as the test (tests/slurm/cluster.sh): a job that is requeued and
# goes on to the same bits, one that is cancelled, one that was complete. FB_LONG=1: also every end that a program can
# take, GPUs, the time limit, ten requeues in a row, a sweep, and two nodes. Skipped, with the reason, where root,
# packages or namespaces are missing.
cd "$(dirname "$0")/.." || exit 1
[ "${FB_LONG:-0}" = 1 ] || exec tests/slurm/cluster.sh 1 tests/slurm/short.sh
status=0
for test in '1 short' '1 rules' '1 runs' '1 sweeps' '2 nodes'; do
    tests/slurm/cluster.sh "${test% *}" "tests/slurm/${test#* }.sh"
    case $? in
        0) ;;
        77) exit 77 ;;
        *) status=1 ;;
    esac
done
exit $status
