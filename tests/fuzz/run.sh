#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs fuzz targets one after the other (make fuzz): tests/fuzz/run.sh BUILD TARGET...
# A target starts from its corpus in the tree and from what earlier runs left in BUILD/corpus, where it adds what is
# new.
# What makes it fail is kept in BUILD/crash-TARGET-*, and run once more to show what it says: while it fuzzes, the
# standard error of the program itself is closed. Environment: FUZZ_SECONDS, FUZZ_RUNS (-1: no limit).
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1 failed=0
shift
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=0:quarantine_size_mb=16}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
for target in "$@"; do
    corpus=tests/fuzz/corpus/$target dict=tests/fuzz/$target.dict log=$build/$target.log
    options=(-max_total_time="${FUZZ_SECONDS:-60}" -runs="${FUZZ_RUNS:--1}" -max_len=4096 -timeout=60 -rss_limit_mb=1024
        -malloc_limit_mb=128 -close_fd_mask=2 -print_final_stats=1 -artifact_prefix="$build/crash-$target-")
    [ ! -f "$dict" ] || options+=(-dict="$dict")
    mkdir -p "$build/corpus/$target" "$corpus"
    if "$build/fuzz_$target" "${options[@]}" "$build/corpus/$target" "$corpus" > "$log" 2>&1; then
        verdict=ok
    else
        verdict='FOUND SOMETHING'
        failed=1
    fi
    awk -v name="$target" -v verdict="$verdict" '
        / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
        /^stat::number_of_executed_units/ { runs = $2 }
        /^stat::average_exec_per_sec/ { rate = $2 }
        /^stat::peak_rss_mb/ { rss = $2 }
        END { printf "%-14s %10d executions, %7d a second, %5d edges, %4d MiB: %s\n", name, runs, rate, edges, rss,
              verdict }
    ' "$log"
    [ "$verdict" != ok ] || continue
    found=$(sed -n 's/.*Test unit written to //p' "$log" | head -n 1)
    echo "    $found"
    [ ! -f "$found" ] || "$build/fuzz_$target" "$found" 2>&1 |
        grep -aE 'ERROR|runtime error|bug:|unexpected:' | sed 's/^/    /'
done
exit $failed
