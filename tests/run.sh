#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests and ends with one line "N passed, N failed, N skipped".
#   tests/run.sh PROGRAM...   cmocka programs; then every executable tests/cli_*.sh and tests/check_*.py
# Each test prints TAP ("ok", "not ok", "# SKIP") on standard output. A program whose source begins with a line
#   /* RANKS: 1 2 3 */
# runs under mpirun once for each number of ranks; only rank 0 prints. Environment: FB_BIN, FB_BUILD, FB_PYTHON, FB_LONG,
# FB_SAN; FB_ONLY=pattern runs the tests whose name matches.
set -u
cd "$(dirname "$0")/.." || exit 1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl=self,vader
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export CMOCKA_MESSAGE_OUTPUT=TAP
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
limit_s=${FB_TEST_LIMIT_S:-600}
logs=$FB_BUILD/test-logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0

# run NAME COMMAND...: one test; counts its TAP lines
run()
{
    local name=$1 log rc ok not_ok skip start=$SECONDS
    shift
    if [ -n "${FB_ONLY:-}" ] && [[ ! $name =~ $FB_ONLY ]]; then
        return
    fi
    log=$logs/$name.log
    timeout -k 5 "$limit_s" "$@" > "$log" 2>&1 < /dev/null
    rc=$?
    skip=$(grep -ciE '^ok .*# *skip' "$log")
    ok=$(($(grep -cE '^ok ' "$log") - skip))
    not_ok=$(grep -cE '^not ok ' "$log")
    if [ "$rc" = 77 ] && [ $((ok + not_ok + skip)) = 0 ]; then
        skip=1
    elif [ "$rc" != 0 ] && [ "$not_ok" = 0 ]; then
        not_ok=1
    elif [ $((ok + not_ok + skip)) = 0 ]; then
        not_ok=1
        echo "no test was run" >> "$log"
    fi
    passed=$((passed + ok)) failed=$((failed + not_ok)) skipped=$((skipped + skip))
    if [ "$not_ok" != 0 ]; then
        echo "FAIL $name (status $rc; $log)"
        grep -vE '^ok ' "$log" | tail -n "${FB_TAIL:-25}" | sed 's/^/    /'
    else
        printf 'ok   %-34s %3d passed%s, %d s\n' "$name" "$ok" "$([ "$skip" = 0 ] || printf ', %d skipped' "$skip")" \
            $((SECONDS - start))
        grep -iE '^ok .*# *skip' "$log" | sed 's/^/    /'
        [ "$rc" != 77 ] || sed 's/^/    skipped: /' "$log" | tail -n 1
    fi
}

for program in "$@"; do
    name=$(basename "$program")
    ranks=$(sed -n '1,3s|.*RANKS: *\([0-9 ]*[0-9]\).*|\1|p' "tests/$name.c")
    if [ -z "$ranks" ]; then
        run "$name" "$program"
    else
        for n in $ranks; do
            run "$name.$n" mpirun -n "$n" "$program"
        done
    fi
done
for script in tests/cli_*.sh; do
    [ -x "$script" ] && run "$(basename "$script" .sh)" "$script"
done
for script in tests/check_*.py; do
    [ -e "$script" ] && run "$(basename "$script" .py)" "$FB_PYTHON" "$script"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
