#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our GPU step beside PyTorch's, the floor of this GPU and the goals: a table, and a dated section of RESULTS.md.

    report.py FOLDER [--results tests/gpu/RESULTS.md] [--about TEXT]

FOLDER holds ours.json (bench_gpu), torch.json (torch_step.py) and ncu-FILTERS.csv (one step at 128^3 under ncu), each
where it was made. What was not measured is named, never left out. Needs Python only.
"""
import argparse
import csv
import json
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True

CUBE = [128, 128, 128]
MATRIX_RATE = 790e12  # FLOP/s, where PyTorch did not measure it: facts of an H200
COMPILED = ("default", "reduce-overhead", "max-autotune")
AUTOCAST = ("bf16",)


def load(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"report: {path}: {error}", file=sys.stderr)
        return {}


def of(cases, **wanted):
    """The cases that were measured and have these values."""
    return [c for c in cases if all(c.get(k) == v for k, v in wanted.items()) and "error" not in c]


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def ratio(above, below):
    return above / below if above and below else None


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def name(case):
    return f"f={case['filters']} {'x'.join(map(str, case['shape']))}"


# --- PyTorch --------------------------------------------------------------------------------------------------------


class Torch:
    def __init__(self, report):
        self.cases = report.get("cases", [])
        self.matrix_rate = next((c["matrix_flop_per_s"] for c in self.cases if "matrix_flop_per_s" in c), None)
        self.copy_rate = next((c["copy_bytes_per_s"] for c in self.cases if "copy_bytes_per_s" in c), None)

    def steps(self, case, hows, types=AUTOCAST):
        found = of(self.cases, what="step", filters=case["filters"], shape=case["shape"])
        return [c for c in found if c["how"] in hows and c["type"] in types]

    def best(self, case, hows, types=AUTOCAST):
        return min(self.steps(case, hows, types), key=lambda c: c["ms"], default=None)

    def least_memory(self, case):
        return min((c["memory_bytes"] for c in self.steps(case, ("eager",)) if c.get("memory_bytes")), default=None)


def label(case):
    return f"{case['ms']:.2f} ({case['how']}, {case['layout'].replace('channels_last_3d', 'NDHWC')})" if case else "-"


# --- the kernels of one step under ncu ------------------------------------------------------------------------------


def read_ncu(path):
    """Milliseconds of all kernels but those that fill the input; None without a measurement."""
    total, unit = 0.0, dict(nsecond=1e-6, ns=1e-6, usecond=1e-3, us=1e-3, msecond=1.0, ms=1.0)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    for row in csv.DictReader(lines[start:]) if start is not None else []:
        if not re.match(r"(void )?fill_", row.get("Kernel Name") or "") and row.get("Metric Unit") in unit:
            total += float(row["Metric Value"].replace(",", "")) * unit[row["Metric Unit"]]
    return total or None


# --- tables ---------------------------------------------------------------------------------------------------------


def floor_of(step, ours, torch):
    """Milliseconds: bytes at this run's copy rate or FLOP at its matrix rate, whichever is more."""
    return 1e3 * max(step["floor_bytes"] / ours["floors"]["copy_bytes_per_s"],
                     step["flop"] / (torch.matrix_rate or MATRIX_RATE))


def step_table(ours, torch):
    rows = []
    for s in of(ours.get("steps", [])):
        eager, compiled = torch.best(s, ("eager",)), torch.best(s, COMPILED)
        if s["type"] == "f32":
            eager, compiled = torch.best(s, ("eager",), ("f32", "tf32")), None
        floor = floor_of(s, ours, torch) if s["type"] == "bf16" else None
        memory = torch.least_memory(s) if s["type"] == "bf16" else None
        graph = torch.best(s, ("graph",)) if s["type"] == "bf16" else None
        rows.append([name(s), s["type"], number(s["eager_ms"]), number(s["graph_ms"]), label(eager), label(graph),
                     label(compiled), number(ratio(eager and eager["ms"], s["graph_ms"])),
                     number(ratio(compiled and compiled["ms"], s["graph_ms"])), number(floor),
                     number(ratio(s["graph_ms"], floor)), f"{s['memory_bytes'] / 2**20:.0f}",
                     number(ratio(s["memory_bytes"], memory))])
    return table(["step, batch 1", "type", "ours eager, ms", "ours graph, ms", "torch best eager, ms",
                  "torch whole graph, ms", "torch best compiled, ms", "x eager", "x compiled", "floor, ms", "/ floor",
                  "ours, MiB", "/ torch"], rows)


def kernel_table(ours):
    """By kernel, over a step: time, bytes and FLOP a second."""
    text = ""
    for block in of(ours.get("kernels", [])):
        rows, names = [], list(dict.fromkeys(k["kernel"] for k in block["list"]))
        for kernel in names:
            all_of = [k for k in block["list"] if k["kernel"] == kernel]
            ms, bytes_, flop = (sum(k[key] * max(k["times_a_step"], 1) for k in all_of)
                                for key in ("ms", "bytes", "flop"))
            worst = min(all_of, key=lambda k: k["of_copy_rate"] or 0.0)
            rows.append([kernel, sum(k["times_a_step"] for k in all_of), number(ms, 3), number(bytes_ / ms * 1e-6, 0),
                         number(bytes_ / ms * 1e3 / ours["floors"]["copy_bytes_per_s"]),
                         number(flop / ms * 1e-9, 1) if flop else "", f"{worst['layer']} {worst['of_copy_rate']:.2f}"])
        text += f"\n{name(block)}, {block['type']}, each kernel alone on memory that no cache holds:\n\n"
        text += table(["kernel", "times a step", "ms a step", "GB/s", "/ copy", "TFLOP/s", "lowest"], rows)
    return text


