"""MobileNetV1 (Howard et al., 2017): the architecture with seeded weights, a workload for compiling and timing."""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""(channels, stride) of each depthwise-separable block at width 1."""


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, ReLU6."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))
        self.add_module("act", nn.ReLU6())


class Separable(nn.Sequential):
    """3x3 depthwise, then 1x1: [N, C, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.add_module("depthwise", ConvBN(channels, channels, 3, stride, groups=channels))
        self.add_module("pointwise", ConvBN(channels, out, 1))


class MobileNetV1(nn.Module):
    """[N, 3, H, W] -> logits [N, classes]; strides halve an even side, with a padding of 1 on either side."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        channels = max(8, int(32 * width))
        self.stem = ConvBN(3, channels, 3, 2)
        blocks: list[nn.Module] = []
        for out, stride in BLOCKS:
            blocks.append(Separable(channels, max(8, int(out * width)), stride))
            channels = max(8, int(out * width))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


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


def model(classes: int = 1000, width: float = 1.0, seed: int = 0) -> nn.Module:
    """MobileNetV1 with the same weights for the same seed; `width` scales the channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MobileNetV1(classes, width)
        initialise(network)
    return network.eval()
