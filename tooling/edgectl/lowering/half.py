"""float16: which operations keep it when a target asks for it, and weights rounded to it.

Every operation that has float16 kernels takes part, save Winograd's convolutions, whose transforms would lose the digits that
are left; those convolutions run directly. The others (average pools with a window, bilinear upsampling, softmax) stay float32
and so do a graph's inputs and outputs: values are converted where they are copied anyway, or where an operation reads or writes
both types. Quantised operations stay as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgectl.errors import UserError
from edgectl.lowering import ir

LARGEST = 65504.0

# Operations whose operands and result may be of either type, see plan_format.h.
MIXED = (ir.Unary, ir.Binary, ir.Concat, ir.AdaptiveAvgPool, ir.PixelShuffle)


def nodes(graph: ir.Graph) -> set[ir.Node]:
    """The operations of a graph that compute in float16 where it is allowed."""
    return {node for node in graph.nodes if _suits(node)}


def _suits(node: ir.Node) -> bool:
    if any(value.quant is not None for value in (*ir.operands(node), node.output)):
        return False
    if isinstance(node, ir.Conv | ir.Linear):
        return node.quantised is None
    window = (isinstance(node, ir.Pool) and node.op == "max") or (isinstance(node, ir.Upsample) and node.mode == "nearest")
    return window or isinstance(node, MIXED)


def rounded(weight: ir.FloatArray, name: str) -> npt.NDArray[np.float16]:
    """Weights as float16.

    Raises:
        UserError: one of them is larger than any float16.
    """
    largest = float(np.abs(weight).max(initial=0))
    if largest > LARGEST:
        raise UserError(
            f'{name} has a weight of {largest:.3g} and float16 ends at {LARGEST:.0f}: build it with precision = "fp32".'
        )
    return weight.astype(np.float16)
