#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A run that is killed at any step of its writing and sending, and goes on: what the server received is on disk and
# charged, read here without the program; and model, ledgers, messages and metrics end as those of an uninterrupted run.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
exec 2> "$dir/stderr" # where the shell says that a command was killed
logs=("$dir/err")
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/resume.sh"

make_cohort << INI
[federation]
rounds = 3
participation = 0.3
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
hospitals=4 # of a round: 0.3 of 13

# kill_and_resume RANKS FULL POINT COUNT OPTION...: POINT's COUNT-th pass
kill_and_resume()
{
    local ranks=$1 full=$2 point=$3 count=$4 received=0
    shift 4
    rm -rf "$dir/run"
    FEDBRATS_KILL=$point:$count train "$ranks" run "$@" && return 1
    case $point in
        message.*) [ "$ranks" = 2 ] || received=$count ;;
        server.applied) received=$((count * hospitals)) ;;
        round.*) received=$((count * hospitals)) ;;
    esac
    on_record run "$received" || return 1
    train "$ranks" run "$@" && same "$full" run
}

# --- every point, without MPI and with two ranks
train 0 full && on_record full $((3 * hospitals))
report $? "an uninterrupted run keeps and charges every message"
points='file.written:1 file.written:3 file.written:16 file.flushed:17 file.renamed:1 file.renamed:18
    checkpoint.begun:1 checkpoint.model:2 checkpoint.written:1 checkpoint.pruning:1 outbox.stored:7
    ledger.written:1 ledger.written:6 outbox.charged:4 message.sent:2
    message.received:1 message.received:11 server.applied:1 server.applied:3 run.created:1
    round.done:2 round.committed:1 round.committed:3 phase.ending:1'
central='--privacy.trust=central --federation.weighting=uniform'
for point in $points; do
    kill_and_resume 0 full "${point%:*}" "${point#*:}"
    report $? "killed at $point, goes on to the same bits"
done
train 2 two && same_rounds full two
report $? "two ranks keep and charge the same"
for point in outbox.stored:2 message.sent:3 message.received:5 round.done:1; do
    kill_and_resume 2 full "${point%:*}" "${point#*:}"
    report $? "killed at $point on two ranks, goes on to the same bits"
done

# --- a server that adds the noise; public coordinates; patients' privacy
train 0 central $central && on_record central $((3 * hospitals)) &&
    [ "$(wc -l < "$dir/central/ledger/server.txt")" = 4 ]
report $? "a trusted server's sums are kept and charged"
for point in outbox.stored:5 ledger.written:10 server.summed:2 server.applied:1; do
    kill_and_resume 0 central "${point%:*}" "${point#*:}" $central
    report $? "trust = central: killed at $point, goes on to the same bits"
done
secagg='--privacy.trust=secagg --federation.weighting=uniform --privacy.mechanism=gaussian --privacy.clip_norm=1e-2
    --privacy.noise_multiplier=0.5 --sharing.select=public'
train 0 secagg $secagg && kill_and_resume 0 secagg server.summed 2 $secagg
report $? "trust = secagg with public coordinates: killed, goes on to the same bits"
dpsgd='--privacy.mechanism=dpsgd --privacy.clip_norm=1 --privacy.noise_multiplier=1 --privacy.clip=inf
    --sharing.select=topk --federation.rounds=2'
train 0 dpsgd $dpsgd && kill_and_resume 0 dpsgd outbox.charged 6 $dpsgd
report $? "dpsgd: killed, goes on to the same bits"

# --- what cannot be sent again is made and charged again
lines() # RUN: charged messages of hospitals
{
    cat "$dir/$1"/ledger/hospital_*.txt | grep -vc '^fedbrats'
}
again lost full
message=$(ls "$dir"/lost/outbox/hospital_*/0000001_0.msg | head -n 1)
rm "$message"
train 0 lost && grep -q 'is missing: a new attempt' "$dir/err" && [ -s "${message%_0.msg}_1.msg" ] &&
    ! cmp -s "$dir/lost/model.safetensors" "$dir/full/model.safetensors" &&
    [ "$(lines lost)" -gt "$(lines full)" ] && grep -q '^1 1 ' "$dir"/lost/ledger/hospital_*.txt
report $? "a lost message: fresh noise, a second charge, and a warning"
again lost2 lost
train 0 lost2 && [ "$(lines lost2)" = "$(lines lost)" ] &&
    cmp -s "$dir/lost2/model.safetensors" "$dir/lost/model.safetensors"
report $? "and the attempt is then the one that is sent again"
again sum central
rm "$dir/sum/outbox/server/0000002_0.msg"
train 0 sum $central && [ "$(lines sum)" = $(($(lines central) + hospitals)) ] &&
    [ "$(wc -l < "$dir/sum/ledger/server.txt")" = 5 ] && grep -q 'since they share their noise' "$dir/err"
report $? "a lost sum is charged to every hospital of its round"
ledger=$(ls -S "$dir"/full/ledger/hospital_*.txt | head -n 1)
again torn full
truncate -s -30 "$dir/torn/ledger/${ledger##*/}"
train 0 torn && grep -q 'cut off' "$dir/err" && same_rounds full torn
report $? "a torn last line is cut off, and its message charged"

