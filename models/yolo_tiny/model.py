"""A detector after YOLOv4-tiny (Wang et al., Scaled-YOLOv4, 2021) of half its width, with anchor-free heads.

Unlike it: ReLU for leaky ReLU; 1x1 convolutions choose the half of the channels that goes through a stage; a place has one box
and no anchors.
"""

from __future__ import annotations

import torch
from torch import nn

PRIOR = 0.01
"""Probability of an object at a place, before training."""


class Conv(nn.Sequential):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))
        self.add_module("act", nn.ReLU())


class CSPStage(nn.Module):
    """[N, C, H, W] -> [N, 2C, H/2, W/2], and what is inside: [N, C, H, W].

    Half of the channels goes through two convolutions, whose outputs are joined; the whole goes round them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first = Conv(channels, channels, 3)
        self.into = Conv(channels, half, 1)
        self.conv1 = Conv(half, half, 3)
        self.conv2 = Conv(half, half, 3)
        self.outof = Conv(channels, channels, 1)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(the next stage's input, the inner map)."""
        x = self.first(x)
        one = self.conv1(self.into(x))
        inner = self.outof(torch.cat([self.conv2(one), one], dim=1))
        return self.pool(torch.cat([x, inner], dim=1)), inner


class Head(nn.Module):
    """3x3 convolution and a linear 1x1 to (left, top, right, bottom, objectness, classes)."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv = Conv(channels, hidden, 3)
        self.predict = nn.Conv2d(hidden, 5 + classes, 1)
        with torch.no_grad():
            self.predict.weight.mul_(0.1)
            self.predict.bias.zero_()
            self.predict.bias[:4] = 1.0
            self.predict.bias[4] = torch.logit(torch.tensor(PRIOR))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The raw map."""
        return self.predict(self.conv(x))


class YOLOTiny(nn.Module):
    """RGB in [0, 1], [N, 3, H, W], sides multiples of 32 -> raw maps [N, 5 + classes, H/s, W/s] for s = 16 and 32."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem1, self.stem2 = Conv(3, width, 3, 2), Conv(width, 2 * width, 3, 2)
        self.stage1, self.stage2, self.stage3 = CSPStage(2 * width), CSPStage(4 * width), CSPStage(8 * width)
        self.last = Conv(16 * width, 16 * width, 3)
        self.reduce = Conv(16 * width, 8 * width, 1)
        self.lateral = Conv(8 * width, 4 * width, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.large = Head(12 * width, 8 * width, classes)
        self.small = Head(8 * width, 16 * width, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps of stride 16 and 32."""
        x, _ = self.stage1(self.stem2(self.stem1(x)))
        x, _ = self.stage2(x)
        x, inner = self.stage3(x)
        x = self.reduce(self.last(x))
        return self.large(torch.cat([self.up(self.lateral(x)), inner], dim=1)), self.small(x)


def model(classes: int = 3, width: int = 16, seed: int = 0) -> nn.Module:
    """The detector, He-initialised, the same for the same seed; YOLOv4-tiny is 32 wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = YOLOTiny(classes, width)
        for layer in network.modules():
            if isinstance(layer, Conv):
                nn.init.kaiming_normal_(layer[0].weight, mode="fan_out", nonlinearity="relu")
    return network.eval()
