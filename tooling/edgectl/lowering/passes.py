"""Graph rewrites: composing batch norm into convolutions, fusing activations and residual additions, dropping no-ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgectl.lowering import ir
from edgectl.lowering.integer import can_add, dequantised_values, finishes, fuse_integers


def optimise(graph: ir.Graph) -> ir.Graph:
    """All passes, in the order that lets each see the most. The graph given is not changed."""
    for rewrite in (drop_identities, fold_batch_norm, fuse_activation, fuse_residual, fuse_activation, fuse_integers):
        graph = rewrite(graph)
    return graph


def drop_identities(graph: ir.Graph) -> ir.Graph:
    """Removes views that do not change the shape."""
    renamed: dict[ir.Value, ir.Value] = {}
    nodes = []
    for old in graph.nodes:
        node = _rename(old, renamed)
        if isinstance(node, ir.View) and node.inputs[0].shape == node.output.shape:
            renamed[node.output] = node.inputs[0]
        else:
            nodes.append(node)
    return ir.Graph(graph.inputs, [renamed.get(value, value) for value in graph.outputs], nodes)


def fold_batch_norm(graph: ir.Graph) -> ir.Graph:
    """Composes a convolution with the per-channel scale and shift that follows it: w' = s w, b' = s b + t."""
    return _fuse_into_producer(graph, _compose)


def fuse_activation(graph: ir.Graph) -> ir.Graph:
    """Moves an activation into the convolution, linear layer, addition or product that alone feeds it."""
    return _fuse_into_producer(graph, _absorb_activation)


def fuse_residual(graph: ir.Graph) -> ir.Graph:
    """Moves an addition of equal shapes into the convolution or linear layer that produces one of its operands.

    The fused node takes the addition's place in the order, so that the other operand exists by then.
    """
    uses = graph.uses()
    dequantised = dequantised_values(graph)
    position = {node.output: i for i, node in enumerate(graph.nodes)}
    nodes: list[ir.Node | None] = list(graph.nodes)
    for i, node in enumerate(graph.nodes):
        if not (isinstance(node, ir.Binary) and node.op == "add" and node.inputs[0] is not node.inputs[1]):
            continue
        # the later producer: the earlier one may feed the later
        for value in sorted(node.inputs, key=lambda v: -position.get(v, -1)):
            at = position.get(value, -1)
            producer = nodes[at] if at >= 0 else None
            other = node.inputs[1] if value is node.inputs[0] else node.inputs[0]
            if not isinstance(producer, ir.Conv | ir.Linear) or producer.residual is not None or uses[value] != 1:
                continue
            if not other.shape == value.shape == node.output.shape or other.data is not None:
                continue
            if isinstance(producer, ir.Conv) and producer.transposed:
                continue
            if not can_add(producer, dequantised, other):
                continue
            after = producer.act.kind is not ir.Act.NONE
            if after and node.act.kind is not ir.Act.NONE:
                continue
            fused = replace(
                producer,
                output=node.output,
                residual=other,
                residual_after_act=after,
                act=producer.act if after else node.act,
                fused=[*producer.fused, node.name, *node.fused],
            )
            nodes[at], nodes[i] = None, fused
            position[node.output] = i
            break
    return ir.Graph(graph.inputs, graph.outputs, [node for node in nodes if node is not None])


def _fuse_into_producer(graph: ir.Graph, fuse: Callable[[ir.Node, ir.Node], ir.Node | None]) -> ir.Graph:
    """Replaces (producer, node) by fuse(producer, node) wherever it returns a node and nobody else reads between them."""
    uses = graph.uses()
    made: dict[ir.Value, int] = {}
    nodes: list[ir.Node] = []
    for node in graph.nodes:
        at = made.get(node.inputs[0]) if len(node.inputs) == 1 else None
        if at is not None and uses[node.inputs[0]] == 1:
            fused = fuse(nodes[at], node)
            if fused is not None:
                nodes[at] = fused
                made[fused.output] = at
                continue
        made[node.output] = len(nodes)
        nodes.append(node)
    return ir.Graph(graph.inputs, graph.outputs, nodes)


def _compose(producer: ir.Node, node: ir.Node) -> ir.Node | None:
    if not (isinstance(producer, ir.Conv) and isinstance(node, ir.Conv)) or not is_channel_affine(node):
        return None
    if producer.act.kind is not ir.Act.NONE or producer.residual is not None:
        return None
    scale = node.weight.reshape(-1)
    quantised = producer.quantised
    if quantised is not None:
        quantised = replace(quantised, scales=(quantised.scales * scale).astype(np.float32))
    if producer.transposed:
        # (channels, filters / groups, kh, kw): filter f of group g is column f
        per_group = producer.weight.shape[1]
        in_per_group = producer.weight.shape[0] // producer.groups
        by_channel = np.repeat(scale.reshape(producer.groups, per_group), in_per_group, axis=0)
        weight = producer.weight * by_channel[:, :, None, None]
    else:
        weight = producer.weight * scale[:, None, None, None]
    return replace(
        producer,
        weight=weight.astype(np.float32),
        bias=(producer.bias * scale + node.bias).astype(np.float32),
        quantised=quantised,
        output=node.output,
        act=node.act,
        fused=[*producer.fused, node.name, *node.fused],
    )


def is_channel_affine(node: ir.Conv) -> bool:
    """True for y[c] = s[c] x[c] + t[c]: what batch norm reads as."""
    channels = node.inputs[0].shape[1]
    return (
        not node.transposed
        and node.groups == channels == node.weight.shape[0]
        and node.weight.shape[1:] == (1, 1, 1)
        and node.stride == (1, 1)
        and node.padding == (0, 0)
        and node.residual is None
    )


def _absorb_activation(producer: ir.Node, node: ir.Node) -> ir.Node | None:
    if not isinstance(node, ir.Unary) or not isinstance(producer, ir.Conv | ir.Linear | ir.Binary):
        return None
    if producer.act.kind is not ir.Act.NONE:
        return None
    if isinstance(producer, ir.Conv | ir.Linear) and producer.quantised is not None and not finishes(node.act):
        return None
    return replace(producer, act=node.act, output=node.output, fused=[*producer.fused, node.name, *node.fused])


def _rename(node: ir.Node, renamed: dict[ir.Value, ir.Value]) -> ir.Node:
    if not any(value in renamed for value in ir.operands(node)):
        return node
    return replace(node, inputs=[renamed.get(value, value) for value in node.inputs])
