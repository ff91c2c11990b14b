#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kill matrix: a run that is killed at every step of its writing and sending, and at random moments, on one, two and
# four ranks, goes on, on another number of ranks, to the same model, metrics, ledgers and messages; it computes at most
# one round again, and its results can be read at any time. A sample; FB_LONG=1: every pass of every point, 300 moments.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
exec 2> "$dir/stderr" # where the shell says that a command was killed
logs=("$dir/failed")
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/resume.sh"

rounds=3
[ "${FB_LONG:-0}" != 1 ] || rounds=6 # enough passes on four ranks
make_cohort << INI
[federation]
rounds = $rounds
participation = 0.4
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
every = 2
INI
RANDOM=20251125
points='run.created round.done round.committed checkpoint.begun checkpoint.model checkpoint.written checkpoint.pruning
    server.applied message.received message.sent outbox.stored outbox.charged ledger.written file.written file.flushed
    file.renamed'
rank_counts=(0 2 4) # 0: one, without MPI
killed=0 wrong=0 most=0

# note TEXT: a case went wrong; the first ones are shown
note()
{
    wrong=$((wrong + 1))
    { echo "$1"; tail -n 3 "$dir/err"; } >> "$dir/failed"
}

# check NAME: the run has ended as the uninterrupted one, and its logs tell of at most `most` rounds more
check()
{
    local computed
    same_rounds full run || note "$1: other bits"
    computed=$(grep -c 'Z round ' "$dir/run/log.txt")
    [ "$computed" -le $((rounds + most)) ] || note "$1: $computed rounds were computed, of $rounds and $most"
}

# at_point RANKS POINT COUNT: status 1 when the run ends before the pass
at_point()
{
    local ranks=$1 other=${rank_counts[RANDOM % 3]}
    rm -rf "$dir/run"
    FEDBRATS_KILL=$2:$3 train "$ranks" run && return 1
    killed=$((killed + 1)) most=1
    on_record run 0 || note "$2:$3 on $ranks ranks: results, ledgers or messages"
    train "$other" run || note "$2:$3 on $ranks ranks: does not go on, on $other"
    check "$2:$3 on $ranks ranks, then $other"
}

# at_random LIMIT_MS: kills one rank of a run, or the only one, some time after its start; then has it go on, perhaps to
# the next kill
at_random()
{
    local pid ranks=${rank_counts[RANDOM % 3]} launcher=()
    [ "$ranks" = 0 ] || launcher=(mpirun --oversubscribe -n "$ranks")
    timeout 60 "${launcher[@]}" "$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/run" > "$dir/run.out" \
        2> "$dir/err" &
    pid=$!
    sleep "$(printf '0.%03d' $((RANDOM % $1)))"
    pgrep -f "^$bin/fedbrats train .*--run.output=$dir/run" | shuf -n 1 --random-source=<(yes $RANDOM) |
        xargs -r kill -KILL 2>> "$dir/err" && killed=$((killed + 1))
    wait $pid
    [ ! -d "$dir/run" ] || on_record run 0 || note "killed at random on $ranks ranks: results, ledgers or messages"
}

train 0 full
report $? "an uninterrupted run"
if [ "${FB_LONG:-0}" = 1 ]; then
    for ranks in "${rank_counts[@]}"; do
        before=$killed
        for point in $points; do
            for count in $(seq 40); do
                [ $((killed - before)) -lt 240 ] && at_point "$ranks" "$point" "$count" || break
            done
        done
        [ $wrong = 0 ] && [ $((killed - before)) -ge 200 ]
        report $? "$((killed - before)) kills at points, $ranks ranks (0: without MPI)"
    done
    moments=300
else
    for point in $points; do
        at_point "${rank_counts[RANDOM % 3]}" "$point" $((1 + RANDOM % 3))
    done
    [ $wrong = 0 ] && [ $killed -ge 12 ]
    report $? "$killed kills at points"
    moments=6
fi
before=$killed
while [ $((killed - before)) -lt $moments ]; do
    rm -rf "$dir/run"
    kills=$killed
    for _ in 1 2 3; do
        at_random 900
    done
    most=$((killed - kills))
    train 0 run || note "killed at random: does not go on"
    check "killed at random"
done
[ $wrong = 0 ]
report $? "$((killed - before)) kills at random moments"

echo "1..$number"
exit $failed
