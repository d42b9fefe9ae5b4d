"""The network a verifier sees: one node an operation, in topological order, shapes without the batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from edgectl.errors import UserError

Pair = tuple[int, int]
N = TypeVar("N", bound="Node")


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: its name, the names of the nodes it reads, and the shape it makes (no batch dimension)."""

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]

    def forward(self, *x: Tensor) -> Tensor:
        """Apply the operation to batched inputs `[B, ...]`."""
        raise NotImplementedError(type(self).__name__)

    @property
    def size(self) -> int:
        """Number of elements of one result."""
        return math.prod(self.shape)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Self:
        """The same node with its tensors in `dtype` on `device`."""
        tensors: dict[str, Any] = {
            f.name: v.to(device, dtype) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors) if tensors else self


@dataclass(frozen=True, eq=False)
class Input(Node):
    """What the network is given."""


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """`y = x W^T + b` over a flat input; weight `[o, i]`, bias `[o]`."""

    weight: Tensor
    bias: Tensor

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return functional.linear(x[0], self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """2-D convolution; weight `[o, i/groups, kh, kw]`, bias `[o]`, symmetric zero padding."""

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return functional.conv2d(x[0], self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """`y = scale * x + shift`, element by element; both broadcast to `shape` (batch norm, arithmetic with constants)."""

    scale: Tensor
    shift: Tensor

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return x[0] * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class Relu(Node):
    """`y = max(x, 0)`."""

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return x[0].relu()


@dataclass(frozen=True, eq=False)
class LeakyRelu(Node):
    """`y = max(x, 0) + slope * min(x, 0)`, 0 <= slope <= 1."""

    slope: float

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return functional.leaky_relu(x[0], self.slope)


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum of two tensors of one shape."""

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return x[0] + x[1]


@dataclass(frozen=True, eq=False)
class Sub(Node):
    """Difference of two tensors of one shape."""

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return x[0] - x[1]


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Inputs joined along `axis` (counted without the batch)."""

    axis: int

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return torch.cat(x, self.axis + 1)


@dataclass(frozen=True, eq=False)
class Reshape(Node):
    """The same elements in row-major order as `shape`."""

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return x[0].reshape(len(x[0]), *self.shape)


@dataclass(frozen=True, eq=False)
class Permute(Node):
    """Axes in another order: result axis k is input axis `order[k]` (counted without the batch)."""

    order: tuple[int, ...]

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return x[0].permute(0, *(axis + 1 for axis in self.order))


@dataclass(frozen=True, eq=False)
class AveragePool(Node):
    """2-D average pool."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    count_include_pad: bool = True

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return functional.avg_pool2d(x[0], self.kernel, self.stride, self.padding, False, self.count_include_pad)


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """2-D max pool; padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return functional.max_pool2d(x[0], self.kernel, self.stride, self.padding, self.dilation)


@dataclass(frozen=True, eq=False)
class Pad(Node):
    """Constant padding; `pads` as in `torch.nn.functional.pad` (last axis first, before and after)."""

    pads: tuple[int, ...]
    value: float = 0.0

    def forward(self, *x: Tensor) -> Tensor:
        """See `Node.forward`."""
        return functional.pad(x[0], self.pads, value=self.value)


def shaped(node: N, inputs: Iterable[Node]) -> N:
    """`node` with the shape that its operation gives on results of the shapes of `inputs` (any `shape` it had is ignored).

    A Reshape keeps its own shape. Raises RuntimeError, torch's own, where the shapes do not fit.
    """
    if isinstance(node, Reshape | Input):
        return node
    dtype = next((v.dtype for f in fields(node) if isinstance(v := getattr(node, f.name), Tensor)), torch.float32)
    return replace(node, shape=tuple(node.forward(*(torch.zeros(1, *n.shape, dtype=dtype) for n in inputs)).shape[1:]))


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: nodes in topological order; the first is the input, the last the output.

    Raises UserError for weights that are not finite, ValueError for nodes out of order or named twice.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise ValueError("the first node of a graph is its input")
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen or not seen.issuperset(node.inputs):
                raise ValueError(f"node {node.name} is named twice, or reads one that comes later")
            seen.add(node.name)
            for field in fields(node):
                if isinstance(value := getattr(node, field.name), Tensor) and not value.isfinite().all():
                    raise UserError(
                        f"{field.name} of {node.name} is not finite (NaN or infinite): nothing can be proved of this model"
                    )

    @property
    def input(self) -> Node:
        """The input node."""
        return self.nodes[0]

    @property
    def output(self) -> Node:
        """The output node."""
        return self.nodes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """The network's output `[B, *output.shape]` for `x` `[B, *input.shape]`, in `x`'s dtype."""
        return self.values(x)[self.output.name]

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """Every node's result `[B, *shape]` by name."""
        values = {self.input.name: x}
        for node in self.nodes[1:]:
            values[node.name] = node.forward(*(values[name] for name in node.inputs))
        return values

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Graph:
        """The same network with its tensors in `dtype` on `device`."""
        return Graph(tuple(node.to(dtype, device) for node in self.nodes))


def chain(nodes: Sequence[Node]) -> Graph:
    """A graph of nodes each of which reads the one before; shapes and inputs are filled in."""
    done: list[Node] = [nodes[0]]
    for node in nodes[1:]:
        done.append(shaped(replace(node, inputs=(done[-1].name,)), done[-1:]))
    return Graph(tuple(done))
