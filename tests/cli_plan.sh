#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fedbrats plan from outside: the worked examples' figures, exit codes, and that what a solve mode finds, given back,
# spends the budget that was asked for.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
logs=("$dir/err" "$dir/out")
. "$(dirname "$0")/tap.sh"

bin=$FB_BIN
plan() # OPTION...
{
    timeout 120 "$bin/fedbrats" plan "$@" > "$dir/out" 2> "$dir/err"
}
shows() # NAME TEXT...: the page holds every TEXT
{
    local name=$1 ok=0
    shift
    for text in "$@"; do
        grep -qF -- "$text" "$dir/out" || { ok=1; echo "# missing: $text"; }
    done
    report $ok "$name"
}
total() # the total epsilon of the last page
{
    sed -n 's/.* in one round, \([^ ]*\) in total after.*/\1/p' "$dir/out"
}
# meets NAME TARGET LEAST: the total is at most TARGET and at least LEAST
meets()
{
    awk -v spent="$(total)" -v most="$2" -v least="$3" \
        'BEGIN { exit !(spent != "" && spent <= most && spent >= least) }'
    report $? "$1: spends $(total) of $2"
}
refused() # NAME TEXT OPTION...: a usage error that holds TEXT
{
    local name=$1 text=$2 rc
    shift 2
    plan "$@"
    rc=$?
    [ $rc = 2 ] && grep -q -- "$text" "$dir/err"
    report $? "$name: status 2, names \"$text\""
}
# solved OPTION...: plan with the options, then again without the solve options but with what was found
solved()
{
    local found
    plan "$@" || return 1
    found=$(sed -n '/^solved:/{n;p;}' "$dir/out")
    set -- "${@/--plan.solve=*/--plan.solve=epsilon}"
    set -- "${@/--privacy.epsilon_total=*/--privacy.epsilon_total=0}"
    # shellcheck disable=SC2086
    plan "$@" $found
}

# --- worked examples
plan --examples && [ ! -s "$dir/err" ]
report $? "--examples"
shows "what the reference implementation spends and shares" '4232005 weights' \
    '8464031 = 8.46 million a client and round' '5.08e+09 in 600 rounds' 'really shared  57.9 %, not 90 %' \
    '0.9375 x (1 - exp(-0.96)) = 0.5785'
shows "what its older generations did" 'really shared  9.1 %, not 10 %' '959.892' '2821369' '4232047' 'before the clip'
shows "the paper's setting" 'noise of an answer 2 q / 1 = 235370 times the clip, of a test 123.5' \
    'noise of an answer 2 q / 1 = 941476 times the clip, of a test 196.0'

# --- the page
plan
report $? "no data, output or option is needed"
shows "the default hospitals are the paper's" '13 hospitals with 242 train cases' '1176843 parameters'
shows "no noise, no guarantee" 'no guarantee'
plan --run.preset=svt
shows "the paper's preset" '470738 of 1176843 parameters' 'unit hospital, neighbours replace-one, trust local' \
    '= 1 per released parameter' 'effectively random' 'formal_privacy = true' 'test patients get no protection'
plan --run.preset=svt-as-published
shows "the algorithm as it was printed" 'no guarantee' 'clip'
plan --privacy.mechanism=dpsgd --privacy.clip_norm=1 --privacy.epsilon_total=8 --plan.cases=9,77 --privacy.key=seed
shows "patient level" 'unit patient' 'signal/noise of a step' 'WARNING' \
    'formal_privacy = false: the noise comes from the seed'
gaussian="--privacy.mechanism=gaussian --privacy.clip_norm=0.01 --privacy.clip=1e-4"
# shellcheck disable=SC2086
plan $gaussian --privacy.noise_multiplier=20 --federation.weighting=uniform --privacy.trust=secagg
shows "trust" 'trust secagg: the server sees the sum' 'noise on the others is sqrt(1 - 1/K)' \
    'cosine by privacy.trust: local'
"$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.1 --seed 3 > "$dir/out" 2> "$dir/err" &&
    "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > "$dir/out" 2>> "$dir/err"
