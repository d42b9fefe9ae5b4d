"""Dense 3x3 convolutions by Winograd's minimal filtering compute what PyTorch computes; sparse ones stay direct."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgectl.lowering import winograd
from edgectl.lowering.compile import Compiled, compile_module
from edgectl.lowering.plan import OpKind


class Blocks(nn.Module):
    """Residuals before and after the activation, no and much padding, and an output that nothing follows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.after = nn.Conv2d(8, 8, 3, padding=1)
        self.before = nn.Conv2d(8, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 5, 3)
        self.outer = nn.Conv2d(5, 4, 3, padding=2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.silu(self.head(x))
        x = x + torch.relu(self.after(x))
        x = torch.relu(x + self.before(x))
        y = self.inner(x)
        return y, self.outer(y)


@pytest.fixture(params=[2, 4])
def always(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution that can be is done in tiles of this size, in small blocks."""
    monkeypatch.setattr(winograd, "_NEEDED", 1e9)
    monkeypatch.setattr(winograd, "KERNEL_TRANSFORM", {request.param: winograd.KERNEL_TRANSFORM[request.param]})
    monkeypatch.setattr(winograd, "_TILES_OF_FEW", 20)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 3, 13, 7), (1, 3, 21, 130), (1, 3, 4, 4)])
def test_agrees_with_pytorch(
    shape: tuple[int, ...], always: None, check: Callable[..., Compiled], kinds: Callable[[Compiled], list[OpKind]]
) -> None:
    torch.manual_seed(1)
    compiled = check(Blocks(), torch.randn(shape))
    assert kinds(compiled).count(OpKind.WINOGRAD) == 5
    assert [layer.name for layer in compiled.layers if layer.weights] == ["head", "after", "before", "inner", "outer"]


def test_is_chosen_for_dense_layers_and_not_for_sparse_ones(
    check: Callable[..., Compiled], kinds: Callable[[Compiled], list[OpKind]]
) -> None:
    torch.manual_seed(3)
    layer = nn.Conv2d(64, 64, 3, padding=1)
    example = torch.randn(1, 64, 28, 28)
    assert OpKind.WINOGRAD in kinds(check(layer, example))
    with torch.no_grad():
        layer.weight[:, ::2] = 0
        layer.weight[:, 1::4] = 0
    sparse = kinds(compile_module(layer, example))
    assert OpKind.CONV in sparse
    assert OpKind.WINOGRAD not in sparse
