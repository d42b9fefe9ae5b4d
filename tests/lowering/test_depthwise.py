"""Dense depthwise convolutions compute what PyTorch computes; pruned ones stay sparse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgectl.lowering.compile import Compiled, compile_module
from edgectl.lowering.plan import OpKind


def depthwise(channels: int, kernel: int, **more: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, groups=channels, **more)


class Mobile(nn.Module):
    """Both kernel sizes and strides, a map that two of them read with other paddings, and a residual after one."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.near, self.far = depthwise(12, 3, padding=1), depthwise(12, 5, padding=2)
        self.down, self.quarter = depthwise(12, 3, padding=1, stride=2), depthwise(12, 5, padding=2, stride=2)
        self.inner = depthwise(12, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.hardswish(self.expand(x))
        x = x + self.near(x) + nn.functional.relu6(self.far(x))
        return self.quarter(nn.functional.silu(self.down(x))), self.inner(x)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 13, 7), (1, 3, 21, 130), (1, 3, 4, 5)])
def test_agrees_with_pytorch(
    shape: tuple[int, ...], check: Callable[..., Compiled], kinds: Callable[[Compiled], list[OpKind]]
) -> None:
    torch.manual_seed(2)
    compiled = check(Mobile(), torch.randn(shape))
    assert kinds(compiled).count(OpKind.DEPTHWISE) == 3  # `near` and `far` have a residual
    layers = {layer.name: layer for layer in compiled.layers}
    assert layers["down"].method == "depthwise"
    assert layers["down"].nonzeros == 12 * 9


def test_pruned_kernels_stay_sparse(check: Callable[..., Compiled], kinds: Callable[[Compiled], list[OpKind]]) -> None:
    torch.manual_seed(3)
    layer = depthwise(8, 3, padding=1)
    with torch.no_grad():
        layer.weight[:, :, 0] = 0
        layer.weight[:, :, :, 2] = 0
    compiled = check(layer, torch.randn(1, 8, 10, 12))
    assert OpKind.CONV in kinds(compiled)
    assert OpKind.DEPTHWISE not in kinds(compiled)
    assert OpKind.DEPTHWISE in kinds(compile_module(depthwise(8, 3, padding=1), torch.randn(1, 8, 10, 12)))
