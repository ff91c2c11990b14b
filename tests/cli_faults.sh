#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Faults below the program: every call of the file system and of HDF5 and every allocation of a short run fails once
# (tests/io_fail.c, tests/alloc_fail.c). The run then ends with status 1 and a line that names the path, what was tried
# and the system's reason, leaks nothing, and the same command goes on, from the checkpoint that was there, to the same
# model, ledgers and messages as those of a run without a fault. FB_LONG=1: every call; otherwise a sample that
# FB_SEED moves. FB_FAULTS=pattern runs the loops whose name matches.
set -u
dir=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d) # thousands of runs that flush: their disk is not under test
mounted=
trap '[ -z "$mounted" ] || umount "$mounted"; rm -rf "$dir"' EXIT
exec 2> "$dir/stderr" # where the shell says that a command was killed
logs=("$dir/why" "$dir/err")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN long=${FB_LONG:-0} seed=${FB_SEED:-1}
compile() # NAME OPTION...
{
    ${CC:-cc} -shared -fPIC -fno-builtin "tests/$1.c" "${@:2}" -o "$dir/$1.so" -ldl
}
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.001 --seed 3 > /dev/null 2> "$dir/err" &&
    find "$dir/cohort" -mindepth 2 -maxdepth 2 ! -name '*_2013_*' ! -name '*_CBICA_*' ! -name '*_TCIA01_*' \
        -exec rm -r {} + &&
    "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/err" &&
    compile io_fail && compile alloc_fail ${FB_SAN:+-DONLY_CORE_MEM} ||
    { report 1 "cohort"; echo "1..$number"; exit 1; }

cat > "$dir/small.ini" << INI
[data]
shards = $dir/shards
patch = 16x16x16
[model]
blocks_down = 1,1
blocks_up = 1
[train]
learning_rate = 1e-3
[federation]
rounds = 2
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
INI

launcher=() options=()
train() # NAME ENVIRONMENT...: a run with `options`
{
    timeout 60 "${launcher[@]}" env "${@:2}" "$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/$1" \
        "${options[@]}" > "$dir/$1.out" 2> "$dir/$1.err"
}

# --- what a fault is judged by

# The word for what was tried that the message must hold.
declare -A tried=([fopen]='open|create' [open]='open' [opendir]='open' [mkdir]='make' [stat]='look' [fstat]='read|open'
    [lstat]='open' [access]='look' [rename]='rename' [unlink]='remove' [link]='link' [fread]='read' [read]='read|open'
    [pread]='read|open|count|find' [fgets]='read' [fwrite]='write' [write]='written' [pwrite]='write'
    [fprintf]='write' [fputs]='write' [fputc]='write' [fflush]='write' [fclose]='write' [fsync]='flush|written'
    [flock]='lock' [ftruncate]='cut|written')
declare -A said=([EIO]='Input/output error' [ENOSPC]='No space left on device' [EDQUOT]='Disk quota exceeded'
    [EINTR]='Interrupted system call' [SHORT]='' [ENOMEM]='')

# may_go_on CALL PATH: the few calls whose failure rightly does not end a run
may_go_on()
{
    case "$1 $2" in
        close\ *) ;;                     # what was written is flushed before; the others were only read
        fclose\ *.tmp) return 1 ;;       # written
        fclose\ *) ;;                    # only read; or the log, of which standard error has every line too
        fprintf\ */log.txt) ;;           # with a warning, for the same reason
        open\ */results.h5.tmp) ;;       # HDF5 looks whether there is a file of an image's name
        stat\ */stop) ;;                 # asked again after a while
        *\ */ranks/*) ;;                 # the watchdog then watches or tells less
        *\ */checkpoint/*) grep -q 'warning: .*passed over' "$dir/run.err" ;;
        *\ */run/results.h5) grep -q 'warning: .*cannot be read, so the ledgers are not' "$dir/run.err" ;;
        malloc\ memory) ;;               # of a stream's buffer: the C library then does without one
        *) return 1 ;;
    esac
}