def inference_table(ours, torch):
    rows = []
    for s in of(ours.get("inference", [])):
        best = min(of(torch.cases, what="inference", filters=s["filters"], shape=s["shape"], type=s["type"]),
                   key=lambda c: c["ms"], default=None)
        rows.append([name(s), s["type"], number(s["eager_ms"]), number(s["graph_ms"]),
                     number(best and best["ms"]), number(ratio(best and best["ms"], s["graph_ms"])),
                     f"{s['memory_bytes'] / 2**20:.0f}"])
    return table(["inference", "type", "ours eager, ms", "ours graph, ms", "torch eager, ms", "x torch", "ours, MiB"],
                 rows)


def goals(ours, torch, folder):
    """(goal, case, measured, reached or None)"""
    found = []

    def judge(goal, case, value, holds):
        verdict = "not measured" if value is None else "yes" if holds(value) else "NO"
        found.append([goal, case, number(value, 3), verdict])

    steps = {(s["filters"], tuple(s["shape"])): s for s in of(ours.get("steps", []), type="bf16")}
    for filters in (8, 16, 32):
        s = steps.get((filters, tuple(CUBE)), dict(filters=filters, shape=CUBE))
        ms, where = s.get("graph_ms"), f"f={filters} 128^3"
        eager, compiled = torch.best(s, ("eager",)), torch.best(s, COMPILED)
        judge(">= 1.5 x torch eager", where, ratio(eager and eager["ms"], ms), lambda v: v >= 1.5)
        speed = ratio(compiled and compiled["ms"], ms)
        judge(">= 1.1 x torch compiled", where, speed, lambda v: v >= 1.1)
        later = 1.5 if filters == 32 else 2.0
        judge(f"later: >= {later} x torch compiled", where, speed, lambda v, later=later: v >= later)
        judge("<= 4 x floor", where, ratio(ms, floor_of(s, ours, torch)) if ms else None, lambda v: v <= 4.0)
        judge("memory <= 0.6 x torch", where, ratio(s.get("memory_bytes"), torch.least_memory(s)), lambda v: v <= 0.6)
        block = next(iter(of(ours.get("kernels", []), filters=filters, type="bf16")), {})
        judge("GroupNorm and ReLU >= 0.75 of the copy rate", where, block.get("norm_of_copy_rate"),
              lambda v: v >= 0.75)
        judge("convolutions >= 0.7 of the kernels' time", where, ratio(block.get("conv_ms"), block.get("step_ms")),
              lambda v: v >= 0.7)
        kernels = read_ncu(folder / f"ncu-{filters}.csv")
        judge("gaps between kernels <= 0.02 of a step (1 - ncu's kernel times / graph)", where,
              1.0 - kernels / ms if kernels and ms else None, lambda v: v <= 0.02)
    return found


def not_run(ours, torch):
    lines = []
    for part in ("steps", "kernels", "inference"):
        for c in ours.get(part, []):
            if "error" in c:
                lines.append(f"ours, {part}, {name(c)}, {c['type']}: {c['error']}")
    for c in torch.cases:
        if "error" in c:
            case = f", {name(c)}, {c['type']}, {c['layout']}, {c.get('how', '')}" if "shape" in c else ""
            lines.append(f"torch, {c['what']}{case}: {c['error']}")
    if not ours.get("steps"):
        lines.append("ours: nothing was measured")
    if not torch.cases:
        lines.append("torch: nothing was measured")
    return lines


def write(ours, torch_report, folder, about):
    torch = Torch(torch_report)
    floors = ours.get("floors", {})
    device = ours.get("device") or torch_report.get("device", "no device")
    parts = [f"## {(ours.get('date') or torch_report.get('date', ''))[:10]}: gpu-bench, {device}\n", about + "\n"]
    parts.append(f"{ours.get('versions', 'ours: not measured')}; PyTorch {torch_report.get('torch', 'not measured')}, "
                 f"cuDNN {torch_report.get('cudnn')}. Commands: `make gpu-bench` (`bench_gpu --output ours.json`, "
                 "`torch_step.py --output torch.json`, `report.py`).\n")
    matrix = f"{torch.matrix_rate * 1e-12:.0f} TFLOP/s" if torch.matrix_rate else \
        f"not measured; {MATRIX_RATE * 1e-12:.0f} TFLOP/s is assumed"
    rates = [number(rate and rate * 1e-9, 0) for rate in (floors.get("copy_kernel_bytes_per_s"),
                                                          floors.get("copy_runtime_bytes_per_s"), torch.copy_rate)]
    parts.append(f"Copy rate (read and written), GB/s: {rates[0]} by our kernel, {rates[1]} by cudaMemcpyAsync, "
                 f"{rates[2]} by PyTorch. bf16 matrix rate (PyTorch, 8192^3): {matrix}.\n")
    if ours.get("steps"):
        parts += [step_table(ours, torch), table(["goal", "case", "measured", "reached"], goals(ours, torch, folder)),
                  inference_table(ours, torch), kernel_table(ours)]
    missing = not_run(ours, torch)
    parts.append("Not run: " + ("; ".join(missing) if missing else "nothing was left out") + ".\n")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, help="append the section to this file")
    parser.add_argument("--about", default="")
    args = parser.parse_args()
    ours, torch_report = load(args.folder / "ours.json"), load(args.folder / "torch.json")
    section = write(ours, torch_report, args.folder, args.about)
    print(section)
    if args.results:
        with open(args.results, "a", encoding="utf-8") as file:
            file.write("\n" + section)
    return 0 if ours.get("steps") and torch_report.get("cases") else 1


if __name__ == "__main__":
    sys.exit(main())