# --- what was spent must be known: ledgers and messages that are gone, a second process, an edited budget
unknown() # NAME TEXT RUN OPTION...
{
    local name=$1 text=$2
    train 0 "${@:3}"
    [ $? = 1 ] && grep -q -- "$text" "$dir/err"
    report $? "refused: $name"
}
again gone full
rm "$dir/gone/identity.txt"
unknown "identity.txt is missing" 'identity.txt is missing, though the run has begun' gone
for who in hospital_00 server; do
    again gone central
    who=$(cd "$dir/gone/ledger" && ls | grep "${who%_*}" | head -n 1)
    rm "$dir/gone/ledger/$who"
    unknown "the ledger ${who%.txt} is missing" "$who: the privacy ledger is missing, though the run has begun" gone \
        $central
done
again gone full
sed -i '$d' "$dir/gone/ledger/${ledger##*/}"
rm "$dir/gone/outbox/$(basename "$ledger" .txt)"/*
for again in "" ", asked again"; do
    unknown "a ledger's last line and the message are gone$again" 'in the results, but neither in its privacy ledger' \
        gone
done
again gone full
exec 9>> "$dir/gone/ledger/hospital_00.txt"
flock -n 9
unknown "another process uses the folder" 'another process has this privacy ledger open' gone
exec 9>&-
exponential='--sharing.select=exponential --privacy.epsilon_query=26'
train 0 gumbel $exponential
sed -i 's/^epsilon_query = .*/epsilon_query = 1/' "$dir/gumbel/used.ini"
train 0 gumbel --sharing.select=exponential --privacy.epsilon_query=1 --federation.rounds=4
[ $? = 2 ] && grep -q 'this ledger charges another mechanism: it has "epsilon-query=26"' "$dir/err"
report $? "refused: another budget of the exponential mechanism"

# --- what is refused
refused() # NAME TEXT RUN OPTION...
{
    local name=$1 text=$2
    train 0 "${@:3}"
    [ $? = 2 ] && grep -q -- "$text" "$dir/err"
    report $? "refused: $name"
}
refused "another clip" 'privacy.clip is 0.002, but .*has 0.001' full --privacy.clip=2e-3
refused "another seed" 'run.seed is 2' full --run.seed=2
refused "fewer rounds" 'federation.rounds is 2' full --federation.rounds=2
refused "moments kept" 'train.momentum is keep' full --train.momentum=keep
refused "no mechanism" 'privacy.mechanism is none' full --privacy.mechanism=none
total='--privacy.mechanism=dpsgd --privacy.clip_norm=1 --privacy.epsilon_total=50 --privacy.clip=inf
    --sharing.select=topk'
train 0 total --federation.rounds=1 $total
refused "more rounds where their number decides the noise" 'federation.rounds is 2, but .*has 1' total $total \
    --federation.rounds=2
refused "no run" 'no run has begun in' nowhere --run.resume=require
again edited full
sed -i 's/^clip = .*/clip = 0.002/' "$dir/edited/used.ini"
refused "another clip behind an edited used.ini" 'this ledger charges another mechanism' edited --privacy.clip=2e-3
again moved full
sed -i 's/^data: ./data: x/' "$dir/moved/identity.txt"
refused "other data" 'the run began with "data: x' moved
refused "a used folder" 'run.resume = never' full --run.resume=never

# --- more rounds; a limit on the spending
again longer full
train 0 longer --federation.rounds=4 && train 0 four --federation.rounds=4 && same_rounds four longer
report $? "a finished run goes on with more rounds"
for ranks in 0 2; do
    train $ranks stop$ranks --privacy.stop_at_epsilon=1700 --federation.participation=1 &&
        grep -q 'ended before round 3' "$dir/err" && grep -q '^RESULT rounds=2 ' "$dir/stop$ranks.out" &&
        "$FB_PYTHON" - "$dir/stop$ranks/results.h5" 2>> "$dir/err" << 'PY'
import sys, math, h5py
with h5py.File(sys.argv[1]) as run:
    assert run.attrs["status"] == b"complete" and b"1700" in run.attrs["stopped_at_epsilon"]
    assert float(run.attrs["epsilon_spent"]) <= 1700
    assert not math.isnan(run["dice_validation_mean"][()].ravel()[1])
PY
    report $? "privacy.stop_at_epsilon ends the run before the round that exceeds it, $ranks ranks"
done
train 0 stop0 --federation.participation=1 && grep -q '^RESULT rounds=3 ' "$dir/stop0.out" &&
    grep -q 'going on from .* after round 2 of 3' "$dir/err"
report $? "and goes on without the limit"
train 0 first --privacy.stop_at_epsilon=1
[ $? = 2 ] && grep -q 'the first round alone' "$dir/err"
report $? "a limit below the first round is refused"
rm -rf "$dir/system"
FEDBRATS_KILL=message.received:6 train 0 system --privacy.key=system
on_record system 6 && train 0 system --privacy.key=system &&
    [ "$(lines system)" = $((3 * hospitals)) ]
report $? "with fresh keys nothing is charged twice either"

echo "1..$number"
exit $failed
