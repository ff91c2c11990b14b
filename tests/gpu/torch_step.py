#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The training step of bench_gpu in PyTorch, as fast as PyTorch does it: what our GPU backend is held against.

    torch_step.py --output torch.json [--limit SECONDS]     every case, on the GPU
    torch_step.py --device cpu --smoke --output torch.json  the smallest case, without a GPU
    torch_step.py --export FILE [--filters F] [--size S]    one step in float32, for compare_torch

SegResNet with MONAI's names and parameters (without MONAI), Dice loss, Adam, batch 1, random input. Every case runs in
a process of its own with a time limit. Times are medians of CUDA events around groups of steps; memory is
torch.cuda.max_memory_allocated after the warm-up. Our step cuts and normalises its sample as well; this one does not.
Fields of the JSON file: tests/gpu/README.md.
"""
import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BLOCKS_DOWN, BLOCKS_UP, GROUPS = (1, 2, 2, 4), (1, 1, 1), 8
PARAMETERS = {8: 1176843, 16: 4702227, 32: 18798627}
WARM_UP, GROUP, REPEATS = 5, 5, 12
BEGIN = time.monotonic()

# --- the network ----------------------------------------------------------------------------------------------------


class Convolution(nn.Module):
    """MONAI's wrapper, which gives parameters the name conv.weight."""

    def __init__(self, c_in, c_out, kernel=3, stride=1, bias=False):
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)

    def forward(self, x):
        return self.conv(x)


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = Convolution(channels, channels)
        self.conv2 = Convolution(channels, channels)

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        return self.conv2(functional.relu(self.norm2(y))) + x


class SegResNet(nn.Module):
    def __init__(self, filters, dropout=0.2, blocks_down=BLOCKS_DOWN, blocks_up=BLOCKS_UP):
        super().__init__()
        self.convInit = Convolution(4, filters)
        self.dropout = nn.Dropout3d(dropout)
        self.down_layers, self.up_layers, self.up_samples = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, count in enumerate(blocks_down):
            c = filters << level
            first = Convolution(c // 2, c, stride=2) if level else nn.Identity()
            self.down_layers.append(nn.Sequential(first, *(ResBlock(c) for _ in range(count))))
        for up, count in enumerate(blocks_up):
            c = filters << (len(blocks_up) - 1 - up)
            self.up_layers.append(nn.Sequential(*(ResBlock(c) for _ in range(count))))
            self.up_samples.append(nn.Sequential(
                Convolution(2 * c, c, kernel=1), nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)))
        self.conv_final = nn.Sequential(
            nn.GroupNorm(GROUPS, filters), nn.ReLU(), Convolution(filters, 3, kernel=1, bias=True))

    def forward(self, x):
        x = self.dropout(self.convInit(x))
        skips = []
        for layer in self.down_layers:
            x = layer(x)
            skips.append(x)
        for rise, layer, skip in zip(self.up_samples, self.up_layers, reversed(skips[:-1])):
            x = layer(rise(x) + skip)
        return self.conv_final(x)


def dice_loss(logits, target):
    """MONAI's DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-5), in float32."""
    p, axes = torch.sigmoid(logits.float()), (2, 3, 4)
    both = (p * target).sum(axes)
    return (1 - 2 * both / ((p * p).sum(axes) + (target * target).sum(axes) + 1e-5)).mean()


def make_network(filters, dropout=0.2):
    torch.manual_seed(1)
    net = SegResNet(filters, dropout)
    count = sum(p.numel() for p in net.parameters())
    if PARAMETERS.get(filters, count) != count:
        raise SystemExit(f"torch_step: {count} parameters with {filters} filters, should be {PARAMETERS[filters]}")
    return net


def make_sample(shape, device):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, *shape, generator=generator)
    bits = torch.randint(0, 8, (1, 1, *shape), generator=generator)
    target = torch.cat([(bits >> r & 1).float() for r in range(3)], 1)
    return x.to(device), target.to(device)


# --- one case, in a process of its own ------------------------------------------------------------------------------


