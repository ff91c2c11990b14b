#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The job files on a real Slurm, which lives as long as the test (tests/slurm/cluster.sh): a job that is requeued and
# goes on to the same bits, one that is cancelled, one that was complete. FB_LONG=1: also every end that a program can
# take, GPUs, the time limit, ten requeues in a row, a sweep, and two nodes. Skipped, with the reason, where root,
# packages or namespaces are missing.
cd "$(dirname "$0")/.." || exit 1
tests/slurm/cluster.sh 1 tests/slurm/short.sh
status=$?
[ $status != 77 ] || exit 77
if [ "${FB_LONG:-0}" = 1 ]; then
    for test in '1 rules' '1 runs' '1 sweeps' '2 nodes'; do
        tests/slurm/cluster.sh "${test% *}" "tests/slurm/${test#* }.sh" || status=1
    done
fi
exit $status
