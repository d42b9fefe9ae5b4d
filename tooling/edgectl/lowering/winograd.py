"""Winograd's minimal filtering for 3x3 convolutions: which convolutions it suits, and their weights in its domain.

F(m, 3) computes a tile of m x m outputs from a patch of a x a inputs, a = m + 2, with a**2 multiply-adds a channel and filter
instead of 9 m**2 (S. Winograd, 1980; A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015):

    Y = A^T [sum over channels of (G g G^T) * (B^T d B)] A.

Both transforms and the product between them, a grouped 1x1 convolution with a**2 groups, run over a block of tiles after the
other (kWinograd in plan_format.h).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgectl.lowering.ir import Conv, FloatArray
from edgectl.lowering.pack import Taps, estimate
from edgectl.recipe import Cpu

# What things cost in seconds on one core, fitted to times on x86-64 with AVX2.
DIRECT = 1 / 51e9  # a multiply-add at the peak
_PRODUCT = 1 / 42e9  # one in the product over the coefficients
_COEFFICIENT = 1 / 2.2e9  # computing one from a patch or towards a tile
_WEIGHT = 1 / 6e9  # a byte of weights, which has to be stored and loaded too
_AGAIN = 1 / 25e9  # for every block but the first
_NEEDED = 0.8  # of the direct cost: below it larger weights and another rounding are worth it

# Tiles a block: enough of them to use the weights that they read, few enough for a cache.
_FEW_CHANNELS = 128  # and filters
_TILES_OF_FEW, _TILES = 96, 192
_MOST_COEFFICIENTS = 1 << 22

# G for the points 0, 1, -1 (, 2, -2) and infinity.
KERNEL_TRANSFORM = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}


@dataclass(frozen=True)
class Tiling:
    """Tiles of m x m pixels, `tiles` of them a block."""

    m: int
    tiles: int

    @property
    def size(self) -> int:
        """Coefficients a tile."""
        return (self.m + 2) ** 2

    def of(self, height: int, width: int) -> int:
        """How many tiles cover an image."""
        return -(-height // self.m) * -(-width // self.m)


def choose(node: Conv, cpu: Cpu) -> Tiling | None:
    """The tiling that suits a convolution; None where it is better computed directly.

    With T tiles of m x m for P pixels, F filters, C channels, Z weights that are not zero and their cost E
    (edgectl.lowering.pack.estimate), in N blocks, the seconds estimated are

        direct   = P E DIRECT + 4 Z WEIGHT
        winograd = a**2 (T F C PRODUCT + T (F + C) COEFFICIENT + 4 F C (WEIGHT + (N - 1) AGAIN)).

    Zeros save nothing in the second, so sparse layers stay direct.
    """
    plain = node.stride == (1, 1) and node.dilation == (1, 1) and node.groups == 1 and not node.transposed
    if not plain or node.weight.shape[2:] != (3, 3):
        return None
    filters, channels = node.weight.shape[:2]
    n, _, height, width = node.output.shape
    direct = n * height * width * estimate(node.weight.reshape(filters, -1), cpu) * DIRECT
    tiling, seconds = fastest(filters, channels, n, height, width)
    return tiling if seconds < _NEEDED * (direct + 4 * np.count_nonzero(node.weight) * _WEIGHT) else None


def fastest(filters: int, channels: int, n: int, height: int, width: int) -> tuple[Tiling, float]:
    """The tiling for n outputs of height x width that is estimated to take least, and its seconds (see `choose`)."""
    best, least = Tiling(0, 0), math.inf
    for m in KERNEL_TRANSFORM:
        tiling = Tiling(m, _TILES_OF_FEW if filters + channels <= _FEW_CHANNELS else _TILES)
        image = tiling.of(height, width)
        most = max(1, _MOST_COEFFICIENTS // (tiling.size * (filters + channels)))
        blocks = -(-image // min(tiling.tiles, most))
        tiling = Tiling(m, -(-image // blocks))
        weight = 4 * filters * channels * (_WEIGHT + (n * blocks - 1) * _AGAIN)
        tiles = n * image * (filters * channels * _PRODUCT + (filters + channels) * _COEFFICIENT)
        if tiling.size * (tiles + weight) < least:
            best, least = tiling, tiling.size * (tiles + weight)
    return best, least


def weights(node: Conv, tiling: Tiling) -> tuple[list[Taps], FloatArray]:
    """The filters of the product over the coefficients, in groups, and their bias."""
    filters, channels = node.weight.shape[:2]
    g = KERNEL_TRANSFORM[tiling.m]
    transformed = np.einsum("ki,fcij,lj->klfc", g, node.weight.astype(np.float64), g)
    transformed = transformed.reshape(tiling.size, filters, channels).astype(np.float32)
    planes = np.arange(channels) * tiling.tiles
    groups = [
        Taps(
            transformed[k],
            (planes + k * channels * tiling.tiles).astype(np.int32),
            np.arange(k * filters, (k + 1) * filters, dtype=np.uint32),
        )
        for k in range(tiling.size)
    ]
    bias = np.zeros((tiling.size, filters), np.float32)
    bias[tiling.m + 3] = node.bias  # coefficient (1, 1): the column of A^T for the point 1 is all ones
    return groups, bias.reshape(-1)
