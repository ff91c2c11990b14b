#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ranks that are killed, stopped or stalled, and a broadcast that hangs: the job ends within run.watchdog_s + 10 s with
# a status that is not 0, one line names rank, host, process, hospital, round and phase, on standard error, in log.txt
# and in ranks/verdict.txt, and no process is left. And no alarm where there is nothing: a short stop, the whole job
# suspended, load.
# FB_LONG=1: every phase x rank x kind on three ranks, and 100 injections at random moments on one to four ranks.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
exec 2> "$dir/stderr" # where the shell says that a command was killed
logs=("$dir/why")
. "$(dirname "$0")/tap.sh"

limit_s=3
host=$(hostname)
bin=$FB_BIN
: > "$dir/why"
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.001 --seed 3 > /dev/null 2> "$dir/why" &&
    "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/why" ||
    { report 1 "cohort"; echo "1..$number"; exit 1; }
${CC:-cc} -shared -fPIC $(pkg-config --cflags ompi-c 2> /dev/null) tests/mpi_hang.c -o "$dir/hang.so" \
    $(pkg-config --libs ompi-c 2> /dev/null || echo -lmpi) || report 1 "library that hangs"

cat > "$dir/small.ini" << INI
[run]
watchdog_s = $limit_s
[data]
shards = $dir/shards
patch = 16x16x16
[model]
blocks_down = 1,1
blocks_up = 1
[federation]
rounds = 4
[sharing]
select = random
fraction = 0.1
[eval]
on = validation
INI

# train NAME RANKS RANK HARM OPTION...: a run; RANK has FEDBRATS_KILL=HARM. RANKS 0 is without MPI. Leaves its status in
# NAME.rc and its seconds, from the harm on where there was some, in NAME.s.
train()
{
    local name=$1 ranks=$2 bad=$3 harm=$4 command=() rank start=$EPOCHREALTIME
    shift 4
    local program=("$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/$name" "$@")
    for ((rank = 0; rank < ranks; rank++)); do
        [ $rank = 0 ] || command+=(:)
        command+=(-n 1 env ${preload[@]+"${preload[@]}"})
        [ "$rank" != "$bad" ] || command+=(FEDBRATS_KILL="$harm")
        command+=("${program[@]}")
    done
    if [ "$ranks" = 0 ]; then
        timeout -k 5 60 env FEDBRATS_KILL="$harm" "${program[@]}" > "$dir/$name.out" 2> "$dir/$name.err"
    else
        timeout -k 5 60 mpirun "${command[@]}" > "$dir/$name.out" 2> "$dir/$name.err" < /dev/null
    fi
    echo $? > "$dir/$name.rc"
    local end=$EPOCHREALTIME harmed
    harmed=$(sed -n 's/.*FEDBRATS_KILL: [a-z]* at \([0-9.]*\) s since 1970.*/\1/p' "$dir/$name.err")
    echo "${harmed:-$start} $end" | awk '{ printf "%.2f\n", $2 - $1 }' > "$dir/$name.s"
}
preload=()

say() # what went wrong with a run, for report
{
    echo "$@" >> "$dir/why"
    return 1
}

# ended NAME: not well, in time, and nobody is left
ended()
{
    local rc seconds
    rc=$(cat "$dir/$1.rc") seconds=$(cat "$dir/$1.s")
    tail -n 20 "$dir/$1.err" > "$dir/why"
    [ "$rc" != 0 ] && [ "$rc" != 124 ] && [ "$rc" != 85 ] || say "$1: status $rc" || return
    awk -v s="$seconds" -v most=$((limit_s + 10)) 'BEGIN { exit !(s <= most) }' || say "$1: $seconds s" || return
    for pid in $(cat "$dir/$1"/ranks/rank_*.txt | sed -n 's/^pid: //p'); do
        if grep -qs '^State:[[:space:]]*[^Z[:space:]]' "/proc/$pid/status"; then
            say "$1: process $pid is left"
            return
        fi
    done
}

