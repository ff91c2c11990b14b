# SPDX-License-Identifier: Apache-2.0
"""What submit-sweep asks of the site and of Slurm. Python 3.6 and its standard library suffice."""
import os
import re
import subprocess
from pathlib import Path

from sweep_folder import SweepError

JOBS = Path(__file__).resolve().parent
SETTINGS = ("FB_BIN", "FB_PYTHON", "FB_TASKS", "FB_NODES", "FB_TASKS_PER_NODE", "FB_CPUS_PER_TASK", "FB_GPUS_PER_NODE")
ASK = '. "$0" && printf "%s\\0" ' + " ".join('"${%s:-}"' % name for name in SETTINGS) + ' "${FB_SBATCH_OPTIONS[@]}"'
SUBMITTED = "jobs.txt"  # in the sweep's folder: a line "array ID" or "figure ID" per job


class Site:
    """environment: of sbatch and of programs; settings: {name: text}; options: of sbatch."""

    def __init__(self, sweep=None):
        self.environment = dict(os.environ)
        if sweep:
            self.environment.update(sweep.site)
            if sweep.ranks:
                self.environment["FB_TASKS"] = str(sweep.ranks)
            if sweep.threads > 1:
                self.environment.setdefault("FB_CPUS_PER_TASK", str(sweep.threads))
        asked = subprocess.run(["bash", "-c", ASK, str(JOBS / "site.sh")], env=self.environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        if asked.returncode:
            raise SweepError("%s: bash cannot read it: %s" % (JOBS / "site.sh", asked.stderr.strip()))
        texts = asked.stdout.split("\0")[:-1]
        self.settings = dict(zip(SETTINGS, texts))
        self.options = texts[len(SETTINGS):]

    def program(self):
        return str(Path(self.settings["FB_BIN"]) / "fedbrats")

    def number(self, name):
        text = self.settings[name]
        return int(text) if text.isdigit() and int(text) > 0 else 1

    def gpus(self):
        """Of one run."""
        if not self.settings["FB_GPUS_PER_NODE"]:
            return 0
        tasks, a_node = self.number("FB_TASKS"), self.number("FB_TASKS_PER_NODE")
        nodes = self.number("FB_NODES") if self.settings["FB_NODES"] else \
            -(-tasks // a_node) if self.settings["FB_TASKS_PER_NODE"] else 1
        return nodes * int(re.sub(r".*:", "", self.settings["FB_GPUS_PER_NODE"]))


def array_list(tasks):
    """[0, 1, 2, 5] -> '0-2,5'"""
    ranges = []
    for task in tasks:
        if ranges and ranges[-1][1] == task - 1:
            ranges[-1][1] = task
        else:
            ranges.append([task, task])
    return ",".join("%d-%d" % (a, b) if a != b else str(a) for a, b in ranges)


def _record(folder, kind, job):
    with open(str(Path(folder, SUBMITTED)), "a") as file:
        file.write("%s %s\n" % (kind, job))


def _jobs(folder, kind):
    try:
        lines = Path(folder, SUBMITTED).read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [line.split()[1] for line in lines if line.split()[0] == kind]


def queued(folder):
    """{task: (job, state)} of the sweep's tasks that Slurm has queued, runs or requeues. SweepError where it cannot be
    asked: a task must not be submitted twice."""
    jobs = _jobs(folder, "array")
    if not jobs:
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%F %K %T", "--jobs=" + ",".join(jobs)]
    try:
        asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    except OSError as error:
        raise SweepError("jobs of this sweep were submitted (%s), but squeue cannot be asked about them: %s; if none "
                         "of them is left, remove %s" % (", ".join(jobs), error.strerror, Path(folder, SUBMITTED)), 1)
    if asked.returncode and "Invalid job id" not in asked.stderr:  # which says: none of them is left
        raise SweepError("squeue cannot be asked about the jobs of this sweep (%s): %s" % (", ".join(jobs),
                                                                                          asked.stderr.strip()), 1)
    tasks = {}
    for line in asked.stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[1].isdigit():
            tasks[int(words[1])] = (words[0], words[2])
    return tasks


def _sbatch(site, arguments):
    command = ["sbatch", "--parsable"] + arguments
    try:
        done = subprocess.run(command, env=site.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True)
    except OSError as error:
        raise SweepError("sbatch: %s; without Slurm: --local" % error.strerror, 1)
    job = done.stdout.strip().split(";")[0]
    if done.returncode or not job.isdigit():
        raise SweepError("sbatch refuses: %s\n  the command was: %s" % (
            (done.stderr + done.stdout).strip(), " ".join(command)), 1)
    return job


def submit_array(site, folder, tasks, throttle):
    """Hands the tasks to Slurm; returns the job's number."""
    job = _sbatch(site, site.options + [
        "--array=%s%s" % (array_list(tasks), "%%%d" % throttle if throttle else ""),
        "--output=%s" % Path(folder, "logs", "%x_%A_%a.log"), str(JOBS / "sweep.sbatch"), str(folder)])
    _record(folder, "array", job)
    return job


def submit_figure(site, folder, after):
    """The job of the figure, after all of the arrays `after`, however their tasks end; returns its number. Of the
    site's options it takes those that say who pays and where: it needs one core."""
    kept = [option for option in site.options if re.match(r"--(account|partition|qos)=", option)]
    dependency = ["--dependency=afterany:" + ":".join(after), "--kill-on-invalid-dep=yes"] if after else []
    job = _sbatch(site, kept + dependency + [
        "--output=%s" % Path(folder, "logs", "%x_%j.log"), str(JOBS / "plot.sbatch"), str(folder),
        str(JOBS / "submit-sweep"), str(folder), "--figure"])
    _record(folder, "figure", job)
    return job
