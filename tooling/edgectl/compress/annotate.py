"""Which values of a traced model become int8: those that integer operations read, and what fused operations keep in float."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import fx
from torchao.quantization.pt2e import HistogramObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer, SharedQuantizationSpec

INT8 = QuantizationSpec(
    dtype=torch.int8,
    observer_or_fake_quant_ctr=HistogramObserver,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
)
"""An activation: one scale and one zero point for the whole tensor, from the histogram of its calibration values."""

_ANNOTATION = "quantization_annotation"  # where prepare_pt2e looks for it in a node's meta
_LAYERS = {"conv2d", "conv_transpose2d", "linear"}
_FUSED_ACTIVATIONS = {"relu", "relu6", "hardtanh", "clamp", "leaky_relu"}
_VIEWS = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"}
_MOVES = {*_VIEWS, "max_pool2d", "pixel_shuffle", "upsample_nearest2d", "cat"}
"""Operations whose results are values of their inputs: int8 in, the same scale and zero point out."""


def operation(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`, `relu` for `aten.relu_.default`; empty for what is not an ATen operation."""
    target = str(node.target)
    return target.split(".")[1].rstrip("_") if node.op == "call_function" and target.startswith("aten.") else ""


def layers_with(graph: fx.Graph, weights: Collection[str]) -> Iterator[tuple[str, fx.Node]]:
    """(name of the weight, node) of every convolution and linear layer with one of these weights, in the graph's order."""
    for node in graph.nodes:
        weight = node.args[1] if operation(node) in _LAYERS else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and weight.target in weights:
            yield str(weight.target), node


class EdgeQuantizer(Quantizer):
    """Annotates activations for the integer kernels; weights are not its business (`activations.quantise`).

    A layer with the activation and the residual addition after it is one unit, and only the unit's result can be int8. A
    value is int8 where a chosen layer or a unit's residual addition reads it, and from there back through the operations
    that only move values, and through averages over whole maps, to the units that compute them. Everything else, and what
    the model returns, stays float32.

    Args:
        weights: names of the weights of the layers that compute on int8, as the graph has them.
    """

    def __init__(self, weights: Collection[str]) -> None:
        self.weights = weights

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Writes the annotations that `prepare_pt2e` reads into the nodes' meta."""
        layers = [node for _, node in layers_with(model.graph, self.weights)]
        for node, annotation in _Annotator(model.graph, layers).made.items():
            node.meta[_ANNOTATION] = annotation
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: `annotate` takes what it can and leaves the rest in float."""


class _Annotator:
    """Works out the annotations of one graph."""

    def __init__(self, graph: fx.Graph, layers: list[fx.Node]) -> None:
        self.made: dict[fx.Node, QuantizationAnnotation] = {}
        self._integer: dict[fx.Node, bool] = {}
        reads: list[tuple[fx.Node, fx.Node]] = []  # (value, the node that reads it as int8)
        claimed: set[fx.Node] = set()
        for layer in reversed(layers):  # of two layers that are added, the later one adds the other's finished result
            end, reads_here = _unit(layer, claimed)
            self._integer[end] = not _is_returned(end)
            reads += reads_here
        reached: set[fx.Node] = set()
        while reads:
            value, reader = reads.pop()
            if not self._is_integer(value):
                self._annotation(reader).input_qspec_map[value] = INT8
            elif value not in reached:
                reached.add(value)
                self._annotation(value).output_qspec = INT8
                for user in value.users:
                    self._annotation(user)  # gives each its own dequantisation
                if operation(value) in _MOVES:
                    self._share(value)
                if operation(value) in _MOVES or _averages_the_map(value):
                    reads += [(source, value) for source in value.all_input_nodes]
        self.made = {node: self.made[node] for node in graph.nodes if node in self.made}

    def _annotation(self, node: fx.Node) -> QuantizationAnnotation:
        return self.made.setdefault(node, QuantizationAnnotation(_annotated=True))

    def _is_integer(self, value: fx.Node) -> bool:
        """Whether an integer operation can compute the value, and nobody wants it in float."""
        if value not in self._integer:
            moved = operation(value) in _MOVES or _averages_the_map(value)
            self._integer[value] = moved and not _is_returned(value) and all(map(self._is_integer, value.all_input_nodes))
        return self._integer[value]

    def _share(self, node: fx.Node) -> None:
        """One scale and zero point for all inputs and the output."""
        annotation = self._annotation(node)
        first, *others = node.all_input_nodes
        shared = SharedQuantizationSpec((first, node))
        annotation.input_qspec_map = {first: INT8, **dict.fromkeys(others, shared)}
        annotation.output_qspec = shared


def _unit(layer: fx.Node, claimed: set[fx.Node]) -> tuple[fx.Node, list[tuple[fx.Node, fx.Node]]]:
    """The last node of the unit that begins with a layer, and what the unit reads as int8."""
    source = layer.args[0]
    assert isinstance(source, fx.Node)
    end, reads = layer, [(source, layer)]
    activated = added = False
    while len(end.users) == 1:
        user = next(iter(end.users))
        residual = _residual(user, end)
        if operation(user) in _FUSED_ACTIVATIONS and not activated and len(user.all_input_nodes) == 1:
            activated = True
        elif residual is not None and not added and user not in claimed:
            added = True
            claimed.add(user)
            reads.append((residual, user))
        else:
            break
        end = user
    return end, reads


def _residual(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """The other operand where `node` adds one of the same shape to `value`, else None."""
    if operation(node) != "add" or node.kwargs.get("alpha", 1) != 1:
        return None
    other = node.args[1] if node.args[0] is value else node.args[0]
    if not isinstance(other, fx.Node) or other is value or other.op == "get_attr":
        return None
    return other if other.meta["val"].shape == value.meta["val"].shape else None


def _averages_the_map(node: fx.Node) -> bool:
    if operation(node) == "adaptive_avg_pool2d":
        return list(node.args[1]) == [1, 1]  # type: ignore[arg-type]
    if operation(node) != "mean" or len(node.args) < 2 or not isinstance(dims := node.args[1], list | tuple):
        return False
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = source.meta["val"].dim()
    return rank == 4 and sorted(int(d) % rank for d in dims) == [2, 3]  # type: ignore[arg-type]


def _is_returned(node: fx.Node) -> bool:
    return any(user.op == "output" for user in node.users)
