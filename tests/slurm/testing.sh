# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For the scripts that tests/slurm/cluster.sh runs, which source it: a cohort, an experiment and what watches jobs. They
# work in $LAB/work, so that the real job files find the experiment and leave their logs there.
set -u
: "${FB_BIN:?the folder of the programs}" "${FB_PYTHON:=/usr/bin/python3}"
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$tests/../jobs
mkdir -p "$LAB/work"
cd "$LAB/work" || exit 1
exec 2> stderr
logs=(stderr)
. "$tests/tap.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_tcp_if_include=lo
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_mpi_yield_when_idle=1

# cohort ROUNDS: shards of 13 hospitals, and small.ini, whose rounds take some 0.05 s
cohort()
{
    "$FB_BIN/brats-phantom" --output cohort --shape 32x32x32 --scale 0.001 --seed 3 > cohort.log 2>&1 &&
        "$FB_BIN/brats-split" --input cohort --output shards --seed 3 >> cohort.log 2>&1 ||
        { logs=(cohort.log); report 1 cohort; echo "1..$number"; exit 1; }
    cat > small.ini << INI
[data]
shards = $PWD/shards
patch = 16x16x16
[model]
blocks_down = 1,1
blocks_up = 1
[train]
learning_rate = 1e-3
epochs = 2
[federation]
rounds = $1
[sharing]
select = random
fraction = 0.01
[privacy]
mechanism = laplace
clip = 1e-3
epsilon_answer = 1000
key = seed
[eval]
on = validation
every = 10
INI
}

# submit ARG...: what is printed, the number of the job, by a job file or sbatch
submit()
{
    timeout 20 "$@" | sed -n 's/^Submitted batch job \([0-9]*\)$/\1/p'
}

# field JOB NAME: of scontrol's record of a job or an array element, such as JobState
field()
{
    timeout 10 scontrol show job -o "$1" | head -n 1 | tr ' ' '\n' | sed -n "s/^$2=//p"
}

# until_s SECONDS COMMAND...: as soon as COMMAND succeeds; fails after SECONDS
until_s()
{
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || { echo "waited in vain for: $*" >&2; return 1; }
        sleep 0.1
    done
}

in_state() # JOB STATE...
{
    local state
    state=$(field "$1" JobState)
    shift
    [[ " $* " == *" $state "* ]]
}
ended() # JOB
{
    in_state "$1" COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL
}

# ends JOB SECONDS STATE [EXITCODE]: and with that state, and exit code as STATUS:SIGNAL
ends()
{
    until_s "$2" ended "$1"
    in_state "$1" "$3" && { [ $# = 3 ] || [ "$(field "$1" ExitCode)" = "$4" ]; } && return
    echo "job $1: $(field "$1" JobState) $(field "$1" ExitCode), not $3 ${4:-}" >&2
    return 1
}

# rounds LOG: rounds that a job's log tells of, those of all its starts
rounds()
{
    cat "$1" 2> /dev/null | grep -c ' round [0-9]*/'
}
told() # LOG COUNT: at least COUNT rounds
{
    [ "$(rounds "$1")" -ge "$2" ]
}

# warn JOB: what Slurm sends before the time limit
warn()
{
    timeout 10 scancel --batch -s USR1 "$1"
}

# waits JOB COUNT: requeued for the COUNT-th time, and held back for the two minutes that Slurm puts in between
waits()
{
    in_state "$1" PENDING && [ "$(field "$1" Restarts)" = "$2" ]
}

# release JOB: without the two minutes. They have a reason: slurmd refuses a job within seconds of its end.
release()
{
    sleep 2
    timeout 10 scontrol update JobId="$1" StartTime=now
}

# requeued JOB LOG COUNT: warns JOB after three more rounds and starts it again, for the COUNT-th time
requeued()
{
    local seen
    seen=$(rounds "$2")
    until_s 30 told "$2" $((seen + 3)) && warn "$1" && until_s 30 waits "$1" "$3" && release "$1"
}

# same_run A B: the model bit for bit, and the metrics, ledgers and totals of two runs
same_run()
{
    cmp "$1/model.safetensors" "$2/model.safetensors" && diff -r "$1/ledger" "$2/ledger" &&
        [ "$(model_of "$1")" = "$(model_of "$2")" ] && "$FB_PYTHON" - "$1/results.h5" "$2/results.h5" << 'PY'
import sys, numpy, h5py
with h5py.File(sys.argv[1]) as a, h5py.File(sys.argv[2]) as b:
    assert a.attrs["status"] == b.attrs["status"] == b"complete"
    assert a["rounds_committed"][()] == b["rounds_committed"][()] > 0
    for name in ("dice_mean", "dice_validation_mean", "epsilon_total", "epsilon_round", "bytes_sent", "participated"):
        assert numpy.array_equal(a[name][()], b[name][()], equal_nan=name[0] in "de"), name
    assert a.attrs["epsilon_spent"] == b.attrs["epsilon_spent"]
PY
} >&2
model_of() # RUN: the SHA-256 in its RESULT line
{
    grep -o 'model_sha256=[0-9a-f]*' "$1/result.txt"
}
