#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real Slurm on this machine for the length of one command:
#   tests/slurm/cluster.sh NODES COMMAND [ARG...]
# boots munged, slurmctld and NODES (1 or 2) slurmd in namespaces of their own (processes, network, mounts, host name)
# on a file system in memory, runs COMMAND there as root and ends with its status. Nothing is installed, started or left
# outside: no service, port, file or process, however this ends. Each node claims 8 cores and 4 GPUs that are copies
# of /dev/null. COMMAND gets LAB, a short-lived folder, and SLURM_CONF. Status 77, with the reason on standard output:
# packages or rights are missing. 1: the cluster did not start; its logs are on standard error.
set -u

skip() # REASON
{
    echo "no Slurm here: $1"
    exit 77
}

# A folder that is there on every system and may be covered: not the one that holds the sources.
cover()
{
    local folder
    for folder in /mnt /media /srv; do
        case $PWD/ in $folder/*) continue ;; esac
        [ ! -d $folder ] || { echo $folder; return; }
    done
}

if [ "${1:-}" != --inside ]; then
    [ "$(uname)" = Linux ] || skip "it needs Linux"
    for program in munged slurmctld slurmd sbatch unshare setpriv; do
        PATH=$PATH:/usr/sbin:/sbin command -v $program > /dev/null ||
            skip "$program is not installed (Debian: apt-get install slurm-wlm munge)"
    done
    [ "$(id -u)" = 0 ] || skip "only root can start one"
    LAB=$(cover)
    [ -n "$LAB" ] || skip "none of /mnt, /media and /srv can hold its files"
    namespaces=(unshare --mount --net --pid --ipc --uts --fork --kill-child --mount-proc)
    why=$("${namespaces[@]}" mount -t tmpfs -o mode=755 fedbrats "$LAB" 2>&1) ||
        skip "this container may not make namespaces and mounts: $why"
    export LAB
    # unshare does not end at TERM; and it has to end when this script is killed.
    setpriv --pdeathsig KILL "${namespaces[@]}" "$0" --inside "$@" <&0 &
    trap 'kill -KILL $!; exit 143' TERM INT
    wait $!
    exit
fi
shift

# --- inside: this is process 1, with whose end all others end --------------------------------------------------------
nodes=$1 address=10.9.9.9
shift
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$LAB/slurm.conf TMPDIR=$LAB/tmp
set -e
mount -t tmpfs -o mode=755 fedbrats "$LAB"
mount -t tmpfs -o mode=1777 fedbrats /dev/shm
mkdir -m 755 "$LAB/munge" "$LAB/state" "$LAB/spool" "$LAB/log"
mkdir -m 1777 "$LAB/tmp"
hostname lab
echo "$address lab localhost" > "$LAB/hosts"
mount --bind "$LAB/hosts" /etc/hosts

# One address for all, and not 127.0.0.1: with no other Slurm resolves no name (AI_ADDRCONFIG), and beside another on
# the same interface Open MPI calls from the wrong one.
"${FB_PYTHON:-/usr/bin/python3}" - $address << 'PY'
import fcntl, socket, struct, sys
SIOCSIFADDR, SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8916, 0x8914, 0x1, 0x40
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))
    address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(sys.argv[1]))
    fcntl.ioctl(s, SIOCSIFADDR, struct.pack("16s16s", b"lo", address))
PY

gpus=
for gpu in 0 1 2 3; do # the copies of /dev/null
    mknod -m 666 "$LAB/gpu$gpu" c 1 3 2> /dev/null && gpus=1 || gpus=
done
cat > "$SLURM_CONF" << CONF
ClusterName=lab
SlurmctldHost=lab($address)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$LAB/state
SlurmctldPidFile=$LAB/slurmctld.pid
SlurmctldLogFile=$LAB/log/slurmctld
SlurmdSpoolDir=$LAB/spool/%n
SlurmdPidFile=$LAB/slurmd.%n.pid
SlurmdLogFile=$LAB/log/slurmd.%n
SlurmdParameters=config_overrides
TmpFS=$LAB/tmp.%n
KillWait=5
JobRequeue=0
MessageTimeout=20
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=1
${gpus:+GresTypes=gpu}
NodeName=n[1-$nodes] NodeHostname=lab NodeAddr=$address Port=[7001-700$nodes] CPUs=8 RealMemory=8000 ${gpus:+Gres=gpu:4}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
[ -z "$gpus" ] || echo "Name=gpu File=$LAB/gpu[0-3]" > "$LAB/gres.conf"
head -c 1024 /dev/urandom > "$LAB/munge/key"
chmod 600 "$LAB/munge/key"
munged --key-file="$LAB/munge/key" --socket="$LAB/munge/socket" --pid-file="$LAB/munge/pid" \
    --seed-file="$LAB/munge/seed" --log-file="$LAB/log/munged"
slurmctld
for node in $(seq "$nodes"); do
    mkdir -p "$LAB/spool/n$node" "$LAB/tmp.n$node"
    slurmd -N "n$node"
done
set +e

up() # all nodes are idle
{
    [ "$(timeout 5 sinfo -h -N -o %T 2> /dev/null | grep -c idle)" = "$nodes" ]
}
for _ in $(seq 100); do
    up && break
    sleep 0.2
done
if ! up; then
    echo "cluster: not idle after 20 s" >&2
    timeout 5 sinfo >&2
    tail -n 20 "$LAB"/log/* >&2
    exit 1
fi
"$@"
