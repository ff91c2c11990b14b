# SPDX-License-Identifier: Apache-2.0
"""The description of a sweep: sweep.ini -> the rows of its table. Python 3.6 and its standard library suffice."""
import difflib
import itertools
import re
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "analysis"))
from sweep_folder import Row, SweepError

KEYS = OrderedDict([("config", ""), ("output", ""), ("throttle", "0"), ("ranks", ""), ("threads", ""),
                    ("plot", "yes"), ("step_seconds", "")])  # of [sweep], with their defaults
OWN = ("run.output", "run.resume")  # options that submit-sweep sets itself, or leaves to the program
SITE = Path(__file__).resolve().parent / "site.sh"
NAME_CHARS = 200  # of a run's name, which is that of a folder
WORDS = re.compile(r'\s*(?:"([^"]*)"|([^\s,"]+)|(,))')

Entry = namedtuple("Entry", "key text line")
Axis = namedtuple("Axis", "options points line")  # options: names; points: a tuple of texts each, in the same order


class Sweep:
    """What sweep.ini says. path, text: the file; config: path of the common options, config_text: its contents; output:
    folder; throttle: runs at a time, 0 without a limit; ranks: 0 when not given; threads: of a rank; plot: bool;
    step_seconds: 0 when not given; site: {FB_NAME: text}, settings of site.sh; axes; fixed: {option: text}; lines:
    {option: line}."""


def read_ini(path, text):
    """[(section, line, [Entry])]: the grammar of fedbrats' own INI files."""
    sections, seen = [], {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s);.*", "", raw).strip()
        if not line or line[0] == "#":
            continue
        head = re.match(r"\[([^\]]+)\]$", line)
        if head:
            sections.append((head.group(1).strip(), number, []))
            continue
        key, equals, value = line.partition("=")
        key = key.strip()
        if not equals or not key or not sections:
            raise SweepError("%s:%d: neither [section] nor key = value nor a comment" % (path, number))
        name = sections[-1][0] + "." + key
        if name in seen:
            raise SweepError("%s:%d: %s is given twice, first in line %d; keep one" % (path, number, key, seen[name]))
        seen[name] = number
        sections[-1][2].append(Entry(key, value.strip(), number))
    return sections


def _points(path, entry, width):
    """'a b, "c, d" e' with a width of 2 -> [("a", "b"), ("c, d", "e")]"""
    points, words, at, text = [], [], 0, entry.text.rstrip() + ","
    while at < len(text):
        match = WORDS.match(text, at)
        if not match:
            raise SweepError("%s:%d: %s: a quotation mark has no partner" % (path, entry.line, entry.key))
        at = match.end()
        if not match.group(3):
            words.append(match.group(1) if match.group(1) is not None else match.group(2))
            continue
        if len(words) != width:
            many = "each point needs %d values (one an option), separated by spaces" % width if width > 1 else \
                "values are separated by commas; put one that holds spaces or commas in quotation marks"
            raise SweepError('%s:%d: %s: "%s": %s' % (path, entry.line, entry.key, " ".join(words), many))
        points.append(tuple(words))
        words = []
    return points


def _same(a, b):
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b


def _axis(path, entry):
    options = tuple(option.strip() for option in entry.key.split("+"))
    points = _points(path, entry, len(options))
    for a, b in itertools.combinations(points, 2):
        if all(map(_same, a, b)):
            raise SweepError("%s:%d: %s: %s and %s are the same point" % (path, entry.line, entry.key, " ".join(a),
                                                                         " ".join(b)))
    return Axis(options, points, entry.line)


def _integer(path, entries, values, key, least):
    try:
        number = int(values[key])
    except ValueError:
        number = least - 1
    if number < least:
        raise SweepError("%s:%d: %s = %s: not a whole number of at least %d" % (path, entries[key], key, values[key],
                                                                               least))
    return number


def _read_own(sweep, entries):
    """Section [sweep]."""
    path, values, lines = sweep.path, OrderedDict(KEYS), {}
    for entry in entries:
        if entry.key not in KEYS:
            near = difflib.get_close_matches(entry.key, KEYS, 1)
            raise SweepError('%s:%d: unknown key "%s" in [sweep]; %s' % (
                path, entry.line, entry.key, 'did you mean "%s"?' % near[0] if near else "it has " + ", ".join(KEYS)))
        values[entry.key], lines[entry.key] = entry.text, entry.line
    for key in ("config", "output"):
        if not values[key]:
            raise SweepError("%s: [sweep] lacks %s" % (path, "config = experiment.ini" if key == "config" else
                                                       "output = FOLDER of the sweep"))
    sweep.config, sweep.output = Path(path).parent / values["config"], Path(values["output"])
    sweep.throttle = _integer(path, lines, values, "throttle", 0)
    sweep.ranks = _integer(path, lines, values, "ranks", 1) if values["ranks"] else 0
    sweep.threads = _integer(path, lines, values, "threads", 1) if values["threads"] else 0
    if values["plot"] not in ("yes", "no"):
        raise SweepError("%s:%d: plot = %s: yes or no" % (path, lines["plot"], values["plot"]))
    sweep.plot = values["plot"] == "yes"
    try:
        sweep.step_seconds = float(values["step_seconds"] or 0)
    except ValueError:
        raise SweepError("%s:%d: step_seconds = %s: not a number" % (path, lines["step_seconds"],
                                                                     values["step_seconds"]))


