#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# jobs/submit-sweep from outside: what it refuses before anything is written, the same runs here and on Slurm (of which
# there is here what a sbatch and a squeue on PATH record and say), what it does when it is asked again, stopped or
# changed. tests/slurm runs it on a real Slurm; check_sweep.py reads what it leaves.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
exec 2> "$dir/stderr"
logs=("$dir/out" "$dir/err")
. "$(dirname "$0")/tap.sh"
sweep=$PWD/jobs/submit-sweep real=$FB_BIN
unset FB_TASKS FB_NODES FB_CPUS_PER_TASK FB_GPUS_PER_NODE FB_ACCOUNT FB_PARTITION FB_TIME
"$FB_BIN/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.001 --seed 3 > /dev/null 2> "$dir/err" &&
    "$FB_BIN/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/err" ||
    { report 1 "cohort"; echo "1..$number"; exit 1; }
cd "$dir" || exit 1
mkdir tmp && export TMPDIR=$dir/tmp
cat > small.ini << INI
[data]
shards = $dir/shards
patch = 16x16x16
[model]
blocks_down = 1,1
blocks_up = 1
[federation]
rounds = 1
[eval]
on = test
INI

# ini NAME LINE...: NAME.ini, a sweep into folder NAME; further lines as they are
ini()
{
    printf '%s\n' '[sweep]' 'config = small.ini' "output = $1" "${@:2}" > "$1.ini"
}
run() # ARGUMENT...: output in out and err, the status is that of submit-sweep
{
    timeout 120 "$FB_PYTHON" "$sweep" "$@" > out 2> err
}
ran() # NUMBER: so many runs ended well
{
    [ "$(grep -c '^\[[0-9]*/[0-9]*\] .*: dice [0-9]' out)" = "$1" ]
}

# --- a sweep without Slurm
grid=('[grid]' 'sharing.fraction = 0.4, 0.1 ; two shares' 'run.seed = 1, 2')
ini first 'plot = yes' '[sharing]' 'select = random' "${grid[@]}"
run first.ini --dry-run && [ ! -e first ] && [ "$(grep -c '  new  ' out)" = 4 ] && grep -q '^4 runs: .* 4 to do' out &&
    grep -q 'cost: unknown' out
report $? "--dry-run prints the runs and writes nothing"
run first.ini --local 2 && ran 4 && grep -q '^4 complete, 0 failed' out
report $? "--local makes four runs"
[ -s first/sweep.h5 ] && [ -s first/sweep.png ] && [ -s first/sweep.pdf ] && grep -q 'wrote first/sweep.png' out
report $? "and one file of all and the figure"
sed -i 's/plot = yes/plot = no/' first.ini
head -n 2 first/sweep.csv > out
diff out - > err << 'CSV'
task,name,sharing.fraction,run.seed,arguments
0,fraction-0.4_seed-1,0.4,1,--sharing.select=random --sharing.fraction=0.4 --run.seed=1
CSV
report $? "the table of runs"
"$sweep" --row first 3 > out 2> err && diff out - > err << 'ROW'
first/experiment.ini
--sharing.select=random
--sharing.fraction=0.1
--run.seed=2
--run.output=first/runs/fraction-0.1_seed-2
ROW
report $? "--row prints a run's arguments, one a line"
run --row first 4
[ $? = 2 ] && grep -q 'rows 0 to 3' err
report $? "--row refuses a row that is not there"
run first.ini --local && ran 0 && grep -q '^0 runs in first' out
report $? "again: nothing is missing"
rm -r first/runs/fraction-0.1_seed-1
run first.ini --local && ran 1 && grep -q '^\[1/1\] fraction-0.1_seed-1' out
report $? "again: the missing one only"
run first --status && [ "$(grep -c 'complete, dice 0' out)" = 4 ] && grep -q '^4 runs: 4 complete' out
report $? "--status of the folder"
run first.ini --dry-run && grep -q 'the median of 4 rounds of 4 runs of this sweep' out
report $? "the cost comes from the runs that were made"

