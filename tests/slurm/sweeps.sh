#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Under tests/slurm/cluster.sh 1: jobs/submit-sweep of five runs, of which one completes, one fails, one is cancelled,
# one is left alone and one is requeued: nobody else notices. Then the figure job, and what is missing, submitted again.
. "$(dirname "$0")/testing.sh"
cohort 60
cat > sweep.ini << INI
[sweep]
config = small.ini
output = sweep
ranks = 1
throttle = 4
[grid]
federation.rounds + data.shards = 3 $PWD/shards, 4 $PWD/nowhere, 5000 $PWD/shards, 5001 $PWD/shards, 60 $PWD/shards
INI

# The folder is lost between submitting and starting: submit-sweep has every run checked.
ln -s shards nowhere
timeout 10 scontrol update PartitionName=main State=DOWN
timeout 60 "$jobs/submit-sweep" sweep.ini > submitted 2>> stderr
rm nowhere
timeout 10 scontrol update PartitionName=main State=UP
array=$(sed -n 's/^array job \([0-9]*\):.*/\1/p' submitted)
figure=$(sed -n 's/^figure job \([0-9]*\):.*/\1/p' submitted)
logs=(submitted stderr)
[ -n "$array" ] && [ -n "$figure" ] && [[ $(field "$figure" Dependency) == afterany:${array}_* ]] &&
    timeout 10 scontrol show job -o "$figure" | grep -q KillOInInvalidDependent=Yes
report $? "submit-sweep submits an array, and a figure job after it"
[ $failed = 0 ] || { echo "1..$number"; exit 1; }

element() # NUMBER: its log
{
    echo "sweep/logs/sweep_${array}_$1.log"
}
logs=(stderr "$(element 0)")
ends "${array}_0" 60 COMPLETED 0:0 && grep -q '^RESULT rounds=3 ' "$(element 0)"
report $? "an element completes"
logs=(stderr "$(element 1)")
ends "${array}_1" 60 FAILED && grep -q nowhere "$(element 1)"
report $? "an element fails alone"

logs=(stderr "$(element 4)")
until_s 60 told "$(element 3)" 3 && until_s 60 told "$(element 4)" 3 && [ "$(field "${array}_4" JobId)" = "$array" ]
report $? "the last element bears the number of the array"
requeued "${array}_4" "$(element 4)" 1
report $? "it is warned, requeued and started again"
# Time for what a requeue of the whole array would do.
sleep 3
once() # NUMBER...: these were started once
{
    local other
    for other in "$@"; do
        [ "$(field "${array}_$other" Restarts)" = 0 ] &&
            [ "$(grep -c '^=== .* requeues ' "$(element "$other")")" = 1 ] || return 1
    done
}
in_state "${array}_0" COMPLETED && in_state "${array}_1" FAILED && in_state "${array}_2" RUNNING &&
    in_state "${array}_3" RUNNING && once 0 1 2 3
report $? "its siblings are untouched: running, complete or failed, started once"
in_state "$figure" PENDING
report $? "the figure job waits"
timeout 10 scancel "${array}_2" && ends "${array}_2" 20 CANCELLED && in_state "${array}_3" RUNNING
report $? "an element is cancelled alone"
ends "${array}_4" 60 COMPLETED 0:0 && grep -q '^RESULT rounds=60 ' "$(element 4)"
report $? "the requeued element completes"
run=$(ls -d sweep/runs/*rounds-60_*)
timeout 60 "$FB_BIN/fedbrats" train small.ini --run.output=uninterrupted > uninterrupted.log 2>&1
same_run uninterrupted "$run"
report $? "bit for bit as an uninterrupted run"
in_state "${array}_2" CANCELLED && timeout 10 scancel "${array}_3" && ends "${array}_3" 20 CANCELLED
report $? "what was cancelled stays so"
logs=(stderr sweep/logs/plot_"$figure".log)
ends "$figure" 60 COMPLETED 0:0 && [ -s sweep/sweep.png ]
report $? "then the figure is made, of what there is"

ln -s shards nowhere
timeout 60 "$jobs/submit-sweep" sweep.ini > submitted 2>> stderr
logs=(submitted stderr)
again=$(sed -n 's/^array job \([0-9]*\): 3 of 5 runs.*/\1/p' submitted)
[ -n "$again" ] && ends "${again}_1" 60 COMPLETED 0:0 && [ -z "$(field "${again}_0" JobState)" ]
report $? "submitted again, only what is missing runs"
seen=$(rounds "$(element 2)")
array=$again
until_s 30 told "$(element 2)" 1 &&
    [ "$(sed -n 's/.* round \([0-9]*\)\/.*/\1/p' "$(element 2)" | head -n 1)" -ge "$seen" ]
report $? "and goes on where it was cancelled"
timeout 10 scancel "$again"
mkdir -p logs
job=$(submit sbatch --array=0 "$jobs/sweep.sbatch" sweep)
log=logs/sweep_${job}_0.log logs=(stderr "$log")
ends "$job" 20 COMPLETED 0:0 && [ "$(rounds "$log")" = 0 ] && grep -q '^RESULT rounds=3 ' "$log"
report $? "a complete element, submitted by hand, ends at once"

echo "1..$number"
exit $failed
