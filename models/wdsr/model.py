"""WDSR-B: wide activations before ReLU, low-rank 1x1 convolutions, one global skip (Yu et al., 2018)."""

from __future__ import annotations

import torch
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of natural photographs (that of DIV2K), taken off before the first convolution."""


class Block(nn.Module):
    """x + conv3x3(conv1x1(ReLU(conv1x1(x)))), channels F -> 6F -> 0.84F -> F. [N, F, H, W] -> the same shape."""

    def __init__(self, features: int) -> None:
        super().__init__()
        wide, narrow = features * 6, int(features * 0.84)
        self.expand = nn.Conv2d(features, wide, 1)
        self.act = nn.ReLU()
        self.reduce = nn.Conv2d(wide, narrow, 1)
        self.conv = nn.Conv2d(narrow, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds what the three convolutions find to `x`."""
        return x + self.conv(self.reduce(self.act(self.expand(x))))


class WDSR(nn.Module):
    """Upscales RGB in [0, 1]: [N, 3, H, W] -> [N, 3, scale*H, scale*W], unclipped.

    The mean is added back by the bias of `tail`, where `reset` puts it: one operator less at run time.
    """

    centre: torch.Tensor

    def __init__(self, scale: int, features: int, blocks: int) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("centre", -torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(Block(features) for _ in range(blocks)))
        self.tail = nn.Conv2d(features, 3 * scale**2, 3, padding=1)
        self.skip = nn.Conv2d(3, 3 * scale**2, 5, padding=2)
        self.shuffle = nn.PixelShuffle(scale)
        self.reset()

    def reset(self) -> None:
        """Starts from bicubic interpolation: `skip` is it exactly, `tail` adds the mean and nearly nothing else."""
        with torch.no_grad():
            self.skip.weight.copy_(_interpolation(self.scale))
            nn.init.zeros_(self.skip.bias)
            self.tail.weight.mul_(0.1)
            self.tail.bias.copy_(torch.tensor(MEAN).repeat_interleave(self.scale**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, 3, scale*H, scale*W]."""
        x = x + self.centre
        return self.shuffle(self.tail(self.body(self.head(x))) + self.skip(x))


def _interpolation(scale: int) -> torch.Tensor:
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


def wdsr(scale: int = 4, features: int = 24, blocks: int = 4) -> WDSR:
    """WDSR-B for x2 or x4: 57 thousand multiply-adds a low-resolution pixel at x4 with the defaults."""
    if scale not in (2, 4):
        raise ValueError(f"scale is {scale}: WDSR is defined here for 2 and 4")
    return WDSR(scale, features, blocks)
