# SPDX-License-Identifier: Apache-2.0
"""The runs of a sweep without Slurm: N at a time. Python 3.6 and its standard library suffice."""
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweep_folder import last_error, run_folder, run_state, tail

STOPPED = 85  # exit status of a run that was asked to stop: its checkpoint is written
POLL_S, BAR_S = 0.05, 1.0
END_LINES, ENDS = 5, 3  # of a failed run's log; of so many runs
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Child:
    def __init__(self, row, process, log):
        self.row, self.process, self.log, self.start = row, process, log, time.monotonic()


class Local:
    """folder: of the sweep; lock: its open lock file; words: of the launcher; command: row -> list of words; rounds:
    {name: planned}."""

    def __init__(self, folder, lock, words, command, environment, rounds):
        self.folder, self.lock, self.words, self.command = folder, lock, words, command
        self.environment, self.rounds = environment, rounds
        self.children, self.failed, self.signals, self.told = [], [], 0, 0
        self.complete = self.stopped = self.total = 0
        self.start, self.bar_at, self.earlier = time.monotonic(), 0.0, 0

    def say(self, text):
        try:
            print(("\r\033[K" if sys.stdout.isatty() else "") + text, flush=True)
        except OSError:
            pass  # the terminal is gone: the runs are not

    # --- one run ---

    def begin(self, row):
        path = Path(self.folder, "logs", "local_%d.log" % row.task)
        with open(str(path), "ab") as log:
            log.write(("=== %s %s\n" % (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), row.name)).encode())
            log.flush()
            # A session of its own: Ctrl-C on the terminal reaches us alone, and we ask the runs to stop. The lock is
            # theirs too: as long as one lives, nobody else starts the sweep.
            process = subprocess.Popen(self.words + self.command(row), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=self.environment, start_new_session=True, pass_fds=(self.lock.fileno(),))
        self.children.append(Child(row, process, path))
        self.note_children()

    def note_children(self):
        self.lock.seek(0)
        self.lock.truncate()
        self.lock.write("".join(child.row.name + "\n" for child in self.children))
        self.lock.flush()

    def end(self, child):
        status, row = child.process.returncode, child.row
        state = run_state(self.folder, row)
        if state.kind == "complete":
            self.complete += 1
            self.say("[%d/%d] %s: %s%.0f s" % (self.complete + len(self.failed), self.total, row.name,
                                               dice_of(run_folder(self.folder, row)), time.monotonic() - child.start))
        elif status == STOPPED or (self.signals and status in (-signal.SIGUSR1, 128 + signal.SIGUSR1)):
            self.stopped += 1
            self.say("%s: stopped%s" % (row.name, " after round %d of %d" % (state.round, state.rounds)
                                        if state.round else ""))
        else:
            self.fail(child, status)

    def fail(self, child, status):
        lines = tail(child.log)
        reason = last_error(lines)
        if not reason:
            reason = "ended with status %d and without a result" % status if status >= 0 else \
                "ended by signal %d (%s)" % (-status, signal.Signals(-status).name)
            with open(str(child.log), "a") as log:
                log.write("error: %s\n" % reason)
        self.failed.append(child)
        self.say("[%d/%d] %s: failed: %s" % (self.complete + len(self.failed), self.total, child.row.name, reason))

    # --- all of them ---

    def on_signal(self, number, frame):
        self.signals += 1

    def pass_on_signals(self):
        """The first asks the runs to stop, a second one ends them; their checkpoints stay either way."""
        if self.told >= min(self.signals, 2):
            return
        self.told = min(self.signals, 2)
        number = signal.SIGUSR1 if self.told == 1 else signal.SIGTERM if self.words else signal.SIGKILL  # mpirun kills
        self.say("stopping: %d runs end their round and write a checkpoint; once more ends them at once" %
                 len(self.children) if self.told == 1 else "ending %d runs" % len(self.children))
        for child in self.children:
            try:
                child.process.send_signal(number)
            except ProcessLookupError:
                pass

    def rounds_done(self):
        return sum(run_state(self.folder, child.row).round for child in self.children)

    def bar(self, waiting):
        now = time.monotonic()
        if not sys.stdout.isatty() or now < self.bar_at:
            return
        self.bar_at = now + BAR_S
        ended = self.complete + len(self.failed)
        left = sum(self.rounds[row.name] for row in waiting) + sum(self.rounds[c.row.name] for c in self.children)
        here = self.rounds_done()
        done = self.ended_rounds + here - self.earlier
        text = ", %s left" % duration((now - self.start) / done * (left - here)) if done > 0 else ""
        filled = 30 * ended // self.total
        try:
            sys.stdout.write("\r\033[K[%s] %d of %d runs, %d going%s%s" % (
                "#" * filled + "." * (30 - filled), ended, self.total, len(self.children),
                ", %d failed" % len(self.failed) if self.failed else "", text))
            sys.stdout.flush()
        except OSError:
            pass

    def run(self, rows, at_once):
        """Exit status: 0, 1 when a run failed, 85 when the sweep was asked to stop."""
        waiting, self.total, self.ended_rounds = list(rows), len(rows), 0
        self.earlier = sum(run_state(self.folder, row).round for row in rows)  # of an earlier start
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup's stays ignored
        before = [signal.signal(number, self.on_signal) for number in heard]
        try:
            while self.children or (waiting and not self.signals):
                while waiting and len(self.children) < at_once and not self.signals:
                    self.begin(waiting.pop(0))
                self.pass_on_signals()
                for child in [child for child in self.children if child.process.poll() is not None]:
                    self.children.remove(child)
                    self.note_children()
                    self.ended_rounds += self.rounds[child.row.name]
                    self.end(child)
                self.bar(waiting)
                time.sleep(POLL_S)
        finally:
            for number, handler in zip(heard, before):
                signal.signal(number, handler)
        return self.close(waiting)

    def close(self, waiting):
        self.say("%d complete, %d failed, %d stopped, %d not started; %s" % (
            self.complete, len(self.failed), self.stopped, len(waiting), duration(time.monotonic() - self.start)))
        for child in self.failed[:ENDS]:
            self.say("--- %s failed; the end of %s:" % (child.row.name, child.log))
            for line in tail(child.log)[-END_LINES:]:
                self.say("    " + line)
        if len(self.failed) > ENDS:
            self.say("--- and %d more, which --status lists with the reason" % (len(self.failed) - ENDS))
        return STOPPED if self.signals else 1 if self.failed else 0


def dice_of(run):
    """'dice 0.8312, ' from the run's RESULT line"""
    words = dict(word.split("=", 1) for word in " ".join(tail(run / "result.txt")).split() if "=" in word)
    return "dice %s, " % words["dice_mean"] if "dice_mean" in words else ""


def duration(seconds):
    if seconds < 100:
        return "%.0f s" % seconds
    return "%.0f min" % (seconds / 60) if seconds < 6000 else "%.1f h" % (seconds / 3600)


def launcher(ranks, bin_folder):
    """The words before the program. No binding: sweeps that run side by side would all take the first cores."""
    if ranks == 1:
        return []
    own = Path(bin_folder, "mpirun")
    return [str(own) if own.exists() else shutil.which("mpirun") or "mpirun", "--bind-to", "none", "--oversubscribe",
            "-n", str(ranks)]