def _read_site(path, entries):
    """Section [site]: settings of site.sh for this sweep."""
    known = re.findall(r'^: "\$\{(FB_[A-Z_]+):=', _read_text(SITE), re.MULTILINE)
    for entry in entries:
        if entry.key not in known:
            near = difflib.get_close_matches(entry.key.upper(), known, 1)
            raise SweepError('%s:%d: unknown key "%s" in [site]; %s' % (
                path, entry.line, entry.key,
                'did you mean "%s"?' % near[0] if near else "%s has %s" % (SITE, ", ".join(known))))
        if entry.key == "FB_TASKS":
            raise SweepError("%s:%d: FB_TASKS: say ranks in [sweep], which --local knows too" % (path, entry.line))
    return [(entry.key, entry.text) for entry in entries]


def read_sweep(path):
    """Reads and checks sweep.ini, but for the options of its runs: those fedbrats itself judges. SweepError."""
    sweep = Sweep()
    sweep.path = str(path)
    sweep.text = _read_text(path)
    sweep.axes, sweep.fixed, sweep.lines, sweep.site, own = [], OrderedDict(), {}, OrderedDict(), []
    for section, line, entries in read_ini(path, sweep.text):
        if section == "sweep":
            own += entries
            continue
        if section == "site":
            sweep.site.update(_read_site(path, entries))
            continue
        if section == "grid":
            sweep.axes += [_axis(path, entry) for entry in entries]
            named = [(option, axis.line) for axis in sweep.axes[-len(entries):] if entries for option in axis.options]
        else:
            named = [(section + "." + entry.key, entry.line) for entry in entries]
            sweep.fixed.update((section + "." + entry.key, entry.text) for entry in entries)
        for option, at in named:
            if option in sweep.lines:
                raise SweepError("%s:%d: %s is given twice, first in line %d; keep one" % (path, at, option,
                                                                                           sweep.lines[option]))
            if option in OWN:
                raise SweepError("%s:%d: %s is set by the sweep itself; leave it out" % (path, at, option))
            sweep.lines[option] = at
    _read_own(sweep, own)
    if not sweep.axes:
        raise SweepError("%s: [grid] is missing or empty: give an option and its values, as in\n"
                         "[grid]\nsharing.fraction = 1, 0.4, 0.1" % path)
    sweep.config_text = _read_text(sweep.config)
    _set_threads(sweep)
    return sweep


def _read_text(path):
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SweepError("%s: %s" % (path, error.strerror))
    except UnicodeDecodeError:
        raise SweepError("%s: not a text in UTF-8" % path)


def _set_threads(sweep):
    """run.threads of the runs, wherever it is said; [sweep] wins over the common options."""
    if sweep.threads:
        if "run.threads" in sweep.lines:
            raise SweepError("%s:%d: run.threads is also given as threads in [sweep]; keep one" % (
                sweep.path, sweep.lines["run.threads"]))
        sweep.fixed["run.threads"] = str(sweep.threads)
        return
    given = [sweep.fixed.get("run.threads", "1")]
    for section, _, entries in read_ini(sweep.config, sweep.config_text):
        given += [entry.text for entry in entries if section + "." + entry.key == "run.threads"]
    for axis in sweep.axes:
        given += [text for point in axis.points for option, text in zip(axis.options, point) if option == "run.threads"]
    sweep.threads = max(int(text) if text.isdigit() else 1 for text in given)


def _short_names(options):
    """{option: its part of a run's name}: the last word where it is unmistakable."""
    last = [option.rpartition(".")[2] for option in options]
    return {option: word if last.count(word) == 1 else option for option, word in zip(options, last)}


def make_rows(sweep):
    """The cartesian product in the order as written: the last axis runs fastest."""
    options = [option for axis in sweep.axes for option in axis.options]
    short, rows, names = _short_names(options), [], {}
    for points in itertools.product(*(axis.points for axis in sweep.axes)):
        values = OrderedDict(zip(options, (text for point in points for text in point)))
        name = "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", short[option]) + "-" +
                        (re.sub(r"[^A-Za-z0-9.+-]+", "-", text) or "empty") for option, text in values.items())
        if name in names:
            raise SweepError("%s: the runs of %s and %s would have the same name, %s" % (
                sweep.path, dict(names[name]), dict(values), name))
        if len(name) > NAME_CHARS:
            raise SweepError("%s: the name of a run would have %d characters, more than %d: %s; move options with one "
                             "value out of [grid]" % (sweep.path, len(name), NAME_CHARS, name))
        names[name] = values
        arguments = ["--%s=%s" % pair for pair in itertools.chain(sweep.fixed.items(), values.items())]
        rows.append(Row(len(rows), name, values, arguments))
    return rows
