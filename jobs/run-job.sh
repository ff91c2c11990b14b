# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the batch scripts share; each sources it. It reads site.sh beside it, which gives FB_ROOT, FB_BIN, FB_PYTHON,
# FB_SBATCH_OPTIONS and FB_LAUNCH.
set -u
# shellcheck source=jobs/site.sh
. "$(dirname "${BASH_SOURCE[0]}")/site.sh"

# Slurm's warning before the time limit goes on to the program. TERM is not trapped: it is what scancel sends, and a job
# that requeued itself then would undo the user's scancel.
warned=0 step=
trap 'warned=1; [ -z "$step" ] || kill -USR1 "$step" 2> /dev/null' USR1

# fb_submit SCRIPT SBATCH_OPTION... -- ARG...: hands SCRIPT to sbatch with the site's options. For a script that was
# started by hand: as "#SBATCH" lines hold no variables, sbatch alone does not know site.sh.
fb_submit()
{
    local script=$1 options=()
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    mkdir -p logs || exit 1 # without it Slurm runs nothing and has nowhere to say so
    exec sbatch "${FB_SBATCH_OPTIONS[@]}" "${options[@]}" "$script" "${@:2}"
}

# The name under which this job can be requeued. One element of every array has the array's number as its own, and to
# requeue that number restarts all elements, the completed ones too.
fb_job()
{
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    else
        echo "$SLURM_JOB_ID"
    fi
}

# fb_provenance COMMAND...: what a reader of the log needs to know, or to repeat the job
fb_provenance()
{
    local revision
    revision=$(git -C "$FB_ROOT" describe --always --dirty --abbrev=12 2> /dev/null) || revision='not a git checkout'
    echo "=== $(date -u +%Y-%m-%dT%H:%M:%SZ) job $(fb_job) $SLURM_JOB_NAME, requeues ${SLURM_RESTART_COUNT:-0}"
    echo "hosts    $(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr '\n' ' ')"
    echo "tasks    ${SLURM_NTASKS:-1} x ${SLURM_CPUS_PER_TASK:-1} cores"
    echo "sources  $FB_ROOT $revision"
    echo "program  $("$FB_BIN/fedbrats" --version 2>&1 | head -n 1)"
    echo "modules  ${LOADEDMODULES:-none}"
    if command -v nvidia-smi > /dev/null; then
        nvidia-smi -L | sed 's/^/gpu      /'
    fi
    printf 'command '
    printf ' %q' "$@"
    echo
}

# What site.sh wants first.
fb_setup()
{
    set +u # what modules and environments of Python are written for
    if [ -n "$FB_MODULES" ]; then
        type module > /dev/null 2>&1 || . /etc/profile
        # shellcheck disable=SC2086
        module load $FB_MODULES || { echo "jobs: module load $FB_MODULES failed; see jobs/site.sh" >&2; exit 1; }
    fi
    eval "$FB_SETUP" || { echo "jobs: FB_SETUP of jobs/site.sh failed: $FB_SETUP" >&2; exit 1; }
    set -u
}

# fb_step COMMAND...: runs it on all tasks of the job and gives its status
fb_step()
{
    "${FB_LAUNCH[@]}" "$@" &
    step=$!
    [ $warned = 0 ] || kill -USR1 "$step"
    while kill -0 "$step" 2> /dev/null; do # a trapped signal ends a wait early
        wait "$step"
    done
    wait "$step" # gives the status, however often it is asked
}

# fb_run COMMAND...: runs it on all tasks of the job, and ends the job with its status. When it ends with 85 after
# Slurm's warning, its checkpoint written, the job is requeued: the same command goes on where it stopped.
fb_run()
{
    local rc try
    fb_setup
    fb_provenance "${FB_LAUNCH[@]}" "$@"
    if [ "${SLURM_NTASKS:-1}" != "$FB_TASKS" ]; then
        echo "note     jobs/site.sh asks for $FB_TASKS tasks; plain sbatch does not know it, jobs/train.sbatch does"
    fi
    for try in 1 2 3; do
        fb_step "$@"
        rc=$?
        if [ $rc != 0 ] || [ ! -f /dev/stdout ] || grep -q '^RESULT ' /dev/stdout; then
            break
        fi
        echo "jobs: status 0 but no RESULT line, try $try of 3" # a step that slurmd refused: srun of 22.05 says 0
        rc=1
        [ $warned = 0 ] && [ "$try" != 3 ] || break
        sleep 2 # a job that is restarted at once is refused for a moment
    done
    echo "=== $(date -u +%Y-%m-%dT%H:%M:%SZ) job $(fb_job) ended with status $rc$([ $warned = 0 ] || echo ', warned')"
    if [ $warned = 1 ]; then
        fb_requeue $rc
    elif [ $rc = 85 ]; then
        echo "jobs: stopped on request, with a checkpoint: submit the same command to go on"
    fi
    exit $rc
}

# fb_requeue STATUS: after a warning. 85: there is a checkpoint. 137, 138, 143: a signal ended a rank. As soon as the
# first has ended with 85, srun sends the others TERM and then KILL, and their status counts more; or the warning came
# before the program had set up its answer. What the last checkpoint holds is there. Anything else is a failure of its
# own.
fb_requeue()
{
    case $1 in
        85 | 137 | 138 | 143) ;;
        *) return ;;
    esac
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$FB_MAX_REQUEUES" ]; then
        echo "jobs: requeued $FB_MAX_REQUEUES times (FB_MAX_REQUEUES): not again; submit the same command to go on"
        return
    fi
    if scontrol requeue "$(fb_job)"; then
        echo "jobs: requeued"
        sleep 60 # Slurm ends this script; if it ended by itself the job could count as failed
    fi
    echo "jobs: this cluster does not requeue: submit the same command to go on"
}
