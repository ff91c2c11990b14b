#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make gpu-check: the tests of the GPU backend on a real GPU, then our step against PyTorch's, then the tests once more
# under compute-sanitizer, as far as the time goes. Ends with "N passed, N failed, N skipped" and appends what ran to
# tests/gpu/RESULTS.md. Without a GPU it fails: nothing was checked then.
#   tests/gpu/check.sh BUILD [TEST...]     BUILD holds the programs; TEST is one's name, by default all that are there
# Environment: GPU_CARRIED (tests that are looked for in build/carry and may be missing), GPU_LIMIT_S (500) for all,
# GPU_RESULTS (the file to append to), GPU_OUT (a folder that gets a copy of it and the logs), PYTHON, SANITIZER
# (compute-sanitizer; empty: none), GPU_TORCH_CASES ("8,32 16,64": filters and size of what is compared with PyTorch).
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
shift
limit_s=${GPU_LIMIT_S:-500} results=${GPU_RESULTS:-tests/gpu/RESULTS.md} python=${PYTHON:-python3}
sanitizer=${SANITIZER-compute-sanitizer}
logs=$build/logs
export CMOCKA_MESSAGE_OUTPUT=TAP
mkdir -p "$logs" || exit 1
[ $# != 0 ] || set -- $(cd "$build" && ls -d test_*_cuda test_*_gpu 2> /dev/null)
passed=0 failed=0 skipped=0 lines=''

note()
{
    echo "gpu-check: $(printf '%4d' "$SECONDS") s  $*"
    lines="$lines- $*"$'\n'
}

count()
{
    grep -acE "$1" "$2"
}

# skip NAME REASON
skip()
{
    skipped=$((skipped + 1))
    note "skipped: $1: $2"
}

# run NAME LIMIT COMMAND...: counts the TAP lines that the command prints; status 124 is left to the caller
run()
{
    local name=$1 limit=$2 log=$logs/$1.log rc ok not_ok skip plan why=''
    shift 2
    [ "$limit" -le $((limit_s - SECONDS)) ] || limit=$((limit_s - SECONDS))
    [ "$limit" -gt 0 ] || limit=1
    timeout -k 5 "$limit" "$@" > "$log" 2>&1 < /dev/null
    rc=$?
    skip=$(count '^(not )?ok .*# *SKIP' "$log") # cmocka prints "not ok" for a skipped test
    ok=$(($(count '^ok ' "$log") - $(count '^ok .*# *SKIP' "$log")))
    not_ok=$(($(count '^not ok ' "$log") - $(count '^not ok .*# *SKIP' "$log")))
    plan=$(sed -n 's/^1\.\.\([0-9][0-9]*\).*/\1/p' "$log" | head -n 1)
    if [ "$rc" = 124 ] || [ "$rc" = 137 ]; then
        why="stopped after $limit s"
    elif [ $((ok + not_ok + skip)) != "${plan:-0}" ] || [ "${plan:-0}" = 0 ]; then
        why="$((ok + not_ok + skip)) results of ${plan:-no} planned, status $rc"
    elif [ "$rc" != 0 ] && [ "$not_ok" = 0 ]; then
        why="status $rc"
    fi
    [ -z "$why" ] || not_ok=$((not_ok + 1))
    passed=$((passed + ok)) failed=$((failed + not_ok)) skipped=$((skipped + skip))
    note "$name: $ok passed, $not_ok failed, $skip skipped${why:+; $why}"
    [ "$not_ok" = 0 ] || grep -av '^ok ' "$log" | tail -n 25 | sed 's/^/    /'
    [ "$not_ok" = 0 ]
}

# sanitize NAME TOOL: the program under compute-sanitizer; too slow is no failure
sanitize()
{
    local name=$1-$2 log=$logs/$1-$2.log left=$((limit_s - SECONDS)) rc
    if [ "$left" -lt 30 ]; then
        skip "$name" 'out of time'
        return
    fi
    [ "$left" -lt 120 ] || left=120
    timeout -k 5 "$left" "$sanitizer" --tool "$2" --error-exitcode 86 "$build/$1" > "$log" 2>&1 < /dev/null
    rc=$?
    if [ $rc = 86 ] || grep -avE '# *SKIP' "$log" | grep -aqE '^not ok |ERROR SUMMARY: [1-9]|=+ (Error|Invalid)'; then
        failed=$((failed + 1))
        note "$name: FAILED (status $rc)"
        grep -aE '^not ok|=====' "$log" | head -n 25 | sed 's/^/    /'
    elif [ $rc = 124 ] || [ $rc = 137 ]; then
        skip "$name" "no error in $left s, not finished: $(count '^ok ' "$log") tests were done"
    elif [ $rc != 0 ]; then
        skip "$name" "$sanitizer ended with status $rc: $(grep -a . "$log" | tail -n 1)"
    else
        passed=$((passed + 1))
        note "$name: no error"
    fi
}

# against_torch FILTERS SIZE
against_torch()
{
    local name=torch-$1-$2 file=$build/torch-$1-$2.bin
    if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
        skip "$name" "$python has no PyTorch that sees the GPU"
    elif [ $((limit_s - SECONDS)) -lt 120 ]; then
        skip "$name" 'out of time'
    elif ! timeout 60 "$python" tests/gpu/torch_step.py --export "$file" --filters "$1" --size "$2" \
        > "$logs/$name-export.log" 2>&1; then
        failed=$((failed + 1))
        note "$name: PyTorch's step FAILED: $(tail -n 1 "$logs/$name-export.log")"
    else
        run "$name" 60 "$build/compare_torch" "$file"
        grep -a '^ok\|^not ok' "$logs/$name.log" | sed 's/^/    /'
    fi
    rm -f "$file"
}

if [ ! -x "$build/bench_gpu" ]; then
    echo "gpu-check: $build/bench_gpu was not built" >&2
    exit 1
fi
if ! device=$("$build/bench_gpu" --probe 2>&1); then
    echo "gpu-check: nothing was checked: ${device#bench_gpu: }" >&2
    exit 1
fi
driver=$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2> /dev/null | head -n 1)
echo "gpu-check: $device${driver:+; nvidia-smi: $driver}"
# cuDNN is PyTorch's, where there is no other.
cudnn=$("$python" -c 'import nvidia.cudnn; print(list(nvidia.cudnn.__path__)[0] + "/lib")' 2> /dev/null)
path=${cudnn:+:$cudnn}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# run_in FOLDER TEST: with the libraries that were carried along
run_in()
{
    local path=$1/lib$path missing
    missing=$(LD_LIBRARY_PATH=$path ldd "$1/$2" 2> /dev/null | awk '/not found/ { print $1 }' | tr '\n' ' ')
    if [ -n "$missing" ]; then
        skip "$2" "no ${missing% }"
    else
        run "$2" 240 env LD_LIBRARY_PATH="$path" "$1/$2"
    fi
}
for test in "$@"; do
    if [ -x "$build/$test" ]; then
        run_in "$build" "$test"
    elif [[ " ${GPU_CARRIED:-} " != *" $test "* ]]; then
        failed=$((failed + 1))
        note "$test: FAILED: it was not built"
    elif [ -x "build/carry/$test" ]; then
        run_in build/carry "$test"
    else
        skip "$test" 'needs all of FedBraTS: build it elsewhere with make gpu-carry, and bring build/carry here'
    fi
