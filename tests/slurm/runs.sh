#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Under tests/slurm/cluster.sh 1: Slurm's own warning before the time limit; ten requeues in a row on two ranks.
. "$(dirname "$0")/testing.sh"
cohort 240

# Slurm looks at time limits in its own time and may warn up to a minute early: of a minute, 10 to 40 s go by.
job=$(FB_TIME=1 FB_WARN_S=40 submit "$jobs/train.sbatch" small.ini --run.output=limited --federation.rounds=100000 \
    --run.checkpoint_every=1000)
log=logs/fedbrats_$job.log logs=(stderr "$log")
until_s 90 waits "$job" 1 && grep -q 'ended with status 85, warned' "$log"
report $? "Slurm's warning before the time limit: checkpoint and requeue"
seen=$(sed -n 's/.* round \([0-9]*\)\/.*/\1/p' "$log" | tail -n 1)
release "$job" && until_s 30 told "$log" $((seen + 1)) &&
    [ "$(sed -n 's/.* round \([0-9]*\)\/.*/\1/p' "$log" | sed -n "$((seen + 1))p")" = $((seen + 1)) ]
report $? "and the next round comes next"
timeout 10 scancel "$job" && ends "$job" 20 CANCELLED && sleep 2 && in_state "$job" CANCELLED
report $? "until it is cancelled"

job=$(FB_TASKS=2 submit "$jobs/train.sbatch" small.ini --run.output=ten)
log=logs/fedbrats_$job.log logs=(stderr "$log")
for time in $(seq 10); do
    requeued "$job" "$log" "$time" || break
done
report $? "ten requeues in a row"
ends "$job" 300 COMPLETED 0:0 && [ "$(grep -c 'ended with status 85, warned' "$log")" = 10 ]
report $? "each after a checkpoint, and then the RESULT"
timeout 300 "$FB_BIN/fedbrats" train small.ini --run.output=uninterrupted > uninterrupted.log 2>&1
same_run uninterrupted ten
report $? "bit for bit as an uninterrupted run of one process: model, metrics, ledgers"
[ "$(rounds "$log")" = 240 ]
report $? "no round was computed twice"

echo "1..$number"
exit $failed
