"""YOLOv4 (Bochkovskiy et al., 2020), CSPDarknet53 + SPP + PANet: the architecture with seeded weights, a workload."""

from __future__ import annotations

import torch
from torch import nn

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""(channels, residual blocks) of the stages of CSPDarknet53."""
ANCHORS = 3


class Conv(nn.Sequential):
    """Convolution without bias, batch norm, Mish (backbone) or leaky ReLU (neck and head)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, mish: bool = False) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))
        self.add_module("act", nn.Mish() if mish else nn.LeakyReLU(0.1))


class Residual(nn.Module):
    """x + conv3x3(conv1x1(x))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, hidden, 1, mish=True)
        self.conv2 = Conv(hidden, channels, 3, mish=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return x + self.conv2(self.conv1(x))


class CSPStage(nn.Module):
    """Halves the map; one half of the channels goes through the residual blocks, the other goes round them."""

    def __init__(self, channels: int, out: int, blocks: int) -> None:
        super().__init__()
        first = blocks == 1
        half = out if first else out // 2
        self.down = Conv(channels, out, 3, 2, mish=True)
        self.around = Conv(out, half, 1, mish=True)
        self.into = Conv(out, half, 1, mish=True)
        self.blocks = nn.Sequential(*(Residual(half, half // 2 if first else half) for _ in range(blocks)))
        self.outof = Conv(half, half, 1, mish=True)
        self.merge = Conv(2 * half, out, 1, mish=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, out, H/2, W/2]."""
        x = self.down(x)
        return self.merge(torch.cat([self.outof(self.blocks(self.into(x))), self.around(x)], dim=1))


class SpatialPyramid(nn.Module):
    """Max pools of 5, 9 and 13 beside the map itself: [N, C, H, W] -> [N, 4C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (13, 9, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenates the pools and `x`."""
        return torch.cat([*(pool(x) for pool in self.pools), x], dim=1)


def narrow_wide(channels: int, out: int, count: int) -> nn.Sequential:
    """`count` convolutions, 1x1 to `out` and 3x3 to 2*`out` by turns."""
    layers = [Conv(out, 2 * out, 3) if index % 2 else Conv(2 * out, out, 1) for index in range(count)]
    layers[0] = Conv(channels, out, 1)
    return nn.Sequential(*layers)


class UpMerge(nn.Module):
    """Top-down step of PANet: the small map, halved in channels and doubled in size, beside the large one."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.reduce = Conv(small, small // 2, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral = Conv(large, small // 2, 1)
        self.convs = narrow_wide(small, small // 2, 5)

    def forward(self, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
        """-> [N, small/2, H, W] with the size of the large map."""
        return self.convs(torch.cat([self.lateral(large), self.up(self.reduce(small))], dim=1))


class DownMerge(nn.Module):
    """Bottom-up step of PANet: the large map, halved in size, beside the small one."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.down = Conv(large, 2 * large, 3, 2)
        self.convs = narrow_wide(4 * large, 2 * large, 5)

    def forward(self, large: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
        """-> [N, 2*large, H/2, W/2]."""
        return self.convs(torch.cat([self.down(large), small], dim=1))


class Output(nn.Module):
    """3x3 convolution and a linear 1x1 to (x, y, w, h, objectness, classes) of each anchor."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Conv(channels, 2 * channels, 3)
        self.predict = nn.Conv2d(2 * channels, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The raw map."""
        return self.predict(self.conv(x))


class YOLOv4(nn.Module):
    """[N, 3, 416, 416] -> raw maps [N, 3*(5+classes), 52 | 26 | 13, ...]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, mish=True)
        inputs = (32, *(channels for channels, _ in STAGES))
        self.stages = nn.ModuleList(CSPStage(c, out, blocks) for c, (out, blocks) in zip(inputs, STAGES, strict=False))
        self.before = narrow_wide(1024, 512, 3)
        self.pyramid = SpatialPyramid()
        self.after = narrow_wide(2048, 512, 3)
        self.up1, self.up2 = UpMerge(512, 512), UpMerge(256, 256)
        self.down1, self.down2 = DownMerge(128), DownMerge(256)
        outputs = ANCHORS * (5 + classes)
        self.large, self.medium, self.small = Output(128, outputs), Output(256, outputs), Output(512, outputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Raw maps of stride 8, 16 and 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        small = self.after(self.pyramid(self.before(maps[4])))
        medium = self.up1(small, maps[3])
        large = self.up2(medium, maps[2])
        medium = self.down1(large, medium)
        small = self.down2(medium, small)
        return self.large(large), self.medium(medium), self.small(small)


def initialise(model: nn.Module) -> None:
    """He initialisation, and batch norms that do something: folding them wrongly then shows in the output.

    The last batch norm of a residual branch is small, so that 23 residual sums do not blow up.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, 0, 0.1)
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.25)
    for layer in model.modules():
        if isinstance(layer, Residual):
            nn.init.uniform_(layer.conv2.get_submodule("bn").weight, 0.2, 0.4)


def model(classes: int = 80, seed: int = 0) -> nn.Module:
    """YOLOv4 with the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = YOLOv4(classes)
        initialise(network)
    return network.eval()
