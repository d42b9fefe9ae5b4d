"""Maps that are concatenated are written next to each other, and only what cannot be is copied."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgectl.lowering.compile import Compiled
from edgectl.lowering.plan import OpKind


class Detector(nn.Module):
    """Concatenations of new maps, of the input, of one map twice, of a concatenation, and as an output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 6, 5, padding=2)
        self.c, self.d = nn.Conv2d(11, 4, 3, padding=1), nn.Conv2d(34, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        a, b = self.a(x), torch.relu(self.b(x))
        both = torch.cat([a, b], 1)
        c = self.c(both)
        pooled = nn.functional.max_pool2d(c, 3, 1, 1)
        many = torch.cat([x, both, c, pooled, c, x], 1)
        many = torch.cat([many, a], 1)
        return self.d(many), torch.cat([self.up(c), self.up(pooled)], 1), b


@pytest.mark.parametrize("shape", [(1, 3, 12, 10), (2, 3, 7, 33)])
def test_agrees_with_pytorch(
    shape: tuple[int, ...], check: Callable[..., Compiled], kinds: Callable[[Compiled], list[OpKind]]
) -> None:
    torch.manual_seed(4)
    operations = kinds(check(Detector(), torch.randn(shape)))
    assert operations.count(OpKind.CONCAT) == 1  # the output
    # the input for the first convolutions; b, which is an output; the input twice, c again and a again; b to its output
    assert operations.count(OpKind.COPY) == 7