# named NAME RANK WORDS PLACE: one line of each record says so; the hospital is one of the rank's
named()
{
    local line="watchdog: .*rank $2 on $host \(pid [0-9]+\).*$3.* (in )?$4; run\.watchdog_s = $limit_s\."
    local file hospital names
    for file in "$dir/$1.err" "$dir/$1/log.txt" "$dir/$1/ranks/verdict.txt"; do
        [ "$(grep -aEc "$line" "$file")" = 1 ] || say "$1: not once in $file: $line" || return
        [ "$(grep -aEc 'run\.watchdog_s = ' "$file")" = 1 ] || say "$1: more than one story in $file" || return
    done
    hospital=$(grep -aE "$line" "$dir/$1.err" | sed -n 's/.*, hospital [0-9]* (\([^)]*\)), phase.*/\1/p' | tail -n 1)
    names=$(grep -aE "rank $2: [0-9]+ train cases, " "$dir/$1/log.txt" | sed 's/.* round://' | head -n 1)
    ! grep -aE "$line" "$dir/$1.err" | grep -aq 'before round 1, no hospital yet, phase starting' || return 0
    [ -n "$names" ] || [[ $4 != *starting && $4 != *yet* ]] || names=$hospital # not told yet
    [ -n "$hospital" ] && [[ " $names " == *" $hospital "* ]] || say "$1: \"$hospital\" is none of \"$names\""
}

words() # KIND: what the line says of it
{
    case $1 in
        kill) echo 'has ended in the middle of the run' ;;
        stop) echo 'has given no sign of life for' ;;
        stall) echo 'has made no step for' ;;
    esac
}

# --- each kind, in every phase: KIND RANK POINT COUNT ROUND PHASE
matrix='stop 0 phase.aggregating 2 2 aggregating
    kill 1 phase.training 6 2 training
    stall 2 phase.evaluating 2 2 evaluating
    stop 1 phase.broadcasting 3 3 broadcasting
    stop 2 phase.ending 1 4 ending
    kill 0 phase.writing 2 2 writing'
