"""WDSR-A (Yu et al., 2018): wide activations between two 3x3 convolutions, one 5x5 global skip; a workload for timing."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """x + conv3x3(ReLU(conv3x3(x))), channels F -> wide -> F. [N, F, H, W] -> the same shape."""

    def __init__(self, features: int, wide: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(features, wide, 3, padding=1)
        self.act = nn.ReLU()
        self.reduce = nn.Conv2d(wide, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds what the two convolutions find to `x`."""
        return x + self.reduce(self.act(self.expand(x)))


class WDSRA(nn.Module):
    """[N, 3, H, W] -> [N, 3, scale*H, scale*W]."""

    def __init__(self, scale: int, features: int, wide: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(Block(features, wide) for _ in range(blocks)))
        self.tail = nn.Conv2d(features, 3 * scale**2, 3, padding=1)
        self.skip = nn.Conv2d(3, 3 * scale**2, 5, padding=2)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscales."""
        return self.shuffle(self.tail(self.body(self.head(x))) + self.skip(x))


def initialise(model: nn.Module) -> None:
    """He initialisation with biases that are not zero; the residual branches are small, so that their sums do not blow up."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if name.endswith("reduce") else "linear")
            nn.init.normal_(layer.bias, 0, 0.1)
            if name.endswith("reduce"):
                layer.weight.data.mul_(0.3)


def model(scale: int = 4, features: int = 16, wide: int = 64, blocks: int = 8, seed: int = 0) -> nn.Module:
    """WDSR-A with the same weights for the same seed: 158 thousand weights with the defaults, all but 3600 of them in 3x3."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = WDSRA(scale, features, wide, blocks)
        initialise(network)
    return network.eval()
