#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make gpu-check and make gpu-bench as far as they go without a GPU: the benchmark at its smallest on the emulated GPU,
# the table, what is said where there is no GPU, and the stand-ins for libraries. Prints TAP.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/tap.sh
build=${FB_BUILD:-$PWD/build/release} python=${FB_PYTHON:-/usr/bin/python3}
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
logs=("$work/log")
: > "$work/log"

# --- the benchmark --------------------------------------------------------------------------------------------------

mkdir "$work/results"
"$build/emulated/bench_gpu" --smoke --output "$work/results/ours.json" > "$work/log" 2>&1
report $? 'the benchmark runs on the emulated GPU'

"$python" - "$work/results/ours.json" > "$work/log" 2>&1 << 'PY'
import json, math, sys
report = json.load(open(sys.argv[1]))
assert report["floors"]["copy_bytes_per_s"] > 0
step, kernels = report["steps"][0], report["kernels"][0]
assert step["graph_ms"] > 0 and step["memory_bytes"] > step["activation_bytes"] > 0, step
assert 0 < step["last_loss"] < step["first_loss"] < 1, step
assert math.isclose(step["flop"], 0.224e12 / 16**3, rel_tol=0.01), step
assert math.isclose(step["floor_bytes"], 4.4e9 / 16**3, rel_tol=0.01), step
count = {}
for k in kernels["list"]:
    count[k["kernel"]] = count.get(k["kernel"], 0) + k["times_a_step"]
assert count["conv_fwd"] == 32 and count["conv_bwd_data"] == 31 and count["norm_relu_fwd"] == 25, count
PY
report $? 'its report is JSON, counts a step as the roofline does and lists every kernel of it'

# --- the table ------------------------------------------------------------------------------------------------------

"$python" tests/gpu/report.py "$work/results" > "$work/log" 2>&1
[ $? = 1 ] && grep -q 'torch: nothing was measured' "$work/log"
report $? 'the table says that PyTorch was not measured'

"$python" - "$work/results" << 'PY'
import json, sys
folder = sys.argv[1]
ours = json.load(open(f"{folder}/ours.json"))
ours["floors"]["copy_bytes_per_s"] = 2e12
ours["steps"] = [dict(filters=16, shape=[128] * 3, type="bf16", eager_ms=9.0, graph_ms=6.0, memory_bytes=1 << 30,
                      activation_bytes=1 << 29, flop=0.9e12, floor_bytes=8e9),
                 dict(filters=8, shape=[224, 224, 144], type="bf16", error="no memory left")]
json.dump(ours, open(f"{folder}/ours.json", "w"))
step = dict(what="step", filters=16, shape=[128] * 3, type="bf16", memory_bytes=3 << 30)
json.dump(dict(torch="2.11", cudnn=1, device="GPU", cases=[
    dict(step, layout="contiguous", how="eager", ms=12.0), dict(step, layout="channels_last_3d", how="eager", ms=10.5),
    dict(step, layout="contiguous", how="default", ms=6.3),
    dict(step, layout="contiguous", how="graph", error="late")]),
    open(f"{folder}/torch.json", "w"))
with open(f"{folder}/ncu-16.csv", "w") as file:
    file.write('==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
               '"0","void norm_apply(int)","gpu__time_duration.sum","ns","5,400,000"\n'
               '"1","fill_pairs(int)","gpu__time_duration.sum","ns","9,000,000"\n==PROF== Disconnected\n')
PY
"$python" tests/gpu/report.py "$work/results" --results "$work/RESULTS.md" > "$work/log" 2>&1 &&
    grep -qF '| >= 1.5 x torch eager | f=16 128^3 | 1.750 | yes |' "$work/RESULTS.md" &&
    grep -qF '| >= 1.1 x torch compiled | f=16 128^3 | 1.050 | NO |' "$work/RESULTS.md" &&
    grep -qF '| <= 4 x floor | f=16 128^3 | 1.500 | yes |' "$work/RESULTS.md" &&
    grep -qF '| memory <= 0.6 x torch | f=16 128^3 | 0.333 | yes |' "$work/RESULTS.md" &&
    grep -qE 'gaps between kernels .* f=16 128\^3 \| 0.100 \| NO' "$work/RESULTS.md" &&
    grep -qF '| >= 1.5 x torch eager | f=8 128^3 | - | not measured |' "$work/RESULTS.md" &&
    grep -qF 'f=8 224x224x144, bf16: no memory left' "$work/RESULTS.md" && grep -q 'graph: late' "$work/RESULTS.md"
report $? 'the table judges the goals and names what was not measured'

# --- without a GPU, and with one ------------------------------------------------------------------------------------