report $? "a cohort"
plan --data.shards="$dir/shards" --privacy.mechanism=dpsgd --privacy.clip_norm=1 --privacy.noise_multiplier=5
cases=$(grep -c ',train,' "$dir/shards/manifest.csv")
shows "data.shards supplies hospitals and cases" "13 hospitals with $cases train cases" "$dir/shards" \
    'CBICA          '
# shellcheck disable=SC2086
plan $gaussian --privacy.epsilon_total=1e6
meets "a total of a million has its noise" 1e6 999990
! grep -q 'WARNING: of the asked total' "$dir/out"
report $? "and is used up"
! grep -q 'has no effect' "$dir/out"
report $? "no warning about options that nobody set"
# shellcheck disable=SC2086
plan $gaussian --privacy.noise_multiplier=5 --privacy.stop_at_epsilon=20 --privacy.epsilon_answer=3 \
    --privacy.threshold=1e-5
shows "options without effect, and what a limit allows" 'privacy.epsilon_answer = 3 has no effect here' \
    'privacy.threshold = 1e-05 has no effect here' 'privacy.stop_at_epsilon = 20 allows '
allowed=$(sed -n 's/.*stop_at_epsilon = 20 allows \([0-9]*\) of the 300 rounds/\1/p' "$dir/out")
# shellcheck disable=SC2086
plan $gaussian --privacy.noise_multiplier=5 --federation.rounds="$allowed"
meets "$allowed rounds are within the limit" 20 19.5
# shellcheck disable=SC2086
plan $gaussian --privacy.noise_multiplier=5 --federation.rounds=$((allowed + 1))
meets "and one more is not" 21 20.0000001
refused "pooled patients" 'run.mode = centralised has no privacy to plan' --run.mode=centralised
printf '[federation]\nrounds = 7\n' > "$dir/a.ini"
plan "$dir/a.ini" --privacy.mechanism=laplace --privacy.clip=1e-4
shows "an INI file" 'after 7 rounds'

# --- solving: what is found spends the budget
laplace="--privacy.mechanism=laplace --privacy.clip=1e-4"
svt="$laplace --sharing.select=svt --privacy.answer_budget=per-parameter"
# shellcheck disable=SC2086
{
    solved $svt --sharing.fraction=0.1 --plan.solve=noise --privacy.epsilon_total=8 --federation.rounds=30
    meets "noise of svt + laplace" 8 7.99
    solved $gaussian --plan.solve=noise --privacy.epsilon_total=4
    meets "noise of gaussian" 4 3.99
    solved --privacy.mechanism=dpsgd --privacy.clip_norm=1 --train.batch=4 --plan.solve=noise \
        --privacy.epsilon_total=8 --federation.rounds=20 --plan.cases=18,77,3
    meets "noise of dpsgd" 8 7.99
    solved $gaussian --privacy.noise_multiplier=40 --sharing.select=random --sharing.fraction=0.001 \
        --plan.solve=rounds --privacy.epsilon_total=8
    meets "rounds" 8 7.9
    grep -q '^run: .*, [0-9]* rounds' "$dir/out" && ! grep -q ' 300 rounds' "$dir/out"
    report $? "the rounds were found"
    solved $svt --plan.solve=share --privacy.epsilon_total=20000 --federation.rounds=1
    meets "share" 20000 19990

    # --- refusals
    refused "nothing to solve for" "privacy.epsilon_total" $laplace --plan.solve=noise
    refused "share of all" "sharing.select = all" $laplace --plan.solve=share --privacy.epsilon_total=1
    refused "a budget that one round exceeds" "one round" $gaussian --privacy.noise_multiplier=0.1 --plan.solve=rounds \
        --privacy.epsilon_total=0.1
    refused "a share that costs nothing" "does not depend" $gaussian --sharing.select=random --sharing.fraction=0.1 \
        --privacy.noise_multiplier=100 --plan.solve=share --privacy.epsilon_total=100
    refused "an unknown option" "did you mean" --plan.solv=noise
    refused "noise without a mechanism" "privacy.epsilon_total" --plan.solve=noise --privacy.epsilon_total=8
}
"$bin/fedbrats" --help | grep -q 'fedbrats plan'
report $? "--help"

echo "1..$number"
exit "$failed"
