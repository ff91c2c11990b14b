#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Under tests/slurm/cluster.sh 1: one job that is warned, requeued and goes on to the bits of an uninterrupted run, one
# that is cancelled, one that was complete.
. "$(dirname "$0")/testing.sh"
cohort 40

job=$(FB_TASKS=2 submit "$jobs/train.sbatch" small.ini --run.output=requeued)
log=logs/fedbrats_$job.log logs=(stderr "$log")
requeued "$job" "$log" 1
report $? "a warned job writes its checkpoint and is requeued"
ends "$job" 60 COMPLETED 0:0 && [ "$(grep -c '^RESULT ' "$log")" = 1 ]
report $? "and goes on to its RESULT"
grep -q '^command .*srun --mpi=pmix --kill-on-bad-exit=1 .*fedbrats train small.ini --run.output=requeued' "$log" &&
    grep -q '^hosts    n1' "$log" && grep -q '^tasks    2 x' "$log" && grep -q 'requeues 0$' "$log" &&
    grep -q 'requeues 1$' "$log" &&
    grep -q 'ended with status 85, warned' "$log"
report $? "the log, one file, says what ran, where and how often"

timeout 60 "$FB_BIN/fedbrats" train small.ini --run.output=uninterrupted > uninterrupted.log 2>&1
same_run uninterrupted requeued
report $? "bit for bit as an uninterrupted run without Slurm"

job=$(submit "$jobs/train.sbatch" small.ini --run.output=requeued)
log=logs/fedbrats_$job.log
ends "$job" 20 COMPLETED 0:0 && [ "$(rounds "$log")" = 0 ] && [ "$(grep -c '^RESULT ' "$log")" = 1 ]
report $? "a complete run, submitted again, prints its RESULT and ends at once"

job=$(submit "$jobs/train.sbatch" small.ini --run.output=cancelled --federation.rounds=2000)
log=logs/fedbrats_$job.log
until_s 30 told "$log" 2 && timeout 10 scancel "$job" && ends "$job" 20 CANCELLED && sleep 3 &&
    in_state "$job" CANCELLED && [ "$(field "$job" Restarts)" = 0 ]
report $? "scancel stays cancelled"

echo "1..$number"
exit $failed