export GPU_RESULTS=$work/checked.md GPU_TORCH_CASES= SANITIZER=
FB_EMULATED_DEVICES=0 tests/gpu/check.sh "$build/emulated" test_any > "$work/log" 2>&1
[ $? = 1 ] && grep -q 'nothing was checked: there is no GPU here' "$work/log" && [ ! -e "$GPU_RESULTS" ]
report $? 'gpu-check fails where there is no GPU'

FB_EMULATED_DEVICES=0 tests/gpu/bench.sh "$build/emulated" > "$work/log" 2>&1
[ $? = 1 ] && grep -q 'nothing was measured: there is no GPU here' "$work/log"
report $? 'gpu-bench fails where there is no GPU'

mkdir "$work/build"
ln -s "$build/emulated/bench_gpu" "$work/build/"
printf '#!/bin/sh\nprintf "1..3\\nok 1 - a\\nok 2 - b # SKIP\\nok 3 - c\\n"\n' > "$work/build/test_good_cuda"
printf '#!/bin/sh\nprintf "1..2\\nok 1 - a\\nnot ok 2 - b\\n"; exit 1\n' > "$work/build/test_bad_cuda"
printf '#!/bin/sh\nprintf "1..2\\nok 1 - a\\n"; exit 139\n' > "$work/build/test_killed_cuda"
chmod +x "$work"/build/test_*
tests/gpu/check.sh "$work/build" test_good_cuda > "$work/log" 2>&1 &&
    tail -n 1 "$work/log" | grep -q '^2 passed, 0 failed, 1 skipped$' &&
    grep -q '^- test_good_cuda: 2 passed' "$GPU_RESULTS"
report $? 'gpu-check counts what the tests print and writes it down'

tests/gpu/check.sh "$work/build" test_good_cuda test_bad_cuda test_killed_cuda test_missing_cuda > "$work/log" 2>&1
[ $? = 1 ] && tail -n 1 "$work/log" | grep -q '^4 passed, 3 failed, 1 skipped$'
report $? 'gpu-check fails for a test that fails, dies or was not built'

cp "$work/build/test_good_cuda" "$work/build/test_op_cuda"
printf '#!/bin/sh\n[ "$2" = memcheck ] && exec "$5"\necho "========= Error: race"; exit 86\n' > "$work/sanitizer"
chmod +x "$work/sanitizer"
SANITIZER=$work/sanitizer tests/gpu/check.sh "$work/build" test_good_cuda test_op_cuda > "$work/log" 2>&1
[ $? = 1 ] && tail -n 1 "$work/log" | grep -q '^5 passed, 1 failed, 2 skipped$' &&
    grep -q 'test_op_cuda-racecheck: FAILED' "$GPU_RESULTS"
report $? 'gpu-check runs the tests of the operations under compute-sanitizer and sees what it finds'

# --- stand-ins ------------------------------------------------------------------------------------------------------

cat > "$work/philox.c" << 'C'
#include <Random123/philox.h>
#include <stdio.h>
int main(void)
{
    for (uint32_t i = 0; i < 1000; i++) {
        const philox4x32_key_t key = {{i * 2654435769u, ~i}};
        const philox4x32_ctr_t counter = {{i, i << 20, i * i, 7u}}, out = philox4x32(counter, key);
        printf("%u %u %u %u\n", out.v[0], out.v[1], out.v[2], out.v[3]);
    }
}
C
${CC:-cc} -o "$work/library" "$work/philox.c" 2> "$work/log" &&
    ${CC:-cc} -Itests/gpu/standin -o "$work/standin" "$work/philox.c" 2>> "$work/log" &&
    "$work/library" > "$work/library.txt" && "$work/standin" > "$work/standin.txt" &&
    [ "$(wc -l < "$work/standin.txt")" = 1000 ] && cmp "$work/library.txt" "$work/standin.txt" >> "$work/log" 2>&1
report $? 'the stand-in for Random123 draws the same numbers'

cat > "$work/cmocka.c" << 'C'
#include <cmocka.h>
static void passes(void **state) { assert_int_equal(*(int *)*state, 7); }
static void fails(void **state) { assert_int_equal(*(int *)*state, 8); }
static void skips(void **state) { (void)state; skip(); }
static int number = 7;
int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(passes, &number),
                                       cmocka_unit_test_prestate(fails, &number), cmocka_unit_test(skips)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
C
${CC:-cc} -Itests/gpu/standin -o "$work/tests" "$work/cmocka.c" 2> "$work/log" && {
    "$work/tests" > "$work/log"
    [ $? = 1 ]
} && grep -v '^#' "$work/log" | tr '\n' ';' | grep -qx '1..3;ok 1 - passes;not ok 2 - fails;ok 3 - skips # SKIP;'
report $? 'the stand-in for cmocka reports passed, failed and skipped tests'
echo "1..$number"
exit $failed