# --- changed afterwards
cp first.ini kept.ini
sed -i 's/select = random/select = topk/' first.ini && run first.ini --local
[ $? = 2 ] && grep -q 'fraction-0.4_seed-1 has begun.*: --sharing.select=random; now --sharing.select=topk' err
report $? "a run that has begun keeps its options"
sed 's/run.seed = 1, 2/run.seed = 2/' kept.ini > first.ini && run first.ini --local
[ $? = 2 ] && grep -q 'run fraction-0.4_seed-1 is not in first.ini any more' err
report $? "a run that has begun is not forgotten"
cp kept.ini first.ini && sed -i.kept 's/on = test/on = both/' small.ini && run first.ini --local
[ $? = 2 ] && grep -q 'small.ini has changed .*: line 10 is "on = both", was "on = test"' err
report $? "nor do the common options change"
mv small.ini.kept small.ini
sed 's/run.seed = 1, 2/run.seed = 1, 2, 3/' kept.ini > first.ini && run first.ini --local 2 && ran 2 &&
    [ "$(tail -n +2 first/sweep.csv | wc -l)" = 6 ]
report $? "a third seed adds two runs"

# --- the cost
ini cost 'step_seconds = 3600' 'ranks = 2' 'threads = 3' '[site]' 'FB_NODES = 2' 'FB_GPUS_PER_NODE = 4' '[federation]' \
    'rounds = 2' "${grid[@]}" '[sharing]' 'select = random'
run cost.ini --dry-run && grep -q ' 104.0 h .* = 624 core-hours (2 ranks x 3 cores), 832 GPU-hours (8 GPUs' out &&
    grep -q 'step_seconds in cost.ini' out # 13 steps x 2 rounds x 4 runs
report $? "core- and GPU-hours of a known step"
sed -i '/step_seconds/d; /ranks/d; /threads/d; s/rounds = 2/rounds = 20/' cost.ini
run cost.ini --dry-run --measure && grep -q 'cost: .* core-hours' out &&
    grep -q 'one round of fraction.*, made here' out
report $? "--measure makes one round"
[ ! -e cost ] && [ -z "$(ls -d "$dir"/tmp/submit-sweep.* 2> /dev/null)" ]
report $? "and leaves nothing behind"

# --- what is refused, before anything is written
# refused NAME TEXT LINE...: the sweep bad.ini is refused with TEXT
refused()
{
    local name=$1 text=$2
    shift 2
    ini bad "$@"
    run bad.ini --local
    [ $? = 2 ] && grep -q -- "$text" err && [ ! -e bad ] && ! grep -q Traceback err
    report $? "refused: $name"
}
one='run.seed = 1, 2'
refused "an unknown key" 'bad.ini:4: unknown key "throtle" .*did you mean "throttle"' 'throtle = 3' '[grid]' "$one"
refused "an unknown setting of the site" 'bad.ini:5: .*did you mean "FB_TIME"' '[site]' 'FB_TIMES = 1' '[grid]' "$one"
refused "ranks said twice" 'bad.ini:5: FB_TASKS' '[site]' 'FB_TASKS = 1' '[grid]' "$one"
refused "an unknown option" 'bad.ini:6: .*did you mean "sharing.fraction"' '[grid]' "$one" 'sharing.fractin = 0.1, 1'
refused "an unknown option's section" 'bad.ini:7: .*"shearing.fraction"' '[grid]' "$one" '[shearing]' 'fraction = 1'
refused "a value of one point" 'bad.ini:5: .*sharing.fraction' '[grid]' 'sharing.fraction = 0.1, 7' '[sharing]' \
    'select = topk'
grep -q '  in fraction-7$' err
report $? "which is named"
refused "settings that do not go together" 'privacy.clip = inf.*' '[grid]' "$one" 'privacy.mechanism = none, laplace'
grep -q '  in 2 runs, the first is seed-1_mechanism-laplace' err
report $? "their number, and the first"
refused "a repeated value" 'bad.ini:5: .*0.10 are the same' '[grid]' 'sharing.fraction = 0.1, 1, 0.10'
refused "an option given twice" 'bad.ini:7: run.seed is given twice, first in line 5' '[grid]' "$one" '[run]' 'seed = 3'
refused "a key given twice" 'bad.ini:5: plot is given twice, first in line 4' 'plot = no' 'plot = yes' '[grid]' "$one"
refused "an incomplete point" 'bad.ini:5: .*"laplace": each point needs 2 values' '[grid]' \
    'privacy.mechanism+privacy.epsilon_total = none 0, laplace'
