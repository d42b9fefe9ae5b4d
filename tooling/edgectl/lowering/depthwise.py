"""Depthwise convolutions whose kernels are dense: which ones have an operation of their own, and its weights.

The block-sparse kernels load every pixel once for each weight that uses it; kDepthwise (plan_format.h) loads it once for all
the rows of a few whose windows it is in, and reads every second pixel where the stride is 2.
"""

from __future__ import annotations

import numpy as np

from edgectl.lowering.ir import Conv
from edgectl.lowering.pack import AS_THEY_ARE, Packed

_DENSE = 0.5  # of the weights: sparser kernels are faster entry by entry


def suits(node: Conv) -> bool:
    """Whether a convolution is one for kDepthwise."""
    filters, _, kh, kw = node.weight.shape
    depthwise = node.groups == filters == node.inputs[0].shape[1] and not node.transposed and node.dilation == (1, 1)
    shapes = (kh, kw) in ((3, 3), (5, 5)) and node.stride in ((1, 1), (2, 2)) and max(node.padding) <= kh
    dense = bool(np.count_nonzero(node.weight) > _DENSE * node.weight.size)
    return depthwise and shapes and dense and node.residual is None


def halo(node: Conv) -> tuple[int, int, int, int]:
    """Zeros needed around the input: top, bottom, left, right."""
    kernel, stride = node.weight.shape[2], node.stride[0]
    (top, left), (h, w), (out_h, out_w) = node.padding, node.inputs[0].shape[2:], node.output.shape[2:]
    below = (out_h - 1) * stride - top + kernel - h
    right = (out_w - 1) * stride - left + kernel - w
    return top, max(0, below), left, max(0, right)


def weights(node: Conv) -> Packed:
    """The operation's weights: of every channel the bias, then the kernel row by row."""
    kernels = node.weight.reshape(len(node.weight), -1)
    blob = np.concatenate([node.bias[:, None], kernels], axis=1).astype("<f4").tobytes()
    nonzeros = int(np.count_nonzero(kernels))
    return Packed(blob, 1, nonzeros, kernels.size, AS_THEY_ARE, {1: 1.0})
