#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make gpu-bench: our training step, each of its kernels, and PyTorch's on the same GPU; a table, and a section of
# tests/gpu/RESULTS.md. Within 9 minutes on an H100. Without a GPU it fails.
#   tests/gpu/bench.sh BUILD             BUILD holds bench_gpu
# Environment: GPU_LIMIT_S (520) for all; GPU_OURS_S (150), the seconds after which no case of ours begins; GPU_RESULTS,
# GPU_OUT, PYTHON as in check.sh; NCU (ncu; empty: none), which times the kernels of one step.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
limit_s=${GPU_LIMIT_S:-520} results=${GPU_RESULTS:-tests/gpu/RESULTS.md} python=${PYTHON:-python3} ncu=${NCU-ncu}
out=$build/results
failed=0
mkdir -p "$out" || exit 1
rm -f "$out"/*.json "$out"/*.csv
if ! device=$("$build/bench_gpu" --probe 2>&1); then
    echo "gpu-bench: nothing was measured: ${device#bench_gpu: }" >&2
    exit 1
fi
driver=$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2> /dev/null | head -n 1)
echo "gpu-bench: $device${driver:+; nvidia-smi: $driver}"

"$build/bench_gpu" --output "$out/ours.json" --limit "${GPU_OURS_S:-150}" || failed=1
if [ -n "$ncu" ] && command -v "$ncu" > /dev/null; then
    for filters in 16 8; do
        echo "gpu-bench: $SECONDS s  kernels of one step with $filters filters, by $ncu"
        timeout -k 5 45 "$ncu" --metrics gpu__time_duration.sum --clock-control none --cache-control none --csv \
            --log-file "$out/ncu-$filters.csv" "$build/bench_gpu" --one-step $filters > /dev/null ||
            echo "gpu-bench: $ncu ended with status $?"
    done
fi
"$python" tests/gpu/torch_step.py --output "$out/torch.json" --limit $((limit_s - SECONDS - 5)) ||
    echo 'gpu-bench: not every case of PyTorch was measured'
"$python" tests/gpu/report.py "$out" --results "$results" \
    --about "nvidia-smi: ${driver:-not there}; revision $(git describe --always --dirty --exclude '*' 2> /dev/null)" ||
    failed=1
if [ -n "${GPU_OUT:-}" ]; then
    cp "$results" "$out"/*.json "$GPU_OUT/"
    cp "$out"/*.csv "$GPU_OUT/" 2> /dev/null
fi
echo "gpu-bench: $SECONDS s, $([ $failed = 0 ] && echo done || echo 'FAILED: see above')"
exit $failed
