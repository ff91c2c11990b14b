#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Can this nvcc compile and link a kernel? Prints 1 if so; otherwise nothing, and why on standard error. The answer is
# kept, as the compiler takes two seconds: CACHE holds it with what it is about.
#   tools/probe-cuda.sh NVCC LIBDIR GENCODE CACHE
set -u
nvcc=$1 libdir=$2 gencode=$3 cache=$4
[ -x "$nvcc" ] || exit 0
about="$nvcc $(ls -Lln --time-style=+%s "$nvcc") $libdir $gencode $(${CC:-cc} -dumpfullversion 2> /dev/null)"
if [ -f "$cache" ] && [ "$(sed -n 1p "$cache")" = "$about" ]; then
    sed -n 2p "$cache"
    exit 0
fi
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
printf '%s\n' '#include <cuda_bf16.h>' '#include <cuda_runtime.h>' \
    '__global__ void set(__nv_bfloat16 *x) { *x = __float2bfloat16_rn(1.0f); }' \
    'int main(void) { int n; set<<<1, 1>>>(nullptr); return cudaGetDeviceCount(&n) == 12345; }' > "$dir/probe.cu"
found=
# shellcheck disable=SC2086
if "$nvcc" -std=c++17 $gencode -c "$dir/probe.cu" -o "$dir/probe.o" > "$dir/log" 2>&1 &&
    ${CC:-cc} "$dir/probe.o" -L"$libdir" -lcudart_static -ldl -lrt -lpthread -lstdc++ -o "$dir/probe" \
        >> "$dir/log" 2>&1; then
    found=1
else
    echo "CUDA: $nvcc is there, but what it makes does not link; building without CUDA (CUDA=1 insists):" >&2
    sed -n 1,3p "$dir/log" >&2
fi
mkdir -p "$(dirname "$cache")" && printf '%s\n%s\n' "$about" "$found" > "$cache"
echo "$found"
