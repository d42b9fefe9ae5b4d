"""PointPillars from the pillar canvas on (Lang et al., 2019): backbone, neck and head with seeded weights, a workload."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = (64, 128, 256)
EXTRA_CONVS = (3, 5, 5)
NECK_CHANNELS = 128
ANCHORS = 6


def conv_block(channels: int, out: int, extra: int) -> nn.Sequential:
    """A 3x3 convolution of stride 2 and `extra` of stride 1, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for index in range(extra + 1):
        first = index == 0
        layers.append(nn.Conv2d(channels if first else out, out, 3, 2 if first else 1, 1, bias=False))
        layers += [nn.BatchNorm2d(out, eps=1e-3), nn.ReLU()]
    return nn.Sequential(*layers)


def deconv_block(channels: int, stride: int) -> nn.Sequential:
    """Brings a map of stride 1, 2 or 4 back to the size of the first one."""
    deconv = nn.ConvTranspose2d(channels, NECK_CHANNELS, stride, stride, bias=False)
    return nn.Sequential(deconv, nn.BatchNorm2d(NECK_CHANNELS, eps=1e-3), nn.ReLU())


class Head(nn.Module):
    """1x1 convolutions to class scores, boxes (x, y, z, w, l, h, angle) and directions of every anchor."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Conv2d(channels, ANCHORS * classes, 1)
        self.boxes = nn.Conv2d(channels, ANCHORS * 7, 1)
        self.directions = nn.Conv2d(channels, ANCHORS * 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Three raw maps."""
        return self.classes(x), self.boxes(x), self.directions(x)


class PointPillars(nn.Module):
    """Pillar canvas [N, 64, 496, 432] -> class, box and direction maps [N, 18 | 42 | 12, 248, 216] (three classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        inputs = (CHANNELS[0], *CHANNELS[:-1])
        self.backbone = nn.ModuleList(map(conv_block, inputs, CHANNELS, EXTRA_CONVS))
        self.neck = nn.ModuleList(map(deconv_block, CHANNELS, (1, 2, 4)))
        self.head = Head(NECK_CHANNELS * len(CHANNELS), classes)

    def forward(self, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Raw maps of the head."""
        x, maps = canvas, []
        for block, deconv in zip(self.backbone, self.neck, strict=True):
            x = block(x)
            maps.append(deconv(x))
        return self.head(torch.cat(maps, dim=1))


def initialise(model: nn.Module) -> None:
    """He initialisation, and batch norms that do something: folding them wrongly then shows in the output."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, (2 / layer.in_channels) ** 0.5)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0, 0.1)
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.25)


def model(classes: int = 3, seed: int = 0) -> nn.Module:
    """PointPillars with the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PointPillars(classes)
        initialise(network)
    return network.eval()
