#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checkpoints: runs of every kind that are killed and go on, on another number of ranks, with the same bits; runs that
# are asked to stop; checkpoints that are damaged, old, or of another run.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
exec 2> "$dir/stderr" # where the shell says that a command was killed
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/resume.sh"

make_cohort << INI
[federation]
rounds = 4
[privacy]
key = seed
[eval]
on = validation
INI

# rounds_run RUN: how many rounds its log tells of
rounds_run()
{
    grep -c 'Z round ' "$dir/$1/log.txt"
}

# interrupt NAME RANKS POINT:COUNT RANKS OPTION...: a run of that kind, killed on the first and ended on the second
# number of ranks, is the uninterrupted one; at most one round was computed again
interrupt()
{
    local name=$1 first=$2 point=$3 then=$4
    shift 4
    [ -d "$dir/$name" ] || train 0 "$name" "$@" || return 1
    rm -rf "$dir/run"
    FEDBRATS_KILL=$point train "$first" run "$@" && return 1
    train "$then" run "$@" && same_rounds "$name" run && [ "$(rounds_run run)" -le 5 ]
}

# kind NAME OPTION...: killed early and late, few and many ranks; each kind at one of three points, FB_LONG=1: at all
kinds=0
kind()
{
    local -a ways=('0 round.committed:2 3' '2 round.done:3 0' '0 checkpoint.written:3 2')
    local way
    [ "${FB_LONG:-0}" = 1 ] || ways=("${ways[kinds++ % 3]}")
    for way in "${ways[@]}"; do
        interrupt "$1" $way "${@:2}"
        report $? "$1: killed (ranks, point, ranks of the end: $way)"
    done
}
laplace='--privacy.mechanism=laplace --privacy.clip=1e-3 --privacy.epsilon_answer=1000'
dpsgd='--privacy.mechanism=dpsgd --privacy.clip_norm=1 --privacy.noise_multiplier=1'
kind plain --sharing.select=topk --sharing.fraction=0.1 --federation.participation=0.5
kind keep --train.momentum=keep
kind keep-laplace --train.momentum=keep --sharing.select=random --sharing.fraction=0.01 --federation.participation=0.5 \
    $laplace
kind average --train.momentum=average
kind central --privacy.trust=central --federation.weighting=uniform $laplace
kind public --sharing.select=public --sharing.fraction=0.1 $laplace
kind dpsgd-keep --train.momentum=keep $dpsgd
kind dpsgd-average --train.momentum=average $dpsgd
kind local --run.mode=local
kind local-dpsgd --run.mode=local $dpsgd
kind centralised --run.mode=centralised

FEDBRATS_KILL=file.written:14 train 0 end --run.mode=centralised
[ $? = 137 ] && [ -s "$dir/end/model.safetensors" ] && [ -s "$dir/end/results.h5.tmp" ] &&
    [ ! -e "$dir/end/result.txt" ] && train 0 end --run.mode=centralised && same_rounds centralised end
report $? "killed after its last checkpoint, before its results are finished, it is ended"

# --- rounds between checkpoints
rm -rf "$dir/run"
options='--run.checkpoint_every=3 --federation.rounds=8 --train.momentum=keep'
train 0 rare $options && [ -d "$dir/rare/checkpoint/0000008" ] &&
    ! FEDBRATS_KILL=round.committed:6 train 0 run $options &&
    [ -d "$dir/run/checkpoint/0000003" ] && train 2 run $options && same_rounds rare run && [ "$(rounds_run run)" = 10 ]
report $? "with a checkpoint every three rounds, the two after the last are computed again"
rm -rf "$dir/run"
FEDBRATS_KILL=round.committed:2 train 0 run --run.checkpoint_every=0
[ ! -d "$dir/run/checkpoint" ] && train 0 run --run.checkpoint_every=0 && train 0 none --run.checkpoint_every=0 &&
    same_rounds none run
report $? "without checkpoints a run begins again"

