#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Under tests/slurm/cluster.sh 1: what the job files do when a program ends in one way or another, with programs made
# for it, and what site.sh asks Slurm for.
. "$(dirname "$0")/testing.sh"
mkdir fake
cat > fake/fedbrats << 'PROGRAM'
#!/bin/bash
# Says "round 1/1" when it may be warned, and ends as $FAKE says.
case ${1:-} in --version) echo 'fedbrats fake'; exit ;; esac
case $FAKE in
    print)
        printf '<%s>' "$@" && echo
        env | grep -E '^(CUDA_VISIBLE_DEVICES|SLURM_CPUS_PER_TASK|SETUP)='
        echo "RESULT x=1"
        ;;
    none) exit 0 ;;
    85) exit 85 ;;
    rank-dies) [ "$SLURM_PROCID" = 0 ] || exit 3; sleep 60 ;;
    *)
        status=${FAKE#on-usr1-}
        trap 'exit $status' USR1
        if [ "$status" = late ]; then
            trap 'status=85; [ "$SLURM_PROCID" != 0 ] || exit 85' USR1
            trap '' TERM
        fi
        for _ in $(seq 300); do
            [ "$_" != 3 ] || echo ' round 1/1'
            sleep 0.1
        done
        ;;
esac
exit 0
PROGRAM
chmod +x fake/fedbrats
export FB_BIN=$PWD/fake

# fake KIND [NAME=VALUE...]: submits it as $job, with log $log
fake()
{
    job=$(FAKE=$1 submit env "${@:2}" "$jobs/train.sbatch" 'a b.ini' --x.y='c d')
    log=logs/fedbrats_$job.log logs=(stderr "$log")
}
warned() # the job, as soon as it may be
{
    until_s 20 told "$log" "${1:-1}" && warn "$job"
}
alone() # STATUS: the job ends with it, and was not started again
{
    ends "$job" 30 FAILED "$1:0" && sleep 1.5 && in_state "$job" FAILED && [ "$(field "$job" Restarts)" = 0 ]
}

fake 85 && alone 85 && grep -q 'stopped on request' "$log"
report $? "85 without a warning, as after a stop file, is not requeued"
fake on-usr1-1 && warned && alone 1
report $? "a failure after a warning is not requeued"
fake on-usr1-0 && warned && alone 1 && grep -q 'but no RESULT' "$log"
report $? "success without a RESULT is a failure"
fake none && alone 1
report $? "also when nothing was started"
fake rank-dies FB_TASKS=2 && alone 143
report $? "a rank that dies ends the job at once"
fake on-usr1-85 FB_MAX_REQUEUES=0 && warned && alone 85 && grep -q 'FB_MAX_REQUEUES' "$log"
report $? "a job that was requeued too often is not requeued again"
fake on-usr1-late FB_TASKS=2 && warned 2 && until_s 20 waits "$job" 1 && timeout 10 scancel "$job" &&
    grep -q 'status 137' "$log"
report $? "a rank that is killed because another ended first does not stop the requeue"
sleep 1
in_state "$job" CANCELLED
report $? "a requeued job that is cancelled while it waits stays cancelled"
fake on-usr1-85 && until_s 20 told "$log" 1 && timeout 10 scontrol update JobId="$job" Requeue=0 && warned &&
    alone 85 && grep -q 'does not requeue' "$log"
report $? "where Slurm refuses to requeue the log says what to do"

fake print FB_CPUS_PER_TASK=2 && ends "$job" 20 COMPLETED && grep -q '^<train><a b.ini><--x.y=c d>$' "$log" &&
    grep -q '^SLURM_CPUS_PER_TASK=2' "$log" && grep -q '^tasks    1 x 2 cores' "$log" &&
    grep -q '^command .* --cpus-per-task=2 ' "$log"
report $? "arguments arrive as they were given; the program has the cores that were asked for"
fake print FB_SETUP='export SETUP=$unset_too' && ends "$job" 20 COMPLETED && grep -q '^SETUP=$' "$log"
report $? "FB_SETUP runs first"
fake print FB_MODULES=no/such && alone 1 && grep -q 'module load no/such failed' "$log"
report $? "a module that is not there ends the job, with its name"
seen() # the GPUs that the ranks see
{
    sed -n 's/^CUDA_VISIBLE_DEVICES=//p' "$log" | sort | tr '\n' ' '
}
if [ -e "$LAB/gres.conf" ]; then
    fake print FB_TASKS=4 FB_GPUS_PER_NODE=2 && ends "$job" 20 COMPLETED &&
        [ "$(seen)" = '0,1 0,1 0,1 0,1 ' ]
    report $? "GPUs of a node: each of its ranks sees them all"
    fake print FB_TASKS=4 FB_GPUS_PER_NODE=4 FB_GPU_BIND=--gpus-per-task=1 && ends "$job" 20 COMPLETED &&
        [ "$(seen)" = '0 1 2 3 ' ]
    report $? "FB_GPU_BIND=--gpus-per-task=1: each rank sees one"
    fake print FB_TASKS=6 FB_GPUS_PER_NODE=3 FB_GPU_BIND=--gpu-bind=single:2 && ends "$job" 20 COMPLETED &&
        [ "$(seen)" = '0 0 1 1 2 2 ' ]
    report $? "FB_GPU_BIND=--gpu-bind=single:2: two ranks share one"
    fake print && ends "$job" 20 COMPLETED && ! grep -q '^CUDA_VISIBLE_DEVICES' "$log"
    report $? "without GPUs none is named"
else
    for name in 'GPUs of a node' 'a GPU per rank' 'two ranks a GPU' 'no GPUs'; do
        number=$((number + 1))
        echo "ok $number - $name # SKIP no device nodes may be made here"
    done
fi
job=$(FAKE=print submit sbatch "$jobs/train.sbatch" x.ini)
ends "$job" 20 COMPLETED && grep -q '^<train><x.ini>$' "logs/fedbrats_$job.log"
report $? "plain sbatch works too"
mkdir elsewhere && (cd elsewhere && FAKE=print submit "$jobs/train.sbatch" x.ini > job) && job=$(cat elsewhere/job) &&
    ends "$job" 20 COMPLETED && grep -q '^<train><x.ini>$' "elsewhere/logs/fedbrats_$job.log"
report $? "from another folder, whose logs/ is made"
"$jobs/train.sbatch" 2>> stderr
[ $? = 2 ] && "$jobs/sweep.sbatch" x 2>> stderr
[ $? = 2 ] && "$jobs/plot.sbatch" 2>> stderr
[ $? = 2 ]
report $? "called wrongly they say how"

echo "1..$number"
exit $failed