done
for case in ${GPU_TORCH_CASES-8,32 16,64}; do
    against_torch "${case%,*}" "${case#*,}"
done
for tool in memcheck racecheck; do
    for test in "$@"; do
        case $test in *op*_cuda | *conv*_cuda) ;; *) continue ;; esac
        if [ -z "$sanitizer" ] || ! command -v "$sanitizer" > /dev/null; then
            skip "$test-$tool" 'compute-sanitizer is not there'
        elif [ -x "$build/$test" ]; then
            sanitize "$test" $tool
        fi
    done
done
summary="$passed passed, $failed failed, $skipped skipped"
{
    printf '\n## %s: gpu-check, %s\n\n' "$(date -u +%Y-%m-%d)" "$device"
    printf 'nvidia-smi: %s; %s; revision %s; %d s. **%s.**\n\n%s' "${driver:-not there}" \
        "$("${NVCC:-nvcc}" --version 2> /dev/null | sed -n 's/.*\(release [0-9.]*\).*/nvcc \1/p')" \
        "$(git describe --always --dirty --exclude '*' 2> /dev/null || echo unknown)" "$SECONDS" "$summary" "$lines"
} >> "$results"
if [ -n "${GPU_OUT:-}" ]; then
    cp "$results" "$GPU_OUT/" && tar -czf "$GPU_OUT/gpu-check-logs.tar.gz" -C "$logs" .
fi
echo "$summary"
[ $failed = 0 ] && [ $passed != 0 ]