# names_it CALL PATH REASON: the error line names path, call and reason
names_it()
{
    local line name=${2##*/}
    line=$(grep ' error: ' "$dir/run.err" | tail -n 1)
    [ "$name" != run.out ] || name='standard output'
    [ "$2" != memory ] || { [[ $line == *memory* || $line == *"cannot "*HDF5* ]]; return; }
    case $1 in
        H5*) [[ $line == *" cannot "* && $line == */* && $line == *"was made to fail"* ]]; return ;;
        lstat) ;; # HDF5 does not tell the system's reason
        *) [[ $line == *"${said[$3]}"* ]] || return 1 ;;
    esac
    [[ $line == *"${name%.tmp}"* && $line =~ ${tried[$1]:-cannot} ]]
}

# same: the run without a fault and this one
same()
{
    cmp "$dir/full/model.safetensors" "$dir/run/model.safetensors" && diff -r "$dir/full/ledger" "$dir/run/ledger" &&
        diff -r -x '*.tmp' "$dir/full/outbox" "$dir/run/outbox" && diff <(totals full) <(totals run) &&
        cmp "$dir/run.out" "$dir/run/result.txt"
}

totals() # RUN: the line RESULT but for paths and times
{
    sed 's/overhead_fraction=[^ ]*//; s/results=.*//' "$dir/$1.out"
}

# judge STATUS REASON STAYS: of a run that had a fault; says what is wrong on standard output
judge()
{
    local rc=$1 reason=$2 stays=$3 call path before=0
    grep ' error: \| warning: ' "$dir/run.err" | tail -n 2 > "$dir/said"
    read -r _ call path _ < <(grep ' failed$' "$dir/list")
    [ -n "$call" ] || { echo "no call failed"; return; }
    if [ "$rc" = 0 ]; then
        may_go_on "$call" "$path" || [ "$reason" = SHORT ] || [ "$reason" = EINTR ] ||
            echo "the fault was swallowed"
        [ "$stays" = 0 ] || echo "status 0 though all later calls failed"
        same >> "$dir/why" || echo "it went on to another end"
        return
    fi
    [ "$rc" = 1 ] || echo "status $rc"
    [[ $reason-$call != @(SHORT|EINTR)-@(write|pwrite) ]] || echo "a short or interrupted write was not gone on with"
    [ "$stays" = 1 ] || names_it "$call" "$path" "$reason" || echo "path, call or reason is not named"
    [ "$stays" = 1 ] || [ -z "$(find "$dir/run" -name '*.tmp')" ] || echo "a temporary file stays"
    [ ! -e "$dir/run/checkpoint/0000001/server.state" ] || before=1
    train run || { echo "it cannot go on: status $?"; return; }
    same >> "$dir/why" || echo "it went on to another end"
    [ $before = 0 ] || grep -q 'going on from\|run is complete' "$dir/run.err" || echo "it began anew"
    ! grep -q 'cannot be read, so' "$dir/run.err" || echo "its results were not readable"
}

# --- the loop

io=(LD_PRELOAD="$dir/io_fail.so" FB_FAULT_BELOW="$dir" FB_FAULT_LIST="$dir/list")
hdf5=("${io[@]}" FB_FAULT_HDF5=1)
memory=(LD_PRELOAD="$dir/alloc_fail.so" FB_FAULT_LIST="$dir/list")
"$bin/fedbrats" info | grep -q '^CUDA *not built' || memory+=(FB_FAULT_CUDA=1)
if [ -n "${FB_SAN:-}" ]; then
    sanitizer=(ASAN_OPTIONS=exitcode=99:detect_leaks=1:fast_unwind_on_malloc=0:verify_asan_link_order=0
        LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0)
else
    sanitizer=()
fi

# begin: the run's folder as the scenario has it before its fault
begin()
{
    rm -rf "$dir/run" "$dir/list"
    [ "$goes_on" = 0 ] || cp -r "$dir/$start" "$dir/run"
}

# torture NAME PATTERN REASONS EVERY LIBRARY ENVIRONMENT...: counts the calls that match, and fails one of EVERY of
# them (every one when FB_LONG=1)
torture()
{
    local name=$1 pattern=$2 reasons=($3) every=$4 tries=0 faults=0 what stays=0 reason n calls
    local -n with=$5
    shift 5
    [[ $name =~ ${FB_FAULTS:-} ]] || return
    [ "$long" != 1 ] || every=1
    [[ " $* " != *" FB_FAULT_STAYS="* ]] || stays=1
    begin
    train run "${sanitizer[@]}" "${with[@]}" "$@"
    if [ $? != 0 ] || ! grep -Eq "$pattern" "$dir/list"; then
        cp "$dir/run.err" "$dir/err"
        report 1 "$name: the calls are counted"
        return
    fi
    grep -E "$pattern" "$dir/list" |
        awk -v every="$every" -v seed="$seed" 'NR % every == seed % every { print $1 }' > "$dir/numbers"
    calls=$(grep -Ec "$pattern" "$dir/list")
    : > "$dir/err"
    while read -r n <&3; do
        reason=${reasons[tries % ${#reasons[@]}]} tries=$((tries + 1))
        begin
        : > "$dir/why"
        train run "${sanitizer[@]}" "${with[@]}" "$@" FB_FAULT_NUMBER="$n" FB_FAULT_ERRNO="$reason"
        what=$(judge $? "$reason" $stays)
        [ -z "$what" ] && continue
        faults=$((faults + 1))
        echo "$reason: $(grep ' failed$' "$dir/list" | head -n 1): ${what//$'\n'/; }" >> "$dir/err"
        cat "$dir/said" >> "$dir/err"
    done 3< "$dir/numbers"
    : > "$dir/why"
    [ $faults = 0 ] && [ $tries != 0 ]
    report $? "$name: $tries of $calls calls fail, one at a time"
}

writes='^[0-9]+ (fwrite|fflush|fclose|write|pwrite|fsync|ftruncate|mkdir|rename|fputs|fopen|open) '
moves='^[0-9]+ (write|pwrite) ' reads='^[0-9]+ (read|pread|fsync) '
system='^[0-9]+ [^H]' any='^[0-9]+ ' calls_hdf5='^[0-9]+ H5'
goes_on=0 start=
train full "${sanitizer[@]}" 2>> "$dir/err" && [ -s "$dir/full/result.txt" ]
report $? "a run without a fault"
torture "a new run" "$system" "EIO" 37 io
torture "a new run, writing" "$writes" "ENOSPC EDQUOT" 37 io
torture "a new run, short or interrupted writes" "$moves" "SHORT EINTR" 9 io
torture "a new run, short or interrupted reads" "$reads" "SHORT EINTR" 83 io
torture "a new run on a file system that is gone from then on" "$system" "EIO" 83 io FB_FAULT_STAYS=1
torture "a new run, HDF5" "$calls_hdf5" "EIO" 331 hdf5
torture "a new run, memory" "$any" "ENOMEM" 89 memory
torture "a new run without memory from then on" "$any" "ENOMEM" 199 memory FB_FAULT_STAYS=1

# a run that was killed after its first round's checkpoint
FEDBRATS_KILL=round.done:2 train half
[ -e "$dir/half/checkpoint/0000001/server.state" ] && [ ! -e "$dir/half/result.txt" ]
report $? "a run that was interrupted"
goes_on=1 start=half
torture "a run that goes on" "$system" "EIO" 47 io
torture "a run that goes on, writing" "$writes" "ENOSPC EDQUOT" 67 io
torture "a run that goes on, short writes" "$moves" "SHORT EINTR" 17 io
torture "a run that goes on, memory" "$any" "ENOMEM" 149 memory
start=full
torture "a complete run" "$system" "EIO" 17 io
goes_on=0

# --- two ranks: whichever fails, both end, and the line names path and reason
launcher=(mpirun --oversubscribe -n 2)
plain=("${sanitizer[@]}")
[ -z "${FB_SAN:-}" ] || sanitizer+=(ASAN_OPTIONS=verify_asan_link_order=0:allocator_may_return_null=1:detect_leaks=0)
torture "two ranks, the second" "$system" "EIO" 83 io FB_FAULT_RANK=1
torture "two ranks, the first" "$system" "EIO" 431 io FB_FAULT_RANK=0
torture "two ranks, the memory of the second" '^[0-9]+ aligned' "ENOMEM" 263 memory FB_FAULT_RANK=1

# A message that was changed on its way is refused by the server, whatever bit it is.
${CC:-cc} -shared -fPIC $(pkg-config --cflags ompi-c 2> /dev/null) tests/mpi_flip.c -o "$dir/flip.so" \
    $(pkg-config --libs ompi-c 2> /dev/null || echo -lmpi) 2>> "$dir/err"
flipped()
{
    local bit
    for bit in "$@"; do
        rm -rf "$dir/run"
        train run "${sanitizer[@]}" LD_PRELOAD="$dir/flip.so" FB_FLIP_MESSAGE=2 FB_FLIP_BIT="$bit"
        [ $? = 1 ] && grep -q 'error: .*message' "$dir/run.err" ||
            { echo "bit $bit: $(tail -n 2 "$dir/run.err")"; return 1; }
        train run "${sanitizer[@]}" && same || return 1
    done
} >> "$dir/err"
if [ -e "$dir/flip.so" ] && [ -z "${FB_SAN:-}" ]; then
    flipped 0 65 800 $([ "$long" = 1 ] && seq 1 97 5000)
    report $? "a message changed on its way is refused, and the run goes on from the one that is stored"
else
    number=$((number + 1))
    echo "ok $number - a message changed on its way # SKIP with a sanitizer"
fi
launcher=() sanitizer=("${plain[@]}")

# --- a disk that is full for real: the room ends at every stage of a run in turn
full_disk() # MOUNTED: every size at which a run fails; the same command goes on when there is room
{
    local kib rc failures=0 sizes
    sizes=$(seq 8 $([ "$long" = 1 ] && echo 8 || echo 96) 1200)
    for kib in $sizes; do
        rm -rf "$1/run" # a file system does not become smaller than what it holds
        mount -o remount,size="${kib}k" "$1" || return 1
        timeout 60 env "${sanitizer[@]}" "$bin/fedbrats" train "$dir/small.ini" --run.output="$1/run" \
            > "$dir/run.out" 2> "$dir/run.err"
        rc=$?
        [ $rc != 0 ] || break
        failures=$((failures + 1))
        grep ' error: ' "$dir/run.err" | tail -n 1 | grep -q "$1.*No space left on device" && [ $rc = 1 ] ||
            { echo "$kib KiB: status $rc: $(tail -n 2 "$dir/run.err")"; return 1; }
        mount -o remount,size=4m "$1" &&
            timeout 60 "$bin/fedbrats" train "$dir/small.ini" --run.output="$1/run" > "$dir/run.out" \
                2> "$dir/run.err" ||
            { echo "$kib KiB: does not go on: $(tail -n 2 "$dir/run.err")"; return 1; }
        rm -rf "$dir/run" && cp -r "$1/run" "$dir/run" && same || { echo "$kib KiB: another end"; return 1; }
    done
    [ $rc = 0 ] && [ $failures -gt 2 ] || echo "$failures sizes failed"
    echo "$failures" > "$dir/sizes"
    [ $rc = 0 ] && [ $failures -gt 2 ]
} >> "$dir/err"
mkdir "$dir/disk"
if mount -t tmpfs -o size=4m tmpfs "$dir/disk" 2> /dev/null; then
    mounted=$dir/disk
    full_disk "$dir/disk"
    report $? "a full disk: $(cat "$dir/sizes" 2> /dev/null) sizes, each named, and gone on from when there is room"
else
    number=$((number + 1))
    echo "ok $number - a full disk # SKIP needs the right to mount a tmpfs"
fi
! "$bin/fedbrats" plan "$dir/small.ini" --examples > /dev/full 2> "$dir/err" || [ ! -e /dev/full ]
report $? "an output that cannot be written is an error"
rm -rf "$dir/run"
timeout 60 "$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/run" > /dev/full 2> "$dir/err"
[ $? = 1 ] && grep -q 'error: standard output: cannot write: No space left' "$dir/err" && train run && same
report $? "a RESULT line that cannot be written is an error, and is printed by the next start"

# --- a shard that cannot be read any more in mid-run: patient, file and reason; the run goes on when it is back
options=(--data.cache_bytes=0) # every volume is read anew
rm -rf "$dir/run" "$dir/list"
train run "${io[@]}"
read -r numbered _ < <(grep ' pread .*/shards/hospital_01.h5$' "$dir/list" | tail -n 1)
rm -rf "$dir/run" "$dir/list"
train run "${sanitizer[@]}" "${io[@]}" FB_FAULT_NUMBER="$numbered" FB_FAULT_ERRNO=EIO
[ $? = 1 ] && grep -q 'error: .*shards/hospital_01.h5: .*Brats18_CBICA.*: cannot read: Input/output' "$dir/run.err" &&
    train run && same 2>> "$dir/err" >> "$dir/err"
report $? "a shard that fails in mid-run: patient, file and reason are named, and the run goes on"
cut_shard() # the shard is cut off while the run uses it
{
    rm -rf "$dir/run"
    cp "$dir/shards/hospital_01.h5" "$dir/kept.h5"
    FEDBRATS_KILL='' timeout 60 env "${sanitizer[@]}" "$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/run" \
        "${options[@]}" --federation.rounds=100000 > "$dir/run.out" 2> "$dir/run.err" &
    local rc pid=$! i
    for i in $(seq 300); do
        ! grep -q 'round 2/' "$dir/run.err" || break
        sleep 0.1
    done
    truncate -s 5000 "$dir/shards/hospital_01.h5"
    wait $pid
    rc=$?
    cp "$dir/kept.h5" "$dir/shards/hospital_01.h5"
    [ $rc = 1 ] && grep -q 'error: .*shards/hospital_01.h5: .*Brats18_CBICA' "$dir/run.err"
}
cut_shard
rc=$?
cp "$dir/run.err" "$dir/err"
report $rc "a shard that is cut off in mid-run is named with the patient"
options=()

# --- a message that was damaged on the disk is made and charged again
damage() # COMMAND...: of the second round's message of hospital 1, which the interrupted run has stored
{
    local message
    rm -rf "$dir/run"
    cp -r "$dir/half" "$dir/run"
    message=$(ls "$dir"/run/outbox/hospital_01/0000001_0.msg) || return 1
    "$@" "$message"
    train run || cat "$dir/run.err" >&2
    grep -q "$message: the message was charged but was changed: a new attempt" "$dir/run.err" &&
        [ -s "${message%_0.msg}_1.msg" ]
} 2>> "$dir/err"
flip_byte()
{
    local byte
    byte=$(od -An -tu1 -j 100 -N 1 "$1")
    printf "\\x$(printf %02x $((byte ^ 4)))" | dd of="$1" bs=1 seek=100 conv=notrunc 2> /dev/null
}
: > "$dir/err"
damage flip_byte && damage truncate -s -1 && damage truncate -s 0
report $? "a message damaged on the disk: a warning, a new attempt"

echo "1..$number"
exit $failed
