#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The parsers hold what tests/fuzz/fuzz_*.c assert, for every input of the corpora in tests/fuzz/corpus; make fuzz looks
# for new ones.
. "$(dirname "$0")/tap.sh"
fuzz=$(cd "$(dirname "$0")" && pwd)/fuzz
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
logs=("$work/log")

# small FOLDER: few and short files, so that replaying them takes no time
small()
{
    [ "$(find "$1" -type f | wc -l)" -le 200 ] && [ -z "$(find "$1" -type f -size +4096c)" ]
}

for source in "$fuzz"/fuzz_*.c; do
    target=$(basename "$source" .c)
    corpus=$fuzz/corpus/${target#fuzz_}
    "$FB_BUILD/tests/fuzz/$target" "$corpus" > "$work/log" 2>&1 && small "$corpus" >> "$work/log" 2>&1
    report $? "${target#fuzz_}: $(sed -n 's/^\([0-9]* inputs\)$/\1/p' "$work/log")"
done
target=$FB_BUILD/tests/fuzz/fuzz_frame
mkdir "$work/empty"
! "$target" "$work/empty" > "$work/log" 2>&1 && grep -q 'nothing to replay' "$work/log"
report $? 'an empty corpus is a failure'
echo "1..$number"
exit "$failed"
