"""What a device must answer: what PyTorch computes or, of a quantised network, the integer reference; and how nearly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgectl.artifact import GOLDEN_TOLERANCE, GoldenBy
from edgectl.lowering import reference
from edgectl.lowering.compile import Compiled

Array = npt.NDArray[np.float32]
QUANTISED_TOLERANCE = 0.05
HALF_TOLERANCE = 0.02


@dataclass(frozen=True)
class Golden:
    """What a network should compute.

    Attributes:
        by: who computes it.
        tolerance: how far a device may be from it, over the largest value.
        forward: the outputs for inputs, all of them float32.
    """

    by: GoldenBy
    tolerance: float
    forward: Callable[[Sequence[Array]], list[Array]]


def golden(compiled: Compiled, module: nn.Module) -> Golden:
    """What a device must compute of a module that was compiled.

    A float32 network is PyTorch's, up to the order of additions: 1e-3. A quantised one that our backend runs as a whole is
    the integer reference's: integers agree bit for bit, so that 1e-3 holds for it too unless float32 layers or functions,
    whose last bits vary, are quantised after them: then a value near the middle of two integers falls on either side. So it
    does where other runners have a share, and PyTorch's graph of the quantised network, which rounds elsewhere, is all there
    is to compare with. One step of one value may be seen in the output then: 0.05, less than a wrong layer shows. A float16
    network is PyTorch's in float32, up to 0.02: each layer rounds its sums and what it stores.
    """
    if compiled.network is not None:
        exact = reference.reproducible(compiled.network) and not compiled.half
        tolerance = GOLDEN_TOLERANCE if exact else QUANTISED_TOLERANCE
        return Golden("the integer reference", tolerance, partial(reference.run, compiled.network))
    if compiled.quantised:
        return pytorch(module, QUANTISED_TOLERANCE)
    return pytorch(module, HALF_TOLERANCE if compiled.half else GOLDEN_TOLERANCE)


def pytorch(module: nn.Module, tolerance: float = GOLDEN_TOLERANCE) -> Golden:
    """What PyTorch computes with a module."""

    def forward(inputs: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            result = module(*map(torch.from_numpy, inputs))
        return [tensor.numpy() for tensor in (result if isinstance(result, (tuple, list)) else [result])]

    return Golden("PyTorch", tolerance, forward)
