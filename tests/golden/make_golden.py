#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/golden_check.h with PyTorch and MONAI's own SegResNet and DiceLoss, in float64.

Needed only to make them again, never by make check (Debian 12: python3-torch 1.13.1, MONAI 1.3.2):
    apt install python3-torch && python3 -m venv --system-site-packages VENV
    VENV/bin/pip install --no-deps monai==1.3.2
    VENV/bin/python tests/golden/make_golden.py
Weights and images come from a hash that tests/golden_check.h computes too, so only results are stored.
A file is a sequence of records: name (16 bytes), bytes per element (int64; 4 is float, 8 is double), elements (int64),
data; all little-endian."""
import os
import struct

import numpy as np
import torch
from monai.losses import DiceLoss
from monai.networks.nets import SegResNet

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLES = 64  # strided entries of each gradient tensor
STEPS = 10  # of Adam
torch.set_num_threads(1)  # the same bits every time


def uniform(seed, count):
    """SplitMix64 of (seed, index), as numbers in [-1, 1)."""
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + np.uint64(seed << 32)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def fill(net):
    """Convolutions U(-b, b) with b = 1.5 / sqrt(fan_in), norms 1 + U(-0.2, 0.2) and U(-0.2, 0.2), like the C side."""
    count = sum(p.numel() for p in net.state_dict().values())
    u, offset = uniform(1, count), 0
    for name, p in net.state_dict().items():
        values = u[offset : offset + p.numel()]
        if p.dim() == 5:
            values = values * (1.5 / np.sqrt(p[0].numel()))
        else:
            values = values * 0.2 + (1.0 if name.endswith("weight") else 0.0)
        p.copy_(torch.from_numpy(values.reshape(p.shape)))
        offset += p.numel()


def image(shape):
    x = uniform(2, int(np.prod(shape)) * 4).reshape(*shape, 4)
    return torch.from_numpy(x).permute(3, 0, 1, 2)[None].contiguous()


def target(shape, empty_et):
    """Nested balls around the centre: WT, inside it TC, inside that ET (channels TC, WT, ET)."""
    grids = np.meshgrid(*[2 * np.arange(n) - n + 1 for n in shape], indexing="ij")
    r2 = sum(g * g for g in grids)
    extent = min(shape)
    wt, tc, et = (r2 < (extent * extent * part) // 16 for part in (14, 8, 0 if empty_et else 4))
    return torch.from_numpy(np.stack([tc, wt, et]).astype(np.float64))[None]


def make_net(filters, down, up, mask):
    torch.manual_seed(0)
    net = SegResNet(spatial_dims=3, init_filters=filters, in_channels=4, out_channels=3, dropout_prob=None,
                    norm=("group", {"num_groups": 8}), blocks_down=down, blocks_up=up, upsample_mode="nontrainable")
    net = net.double()
    with torch.no_grad():
        fill(net)
    if mask is not None:  # what dropout does after the first convolution, with the channels fixed
        scale = torch.tensor(mask, dtype=torch.float64).view(1, -1, 1, 1, 1)
        net.convInit.register_forward_hook(lambda module, inputs, output: output * scale)
    return net


LOSS = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-5)


def gradients(net, x, t):
    net.zero_grad()
    logits = net(x)
    loss = LOSS(logits, t)
    loss.backward()
    named = dict(net.named_parameters())
    order = [named[name].grad.numpy().ravel() for name in net.state_dict()]
    return logits.detach()[0].permute(1, 2, 3, 0).contiguous().numpy().ravel(), loss.item(), order


def summary(tensors):
    parts = []
    for g in tensors:
        stride = -(-g.size // SAMPLES)
        parts += [g[::stride], [g.sum(), np.sqrt((g * g).sum()), np.abs(g).max()]]
    return np.concatenate(parts)


def adam_losses(net, x, t):
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-5)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = LOSS(net(x), t)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return np.array(losses)


def write(name, records):
    with open(os.path.join(HERE, name), "wb") as file:
        for key, values in records.items():
            values = np.ascontiguousarray(values)
            file.write(struct.pack("<16sqq", key.encode(), values.itemsize, values.size) + values.tobytes())
    print(name, {key: np.size(values) for key, values in records.items()})


def case(name, filters, down, up, shape, mask=None, empty_et=False, logit_stride=1, everything=False):
    net, x, t = make_net(filters, down, up, mask), image(shape), target(shape, empty_et)
    assert all(t[0, r].sum() > 0 for r in ((0, 1) if empty_et else (0, 1, 2)))
    logits, loss, tensors = gradients(net, x, t)
    records = {"logits": logits[::logit_stride], "loss": np.array([loss]), "gradient": summary(tensors)}
    if everything:
        records["gradient_all"] = np.concatenate(tensors).astype(np.float32)
        records["adam"] = adam_losses(net, x, t)
    write(name, records)


def write_names():
    """The table of parameters of the full network with 8 filters: a line "name d0 d1 ..." a tensor."""
    state = make_net(8, (1, 2, 2, 4), (1, 1, 1), None).state_dict()
    with open(os.path.join(HERE, "names.txt"), "w", encoding="utf-8") as file:
        for name, values in state.items():
            file.write(" ".join([name, *map(str, values.shape)]) + "\n")


write_names()
case("small.bin", 8, (1, 2), (1,), (8, 8, 16), everything=True)
case("mask.bin", 8, (1, 2), (1,), (8, 8, 16), mask=[1.25, 0, 1.25, 1.25, 1.25, 0, 1.25, 1.25], empty_et=True,
     logit_stride=5)
case("full.bin", 8, (1, 2, 2, 4), (1, 1, 1), (16, 16, 16), logit_stride=5)