refused "two values without a comma" 'bad.ini:5: .*separated by commas' '[grid]' 'run.seed = 1 2'
refused "an open quotation mark" 'bad.ini:5: .*quotation mark' '[grid]' 'model.blocks_down = "1,1, 2'
refused "the run's own folder" 'bad.ini:5: run.output is set by the sweep' '[grid]' 'run.output = a, b'
refused "a name that is too long" 'bad.ini: the name of a run would have 2' '[grid]' \
    "data.shards = $dir/shards, $dir/$(printf '%0200d' 1)"
refused "no grid" '\[grid\] is missing or empty' 'plot = no'
refused "a line that says nothing" 'bad.ini:4: neither' 'plot' '[grid]' "$one"
refused "more ranks than hospitals" '14 ranks a run, but seed-1 has 13 hospitals' 'ranks = 14' '[grid]' "$one"
refused "a number that is none" 'bad.ini:4: throttle = many: not a whole number' 'throttle = many' '[grid]' "$one"
printf '[sweep]\nconfig = nowhere.ini\noutput = bad\n[grid]\n%s\n' "$one" > bad.ini
run bad.ini --local
[ $? = 2 ] && grep -q 'nowhere.ini: No such file' err
report $? "refused: a common file that is not there"
run bad.ini --local --status
[ $? = 2 ] && grep -q 'exclude each other' err
report $? "two commands at once"
run "$dir" --status
[ $? = 2 ] && grep -q 'sweep.csv: No such file.*is this the folder of a sweep' err
report $? "a folder that is no sweep"

mkdir -p results/demo data && ln -s "$dir/shards" results/demo/shards && ln -s "$dir/shards" data/shards
for example in demo 13gpus shared-gpus; do
    run "${sweep%/*}/examples/sweep-$example.ini" --dry-run && [ ! -s err ] &&
        grep -q '^\(18\|9\|6\) runs: 0 complete' out
    report $? "the example $example"
done

# --- runs that fail, and a sweep that is stopped: a program that does as the file `mood` of the folder says
mkdir moody
cat > moody/fedbrats << 'PROGRAM'
#!/bin/bash
for word; do [ "${word#--run.output=}" = "$word" ] || out=${word#--run.output=}; done
[ "$1" = train ] && [[ $out =~ seed-2$ ]] || exec "$REAL/fedbrats" "$@"
mkdir -p "$out"
case $(cat "$MOOD") in
    fails) echo "Z error: shard 3: cannot be read" | tee -a "$out/log.txt" >&2; exit 1 ;;
    crashes) kill -SEGV $$ ;;
    empty) exit 0 ;;
    stubborn) trap '' USR1; touch "$MOOD.started"; for _ in {1..200}; do sleep 0.1; done ;;
    waits) trap 'exit 85' USR1; touch "$MOOD.started"
        echo "Z round 3/9: loss 0.5, dice 0.5, 0.1 s (0 evaluation), 0 s left" > "$out/log.txt"
        for _ in {1..200}; do sleep 0.1; done ;;
esac
PROGRAM
chmod +x moody/fedbrats
moody() # MOOD ARGUMENT...
{
    echo "$1" > mood
    rm -f mood.started
    FB_BIN=$dir/moody REAL=$real MOOD=$dir/mood timeout 120 "$FB_PYTHON" "$sweep" "${@:2}" > out 2> err
}
ini moods 'plot = no' '[grid]' 'run.seed = 1, 2, 3'
moody fails moods.ini --local 1
[ $? = 1 ] && ran 2 && grep -q 'seed-2: failed: shard 3: cannot be read' out && grep -q '^2 complete, 1 failed' out &&
    grep -q '^    Z error: shard 3' out
report $? "a run that fails is named with the end of its log; the others are made"
run moods --status && grep -q 'seed-2  failed: shard 3: cannot be read' out
report $? "and --status knows why"
moody crashes moods.ini --local 2
[ $? = 1 ] && grep -q '^1 runs' out && grep -q 'seed-2: failed: .*cannot be read\|signal 11 (SIGSEGV)' out
report $? "again: the failed one only"
rm -r moods/runs/seed-2 moods/logs/local_1.log
moody crashes moods.ini --local 2
[ $? = 1 ] && grep -q 'signal 11 (SIGSEGV)' out && run moods --status &&
    grep -q 'seed-2  failed: ended by signal 11' out
report $? "a crash has a name too"
rm -f moods/logs/local_1.log
moody empty moods.ini --local 2
[ $? = 1 ] && grep -q 'failed: ended with status 0 and without a result' out
report $? "status 0 without a result is a failure"