if [ "${FB_LONG:-0}" = 1 ]; then
    matrix=$(for kind in stop kill stall; do
        for rank in 0 1 2; do
            for point in phase.preparing:2:2 phase.training:6:2 phase.protecting:6:2 phase.sending:2:2 \
                phase.aggregating:2:2 phase.broadcasting:3:3 phase.evaluating:4:4 phase.writing:1:1 phase.ending:1:4 \
                run.created:1:0; do
                phase=${point%%:*} phase=${phase#phase.} count=${point#*:}
                [ "$phase" != aggregating ] || [ $rank = 0 ] || continue
                [ "$phase" != ending ] || [ $kind = stop ] || continue # the others may be through already
                echo $kind $rank "${point%%:*}" "${count%:*}" "${count#*:}" "${phase/run.created/starting}"
            done
        done
    done)
fi
number_of=0
again= # a run of which rank 1 was killed
batch=()
check_batch()
{
    wait
    local what name kind rank round phase place
    for what in ${batch[@]+"${batch[@]}"}; do
        IFS=, read -r name kind rank round phase <<< "$what"
        place="round $round, hospital [0-9]+ .*, phase $phase"
        [ "$round" != 0 ] || place="before round 1, hospital [0-9]+ .*, phase $phase"
        ended "$name" && named "$name" "$rank" "$(words "$kind")" "$place"
        report $? "$kind of rank $rank in phase $phase ends the job within $(cat "$dir/$name.s") s, named"
    done
    batch=()
}
while read -r kind rank point count round phase; do
    number_of=$((number_of + 1))
    [ "$kind $rank" != "kill 1" ] || again=run$number_of
    train run$number_of 3 "$rank" "$point:$count:$kind:0.6" &
    batch+=(run$number_of,$kind,$rank,$round,$phase)
    [ ${#batch[@]} -lt 3 ] || check_batch
done <<< "$matrix"
check_batch

# --- a hung broadcast; one that hangs before the ranks have met; one process; no shared ranks/; no file system
preload=(LD_PRELOAD="$dir/hang.so" FB_HANG_RANK=1 FB_HANG_CALL=60)
train hung 2 - - &
preload=(LD_PRELOAD="$dir/hang.so" FB_HANG_RANK=1 FB_HANG_CALL=1)
train unmet 2 - - &
preload=()
train alone 0 - phase.training:5:stall:0.6 &
mkdir "$dir/blocked" && : > "$dir/blocked/ranks" # no folder of that name can be made
train blocked 2 1 phase.training:9:stall:0.6 &
train stuck 0 - phase.training:5:stall:2 &
until [ -s "$dir/stuck/ranks/rank_0000.txt" ] || ! sleep 0.05; do :; done
mkfifo "$dir/fifo" && mv -f "$dir/fifo" "$dir/stuck/ranks/rank_0000.txt" # opening it waits for ever
wait
last=$(sed -n 's/.*the last to move was rank \([01]\) on.*/\1/p' "$dir/hung.err")
ended hung && named hung "$last" '' 'round [1-4], hospital [0-9]+ .*, phase [a-z]+' &&
    grep -aq 'every rank has waited for the others for' "$dir/hung.err" &&
    [ "$(grep -ac 'rank [01] on .*waits for others' "$dir/hung.err")" = 2 ]
report $? "a broadcast that hangs ends the job within $(cat "$dir/hung.s") s"
[ "$(cat "$dir/unmet.rc")" = 1 ] && grep -aq 'rank 0 on .* has waited for other ranks for' "$dir/unmet.err"
report $? "a rank that does not come to the start ends the job within $(cat "$dir/unmet.s") s"
ended alone && named alone 0 "$(words stall)" 'round 1, hospital [0-9]+ .*, phase training'
report $? "a process without MPI watches itself"
grep -aq 'each rank can only watch itself' "$dir/blocked.err" &&
    grep -aEq "rank 1 on $host .*has made no step for .* in round 2, .*, phase training" "$dir/blocked.err" &&
    grep -aq 'has made no step' "$dir/blocked/log.txt"
report $? "without ranks/ each rank watches itself, which is said"
grep -aEq "rank 0 on $host .*no answer from the file system .* in round 1, .*, phase training" "$dir/stuck.err" &&
    [ "$(cat "$dir/stuck.rc")" = 1 ]
report $? "a file system that does not answer ends the job in $(cat "$dir/stuck.s") s"

# --- after that, the same command goes on, and says what happened
train $again 3 - -
[ "$(cat "$dir/$again.rc")" = 0 ] && [ ! -e "$dir/$again/ranks" ] && grep -aq '^RESULT' "$dir/$again.out" &&
    grep -aq 'the last run in this folder: .*rank 1 on' "$dir/$again/log.txt"
report $? "the same command goes on, logs what ended the last run, and leaves no ranks/"

# --- no false alarm
pids() # NAME RANKS: of a run, once all have given a sign
{
    until [ "$(cat "$dir/$1"/ranks/rank_*.txt 2> /dev/null | grep -ac '^pid: ')" = "$2" ] || ! sleep 0.05; do :; done
    cat "$dir/$1"/ranks/rank_*.txt | sed -n 's/^pid: //p'
}
spin=()
for ((i = 0; i < 3; i++)); do
    (while :; do :; done) &
    spin+=($!)
done
train loaded 3 - - --run.watchdog_s=2 --federation.rounds=5
kill "${spin[@]}"
train paused 2 - - --federation.rounds=20 &
all=$(pids paused 2)
sleep 0.5
kill -STOP ${all##*$'\n'}
sleep 2
kill -CONT ${all##*$'\n'}
sleep 0.2
kill -STOP $all # as Slurm suspends a job
sleep $((limit_s + 2))
kill -CONT $all
wait
[ "$(cat "$dir/loaded.rc")" = 0 ] && ! grep -aq watchdog "$dir/loaded.err" && [ ! -e "$dir/loaded/ranks" ]
report $? "no alarm at run.watchdog_s = 2 beside three busy processes, in $(cat "$dir/loaded.s") s"
cat "$dir/paused.err" > "$dir/why"
[ "$(cat "$dir/paused.rc")" = 0 ] && ! grep -aq watchdog "$dir/paused.err" &&
    awk '{ exit !($1 > 7) }' "$dir/paused.s"
report $? "no alarm when a rank is stopped for 2 s, and the whole job for $((limit_s + 2)) s"

# --- 100 injections
# random_injection NUMBER RANKS RANK KIND DELAY: leaves random_NUMBER.late, the seconds from the injection on
random_injection()
{
    local name=random_$1 pid
    if [ "$4" = stall ]; then
        train "$name" "$2" "$3" "phase.$5:stall:0.4" --federation.rounds=3000
        cp "$dir/$name.s" "$dir/$name.late"
        return
    fi
    train "$name" "$2" - - --federation.rounds=3000 &
    pid=$(pids "$name" "$2" | sed -n "$(($3 + 1))p")
    sleep "$5"
    local start=$EPOCHREALTIME
    kill -"${4^^}" "$pid"
    wait
    echo "$start $EPOCHREALTIME" | awk '{ printf "%.2f\n", $2 - $1 }' > "$dir/$name.late"
    cp "$dir/$name.late" "$dir/$name.s"
}

check_random() # NUMBER RANK KIND: and the dead rank's last sign is what was told
{
    local name=random_$1 hospital='hospital [0-9]+ .*'
    local place="(round [0-9]+, $hospital|before round 1, ($hospital|no hospital yet)), phase [a-z]+"
    ended "$name" && named "$name" "$2" "$(words "$3")" "$place" || return
    [ "$3" = kill ] || return 0 # the launcher wakes a stopped one, which then gives another sign
    place=$(awk -F ': ' '{ v[$1] = $2 } END { split(v["hospital"], h, " ")
        printf "%s, ", (v["round"] > 0 ? "round " v["round"] : "before round 1")
        if (h[1] < 0) printf "no hospital yet"; else printf "hospital %s (%s)", h[1], h[2]
        printf ", phase %s;", v["phase"] }' \
        "$dir/$name/ranks/rank_000$2.txt")
    grep -aqF "$place" "$dir/$name.err" || say "$name: not told: $place"
}

if [ "${FB_LONG:-0}" = 1 ]; then
    RANDOM=20261125
    injected=()
    for ((i = 1; i <= 100; i++)); do
        kinds=(stop kill stop kill stall)
        kind=${kinds[RANDOM % 5]} ranks=$((RANDOM % 3 + 2)) delay=$((RANDOM % 3)).$((RANDOM % 9))
        phases=(preparing training protecting sending broadcasting evaluating writing)
        [ $kind != stall ] || delay=${phases[RANDOM % 7]}:$((RANDOM % 6 + 1))
        [ $kind != stall ] || [ $((RANDOM % 3)) != 0 ] || ranks=1
        rank=$((RANDOM % ranks))
        injected+=($i,$rank,$kind)
        random_injection $i $ranks $rank $kind $delay &
        [ $((i % 3)) != 0 ] || wait
    done
    wait
    good=0
    for what in "${injected[@]}"; do
        IFS=, read -r i rank kind <<< "$what"
        if check_random $i $rank $kind; then
            good=$((good + 1))
        else
            sed "s/^/# $kind $rank: /" "$dir/why" | tail -n 4
        fi
    done
    [ $good = 100 ]
    slowest=$(cat "$dir"/random_*.late | sort -n | tail -n 1)
    report $? "$good of 100 random injections end in time, named; the slowest took $slowest s"
fi
echo "1..$number"
exit $failed
