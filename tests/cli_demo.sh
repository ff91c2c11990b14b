#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The demonstration with one round a run: it ends with a figure and a table of its six runs, and keeps earlier results.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
demo()
{
    FB_DEMO_DIR=$dir/demo FB_DEMO_ROUNDS=1 jobs/demo.sh "$FB_BIN" "$FB_PYTHON" > "$dir/out" 2> "$dir/err"
}
logs=("$dir/out" "$dir/err")
. "$(dirname "$0")/tap.sh"
demo && [ -s "$dir/demo/convergence.png" ] && [ -s "$dir/demo/convergence.pdf" ]
report $? "figure as PNG and PDF"
[ "$(find "$dir/demo" -name results.h5 | wc -l)" = 6 ] &&
    [ "$(cat "$dir"/demo/*/result.txt | grep -c '^RESULT rounds=1 ')" = 6 ]
report $? "six runs, each with its result line"
grep -q "convergence.png" "$dir/out" && grep -q "svt" "$dir/out" && grep -q "centralised" "$dir/out"
report $? "the table and the figure's path are printed"
[ "$(grep -c '^\[share_010\] .*round 1/1' "$dir/err")" = 1 ]
report $? "one line per round, marked with the run's name"
echo keep > "$dir/demo/mine.txt"
mkdir "$dir/bin" && ln -s "$FB_BIN"/brats-* "$dir/bin/" && printf '#!/bin/sh\nexit 1\n' > "$dir/bin/fedbrats" &&
    chmod +x "$dir/bin/fedbrats"
FB_BIN=$dir/bin demo
[ $? != 0 ] && grep -q "failed" "$dir/err" && [ -n "$(find "$dir" -path "$dir/demo.2*/mine.txt")" ]
report $? "a failing run fails the demonstration; earlier results are kept"
echo "1..$number"
exit $failed
