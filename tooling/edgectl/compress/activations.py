"""Int8 static quantisation after training: a module becomes a graph whose chosen layers compute on int8 values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from edgectl.compress.annotate import EdgeQuantizer, layers_of, operation
from edgectl.errors import UserError


class Rule(Protocol):
    match: str
    bits: int


def quantise(
    model: nn.Module,
    example: Tensor,
    rules: Sequence[Rule],
    images: Iterable[Tensor],
    progress: Callable[[str, float | None], None] = lambda message, fraction: None,
) -> fx.GraphModule:
    from edgectl.compress.prune import prunable_layers
    from fnmatch import fnmatchcase
    chosen = {p: r for r in rules for p in prunable_layers(model) if fnmatchcase(p, r.match)}
    progress("tracing the model", None)
    traced = torch.export.export(model, (example,)).module(check_guards=False)
    assert isinstance(traced, fx.GraphModule)
    _drop_dropout(traced)
    with torch.no_grad():
        prepared = prepare_pt2e(traced, EdgeQuantizer(chosen))
        total = len(images) if isinstance(images, Sized) else None
        for done, image in enumerate(images):
            progress("calibrating", done / total if total else None)
            prepared(image)
        converted = convert_pt2e(prepared)
        for path, node in list(layers_of(converted.graph, chosen)):
            _quantise_weight(converted, path, node, chosen[path])
    converted.graph.eliminate_dead_code()
    converted.recompile()
    return converted


def _drop_dropout(model: fx.GraphModule) -> None:
    """Dropout passes its input on in eval mode."""
    for node in model.graph.nodes:
        if operation(node) == "dropout" and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)


def _quantise_weight(model: fx.GraphModule, path: str, node: fx.Node, rule: Rule) -> None:
    weight_node = node.args[1]
    axis = 1 if operation(node) == "conv_transpose2d" else 0
    weight = model.get_parameter(str(weight_node.target)).detach()
    rows = weight.transpose(0, axis).flatten(1)
    scales = rows.abs().amax(1).clamp_min(1e-12) / 127
    shape = [1] * weight.dim()
    shape[axis] = -1
    levels = (weight / scales.reshape(shape)).round().to(torch.int8)
    name = path.replace(".", "_")
    tensors = {"levels": levels, "scales": scales, "zero_points": torch.zeros(len(scales), dtype=torch.int64)}
    with model.graph.inserting_before(node):
        nodes = []
        for kind, tensor in tensors.items():
            attribute = f"{name}_{kind}"
            if not hasattr(model, attribute):
                model.register_buffer(attribute, tensor)
            nodes.append(model.graph.get_attr(attribute))
        q = model.graph.call_function(
            torch.ops.quantized_decomposed.dequantize_per_channel.default, (*nodes, axis, -127, 127, torch.int8)
        )
    node.replace_input_with(weight_node, q)
