# SPDX-License-Identifier: Apache-2.0
# For the cli_*.sh about runs that are interrupted and go on, which source it after tap.sh: a cohort, runs, and what two
# runs must have in common. They work in "$dir" with the options of "$dir/small.ini".
bin=$FB_BIN

# make_cohort: a phantom cohort of 13 hospitals in "$dir/shards"
make_cohort()
{
    "$bin/brats-phantom" --output "$dir/cohort" --shape 32x32x32 --scale 0.001 --seed 3 > /dev/null 2> "$dir/err" &&
        "$bin/brats-split" --input "$dir/cohort" --output "$dir/shards" --seed 3 > /dev/null 2>> "$dir/err" ||
        { report 1 "cohort"; echo "1..$number"; exit 1; }
}

train() # RANKS NAME OPTION...: RANKS 0 is without MPI
{
    local ranks=$1 launcher=()
    [ "$ranks" = 0 ] || launcher=(mpirun --oversubscribe -n "$ranks")
    shift
    timeout 60 "${launcher[@]}" "$bin/fedbrats" train "$dir/small.ini" --run.output="$dir/$1" "${@:2}" \
        > "$dir/$1.out" 2> "$dir/err"
}

# on_record RUN LEAST: the results, if there are any, can be read; the ledgers, read without the program, have a right
# chain and at least LEAST lines of hospitals, each with its message; a line that is torn is none.
on_record()
{
    "$FB_PYTHON" - "$dir/$1" "$2" 2>> "$dir/err" << 'PY'
import glob, hashlib, os, sys
import h5py
folder, least, lines = sys.argv[1], int(sys.argv[2]), 0
if os.path.exists(folder + "/results.h5"):
    with h5py.File(folder + "/results.h5") as run:
        committed = int(run["rounds_committed"][()].ravel()[0])
        assert 0 <= committed <= run["dice_mean"].shape[-1] and run["dice_mean"][()].size
for path in glob.glob(folder + "/ledger/*.txt"):
    who, chain = os.path.basename(path)[:-4], ""
    for number, line in enumerate(open(path).read().split("\n")[:-1]):
        text, written = line[:-64], line[-64:]
        chain = hashlib.sha256((chain + text).encode()).hexdigest()
        assert chain == written, (path, number + 1)
        if number == 0:
            continue
        attempt, round_, hospital, steps, count, message = text.split()
        stored = f"{folder}/outbox/{who}/{int(round_):07d}_{attempt}.msg"
        assert hashlib.sha256(open(stored, "rb").read()).hexdigest() == message, stored
        lines += who != "server"
assert lines >= least, f"{lines} lines, but {least} messages were received"
PY
}

# same NAME RUN: model, ledgers, messages and totals of two runs
same()
{
    diff -r -x '*.tmp' -x checkpoint -x ranks -x log.txt -x used.ini -x result.txt -x 'results.h5*' -x identity.txt \
        "$dir/$1" "$dir/$2" && diff <(totals "$1") <(totals "$2")
} >> "$dir/err" 2>&1

totals() # RUN: the line RESULT but for paths and times
{
    sed 's/overhead_fraction=[^ ]*//; s/results=.*//' "$dir/$1/result.txt"
}

# same_rounds NAME RUN: and every round of their results
same_rounds()
{
    same "$1" "$2" && "$FB_PYTHON" - "$dir/$1/results.h5" "$dir/$2/results.h5" << 'PY'
import sys, numpy, h5py
with h5py.File(sys.argv[1]) as a, h5py.File(sys.argv[2]) as b:
    assert a.attrs["status"] == b.attrs["status"] == b"complete"
    for name in ("dice_mean", "dice_validation_mean", "epsilon_total", "epsilon_round", "bytes_sent", "participated"):
        assert numpy.array_equal(a[name][()], b[name][()], equal_nan=name[0] in "de"), name
    assert a.attrs["epsilon_spent"] == b.attrs["epsilon_spent"]
PY
} >> "$dir/err" 2>&1

# again NAME RUN: NAME becomes a copy of RUN that begins from the first round: without checkpoints and result
again()
{
    rm -rf "${dir:?}/$1"
    cp -r "$dir/$2" "$dir/$1"
    rm -rf "$dir/$1/checkpoint" "$dir/$1/result.txt"
}
