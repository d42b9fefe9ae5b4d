"""Operations between dequantised and quantised values become integer operations: what a quantised network runs fast by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgectl.lowering import ir

_FINISHES = (ir.Act.NONE, ir.Act.CLAMP, ir.Act.LEAKY_RELU)
_LARGEST_SUM = 2**31 - 1
_LARGEST_BIAS = 2**29


def is_integer(node: ir.Node) -> bool:
    """Whether an operation with weights runs in integers."""
    return isinstance(node, ir.Conv | ir.Linear) and node.inputs[0].quant is not None


def fuse_integers(graph: ir.Graph) -> ir.Graph:
    """Dequantize -> operation -> Quantize becomes one operation on int8 values wherever kernels do so.

    Convolutions and linear layers with quantised weights take int8 and give int8, or float32 where nobody quantises what they
    give; maximum pools, concatenations, nearest upsampling and views of single pixels move int8 values between equal scales;
    a mean over a whole map sums them. The other operations stay between a Dequantize and a Quantize.
    """
    graph = _take_int8(graph)
    graph = _give_int8(graph)
    return _drop_unused(graph)


def can_add(node: ir.Conv | ir.Linear, dequantised: set[ir.Value], other: ir.Value) -> bool:
    """Whether `other` can be the residual of an operation: integer ones add int8 values only, float ones float values."""
    return not takes_int8(node, dequantised) or other in dequantised


def takes_int8(node: ir.Node, dequantised: set[ir.Value]) -> bool:
    """Whether an operation with weights will run in integers."""
    return (
        isinstance(node, ir.Conv | ir.Linear)
        and node.quantised is not None
        and node.inputs[0] in dequantised
        and len(node.inputs[0].shape) in (2, 4)
        and _fits(node)
    )


def finishes(act: ir.Activation) -> bool:
    """Whether integer operations have this activation."""
    return act.kind in _FINISHES


def _fits(node: ir.Conv | ir.Linear) -> bool:
    """No level is -128, scales are normal numbers, and no sum leaves 32 bits."""
    quantised = node.quantised
    assert quantised is not None
    levels, scales = quantised.levels, np.abs(quantised.scales)
    if (levels == -128).any() or not ((scales > 1e-30) & (scales < 1e30)).all():
        return False
    rows = levels if isinstance(node, ir.Linear) else replace(node, weight=levels.astype(np.float32)).filters_first
    most = np.abs(rows.reshape(len(rows), -1).astype(np.int64)).sum(axis=1) * 256
    return bool((most < _LARGEST_SUM // 2).all())


def dequantised_values(graph: ir.Graph) -> set[ir.Value]:
    """The results of Dequantize."""
    return {node.output for node in graph.nodes if isinstance(node, ir.Dequantize)}


def _take_int8(graph: ir.Graph) -> ir.Graph:
    source = {node.output: node.inputs[0] for node in graph.nodes if isinstance(node, ir.Dequantize)}
    dequantised = set(source)
    nodes: list[ir.Node] = []
    for node in graph.nodes:
        if isinstance(node, ir.Conv | ir.Linear) and takes_int8(node, dequantised):
            residual = None if node.residual is None else source[node.residual]
            nodes.append(replace(_with_whole_bias(node, source), inputs=[source[node.inputs[0]]], residual=residual))
        else:
            nodes.append(node)
    return ir.Graph(graph.inputs, graph.outputs, nodes)


def _with_whole_bias(node: ir.Conv | ir.Linear, source: dict[ir.Value, ir.Value]) -> ir.Conv | ir.Linear:
    """The layer, every bias a 32-bit number of steps of its filter's sums.

    A filter whose weights are next to nothing beside its bias, such as one that training has switched off, has steps too small
    for that; it gets larger ones, in which its weights round to fewer levels, if any.
    """
    quantised, x = node.quantised, source[node.inputs[0]].quant
    assert quantised is not None
    assert x is not None
    least = (np.abs(node.bias.astype(np.float64)) / (x.scale * _LARGEST_BIAS)).astype(np.float32)
    if (quantised.scales >= least).all():
        return node
    scales = np.maximum(quantised.scales, least)
    smaller, step = quantised.scales / scales, scales
    if isinstance(node, ir.Conv) and node.transposed:
        smaller, step = (
            np.repeat(v.reshape(node.groups, -1), len(node.weight) // node.groups, axis=0) for v in (smaller, step)
        )
    else:
        smaller, step = smaller[:, None], step[:, None]
    rank = node.weight.ndim
    smaller, step = (v.reshape(*v.shape, *[1] * (rank - 2)) for v in (smaller, step))
    levels = np.rint(quantised.levels * smaller).astype(np.int8)
    return replace(node, weight=(levels * step).astype(np.float32), quantised=ir.Levels(levels, scales))


def _give_int8(graph: ir.Graph) -> ir.Graph:
    """Lets operations write what a Quantize makes of their result, when it is all that anybody wants of it."""
    uses = graph.uses()
    source = {node.output: node.inputs[0] for node in graph.nodes if isinstance(node, ir.Dequantize)}
    position = {node.output: i for i, node in enumerate(graph.nodes)}
    nodes: list[ir.Node | None] = list(graph.nodes)
    for i, node in enumerate(graph.nodes):
        if not isinstance(node, ir.Quantize):
            continue
        at = position.get(node.inputs[0])
        producer = None if at is None else nodes[at]
        if at is None or producer is None or uses[node.inputs[0]] != 1:
            continue
        if isinstance(producer, ir.Conv) and producer.transposed and producer.stride != (1, 1):
            continue  # its phases are put together as float32
        if is_integer(producer):
            inputs = producer.inputs
        elif all(value in source for value in producer.inputs):
            inputs = [source[value] for value in producer.inputs]
            if not _moves(producer, inputs, node.output):
                continue
        else:
            continue
        nodes[at] = replace(producer, inputs=inputs, output=node.output)
        nodes[i] = None
    return ir.Graph(graph.inputs, graph.outputs, [node for node in nodes if node is not None])


def _moves(node: ir.Node, inputs: list[ir.Value], output: ir.Value) -> bool:
    """Whether an operation without weights has a form for int8 values."""
    rank4 = len(output.shape) == 4
    if isinstance(node, ir.AdaptiveAvgPool):
        return output.shape[2:] in ((), (1, 1))
    if any(value.quant != output.quant for value in inputs):
        return False
    match node:
        case ir.Pool():
            return node.op == "max"
        case ir.Upsample():
            return node.mode == "nearest"
        case ir.Concat():
            return rank4 and node.axis == 1 and all(value.shape[1] % 4 == 0 for value in inputs[:-1])
        case ir.View():
            return {len(inputs[0].shape), len(output.shape)} == {2, 4} and _pixel(inputs[0]) == _pixel(output)
        case _:
            return False


def _pixel(value: ir.Value) -> tuple[int, ...] | None:
    """(n, c) of a map of one pixel."""
    return value.shape[:2] if all(size == 1 for size in value.shape[2:]) else None


def _drop_unused(graph: ir.Graph) -> ir.Graph:
    """Removes conversions whose results nobody reads any more, and names those that stay after what they convert."""
    uses = graph.uses()
    made = {node.output: node.name for node in graph.nodes}
    nodes: list[ir.Node] = []
    for node in reversed(graph.nodes):
        if isinstance(node, ir.Quantize | ir.Dequantize):
            if uses.get(node.output, 0) == 0:
                for value in node.inputs:
                    uses[value] -= 1
                continue
            kind = "quantize" if isinstance(node, ir.Quantize) else "dequantize"
            nodes.append(replace(node, name=f"{made.get(node.inputs[0], 'input')}.{kind}"))
        else:
            nodes.append(node)
    return ir.Graph(graph.inputs, graph.outputs, nodes[::-1])
