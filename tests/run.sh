#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests and ends with one line "N passed, N failed, N skipped".
#   tests/run.sh PROGRAM...   cmocka programs; then every tests/cli_*.sh and tests/check_*.py
# Each test prints TAP ("1..N", "ok", "not ok", "# SKIP") on standard output. It fails when it says so, ends with
# another status than 0, prints fewer results than its plan, prints none, or takes longer than FB_TEST_LIMIT_S; status
# 77 with a reason and no results skips it. A program whose source begins with a line
#   /* RANKS: 1 2 3 */
# runs under mpirun once for each number of ranks; only rank 0 prints. Environment: FB_BIN, FB_BUILD, FB_PYTHON,
# FB_LONG, FB_SAN; FB_ONLY=pattern runs the tests whose name matches; FB_TESTS=folder holds their
# sources and the scripts.
set -u
cd "$(dirname "$0")/.." || exit 1
export FB_BUILD=${FB_BUILD:-$PWD/build/release} FB_BIN=${FB_BIN:-$PWD/bin} FB_PYTHON=${FB_PYTHON:-/usr/bin/python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl=self,vader
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export CMOCKA_MESSAGE_OUTPUT=TAP
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
limit_s=${FB_TEST_LIMIT_S:-$([ -n "${FB_LONG:-}" ] && echo 3600 || echo 600)}
tests=${FB_TESTS:-tests}
logs=$FB_BUILD/test-logs
mkdir -p "$logs" || exit 1
skipped_line='ok .*# *[Ss][Kk][Ii][Pp]'
passed=0 failed=0 skipped=0

# Open MPI starts only where an interface is up, if only the loopback. In a fresh network namespace (unshare -n) none
# is, but the namespace's root may change that. Status 3: down.
loopback()
{
    "$FB_PYTHON" - << 'PY'
import fcntl, socket, struct, sys
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    flags = struct.unpack("16sh14x", fcntl.ioctl(s, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0)))[1]
    if not flags & IFF_UP:
        try:
            fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
        except PermissionError:
            sys.exit(3)
PY
}
loopback
if [ $? = 3 ]; then
    echo "tests: the loopback interface is down and Open MPI needs it; as root: ip link set lo up" >&2
    exit 1
fi

# count PATTERN LOG: the lines that match
count()
{
    grep -acE "$1" "$2"
}

# run NAME COMMAND...: one test; counts its TAP lines
run()
{
    local name=$1 log rc ok not_ok skip plan why='' start=$SECONDS
    shift
    if [ -n "${FB_ONLY:-}" ] && [[ ! $name =~ $FB_ONLY ]]; then
        return
    fi
    log=$logs/$name.log
    timeout -k 5 "$limit_s" "$@" > "$log" 2> "$log.stderr" < /dev/null
    rc=$?
    skip=$(count "^(not )?$skipped_line" "$log") # cmocka prints "not ok" for a skipped test
    ok=$(($(count '^ok ' "$log") - $(count "^$skipped_line" "$log")))
    not_ok=$(($(count '^not ok ' "$log") - $(count "^not $skipped_line" "$log")))
    plan=$(sed -n 's/^1\.\.\([0-9][0-9]*\).*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    cat "$log.stderr" >> "$log" && rm -f "$log.stderr"
    if [ $((ok + not_ok + skip)) = 0 ] && [ "$rc" = 77 ] && [ -s "$log" ]; then
        skip=1
    elif [ "$rc" = 124 ] || [ "$rc" = 137 ]; then
        why="; ended after $((SECONDS - start)) s, the limit is $limit_s s"
    elif [ "$rc" = 77 ] && [ ! -s "$log" ]; then
        why='; skipped without a reason'
    elif [ $((ok + not_ok + skip)) = 0 ]; then
        why='; no test was run'
    elif [ "$plan" != 0 ] && [ $((ok + not_ok + skip)) != "$plan" ]; then
        why="; $((ok + not_ok + skip)) results of $plan planned"
    elif [ "$rc" != 0 ] && [ "$not_ok" = 0 ]; then
        why='; failed without a failed result'
    fi
    [ -z "$why" ] || not_ok=$((not_ok + 1))
    passed=$((passed + ok)) failed=$((failed + not_ok)) skipped=$((skipped + skip))
    if [ "$not_ok" != 0 ]; then
        echo "FAIL $name (status $rc$why; $log)"
        grep -avE "^ok |^not $skipped_line" "$log" | tail -n "${FB_TAIL:-25}" | sed 's/^/    /'
    else
        printf 'ok   %-34s %3d passed%s, %d s\n' "$name" "$ok" "$([ "$skip" = 0 ] || printf ', %d skipped' "$skip")" \
            $((SECONDS - start))
        # the reason stands in the line or, from cmocka, in a comment before it
        awk -v skip="^(not )?$skipped_line" '$0 ~ skip { print "    " (before ~ /^# / ? before : $0) }
            { before = $0 }' "$log"
        [ "$rc" != 77 ] || tail -n 1 "$log" | sed 's/^/    skipped: /'
    fi
}

shopt -s nullglob
for program in "$@"; do
    name=$(basename "$program")
    ranks=$(sed -n '1,3s|.*RANKS: *\([0-9 ]*[0-9]\).*|\1|p' "$tests/$name.c")
    if [ -z "$ranks" ]; then
        run "$name" "$program"
    else
        for n in $ranks; do
            run "$name.$n" mpirun -n "$n" "$program"
        done
    fi
done
for script in "$tests"/cli_*.sh; do
    run "$(basename "$script" .sh)" "$script"
done
for script in "$tests"/check_*.py; do
    run "$(basename "$script" .py)" "$FB_PYTHON" "$script"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