# stop MOOD SIGNALS...: starts moods.ini, and sends the signals as soon as the run is there
stop()
{
    local mood=$1 sweep_pid wait_s=0
    rm -rf moods/logs/local_1.log mood.started
    echo "$mood" > mood
    FB_BIN=$dir/moody REAL=$real MOOD=$dir/mood timeout 60 "$FB_PYTHON" "$sweep" moods.ini --local 1 > out 2> err &
    sweep_pid=$!
    while [ ! -e mood.started ] && [ $((wait_s += 1)) -lt 100 ]; do sleep 0.1; done
    run_while_going
    for signal in "${@:2}"; do
        kill "-$signal" "$(pgrep -P $sweep_pid)"
        sleep 0.4
    done
    wait $sweep_pid
}
run_while_going()
{
    "$FB_PYTHON" "$sweep" moods.ini --local > second 2>&1
    echo "status $?" >> second
    "$FB_PYTHON" "$sweep" moods --status > status 2>&1
}
sed -i 's/run.seed = .*/run.seed = 1, 2, 3, 4, 5/' moods.ini
run moods.ini --local 2
rm -rf moods/runs/seed-[25]
stop waits TERM
[ $? = 85 ] && grep -q 'seed-2: stopped after round 3 of 9' out && grep -q '0 failed, 1 stopped, 1 not started' out
report $? "asked to stop, it asks its runs to: status 85"
grep -q 'seed-2  running, round 3 of 9 done' status && grep -q 'seed-5  never started' status
report $? "--status while it goes on"
grep -q 'going on' second && grep -q 'status 2' second
report $? "nobody starts the same sweep beside it"
run moods --status && grep -q 'seed-2  stopped after round 3 of 9' out
report $? "--status afterwards"
stop stubborn INT INT
[ $? = 85 ] && grep -q 'ending 1 runs' out && ! pgrep -f "$dir/moody/fedbrats" > /dev/null
report $? "asked twice, it ends them"
rm -rf moods/runs/seed-2 && run moods.ini --local && ran 2
report $? "again: all is complete"

# --- the real program, stopped and gone on with; two ranks; a terminal
ini long 'plot = no' '[federation]' 'rounds = 40' '[grid]' 'run.seed = 1'
timeout 60 "$FB_PYTHON" "$sweep" long.ini --local > out 2> err & pid=$!
wait_s=0
until grep -qs 'round 2/' long/runs/seed-1/log.txt || [ $((wait_s += 1)) = 200 ]; do sleep 0.05; done
kill -USR1 "$(pgrep -P $pid)"
wait $pid
[ $? = 85 ] && grep -q 'seed-1: stopped after round [0-9]* of 40' out && run long.ini --local && ran 1 &&
    [ "$(grep -c ' round 2/40' long/runs/seed-1/log.txt)" = 1 ]
report $? "a real run is stopped with a checkpoint and goes on where it was"
ini ranks 'plot = no' 'ranks = 2' '[grid]' 'run.seed = 1'
run ranks.ini --local && ran 1 && grep -q 'rank 1: [0-9]* train cases' ranks/runs/seed-1/log.txt
report $? "two ranks a run"
rm -r ranks
timeout 60 script -qec "$FB_PYTHON $sweep ranks.ini --local" /dev/null < /dev/null > out 2> err &&
    grep -q '\] 0 of 1 runs, 1 going' out
report $? "a bar on a terminal"

# --- Slurm
mkdir slurm
cat > slurm/sbatch << 'SBATCH'
#!/bin/bash
[ ! -e "$SLURM_FAKE/refuse" ] || { echo "sbatch: error: Invalid account" >&2; exit 1; }
number=$(($(cat "$SLURM_FAKE/number" 2> /dev/null || echo 100) + 1))
echo $number > "$SLURM_FAKE/number"
printf '%s\n' "$@" > "$SLURM_FAKE/job.$number"
env | grep '^FB_' | sort > "$SLURM_FAKE/env.$number"
echo "$number;lab"
SBATCH
cat > slurm/squeue << 'SQUEUE'
#!/bin/bash
[ ! -e "$SLURM_FAKE/squeue.err" ] || { cat "$SLURM_FAKE/squeue.err" >&2; exit 1; }
cat "$SLURM_FAKE/queue"
SQUEUE
chmod +x slurm/sbatch slurm/squeue
export PATH=$dir/slurm:$PATH SLURM_FAKE=$dir/fake
mkdir fake && touch fake/queue
has() # JOB WORD...: the job was submitted with these words
{
    local job=$1 word
    shift
    for word; do
        grep -qxF -e "$word" "fake/job.$job" || { echo "job $job lacks $word" > err; return 1; }
    done
}
ini batch 'throttle = 2' 'ranks = 3' '[site]' 'FB_ACCOUNT = tumour' 'FB_TIME = 01:00:00' "${grid[@]}" '[sharing]' \
    'select = topk'
