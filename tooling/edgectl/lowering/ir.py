"""The graph that lowering works on: a list of operations over values, free of torch and of any runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
LevelArray = npt.NDArray[np.int8]


class Act(IntEnum):
    """`ActKind` of plan_format.h."""

    NONE = 0
    CLAMP = 1
    LEAKY_RELU = 2
    HARDSWISH = 3
    SIGMOID = 4
    MISH = 5
    SILU = 6


@dataclass(frozen=True)
class Activation:
    """y = act(x). `lo` and `hi` bound CLAMP; `lo` is the slope of LEAKY_RELU."""

    kind: Act = Act.NONE
    lo: float = 0.0
    hi: float = 0.0

    @property
    def label(self) -> str:
        """The name a person knows it by."""
        if self.kind is Act.CLAMP:
            return {(0.0, np.inf): "relu", (0.0, 6.0): "relu6"}.get((self.lo, self.hi), "clamp")
        return self.kind.name.lower()


IDENTITY = Activation()


@dataclass(frozen=True)
class Quant:
    """How int8 stands for real numbers: real = scale * (q - zero_point), q in [-128, 127]."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class Levels:
    """A quantised weight, of the weight's shape: weight = levels * scales, one scale a filter."""

    levels: LevelArray
    scales: FloatArray


@dataclass(eq=False)
class Value:
    """A tensor in the graph: produced by one node, an input of the graph, or a constant (`data`).

    float32, or int8 where it is quantised (`quant`).
    """

    name: str
    shape: tuple[int, ...]
    data: FloatArray | None = None
    quant: Quant | None = None


@dataclass(eq=False, kw_only=True)
class Node:
    """One operation. `name` is the PyTorch module path; `fused` names what was folded into it."""

    name: str
    inputs: list[Value]
    output: Value
    fused: list[str] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class Conv(Node):
    """A 2-D convolution (cross-correlation), input (n, c, h, w).

    `weight` is (filters, channels / groups, kh, kw); for a transposed one (channels, filters / groups, kh, kw) as in PyTorch.
    Pairs are (rows, columns). y = act(conv(x) + bias + residual), or act(conv(x) + bias) + residual.
    """

    weight: FloatArray
    bias: FloatArray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    act: Activation = IDENTITY
    residual: Value | None = None
    residual_after_act: bool = False
    quantised: Levels | None = None

    @property
    def filters_first(self) -> FloatArray:
        """The weight as (filters, channels / groups, kh, kw), transposed or not."""
        if not self.transposed:
            return self.weight
        channels, per_group, kh, kw = self.weight.shape
        grouped = self.weight.reshape(self.groups, channels // self.groups, per_group, kh, kw)
        return grouped.swapaxes(1, 2).reshape(-1, channels // self.groups, kh, kw)


@dataclass(eq=False, kw_only=True)
class Linear(Node):
    """y = act(x W^T + bias + residual) over the last dimension; `weight` is (outputs, inputs)."""

    weight: FloatArray
    bias: FloatArray
    act: Activation = IDENTITY
    residual: Value | None = None
    residual_after_act: bool = False
    quantised: Levels | None = None


@dataclass(eq=False, kw_only=True)
class Quantize(Node):
    """float32 to int8, as the output's `quant` says: q = clamp(rne(x * float32(1 / scale)) + zero_point, -128, 127)."""


@dataclass(eq=False, kw_only=True)
class Dequantize(Node):
    """int8 to float32, as the input's `quant` says: x = float32(q - zero_point) * float32(scale)."""


@dataclass(eq=False, kw_only=True)
class Unary(Node):
    """An activation alone."""

    act: Activation


@dataclass(eq=False, kw_only=True)
class Binary(Node):
    """`add` or `mul` of two values with numpy broadcasting."""

    op: str
    act: Activation = IDENTITY


@dataclass(eq=False, kw_only=True)
class Concat(Node):
    """Concatenation along `axis`."""

    axis: int


@dataclass(eq=False, kw_only=True)
class Pool(Node):
    """`max` or `avg` pooling with a window; `divisor` replaces the average's count when not 0."""

    op: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    count_include_pad: bool = True
    divisor: int = 0


@dataclass(eq=False, kw_only=True)
class AdaptiveAvgPool(Node):
    """Adaptive average pooling to the output's size; (1, 1) is the global mean."""


@dataclass(eq=False, kw_only=True)
class Upsample(Node):
    """`nearest` or `bilinear` resampling; `ratio` is in/out for rows and columns as PyTorch computes it."""

    mode: str
    ratio: tuple[float, float]
    align_corners: bool = False


@dataclass(eq=False, kw_only=True)
class PixelShuffle(Node):
    """Channels to pixels by `factor`."""

    factor: int


@dataclass(eq=False, kw_only=True)
class Softmax(Node):
    """Softmax over `axis`."""

    axis: int


@dataclass(eq=False, kw_only=True)
class View(Node):
    """The same elements in the same order under another shape."""


@dataclass(eq=False)
class Graph:
    """Nodes in an order in which they can run."""

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]

    def uses(self) -> dict[Value, int]:
        """How often each value is read, outputs of the graph counted."""
        counts: dict[Value, int] = {}
        for node in self.nodes:
            for value in operands(node):
                counts[value] = counts.get(value, 0) + 1
        for value in self.outputs:
            counts[value] = counts.get(value, 0) + 1
        return counts


def operands(node: Node) -> list[Value]:
    """Everything a node reads, its residual included."""
    residual = getattr(node, "residual", None)
    return node.inputs + ([residual] if residual is not None else [])


def label(node: Node) -> str:
    """What a person calls the operation: `conv3x3/2`, `maxpool2x2`, `relu`."""
    match node:
        case Conv():
            kh, kw = node.weight.shape[2:]
            kind = "deconv" if node.transposed else "conv"
            if not node.transposed and node.groups == node.inputs[0].shape[1] and node.groups > 1:
                kind = "dwconv"
            stride = f"/{node.stride[0]}" if node.stride[0] > 1 else ""
            return f"{kind}{kh}x{kw}{stride}"
        case Unary():
            return node.act.label
        case Binary():
            return node.op
        case Pool():
            return f"{node.op}pool{node.kernel[0]}x{node.kernel[1]}"
        case Upsample():
            return f"upsample_{node.mode}"
        case AdaptiveAvgPool():
            return "avgpool"
        case PixelShuffle():
            return "pixel_shuffle"
        case _:
            return type(node).__name__.lower()
