#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fedbrats audit as a user meets it: verdicts, exit status, progress, options, files. About 10 s.
set -u
bin=${FB_BIN:-bin}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
logs=("$work/out" "$work/log")
. "$(dirname "$0")/tap.sh"

audit()
{
    "$bin/fedbrats" audit "$@" > "$work/out" 2> "$work/log"
}

# refused STATUS TEXT NAME ARGUMENT...: ends with STATUS, says TEXT
refused()
{
    local status=$1 text=$2 name=$3 rc
    shift 3
    audit "$@"
    rc=$?
    [ "$rc" = "$status" ] && cat "$work/out" "$work/log" | grep -qF -- "$text"
    report $? "$name"
}

audit --audit.mechanism=svt+laplace --audit.samples=2000 --audit.seed=5 --audit.output="$work/a.h5"
report $? "a sound mechanism passes"
grep -Eq '^svt\+laplace +holds: bound [0-9.]+ <= claimed 1\.0000; at most [0-9.]+ could be shown' "$work/out"
report $? "its line says bound, claim and ceiling"
grep -q "proves nothing about what was not tried" "$work/out"
report $? "the output says what an audit is"
[ "$(grep -c 'svt+laplace, percent: .* of 100' "$work/log")" -ge 9 ]
report $? "progress in the log"
[ -s "$work/a.h5" ] && [ ! -e "$work/a.h5.tmp" ]
report $? "the file is there, nothing temporary"
cp "$work/out" "$work/first"
audit --audit.mechanism=svt+laplace --audit.samples=2000 --audit.seed=5
diff <(grep ^svt "$work/first") <(grep ^svt "$work/out")
report $? "the same seed gives the same bounds"
audit --audit.mechanism=svt+laplace --audit.samples=20000 --audit.seed=5
awk '/^svt/ { found = $4 > 0.6 && $4 <= 1 } END { exit !found }' "$work/out"
report $? "at the default settings 20000 samples show 0.6 of the claim"
refused 1 "a.h5 exists already" "an existing file is kept" --audit.mechanism=all+laplace --audit.samples=100 \
    --audit.output="$work/a.h5"
for mutant in clip-after-noise unselected-unnoised nan-passes; do
    refused 1 "$mutant" "a planted fault ends with status 1: $mutant" --audit.mutant=$mutant --audit.samples=1000
    grep -q "REFUTED: bound [0-9.]* > claimed 1.0000" "$work/out"
    report $? "and is called refuted"
done
for fault in no-noise no-clip wrong-rate; do
    refused 1 "REFUTED" "so does training with a fault: $fault" --audit.training_fault=$fault --audit.epochs=5
done
printf '[audit]\nmechanism = random+laplace\nsamples = 200\n' > "$work/audit.ini"
audit "$work/audit.ini" && [ "$(grep -c holds "$work/out")" = 1 ]
report $? "options from an INI file"
"$bin/fedbrats" audit --help | grep -q "audit.confidence"
report $? "--help lists the options"
refused 2 "audit.coordinates = 4" "more shared than there are" --audit.coordinates=4 --audit.count=5
refused 2 "audit.answer_share" "shares that leave nothing" --audit.threshold_share=0.6 --audit.answer_share=0.4
refused 2 "audit.sample" "an unknown option" --audit.sample=5
refused 2 "audit.mechanism" "an unknown mechanism" --audit.mechanism=magic
refused 1 "there is no folder $work/none/" "a folder that is not there" --audit.mechanism=all+laplace \
    --audit.samples=100 --audit.output="$work/none/x.h5"
exit $failed