# --- asked to stop
# stop NAME RANKS HOW OPTION...: asks when the first round is on record, and has the run go on
stop()
{
    local name=$1 ranks=$2 how=$3 pid rc launcher=()
    shift 3
    rm -rf "$dir/run"
    [ "$ranks" = 0 ] || launcher=(mpirun --oversubscribe -n "$ranks")
    timeout 60 "${launcher[@]}" "$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/run" "$@" > "$dir/run.out" \
        2> "$dir/err" &
    pid=$!
    for _ in $(seq 600); do
        grep -qs 'Z round 1/' "$dir/run/log.txt" && break
        sleep 0.05
    done
    case $how in
        file) touch "$dir/run/stop" ;;
        one) kill -USR1 "$(pgrep -f "^$bin/fedbrats train .*--run.output=$dir/run" | tail -n 1)" ;;
        *) pkill "-$how" -P $pid ;; # mpirun, or the run itself
    esac
    wait $pid
    rc=$?
    [ $rc = 85 ] && grep -q 'stopped .*the same command goes on' "$dir/err" && [ ! -s "$dir/run.out" ] &&
        "$FB_PYTHON" -c "import h5py; assert h5py.File('$dir/run/results.h5').attrs['status'] == b'stopped'" &&
        train 2 run "$@" && same_rounds "$name" run && [ ! -e "$dir/run/stop" ]
}
long='--federation.rounds=20'
train 0 long $long
for how in USR1 TERM file; do
    stop long 0 $how $long
    report $? "asked by $how: ends with status 85 and a checkpoint, and goes on to the same bits"
done
for how in USR1 one file; do
    stop long 2 $how $long
    report $? "two ranks, asked by $how: the same"
done
slow='--federation.rounds=3 --train.epochs=12'
train 0 slow $slow
for kind in restart keep; do
    train 0 "slow-$kind" $slow --train.momentum=$kind
    stop "slow-$kind" 0 USR1 $slow --train.momentum=$kind --run.grace_s=0.05 --run.checkpoint_every=0
    rc=$?
    [ $rc = 0 ] && grep -q 'stopped by SIGUSR1 within a round' "$dir/run/log.txt" &&
        [ $kind = "$(grep -q 'going on from .* after round 1' "$dir/run/log.txt" && echo restart || echo keep)" ]
    report $? "momentum = $kind: a round that lasts longer than run.grace_s is given up and repeated"
done
stop slow 0 USR1 $slow --run.grace_s=60 --run.checkpoint_every=0 &&
    grep -q 'stopped on request after round 2' "$dir/run/log.txt" &&
    grep -q 'going on from .* after round 2' "$dir/run/log.txt"
report $? "one that lasts less is ended"

# paused NAME POINT:COUNT OPTION...: starts a run and waits until it has stopped at the point. $! is the shell's child,
# $run the run itself
paused()
{
    FEDBRATS_KILL=$2:stop train 0 "$1" "${@:3}" &
    for _ in $(seq 600); do
        grep -qs 'FEDBRATS_KILL: stop' "$dir/err" && break
        sleep 0.05
    done
    run=$(pgrep -f "^$bin/fedbrats train .*--run.output=$dir/$1")
}
rm -rf "$dir/run"
paused run round.done:4 --run.mode=centralised
kill -USR1 "$run" && kill -CONT "$run" && wait $! && same_rounds centralised run
report $? "asked in its last round: it is complete"

# --- refused at the start
rm -rf "$dir/run"
train 0 run --data.patch=64x64x64 ${laplace/1000/1}
[ $? = 2 ] && grep -q 'choose a smaller patch' "$dir/err" && [ -s "$dir/run/used.ini" ] && train 0 run $laplace &&
    train 0 mended $laplace && same_rounds mended run && grep -q 'epsilon_answer = 1000' "$dir/run/used.ini"
report $? "a run that was refused before its first release starts with other options"

# --- a complete run
cp "$dir/plain.out" "$dir/first"
before=$(cd "$dir/plain" && find . -type f -exec sha256sum {} + | sort)
plain='--sharing.select=topk --sharing.fraction=0.1 --federation.participation=0.5'
train 2 plain $plain && cmp -s "$dir/plain.out" "$dir/first" &&
    [ "$(cd "$dir/plain/checkpoint" && echo *)" = '0000003 0000004' ] &&
    [ "$(cd "$dir/plain" && find . -type f -exec sha256sum {} + | sort)" = "$before" ]
