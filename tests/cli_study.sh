#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The runner of the study, with one arm and one round a run: runs, table and figure; what is complete is kept, what is
# not is made again, and a run that fails is named and fails the whole.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
study()
{
    FB_STUDY_DIR=$dir/study FB_STUDY_SEEDS=1 FB_STUDY_ROUNDS=1 FB_STUDY_SCALE=0.001 FB_STUDY_ARMS='^no-noise$' \
        jobs/study-privacy.sh "$1" "$FB_PYTHON" > "$dir/out" 2> "$dir/err"
}
logs=("$dir/out" "$dir/err")
. "$(dirname "$0")/tap.sh"
study "$FB_BIN" && [ "$(grep -c '^study: no-noise-.*: Dice 0\.' "$dir/out")" = 3 ]
report $? "three runs"
[ -s "$dir/study/tradeoff.png" ] && [ "$(grep -c '^random  *\(1\|0.4\|0.1\) ' "$dir/study/table.txt")" = 3 ]
report $? "a figure, and a table with the three shares"
rm "$dir/study/no-noise-0.4-inf-1/result.txt" # as after an interruption
study "$FB_BIN" && [ "$(grep -c ': Dice ' "$dir/out")" = 1 ] && grep -q 'no-noise-0.4-inf-1: Dice' "$dir/out"
report $? "only what is not complete runs again"
rm "$dir/study/no-noise-0.1-inf-1/result.txt"
mkdir "$dir/bin" && printf '#!/bin/sh\necho broken >&2\nexit 1\n' > "$dir/bin/fedbrats" && chmod +x "$dir/bin/fedbrats"
study "$dir/bin"
[ $? = 1 ] && grep -q 'no-noise-0.1-inf-1 failed: broken' "$dir/err" && grep -q '^random  *0.4 ' "$dir/out" &&
    ! grep -q '^random  *0.1 ' "$dir/out"
report $? "a run that fails is named; the others are plotted"
echo "1..$number"
exit $failed
