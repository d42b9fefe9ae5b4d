"""Puts a verifier's graph together: what the readers of ONNX files, exported programs and plans share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgectl.assure.verify.graph import (
    Add,
    Affine,
    AveragePool,
    Concat,
    Conv,
    Graph,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Node,
    Pad,
    Permute,
    Relu,
    Reshape,
    Sub,
    shaped,
)
from edgectl.errors import first_line

_MOST_ELEMENTS = 1 << 26
Pair = tuple[int, int]


class Unsupported(Exception):
    """An operation that cannot be verified; the message says why, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Value:
    """A tensor of the network: the node that makes it, and its shape with the batch, which is 1.

    The node's shape is this one without a leading 1; the elements are the same in the same order.
    """

    node: str
    shape: tuple[int, ...]


def plain(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the batch's leading 1."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] == 1 else tuple(shape)


class Builder:
    """Appends nodes, all constants float64, to a graph that begins with an input of `shape` (its batch of 1 included)."""

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        if len(shape) < 2 or shape[0] != 1 or math.prod(shape) > _MOST_ELEMENTS or min(shape) < 1:
            raise Unsupported(f"takes an input of shape {list(shape)}: it must be a batch of 1 and not be empty")
        self._nodes: dict[str, Node] = {}
        self.input = self._put(Input(name, (), plain(shape)), tuple(shape))

    def graph(self, output: Value) -> Graph:
        """The graph up to `output`, without what nobody reads."""
        wanted, reading = {self.input.node}, [output.node]
        while reading:
            name = reading.pop()
            if name not in wanted:
                wanted.add(name)
                reading += self._nodes[name].inputs
        if output.node == self.input.node:
            raise Unsupported("gives its input back: there is nothing to verify")
        nodes = [node for name, node in self._nodes.items() if name in wanted and name != output.node]
        return Graph((*nodes, self._nodes[output.node]))

    # -- layers -----------------------------------------------------------------------------------------------------------

    def linear(self, name: str, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
        """y = x W^T + b over the last dimension, of x with one row; weight (outputs, inputs)."""
        if x.shape[-1] != weight.shape[1] or math.prod(x.shape[:-1]) != 1:
            raise Unsupported(f"multiplies {list(x.shape)} by a matrix: of matrices with more than one row there is no bound")
        shape = (*x.shape[:-1], len(weight))
        bias = torch.zeros(len(weight)) if bias is None else bias.expand(len(weight))
        flat = self.reshape(f"{name}.flat", x, (1, x.shape[-1]))
        y = self._put(Linear(name, (flat.node,), (), weight.double(), bias.double()))
        return self.reshape(f"{name}.shape", y, shape)

    def conv(
        self,
        name: str,
        x: Value,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: Pair,
        pads: tuple[int, int, int, int],
        dilation: Pair,
        groups: int,
    ) -> Value:
        """2-D convolution; weight (filters, channels / groups, kh, kw), pads (top, left, bottom, right)."""
        if len(x.shape) != 4:
            raise Unsupported(f"convolves a tensor of {len(x.shape)} dimensions: only images (n, c, h, w) have a bound")
        x, padding = self._padded(name, x, pads)
        bias = torch.zeros(len(weight)) if bias is None else bias
        node = Conv(name, (x.node,), (), weight.double(), bias.double(), stride, padding, dilation, groups)
        return self._put(node)

    def affine(self, name: str, x: Value, scale: Tensor | float, shift: Tensor | float) -> Value:
        """y = scale x + shift, both of which broadcast to x's shape (its batch included)."""

        def constant(given: Tensor | float) -> Tensor:
            whole = torch.as_tensor(given, dtype=torch.float64)
            if torch.broadcast_shapes(tuple(whole.shape), x.shape) != torch.Size(x.shape):
                raise Unsupported(f"makes {list(x.shape)} larger by a constant of shape {list(whole.shape)}")
            whole = whole.reshape(*[1] * (len(x.shape) - whole.dim()), *whole.shape)
            return whole if plain(x.shape) == x.shape else whole[0]

        return self._put(Affine(name, (x.node,), (), constant(scale), constant(shift)), x.shape)

    def batch_norm(self, name: str, x: Value, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Value:
        """y = gamma (x - mean) / sqrt(var + eps) + beta, one of each a channel."""
        scale = gamma.double() / (var.double() + eps).sqrt()
        shift = beta.double() - mean.double() * scale
        over = (1, -1, *[1] * (len(x.shape) - 2))
        return self.affine(name, x, scale.reshape(over), shift.reshape(over))

    # -- activations ------------------------------------------------------------------------------------------------------

    def relu(self, name: str, x: Value) -> Value:
        """max(x, 0)."""
        return self._put(Relu(name, (x.node,), ()), x.shape)

    def leaky_relu(self, name: str, x: Value, slope: float) -> Value:
        """max(x, 0) + slope min(x, 0)."""
        if not 0 <= slope <= 1:
            raise Unsupported(f"has the slope {slope}: only those from 0 to 1 have a relaxation")
        return self._put(LeakyRelu(name, (x.node,), (), slope), x.shape)

    def clip(self, name: str, x: Value, low: float, high: float) -> Value:
        """min(max(x, low), high), as low + relu(x - low) - relu(x - high); either may be infinite."""
        if not low <= high or low == math.inf or high == -math.inf:
            raise Unsupported(f"clips to between {low} and {high}")
        parts = []
        for side, bound in (("low", low), ("high", high)):
            if math.isfinite(bound):
                moved = x if bound == 0 else self.affine(f"{name}.{side}", x, 1.0, -bound)
                parts.append(self.relu(name if bound == low else f"{name}.above", moved))
        if math.isfinite(low) and math.isfinite(high):
            y, shift = self.subtract(f"{name}.between", *parts), low
        elif math.isfinite(low):
            y, shift = parts[0], low
        elif math.isfinite(high):
            return self.subtract(f"{name}.below", x, parts[0])
        else:
            return x
        return y if shift == 0 else self.affine(f"{name}.shift", y, 1.0, shift)

    # -- arithmetic and shapes --------------------------------------------------------------------------------------------

    def add(self, name: str, a: Value, b: Value) -> Value:
        """a + b, of one shape."""
        return self._put(Add(name, (a.node, b.node), ()), self._same(a, b))

    def subtract(self, name: str, a: Value, b: Value) -> Value:
        """a - b, of one shape."""
        return self._put(Sub(name, (a.node, b.node), ()), self._same(a, b))

    def concat(self, name: str, parts: Sequence[Value], axis: int) -> Value:
        """Joined along an axis, counted with the batch."""
        rank = len(parts[0].shape)
        axis = axis + rank if axis < 0 else axis
        if not 0 < axis < rank or any(part.shape[0] != 1 or len(part.shape) != rank for part in parts):
            raise Unsupported("joins tensors along the batch, or of different ranks")
        return self._put(Concat(name, tuple(part.node for part in parts), (), axis - 1))

    def reshape(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        """The same elements in another shape, which includes the batch."""
        if math.prod(shape) != math.prod(x.shape) or min(shape, default=1) < 1:
            raise Unsupported(f"gives {list(x.shape)} the shape {list(shape)}")
        if plain(shape) == plain(x.shape):
            return Value(x.node, tuple(shape))
        return self._put(Reshape(name, (x.node,), plain(shape)), tuple(shape))

    def permute(self, name: str, x: Value, order: Sequence[int]) -> Value:
        """Axes in another order, the batch's counted."""
        if sorted(order) != list(range(len(x.shape))):
            raise Unsupported(f"has the order of axes {list(order)}")
        shape = tuple(x.shape[axis] for axis in order)
        inner = tuple(order) if plain(x.shape) == x.shape else tuple(axis - 1 for axis in order if axis != 0)
        if inner != tuple(range(len(inner))):
            x = self._put(Permute(name, (x.node,), (), inner))
        return self.reshape(f"{name}.shape", x, shape)

    def pad(self, name: str, x: Value, pads: Sequence[int], value: float) -> Value:
        """Constant padding, `pads` as in torch.nn.functional.pad (last axis first)."""
        if not any(pads):
            return x
        if len(pads) > 2 * (len(x.shape) - 1) or not math.isfinite(value):
            raise Unsupported("pads the batch, or with a value that is not finite")
        sizes = list(x.shape)
        for axis in range(len(pads) // 2):
            sizes[-1 - axis] += pads[2 * axis] + pads[2 * axis + 1]
        if min(sizes) < 1 or math.prod(sizes) > _MOST_ELEMENTS:
            raise Unsupported(f"pads {list(x.shape)} to {sizes}")
        return self._put(Pad(name, (x.node,), (), tuple(pads), float(value)))

    # -- pools ------------------------------------------------------------------------------------------------------------

    def average_pool(
        self, name: str, x: Value, kernel: Pair, stride: Pair, pads: tuple[int, int, int, int], include: bool, ceil: bool
    ) -> Value:
        """Mean over windows; `include`: padding, (top, left, bottom, right), counts."""
        _image(x)
        if include:
            x, padding = self._padded(name, x, pads)
        else:
            padding = _symmetric(pads)
        _check_ceil(ceil, x, kernel, stride, padding, (1, 1))
        return self._put(AveragePool(name, (x.node,), (), kernel, stride, padding, include))

    def max_pool(
        self,
        name: str,
        x: Value,
        kernel: Pair,
        stride: Pair,
        pads: tuple[int, int, int, int],
        dilation: Pair,
        ceil: bool,
    ) -> Value:
        """Maximum over windows; padding, (top, left, bottom, right), never wins."""
        _image(x)
        padding = _symmetric(pads)
        _check_ceil(ceil, x, kernel, stride, padding, dilation)
        return self._put(MaxPool(name, (x.node,), (), kernel, stride, padding, dilation))

    def mean(self, name: str, x: Value, keep: bool) -> Value:
        """The mean of every channel's pixels."""
        _image(x)
        n, channels, *size = x.shape
        y = self.average_pool(name, x, (size[0], size[1]), (1, 1), (0, 0, 0, 0), True, False)
        return y if keep else self.reshape(f"{name}.shape", y, (n, channels))

    # -- inside -----------------------------------------------------------------------------------------------------------

    def _put(self, node: Node, shape: tuple[int, ...] | None = None) -> Value:
        name, number = node.name, 1
        while name in self._nodes:
            number += 1
            name = f"{node.name}#{number}"
        try:
            node = shaped(replace(node, name=name), [self._nodes[i] for i in node.inputs])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise Unsupported(f"does not fit what it reads: {first_line(error)}") from error
        if node.size > _MOST_ELEMENTS or node.size < 1:
            raise Unsupported(f"makes a tensor of shape {list(node.shape)}")
        self._nodes[name] = node
        return Value(name, (1, *node.shape) if shape is None else shape)

    def _same(self, a: Value, b: Value) -> tuple[int, ...]:
        if plain(a.shape) != plain(b.shape):
            raise Unsupported(f"combines {list(a.shape)} with {list(b.shape)}: only tensors of one shape have a bound")
        return max(a.shape, b.shape, key=len)

    def _padded(self, name: str, x: Value, pads: tuple[int, int, int, int]) -> tuple[Value, Pair]:
        """What is left of padding (top, left, bottom, right) when the part that is not symmetric is a Pad."""
        top, left, bottom, right = pads
        if min(pads) < 0:
            raise Unsupported("has negative padding")
        if (top, left) == (bottom, right):
            if math.prod(x.shape[:2]) * (x.shape[2] + 2 * top) * (x.shape[3] + 2 * left) > _MOST_ELEMENTS:
                raise Unsupported(f"pads {list(x.shape)} by {list(pads)}")
            return x, (top, left)
        return self.pad(f"{name}.pad", x, (left, right, top, bottom), 0.0), (0, 0)


def _image(x: Value) -> None:
    if len(x.shape) != 4:
        raise Unsupported(f"pools a tensor of {len(x.shape)} dimensions: only images (n, c, h, w) have a bound")


def _symmetric(pads: tuple[int, int, int, int]) -> Pair:
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        raise Unsupported("pads one side more than the other, in a pool where padding does not count")
    return top, left


def _check_ceil(ceil: bool, x: Value, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> None:
    """Rounding the output's size up must be rounding it down."""
    for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        if ceil and s > 0 and (size + 2 * p - d * (k - 1) - 1) % s:
            raise Unsupported("rounds its output's size up: windows that are cut off have no bound")
