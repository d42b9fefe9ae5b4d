"""Networks run depth-first in bands of rows compute what PyTorch computes, in less memory."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgectl.lowering import chains
from edgectl.lowering.compile import Compiled, compile_module

ARENA_SIZE, CHAINS_OFF, CHAINS = 96, 104, 112  # where the plan's header has them (plan_format.h),
PART = 16  # and a ChainRec


def header(compiled: Compiled, offset: int, form: str) -> int:
    data = compiled.program
    return int(struct.unpack_from(form, data, data.index(b"EDGEPLAN") + offset)[0])


class Neck(nn.Module):
    """Strides, a transposed convolution, pooling, a concatenation, a residual that waits, and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 5, padding=2)
        self.wide = nn.Conv2d(8, 8, 3, padding=3, dilation=3)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.up = nn.ConvTranspose2d(16, 4, 2, 2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.last = nn.Conv2d(4, 4, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.down(x))
        y = x + self.wide(torch.relu(self.deep(x)))
        y = self.up(torch.cat([self.pool(y), x * 0.5], 1))
        return self.shuffle(self.last(torch.sigmoid(self.depthwise(y))))


@pytest.fixture(params=[-1.0, 10.0], ids=["whole", "in parts"])
def eager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Small maps too are worth a chain, and maybe parts that compute most rows again."""
    monkeypatch.setattr(chains, "_AGAIN", request.param)
    monkeypatch.setattr(chains, "_SMALL", 0)
    monkeypatch.setattr(chains, "_FAR_BYTES", 0)
    monkeypatch.setattr(chains, "_START", 0.0)
    monkeypatch.setattr(chains, "_WASTE", 0.0)
    return float(request.param)


@pytest.mark.parametrize("size", [(16, 16), (37, 21), (50, 130)])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_network_in_bands_agrees_with_pytorch(
    size: tuple[int, int], batch: int, eager: float, check: Callable[..., Compiled]
) -> None:
    torch.manual_seed(3)
    compiled = check(Neck(), torch.randn(batch, 3, *size))
    n_chains, at, chain_size = header(compiled, CHAINS, "<I"), header(compiled, CHAINS_OFF, "<Q"), 24
    parts = [header(compiled, at + i * chain_size + PART, "<I") for i in range(n_chains)]
    assert parts
    assert max(parts) == (3 if eager > 0 else 0)


def test_windows_take_less_memory_than_whole_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 3, 3, padding=1)).eval()
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight[:, ::2] = 0
    example = torch.randn(1, 3, 160, 192)
    banded = header(compile_module(network, example), ARENA_SIZE, "<Q")
    monkeypatch.setattr("edgectl.lowering.layout.plan_chains", lambda ops: (ops, []))
    whole = header(compile_module(network, example), ARENA_SIZE, "<Q")
    assert banded < whole / 2
