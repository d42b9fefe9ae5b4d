"""Winograd's minimal filtering for 3x3 convolutions: which convolutions it suits, and their weights in its domain.

F(m, 3) computes a tile of m x m outputs from a patch of a x a inputs, a = m + 2, with a**2 multiply-adds a channel and filter
instead of 9 m**2 (S. Winograd, 1980; A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015):

    Y = A^T [sum over channels of (G g G^T) * (B^T d B)] A.

The patches' transform, the product as a grouped 1x1 convolution with a**2 groups, and the tiles' transform are operations of
the plan of their own (kWinogradIn, kConv and kWinogradOut in plan_format.h).
"""

from __future__ import annotations

import numpy as np

from edgectl.lowering.ir import Conv, FloatArray
from edgectl.lowering.pack import Taps, estimate

# What things cost in seconds on one core, fitted to times on x86-64 with AVX2.
_DIRECT = 1 / 51e9  # a multiply-add at the peak
_PRODUCT = 1 / 35e9  # one in the product over the coefficients
_COEFFICIENT = 1 / 2e9  # computing one from a patch or towards a tile
_TRAFFIC = 8 / 15e9  # writing and reading one that does not stay in a cache
_CACHED = 1 << 20  # how many do
_WEIGHT = 1 / 6e9  # a byte of weights, which has to be stored and loaded too
_NEEDED = 0.8  # of the direct cost: below it larger weights and another rounding are worth it

# G for the points 0, 1, -1 (, 2, -2) and infinity.
_G = {
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


def tile(node: Conv) -> int:
    """The m of F(m, 3) that suits a convolution; 0 where it is better computed directly.

    With T tiles of m x m for P pixels, F filters, C channels, Z weights that are not zero and their cost E
    (edgectl.lowering.pack.estimate), the seconds estimated are

        direct      = P E DIRECT + 4 Z WEIGHT
        winograd(m) = a**2 (T F C PRODUCT + T (F + C) (COEFFICIENT + TRAFFIC) + 4 F C WEIGHT),

    without TRAFFIC where all coefficients stay in a cache.
    Zeros save nothing in the second, so sparse layers stay direct.
    """
    plain = node.stride == (1, 1) and node.dilation == (1, 1) and node.groups == 1 and not node.transposed
    if not plain or node.weight.shape[2:] != (3, 3):
        return 0
    filters, channels = node.weight.shape[:2]
    n, _, height, width = node.output.shape
    direct = n * height * width * estimate(node.weight.reshape(filters, -1)) * _DIRECT
    least = _NEEDED * (direct + 4 * np.count_nonzero(node.weight) * _WEIGHT)
    best = 0
    for m in _G:
        tiles, size = n * -(-height // m) * -(-width // m), (m + 2) ** 2
        coefficients = size * tiles * (filters + channels)
        seconds = size * filters * channels * (tiles * _PRODUCT + 4 * _WEIGHT) + coefficients * _COEFFICIENT
        if coefficients > _CACHED:
            seconds += coefficients * _TRAFFIC
        if seconds < least:
            best, least = m, seconds
    return best


def weights(node: Conv, m: int, plane: int) -> tuple[list[Taps], FloatArray]:
    """The groups of the convolution over the coefficients, of channels `plane` elements apart, and its bias."""
    filters, channels = node.weight.shape[:2]
    size = (m + 2) ** 2
    transformed = np.einsum("ki,fcij,lj->klfc", _G[m], node.weight.astype(np.float64), _G[m])
    transformed = transformed.reshape(size, filters, channels).astype(np.float32)
    planes = np.arange(channels) * plane
    groups = [
        Taps(
            transformed[k],
            (planes + k * channels * plane).astype(np.int32),
            np.arange(k * filters, (k + 1) * filters, dtype=np.uint32),
        )
        for k in range(size)
    ]
    bias = np.zeros((size, filters), np.float32)
    bias[m + 3] = node.bias  # coefficient (1, 1): the column of A^T for the point 1 is all ones
    return groups, bias.reshape(-1)