class Step:
    """What a case repeats. how: eager, graph or a mode of torch.compile; type: bf16 (autocast), tf32, f32, bf16-all."""

    def __init__(self, case, device):
        self.case, self.device = case, device
        cuda = device == "cuda"
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case["type"] == "tf32"
        layout = torch.channels_last_3d if case["layout"] == "channels_last_3d" else torch.contiguous_format
        self.net = make_network(case["filters"]).to(device).to(memory_format=layout)
        x, self.target = make_sample(case["shape"], device)
        if case["type"] == "bf16-all":
            self.net, x = self.net.bfloat16(), x.bfloat16()
        self.x = x.contiguous(memory_format=layout)
        more = dict(fused=True) if cuda else {}
        if cuda and case["how"] == "graph":
            more["capturable"] = True
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-4, weight_decay=1e-5, **more)
        self.loss_of, self.graph, self.loss = self.forward, None, None
        self.marks_steps = case["how"] in ("reduce-overhead", "max-autotune")
        if case["how"] not in ("eager", "graph"):
            mode = None if case["how"] == "default" else case["how"]
            self.loss_of = torch.compile(self.forward, mode=mode)

    def forward(self, x, target):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.case["type"] == "bf16"):
            logits = self.net(x)
        return dice_loss(logits, target)

    def once(self):
        if self.marks_steps:
            torch.compiler.cudagraph_mark_step_begin()
        self.optimiser.zero_grad(set_to_none=True)
        self.loss = self.loss_of(self.x, self.target)
        self.loss.backward()
        self.optimiser.step()

    def capture(self):
        """The whole step as one CUDA graph, as PyTorch's notes on CUDA graphs say."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.once()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.once()

    def run(self):
        if self.graph:
            self.graph.replay()
        else:
            self.once()


def time_group(run, device, count):
    """Milliseconds of each of `count` runs."""
    if device == "cpu":
        begin = time.monotonic()
        for _ in range(count):
            run()
        return (time.monotonic() - begin) * 1e3 / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count


def measure_step(case, device):
    step = Step(case, device)
    warm_up, group, repeats = (1, 1, 1) if case.get("smoke") else (WARM_UP, GROUP, REPEATS)
    if case["how"] == "graph":
        step.capture()
    begin = time.monotonic()
    for _ in range(warm_up):
        step.run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    ready_s = time.monotonic() - begin
    ms = [time_group(step.run, device, group) for _ in range(repeats)]
    loss = float(step.loss)
    if not np.isfinite(loss):
        raise RuntimeError("the loss is not finite")
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return dict(ms=statistics.median(ms), ms_least=min(ms), memory_bytes=peak, ready_s=ready_s, loss=loss)


def measure_inference(case, device):
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last_3d if case["layout"] == "channels_last_3d" else torch.contiguous_format
    net = make_network(case["filters"]).to(device).eval().to(memory_format=layout)
    x = make_sample(case["shape"], device)[0].contiguous(memory_format=layout)

    def run():
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=case["type"] == "bf16"):
            net(x)

    for _ in range(3):
        run()
    torch.cuda.reset_peak_memory_stats()
    ms = [time_group(run, device, GROUP) for _ in range(REPEATS)]
    return dict(ms=statistics.median(ms), ms_least=min(ms), memory_bytes=torch.cuda.max_memory_allocated())


def measure_floors(device):
    """A large matrix product in bfloat16, on random data, and a copy."""
    n, count = (64, 1 << 16) if device == "cpu" else (8192, 1 << 29)
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    source = torch.randn(count, device=device)
    to = torch.empty_like(source)
    result = {}
    for name, run, amount in (("matrix_flop_per_s", lambda: torch.mm(a, b), 2.0 * n**3),
                              ("copy_bytes_per_s", lambda: to.copy_(source), 8.0 * count)):
        for _ in range(3):
            run()
        ms = statistics.median(time_group(run, device, 3) for _ in range(10))
        result[name] = amount / ms * 1e3
    return result


def run_case(case, device):
    measure = dict(floors=lambda c, d: measure_floors(d), step=measure_step, inference=measure_inference)
    return measure[case["what"]](case, device)


# --- all cases ------------------------------------------------------------------------------------------------------

CUBE, LARGE, WHOLE = (128, 128, 128), (224, 224, 144), (240, 240, 160)
LAYOUTS = ("contiguous", "channels_last_3d")


def step(filters, shape, layout, how, type_="bf16"):
    return dict(what="step", filters=filters, shape=shape, layout=layout, how=how, type=type_)


def list_cases():
    """The most wanted first: what is not reached in time is not run."""
    cases = [dict(what="floors")]
    cases += [step(f, CUBE, layout, "eager") for f in (16, 8, 32) for layout in LAYOUTS]
    cases += [step(f, CUBE, "contiguous", "graph") for f in (16, 8)]
    cases += [step(16, CUBE, layout, how) for how in ("default", "reduce-overhead") for layout in LAYOUTS]
    cases += [step(8, CUBE, "channels_last_3d", "reduce-overhead"), step(8, CUBE, "channels_last_3d", "default"),
              step(32, CUBE, "channels_last_3d", "default"), step(32, CUBE, "channels_last_3d", "reduce-overhead")]
    cases += [step(f, LARGE, layout, "eager") for f in (16, 8) for layout in LAYOUTS]
    cases += [step(16, CUBE, "contiguous", "eager", type_) for type_ in ("tf32", "f32", "bf16-all")]
    cases += [step(16, CUBE, "channels_last_3d", "max-autotune")]
    cases += [step(f, LARGE, "channels_last_3d", "default") for f in (16, 8)]
    cases += [step(8, CUBE, "channels_last_3d", "max-autotune"), step(32, CUBE, "channels_last_3d", "max-autotune")]
    cases += [step(f, CUBE, "contiguous", how) for f in (8, 32) for how in ("reduce-overhead", "default")]
    whole = dict(what="inference", shape=WHOLE, layout="channels_last_3d", type="bf16")
    return cases + [dict(whole, filters=f) for f in (16, 8, 32)]


def smoke_cases():
    small = (16, 16, 16)
    return [dict(what="floors")] + [dict(step(8, small, layout, "eager", "f32"), smoke=True) for layout in LAYOUTS]


def progress(text):
    print(f"torch_step: {time.monotonic() - BEGIN:6.1f} s  {text}", file=sys.stderr, flush=True)


def describe(case):
    if case["what"] == "floors":
        return "floors"
    shape = " x ".join(map(str, case["shape"]))
    how = case.get("how", "")
    return f"{case['what']}, {case['filters']} filters, {shape}, {case['type']}, {case['layout']}, {how}"


def run_in_process(case, device, limit_s):
    """The case with its result, or with `error`."""
    command = [sys.executable, __file__, "--device", device, "--case", json.dumps(case)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return dict(case, error=f"stopped after {limit_s:.0f} s")
        finally:  # the compiler's own processes as well
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            lines[name] = [line for line in file.read().splitlines() if line.strip()]
    if process.returncode != 0 or not lines["out"]:
        return dict(case, error=lines["err"][-1][:300] if lines["err"] else f"ended with status {process.returncode}")
    return dict(case, **json.loads(lines["out"][-1]))


def outcome(result):
    if "ms" in result:
        memory = f", {result['memory_bytes'] / 2**20:.0f} MiB" if result.get("memory_bytes") else ""
        return f"    {result['ms']:.3f} ms{memory}"
    return "    " + (result.get("error") or ", ".join(f"{k} {result[k]:.4g}" for k in result if k.endswith("_per_s")))


def write_report(path, device, results):
    report = dict(schema=1, date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), torch=torch.__version__,
                  cudnn=torch.backends.cudnn.version() if device == "cuda" else None,
                  device=torch.cuda.get_device_name() if device == "cuda" else "cpu", cases=results)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)


def run_all(args):
    results = []
    for case in smoke_cases() if args.smoke else list_cases():
        left_s = args.limit - (time.monotonic() - BEGIN)
        progress(describe(case))
        if left_s < 15:
            result = dict(case, error="not run: out of time")
        else:
            result = run_in_process(case, args.device, min(left_s, args.case_limit))
        progress(outcome(result))
        results.append(result)
        write_report(args.output, args.device, results)  # what there is, should the next case be the last
    return 0 if all("error" not in r or r["error"].startswith("not run") for r in results) else 1


# --- for compare_torch ----------------------------------------------------------------------------------------------


def export(args):
    """filters, D, H, W, parameters (int64); then float32: weights in the order of the state, image (D, H, W, 4), target
    bits (D, H, W) as numbers, logits (D, H, W, 3), gradient of the weights, loss; all little-endian."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    shape = (args.size, args.size, args.size)
    net = make_network(args.filters, dropout=0.0).to(args.device)
    x, target = make_sample(shape, args.device)
    logits = net(x)
    loss = dice_loss(logits, target)
    loss.backward()
    named = dict(net.named_parameters())
    bits = sum(target[0, r] * 2**r for r in range(3))
    parts = [torch.cat([p.detach().flatten() for p in net.state_dict().values()]), x[0].permute(1, 2, 3, 0), bits,
             logits.detach()[0].permute(1, 2, 3, 0),
             torch.cat([named[name].grad.flatten() for name in net.state_dict()]), loss.detach()]
    with open(args.export, "wb") as file:
        file.write(np.array([args.filters, *shape, parts[0].numel()], dtype="<i8").tobytes())
        for part in parts:
            file.write(part.contiguous().cpu().numpy().astype("<f4").tobytes())
    print(f"torch_step: {args.export}: {args.filters} filters, {args.size}^3, loss {loss.item():.7f}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="torch.json")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--limit", type=float, default=330.0, help="no case begins or goes on after so many seconds")
    parser.add_argument("--case-limit", type=float, default=100.0, help="seconds that a case may take")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--export", metavar="FILE")
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch_step: PyTorch sees no GPU here")
    if args.case:
        print(json.dumps(run_case(json.loads(args.case), args.device)))
        return 0
    return export(args) if args.export else run_all(args)


if __name__ == "__main__":
    sys.exit(main())
