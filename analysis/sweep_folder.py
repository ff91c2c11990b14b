# SPDX-License-Identifier: Apache-2.0
"""The folder of a sweep, as jobs/submit-sweep makes it and analysis/fedbrats_results.py reads it: the table of its runs
and what became of each. Python 3.6 and its standard library suffice: it also runs on login nodes.

    sweep.csv   task, name, an option per column, arguments (all options of the run, quoted as for a shell)
    runs/NAME/  run.output of each run: complete as soon as result.txt is there
    logs/       of the jobs; the file of task 7 ends with _7.log
"""
import csv
import os
import re
import shlex
from collections import OrderedDict, namedtuple
from pathlib import Path

TABLE = "sweep.csv"
Row = namedtuple("Row", "task name values arguments")  # values: {option: text}; arguments: ["--option=text", ...]
# kind: complete, failed, stopped or missing; round, rounds: done and planned, 0 where unknown; reason: of failed ones
State = namedtuple("State", "kind round rounds reason")

ROUND = re.compile(r" round (\d+)/(\d+): .*?, ([0-9.]+) s \(")
STOPPED = re.compile(r"\b(exit code|status) 85\b")
TAIL_BYTES = 1 << 16  # of a log: the end of the longest is enough


class SweepError(Exception):
    """What is wrong, where, and what to do; printed as it is. status: the exit status it ends with."""

    def __init__(self, text, status=2):
        super().__init__(text)
        self.status = status


def read_table(folder):
    """The rows of sweep.csv, by task; SweepError when there is none or it is not one."""
    path = Path(folder, TABLE)
    try:
        with open(str(path), newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise SweepError("%s: %s; is this the folder of a sweep?" % (path, error.strerror))
    if not lines or lines[0][:2] != ["task", "name"] or lines[0][-1] != "arguments":
        raise SweepError("%s: not a table of jobs/submit-sweep: its first line is not task,name,...,arguments" % path)
    rows = []
    for number, line in enumerate(lines[1:]):
        if len(line) != len(lines[0]) or line[0] != str(number):
            raise SweepError("%s:%d: row %d of the table is damaged" % (path, number + 2, number))
        rows.append(Row(number, line[1], OrderedDict(zip(lines[0][2:-1], line[2:-1])), shlex.split(line[-1])))
    return rows


def write_table(folder, rows):
    """Writes sweep.csv; a reader sees the old or the new one, never a part."""
    path = Path(folder, TABLE)
    temporary = str(path) + ".tmp"
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "name"] + list(rows[0].values) + ["arguments"])
        for row in rows:
            quoted = " ".join(shlex.quote(argument) for argument in row.arguments)
            writer.writerow([row.task, row.name] + list(row.values.values()) + [quoted])
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, str(path))


def run_folder(folder, row):
    return Path(folder, "runs", row.name)


def tail(path):
    """The last lines of a text; none where there is no file."""
    try:
        with open(str(path), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def job_log(folder, row):
    """The newest log of a task's jobs, or None."""
    logs = list(Path(folder, "logs").glob("*_%d.log" % row.task))
    return max(logs, key=lambda path: path.stat().st_mtime) if logs else None


def last_error(lines):
    """The last error in lines of a log, without its time, unless a round was completed or the run was stopped on
    request after it; "" when there is none."""
    for line in reversed(lines):
        if ROUND.search(line) or STOPPED.search(line):
            return ""
        if "error: " in line:
            return line.split("error: ", 1)[1].strip()
    return ""


def run_state(folder, row):
    """What became of a run, from its files alone: one that still goes on is `stopped`, as one that was killed."""
    run = run_folder(folder, row)
    lines = tail(run / "log.txt")
    rounds = [match for match in map(ROUND.search, lines) if match]
    done, planned = (int(rounds[-1].group(1)), int(rounds[-1].group(2))) if rounds else (0, 0)
    if (run / "result.txt").is_file():
        return State("complete", done, planned, "")
    reason = last_error(lines)
    if not reason:
        log = job_log(folder, row)
        reason = last_error(tail(log)) if log else ""
    if reason:
        return State("failed", done, planned, reason)
    if not (run / "log.txt").exists():
        return State("missing", 0, 0, "")
    return State("stopped", done, planned, "")


def describe(state):
    """'complete', 'stopped after round 3 of 30', 'failed after round 3 of 30: ...', 'never started'"""
    if state.kind == "missing":
        return "never started"
    text = state.kind
    if state.kind != "complete":
        text += " after round %d of %d" % (state.round, state.rounds) if state.round else ""
    return text + (": " + state.reason if state.reason else "")


def round_seconds(folder, row):
    """Seconds of each round that the end of the run's log tells of."""
    return [float(match.group(3)) for match in map(ROUND.search, tail(run_folder(folder, row) / "log.txt")) if match]
