"""MobileNetV2 1.0 (Sandler et al., 2018): the architecture with seeded weights, a workload for compiling and timing."""

from __future__ import annotations

import torch
from torch import nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(expansion, channels, blocks, stride of the first block) of each stage."""


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, and ReLU6 unless `linear`."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))
        if not linear:
            self.add_module("act", nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection; a shortcut where the shape stays."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand: nn.Module = ConvBN(channels, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBN(wide, wide, 3, stride, groups=wide)
        self.project = ConvBN(wide, out, 1, linear=True)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, out, H/stride, W/stride]."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """[N, 3, 224, 224] -> logits [N, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = ConvBN(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, out, count, stride in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(channels, out, stride if index == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = ConvBN(channels, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.last(self.blocks(self.stem(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))


def initialise(model: nn.Module) -> None:
    """He initialisation, and batch norms that do something: folding them wrongly then shows in the output."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0, 0.2)
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.25)


def model(classes: int = 1000, seed: int = 0) -> nn.Module:
    """MobileNetV2 with the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MobileNetV2(classes)
        initialise(network)
    return network.eval()
