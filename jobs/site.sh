# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Your cluster: the one file to edit before the first job. As it stands it works on a cluster whose defaults do.
# Each setting can also come from the environment, for one job:   FB_TIME=02:00:00 FB_TASKS=4 jobs/train.sbatch my.ini
#
# One rank plays one or more of the H hospitals of the shards, so that FB_TASKS is 1 to H, and the results are the same
# bits for every number. Typical settings:
#
#   one node, no GPU               FB_NODES=1 FB_TASKS=13 FB_CPUS_PER_TASK=2, and run.threads = 2 in the experiment
#   one node, 4 GPUs               FB_NODES=1 FB_TASKS=4 FB_GPUS_PER_NODE=4: a GPU per rank, 3 or 4 of 13 hospitals each
#   13 GPUs, nodes with 4          FB_NODES=4 FB_TASKS=13 FB_TASKS_PER_NODE=4 FB_GPUS_PER_NODE=4: a hospital on each
#   more hospitals than GPUs       as many ranks as GPUs (the second line): a rank plays its hospitals one after the
#                                  other. FB_TASKS=13 FB_GPUS_PER_NODE=4 is possible too: the ranks of a node take its
#                                  GPUs in turn and 3 or 4 share one, under CUDA MPS where the site has it (FB_SETUP
#                                  below). Messages then go by MPI, as NCCL wants a GPU per rank.

# --- what sbatch is asked for ----------------------------------------------------------------------------------------
: "${FB_ACCOUNT:=}"           # set it where jobs are charged to a project ("Invalid account"): project_123
: "${FB_PARTITION:=}"         # set it where the default partition lacks what you need, such as GPUs: see sinfo
: "${FB_TIME:=}"              # HH:MM:SS; empty is the partition's default. A run that needs longer is requeued and goes
                              # on, so that short ones, which start earlier, cost little
: "${FB_NODES:=}"             # set it when the ranks need more than one node; empty leaves it to Slurm
: "${FB_TASKS:=1}"            # ranks of one run: up to one per hospital, or one per GPU
: "${FB_TASKS_PER_NODE:=}"    # set it together with FB_NODES: the number of GPUs of a node
: "${FB_CPUS_PER_TASK:=}"     # set it to run.threads of the experiment; with GPUs, to a GPU's share of the node's cores
: "${FB_MEM:=}"               # set it where a job is killed for memory: 32G is per node
: "${FB_GPUS_PER_NODE:=}"     # set it to use GPUs: every rank then sees all of its node, and they take them in turn
: "${FB_WARN_S:=120}"         # raise it when run.grace_s and writing a checkpoint take longer: the run is asked to stop
                              # this many seconds before the time limit
: "${FB_SBATCH_EXTRA:=}"      # anything else, separated by spaces: --qos=long --constraint=a100 --mail-type=FAIL

# --- how a job starts the program ------------------------------------------------------------------------------------
: "${FB_MODULES:=}"           # set it where MPI or HDF5 come as modules, the ones it was built with: gcc/13 openmpi/4.1
: "${FB_SETUP:=}"             # set it for a command to run first in each job: source /project/venv/bin/activate
: "${FB_LAUNCHER:=srun --mpi=pmix --kill-on-bad-exit=1}" # change it when the MPI wants another: srun --mpi=list.
                              # Keep --kill-on-bad-exit: without it a dead rank leaves the others waiting until the
                              # time limit
: "${FB_GPU_BIND:=}"          # set it where the site wants a rank to see one GPU: --gpus-per-task=1 --gpu-bind=closest
: "${FB_MAX_REQUEUES:=100}"   # lower it to bound what one run may cost: FB_TIME times this

# --- where things are ------------------------------------------------------------------------------------------------
FB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${FB_BIN:=$FB_ROOT/bin}"   # change it when the programs are elsewhere, after make install PREFIX=... for one
: "${FB_PYTHON:=/usr/bin/python3}" # change it to the Python that has h5py, xarray, h5netcdf and matplotlib
export FB_BIN FB_PYTHON

# --- what the above means; nothing to edit below ---------------------------------------------------------------------
FB_SBATCH_OPTIONS=(--requeue --ntasks="$FB_TASKS" --signal="B:USR1@$FB_WARN_S")
[ -z "$FB_ACCOUNT" ] || FB_SBATCH_OPTIONS+=(--account="$FB_ACCOUNT")
[ -z "$FB_PARTITION" ] || FB_SBATCH_OPTIONS+=(--partition="$FB_PARTITION")
[ -z "$FB_TIME" ] || FB_SBATCH_OPTIONS+=(--time="$FB_TIME")
[ -z "$FB_NODES" ] || FB_SBATCH_OPTIONS+=(--nodes="$FB_NODES")
[ -z "$FB_TASKS_PER_NODE" ] || FB_SBATCH_OPTIONS+=(--ntasks-per-node="$FB_TASKS_PER_NODE")
[ -z "$FB_CPUS_PER_TASK" ] || FB_SBATCH_OPTIONS+=(--cpus-per-task="$FB_CPUS_PER_TASK")
[ -z "$FB_MEM" ] || FB_SBATCH_OPTIONS+=(--mem="$FB_MEM")
[ -z "$FB_GPUS_PER_NODE" ] || FB_SBATCH_OPTIONS+=(--gpus-per-node="$FB_GPUS_PER_NODE")
read -ra fb_words <<< "$FB_SBATCH_EXTRA"
FB_SBATCH_OPTIONS+=("${fb_words[@]}")
read -ra FB_LAUNCH <<< "$FB_LAUNCHER $FB_GPU_BIND"
# Since Slurm 22.05 srun does not take over what sbatch was given.
if [ "${FB_LAUNCH[0]:-}" = srun ] && [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    FB_LAUNCH+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
fi