touch fake/refuse && run batch.ini
[ $? = 1 ] && grep -q 'sbatch refuses: sbatch: error: Invalid account' err && grep -q 'the command was: sbatch' err
report $? "what sbatch refuses is told"
rm fake/refuse
run batch.ini && has 101 --parsable --array=0-3%2 --ntasks=3 --account=tumour --time=01:00:00 \
    '--output=batch/logs/%x_%A_%a.log' batch && grep -q '/jobs/sweep.sbatch$' fake/job.101 && [ -d batch/logs ]
report $? "the array"
grep -qx FB_TASKS=3 fake/env.101 && grep -qx FB_TIME=01:00:00 fake/env.101
report $? "its jobs see the sweep's settings of the site"
has 102 --dependency=afterany:101 --kill-on-invalid-dep=yes --account=tumour --figure &&
    ! grep -q ntasks fake/job.102 && grep -q '/jobs/plot.sbatch$' fake/job.102
report $? "and the job of the figure after it"
grep -q 'array job 101: 4 of 4 runs, 2 at a time' out && grep -q 'figure job 102' out && grep -q -- '--status' out
report $? "their numbers, and what to look at"
printf '101 0 RUNNING\n101 1 PENDING\n101 2 PENDING\n101 3 PENDING\n' > fake/queue
run batch.ini && [ "$(cat fake/number)" = 102 ] && grep -q 'nothing to submit: 0 runs are complete, 4 queued' out
report $? "what is queued is not submitted again"
run batch --status && grep -q 'fraction-0.4_seed-1  running' out && grep -q '^4 runs: 1 running, 3 queued' out
report $? "--status asks Slurm"
printf '101 1 PENDING\n' > fake/queue
sed -i 's/^sharing.fraction = .*/sharing.fraction = 0.4/' batch.ini && run batch.ini
[ $? = 2 ] && grep -q 'fraction-0.1_seed-1 is not in batch.ini any more, and jobs .* are queued' err
report $? "while a job is queued, no line of the table goes away"
sed -i 's/^sharing.fraction = .*/sharing.fraction = 0.9, 0.4, 0.1/' batch.ini
run batch.ini && has 103 --array=0,2-5%2 && has 104 --dependency=afterany:101:103 &&
    grep -q '^1,fraction-0.4_seed-2' batch/sweep.csv && grep -q '^4,fraction-0.9_seed-1' batch/sweep.csv
report $? "while a job is queued, new runs go to the end of the table"
echo 'slurm_load_jobs error: Unable to contact slurm controller' > fake/squeue.err
run batch.ini
[ $? = 1 ] && grep -q 'squeue cannot be asked .*Unable to contact' err && [ "$(cat fake/number)" = 104 ]
report $? "nothing is submitted while squeue does not answer"
echo 'slurm_load_jobs error: Invalid job id specified' > fake/squeue.err
run batch.ini && has 105 --array=0-5%2 && grep -q '^0,fraction-0.9_seed-1' batch/sweep.csv
report $? "jobs that Slurm has forgotten are over"
rm fake/squeue.err
: > fake/queue
sed -i 's/^throttle.*/plot = no/' batch.ini && run batch.ini --local 2 && ran 6 &&
    sed -i 's/^plot.*/plot = yes/' batch.ini && run batch.ini && grep -q 'nothing to submit: 6' out &&
    has 107 --figure && ! grep -q dependency fake/job.107
report $? "all complete: the figure only"
touch batch/sweep.png
run batch.ini && [ "$(cat fake/number)" = 107 ]
report $? "or nothing"
printf '105 0 RUNNING\n' > fake/queue
rm -r batch/runs/fraction-0.9_seed-1
sed -i 's/^plot.*/plot = no/' batch.ini
run batch.ini --local && ran 0
report $? "--local leaves to Slurm what Slurm has"
echo "1..$number"
exit $failed
