#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A program that was built for instructions which the processor lacks says so and ends, before it uses one.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=("$work/log")
. "$(dirname "$0")/tap.sh"
[ "$(uname -m)" = x86_64 ] || { echo "only x86-64 has builds for one processor that run on others"; exit 77; }

# probe FLAG...: what a program compiled with these flags says of this processor
probe()
{
    printf '%s\n' '#include "core/build_info.h"' '#include "core/cpu.h"' \
        'const char *fb_build_flags(void) { return "these flags"; }' \
        'int main(void) { return !fb_cpu_suffices("probe"); }' > "$work/probe.c"
    ${CC:-cc} -std=c11 -Isrc "$@" "$work/probe.c" src/core/cpu.c -o "$work/probe" && "$work/probe" > "$work/log" 2>&1
}
probe -march=x86-64 && [ ! -s "$work/log" ]
report $? "a program in every x86-64's instructions starts"
if grep -qw fma4 /proc/cpuinfo; then
    number=$((number + 1))
    echo "ok $number - an instruction set that this processor lacks # SKIP it has FMA4, which others lack"
else
    ! probe -mfma4 && grep -q '^probe: this processor lacks fma4' "$work/log"
    report $? "an instruction set that this processor lacks is named, before it is used"
fi
for program in fedbrats brats-phantom brats-split; do
    [ -z "${FB_SAN:-}" ] || break # a sanitizer's own preparations come first
    # nothing before the question may be an instruction of the build's: registers of 256 bits and more are named %y, %z
    objdump -d --no-show-raw-insn --disassemble=main "$FB_BIN/$program" > "$work/log" &&
        awk '/<main>:/ { begun = 1 } begun && /call.*<fb_cpu_suffices>/ { asked = 1; exit }
            begun && /%[yz]mm|[[:space:]]v[a-z]/ { exit } END { exit !asked }' "$work/log"
    report $? "$program asks first"
done
echo "1..$number"
exit $failed