report $? "a complete run prints its RESULT again and changes nothing"
train 0 plain $plain --run.resume=never
[ $? = 2 ] && grep -q 'run.resume = never' "$dir/err"
report $? "run.resume = never refuses a used folder"
mkdir "$dir/foreign" && touch "$dir/foreign/thesis.tex"
train 0 foreign
[ $? = 2 ] && grep -q 'no run was begun there, but it is not empty (thesis.tex)' "$dir/err" &&
    [ "$(ls "$dir/foreign")" = thesis.tex ]
report $? "a folder with something else in it is refused and left as it is"
exec 9< "$dir/local/log.txt"
flock -n 9
train 0 local --run.mode=local --federation.rounds=5
[ $? = 1 ] && grep -q 'another run is at work in this folder' "$dir/err"
report $? "a folder in use is refused"
exec 9<&-
paused late run.looked:1 $plain
cp -r "$dir/plain" "$dir/late" && kill -CONT "$run" && wait $! && cmp -s "$dir/late.out" "$dir/first" &&
    diff -r -x log.txt "$dir/plain" "$dir/late" > "$dir/err"
report $? "a run that began and ended after another had looked for one is found, too"
FEDBRATS_KILL=file.renamed:1 train 0 local --run.mode=local --federation.rounds=5
[ $? = 137 ] && train 0 local --run.mode=local && "$FB_PYTHON" -c "
import h5py; assert h5py.File('$dir/local/results.h5').attrs['status'] == b'complete'"
report $? "killed as it goes on to more rounds, it is complete without them when its results are"
train 0 local --run.mode=local --federation.rounds=5 && train 0 five --run.mode=local --federation.rounds=5 &&
    same_rounds five local
report $? "a complete run goes on to more rounds from its last checkpoint"

# --- damaged checkpoints
# damaged NAME: a run killed after three rounds, to be damaged
damaged()
{
    [ -d "$dir/damaged" ] || FEDBRATS_KILL=round.committed:3 train 0 damaged $plain
    rm -rf "$dir/run"
    cp -r "$dir/damaged" "$dir/run"
    [ -s "$dir/run/checkpoint/0000002/server.state" ] && [ -s "$dir/run/checkpoint/0000001/server.state" ]
}
for file in server.state model.safetensors; do
    damaged && printf 'x' | dd of="$dir/run/checkpoint/0000002/$file" bs=1 seek=700 conv=notrunc 2> "$dir/dd" &&
        train 0 run $plain && grep -q "checkpoint of 2 rounds: passed over: .*/$file" "$dir/err" &&
        same_rounds plain run
    report $? "a changed $file: the checkpoint before it serves"
    damaged && truncate -s -1 "$dir/run/checkpoint/0000002/$file" && train 0 run $plain &&
        grep -q 'passed over' "$dir/err" && same_rounds plain run
    report $? "a $file that was cut off: the same"
