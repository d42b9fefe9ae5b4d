"""Quantised networks on the host's backend give the integers of the reference, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from edgectl.compress.activations import quantise
from edgectl.lowering import ir
from edgectl.lowering.compile import compile_module
from edgectl.lowering.partitioner import read_graph
from edgectl.lowering.read import PRESERVED
from edgectl.lowering.reference import run
from edgectl.recipe import TargetSpec


@dataclass(frozen=True)
class Rule:
    match: str
    weights: str
    bits: int
    sp2_rows: float = 2 / 3
    scale: str = "row"


class Residual(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.after = after

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = self.b(x)
        return self.c(torch.relu(y) + x if self.after else torch.relu(y + x))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(20, 4, 1)

    def forward(self, x):
        return self.c(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1))


def conv(*args, **options):
    return nn.Conv2d(*args, **options)


class SwitchedOff(nn.Sequential):
    """Filters whose weights are nothing beside their biases, as training leaves some behind a batch norm."""

    def __init__(self):
        super().__init__(conv(8, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 3, groups=2), nn.ReLU(), conv(8, 8, 1))
        with torch.no_grad():
            self[0].weight[3] *= 1e-15
            self[2].weight[8:, 2] *= 1e-9
            self[4].weight[5] *= 1e-5
            self[0].bias[3] = self[2].bias[6] = self[4].bias[5] = 0.5


# name: (module, input shape, operations of which int8 is read)
CASES = {
    "strided": (
        lambda: nn.Sequential(conv(8, 16, 3, padding=1), nn.ReLU(), conv(16, 8, 3, stride=2, padding=1)),
        (1, 8, 17, 19),
        ["conv3x3", "conv3x3/2"],
    ),
    "channels that are no fours": (
        lambda: nn.Sequential(conv(3, 10, 5, padding=2), nn.LeakyReLU(0.1), conv(10, 7, (3, 1), padding=(1, 0), dilation=2)),
        (2, 3, 17, 19),
        ["conv5x5", "conv3x1"],
    ),
    "depthwise": (
        lambda: nn.Sequential(
            conv(16, 16, 3, padding=1, groups=16), nn.ReLU6(), conv(16, 16, 3, stride=2, padding=1, groups=16)
        ),
        (1, 16, 17, 19),
        ["dwconv3x3", "dwconv3x3/2"],
    ),
    "grouped": (
        lambda: nn.Sequential(conv(16, 24, 3, padding=1, groups=4), nn.ReLU(), conv(24, 6, 3, groups=2)),
        (1, 16, 17, 19),
        ["conv3x3", "conv3x3"],
    ),
    "maximum": (
        lambda: nn.Sequential(conv(8, 16, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(16, 8, 1)),
        (1, 8, 17, 19),
        ["conv3x3", "maxpool3x3", "conv1x1"],
    ),
    "transposed": (
        lambda: nn.Sequential(conv(8, 16, 1), nn.ReLU(), nn.ConvTranspose2d(16, 12, 3, 2, 1, 1), conv(12, 8, 1)),
        (1, 8, 9, 7),
        ["conv1x1", "deconv3x3/2", "conv1x1"],
    ),
    "shuffled": (
        lambda: nn.Sequential(conv(8, 16, 3, padding=1), nn.PixelShuffle(2), conv(4, 8, 1)),
        (1, 8, 9, 7),
        ["conv3x3", "dequantize", "conv1x1"],
    ),
    "upsampled": (
        lambda: nn.Sequential(conv(8, 16, 3, padding=1), nn.Upsample(scale_factor=2), conv(16, 8, 1)),
        (1, 8, 9, 7),
        ["conv3x3", "upsample_nearest", "conv1x1"],
    ),
    "mean": (
        lambda: nn.Sequential(conv(8, 20, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(20, 10)),
        (2, 8, 9, 7),
        ["conv3x3", "avgpool", "view", "linear"],
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(40, 33), nn.ReLU(), nn.Linear(33, 10)), (3, 40), ["linear", "linear"]),
    "residual": (lambda: Residual(False), (1, 8, 17, 19), ["conv3x3", "conv3x3", "conv1x1"]),
    "residual after": (lambda: Residual(True), (1, 8, 17, 19), ["conv3x3", "conv3x3", "conv1x1"]),
    "switched off": (SwitchedOff, (1, 8, 9, 7), ["conv3x3", "deconv3x3", "conv1x1"]),
    "joined": (Joined, (1, 8, 17, 19), ["conv3x3", "conv1x1", "concat", "conv1x1"]),
}


def graph_of(model, x):
    """The IR that lowering makes of a module."""
    table = torch.export.default_decompositions()
    for op in PRESERVED:
        table.pop(op, None)
    return read_graph(torch.export.export(model, (x,)).run_decompositions(table))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("weights", "bits", "cpu"), [("fixed", 8, "x86-64"), ("msq", 4, "arm64")])
def test_the_backend_computes_the_references_integers(run_pte, name, weights, bits, cpu):
    torch.manual_seed(0)
    make, shape, integer = CASES[name]
    model, x = make().eval(), torch.randn(shape)
    quantised = quantise(model, x, [Rule("*", weights, bits)], [torch.randn(shape) for _ in range(3)])
    graph = graph_of(quantised, x)
    assert [ir.label(node) for node in graph.nodes if node.inputs[0].quant is not None] == integer
    (want,) = run(graph, [x.numpy()])
    (got,) = run_pte(compile_module(quantised, x, target=TargetSpec(cpu=cpu)).program, x)
    assert np.array_equal(got.numpy(), want)
    with torch.no_grad():
        simulated = quantised(x).numpy()
    # biases are whole numbers here and some values fall on the other side of a rounding
    assert np.abs(want - simulated).max() < 0.03 * np.abs(simulated).max()
