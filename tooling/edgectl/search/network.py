"""Super-resolution by WDSR blocks (Yu et al., 2018), in plain PyTorch; a search copies this file beside what it finds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of natural photographs (that of DIV2K), taken off before the first convolution."""


class BlockA(nn.Module):
    """WDSR-A: x + conv3x3(ReLU(conv3x3(x))), channels F -> `expansion` F -> F. [N, F, H, W] -> the same shape."""

    def __init__(self, features: int, expansion: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(features, expansion * features, 3, padding=1)
        self.act = nn.ReLU()
        self.reduce = nn.Conv2d(expansion * features, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds what the two convolutions find to `x`."""
        return x + self.reduce(self.act(self.expand(x)))


class BlockB(nn.Module):
    """WDSR-B: x + conv3x3(conv1x1(ReLU(conv1x1(x)))), channels F -> `expansion` F -> 0.84 F -> F. Shapes as BlockA."""

    def __init__(self, features: int, expansion: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(features, expansion * features, 1)
        self.act = nn.ReLU()
        self.reduce = nn.Conv2d(expansion * features, narrow(features), 1)
        self.conv = nn.Conv2d(narrow(features), features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds what the three convolutions find to `x`."""
        return x + self.conv(self.reduce(self.act(self.expand(x))))


class Network(nn.Module):
    """Upscales RGB in [0, 1]: [N, 3, H, W] -> [N, 3, scale*H, scale*W], unclipped.

    Without training it is bicubic interpolation: `skip` is that exactly, `tail` adds the mean and nearly nothing else.
    """

    centre: torch.Tensor

    def __init__(self, scale: int, features: int, blocks: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("centre", -torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(block(features, name) for name in blocks))
        self.tail = nn.Conv2d(features, 3 * scale**2, 3, padding=1)
        self.skip = nn.Conv2d(3, 3 * scale**2, 5, padding=2)
        self.shuffle = nn.PixelShuffle(scale)
        with torch.no_grad():
            self.skip.weight.copy_(interpolation(scale))
            self.tail.weight.mul_(0.1)
            for layer, bias in ((self.skip, torch.zeros(3)), (self.tail, torch.tensor(MEAN))):
                assert layer.bias is not None
                layer.bias.copy_(bias.repeat_interleave(scale**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, 3, scale*H, scale*W]."""
        x = x + self.centre
        return self.shuffle(self.tail(self.body(self.head(x))) + self.skip(x))


def narrow(features: int) -> int:
    """Channels between the last two convolutions of WDSR-B."""
    return max(1, int(0.84 * features))


def block(features: int, name: str) -> nn.Module:
    """A block by its name: `a2` is WDSR-A that doubles its channels inside, `b6` WDSR-B with six times as many."""
    kinds = {"a": BlockA, "b": BlockB}
    if name[:1] not in kinds or not name[1:].isdigit() or int(name[1:]) < 1:
        raise ValueError(f"{name!r} is no block: write a2, or b6")
    return kinds[name[0]](features, int(name[1:]))


def interpolation(scale: int) -> torch.Tensor:
    """Bicubic interpolation (a = -0.5) as a 5x5 convolution before a pixel shuffle: [3*scale^2, 3, 5, 5]."""
    phase = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    distance = (phase[:, None] - torch.arange(-2, 3)).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = torch.where(distance <= 1, near, torch.where(distance <= 2, far, torch.zeros_like(distance)))
    kernels = torch.einsum("ay,bx->abyx", taps, taps).reshape(scale**2, 5, 5)
    weight = torch.zeros(3, scale**2, 3, 5, 5)
    for colour in range(3):
        weight[colour, :, colour] = kernels.float()
    return weight.reshape(3 * scale**2, 3, 5, 5)


def network(scale: int = 2, features: int = 16, blocks: Sequence[str] = ("b6", "b6", "b6", "b6")) -> nn.Module:
    """The network of so many channels and these blocks; random weights."""
    if scale not in (2, 3, 4):
        raise ValueError(f"scale is {scale}: 2, 3 and 4 are possible")
    return Network(scale, features, blocks)