done
rm -rf "$dir/run"
FEDBRATS_KILL=round.committed:3 train 0 run --train.momentum=keep
printf 'x' | dd of="$dir/run/checkpoint/0000002/hospital_07.state" bs=1 seek=700 conv=notrunc 2> "$dir/dd"
train 0 run --train.momentum=keep && grep -q "passed over: .*/hospital_07.state" "$dir/err" && same_rounds keep run
report $? "a hospital's changed state: the same"
damaged && rm "$dir/run/checkpoint/0000002/server.state" && train 0 run $plain && same_rounds plain run
report $? "a checkpoint that was not finished: the same"
damaged && printf 'x' | dd of="$dir/run/checkpoint/0000002/model.safetensors" bs=1 seek=700 conv=notrunc 2> "$dir/dd"
FEDBRATS_KILL=checkpoint.model:1 train 0 run $plain
[ -s "$dir/run/checkpoint/0000002/model.safetensors" ] && train 0 run $plain && same_rounds plain run
report $? "killed while it writes a checkpoint in place of a damaged one: the same"
damaged && truncate -s 100 "$dir"/run/checkpoint/*/server.state
train 0 run $plain
[ $? = 1 ] && grep -q 'no checkpoint is usable; put one back' "$dir/err" && rm -r "$dir/run/checkpoint" &&
    train 0 run $plain && same_rounds plain run
report $? "no usable checkpoint: refused; without the folder all is computed again"
damaged && cp "$dir/average/checkpoint/0000004/"* "$dir/run/checkpoint/0000002/"
train 0 run $plain && grep -q 'it is the checkpoint of 4 rounds' "$dir/err" && same_rounds plain run
report $? "a checkpoint under another number is passed over"
damaged && cp -r "$dir/average/checkpoint/0000003" "$dir/run/checkpoint/"
train 0 run $plain
[ $? = 2 ] && grep -q 'belongs to another run' "$dir/err"
report $? "a checkpoint of another run is refused"
damaged && "$FB_PYTHON" - "$dir/run/results.h5" << 'PY' && train 0 run $plain
import sys, h5py
with h5py.File(sys.argv[1], "r+") as run:
    run["dice_validation_mean"][..., 0] = 0.5
PY
[ $? = 1 ] && grep -q 'dice_validation_mean: its first 2 rounds are not those that the run wrote' "$dir/err"
report $? "changed results are refused"
central="--privacy.trust=central --federation.weighting=uniform $laplace"
rm -rf "$dir/run"
FEDBRATS_KILL=round.committed:3 train 0 run $central
cp -r "$dir/run" "$dir/behind"
for who in hospital_00 server; do
    rm -rf "$dir/run"
    cp -r "$dir/behind" "$dir/run"
    head -n 2 "$dir/behind/ledger/$who.txt" > "$dir/run/ledger/$who.txt"
    train 0 run $central
    [ $? = 1 ] && grep -q 'is not the one of the checkpoint, which knows 2 releases' "$dir/err"
    report $? "a ledger that is behind the checkpoint is refused: $who"
done

# --- the same noise never answers other data, nor other noise the same data without a charge
other() # TEXT RUN OPTION...: refused as another run, and nothing is charged
{
    local text=$1 before
    before=$(cat "$dir/$2"/ledger/*)
    train 0 "${@:2}"
    [ $? = 2 ] && grep -q "the run began with \"$text: [0-9a-f]" "$dir/err" &&
        [ "$(cat "$dir/$2"/ledger/*)" = "$before" ]
}
rm -rf "$dir/run"
cp "$dir/plain/model.safetensors" "$dir/begin"
FEDBRATS_KILL=round.done:1 train 0 run --run.mode=local $dpsgd --train.init_from="$dir/begin"
cp "$dir/average/model.safetensors" "$dir/begin"
other train.init_from run --run.mode=local $dpsgd --train.init_from="$dir/begin"
report $? "another model to begin with, under the same name, is refused"
rm -rf "$dir/run"
new_key() { (umask 077 && od -An -tx1 -N32 -v /dev/urandom | tr -d ' \n' > "$dir/key"); }
new_key
FEDBRATS_KILL=round.committed:1 train 0 run --train.momentum=keep $dpsgd --privacy.key="$dir/key"
! grep -q "$(cut -c1-16 "$dir/key")" "$dir/run/identity.txt" && new_key
other 'key file' run --train.momentum=keep $dpsgd --privacy.key="$dir/key"
report $? "another key, under the same name, is refused"
# Where noise cannot be drawn again, a round that is repeated is another release: all hospitals have one more.
for way in --run.mode=local --train.momentum=keep; do
    rm -rf "$dir/run"
    FEDBRATS_KILL=round.committed:2 train 0 run $way $dpsgd --privacy.key=system
    train 0 run $way $dpsgd --privacy.key=system && [ "$(cat "$dir"/run/ledger/* | grep -c '^1 1 ')" = 13 ] &&
        [ "$(cat "$dir"/run/ledger/* | grep -vc '^fedbrats')" = $((13 * 5)) ]
    report $? "$way: a repeated round with fresh keys is charged again"
done

echo "1..$number"
exit $failed
