#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Under tests/slurm/cluster.sh 2: a run on two nodes, requeued, and how its ranks take the GPUs of their node. The GPUs
# are emulated, as many a node as Slurm says that the rank may see.
. "$(dirname "$0")/testing.sh"
export OMPI_MCA_btl=self,tcp # shared memory is named after the host, which the two nodes have in common
cohort 40
export FB_NODES=2 FB_TASKS=4 FB_TASKS_PER_NODE=2

job=$(submit "$jobs/train.sbatch" small.ini --run.output=nodes)
log=logs/fedbrats_$job.log logs=(stderr "$log")
requeued "$job" "$log" 1 && ends "$job" 120 COMPLETED 0:0 && grep -q '^hosts    n1 n2 ' "$log"
report $? "four ranks on two nodes: warned, requeued, complete"
timeout 60 "$FB_BIN/fedbrats" train small.ini --run.output=alone > alone.log 2>&1
same_run alone nodes
report $? "bit for bit as a run of one process on one node"

emulated=${FB_BUILD:-$tests/../build/release}/emulated/fedbrats
if [ -e "$LAB/gres.conf" ] && [ -x "$emulated" ]; then
    mkdir gpu
    cat > gpu/fedbrats << PROGRAM
#!/bin/bash
[ "\$1" = --version ] ||
    echo "rank \$SLURM_PROCID on \$SLURMD_NODENAME, \$SLURM_LOCALID there: \${CUDA_VISIBLE_DEVICES:-}"
export FB_EMULATED_DEVICES=\$(tr , '\n' <<< "\${CUDA_VISIBLE_DEVICES:-}" | grep -c .)
exec $emulated "\$@"
PROGRAM
    chmod +x gpu/fedbrats
    # gpus NAME SEEN USED [NAME=VALUE...]: the GPUs that ranks 0 to 3 see, and those that they use
    gpus()
    {
        local name=$1 seen=$2 used=$3 rank=0 all=0 gpu sees
        job=$(FB_BIN=$PWD/gpu submit env "${@:4}" "$jobs/train.sbatch" small.ini --run.output="gpu$number" \
            --run.device=cuda --federation.rounds=1 --train.epochs=1 --privacy.mechanism=none)
        log=logs/fedbrats_$job.log logs=(stderr "$log")
        ends "$job" 120 COMPLETED 0:0 || all=1
        for gpu in $used; do
            grep -q "rank $rank on lab: GPU $gpu of" "$log" || all=1
            sees=$(cut -d ' ' -f $((rank + 1)) <<< "$seen")
            grep -qx "rank $rank on n$((rank / 2 + 1)), $((rank % 2)) there: $sees" "$log" || all=1
            rank=$((rank + 1))
        done
        report $all "$name"
    }
    gpus 'FB_GPUS_PER_NODE=2: the two ranks of a node see both, and take one each' '0,1 0,1 0,1 0,1' '0 1 0 1' \
        FB_GPUS_PER_NODE=2
    gpus 'FB_GPUS_PER_NODE=1: the two ranks of a node share it' '0 0 0 0' '0 0 0 0' FB_GPUS_PER_NODE=1
    gpus 'FB_GPU_BIND=--gpus-per-task=1: each sees and takes its own' '0 1 0 1' '0 0 0 0' \
        FB_GPUS_PER_NODE=2 FB_GPU_BIND=--gpus-per-task=1
else
    for name in 'GPUs of a node' 'a shared GPU' 'a GPU per rank'; do
        number=$((number + 1))
        echo "ok $number - $name # SKIP no device nodes may be made here, or the emulated GPU is not built"
    done
fi

echo "1..$number"
exit $failed
