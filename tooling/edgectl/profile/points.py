"""A point of the operator space: all that a latency model is told about a layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, model_validator

from edgectl.artifact import Layer
from edgectl.errors import UserError

_CONV = re.compile(r"(?P<kind>conv|dwconv|deconv)(?P<height>\d+)x(?P<width>\d+)(/(?P<stride>\d+))?")


class Point(BaseModel):
    """One layer, batch 1.

    Attributes:
        op: `conv`, `dwconv` (depthwise), `deconv`, `linear`, or what the manifest calls an operation without weights.
        channels, height, width: of the input; a linear layer's rows are its `height`.
        filters, out_height, out_width: of the output.
        scheme: as recognised in the weights (edgectl.artifact.Layer), `dense` where next to nothing is zero.
        nonzeros: weights that are not zero.
        bits: of a weight; activations are float16 at 16 and int8 below.
        activation: fused into it, by name.
        residual: another map is added to its output.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: str
    channels: int
    height: int
    width: int
    filters: int
    out_height: int
    out_width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    groups: int = 1
    scheme: str = "dense"
    nonzeros: int = 0
    bits: int = 32
    activation: str = ""
    residual: bool = False

    @model_validator(mode="after")
    def _nonzeros_are_weights(self) -> Point:
        if self.nonzeros > self.weights > 0:
            raise ValueError(f"{self.nonzeros} of {self.weights} weights cannot be non-zero")
        return self

    @property
    def weights(self) -> int:
        """Weights, zeros among them; 0 where the operation has none."""
        if not self.nonzeros:
            return 0
        return self.channels * self.filters // self.groups * math.prod(self.kernel)

    @property
    def rate(self) -> float:
        """Weights / non-zeros."""
        return self.weights / self.nonzeros if self.nonzeros else 1.0

    @property
    def uses(self) -> int:
        """How often each weight is used: pixels of the output, of the input where the convolution is transposed."""
        return self.height * self.width if self.op == "deconv" else self.out_height * self.out_width

    @property
    def macs(self) -> int:
        """Multiply-adds, those with zeros among them."""
        return self.weights * self.uses

    @property
    def effective_macs(self) -> int:
        """Multiply-adds with weights that are not zero."""
        return self.nonzeros * self.uses

    @classmethod
    def of(cls, layer: Layer) -> Point:
        """The point that a layer of an artifact is."""
        channels, height, width = _sizes(layer.input_shape, layer.op)
        filters, out_height, out_width = _sizes(layer.output_shape, layer.op)
        matched = _CONV.fullmatch(layer.op)
        kernel = (int(matched["height"]), int(matched["width"])) if matched else (1, 1)
        whole = channels * filters * math.prod(kernel)
        return cls(
            op=matched["kind"] if matched else layer.op,
            channels=channels,
            height=height,
            width=width,
            filters=filters,
            out_height=out_height,
            out_width=out_width,
            kernel=kernel,
            stride=int(matched["stride"] or 1) if matched else 1,
            groups=whole // layer.weights if layer.weights else 1,
            scheme=layer.scheme,
            nonzeros=layer.nonzeros,
            bits=layer.bits if layer.weights else 32,
            activation=layer.activation,
            residual=layer.residual,
        )


def points_of(layers: Iterable[Layer]) -> dict[str, Point]:
    """Layer's name -> point, of an artifact's layers.

    Raises:
        UserError: another runtime runs one of them, about whose time nothing is known here.
    """
    points = {}
    for layer in layers:
        if layer.runner != "edge":
            raise UserError(
                f"{layer.name} ({layer.op}) is run by {layer.runner}: the latency model knows edgectl's own kernels only; "
                "`edgectl build --explain` says why."
            )
        points[layer.name] = Point.of(layer)
    return points


def _sizes(shape: list[int], op: str) -> tuple[int, int, int]:
    """Channels, height and width of a tensor."""
    if op == "linear":
        return shape[-1], math.prod(shape[:-1]), 1
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    return math.prod(shape), 1, 1
