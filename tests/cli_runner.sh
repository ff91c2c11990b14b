#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The runner of the tests fails whenever a test does not succeed, in whatever way it does not.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
unset FB_ONLY
number=0 failed=0

# script NAME: an executable test in $work from standard input
script()
{
    { echo '#!/bin/sh' && cat; } > "$work/$1"
    chmod +x "$work/$1"
}

# expect NAME STATUS SUMMARY [PROGRAM]...: runs the tests in $work, then removes them
expect()
{
    local name=$1 status=$2 summary=$3 rc
    shift 3
    FB_TESTS=$work FB_BUILD=$work/build FB_TEST_LIMIT_S=2 "$here/run.sh" "$@" > "$work/output" 2>&1
    rc=$?
    number=$((number + 1))
    if [ "$((rc != 0))" = "$status" ] && [ "$(tail -n 1 "$work/output")" = "$summary" ]; then
        echo "ok $number - $name"
    else
        echo "not ok $number - $name"
        sed 's/^/# /' "$work/output"
        failed=1
    fi
    rm -rf "$work"/cli_* "$work"/check_* "$work"/test_* "$work/build"
}

good="echo 1..2; echo ok 1 - a; echo ok 2 - b"
script cli_good.sh <<< "$good"
expect 'passing tests pass' 0 '2 passed, 0 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_fails.sh <<< 'echo ok 1 - a; echo not ok 2 - b'
expect 'a failed result fails, whatever the status' 1 '3 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_status.sh <<< 'echo ok 1 - a; exit 3'
expect 'a bad status fails, whatever the results' 1 '3 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_crashes.sh <<< 'echo ok 1 - a; kill -SEGV $$'
expect 'a crash fails' 1 '3 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_silent.sh <<< 'true'
expect 'a test that prints nothing fails' 1 '2 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_stops.sh <<< 'echo 1..3; echo ok 1 - a'
expect 'fewer results than planned fail' 1 '3 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_stderr.sh <<< 'echo ok 1 - a >&2'
expect 'results on standard error do not count' 1 '2 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_hangs.sh <<< 'echo ok 1 - a; sleep 60'
expect 'a test beyond the time limit fails' 1 '3 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_plain.sh <<< "$good"
chmod -x "$work/cli_plain.sh"
expect 'a script that cannot be executed fails' 1 '2 passed, 1 failed, 0 skipped'

script cli_good.sh <<< "$good"
script cli_skips.sh <<< 'echo no network here; exit 77'
script cli_partly.sh <<< 'echo ok 1 - a; echo "ok 2 - b # SKIP no network"'
script cli_cmocka.sh <<< 'echo 1..2; echo ok 1 - a; echo "# no network"; echo "not ok 2 # SKIP b"'
expect 'skipped tests are counted apart' 0 '4 passed, 0 failed, 3 skipped'

script cli_good.sh <<< "$good"
script cli_mute.sh <<< 'exit 77'
expect 'a skip without a reason fails' 1 '2 passed, 1 failed, 0 skipped'

expect 'no tests at all fail' 1 '0 passed, 0 failed, 0 skipped'

echo 'print("ok 1 - a"); raise SystemExit("bad")' > "$work/check_bad.py"
expect 'a Python test that ends with an error fails' 1 '1 passed, 1 failed, 0 skipped'

script test_ranks <<< '[ "$OMPI_COMM_WORLD_RANK" != 0 ] || echo "ok 1 - a"'
echo '/* RANKS: 1 2 */' > "$work/test_ranks.c"
expect 'a program runs once for each number of ranks' 0 '2 passed, 0 failed, 0 skipped' "$work/test_ranks"

script test_rank <<< 'if [ "$OMPI_COMM_WORLD_RANK" = 0 ]; then echo "ok 1 - a"; else exit 3; fi'
echo '/* RANKS: 2 */' > "$work/test_rank.c"
expect 'a program fails when any rank fails' 1 '1 passed, 1 failed, 0 skipped' "$work/test_rank"

echo "1..$number"
exit $failed
